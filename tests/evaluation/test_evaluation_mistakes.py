"""Mistakes around an evaluation: told in a sentence, and never mixed, overwritten or half counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.errors import DataError
from basereward.evaluation.benchmark import load_benchmark
from basereward.evaluation.items import JudgedItem, Outcome, by_prompt
from basereward.evaluation.outcome_files import read_outcomes
from basereward.evaluation.statistics.measures import mean_accuracy
from tests.helpers.benchmark_rows import ANY_SIZE, item, mm_rlhf, small_benchmark, with_correct, write_outcomes

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a benchmark of twelve rows."""
    small_benchmark(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(EXPERIMENTS))
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *given: str) -> str:
    """What a refused call says."""
    assert main(["eval", *given]) == 2
    return capsys.readouterr().err


def scores(path: Path, *, value: float = 1.0) -> Path:
    """A file of outcomes for the benchmark here."""
    path.parent.mkdir(exist_ok=True)
    items = load_benchmark("vl_rewardbench", overrides=["data=data/rows.json"]).items
    return write_outcomes(path, items, scores=[[value, 0.0]] * 12)


def test_the_digest_knows_all_that_decides_on_a_score(here: Path) -> None:
    """Pictures, where they are looked for, and the protocol's arguments: a journal made with others is not gone on."""

    def digest(*overrides: str, name: str = "vl_rewardbench") -> str:
        return load_benchmark(name, overrides=overrides).digest

    base = digest("data=data/rows.json")
    assert base == digest("data=data/rows.json")
    assert base != digest("data=data/rows.json", f"images={here}")
    rows = json.loads((here / "data" / "rows.json").read_text())
    (here / "data" / "other.json").write_text(json.dumps([{**row, "image": "images/0.png"} for row in rows]))
    assert base != digest("data=data/other.json")
    pair = {"id": "1", "prompt": "?", "chosen": "a", "rejected": "b", "image": "long/1.png"}
    (here / "mm.jsonl").write_text(json.dumps(pair))
    frames = [digest("data=mm.jsonl", f"protocol.frames={n}", name="mm_rlhf_rewardbench") for n in (4, 32)]
    assert frames[0] != frames[1]


def test_acc_plus_leaves_out_prompts_that_are_not_whole(real_rows: Path) -> None:
    """With the first pair of each prompt alone nothing is known of the prompts that have more: 0 of 0."""
    benchmark = mm_rlhf(real_rows)
    judged = [JudgedItem(each, Outcome(correct=True)) for each in benchmark.items]
    groups = list(by_prompt(judged).values())
    first = benchmark.variants["published"]([group[0] for group in groups])
    assert (first["acc"].numerator, first["acc_plus"].denominator) == (46, 0)
    without_one = benchmark.variants["published"](judged[1:])
    assert (without_one["acc_plus"].numerator, without_one["acc_plus"].denominator) == (45, 45)


def test_a_mean_of_categories_needs_all_of_them() -> None:
    """Without a category there is no macro, rather than a mean of the others."""
    judged = with_correct([item(0), item(1)], [True, False])
    measure = mean_accuracy({"a": judged, "b": []})
    assert (measure.numerator, measure.denominator) == (0, 0)


@pytest.mark.parametrize("name", ["v1.json #2.json", "a: b.json", "[1].json", "null"])
def test_a_path_is_taken_as_it_is(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever YAML would make of its letters."""
    rows = json.loads((here / "data" / "rows.json").read_text())
    target = here / "data" / name
    if name == "null":
        target.mkdir()
        target = target / "rows.json"
    target.write_text(json.dumps(rows[:5]))
    assert len(load_benchmark("vl_rewardbench", overrides=[f"data={target}"]).items) == 5


def test_a_path_to_nothing_is_no_name_on_the_hub(capsys: pytest.CaptureFixture[str]) -> None:
    """The message says that there is no such file."""
    told = refused(capsys, "longer", "--benchmark", "vl_rewardbench", "data=nope.json")
    assert "data=nope.json: there is no such file or folder" in told


def test_another_models_evaluation_is_not_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two files of one name: the second needs a name of its own; the first may be given again."""
    one, two = scores(here / "a" / "scores.jsonl"), scores(here / "b" / "scores.jsonl", value=-1.0)
    rest = ["--benchmark", "vl_rewardbench", "data=data/rows.json", *ANY_SIZE]
    assert main(["eval", "--scores", str(one), *rest]) == 0
    told = refused(capsys, "--scores", str(two), *rest)
    assert "a/scores.jsonl" in told
    assert "--name" in told
    assert main(["eval", "--scores", str(one), *rest]) == 0
    assert main(["eval", "--scores", str(two), "--name", "two", *rest]) == 0
    assert {path.name for path in (here / "evaluations").iterdir()} == {"scores", "two"}


def test_a_file_is_of_one_benchmark(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two benchmarks are refused before anything is counted."""
    file = str(scores(here / "mine.jsonl"))
    told = refused(capsys, "--scores", file, "--benchmark", "vl_rewardbench", "--benchmark", "mm_rlhf_rewardbench")
    assert "give one" in told
    assert not (here / "evaluations").exists()


def test_a_bad_second_benchmark_stops_before_the_first(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every row of every benchmark is read before anything is counted."""
    (here / "bad.jsonl").write_text('{"id": "1", "prompt": "?", "chosen": 5, "rejected": "b", "image": "long/1.png"}')
    both = ["--benchmark", "vl_rewardbench", "--benchmark", "mm_rlhf_rewardbench"]
    where = [f"vl_rewardbench.{each}" for each in ANY_SIZE]
    where += ["vl_rewardbench.data=data/rows.json", "mm_rlhf_rewardbench.data=bad.jsonl"]
    assert "an answer is 5 (int); text is needed" in refused(capsys, "longer", *both, *where)
    assert not (here / "evaluations").exists()


BAD: dict[str, Any] = {
    "a number for ranks": {"human_ranking": 5},
    "a text among ranks": {"human_ranking": [0, "1"]},
    "truths for ranks": {"human_ranking": [True, False]},
    "equal ranks": {"human_ranking": [0, 0]},
    "an answer too few": {"response": ["a"]},
    "no text for an answer": {"response": [None, "x"]},
    "numbers for answers": {"response": [4, 5]},
    "a number for a prompt": {"query": 7},
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_row_of_a_benchmark_is_named(fault: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """File, row and what is needed; a benchmark is counted whole or not at all."""
    file = here / "data" / "rows.json"
    rows = json.loads(file.read_text())
    rows[4] |= BAD[fault]
    file.write_text(json.dumps(rows))
    told = refused(capsys, "longer", "--benchmark", "vl_rewardbench", f"data={file}")
    assert "wrong_type" in told
    assert "needed" in told
    assert "rows.json" in told


@pytest.mark.parametrize("out", ["taken", "/proc/none", "taken/below"])
def test_a_place_that_cannot_be_written_is_told(out: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An existing file, or a folder that nobody may write."""
    (here / "taken").write_text("")
    told = refused(capsys, "longer", "--benchmark", "vl_rewardbench", "data=data/rows.json", *ANY_SIZE, "--out", out)
    assert "cannot be written" in told


@pytest.mark.parametrize("name", ["../away", "a/b", "", " ", "..", ".", "a\nb", "a" * 300])
def test_a_name_is_no_path(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder is called by it."""
    told = refused(capsys, "longer", "--benchmark", "vl_rewardbench", "data=data/rows.json", "--name", name)
    assert "--name: " in told


def test_undecided_votes_stay_in_sight(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With no vote for anything, the official variant is 0 of 0 with twelve undecided, not absent."""
    items = load_benchmark("vl_rewardbench", overrides=["data=data/rows.json"]).items
    write_outcomes(here / "none.jsonl", items, verdicts=[[None]] * 12)
    given = ["--scores", "none.jsonl", "--benchmark", "vl_rewardbench", "data=data/rows.json", *ANY_SIZE, "--json"]
    assert main(["eval", *given]) == 0
    told = json.loads(capsys.readouterr().out)["vl_rewardbench"]["official"]["overall"]
    assert (told["value"], told["denominator"], told["undecided"]) == (None, 0, 12)


def test_a_number_too_large_for_a_float_is_no_score(here: Path) -> None:
    """It is refused like one that is not finite."""
    items = load_benchmark("vl_rewardbench", overrides=["data=data/rows.json"]).items
    file = write_outcomes(here / "large.jsonl", items, scores=[[10**400, 0]] * 12)
    with pytest.raises(DataError, match="finite numbers"):
        read_outcomes(file, items)
