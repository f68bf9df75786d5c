"""Opening a saved model runs nothing that its folder names and reads no file outside of it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from basereward import load
from basereward.errors import BaseRewardError
from basereward.model.families.processing import load_encoder
from basereward.model.reward_model import build_model
from basereward.model.saving.saved_model import save_model
from basereward.recipe.schema import BackboneRecipe, DataRecipe, ModelRecipe, Recipe
from tests.helpers.support import checkpoint

HEAD = "class Head:\n    def __init__(self, hidden_size): ...\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model of a text backbone."""
    folder = tmp_path_factory.mktemp("saved")
    path = str(checkpoint("qwen2", folder / "base"))
    recipe = Recipe(
        model=ModelRecipe(backbone=BackboneRecipe(path=path), head={"_target_": "linear"}),
        data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}),
    )
    save_model(
        build_model(recipe.model, path=path, seed=0), folder / "model", recipe=recipe, encoder=load_encoder(path)
    )
    return folder / "model"


@pytest.fixture
def model(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, in a working folder that can be imported from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit(path: Path, **values: Any) -> None:
    """Sets keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def leave(trace: Path) -> str:
    """Python that leaves a file behind."""
    return f"import pathlib; pathlib.Path({str(trace)!r}).touch()\n"


@pytest.mark.parametrize(
    "head",
    [
        {"_target_": "os.spawnvp", "mode": 0, "file": "touch", "args": ["touch", "it-ran"]},
        {"_target_": "subprocess.run", "args": ["touch", "it-ran"]},
        {"_target_": "builtins.exec", "source": "open('it-ran', 'w')"},
        {"_target_": "planted.Head"},
        {"_target_": "model.planted.Head"},
        {"_target_": "basereward.model.heads.mlp.nn.Linear", "out_features": 1},
        {"_target_": "../../planted"},
        {"_target_": "generative", "prompt_file": "/etc/hostname"},
    ],
    ids=lambda head: head["_target_"],
)
def test_a_card_makes_nothing_but_heads_of_the_package(head: dict[str, Any], model: Path, tmp_path: Path) -> None:
    """No process, no import of a module beside it, no prompt from outside of the folder."""
    for place in (tmp_path, model):
        (place / "planted.py").write_text(leave(tmp_path / "it-ran") + HEAD)
    edit(model / "reward_model.json", head=head)
    with pytest.raises(BaseRewardError) as caught:
        load(str(model))
    assert not (tmp_path / "it-ran").exists()
    assert Path("/etc/hostname").read_text().strip() not in str(caught.value)
    assert not {"planted", "model.planted"}.intersection(sys.modules)


def test_code_of_a_checkpoint_runs_only_with_the_callers_word(model: Path, tmp_path: Path) -> None:
    """Whatever recipe.yaml and config.json of the folder say. With the word it runs, so the test would see it."""
    trace = tmp_path / "it-ran"
    (model / "backbone" / "planted.py").write_text(
        leave(trace) + "from transformers import Qwen2Config\nclass Config(Qwen2Config):\n    model_type = 'planted'\n"
    )
    auto = {"AutoConfig": "planted.Config"}
    edit(model / "backbone" / "config.json", auto_map=auto, model_type="planted", architectures=None)
    recipe = model / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("trust_remote_code: false", "trust_remote_code: true"))
    assert "trust_remote_code: true" in recipe.read_text()
    with pytest.raises(BaseRewardError):
        load(str(model))
    assert not trace.exists()
    with pytest.raises(BaseRewardError):  # its config alone is no model
        load(str(model), trust=True)
    assert trace.exists()


def test_a_template_cannot_reach_what_it_is_rendered_with(model: Path, tmp_path: Path) -> None:
    """Attributes of Python objects are closed to it, and it ends where it is too long."""
    attacks = [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('touch it-ran') }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
        "{{ 'x' * 10000000000 }}",
        "{% include '/etc/hostname' %}",
    ]
    place = model / "backbone" / "chat_template.jinja"
    for attack in attacks:
        place.write_text(attack)
        with pytest.raises(BaseRewardError) as caught:
            load(str(model)).score("What?", ["yes", "no"])
        assert "subclass" not in str(caught.value).replace("__subclasses__", "")
        assert not (tmp_path / "it-ran").exists()
