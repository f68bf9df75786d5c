"""Test what the model card of an export says of the evaluations in the run of the model."""

from __future__ import annotations

from pathlib import Path

from basereward.evaluation.recorded_results import recorded_results
from basereward.evaluation.subject import FOLDER
from tests.helpers.evaluation_folders import measure, write_folder


def test_every_measure_with_its_interval(tmp_path: Path) -> None:
    """Measures without a value are left out; folders without a finished evaluation are too."""
    measures = {"overall": measure(2, 3), "empty": measure(0, 1) | {"value": None}}
    write_folder(tmp_path / FOLDER / "vl_rewardbench", [True, True, False], variants={"official": measures})
    write_folder(tmp_path / FOLDER / "own", [True], benchmark="own", partial="1 of 2 items")
    (tmp_path / FOLDER / "unfinished").mkdir()
    own, *_, bench = recorded_results(tmp_path / "model")
    assert (bench.benchmark, bench.variant, bench.metric, bench.items) == ("vl_rewardbench", "official", "overall", 3)
    assert (bench.value, bench.low, bench.high) == (2 / 3, 2 / 3 - 0.05, 2 / 3 + 0.05)
    assert (own.benchmark, own.partial, bench.partial) == ("own", "1 of 2 items", None)
