"""Test that `.ci/check-coverage` fails for a module with low coverage unless a reason is given."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.ci_scripts import FOLDER, load_ci_script

ROOT = FOLDER.parent
coverage = load_ci_script("check-coverage")

REPORT = {
    "summary": {"percent_covered": 71.5, "covered_lines": 143, "missing_lines": 57},
    "files": {
        "basereward/good.py": {"summary": {"percent_covered": 80.0}},
        "basereward/p/__init__.py": {"summary": {"percent_covered": 79.9}},
        "basereward/p/low.py": {"summary": {"percent_covered": 20.0}},
    },
}


def test_module_below_the_limit_needs_a_reason() -> None:
    """80 % is enough, and 79.9 % is not."""
    assert [fault.split(":")[0] for fault in coverage.faults(REPORT, {})] == ["basereward.p", "basereward.p.low"]
    reasons = {"basereward.p": "a reason", "basereward.p.low": "another"}
    assert coverage.faults(REPORT, reasons) == []


def test_reason_for_a_missing_module_is_a_fault() -> None:
    """A reason for a module above the limit is allowed, since a machine with a GPU covers more."""
    reasons = dict.fromkeys(("basereward.p", "basereward.p.low", "basereward.good", "basereward.gone"), "a reason")
    assert [fault.split(":")[0] for fault in coverage.faults(REPORT, reasons)] == ["basereward.gone"]


def test_summary_has_the_total_and_the_low_modules() -> None:
    """The module with the lowest coverage is first, and reasons are shown."""
    total, *low = coverage.summary(REPORT, {"basereward.p.low": "runs on a GPU only"})
    assert "71.5 % of 200 lines" in total
    assert [line.split()[2] for line in low] == ["basereward.p.low:", "basereward.p:"]
    assert "runs on a GPU only" in low[0]


@pytest.mark.parametrize("text", ["a.b", "a.b =", "= reason", "a = x\na = y"])
def test_malformed_reason_ends_the_script(text: str) -> None:
    """The line lacks the module or the reason, or repeats a module."""
    with pytest.raises(SystemExit, match=r"coverage-reasons:[12]"):
        coverage.read_reasons(text)


def test_every_reason_of_the_project_names_an_existing_file() -> None:
    """This needs no coverage report."""
    for module in coverage.read_reasons(coverage.REASONS.read_text(encoding="utf-8")):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module


def test_examples_of_the_script_run() -> None:
    """pytest does not collect examples from a file without a suffix."""
    failed, attempted = doctest.testmod(coverage)
    assert (failed, attempted) == (0, 2)


def test_script_exits_with_1_for_a_fault(tmp_path: Path) -> None:
    """The argument is the report's path, and the fault goes to standard error."""
    report = tmp_path / "report.json"
    report.write_text(json.dumps(REPORT))
    command = [sys.executable, str(FOLDER / "check-coverage"), str(report)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 1
    assert "basereward.p.low" in completed.stderr
