"""Backbones and data that change between a run's stop and its way on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from basereward.errors import BaseRewardError, DataError, RunError
from basereward.recipe import load_experiment, load_recipe
from basereward.recipe.schema import Recipe
from basereward.runs.run_folder import RunFolder, find
from basereward.sweeps.sweep import sweep
from basereward.training.build import build
from basereward.training.fit import train
from tests.helpers.support import checkpoint, only, pair_rows, picture, write_rows

pytestmark = pytest.mark.slow

Rows = list[dict[str, Any]]
STREAMED = ("data.streaming={buffer: 20, held_out: 8}",)


class Stopped:
    """A run that was stopped after its last step, in a folder with its data and its backbone."""

    def __init__(self, place: Path, *, overrides: tuple[str, ...] = ()) -> None:
        self.place = place
        self.copy = place.with_name(f"{place.name}-kept")
        rows = pair_rows(40, folder=place)
        write_rows(place / "pairs.jsonl", rows)
        checkpoint("qwen2_5_vl", place / "base")
        mine = [item for item in only(place / "pairs.jsonl") if not item.startswith("model.backbone.make")]
        base = ["model.backbone.make=null", f"model.backbone.path={place / 'base'}"]
        self.overrides = [*mine, *base, "trainer.steps=2", *overrides]
        self.recipe: Recipe = load_recipe("basereward", overrides=self.overrides)
        self.run: RunFolder = find(train(self.recipe)["run_id"])
        shutil.copytree(place, self.copy)

    def restore(self) -> None:
        """Data and backbone as they were, at other times of the files."""
        shutil.rmtree(self.place)
        shutil.copytree(self.copy, self.place, copy_function=shutil.copyfile)
        self.run.journal.append([{"kind": "finish", "status": "KILLED", "time": time.time_ns() // 1_000_000}])
        self.run.mark("killed")  # it has a checkpoint, as one that was stopped has

    def refusal(self) -> str:
        """What the run says when it is to go on."""
        with pytest.raises(BaseRewardError) as caught:
            train(self.recipe, resume=self.run.run_id)
        assert isinstance(caught.value, DataError | RunError)
        return str(caught.value)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The runs of this file lie together."""
    place = tmp_path_factory.mktemp("changed")
    with pytest.MonkeyPatch.context() as patch:
        set_folders(patch, place)
        yield place


def set_folders(patch: pytest.MonkeyPatch, place: Path) -> None:
    """Where runs, caches and tracking go."""
    patch.setenv("BASEREWARD_RUNS", str(place / "runs"))
    patch.setenv("BASEREWARD_CACHE", str(place / "cache"))
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'mlflow.db'}")


@pytest.fixture(scope="module")
def whole(folders: Path) -> Stopped:
    """Of data that are read whole."""
    (folders / "whole").mkdir()
    return Stopped(folders / "whole")


@pytest.fixture(scope="module")
def streamed(folders: Path) -> Stopped:
    """Of a stream."""
    (folders / "streamed").mkdir()
    return Stopped(folders / "streamed", overrides=STREAMED)


@pytest.fixture
def stopped(
    request: pytest.FixtureRequest, whole: Stopped, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stopped]:
    """The one that a test asks for, as it was left."""
    set_folders(monkeypatch, folders)
    run: Stopped = request.getfixturevalue(getattr(request, "param", "whole"))
    run.restore()
    yield run
    run.restore()


def change_rows(change: Callable[[Rows], Any]) -> Callable[[Path], None]:
    """Other rows at the same path."""

    def apply(place: Path) -> None:
        rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]
        changed = change(rows)
        write_rows(place / "pairs.jsonl", changed if changed is not None else rows)

    return apply


def swap(rows: Rows) -> None:
    """What was chosen is rejected. Every group is as long as it was."""
    for row in rows:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]


def one_letter(rows: Rows) -> None:
    """One answer of one row says something else in as many tokens."""
    for row in rows:
        row["chosen"][0]["content"] = row["chosen"][0]["content"].replace("yes", "yis")


def lengthen(rows: Rows) -> None:
    """Longer answers."""
    for row in rows:
        row["chosen"][0]["content"] += " and more"


def other_picture(place: Path) -> None:
    """Another picture of the same size in pixels under the same name."""
    for index in range(40):
        picture(index + 1).save(place / f"{index}.png")


def other_reference(rows: Rows) -> None:
    """Rows that name each other's pictures, which are of one size."""
    for row, other in zip(rows, [row["images"] for row in rows][::-1], strict=True):
        row["images"] = other


DATA_CHANGES = {
    "a row less": change_rows(lambda rows: rows[:-1]),
    "a longer row": change_rows(lengthen),
    "labels swapped": change_rows(swap),
    "equally long answers": change_rows(one_letter),
    "margins": change_rows(lambda rows: [row | {"chosen_rating": 0.9, "rejected_rating": 0.1} for row in rows]),
    "pictures": other_picture,
    "references": change_rows(other_reference),
}


@pytest.mark.parametrize("change", DATA_CHANGES)
def test_a_run_does_not_go_on_with_other_data(change: str, stopped: Stopped) -> None:
    """The same path with other rows: what has been trained on is not known any more, and going on would be a guess. The
    source is named, and nothing of the backbone."""
    DATA_CHANGES[change](stopped.place)
    message = stopped.refusal()
    assert "the groups of mine" in message
    assert "train" in message
    assert [part for part in ("weights", "tokenizer", "template", "processor") if part in message] == []
    assert stopped.run.state == "failed"


@pytest.mark.parametrize("stopped", ["streamed"], indirect=True)
@pytest.mark.parametrize("change", ["a longer row", "labels swapped", "equally long answers"])
def test_a_stream_does_not_go_on_with_other_data(change: str, stopped: Stopped) -> None:
    """Though no length of it is known before it is read."""
    DATA_CHANGES[change](stopped.place)
    assert "the groups of mine" in stopped.refusal()


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Other values in a JSON file."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def weights(place: Path) -> None:
    """All weights times 1.5."""
    file = place / "base" / "model.safetensors"
    save_file({name: weight * 1.5 for name, weight in load_file(file).items()}, file, metadata={"format": "pt"})


def one_weight(place: Path) -> None:
    """One weight of one letter."""
    file = place / "base" / "model.safetensors"
    changed = load_file(file)
    changed[next(name for name in changed if name.endswith("embed_tokens.weight"))][7, 7] += 1
    save_file(changed, file, metadata={"format": "pt"})


def template(place: Path) -> None:
    """One word more, in every prompt."""
    file = place / "base" / "chat_template.jinja"
    file.write_text(file.read_text().replace("<|im_start|>", "<|im_start|>the "))


def tokenizer(place: Path) -> None:
    """Two letters change places."""

    def swapped(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]

    edit(place / "base" / "tokenizer.json", swapped)


def shades(place: Path) -> None:
    """Pictures are shifted to other values."""
    edit(place / "base" / "preprocessor_config.json", lambda config: config.update(image_mean=[0.1, 0.1, 0.1]))


def theta(place: Path) -> None:
    """Another base of the rotary positions."""
    rope = {"rope_theta": 7.0}
    edit(place / "base" / "config.json", lambda config: config["text_config"]["rope_parameters"].update(rope))


BACKBONE_CHANGES = {
    "the weights": weights,
    "the weights differ": one_weight,
    "the chat template": template,
    "the tokenizer": tokenizer,
    "the image processor": shades,
    "config.json": theta,
}


@pytest.mark.parametrize("part", BACKBONE_CHANGES)
def test_a_run_does_not_go_on_with_another_backbone(part: str, stopped: Stopped) -> None:
    """The part that differs is named, with its hashes, and no other, nor the data, though a longer template makes every
    group longer."""
    BACKBONE_CHANGES[part](stopped.place)
    message = stopped.refusal()
    assert part in message
    others = {"the weights", "the chat template", "the tokenizer", "the image processor", "config.json", "the groups"}
    assert [other for other in others if other in message and not part.startswith(other)] == []


@pytest.mark.parametrize("stopped", ["whole", "streamed"], indirect=True)
def test_a_run_goes_on_when_all_is_as_it_was(stopped: Stopped) -> None:
    """Copied files have other times, and the same content."""
    assert train(stopped.recipe, resume=stopped.run.run_id)["run_id"] == stopped.run.run_id


@pytest.mark.parametrize("part", ["the weights", "the chat template", "labels swapped"])
def test_a_checkpoint_alone_is_compared_too(part: str, stopped: Stopped) -> None:
    """As when a notebook gives Lightning its path."""
    (BACKBONE_CHANGES | DATA_CHANGES)[part](stopped.place)
    module, data, trainer = build(stopped.recipe)
    with pytest.raises(BaseRewardError, match="the groups of mine" if part not in BACKBONE_CHANGES else part):
        trainer.fit(module, datamodule=data, ckpt_path=stopped.run.checkpoints / "last.ckpt", weights_only=True)


def without_identity(stopped: Stopped) -> None:
    """A run as earlier versions left it: its checkpoint holds the lengths of the groups alone."""
    last = stopped.run.checkpoints / "last.ckpt"
    state = torch.load(last, weights_only=True)
    del state["backbone_identity"]
    for key in ("content", "encoder"):
        del state["PreferenceData"][key]
    torch.save(state, last)
    stopped.run.identity.unlink()


def test_a_checkpoint_of_an_earlier_version_goes_on(stopped: Stopped) -> None:
    """What it holds is compared."""
    contents = [stopped.run.identity.read_bytes(), (stopped.run.checkpoints / "last.ckpt").read_bytes()]
    try:
        without_identity(stopped)
        change_rows(lengthen)(stopped.place)
        assert "the groups of mine" in stopped.refusal()
        stopped.restore()
        stopped.run.identity.unlink(missing_ok=True)
        assert train(stopped.recipe, resume=stopped.run.run_id)["run_id"] == stopped.run.run_id
        assert stopped.run.identity.exists()
    finally:
        stopped.run.identity.write_bytes(contents[0])
        (stopped.run.checkpoints / "last.ckpt").write_bytes(contents[1])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"backbone": 3, "data": []}'])
def test_a_broken_record_is_named_and_gone_on_without(
    content: str, stopped: Stopped, caplog: pytest.LogCaptureFixture
) -> None:
    """The checkpoint is compared all the same."""
    record = stopped.run.identity.read_bytes()
    stopped.run.identity.write_text(content)
    try:
        template(stopped.place)
        assert "the chat template" in stopped.refusal()
        assert "identity.json" in caplog.text
    finally:
        stopped.run.identity.write_bytes(record)


def test_a_sweep_names_a_finished_cell_whose_backbone_has_changed(
    stopped: Stopped, caplog: pytest.LogCaptureFixture
) -> None:
    """The cell stays as it is, as one whose data have changed does; where nothing has changed, nothing is said."""
    stopped.run.mark("finished")
    experiment = load_experiment("basereward", overrides=stopped.overrides)
    (cell,) = sweep(experiment)["cells"]
    assert cell["status"] == "skipped"
    assert "backbone_changed" not in cell
    template(stopped.place)
    one_weight(stopped.place)
    (cell,) = sweep(experiment)["cells"]
    assert cell["status"] == "skipped"
    assert cell["run_id"] == stopped.run.run_id
    named = zip(("the weights", "the chat template"), cell["backbone_changed"], strict=True)
    assert all(part in line for part, line in named)
    assert str(stopped.run.path) in caplog.text


def test_a_stopped_cell_of_a_sweep_does_not_go_on_with_another_backbone(stopped: Stopped) -> None:
    """It fails by itself, and the part is named."""
    weights(stopped.place)
    (cell,) = sweep(load_experiment("basereward", overrides=stopped.overrides))["cells"]
    assert (cell["status"], cell["run_id"]) == ("failed", stopped.run.run_id)
    assert "the weights differ" in cell["error"]
