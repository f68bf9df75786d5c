"""Test which measured values are shown next to the values of a published table."""

from __future__ import annotations

import csv
import re
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
    """Use a copy of the project's experiments."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(tmp_path / "experiments"))


def table(experiment: str, title: str) -> PublishedTable:
    """Return the published table of an experiment with this title."""
    (match,) = [candidate for candidate in tables_of(experiment) if candidate.title == title]
    return match


def evaluated(name: str, *, overrides: tuple[str, ...] = (), scored: int | None = None) -> Contender:
    """Return a finished run of an experiment's only cell, with outcomes of the paper's model on MM-RLHF-RewardBench."""
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
def test_experiments_with_the_paper_recipe_join_its_row(name: str, overrides: tuple[str, ...]) -> None:
    """The experiments on own pairs and on the paper's data both join Table 8, and their run is the row of
    BaseReward."""
    contender = evaluated(name, overrides=overrides)
    printed = table(contender.name, "Table 8")
    assert joined(printed, [contender]) == {ROW: contender}
    cells = measured_cells(printed, ROW, contender)
    assert cells["acc"].value == pytest.approx(156 / 170)
    assert difference(printed.rows[ROW]["acc"], cells["acc"]) == pytest.approx(100 * 156 / 170 - 91.76)


def test_partial_values_are_not_compared_with_the_paper(tmp_path: Path) -> None:
    """With 50 of 170 scored pairs the table has no measured value and lists the benchmark as not evaluated. The page
    has a separate heading that says how many pairs are scored."""
    contender = evaluated("basereward", overrides=OWN_ROWS, scored=50)
    printed = table("basereward", "Table 8")
    assert measured_cells(printed, ROW, contender) == {}
    assert BENCHMARK in not_evaluated(printed, ROW, contender)
    out = tmp_path / "page.html"
    page = make_page("basereward", profile="qwen2_5_vl_7b", overrides=OWN_ROWS, out=out)
    text = out.read_text(encoding="utf-8")
    assert f"{BENCHMARK} 1, in part" in text
    assert "50 of 170" in text
    with page.csv.open() as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] == BENCHMARK]
    assert {row["source"] for row in rows} == {"measured"}
    assert all("50 of 170" in row["partial"] for row in rows)


def test_page_distinguishes_unknown_protocol_from_missing_evaluation(tmp_path: Path) -> None:
    """An unknown protocol has a question mark; a missing evaluation has a dash and a command that runs it. Below the
    table stands the variant of every column."""
    finished_run(load_experiment("single_source", profile="qwen2_5_vl_7b").cells[0])
    out = tmp_path / "page.html"
    make_page("single_source", profile="qwen2_5_vl_7b", overrides=(), out=out)
    text = out.read_text(encoding="utf-8")
    section = text[text.index('<section id="paper">') :]
    first = section[: section.index("<h3>Table 5")]
    cells = paper_rows(f"{first}</section>")["MMIF"]["ours"]
    assert "no value of ours" not in first
    assert ">?<" in cells["vl_overall"]
    assert ">–<" in cells["acc"]  # noqa: RUF001
    assert "--benchmark mm_rlhf_rewardbench --benchmark multimodal_rewardbench" in first
    assert "mean_of_benchmarks" not in text
    columns = re.findall(r"<li>([^<]*, variant [^<]*|[^<]*: the mean of [^<]*)</li>", first)
    assert columns == [
        "multimodal average: a mean of benchmarks, variant unknown",
        "vl overall: overall of vl_rewardbench, variant unknown",
        "acc: acc of mm_rlhf_rewardbench, variant published",
        "acc plus: acc_plus of mm_rlhf_rewardbench, variant published",
        "mmrb: overall of multimodal_rewardbench, variant micro",
        "text average: the mean of rewardbench, rm_bench",
        "rewardbench: overall of rewardbench, variant unknown",
        "rm bench: overall of rm_bench, variant unknown",
    ]


def test_column_of_an_unknown_protocol_is_not_requested() -> None:
    """Of Table 7 only MM-RLHF-RewardBench can be evaluated, and a mean of benchmarks is not a benchmark."""
    for name, title, row in (("ensembles", "Table 7", "Average"), ("single_source", "Table 4", "MMIF")):
        printed = table(name, title)
        missing = not_evaluated(printed, row, Contender("none", []))
        assert missing == {"Table 7": [BENCHMARK], "Table 4": [BENCHMARK, "multimodal_rewardbench"]}[title]


def test_page_says_when_no_cell_is_a_row_of_the_table(tmp_path: Path) -> None:
    """On the profile tiny `single_source` has other cells than Table 4: a reader learns where their values are."""
    out = tmp_path / "page.html"
    make_page("single_source", profile="tiny", overrides=(), out=out)
    assert "no value of ours is in this table; they are in the section Benchmarks" in out.read_text(encoding="utf-8")
