"""Loading an untrusted model: no code named by its folder runs, and no file outside of the folder is read."""

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
    """Return a full saved model with a text backbone."""
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
    """Return a copy of the model in a working folder that is on Python's path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit_json(path: Path, **values: Any) -> None:
    """Set keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def touch_source(trace: Path) -> str:
    """Return Python source that creates a file when it runs."""
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
def test_card_builds_heads_of_the_package_only(head: dict[str, Any], model: Path, tmp_path: Path) -> None:
    """No process starts, no module beside the model is imported, and no prompt file outside of the folder is read."""
    for folder in (tmp_path, model):
        (folder / "planted.py").write_text(touch_source(tmp_path / "it-ran") + HEAD)
    edit_json(model / "reward_model.json", head=head)
    with pytest.raises(BaseRewardError) as excinfo:
        load(str(model))
    assert not (tmp_path / "it-ran").exists()
    assert Path("/etc/hostname").read_text().strip() not in str(excinfo.value)
    assert not {"planted", "model.planted"}.intersection(sys.modules)


def test_checkpoint_code_requires_trust(model: Path, tmp_path: Path) -> None:
    """The caller decides, not recipe.yaml or config.json of the folder.

    With trust the code runs, which shows that the test would detect it.
    """
    trace = tmp_path / "it-ran"
    (model / "backbone" / "planted.py").write_text(
        touch_source(trace)
        + "from transformers import Qwen2Config\nclass Config(Qwen2Config):\n    model_type = 'planted'\n"
    )
    auto_map = {"AutoConfig": "planted.Config"}
    edit_json(model / "backbone" / "config.json", auto_map=auto_map, model_type="planted", architectures=None)
    recipe_file = model / "recipe.yaml"
    recipe_file.write_text(recipe_file.read_text().replace("trust_remote_code: false", "trust_remote_code: true"))
    assert "trust_remote_code: true" in recipe_file.read_text()
    with pytest.raises(BaseRewardError):
        load(str(model))
    assert not trace.exists()
    # The planted configuration has no model class.
    with pytest.raises(BaseRewardError):
        load(str(model), trust=True)
    assert trace.exists()


def test_template_is_sandboxed(model: Path, tmp_path: Path) -> None:
    """A template cannot access attributes of Python objects, and rendering stops at a length limit."""
    attacks = [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('touch it-ran') }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
        "{{ 'x' * 10000000000 }}",
        "{% include '/etc/hostname' %}",
    ]
    template_file = model / "backbone" / "chat_template.jinja"
    for attack in attacks:
        template_file.write_text(attack)
        with pytest.raises(BaseRewardError) as excinfo:
            load(str(model)).score("What?", ["yes", "no"])
        assert "subclass" not in str(excinfo.value).replace("__subclasses__", "")
        assert not (tmp_path / "it-ran").exists()
