"""A source by name, or a file of rows, is loaded as a node."""

from __future__ import annotations

from pathlib import Path

import pytest

from basereward.errors import RecipeError
from basereward.recipe.fault import Fault
from basereward.recipe.fragment import load_source
from tests.helpers.support import pair_rows, write_rows

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "sources"
NAMES = sorted(file.relative_to(FOLDER).with_suffix("").as_posix() for file in FOLDER.rglob("*.yaml"))


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find experiments from any working directory."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))


def test_source_is_its_file_with_overrides() -> None:
    """Defaults of the class are filled in."""
    name, node = load_source("digits", overrides=["side=28", "true_answers=1"])
    assert name == "digits"
    assert (node["_target_"], node["side"], node["true_answers"], node["answers"], node["copies"]) == (
        "digits",
        28,
        1,
        5,
        1,
    )


def test_file_of_rows_has_no_held_out_rows(tmp_path: Path) -> None:
    """No row is held out unless an override says so."""
    file = write_rows(tmp_path / "mine.jsonl", pair_rows(2))
    name, node = load_source(str(file), overrides=["test=0.5"])
    assert (name, node["_target_"], node["path"], node["val"], node["test"]) == ("mine", "jsonl", str(file), 0.0, 0.5)


@pytest.mark.parametrize(
    ("source", "overrides", "message"),
    [
        ("digts", [], "unknown source 'digts'; did you mean 'digits'?"),
        ("nowhere.jsonl", [], "there is no file 'nowhere.jsonl'"),
        ("nowhere.yaml", [], "there is no file 'nowhere.yaml'"),
        ("jsonl", [], "path: missing"),
        ("digits", ["sid=3"], "sid: unknown argument of digits 'sid'; did you mean 'side'?"),
        ("digits", ["side=x", "answers"], "an override is KEY=VALUE"),
        ("digits", ["side=x", "answers=y"], "side: expected a whole number"),
        ("digits", ["include=sources/digts"], "did you mean 'sources/digits'?"),
    ],
)
def test_wrong_source_or_override_is_an_error(source: str, overrides: list[str], message: str) -> None:
    """The message says what to write instead."""
    with pytest.raises(RecipeError) as error:
        load_source(source, overrides=overrides)
    assert message in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_published_source_can_be_loaded(name: str) -> None:
    """Some sources need a path; with it, no source has a fault."""
    needs_path = "path" in load_faults(name)
    assert load_faults(name, *["path=rows.jsonl"] * needs_path) == []


def load_faults(name: str, *overrides: str) -> list[str]:
    """Return the keys of the faults of a source."""
    try:
        load_source(name, overrides=overrides)
    except RecipeError as error:
        return [fault.key for fault in error.faults if isinstance(fault, Fault)]
    return []


def test_folder_pattern_and_hub_id_are_sources(tmp_path: Path) -> None:
    """All of their rows are training rows; the name of the source can be that of a file."""
    for given, name in [(str(tmp_path), tmp_path.name), (f"{tmp_path}/part-*.jsonl", "part"), ("o/rows", "rows")]:
        source, node = load_source(given)
        assert (source, node["path"], node["val"], node["test"]) == (name, given, 0.0, 0.0)


def test_unknown_file_is_an_error(tmp_path: Path) -> None:
    """The message says what to do with a spreadsheet."""
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    with pytest.raises(RecipeError, match=r"unknown kind.*CSV"):
        load_source(str(tmp_path / "rows.xlsx"))
