"""Test the command's response to bad input: exit code 2, no traceback, a message with advice, and no lost data.

The command is called like its entry point calls it; any exception besides its own errors fails the test.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from safetensors.torch import load_file, save_file

from basereward.cli import main
from basereward.runs.run_folder import RunFolder, find, list_runs
from basereward.training.callbacks.checkpoints import AtomicCheckpointIO
from tests.helpers.support import pair_rows, write_rows

PROFILE = str(Path(__file__).with_name("small.yaml"))
TRAIN = ("train", "basereward", "--profile", PROFILE)

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of this file's runs."""
    return tmp_path_factory.mktemp("home")


def live_in(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Set the folders of runs and cache and the tracking store."""
    patch.setenv("BASEREWARD_RUNS", str(folder / "runs"))
    patch.setenv("BASEREWARD_CACHE", str(folder / "cache"))
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")


@pytest.fixture(scope="module")
def earlier(home: Path, empty_store: Path) -> Iterator[RunFolder]:
    """Return a finished run that no later command may change."""
    shutil.copy(empty_store, home / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        live_in(home, patch)
        assert main([*TRAIN, "trainer.steps=2"]) == 0
        (run,) = list_runs()
        yield run


@pytest.fixture
def refused(home: Path, earlier: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Refused:
    """Return a function that calls the command and returns its error message, which is the same on both streams."""
    live_in(home, monkeypatch)

    def call(*arguments: str) -> str:
        before = contents(earlier.path)
        assert main([*arguments, "--json"]) == 2
        printed = capsys.readouterr()
        message: str = json.loads(printed.out)["error"]["message"]
        assert printed.err.endswith(f"basereward: {message}\n")
        assert "Traceback" not in printed.err
        assert contents(earlier.path) == before
        assert earlier.state == "finished"
        return message

    return call


def contents(folder: Path) -> dict[str, str]:
    """Return a hash of every file of a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def on(path: Path) -> tuple[str, ...]:
    """Return the command that trains on a JSON Lines file."""
    source = ("data.sources.mine.include=sources/jsonl", f"data.sources.mine.path={path}")
    return (*TRAIN, "data.sources.numbers=null", *source)


@pytest.mark.parametrize("command", ["train", "sweep"])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        pytest.param("optimizer.lrr=1", "unknown key 'lrr'; did you mean 'lr'?", id="unknown key"),
        pytest.param("optimizer.lr=fast", "optimizer.lr: expected a number; 'fast' given", id="wrong type"),
        pytest.param("trainer.steps=[1]", "trainer.steps: ", id="a list for a number"),
        pytest.param("model.head._target_=MPL", "unknown head 'MPL'; did you mean 'mlp'?", id="unknown head"),
    ],
)
def test_invalid_recipe_starts_no_run(command: str, override: str, message: str, refused: Refused) -> None:
    """The message names the key and what is allowed."""
    runs = list_runs(kind=None)
    error_message = refused(command, *TRAIN[1:], override)
    assert message in error_message
    assert override.split("=")[0].removesuffix(".lrr") in error_message
    assert list_runs(kind=None) == runs


PAIR = {"prompt": "Which?", "chosen": "this", "rejected": "that"}
ROWS = [
    pytest.param('{"prompt": "Which?", "chosen": ', "not JSON: Expecting value at column 31", id="malformed JSON"),
    pytest.param({"prompt": "?", "chosen": "a"}, "missing: 'rejected'", id="a column is missing"),
    pytest.param(
        {"prompt": "?", "responses": ["a"], "ranking": [0]},
        "`responses` has 1 response; training needs at least 2 to compare",
        id="one response",
    ),
    pytest.param(
        {"prompt": "?", "responses": ["a", "b"], "preferences": [[0, 2]]},
        "`preferences[0]` is [0, 2] (list); the 2 responses have the indices 0 to 1",
        id="preference index",
    ),
    pytest.param(
        {**PAIR, "prompt": "<image> or <image>?", "images": ["0.png"]},
        "the prompt has 2 image places, and the row has 1 image",
        id="more places than images",
    ),
]


@pytest.mark.parametrize(("row", "message"), ROWS)
def test_malformed_row_is_named_with_its_line(
    row: Any, message: str, refused: Refused, earlier: RunFolder, tmp_path: Path
) -> None:
    """One of four rows exceeds the limit, so training is refused before a run starts."""
    path = write_rows(tmp_path / "pairs.jsonl", [PAIR, PAIR, row, PAIR])
    error_message = refused(*on(path))
    assert "1 of 4 rows (25.00%) cannot be used; data.max_lost allows 1.00%" in error_message
    assert f": {path}:3: {message}" in error_message
    assert earlier in list_runs()
    assert all(run.state != "failed" for run in list_runs())


def test_missing_file_is_named(refused: Refused, earlier: RunFolder, tmp_path: Path) -> None:
    """This holds for training, for scoring, and for the experiment itself."""
    missing = tmp_path / "gone.jsonl"
    for arguments in (on(missing), ("score", earlier.run_id, str(missing))):
        assert f"cannot read {missing}: No such file or directory. Give the path of a file with rows" in refused(
            *arguments
        )
    assert str(tmp_path / "gone.yaml") in refused("train", str(tmp_path / "gone.yaml"))


def spoil(folder: Path) -> dict[str, str]:
    """Write unusable pictures and return the reason by name."""
    (folder / "noise.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    (folder / "empty.png").write_bytes(b"")
    PIL.Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    return {"noise.png": "image_unreadable", "empty.png": "image_unreadable", "huge.png": "image_too_large"}


def test_too_many_unusable_pictures_stop_the_run(refused: Refused, tmp_path: Path) -> None:
    """The message has the counts by reason, the limit, and the file that lists the rows."""
    rows = pair_rows(20, folder=tmp_path)
    for row, name in zip(rows, spoil(tmp_path), strict=False):
        row["images"] = [name]
    error_message = refused(*on(write_rows(tmp_path / "pairs.jsonl", rows)))
    assert "3 of 20 rows (15.00%) cannot be used; data.max_lost allows 1.00%" in error_message
    assert "mine: 3 of 20 (image_too_large 1, image_unreadable 2)" in error_message
    rejections_file = Path(error_message.split("listed in ")[1].split(".jsonl")[0] + ".jsonl")
    rejected_rows = [json.loads(line) for line in rejections_file.read_text().splitlines()]
    assert {row["id"] for row in rejected_rows} == {"row-0", "row-1", "row-2"}


@pytest.mark.parametrize("name", ["noise.png", "empty.png", "huge.png", "gone.png"])
def test_unusable_picture_stops_scoring_and_names_its_row(
    name: str, refused: Refused, earlier: RunFolder, tmp_path: Path
) -> None:
    """No output is written, and an existing output is unchanged."""
    reason = spoil(tmp_path).get(name, "image_missing")
    rows = pair_rows(3, folder=tmp_path)
    rows[1]["images"] = [name]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "scores.jsonl"
    error_message = refused("score", earlier.run_id, str(path), "--out", str(out))
    assert f"'row-1' cannot be scored: {reason}: " in error_message
    assert not out.exists()
    out.write_text("from before\n")
    refused("score", earlier.run_id, str(path), "--out", str(out))
    assert out.read_text() == "from before\n"
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(("row", "message"), [case for case in ROWS if case.id != "one response"])
def test_malformed_row_stops_scoring(
    row: Any, message: str, refused: Refused, earlier: RunFolder, tmp_path: Path
) -> None:
    """The file is checked before the model is loaded, so no row is scored."""
    path = write_rows(tmp_path / "rows.jsonl", [PAIR, row])
    error_message = refused("score", earlier.run_id, str(path), "--out", str(tmp_path / "scores.jsonl"))
    assert error_message.startswith(f"{path}:2: {message}")
    assert not (tmp_path / "scores.jsonl").exists()


def test_folder_without_a_model_is_refused(refused: Refused, tmp_path: Path) -> None:
    """Scoring needs a saved reward model, and training needs a transformer."""
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "notes.txt").write_text("nothing")
    rows = write_rows(tmp_path / "rows.jsonl", [PAIR])
    error_message = refused("score", str(folder), str(rows))
    assert f"'{folder}' is not a saved reward model: it has no reward_model.json (found: notes.txt)" in error_message
    error_message = refused(*TRAIN, "model.backbone.make=null", f"model.backbone.path={folder}")
    assert f"no model could be loaded from '{folder}'" in error_message
    assert "Give a hub id, or a folder with config.json" in error_message
    assert "There is no run 'no-such-run'" in refused("score", "no-such-run", str(rows))
    assert f"There is no folder {folder}/model" in refused("score", f"{folder}/model", str(rows))


def test_head_weights_that_do_not_fit_are_refused(refused: Refused, earlier: RunFolder, tmp_path: Path) -> None:
    """The message names each missing and each extra key, and nothing is scored."""
    folder = tmp_path / "model"
    shutil.copytree(earlier.model, folder)
    weights = load_file(folder / "head.safetensors")
    first = sorted(weights)[0]
    weights["other.weight"] = weights.pop(first)
    save_file(weights, folder / "head.safetensors")
    rows = write_rows(tmp_path / "rows.jsonl", [PAIR])
    error_message = refused("score", str(folder), str(rows), "--out", str(tmp_path / "scores.jsonl"))
    assert f"'{folder}/head.safetensors' does not fit the model:\n  missing: {first}\n" in error_message
    assert "not in the model: other.weight" in error_message
    assert not (tmp_path / "scores.jsonl").exists()


def test_loss_that_is_not_finite_names_its_rows_and_keeps_the_last_checkpoint(refused: Refused) -> None:
    """The weights of the checkpoint are finite, so that the run can be examined from it."""
    error_message = refused(*TRAIN, "optimizer.lr=1e30", "trainer.checkpoint_every=1")
    run = list_runs()[0]
    assert run.state == "failed"
    checkpoint = AtomicCheckpointIO().load_checkpoint(run.checkpoints / "last.ckpt")
    step = checkpoint["global_step"]
    assert f"nan at step {step + 1}. The rows of the step: numbers/train/" in error_message
    assert len(error_message.split("The rows of the step: ")[1].split(". ")[0].split(", ")) in (4, 8)
    assert all(bool(weight.isfinite().all()) for weight in checkpoint["state_dict"].values())
    assert f"basereward resume {run.run_id}" in error_message
    error_message = refused(*TRAIN, "trainer.checkpoint_every=1", "--resume", run.run_id)
    assert error_message.endswith("The difference:\n  optimizer.lr: 1e+30 in the run, 0.001 now")
    assert find(run.run_id).state == "failed"
    # From a damaged checkpoint the run cannot go on, so the message does not repeat the command.
    (run.checkpoints / "last.ckpt").write_bytes(b"hello world")
    error_message = refused("resume", run.run_id)
    assert f"the checkpoint '{run.checkpoints / 'last.ckpt'}' is damaged" in error_message
    assert "basereward train" in error_message
    assert "basereward resume" not in error_message
