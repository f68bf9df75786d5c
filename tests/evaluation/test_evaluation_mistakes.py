"""Test mistakes around an evaluation: the message explains them, and nothing is mixed, overwritten or half counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.errors import DataError
from basereward.evaluation.benchmark import load_benchmark, open_pairs
from basereward.evaluation.items import JudgedItem, Outcome, by_prompt
from basereward.evaluation.outcome_files import read_outcomes
from basereward.evaluation.statistics.measures import mean_accuracy
from tests.helpers.benchmark_rows import ANY_SIZE, item, mm_rlhf, small_benchmark, with_correct, write_outcomes
from tests.helpers.support import picture

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with a benchmark of twelve rows."""
    small_benchmark(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(EXPERIMENTS))
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the error message of a refused call."""
    assert main(["eval", *arguments]) == 2
    return capsys.readouterr().err


def scores(path: Path, *, value: float = 1.0) -> Path:
    """Write a file of outcomes for the small benchmark."""
    path.parent.mkdir(exist_ok=True)
    items = load_benchmark("vl_rewardbench", overrides=["data=data/rows.json"]).items
    return write_outcomes(path, items, scores=[[value, 0.0]] * 12)


def test_digest_depends_on_everything_that_affects_a_score(here: Path) -> None:
    """The pictures, their folder and the protocol's arguments change the digest, so that a journal with other values is
    not resumed."""

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


@pytest.mark.parametrize("kind", ["published", "own pairs"])
def test_digest_depends_on_the_pictures_that_are_there(here: Path, kind: str) -> None:
    """One of two images is missing: another content of the other one, under the same name, is another digest."""
    file = here / "two.png"
    rows = [
        {"id": str(number), "prompt": "?", "chosen": "a", "rejected": "b", "image": name}
        for number, name in enumerate(("two.png", "not_there.png"))
    ]
    (here / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    digests: list[str] = []
    for number in (1, 2, 1):
        picture(number).save(file)
        if kind == "published":
            overrides = ["data=two.jsonl", f"images={here}"]
            digests.append(load_benchmark("mm_rlhf_rewardbench", overrides=overrides).digest)
        else:
            digests.append(open_pairs("two.jsonl").digest)
    assert digests[0] == digests[2] != digests[1]


def unseen_files(folder: Path, *, row: dict[str, Any]) -> Path:
    """Write five rows of a layout that no benchmark has, among 40 films."""
    (folder / "clips").mkdir(parents=True)
    for number in range(40):
        (folder / "clips" / f"{number:02}.mp4").write_bytes(b"film")
    (folder / "rows_v2.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(5)))
    return folder


def test_files_and_columns_of_other_names_are_found_step_by_step(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each message names the files or the columns that there are, and the keys to set, until the rows are read. The
    videos are never left out, as they would be if their column were not needed."""
    row = {"query": "Who?", "candidates": ["a", "b", "c", "d"], "ranks": [1, 2, 3, 4], "media": "clips/01.mp4"}
    folder = unseen_files(here / "mr2", row=row)
    command = ["longer", "--benchmark", "mr2bench_video", f"data={folder}"]
    message = refused(capsys, *command)
    assert "Files found: rows_v2.jsonl, clips/00.mp4" in message
    assert "Set `files`" in message
    command.append("files=rows_v2.jsonl")
    message = refused(capsys, *command)
    assert "Columns found: query, candidates, ranks, media" in message
    assert "columns.prompt=NAME columns.responses=NAME columns.rankings=NAME columns.video=NAME" in message
    command += ["columns.prompt=query", "columns.responses=candidates", "columns.rankings=ranks"]
    assert "missing or empty: video" in refused(capsys, *command)
    assert main(["eval", *command, "columns.video=media"]) == 0
    benchmark = load_benchmark("mr2bench_video", overrides=[*command[3:], "columns.video=media"])
    assert {item.videos for item in benchmark.items} == {("clips/01.mp4",)}


def test_splits_and_columns_of_other_names_are_found_step_by_step(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As above, for a benchmark without names of files: messages name the splits, the columns and the categories."""
    row = {"question": "Who?", "a": "Ann", "b": "Bob", "clip": "clips/01.mp4", "dimension": "Knowledge"}
    folder = unseen_files(here / "vrb", row=row)
    command = ["longer", "--benchmark", "videorewardbench", f"data={folder}", "--allow-partial"]
    message = refused(capsys, *command)
    assert "Allowed: train. Set `split`" in message
    command.append("split=train")
    names = {"prompt": "question", "chosen": "a", "rejected": "b", "video": "clip", "category": "dimension"}
    message = refused(capsys, *command)
    assert all(f"columns.{name}=NAME" in message for name in names)
    command += [f"columns.{name}={column}" for name, column in names.items()]
    assert "protocol.categories={NAME: long_perception}" in refused(capsys, *command)
    assert main(["eval", *command, "protocol.categories={Knowledge: knowledge}"]) == 0


def test_acc_plus_leaves_out_incomplete_prompts(real_rows: Path) -> None:
    """With only the first pair of each prompt, Acc+ is 0 of 0; with one pair missing, that prompt is left out."""
    benchmark = mm_rlhf(real_rows)
    judged = [JudgedItem(benchmark_item, Outcome(correct=True)) for benchmark_item in benchmark.items]
    groups = list(by_prompt(judged).values())
    first_pairs = benchmark.variants["published"]([group[0] for group in groups])
    assert (first_pairs["acc"].numerator, first_pairs["acc_plus"].denominator) == (46, 0)
    without_one = benchmark.variants["published"](judged[1:])
    assert (without_one["acc_plus"].numerator, without_one["acc_plus"].denominator) == (45, 45)


def test_macro_needs_every_category() -> None:
    """With an empty category the mean is 0 of 0, not the mean of the other categories."""
    judged = with_correct([item(0), item(1)], [True, False])
    measure = mean_accuracy({"a": judged, "b": []})
    assert (measure.numerator, measure.denominator) == (0, 0)


@pytest.mark.parametrize("name", ["v1.json #2.json", "a: b.json", "[1].json", "null"])
def test_path_is_not_parsed_as_yaml(name: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Paths with characters that are special in YAML are read as plain paths."""
    rows = json.loads((here / "data" / "rows.json").read_text())
    target = here / "data" / name
    if name == "null":
        target.mkdir()
        target = target / "rows.json"
    target.write_text(json.dumps(rows[:5]))
    assert len(load_benchmark("vl_rewardbench", overrides=[f"data={target}"]).items) == 5


def test_missing_path_is_not_a_hub_name(capsys: pytest.CaptureFixture[str]) -> None:
    """The message says that the file does not exist."""
    message = refused(capsys, "longer", "--benchmark", "vl_rewardbench", "data=nope.json")
    assert "data=nope.json: there is no such file or folder" in message


@pytest.mark.parametrize(
    ("override", "name"), [("columns.chosen=better", "better (columns.chosen)"), ("columns.id=key", "the column key")]
)
def test_mapped_column_that_is_absent_is_named(
    override: str, name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A needed column as well as an optional one, with the columns that there are."""
    row = {"prompt": "?", "chosen": "a", "rejected": "b", "subset": "donotanswer"}
    (here / "rows.jsonl").write_text(json.dumps(row) + "\n")
    message = refused(capsys, "longer", "--benchmark", "rewardbench", "data=rows.jsonl", override, "--allow-partial")
    assert name in message
    assert "Columns found: prompt, chosen, rejected, subset" in message


def test_evaluation_of_another_model_is_not_overwritten(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two score files with one name, the second needs --name; the first may be evaluated again."""
    first, second = scores(here / "a" / "scores.jsonl"), scores(here / "b" / "scores.jsonl", value=-1.0)
    options = ["--benchmark", "vl_rewardbench", "data=data/rows.json", *ANY_SIZE]
    assert main(["eval", "--scores", str(first), *options]) == 0
    message = refused(capsys, "--scores", str(second), *options)
    assert "a/scores.jsonl" in message
    assert "--name" in message
    assert main(["eval", "--scores", str(first), *options]) == 0
    assert main(["eval", "--scores", str(second), "--name", "two", *options]) == 0
    assert {path.name for path in (here / "evaluations").iterdir()} == {"scores", "two"}


def test_scores_file_with_two_benchmarks_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The call is refused before anything is written."""
    file = str(scores(here / "mine.jsonl"))
    message = refused(capsys, "--scores", file, "--benchmark", "vl_rewardbench", "--benchmark", "mm_rlhf_rewardbench")
    assert "give one" in message
    assert not (here / "evaluations").exists()


def test_invalid_second_benchmark_stops_before_the_first(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every row of every benchmark is read before anything is written."""
    (here / "bad.jsonl").write_text('{"id": "1", "prompt": "?", "chosen": 5, "rejected": "b", "image": "long/1.png"}')
    benchmarks = ["--benchmark", "vl_rewardbench", "--benchmark", "mm_rlhf_rewardbench"]
    overrides = [f"vl_rewardbench.{override}" for override in ANY_SIZE]
    overrides += ["vl_rewardbench.data=data/rows.json", "mm_rlhf_rewardbench.data=bad.jsonl"]
    assert "an answer is 5 (int); text is needed" in refused(capsys, "longer", *benchmarks, *overrides)
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
def test_invalid_benchmark_row_is_named(fault: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message has the file, the reason and what is needed; the whole benchmark is refused."""
    file = here / "data" / "rows.json"
    rows = json.loads(file.read_text())
    rows[4] |= BAD[fault]
    file.write_text(json.dumps(rows))
    message = refused(capsys, "longer", "--benchmark", "vl_rewardbench", f"data={file}")
    assert "wrong_type" in message
    assert "needed" in message
    assert "rows.json" in message


@pytest.mark.parametrize("out", ["taken", "/proc/none", "taken/below"])
def test_unwritable_output_is_refused(out: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The output is an existing file, or a folder where nobody may write."""
    (here / "taken").write_text("")
    message = refused(capsys, "longer", "--benchmark", "vl_rewardbench", "data=data/rows.json", *ANY_SIZE, "--out", out)
    assert "cannot be written" in message


@pytest.mark.parametrize("name", ["../away", "a/b", "", " ", "..", ".", "a\nb", "a" * 300])
def test_name_that_is_no_folder_name_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--name becomes the name of a folder."""
    message = refused(capsys, "longer", "--benchmark", "vl_rewardbench", "data=data/rows.json", "--name", name)
    assert "--name" in message


def test_undecided_votes_are_reported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without any vote the official variant is 0 of 0 with twelve undecided items, and it is not absent."""
    items = load_benchmark("vl_rewardbench", overrides=["data=data/rows.json"]).items
    write_outcomes(here / "none.jsonl", items, verdicts=[[None]] * 12)
    arguments = ["--scores", "none.jsonl", "--benchmark", "vl_rewardbench", "data=data/rows.json", *ANY_SIZE, "--json"]
    assert main(["eval", *arguments]) == 0
    measure = json.loads(capsys.readouterr().out)["vl_rewardbench"]["official"]["overall"]
    assert (measure["value"], measure["denominator"], measure["undecided"]) == (None, 0, 12)


def test_score_too_large_for_a_float_is_refused(here: Path) -> None:
    """It is refused like a score that is not finite."""
    items = load_benchmark("vl_rewardbench", overrides=["data=data/rows.json"]).items
    file = write_outcomes(here / "large.jsonl", items, scores=[[10**400, 0]] * 12)
    with pytest.raises(DataError, match="finite numbers"):
        read_outcomes(file, items)
