"""Every published data set with a recipe is read in its published format.

The recipes are found by their files; one without a fixture in `tests/fixtures/published` fails.
"""

from __future__ import annotations

import gzip
import importlib
import itertools
import json
import pickle
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from basereward.data.images.open_images import open_image
from basereward.data.schema.group import SPLITS, Group
from basereward.data.sources import Source
from basereward.errors import DataError
from basereward.recipe import make
from tests.fixtures.published.expected import Expected

ROOT = Path(__file__).parents[2]
RECIPES = {
    file.stem: yaml.safe_load(file.read_text()) for file in sorted((ROOT / "experiments/sources").glob("*.yaml"))
}
PUBLISHED = [name for name, recipe in RECIPES.items() if recipe["_target_"] == "hub" and "path" in recipe]
HELPERS = {"expected", "writing"}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the cache of the `datasets` library into a temporary folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write(name: str, folder: Path) -> Expected:
    """Write the rows of a source with its fixture."""
    expected: Expected = importlib.import_module(f"tests.fixtures.published.{name}").write(folder)
    return expected


def load(name: str, folder: Path, expected: Expected, *, held_out: float = 0.0) -> Source:
    """Return the source of a recipe, read from a folder, with the given shares of held-out rows."""
    node = RECIPES[name] | {"path": str(folder)} | dict(expected.arguments)
    shares = {part: held_out for part in ("val", "test") if not isinstance(node.get(part), str)}
    source: Source = make(node | shares, "sources", name)
    return source


def all_groups(source: Source) -> list[Group]:
    """Return the groups of all splits."""
    return [group for split in SPLITS for group in source.groups(split)]


def turns(group: Group) -> tuple[tuple[str, str], ...]:
    """Return the prompt in the form of `Expected`."""
    return tuple(
        (turn.role, "".join("<image>" if part.is_visual else str(part.text) for part in turn.parts))
        for turn in group.prompt
    )


def question(group: Group) -> tuple[Any, ...]:
    """Return the turns and image bytes, which are equal only for equal prompts."""
    return turns(group), tuple(open_image(image).tobytes() for image in group.images)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_row_is_a_group_or_rejected(name: str, tmp_path: Path) -> None:
    """The counts of groups and of rejected rows per reason, and all fields of the first group. A second read and a
    pickled source give the same."""
    expected = write(name, tmp_path)
    source = load(name, tmp_path, expected)
    groups = all_groups(source)
    rejected = Counter(row.reason for split in SPLITS for row in source.rejected(split))
    assert (len(groups), rejected) == (expected.groups, Counter(expected.lost)), [
        row.detail for split in SPLITS for row in source.rejected(split)
    ]
    first = groups[0]
    assert turns(first) == expected.prompt
    assert first.responses == expected.responses
    assert first.preferences == expected.preferences
    assert len(first.images) == expected.images
    assert all_groups(load(name, tmp_path, expected)) == groups
    assert all_groups(pickle.loads(pickle.dumps(source))) == groups  # noqa: S301  # our own
    assert pickle.loads(pickle.dumps(groups)) == groups  # noqa: S301


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_group_can_be_trained_on(name: str, tmp_path: Path) -> None:
    """All images open, their number is that of the image parts, and each group has a preference."""
    groups = all_groups(load(name, tmp_path, write(name, tmp_path)))
    for group in groups:
        assert sum(part.is_visual for turn in group.prompt for part in turn.parts) == len(group.images)
        assert all(open_image(image).mode == "RGB" for image in group.images)
        assert group.preferences


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_prompt_is_in_two_splits(name: str, tmp_path: Path) -> None:
    """Held-out shares lose no row."""
    expected = write(name, tmp_path)
    source = load(name, tmp_path, expected, held_out=0.3)
    prompts_by_split = [{question(group) for group in source.groups(split)} for split in SPLITS]
    assert all(not one & other for one, other in itertools.combinations(prompts_by_split, 2))
    assert len(all_groups(source)) == expected.groups


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe_states_its_origin(name: str) -> None:
    """The hub id, the revision, and in the comments at the top the licence and the number of pairs."""
    recipe: Mapping[str, Any] = RECIPES[name]
    assert recipe["path"].count("/") == 1
    assert recipe["revision"]
    head = (ROOT / "experiments" / "sources" / f"{name}.yaml").read_text().split("_target_")[0].lower()
    assert "licence" in head
    assert "pairs" in head


def test_sources_with_critiques_are_known() -> None:
    """The error of a critic head without critiques names these sources, except the benchmark.
    `tests/data/schema/test_critiques.py` tests the embedded ones."""
    with_critiques = set()
    for name in PUBLISHED:
        with TemporaryDirectory() as folder:
            source = load(name, Path(folder), write(name, Path(folder)))
            with_critiques |= {name for group in all_groups(source) if group.critiques}
    assert with_critiques == {"mm_rlhf", "mm_rlhf_rewardbench"}


def rename_columns(file: Path) -> set[str]:
    """Rename every column of a data file, and return the new names."""
    if file.suffix == ".parquet":
        table = pq.read_table(file)
        table = table.rename_columns([f"x{name}" for name in table.column_names]).replace_schema_metadata(None)
        pq.write_table(table, file)
        return set(table.column_names)
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt") as stream:
        text = stream.read()
    is_list = text.startswith("[")
    rows = json.loads(text) if is_list else [json.loads(line) for line in text.splitlines()]
    renamed = [{f"x{name}": value for name, value in row.items()} for row in rows]
    with opened(file, "wt") as stream:
        stream.write(json.dumps(renamed) if is_list else "".join(json.dumps(row) + "\n" for row in renamed))
    return {name for row in renamed for name in row}


@pytest.mark.parametrize("name", PUBLISHED)
def test_unexpected_columns_are_an_error(name: str, tmp_path: Path) -> None:
    """If the columns of a data set have changed, the error lists the columns found and the mapping to write."""
    expected = write(name, tmp_path)
    data = [file for file in sorted(tmp_path.rglob("*")) if file.suffix in (".json", ".jsonl", ".gz", ".parquet")]
    columns = [rename_columns(file) for file in data if file.name != RECIPES[name].get("listing")]
    with pytest.raises(DataError) as error:
        all_groups(load(name, tmp_path, expected))
    message = str(error.value)
    assert "missing: " in message
    assert "Columns found: " in message
    assert "columns: {" in message
    assert any(all(column in message for column in columns_of_file) for columns_of_file in columns)


def test_each_fixture_has_a_source() -> None:
    """No fixture is left over from a removed source."""
    fixtures = {file.stem for file in (ROOT / "tests" / "fixtures" / "published").glob("*.py")} - HELPERS
    assert fixtures == set(PUBLISHED)
