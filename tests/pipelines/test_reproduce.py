"""Test `basereward reproduce`: what it plans, what it refuses before training, and the page that it makes."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from basereward.cli import main
from basereward.cli.commands.reporting.reproduce import add_arguments
from basereward.errors import DataError
from basereward.evaluation.items import Item, JudgedItem, Outcome
from basereward.evaluation.protocols.vl_rewardbench import VLRewardBench
from basereward.evaluation.published.published_table import named_tables
from basereward.evaluation.reports.analyses.table_page import CellHours, ReproducedTable, write_table_page
from basereward.pipelines.reproduction.plan import TablePlan, plan_table
from basereward.pipelines.reproduction.reproduce import reproduce
from basereward.runs.run_folder import list_runs
from tests.evaluation.published.test_reproduced_tables import paper_rows
from tests.helpers.experiment_runs import finished_run, write_measures

ROOT = Path(__file__).resolve().parents[2]
PROFILE = str(ROOT / "tests" / "small.yaml")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ready_store: None) -> Path:
    """Change to an empty folder with the project's experiments."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reproduced(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Return the parsed output of a call that succeeds."""
    assert main(["reproduce", *arguments, "--profile", PROFILE, "--json"]) == 0
    output: dict[str, Any] = json.loads(capsys.readouterr().out)
    return output


@pytest.mark.parametrize("name", [name for name, table in named_tables().items() if table.experiments])
def test_every_table_with_an_experiment_has_a_plan(name: str) -> None:
    """On the tiny profile each is measured on stand-ins of all its benchmarks; with cells that are rows, on these."""
    plan = plan_table(name)
    assert plan.on == "stand_ins"
    assert list(plan.benchmarks) == [f"stand_ins/{benchmark}" for benchmark in plan.table.benchmarks]
    joined = {cell for names in plan.table.joined.values() for cell in names}
    kept = {cell.without_seeds for cell in plan.experiment.cells}
    assert kept <= joined or not kept & joined or plan.experiment.ensembles


def test_table_of_several_experiments_takes_the_complete_one() -> None:
    """At full size without rows of one's own it is the paper's data, with them the experiment on these."""
    full = plan_table("table_8", profile="qwen2_5_vl_7b")
    assert (full.word, full.on, list(full.benchmarks)) == (
        *("mixtures/basereward_data", "published"),
        ["mm_rlhf_rewardbench"],
    )
    own = ["data.sources.pairs.path=pairs.jsonl", "mm_rlhf_rewardbench.data=rows.jsonl"]
    plan = plan_table("table_8", profile="qwen2_5_vl_7b", overrides=own)
    assert (plan.word, plan.overrides) == ("basereward", ["mm_rlhf_rewardbench.data=rows.jsonl"])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("table_22", {}),
        ("yojo", {}),
        ("table_2", {"benchmarks": ["rm_bench"]}),
        ("table_2", {"experiment": "backbones"}),
        ("table_2", {"on": "both"}),
        ("table_2", {"benchmarks": ["vl_rewardbench"], "overrides": ["mm_rlhf_rewardbench.items=48"]}),
    ],
)
def test_what_no_table_has_is_refused(name: str, options: dict[str, Any]) -> None:
    """Unknown tables, tables without an experiment, and choices that are not of the table."""
    with pytest.raises(DataError):
        plan_table(name, **options)


def test_unknown_table_ends_with_2_and_the_list(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message has every table that an experiment reproduces."""
    assert main(["reproduce", "table_22"]) == 2
    error = capsys.readouterr().err
    assert all(name in error for name, table in named_tables().items() if table.experiments)


def test_benchmark_that_is_not_whole_stops_before_training(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With `--on published` the rows must be those of the benchmark; no run is made."""
    (here / "rows.jsonl").write_text(
        '{"id": "a", "prompt": "?", "chosen": "4", "rejected": "5", "image": "mcq/1.png"}\n'
    )
    words = ["reproduce", "table_8", "--profile", PROFILE, "--on", "published", "mm_rlhf_rewardbench.data=rows.jsonl"]
    assert main(words) == 2
    assert "170 expected, 1 found" in capsys.readouterr().err
    assert list_runs(kind=None) == []


def test_only_the_rows_of_a_table_and_the_members_of_its_ensembles_are_trained() -> None:
    """Table 7 has four of the eight ensembles, and needs the text model as a member of one of them, which is no row and
    is not measured. On the profile tiny no cell of `single_source` is a row of Table 4, so all are trained and
    measured; patterns choose some, and these are measured too."""
    plan = plan_table("table_7")
    assert list(plan.experiment.ensembles) == ["accuracy", "confidence", "average", "average_and_text"]
    assert [cell.name for cell in plan.experiment.cells] == [
        "recipe=qwen2_5_vl",
        "recipe=internvl3",
        "recipe=qwen3_text",
    ]
    assert plan.members_alone == ("recipe=qwen3_text",)
    assert plan_table("table_7", only=["*"]).members_alone == ()
    sources = plan_table("table_4")
    assert (len(sources.experiment.cells), sources.members_alone) == (3, ())
    full = plan_table("table_5", profile="qwen2_5_vl_7b")
    assert len(full.experiment.cells) == 7  # of eleven: the rows of Table 4
    chosen = plan_table("table_2", only=["head=2_*"]).experiment.cells
    assert [cell.name for cell in chosen] == ["head=2_none", "head=2_tanh", "head=2_silu"]


def test_command_of_a_plan_makes_the_same_plan() -> None:
    """The page says how to continue: with every choice of the call."""
    plan = plan_table(
        "table_2",
        profile="tiny",
        overrides=["trainer.steps=5", "vl_rewardbench.items=48"],
        experiment="head_depth",
        on="stand_ins",
        benchmarks=["vl_rewardbench"],
        only=["head=1_none", "head=2_*"],
    )
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = shlex.split(plan.command)
    assert words[:2] == ["basereward", "reproduce"]
    given = parser.parse_intermixed_args(words[2:])
    again = plan_table(
        given.table,
        profile=given.profile,
        overrides=given.overrides,
        experiment=given.experiment,
        on=given.on,
        benchmarks=given.benchmark,
        only=given.only,
    )
    assert again.command == plan.command
    assert [cell.recipe for cell in again.experiment.cells] == [cell.recipe for cell in plan.experiment.cells]
    assert again.benchmarks == plan.benchmarks == {"stand_ins/vl_rewardbench": ["items=48"]}


def judged_pairs(*, right: int) -> list[JudgedItem]:
    """Ten pairs in the layout of VL-RewardBench, of which the first ones are right."""
    judged: list[JudgedItem] = []
    for number in range(10):
        pair = (("4", "5"), (0,), (1,))
        item = Item(number, f"RLAIF-{number}", "?", *pair, f"RLAIF-{number}", {"source": "RLAIF"})
        judged.append(JudgedItem(item, Outcome(correct=number < right)))
    return judged


def planned(**options: Any) -> TablePlan:
    """Plan Table 2 on VL-RewardBench alone."""
    return plan_table("table_2", profile=PROFILE, benchmarks=["vl_rewardbench"], **options)


def test_page_has_the_evaluations_of_the_table_alone(here: Path) -> None:
    """A run may have been measured on other benchmarks too. Our value is that of the stand-in, with its counts; two
    seeds have their mean and standard deviation, and the GPU hours of a recipe are those of all its seeds."""
    plan = planned(only=["head=1_none*", "head=2_silu*"], overrides=["seeds=[0, 1]"])
    names = [cell.name for cell in plan.experiment.cells]
    assert len(names) == 4
    for cell, right in zip(plan.experiment.cells, (4, 8, 5, 5), strict=True):
        run = finished_run(cell)
        for benchmark in ("stand_in_vl_rewardbench", "stand_in_best_of_n", "vl_rewardbench"):
            number = right if benchmark.startswith("stand_in_vl") else 10
            write_measures(run, benchmark, VLRewardBench().variants, judged_pairs(right=number))
    hours = CellHours("h100", {name: 2.0 + place for place, name in enumerate(names)})
    measured = ["stand_in_vl_rewardbench"]
    subject = ReproducedTable(plan.name, plan.table, plan.experiment, plan.command, True, measured, hours)
    out = here / "page.html"
    write_table_page(subject, out=out, folder=here / "page")
    document = out.read_text(encoding="utf-8")
    cell = paper_rows(document)["1 layer"]["ours"]["vl_overall"]
    # 4 and 8 of 10: the mean is 60, the standard deviation 40 / sqrt(2) = 28.3 points.
    assert 'data-value="0.60000000"' in cell
    assert "± 28.3" in cell
    assert "stand_in_best_of_n" not in document
    rows = (here / "page" / "numbers.csv").read_text().splitlines()[1:]
    assert {line.split(",")[0] for line in rows} == set(measured)
    section = document[document.index('<section id="hours">') :]
    assert re.findall(r"<td[^>]*>([\d.]+)</td>", section[: section.index("</section>")]) == ["5.0", "9.0", "14.0"]
    assert 'class="warning"><p>Not all' not in document


def test_one_seed_has_its_count(here: Path) -> None:
    """Of one run the numerator and the denominator stand below the value."""
    plan = planned(only=["head=1_none"])
    (cell,) = plan.experiment.cells
    write_measures(finished_run(cell), "stand_in_vl_rewardbench", VLRewardBench().variants, judged_pairs(right=7))
    subject = ReproducedTable(
        *(plan.name, plan.table, plan.experiment, plan.command, True, ["stand_in_vl_rewardbench"]),
        CellHours("h100", {}, fault="no data"),
    )
    write_table_page(subject, out=here / "page.html", folder=here / "page")
    document = (here / "page.html").read_text(encoding="utf-8")
    assert ">7/10<" in paper_rows(document)["1 layer"]["ours"]["vl_overall"]
    assert "Not counted: no data" in document
    assert "1 of 1 cell finished" in document


def test_what_fails_is_on_the_page_and_in_the_faults(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that fails and a benchmark that cannot be scored do not stop the others: both are named, in the result and
    on the page. The evaluation gets the devices and the overrides of the benchmarks."""
    plan = planned(only=["head=1_none", "head=2_silu"], overrides=["vl_rewardbench.items=24"])
    run = finished_run(plan.experiment.cells[0])
    sweep_run = finished_run(plan.experiment.cells[0])
    cells = [
        {"name": "head=1_none", "status": "finished"},
        {"name": "head=2_silu", "status": "failed", "error": "the disk is full"},
    ]
    given: dict[str, Any] = {}

    def evaluated(subject: Any, benchmarks: list[str], **options: Any) -> Any:
        given.update(options, benchmarks=benchmarks)
        return SimpleNamespace(absent={"stand_in_vl_rewardbench": "it has no rows"})

    module = "basereward.pipelines.reproduction.reproduce"
    monkeypatch.setattr(
        f"{module}.sweep", lambda experiment: {"cells": cells, "ensembles": [], "sweep_id": sweep_run.run_id}
    )
    monkeypatch.setattr(f"{module}.open_subject", lambda run_id, *_, **__: run_id)
    monkeypatch.setattr(f"{module}.evaluate_each", evaluated)
    monkeypatch.setattr(f"{module}.counted_hours", lambda plan, gpu: CellHours(gpu, {"head=1_none": 2.0}))
    result = reproduce(plan, gpu="h100", devices=["cpu"], out="page.html")
    assert result["faults"] == [
        "head=2_silu failed: the disk is full",
        "head=1_none on stand_in_vl_rewardbench: it has no rows",
    ]
    document = Path("page.html").read_text(encoding="utf-8")
    assert all(f"<li>{fault}</li>" in document for fault in result["faults"])
    assert given["devices"] == ["cpu"]
    assert given["benchmarks"] == ["stand_ins/vl_rewardbench"]
    assert given["overrides"] == ["stand_ins/vl_rewardbench.items=24"]
    assert [cell["state"] for cell in result["cells"]] == ["finished", "not finished"]
    assert result["cells"][0]["run_id"] in (run.run_id, sweep_run.run_id)


@pytest.mark.slow
def test_page_has_ours_beside_theirs_and_a_second_call_repeats_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two cells of Table 2 on the stand-in of one benchmark: every cell of a row has the value of its evaluation, none
    has a difference. The same call again trains and scores nothing, and its plan shows the finished cells."""
    words = ["table_2", "--only", "head=1_none", "--only", "head=2_silu", "--benchmark", "vl_rewardbench"]
    words += ["vl_rewardbench.items=24", "trainer.steps=2"]
    made = reproduced(capsys, *words)
    document = Path(made["out"]).read_text(encoding="utf-8")
    rows = paper_rows(document)
    for row, cell in zip(("1 layer", "2 layers, SiLU"), made["cells"], strict=True):
        (run,) = [run for run in list_runs() if run.run_id == cell["run_id"]]
        stored = json.loads((run.evaluations / "stand_in_vl_rewardbench" / "evaluation.json").read_text())
        assert stored["items"] == stored["scored"] == 24
        for metric, measure in stored["variants"]["r1_reward"].items():
            assert f'data-value="{measure["value"]:.8f}"' in rows[row]["ours"][f"vl_{metric}"]
    assert "ours" not in rows["5 layers, SiLU"]
    assert 'class="difference"' not in document
    assert re.search(r'<p class="warning">[^<]*stand-ins', document)
    assert "compares only values" not in document
    assert "<li>vl overall: overall of vl_rewardbench, variant r1_reward</li>" in document
    assert made["hours"] == pytest.approx(sum(cell["hours"] for cell in made["cells"]))
    finished = {run.run_id for run in list_runs(kind=None)}
    files: list[Path] = []
    for run in list_runs():
        files += run.evaluations.rglob("items.jsonl")
    times = [file.stat().st_mtime_ns for file in files]
    again = reproduced(capsys, *words)
    assert again["cells"] == made["cells"]
    assert {run.run_id for run in list_runs(kind=None)} == finished
    assert [file.stat().st_mtime_ns for file in files] == times
    assert len(files) == 2
    planned = reproduced(capsys, *words, "--plan")
    assert [cell["state"] for cell in planned["cells"]] == ["finished", "finished"]
    assert planned["benchmarks"] == [{"name": "stand_in_vl_rewardbench", "items": 24, "fault": None}]


def test_members_of_ensembles_that_are_no_rows_are_not_measured(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that reads text alone cannot be scored on pairs about images: Table 7 would never be made whole."""
    plan = plan_table("table_7")
    runs = {cell.name: finished_run(cell).run_id for cell in plan.experiment.cells}
    opened: list[str] = []
    module = "basereward.pipelines.reproduction.reproduce"
    monkeypatch.setattr(
        f"{module}.sweep",
        lambda experiment: {"cells": [], "ensembles": [], "sweep_id": runs["recipe=internvl3"]},
    )
    monkeypatch.setattr(f"{module}.open_subject", lambda run_id, *_, **__: opened.append(run_id))
    monkeypatch.setattr(f"{module}.evaluate_each", lambda *_, **__: SimpleNamespace(absent={}))
    monkeypatch.setattr(f"{module}.counted_hours", lambda plan, gpu: CellHours(gpu, {}, fault="not counted"))
    assert reproduce(plan, gpu="h100", out="page.html")["faults"] == []
    assert opened == [runs["recipe=qwen2_5_vl"], runs["recipe=internvl3"]]
