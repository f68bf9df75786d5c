"""A module that the tests hardly run fails `.ci/check-coverage`, unless a reason is given."""

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


def test_a_module_below_the_limit_needs_a_reason() -> None:
    """80 % is enough, 79.9 % is not."""
    assert [fault.split(":")[0] for fault in coverage.faults(REPORT, {})] == ["basereward.p", "basereward.p.low"]
    reasons = {"basereward.p": "a reason", "basereward.p.low": "another"}
    assert coverage.faults(REPORT, reasons) == []


def test_a_reason_for_a_module_that_is_not_there_is_a_fault() -> None:
    """One for a module above the limit is none: on a machine with a GPU more is run."""
    reasons = dict.fromkeys(("basereward.p", "basereward.p.low", "basereward.good", "basereward.gone"), "a reason")
    assert [fault.split(":")[0] for fault in coverage.faults(REPORT, reasons)] == ["basereward.gone"]


def test_the_summary_has_the_total_and_the_low_modules_with_their_reasons() -> None:
    """The lowest first."""
    total, *low = coverage.summary(REPORT, {"basereward.p.low": "runs on a GPU only"})
    assert "71.5 % of 200 lines" in total
    assert [line.split()[2] for line in low] == ["basereward.p.low:", "basereward.p:"]
    assert "runs on a GPU only" in low[0]


@pytest.mark.parametrize("text", ["a.b", "a.b =", "= reason", "a = x\na = y"])
def test_a_malformed_reason_ends_the_script(text: str) -> None:
    """A line without a module or a reason, or with a module that has one already."""
    with pytest.raises(SystemExit, match=r"coverage-reasons:[12]"):
        coverage.read_reasons(text)


def test_every_reason_of_the_project_is_about_a_file_that_is_there() -> None:
    """Also where nothing is measured."""
    for module in coverage.read_reasons(coverage.REASONS.read_text(encoding="utf-8")):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module


def test_the_examples_of_the_script_run() -> None:
    """pytest does not look for them in a file without a suffix."""
    failed, attempted = doctest.testmod(coverage)
    assert (failed, attempted) == (0, 2)


def test_the_script_ends_in_one_for_a_fault(tmp_path: Path) -> None:
    """It takes the report's path; the fault goes to standard error."""
    report = tmp_path / "report.json"
    report.write_text(json.dumps(REPORT))
    command = [sys.executable, str(FOLDER / "check-coverage"), str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "basereward.p.low" in done.stderr
