"""Test that a partial, different or changed benchmark is never counted as the whole benchmark."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from basereward.cli import main
from basereward.errors import DataError
from basereward.evaluation.benchmark import expected_items, load_benchmark
from basereward.evaluation.evaluation_folder import read_evaluation
from basereward.evaluation.item_identity import changed
from basereward.evaluation.outcome_files import read_outcomes
from basereward.evaluation.reports.evaluation_report import report
from basereward.evaluation.scoring import score_items
from basereward.evaluation.statistics.agreement import agreement
from basereward.inference.group_scores import ScoresEncodedGroups
from tests.fixtures.published.benchmarks.benchmark_rows import judgebench, rewardbench
from tests.fixtures.published.writing import write_jsonl
from tests.helpers.benchmark_rows import ANY_SIZE, small_benchmark, write_outcomes
from tests.helpers.evaluation_folders import write_folder

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
FILES = sorted((EXPERIMENTS / "benchmarks").glob("*.yaml"))
PAPERS = {  # numbers of items that the papers or dataset cards of the benchmarks give
    "vl_rewardbench": 1250,
    "vl_rewardbench_1247": 1247,
    "mm_rlhf_rewardbench": 170,
    "multimodal_rewardbench": 4711,
    "multimodal_rewardbench_2": 1000,
    "multimodal_rewardbench_2_edit": 1000,
    "multimodal_rewardbench_2_interleaved": 1000,
    "multimodal_rewardbench_2_t2i": 1000,
    "multimodal_rewardbench_2_pooled": 4000,
    "mr2bench_image": 240,
    "mr2bench_video": None,  # not published
    "videorewardbench": 1563,
    "omnirewardbench": 3725,
    "omnirewardbench_text": 417 + 528,
    "omnirewardbench_image": 509 + 229,
    "rewardbench": 2985,
    "rewardbench_prior_sets": 2985 + 6192 + 221 + 1741 + 9000,
    "rewardbench_2": 1865,
    "rm_bench": 1327,
    "judgebench": 350,
    "judgebench_claude": 270,
    "best_of_n": None,  # of rows of one's own
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder and use the project's benchmarks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(EXPERIMENTS))
    return tmp_path


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    """Return what `basereward eval` prints: stdout on success, stderr otherwise."""
    assert main(["eval", *arguments]) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


@pytest.mark.parametrize("file", [pytest.param(file, id=file.stem) for file in FILES])
def test_every_benchmark_file_has_the_published_size(file: Path) -> None:
    """The YAML has the published number of items, and the counts of all subsets add up to it."""
    node = yaml.safe_load(file.read_text())
    assert node["expected_items"] == PAPERS[file.stem] == expected_items(file.stem)
    for counts in node.get("expected_counts", {}).values():
        if None not in counts.values():
            assert sum(counts.values()) == node["expected_items"]


@pytest.mark.parametrize(
    ("name", "file"), [("vl_rewardbench", "vl_rewardbench.json"), ("mm_rlhf_rewardbench", "mm_rlhf_rewardbench.jsonl")]
)
def test_real_files_are_complete(name: str, file: str, real_rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command accepts them without --allow-partial, and its output has no PARTIAL."""
    output = evaluated(capsys, "longer", "--benchmark", name, f"data={real_rows}/benchmarks/{file}")
    assert "PARTIAL" not in output
    evaluation = json.loads(Path(f"evaluations/longer/{name}/evaluation.json").read_text())
    assert evaluation["partial"] is None
    assert evaluation["items"] == evaluation["scored"] == evaluation["expected"] == PAPERS[name]


def one_row() -> tuple[str, list[dict[str, Any]], Sequence[str]]:
    """Return one of 1,250 rows."""
    row = {"id": "wildvision-1", "query": "?", "response": ["a", "b"], "human_ranking": [0, 1], "image": "1.png"}
    return "vl_rewardbench", [row], ["1,250 expected, 1 found", "wildvision: 173 expected, 1 found"]


def another_benchmark() -> tuple[str, list[dict[str, Any]], Sequence[str]]:
    """Return the 270 pairs by Claude under the name of the 350 pairs by GPT-4o."""
    rows = [judgebench(str(i), "mmlu-pro-law") for i in range(270)]
    return "judgebench", rows, ["350 expected, 270 found", "math: some expected, 0 found"]


def five_subsets() -> tuple[str, list[dict[str, Any]], Sequence[str]]:
    """Return rows of 5 of 23 subsets."""
    names = ("alpacaeval-easy", "mt-bench-easy", "donotanswer", "hep-rust", "math-prm")
    rows = [rewardbench(names[i % 5], number=i) for i in range(50)]
    return "rewardbench", rows, ["2,985 expected, 50 found", "math-prm: 447 expected, 10 found", "hep-go: 164"]


def other_subsets() -> tuple[str, list[dict[str, Any]], Sequence[str]]:
    """Return as many rows as expected, all of one subset."""
    rows = [rewardbench("hep-rust", number=i) for i in range(2985)]
    return "rewardbench", rows, ["hep-rust: 164 expected, 2,985 found", "hep-go: 164 expected, 0 found"]


def too_many() -> tuple[str, list[dict[str, Any]], Sequence[str]]:
    """Return twice the expected rows, as when a file is joined with itself."""
    rows = [judgebench(str(i), "mmlu-pro-law") for i in range(540)]
    return "judgebench_claude", rows, ["270 expected, 540 found"]


PARTS = [one_row, another_benchmark, five_subsets, other_subsets, too_many]


@pytest.mark.parametrize("part", PARTS)
def test_partial_benchmark_is_refused_with_its_counts(
    part: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, the expected and the found numbers by subset, and nothing is written, even where every row has an
    outcome."""
    name, rows, faults = part()
    write_jsonl(here / "rows.jsonl", rows)
    items = load_benchmark(name, overrides=["data=rows.jsonl"]).items
    write_outcomes(here / "mine.jsonl", items, scores=[[1.0, 0.0]] * len(rows))
    for scorer in (["longer"], ["--scores", "mine.jsonl"]):
        output = evaluated(capsys, *scorer, "--benchmark", name, "data=rows.jsonl", status=2)
        assert all(text in output for text in [*faults, "--allow-partial"])
    assert not (here / "evaluations").exists()


@pytest.mark.parametrize("part", PARTS)
def test_allowed_partial_benchmark_is_marked_everywhere(
    part: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text, the JSON, the page and its CSV say that the evaluation is partial, and no published value is shown
    beside it."""
    name, rows, faults = part()
    write_jsonl(here / "rows.jsonl", rows)
    arguments = ["longer", "--benchmark", name, "data=rows.jsonl", "--allow-partial"]
    assert f"PARTIAL: {evaluated_part(arguments, capsys)}" in evaluated(capsys, *arguments)
    folder = f"evaluations/longer/{name}"
    evaluation = json.loads(Path(folder, "evaluation.json").read_text())
    assert all(fault in evaluation["partial"] for fault in faults)
    result = report([folder])
    with Path(result["csv"]).open() as file:
        table = list(csv.DictReader(file))
    assert "published" not in {row["source"] for row in table}
    assert {row["partial"] for row in table if row["source"] == "measured"} == {evaluation["partial"]}
    page = json.loads(Path(result["out"]).read_text().partition('id="data">')[2].partition("</script>")[0])
    assert page["benchmarks"][0]["partial"] is True


def evaluated_part(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return `partial` of the JSON output of a call."""
    (output,) = json.loads(evaluated(capsys, *arguments, "--json"))["evaluations"]
    return str(output["partial"])


def test_partial_and_whole_evaluations_have_separate_tables(here: Path) -> None:
    """The table of the whole keeps the published values, and the two evaluations are not compared."""
    whole = write_folder(here / "whole", [True] * 6)
    part = write_folder(here / "part", [True] * 4, expected=6, partial="4 of 6 items")
    result = report([whole, part])
    with Path(result["csv"]).open() as file:
        rows = list(csv.DictReader(file))
    assert len([row for row in rows if row["source"] == "measured" and row["metric"] == "overall"]) == 2
    assert [row for row in rows if row["source"] == "published"]
    page = json.loads(Path(result["out"]).read_text().partition('id="data">')[2].partition("</script>")[0])
    assert [(table["partial"], len(table["models"])) for table in page["benchmarks"]] == [(False, 1), (True, 1)]
    assert all(not table["agreement"] for table in page["benchmarks"])
    assert len(set(result["figures"])) == len(result["figures"])


def test_evaluation_of_an_earlier_version_is_checked_by_its_size(here: Path) -> None:
    """Without the key `partial`, 3 items of a benchmark with 1,250 count as partial; an unknown benchmark does not."""
    folder = Path(write_folder(here / "old", [True] * 3))
    head = json.loads((folder / "evaluation.json").read_text())
    for key in ("expected", "partial", "fingerprint"):
        del head[key]
    (folder / "evaluation.json").write_text(json.dumps(head))
    assert "1,250 expected, 3 found" in str(read_evaluation(folder).partial)
    (folder / "evaluation.json").write_text(json.dumps(head | {"benchmark": "one_s_own"}))
    assert read_evaluation(folder).partial is None


CHANGES = {
    "an answer": lambda row: row | {"response": [*row["response"][:1], "Another."]},
    "a prompt": lambda row: row | {"query": "Another?"},
    "a label": lambda row: row | {"human_ranking": row["human_ranking"][::-1]},
    "an id": lambda row: row | {"id": "wildvision-99"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_row_makes_another_benchmark(change: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores of the earlier rows are refused, and evaluations before and after the change are not compared."""
    file = small_benchmark(here / "data")
    arguments = ["longer", "--benchmark", "vl_rewardbench", "data=data/rows.json", *ANY_SIZE]
    evaluated(capsys, *arguments, "--out", "before")
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([*rows[:3], CHANGES[change](rows[3]), *rows[4:]]))
    evaluated(capsys, *arguments, "--out", "after")
    items = load_benchmark("vl_rewardbench", overrides=["data=data/rows.json"]).items
    with pytest.raises(DataError, match="row 3"):
        read_outcomes("before/vl_rewardbench/scores.jsonl", items)
    read_outcomes("after/vl_rewardbench/scores.jsonl", items)
    before, after = (read_evaluation(f"{name}/vl_rewardbench") for name in ("before", "after"))
    with pytest.raises(DataError, match="items of the benchmark changed"):
        agreement(before, after)


def test_picture_is_identified_by_its_content(here: Path) -> None:
    """Another picture under the same name changes the fingerprint, and the same files in another folder do not. Where a
    picture is missing, the pictures are not compared."""
    small_benchmark(here / "data")
    copytree(here / "data", here / "copy")

    def fingerprint(folder: str) -> dict[str, str | None]:
        return dict(load_benchmark("vl_rewardbench", overrides=[f"data={folder}/rows.json"]).fingerprint)

    assert fingerprint("data") == fingerprint("copy")
    digests = [
        load_benchmark("vl_rewardbench", overrides=[f"data={folder_name}/rows.json"]).digest
        for folder_name in ("data", "copy")
    ]
    assert digests[0] == digests[1]
    (here / "copy" / "images" / "0.png").write_bytes((here / "copy" / "images" / "2.png").read_bytes())
    assert changed(fingerprint("data"), fingerprint("copy")) == ["pictures"]
    (here / "copy" / "images" / "0.png").unlink()
    assert fingerprint("copy")["pictures"] is None
    assert changed(fingerprint("data"), fingerprint("copy")) == []


class Counting(ScoresEncodedGroups):
    """A stand-in for a model: every answer has the number of its group as score."""

    def __init__(self) -> None:
        self.groups = 0

    def encode(self, group: Any) -> Any:
        """Return the group unchanged."""
        return group

    def score_encoded(self, groups: Any, **options: Any) -> Any:
        """Yield the scores of one group at a time."""
        for group in groups:
            self.groups += 1
            yield [[float(self.groups)] * len(group.responses)]


def test_journal_of_a_changed_benchmark_is_restarted(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A warning names what changed; the journal of an unchanged benchmark is resumed."""
    file = small_benchmark(here / "data", rows=6)
    journal = here / "partial.jsonl"

    def scored() -> int:
        benchmark = load_benchmark("vl_rewardbench", overrides=["data=data/rows.json"])
        model = Counting()
        header = {"model": "m", "benchmark": benchmark.digest}
        score_items(model, benchmark.items, images=benchmark.store, journal=journal, header=header)
        return model.groups

    assert scored() == 4
    assert scored() == 0
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([CHANGES["a prompt"](rows[0]), *rows[1:]]))
    caplog.clear()
    assert scored() > 0
    assert "benchmark changed" in caplog.text
