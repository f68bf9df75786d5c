"""A part of a benchmark, or another one, is never taken for the whole; a benchmark that changed is noticed."""

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
from tests.fixtures.published.benchmarks.benchmark_rows import judgebench, rewardbench
from tests.fixtures.published.writing import write_jsonl
from tests.helpers.benchmark_rows import ANY_SIZE, small_benchmark, write_outcomes
from tests.helpers.evaluation_folders import write_folder

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
FILES = sorted((EXPERIMENTS / "benchmarks").glob("*.yaml"))
PAPERS = {  # items of the published benchmarks, as their papers or cards count them
    "vl_rewardbench": 1250,
    "mm_rlhf_rewardbench": 170,
    "multimodal_rewardbench": 4711,
    "multimodal_rewardbench_2": 1000,
    "multimodal_rewardbench_2_edit": 1000,
    "multimodal_rewardbench_2_interleaved": 1000,
    "multimodal_rewardbench_2_t2i": 1000,
    "rewardbench": 2985,
    "rewardbench_prior_sets": 2985 + 6192 + 221 + 1741 + 9000,
    "rewardbench_2": 1865,
    "rm_bench": 1327,
    "judgebench": 350,
    "judgebench_claude": 270,
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's benchmarks, and a folder to write in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(EXPERIMENTS))
    return tmp_path


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    """What `basereward eval` prints, on either stream."""
    assert main(["eval", *arguments]) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


@pytest.mark.parametrize("file", [pytest.param(file, id=file.stem) for file in FILES])
def test_every_benchmark_says_how_large_it_is(file: Path) -> None:
    """Its YAML has the published number of items; where it has those of all subsets, they add up to it."""
    node = yaml.safe_load(file.read_text())
    assert node["expected_items"] == PAPERS[file.stem] == expected_items(file.stem)
    for counts in node.get("expected_counts", {}).values():
        if None not in counts.values():
            assert sum(counts.values()) == node["expected_items"]


@pytest.mark.parametrize(
    ("name", "file"), [("vl_rewardbench", "vl_rewardbench.json"), ("mm_rlhf_rewardbench", "mm_rlhf_rewardbench.jsonl")]
)
def test_the_real_files_are_whole(name: str, file: str, real_rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --allow-partial, and without a word about parts."""
    output = evaluated(capsys, "longer", "--benchmark", name, f"data={real_rows}/benchmarks/{file}")
    assert "PARTIAL" not in output
    facts = json.loads(Path(f"evaluations/longer/{name}/evaluation.json").read_text())
    assert facts["partial"] is None
    assert facts["items"] == facts["scored"] == facts["expected"] == PAPERS[name]


def one_row() -> tuple[str, list[dict[str, Any]], Sequence[str]]:
    """One of 1,250."""
    row = {"id": "wildvision-1", "query": "?", "response": ["a", "b"], "human_ranking": [0, 1], "image": "1.png"}
    return "vl_rewardbench", [row], ["1,250 expected, 1 found", "wildvision: 173 expected, 1 found"]


def another_benchmark() -> tuple[str, list[dict[str, Any]], Sequence[str]]:
    """The 270 pairs by Claude under the name of the 350 by GPT-4o."""
    rows = [judgebench(str(i), "mmlu-pro-law") for i in range(270)]
    return "judgebench", rows, ["350 expected, 270 found", "math: some expected, 0 found"]


def five_subsets() -> tuple[str, list[dict[str, Any]], Sequence[str]]:
    """Of 23."""
    names = ("alpacaeval-easy", "mt-bench-easy", "donotanswer", "hep-rust", "math-prm")
    rows = [rewardbench(names[i % 5], number=i) for i in range(50)]
    return "rewardbench", rows, ["2,985 expected, 50 found", "math-prm: 447 expected, 10 found", "hep-go: 164"]


def other_subsets() -> tuple[str, list[dict[str, Any]], Sequence[str]]:
    """As many rows as there should be, of the wrong kinds."""
    rows = [rewardbench("hep-rust", number=i) for i in range(2985)]
    return "rewardbench", rows, ["hep-rust: 164 expected, 2,985 found", "hep-go: 164 expected, 0 found"]


def too_many() -> tuple[str, list[dict[str, Any]], Sequence[str]]:
    """Twice the rows, as when two files were joined."""
    rows = [judgebench(str(i), "mmlu-pro-law") for i in range(540)]
    return "judgebench_claude", rows, ["270 expected, 540 found"]


PARTS = [one_row, another_benchmark, five_subsets, other_subsets, too_many]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_refused_with_its_numbers(part: Any, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, expected and found by subset, and nothing is written; also where every row has its outcome."""
    name, rows, faults = part()
    write_jsonl(here / "rows.jsonl", rows)
    items = load_benchmark(name, overrides=["data=rows.jsonl"]).items
    write_outcomes(here / "mine.jsonl", items, scores=[[1.0, 0.0]] * len(rows))
    for who in (["longer"], ["--scores", "mine.jsonl"]):
        output = evaluated(capsys, *who, "--benchmark", name, "data=rows.jsonl", status=2)
        assert all(each in output for each in [*faults, "--allow-partial"])
    assert not (here / "evaluations").exists()


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_is_asked_for_says_so_everywhere(part: Any, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the text, in the JSON, in the page and in its CSV, where no published value stands beside it."""
    name, rows, faults = part()
    write_jsonl(here / "rows.jsonl", rows)
    arguments = ["longer", "--benchmark", name, "data=rows.jsonl", "--allow-partial"]
    assert f"PARTIAL: {evaluated_part(arguments, capsys)}" in evaluated(capsys, *arguments)
    folder = f"evaluations/longer/{name}"
    facts = json.loads(Path(folder, "evaluation.json").read_text())
    assert all(each in facts["partial"] for each in faults)
    made = report([folder])
    with Path(made["csv"]).open() as file:
        table = list(csv.DictReader(file))
    assert "published" not in {row["source"] for row in table}
    assert {row["partial"] for row in table if row["source"] == "measured"} == {facts["partial"]}
    page = json.loads(Path(made["out"]).read_text().partition('id="data">')[2].partition("</script>")[0])
    assert page["benchmarks"][0]["partial"] is True


def evaluated_part(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """`partial` in the JSON of a call."""
    (output,) = json.loads(evaluated(capsys, *arguments, "--json"))["evaluations"]
    return str(output["partial"])


def test_a_part_and_the_whole_have_tables_of_their_own(here: Path) -> None:
    """The whole keeps its published values, and the two are not compared."""
    whole = write_folder(here / "whole", [True] * 6)
    part = write_folder(here / "part", [True] * 4, expected=6, partial="4 of 6 items")
    made = report([whole, part])
    with Path(made["csv"]).open() as file:
        rows = list(csv.DictReader(file))
    assert len([row for row in rows if row["source"] == "measured" and row["metric"] == "overall"]) == 2
    assert [row for row in rows if row["source"] == "published"]
    page = json.loads(Path(made["out"]).read_text().partition('id="data">')[2].partition("</script>")[0])
    assert [(each["partial"], len(each["models"])) for each in page["benchmarks"]] == [(False, 1), (True, 1)]
    assert all(not each["agreement"] for each in page["benchmarks"])
    assert len(set(made["figures"])) == len(made["figures"])


def test_an_evaluation_of_an_earlier_version_is_measured_by_its_size(here: Path) -> None:
    """It does not say whether it is whole: 3 of the 1,250 of its benchmark are not."""
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
def test_a_change_of_a_row_is_another_benchmark(change: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores of before are refused, and evaluations of before and after are not compared."""
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


def test_a_picture_is_known_by_its_content(here: Path) -> None:
    """Under the same name another picture is another benchmark, and the same one elsewhere is not; without a picture
    nothing is known of the pictures, and the rest is compared."""
    small_benchmark(here / "data")
    copytree(here / "data", here / "copy")

    def fingerprint(folder: str) -> dict[str, str | None]:
        return dict(load_benchmark("vl_rewardbench", overrides=[f"data={folder}/rows.json"]).fingerprint)

    assert fingerprint("data") == fingerprint("copy")
    digests = [
        load_benchmark("vl_rewardbench", overrides=[f"data={each}/rows.json"]).digest for each in ("data", "copy")
    ]
    assert digests[0] == digests[1]
    (here / "copy" / "images" / "0.png").write_bytes((here / "copy" / "images" / "2.png").read_bytes())
    assert changed(fingerprint("data"), fingerprint("copy")) == ["pictures"]
    (here / "copy" / "images" / "0.png").unlink()
    assert fingerprint("copy")["pictures"] is None
    assert changed(fingerprint("data"), fingerprint("copy")) == []


class Counting:
    """In place of a model: every answer scores the number of its group."""

    def __init__(self) -> None:
        self.groups = 0

    def encode(self, group: Any) -> Any:
        """As it is."""
        return group

    def score_encoded(self, groups: Any) -> Any:
        """One group at a time."""
        for group in groups:
            self.groups += 1
            yield [[float(self.groups)] * len(group.responses)]


def test_a_journal_of_a_changed_benchmark_is_begun_anew_and_said(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It names what changed; a journal of the same benchmark is gone on with."""
    file = small_benchmark(here / "data", rows=6)
    journal = here / "partial.jsonl"

    def scored() -> int:
        benchmark = load_benchmark("vl_rewardbench", overrides=["data=data/rows.json"])
        model = Counting()
        of = {"model": "m", "benchmark": benchmark.digest}
        score_items(model, benchmark.items, images=benchmark.store, journal=journal, header=of)  # type: ignore[arg-type]
        return model.groups

    assert scored() == 4
    assert scored() == 0
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([CHANGES["a prompt"](rows[0]), *rows[1:]]))
    caplog.clear()
    assert scored() > 0
    assert "benchmark changed" in caplog.text
