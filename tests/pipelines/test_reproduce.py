"""Test `basereward reproduce`: what it plans, what it refuses before training, and the page that it makes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.errors import DataError
from basereward.evaluation.published.published_table import named_tables
from basereward.pipelines.reproduction.plan import plan_table
from basereward.runs.run_folder import list_runs
from tests.evaluation.published.test_reproduced_tables import paper_rows

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
