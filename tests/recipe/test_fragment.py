"""One source by name, or a file of rows, as a node that can be made."""

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
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))


def test_a_name_is_its_file_with_the_changes() -> None:
    """Defaults that nobody wrote are filled in."""
    name, node = load_source("digits", overrides=["side=28", "true_answers=1"])
    assert name == "digits"
    assert (node["_target_"], node["side"], node["true_answers"], node["answers"], node["copies"]) == (
        "digits",
        28,
        1,
        5,
        1,
    )


def test_a_file_of_rows_is_read_whole(tmp_path: Path) -> None:
    """No row of it is held out, unless a change says so."""
    file = write_rows(tmp_path / "mine.jsonl", pair_rows(2))
    name, node = load_source(str(file), overrides=["test=0.5"])
    assert (name, node["_target_"], node["path"], node["val"], node["test"]) == ("mine", "jsonl", str(file), 0.0, 0.5)


@pytest.mark.parametrize(
    ("given", "overrides", "message"),
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
def test_a_mistake_is_named(given: str, overrides: list[str], message: str) -> None:
    """With what to write in its place."""
    with pytest.raises(RecipeError) as error:
        load_source(given, overrides=overrides)
    assert message in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_published_source_is_found(name: str) -> None:
    """With a path, which some must be given, nothing is wrong with it."""
    needs_path = "path" in load_faults(name)
    assert load_faults(name, *["path=rows.jsonl"] * needs_path) == []


def load_faults(name: str, *overrides: str) -> list[str]:
    """The keys of what is wrong."""
    try:
        load_source(name, overrides=overrides)
    except RecipeError as error:
        return [fault.key for fault in error.faults if isinstance(fault, Fault)]
    return []


def test_what_is_there_and_no_source_is_named_as_what_it_is(tmp_path: Path) -> None:
    """A folder, and a file of another kind."""
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    with pytest.raises(RecipeError, match="is a folder"):
        load_source(str(tmp_path))
    with pytest.raises(RecipeError, match="unknown kind"):
        load_source(str(tmp_path / "rows.xlsx"))
