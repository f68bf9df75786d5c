"""Models on the Hugging Face hub: what one process uploads to a server with the hub's requests, another opens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

import basereward
from basereward.errors import ModelError
from basereward.inference.aggregation import Rule
from basereward.inference.ensemble import Ensemble, Member, model_digest
from basereward.inference.scorer import Scorer
from tests.helpers.hub_server import TOKEN, HubServer
from tests.helpers.served_model import save_scored_model
from tests.helpers.support import picture

PROMPT, RESPONSES = "Which digit?", ["It is a seven.", "4"]
SCRIPT = """
import json, sys
import basereward
from basereward.errors import BaseRewardError

asked = json.loads(sys.argv[1])
answers = []
for task in asked["tasks"]:
    answer = {}
    try:
        model = basereward.from_pretrained(task["model"], revision=task.get("revision"), device="cpu")
        if "push" in task:
            answer["address"] = model.push_to_hub(task["push"], **task.get("options", {}))
        answer["scores"] = model.score(asked["prompt"], asked["responses"])
    except BaseRewardError as error:
        answer["error"] = str(error)
    answers.append(answer)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    """Start a server."""
    server = HubServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small Qwen2.5-VL with all its weights, and return its folder."""
    return save_scored_model(tmp_path_factory.mktemp("hub"), head="mlp")


def in_another_process(hub: HubServer, home: Path, *tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """Open models, push those that are asked for, and score, in a process whose hub is the server."""
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_TOKEN": TOKEN}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    asked = {"tasks": tasks, "prompt": PROMPT, "responses": RESPONSES}
    command = [sys.executable, "-c", SCRIPT, json.dumps(asked)]
    completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr[-3000:]
    answers: list[dict[str, Any]] = json.loads(completed.stdout)
    return answers


@pytest.mark.slow
def test_pushed_model_opens_by_its_name(hub: HubServer, model: Path, tmp_path: Path) -> None:
    """The scores are equal from the hub, by its commit, and from the cache when the hub is gone. A new repository is
    private and has the card of the model; weights of an earlier upload are deleted, other files stay, and no pickle is
    downloaded. What the hub refuses is explained."""
    expected = basereward.load(model, device="cpu").score(PROMPT, RESPONSES)
    earlier = {"backbone/model-00001-of-00002.safetensors": b"earlier", "pickle.bin": b"evil", "notes.txt": b"mine"}
    hub.repositories["owner/used"] = {"1" * 40: earlier}
    hub.repositories["owner/other"] = {"2" * 40: {"config.json": b"{}"}}
    pushed, again, opened, refused, missing, other, no_revision = in_another_process(
        hub,
        tmp_path / "home",
        {"model": str(model), "push": "owner/new"},
        {"model": str(model), "push": "owner/used", "options": {"private": False}},
        {"model": "owner/used"},
        {"model": str(model), "push": "owner/refused", "options": {"token": "wrong"}},
        {"model": "owner/missing"},
        {"model": "owner/other"},
        {"model": "owner/other", "revision": "v9"},
    )
    assert pushed == {"address": f"{hub.endpoint}/owner/new", "scores": expected}
    assert hub.visibility["owner/new"] == "private"
    files = hub.files("owner/new")
    assert {"reward_model.json", "head.safetensors", "backbone/model.safetensors", "README.md"} <= set(files)
    card = ModelCard(files["README.md"].decode())
    assert (card.data.library_name, card.data.pipeline_tag) == ("basereward", "image-text-to-text")
    assert str(model.parent) not in files["README.md"].decode()
    assert again == {"address": f"{hub.endpoint}/owner/used", "scores": expected}
    assert set(hub.files("owner/used")) == {*files, "pickle.bin", "notes.txt"}
    assert opened == {"scores": expected}
    snapshots = list((tmp_path / "home").rglob("snapshots/*"))
    assert [path.name for path in snapshots if (path / "notes.txt").is_file()] == [hub.main("owner/used")]
    assert not list((tmp_path / "home").rglob("pickle.bin"))
    assert "owner/refused" in refused["error"]
    assert "owner/refused" not in hub.repositories
    assert "owner/missing" in missing["error"]
    assert "config.json" in other["error"]
    assert "v9" in no_revision["error"]

    closed = HubServer()
    closed.close()
    cached, by_commit, absent = in_another_process(
        closed,
        tmp_path / "home",
        {"model": "owner/used"},
        {"model": "owner/used", "revision": hub.main("owner/used")},
        {"model": "owner/new"},
    )
    assert cached == by_commit == {"scores": expected}
    assert "OWNER/NAME" in absent["error"]


def test_only_repositories_have_revisions(model: Path) -> None:
    """A folder is opened as `load` opens it, and has no revision."""
    expected = basereward.load(model).score(PROMPT, RESPONSES)
    assert basereward.from_pretrained(model).score(PROMPT, RESPONSES) == expected
    with pytest.raises(ModelError, match="revision"):
        basereward.from_pretrained(model, revision="main")
    with pytest.raises(ModelError, match="OWNER/NAME"):
        basereward.from_pretrained("owner/not-in-the-cache")


def test_model_that_needs_a_local_folder_is_not_uploaded(model: Path) -> None:
    """Without the weights of its backbone nobody else could open it; the error names the folder."""
    scorer = basereward.load(model)
    assert scorer.backbone_folders() == []
    assert isinstance(scorer, Scorer)
    scorer.model.requires_grad_(False)
    scorer.model.backbone.merged = False
    with pytest.raises(ModelError, match=str(model / "backbone")):
        scorer.push_to_hub("owner/name")


def test_saved_folder_has_a_card_and_opens_elsewhere(model: Path, tmp_path: Path) -> None:
    """`save_pretrained` of a model and of an ensemble writes a folder that moves; it replaces its own card and leaves a
    page of the user alone."""
    single = basereward.load(model)
    ensemble = Ensemble([Member(name, model, model_digest(model)) for name in "ab"], Rule("worst", members=2))
    image = picture(0)
    for name, scorer in (("single", single), ("ensemble", ensemble)):
        folder = tmp_path / name
        expected = scorer.score(PROMPT, RESPONSES, images=[image])
        scorer.save_pretrained(folder)
        scorer.save_pretrained(folder)
        folder = folder.rename(tmp_path / f"moved-{name}")
        assert basereward.from_pretrained(folder).score(PROMPT, RESPONSES, images=[image]) == expected
        card = ModelCard.load(folder / "README.md")
        assert "reward-model" in card.data.tags
        assert str(tmp_path) not in card.content
        (folder / "README.md").write_text("# My notes\n")
        with pytest.raises(ModelError, match=r"README\.md"):
            scorer.save_pretrained(folder)
        assert (folder / "README.md").read_text() == "# My notes\n"
