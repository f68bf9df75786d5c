"""`check` finds what `train` would refuse, and `train` refuses it before there is a run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from basereward.cli import main
from basereward.errors import BaseRewardError, DataError, RecipeError
from basereward.recipe import Cell, load_recipe
from basereward.runs.run_folder import list_runs
from basereward.training import preflight
from basereward.training.fit import train
from basereward.training.preflight import cell_faults
from tests.helpers.support import SMALL, only, pair_rows, write_rows

NO_GPU = [name for name in ("cuda", "gpu", "mps") if not torch.cuda.is_available()]
STOPPING = "trainer.early_stopping={patience: 1}"


def faults(overrides: list[str]) -> list[tuple[str, str]]:
    """The key and the message of every fault that `check` would tell."""
    recipe = load_recipe("basereward", overrides=overrides)
    return [(fault.key, fault.message) for fault in cell_faults([Cell("cell", "cell", {}, recipe)])]


def refused(overrides: list[str], error: type[BaseRewardError] = RecipeError) -> str:
    """What `train` says when it refuses; no run is left."""
    with pytest.raises(error) as caught:
        train(load_recipe("basereward", overrides=overrides))
    assert list_runs() == []
    return str(caught.value)


@pytest.mark.parametrize("accelerator", NO_GPU)
def test_an_accelerator_that_is_not_there(accelerator: str) -> None:
    """The key, what was given and what this machine has."""
    overrides = [*SMALL, f"trainer.accelerator={accelerator}"]
    ((key, message),) = faults(overrides)
    assert key == "trainer.accelerator"
    for word in (accelerator, "auto", "cpu"):
        assert word in message
    assert message in refused(overrides)


@pytest.mark.parametrize("path", ["./nowhere", "/no/such/folder", "../a/b"])
def test_a_backbone_in_a_folder_that_is_not_there(path: str) -> None:
    """Where it was looked for; an id of the hub is not looked up."""
    overrides = [*SMALL[:7], "model.backbone.make=null", f"model.backbone.path={path}"]
    ((key, message),) = faults(overrides)
    assert key == "model.backbone.path"
    assert str(Path(path).absolute()) in message or "is no folder" in message
    assert message in refused(overrides)
    assert faults([*overrides[:-1], "model.backbone.path=Qwen/Qwen2.5-VL-3B-Instruct"]) == []


def test_the_command_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    """Of both commands, without a traceback."""
    for command in ("check", "train"):
        assert main([command, "basereward", *SMALL, "trainer.accelerator=mps"]) == 2
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        assert "trainer.accelerator" in printed.out + printed.err


@pytest.mark.parametrize(
    ("rows", "overrides"),
    [
        (None, ["data.sources.digits.val_size=0", "data.sources.numbers.val_size=0"]),
        (None, ["data.sources.numbers.val_size=0", "trainer.monitor=val/numbers/pair_accuracy"]),
        (20, ["data.sources.mine.val=0"]),
    ],
    ids=["made", "one-source", "file"],
)
def test_early_stopping_without_validation_rows(rows: int | None, overrides: list[str], tmp_path: Path) -> None:
    """Nothing could ever be watched."""
    small = list(SMALL) if rows is None else only(write_rows(tmp_path / "pairs.jsonl", pair_rows(rows)))
    everything = [*small, *overrides, STOPPING]
    assert [key for key, _ in faults(everything)] == ["trainer.early_stopping"]
    assert "trainer.early_stopping" in refused(everything)
    if "monitor" not in overrides[-1]:
        assert faults(everything[:-1]) == []


def test_the_best_checkpoint_is_chosen_by_a_source_that_has_validation_rows() -> None:
    """A monitor that will never be measured."""
    overrides = [*SMALL, "data.sources.numbers.val_size=0", "trainer.monitor=val/numbers/pair_accuracy"]
    assert [key for key, _ in faults(overrides)] == ["trainer.monitor"]
    assert "trainer.monitor" in refused(overrides)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Named as the source's fault."""
    overrides = only(tmp_path / "none.jsonl")
    ((key, message),) = faults(overrides)
    assert key == "data.sources.mine"
    assert "none.jsonl" in message
    assert "none.jsonl" in refused(overrides, DataError)


@pytest.mark.parametrize("change", [{"chosen": "yes " * 3000}, {"rejected": "  "}], ids=["too-long", "blank"])
def test_too_many_rows_lost(change: dict[str, Any], tmp_path: Path) -> None:
    """The share, the limit and the reason; the rows are listed outside of any run."""
    rows = pair_rows(60)
    for row in rows[:6]:
        row.update(change)
    overrides = only(write_rows(tmp_path / "pairs.jsonl", rows))
    ((key, message),) = faults(overrides)
    assert key == "data.max_lost"
    said = refused(overrides, DataError)
    for text in (message, said):
        assert "max_lost" in text
        listed = Path(text.split("listed in ")[1].split(".jsonl")[0] + ".jsonl")
        reasons = {json.loads(line)["reason"] for line in listed.read_text().splitlines()}
        assert reasons <= {"too_long", "empty_response"}
    assert faults([*overrides, "data.max_lost=0.2"]) == []


def test_of_a_large_file_a_sample_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says so, and its size."""
    monkeypatch.setattr(preflight, "SAMPLED", 30)
    rows = pair_rows(200)
    for row in rows[:20]:
        row["rejected"] = " "
    ((_, message),) = faults(only(write_rows(tmp_path / "pairs.jsonl", rows)))
    assert "first 30 " in message


def test_a_folder_of_runs_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing could be written below it."""
    (tmp_path / "runs").write_text("")
    monkeypatch.setenv("BASEREWARD_RUNS", str(tmp_path / "runs"))
    ((_, message),) = faults(list(SMALL))
    assert str(tmp_path / "runs") in message
    with pytest.raises(RecipeError, match="BASEREWARD_RUNS"):
        train(load_recipe("basereward", overrides=SMALL))


@pytest.mark.filterwarnings("error::UserWarning:pytorch_lightning")
def test_nothing_held_out_is_said_in_plain_words(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run without rows for validation and test ends well, with no warning of Lightning's and no empty table."""
    none = [f"data.sources.{name}.{part}_size=0" for name in ("digits", "numbers") for part in ("val", "test")]
    with caplog.at_level(logging.INFO, logger="basereward"):
        assert main(["train", "basereward", *SMALL, *none]) == 0
    printed = capsys.readouterr().out
    assert "metric" not in printed
    assert [run.state for run in list_runs()] == ["finished"]
