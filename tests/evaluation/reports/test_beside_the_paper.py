"""What of ours stands beside a published table, and what does not."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from basereward.evaluation.published.published_table import PublishedTable, tables_of
from basereward.evaluation.reports.experiment.gather import Contender, gather
from basereward.evaluation.reports.experiment.make import make_page
from basereward.evaluation.reports.experiment.paper_comparison import difference, joined, measured_cells, not_evaluated
from basereward.recipe import load_experiment
from tests.evaluation.published.test_reproduced_tables import paper_rows
from tests.helpers.experiment_runs import finished_run, write_measures
from tests.helpers.paper_outcomes import PROTOCOLS, evaluations

ROOT = Path(__file__).parents[3]
ROW, BENCHMARK = "BaseReward (Qwen2.5-VL)", "mm_rlhf_rewardbench"


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The experiments of the project."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(tmp_path / "experiments"))


def table(experiment: str, title: str) -> PublishedTable:
    """A published table that is joined to an experiment."""
    (found,) = [each for each in tables_of(experiment) if each.title == title]
    return found


def evaluated(name: str, *, overrides: tuple[str, ...] = (), scored: int | None = None) -> Contender:
    """A finished run of an experiment's one cell, with outcomes of the paper's model on MM-RLHF-RewardBench."""
    experiment = load_experiment(name, profile="qwen2_5_vl_7b", overrides=overrides)
    (cell,) = experiment.cells
    printed = yaml.safe_load((ROOT / "experiments" / "published" / "basereward_table_8.yaml").read_text())
    judged = evaluations(printed, ROW)[BENCHMARK]
    variants = PROTOCOLS[BENCHMARK].variants
    write_measures(finished_run(cell), BENCHMARK, variants, judged[:scored], items=len(judged))
    (contender,) = gather(experiment)
    return contender


OWN_ROWS = ("data.sources.pairs.path=pairs.jsonl",)


@pytest.mark.parametrize(("name", "overrides"), [("basereward", OWN_ROWS), ("mixtures/basereward_data", ())])
def test_both_experiments_of_the_paper_s_recipe_are_its_row(name: str, overrides: tuple[str, ...]) -> None:
    """On one's own pairs and on the paper's data: each finds Table 8, and its run is the row of BaseReward."""
    contender = evaluated(name, overrides=overrides)
    printed = table(contender.name, "Table 8")
    assert joined(printed, [contender]) == {ROW: contender}
    found = measured_cells(printed, ROW, contender)
    assert found["acc"].value == pytest.approx(156 / 170)
    assert difference(printed.rows[ROW]["acc"], found["acc"]) == pytest.approx(100 * 156 / 170 - 91.76)


def test_values_of_a_part_stand_beside_nothing(tmp_path: Path) -> None:
    """50 of 170 pairs were scored: the table has no value of ours, and asks for the whole; the page has the part under
    a heading of its own, with what is missing."""
    contender = evaluated("basereward", overrides=OWN_ROWS, scored=50)
    printed = table("basereward", "Table 8")
    assert measured_cells(printed, ROW, contender) == {}
    assert BENCHMARK in not_evaluated(printed, ROW, contender)
    out = tmp_path / "page.html"
    made = make_page("basereward", profile="qwen2_5_vl_7b", overrides=OWN_ROWS, out=out)
    text = out.read_text(encoding="utf-8")
    assert f"{BENCHMARK} 1, in part" in text
    assert "50 of 170" in text
    with made.csv.open() as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] == BENCHMARK]
    assert {row["source"] for row in rows} == {"measured"}
    assert all("50 of 170" in row["partial"] for row in rows)


def test_the_page_tells_an_unknown_protocol_from_a_missing_evaluation(tmp_path: Path) -> None:
    """A question mark, and a dash with a command that fills it."""
    finished_run(load_experiment("single_source", profile="qwen2_5_vl_7b").cells[0])
    out = tmp_path / "page.html"
    make_page("single_source", profile="qwen2_5_vl_7b", overrides=(), out=out)
    text = out.read_text(encoding="utf-8")
    section = text[text.index('<section id="paper">') :]
    first = section[: section.index("<h3>Table 5")]
    shown = paper_rows(f"{first}</section>")["MMIF"]["ours"]
    assert ">?<" in shown["vl_overall"]
    assert ">–<" in shown["acc"]  # noqa: RUF001
    assert "--benchmark mm_rlhf_rewardbench --benchmark multimodal_rewardbench" in first
    assert "mean_of_benchmarks" not in text


def test_a_column_of_an_unknown_protocol_is_not_asked_for() -> None:
    """Of Table 7 only MM-RLHF-RewardBench can ever stand beside ours; a mean of benchmarks is no benchmark."""
    for name, title, row in (("ensembles", "Table 7", "Average"), ("single_source", "Table 4", "MMIF")):
        printed = table(name, title)
        asked = not_evaluated(printed, row, Contender("none", []))
        assert asked == {"Table 7": [BENCHMARK], "Table 4": [BENCHMARK, "multimodal_rewardbench"]}[title]
