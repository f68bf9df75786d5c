"""Test resuming a run after its backbone or its data have changed."""

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
    """A run that was stopped after its last step, with its data and its backbone."""

    def __init__(self, place: Path, *, overrides: tuple[str, ...] = ()) -> None:
        self.place = place
        self.copy = place.with_name(f"{place.name}-kept")
        rows = pair_rows(40, folder=place)
        write_rows(place / "pairs.jsonl", rows)
        checkpoint("qwen2_5_vl", place / "base")
        small = [item for item in only(place / "pairs.jsonl") if not item.startswith("model.backbone.make")]
        backbone = ["model.backbone.make=null", f"model.backbone.path={place / 'base'}"]
        self.overrides = [*small, *backbone, "trainer.steps=2", *overrides]
        self.recipe: Recipe = load_recipe("basereward", overrides=self.overrides)
        self.run: RunFolder = find(train(self.recipe)["run_id"])
        shutil.copytree(place, self.copy)

    def restore(self) -> None:
        """Restore data and backbone with new modification times."""
        shutil.rmtree(self.place)
        shutil.copytree(self.copy, self.place, copy_function=shutil.copyfile)
        self.run.journal.append([{"kind": "finish", "status": "KILLED", "time": time.time_ns() // 1_000_000}])
        self.run.mark("killed")  # the run has a checkpoint like a stopped run

    def refusal(self) -> str:
        """Return the error of an attempt to resume the run."""
        with pytest.raises(BaseRewardError) as caught:
            train(self.recipe, resume=self.run.run_id)
        assert isinstance(caught.value, DataError | RunError)
        return str(caught.value)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    """Use one folder for all runs of this file."""
    place = tmp_path_factory.mktemp("changed")
    shutil.copy(empty_store, place / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        set_folders(patch, place)
        yield place


def set_folders(patch: pytest.MonkeyPatch, place: Path) -> None:
    """Set the folders of runs, cache and tracking."""
    patch.setenv("BASEREWARD_RUNS", str(place / "runs"))
    patch.setenv("BASEREWARD_CACHE", str(place / "cache"))
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'mlflow.db'}")


@pytest.fixture(scope="module")
def whole(folders: Path) -> Stopped:
    """Return a stopped run on data that are read completely."""
    (folders / "whole").mkdir()
    return Stopped(folders / "whole")


@pytest.fixture(scope="module")
def streamed(folders: Path) -> Stopped:
    """Return a stopped run on a stream."""
    (folders / "streamed").mkdir()
    return Stopped(folders / "streamed", overrides=STREAMED)


@pytest.fixture
def stopped(
    request: pytest.FixtureRequest, whole: Stopped, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stopped]:
    """Return the requested run in its original state."""
    set_folders(monkeypatch, folders)
    run: Stopped = request.getfixturevalue(getattr(request, "param", "whole"))
    run.restore()
    yield run
    run.restore()


def change_rows(change: Callable[[Rows], Any]) -> Callable[[Path], None]:
    """Return a function that writes changed rows to the same path."""

    def apply(place: Path) -> None:
        rows = [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]
        changed = change(rows)
        write_rows(place / "pairs.jsonl", changed if changed is not None else rows)

    return apply


def swap(rows: Rows) -> None:
    """Swap chosen and rejected, so that every group keeps its length."""
    for row in rows:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]


def one_letter(rows: Rows) -> None:
    """Change answers without changing their number of tokens."""
    for row in rows:
        row["chosen"][0]["content"] = row["chosen"][0]["content"].replace("yes", "yis")


def lengthen(rows: Rows) -> None:
    """Lengthen the chosen answers."""
    for row in rows:
        row["chosen"][0]["content"] += " and more"


def other_picture(place: Path) -> None:
    """Replace the pictures by others of the same size under the same names."""
    for index in range(40):
        picture(index + 1).save(place / f"{index}.png")


def other_reference(rows: Rows) -> None:
    """Let rows refer to each other's pictures, which have one size."""
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
def test_resume_with_changed_data_is_refused(change: str, stopped: Stopped) -> None:
    """The same path has other rows, so the data of the earlier steps are unknown. The error names the source and no
    part of the backbone."""
    DATA_CHANGES[change](stopped.place)
    message = stopped.refusal()
    assert "the groups of mine" in message
    assert "train" in message
    assert [part for part in ("weights", "tokenizer", "template", "processor") if part in message] == []
    assert stopped.run.state == "failed"


@pytest.mark.parametrize("stopped", ["streamed"], indirect=True)
@pytest.mark.parametrize("change", ["a longer row", "labels swapped", "equally long answers"])
def test_resume_with_a_changed_stream_is_refused(change: str, stopped: Stopped) -> None:
    """A stream's lengths are unknown before it is read."""
    DATA_CHANGES[change](stopped.place)
    assert "the groups of mine" in stopped.refusal()


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change values in a JSON file."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def weights(place: Path) -> None:
    """Multiply all weights by 1.5."""
    file = place / "base" / "model.safetensors"
    save_file({name: weight * 1.5 for name, weight in load_file(file).items()}, file, metadata={"format": "pt"})


def one_weight(place: Path) -> None:
    """Change one weight of one token."""
    file = place / "base" / "model.safetensors"
    changed = load_file(file)
    changed[next(name for name in changed if name.endswith("embed_tokens.weight"))][7, 7] += 1
    save_file(changed, file, metadata={"format": "pt"})


def template(place: Path) -> None:
    """Add one word to every prompt."""
    file = place / "base" / "chat_template.jinja"
    file.write_text(file.read_text().replace("<|im_start|>", "<|im_start|>the "))


def tokenizer(place: Path) -> None:
    """Exchange the ids of two letters."""

    def swapped(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]

    edit(place / "base" / "tokenizer.json", swapped)


def shades(place: Path) -> None:
    """Change the mean of the image normalisation."""
    edit(place / "base" / "preprocessor_config.json", lambda config: config.update(image_mean=[0.1, 0.1, 0.1]))


def theta(place: Path) -> None:
    """Change the base of the rotary positions."""
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
def test_resume_with_a_changed_backbone_is_refused(part: str, stopped: Stopped) -> None:
    """The error names only the part that differs; it does not name the data, although a longer template lengthens every
    group."""
    BACKBONE_CHANGES[part](stopped.place)
    message = stopped.refusal()
    assert part in message
    others = {"the weights", "the chat template", "the tokenizer", "the image processor", "config.json", "the groups"}
    assert [other for other in others if other in message and not part.startswith(other)] == []


@pytest.mark.parametrize("stopped", ["whole", "streamed"], indirect=True)
def test_resume_with_unchanged_content_works(stopped: Stopped) -> None:
    """Copied files have other modification times and the same content."""
    assert train(stopped.recipe, resume=stopped.run.run_id)["run_id"] == stopped.run.run_id


@pytest.mark.parametrize("part", ["the weights", "the chat template", "labels swapped"])
def test_lightning_checkpoint_path_is_compared_too(part: str, stopped: Stopped) -> None:
    """A notebook may pass the checkpoint's path to Lightning."""
    (BACKBONE_CHANGES | DATA_CHANGES)[part](stopped.place)
    module, data, trainer = build(stopped.recipe)
    with pytest.raises(BaseRewardError, match="the groups of mine" if part not in BACKBONE_CHANGES else part):
        trainer.fit(module, datamodule=data, ckpt_path=stopped.run.checkpoints / "last.ckpt", weights_only=True)


def without_identity(stopped: Stopped) -> None:
    """Change a run to the format of earlier versions, whose checkpoint has only the lengths of the groups."""
    last = stopped.run.checkpoints / "last.ckpt"
    state = torch.load(last, weights_only=True)
    del state["backbone_identity"]
    for key in ("content", "encoder"):
        del state["PreferenceData"][key]
    torch.save(state, last)
    stopped.run.identity.unlink()


def test_checkpoint_of_an_earlier_version_resumes(stopped: Stopped) -> None:
    """Its lengths are compared, and equal lengths resume."""
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
def test_broken_identity_file_is_named(content: str, stopped: Stopped, caplog: pytest.LogCaptureFixture) -> None:
    """The log names the file, and the checkpoint is still compared."""
    original = stopped.run.identity.read_bytes()
    stopped.run.identity.write_text(content)
    try:
        template(stopped.place)
        assert "the chat template" in stopped.refusal()
        assert "identity.json" in caplog.text
    finally:
        stopped.run.identity.write_bytes(original)


def test_sweep_reports_a_changed_backbone_of_a_finished_cell(
    stopped: Stopped, caplog: pytest.LogCaptureFixture
) -> None:
    """The cell is skipped, and its row names the changed parts; an unchanged backbone is not reported."""
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
    parts_and_lines = zip(("the weights", "the chat template"), cell["backbone_changed"], strict=True)
    assert all(part in line for part, line in parts_and_lines)
    assert str(stopped.run.path) in caplog.text


@pytest.mark.usefixtures("forked_workers")
def test_stopped_cell_with_a_changed_backbone_fails(stopped: Stopped) -> None:
    """The error names the changed part."""
    weights(stopped.place)
    (cell,) = sweep(load_experiment("basereward", overrides=stopped.overrides))["cells"]
    assert (cell["status"], cell["run_id"]) == ("failed", stopped.run.run_id)
    assert "the weights differ" in cell["error"]
