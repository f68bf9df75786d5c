"""Test how the rows of published tables are joined to an experiment's cells, and which columns are means."""

from __future__ import annotations

from pathlib import Path

import pytest

from basereward.errors import DataError
from basereward.evaluation.published.published_file import read_table
from basereward.evaluation.published.published_table import read_published_table
from basereward.recipe import find_experiment

FOLDER = Path(__file__).resolve().parents[3] / "experiments" / "published"
GOOD = """\
paper: {title: A paper, arxiv: null, table: "1", year: 2025}
columns:
  general: {benchmark: vl_rewardbench, variant: official, metric: general}
  reasoning: {benchmark: vl_rewardbench, variant: official, metric: reasoning}
rows:
  A: [50.0, 25.0]
  B: [10.0, null]
"""


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_joined_cells_exist(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell or ensemble that a table names is in one of its experiments at full size."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(FOLDER.parent))
    table = read_published_table(file)
    joined = {name for names in table.joined.values() for name in names}
    for name in table.experiments:
        experiment = find_experiment(name, profile="qwen2_5_vl_7b")[0]  # the data paths are the user's
        existing = {*(cell.without_seeds for cell in experiment.cells), *experiment.ensembles}
        assert joined & existing or not table.joined
        joined -= existing
    assert not joined


@pytest.mark.parametrize(
    ("added", "fault"),
    [
        ("experiment: e\n", "`experiment` and `cells`"),
        ("experiment: e\ncells: {C: x}\n", "unknown row 'C'"),
        ("cells: {A: x}\n", "`experiment` and `cells`"),
    ],
)
def test_invalid_join_is_refused(added: str, fault: str, tmp_path: Path) -> None:
    """A joined row must exist, and the experiment must be named."""
    file = tmp_path / "table.yaml"
    file.write_text(GOOD + added)
    with pytest.raises(DataError, match=fault):
        read_table(file)


def test_mean_of_an_unknown_column_is_refused(tmp_path: Path) -> None:
    """The message names the unknown column and the known ones."""
    file = tmp_path / "table.yaml"
    file.write_text(GOOD.replace("metric: reasoning}", "metric: reasoning, of: [speed]}"))
    with pytest.raises(DataError, match=r"unknown column 'speed'.*general"):
        read_table(file)
