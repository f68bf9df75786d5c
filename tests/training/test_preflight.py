"""Test that `check` finds what `train` would refuse, and that `train` refuses it before a run exists."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from basereward.cli import main
from basereward.errors import BaseRewardError, DataError, RecipeError
from basereward.recipe import Cell, Experiment, Recipe, load_recipe
from basereward.runs.run_folder import list_runs
from basereward.sweeps import sweep as sweep_module
from basereward.training import fit, preflight
from basereward.training.checks import rows as rows_check
from basereward.training.checks.rows import read_sources
from basereward.training.fit import train
from basereward.training.preflight import cell_faults, check_quickly, only_cell
from tests.helpers.support import SMALL, only, pair_rows, write_rows

NO_GPU = [name for name in ("cuda", "gpu", "mps") if not torch.cuda.is_available()]
STOPPING = "trainer.early_stopping={patience: 1}"


def faults(overrides: list[str]) -> list[tuple[str, str]]:
    """Return the key and the message of every fault that `check` finds."""
    recipe = load_recipe("basereward", overrides=overrides)
    return [(fault.key, fault.message) for fault in cell_faults([Cell("cell", "cell", {}, recipe)])]


def refused(overrides: list[str], error: type[BaseRewardError] = RecipeError) -> str:
    """Return the error message of `train`, which must leave no run."""
    with pytest.raises(error) as caught:
        train(load_recipe("basereward", overrides=overrides))
    assert list_runs() == []
    return str(caught.value)


@pytest.mark.parametrize("accelerator", NO_GPU)
def test_missing_accelerator_is_refused(accelerator: str) -> None:
    """The fault has the key, the given value and the accelerators of this machine."""
    overrides = [*SMALL, f"trainer.accelerator={accelerator}"]
    ((key, message),) = faults(overrides)
    assert key == "trainer.accelerator"
    for word in (accelerator, "auto", "cpu"):
        assert word in message
    assert message in refused(overrides)


@pytest.mark.parametrize("path", ["./nowhere", "/no/such/folder", "../a/b"])
def test_missing_backbone_folder_is_refused(path: str) -> None:
    """The message has the path; a hub id is not looked up."""
    overrides = [*SMALL[:7], "model.backbone.make=null", f"model.backbone.path={path}"]
    ((key, message),) = faults(overrides)
    assert key == "model.backbone.path"
    assert str(Path(path).absolute()) in message or "is no folder" in message
    assert message in refused(overrides)


def test_backbone_of_the_hub_is_refused_only_where_it_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, an id that is not in the cache is a fault; with a network it is not looked up."""
    overrides = [*SMALL[:7], "model.backbone.make=null", "model.backbone.path=Qwen/Qwen2.5-VL-3B-Instruct"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ((key, message),) = faults(overrides)
    assert key == "model.backbone.path"
    assert "HF_HUB_OFFLINE" in message
    assert message in refused(overrides)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert faults(overrides) == []


def test_check_and_train_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    """Both commands exit without a traceback."""
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
def test_early_stopping_without_validation_rows_is_refused(
    rows: int | None, overrides: list[str], tmp_path: Path
) -> None:
    """No metric could be monitored."""
    small = list(SMALL) if rows is None else only(write_rows(tmp_path / "pairs.jsonl", pair_rows(rows)))
    all_overrides = [*small, *overrides, STOPPING]
    assert [key for key, _ in faults(all_overrides)] == ["trainer.early_stopping"]
    assert "trainer.early_stopping" in refused(all_overrides)
    if "monitor" not in overrides[-1]:
        assert faults(all_overrides[:-1]) == []


def test_monitor_of_a_source_without_validation_rows_is_refused() -> None:
    """The monitored metric would never be measured."""
    overrides = [*SMALL, "data.sources.numbers.val_size=0", "trainer.monitor=val/numbers/pair_accuracy"]
    assert [key for key, _ in faults(overrides)] == ["trainer.monitor"]
    assert "trainer.monitor" in refused(overrides)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    """The fault belongs to the source and names the file."""
    overrides = only(tmp_path / "none.jsonl")
    ((key, message),) = faults(overrides)
    assert key == "data.sources.mine"
    assert "none.jsonl" in message
    assert "none.jsonl" in refused(overrides, DataError)


@pytest.mark.parametrize("change", [{"chosen": "yes " * 3000}, {"rejected": "  "}], ids=["too-long", "blank"])
def test_too_many_lost_rows_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    """The message has the limit, and the rows are listed outside of any run with their reasons."""
    rows = pair_rows(60)
    for row in rows[:6]:
        row.update(change)
    overrides = only(write_rows(tmp_path / "pairs.jsonl", rows))
    ((key, message),) = faults(overrides)
    assert key == "data.max_lost"
    train_message = refused(overrides, DataError)
    for text in (message, train_message):
        assert "max_lost" in text
        rejections_file = Path(text.split("listed in ")[1].split(".jsonl")[0] + ".jsonl")
        reasons = {json.loads(line)["reason"] for line in rejections_file.read_text().splitlines()}
        assert reasons <= {"too_long", "empty_response"}
    assert faults([*overrides, "data.max_lost=0.2"]) == []


def test_check_samples_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message gives the size of the sample."""
    monkeypatch.setattr(rows_check, "SAMPLED", 30)
    rows = pair_rows(200)
    for row in rows[:20]:
        row["rejected"] = " "
    ((_, message),) = faults(only(write_rows(tmp_path / "pairs.jsonl", rows)))
    assert message.startswith("of a sample of at most ")
    assert "of 30 rows" in message


def test_runs_folder_that_is_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run could be written below a file."""
    (tmp_path / "runs").write_text("")
    monkeypatch.setenv("BASEREWARD_RUNS", str(tmp_path / "runs"))
    ((_, message),) = faults(list(SMALL))
    assert str(tmp_path / "runs") in message
    with pytest.raises(RecipeError, match="BASEREWARD_RUNS"):
        train(load_recipe("basereward", overrides=SMALL))


@pytest.mark.filterwarnings("error::UserWarning:pytorch_lightning")
@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("tracking.uri=ftp://host", "ftp"),
        ("tracking.uri=http://", "http://"),
        ("name=" + "${" * 500 + "a" + "}" * 500, "nested"),
    ],
)
def test_check_finds_what_train_would_refuse(override: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An address without a store and a value that cannot be parsed are faults of `check` too."""
    assert main(["check", "basereward", override]) == 2
    assert named in capsys.readouterr().out


@pytest.mark.usefixtures("ready_store")
def test_run_without_held_out_rows_has_no_warning(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run without validation and test rows finishes without a Lightning warning and without an empty table."""
    overrides = [f"data.sources.{name}.{split}_size=0" for name in ("digits", "numbers") for split in ("val", "test")]
    with caplog.at_level(logging.INFO, logger="basereward"):
        assert main(["train", "basereward", *SMALL, *overrides]) == 0
    printed = capsys.readouterr().out
    assert "metric" not in printed
    assert [run.state for run in list_runs()] == ["finished"]


def test_command_reads_the_first_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`train` and `sweep` go on with what their command has found; a cell of a sweep is not checked again, and a
    training by itself is."""
    read: list[str] = []

    def counting(recipe: Recipe, **options: Any) -> Any:
        read.append(recipe.name)
        return read_sources(recipe, **options)

    class Stop(Exception):
        """The end of the checks."""

    def stop(*_: object, **__: object) -> None:
        raise Stop

    monkeypatch.setattr(preflight, "read_sources", counting)
    monkeypatch.setattr(fit, "prepare_run", stop)
    monkeypatch.setattr(sweep_module, "deliver_pending", stop)
    recipe = load_recipe("basereward", overrides=list(SMALL))
    found = check_quickly([only_cell(recipe)])
    assert len(read) == 1
    for run in (
        lambda: train(recipe, quick=found),
        lambda: train(recipe, parent="a sweep"),
        lambda: sweep_module.sweep(Experiment("mine", "", [only_cell(recipe)], {}), quick=found),
    ):
        with pytest.raises(Stop):
            run()
        assert len(read) == 1
    with pytest.raises(Stop):
        train(recipe)
    assert len(read) == 2
