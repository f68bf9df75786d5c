"""Test the table of a model over the benchmarks of a suite: its numbers, its averages, and what is missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.errors import RecipeError
from basereward.evaluation.benchmark import load_benchmark
from basereward.evaluation.judging.run_judge import open_judge
from basereward.evaluation.protocols.rewardbench import RewardBench
from basereward.evaluation.run_benchmark import evaluate
from basereward.evaluation.suite import average, average_of_suites, evaluate_suite
from basereward.recipe.suites import ALL, SuiteMember, suite_members, suite_names
from tests.helpers.chat_servers import serving
from tests.helpers.suites import pictures_benchmark, stored, text_benchmark, write_benchmark

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SHIPPED = {
    "multimodal": {
        *("vl_rewardbench", "mm_rlhf_rewardbench", "multimodal_rewardbench", "multimodal_rewardbench_2"),
        *("mr2bench_image", "mr2bench_video", "omnirewardbench_text", "videorewardbench"),
    },
    "text": {"rewardbench", "rewardbench_2", "rm_bench", "judgebench"},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with a suite of two small benchmarks; a third one has no files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(tmp_path / "own"))
    pictures_benchmark(tmp_path / "own", "pictures", tmp_path / "data", rows=12)
    text_benchmark(tmp_path / "own", "texts", tmp_path / "texts", rows=5)
    protocol = {"_target_": "rewardbench"}
    write_benchmark(
        tmp_path / "own", "gone", path="gone.jsonl", protocol=protocol, headline=["subsets/overall"], expected_items=9
    )
    return tmp_path


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Return the parsed output of `basereward eval --json`."""
    assert main(["eval", *arguments, "--json"]) == 0
    output: dict[str, Any] = json.loads(capsys.readouterr().out)
    return output


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the error message of a refused call."""
    assert main(["eval", *arguments]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("suite", SHIPPED)
def test_shipped_suites(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks of each suite are listed here. Other revisions and parts of the same rows are in none."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(EXPERIMENTS))
    assert {member.benchmark for member in suite_members(suite)} == SHIPPED[suite]
    assert suite_names() == [*SHIPPED, ALL]
    assert len(suite_members(ALL)) == sum(map(len, SHIPPED.values()))


def test_table_equals_single_evaluations(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every variant and metric of every benchmark, and the files of the evaluations, are those of a single call."""
    suite = evaluated(capsys, "longer", "--suite", "mine", "--out", "suite")
    for name in ("pictures", "texts"):
        single = evaluated(capsys, "longer", "--benchmark", name, "--out", "single")
        assert suite[name] == single[name]
        assert stored(here / "suite" / name) == stored(here / "single" / name)
        items = [(here / folder / name / "items.jsonl").read_text() for folder in ("suite", "single")]
        assert items[0] == items[1]
    rows = {row["benchmark"]: row for row in suite["suite"]["rows"]}
    assert rows["pictures"].items() >= suite["pictures"]["official"]["overall"].items()
    # All rows are of one of 23 subsets, so that the mean of four sections has no value and the next headline counts.
    assert (rows["texts"]["variant"], rows["texts"]["numerator"], rows["texts"]["denominator"]) == ("subsets", 5, 5)


def test_average_is_the_mean_of_the_headlines(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Value and baselines are means by hand; the definition names the measures and how many benchmarks are missing."""
    result = evaluated(capsys, "longer", "--suite", "mine")
    (mean,) = result["suite"]["averages"]
    rows = result["suite"]["rows"]
    assert mean["value"] == pytest.approx((rows[0]["value"] + 1.0) / 2)
    assert mean["baselines"]["first"] == pytest.approx((rows[0]["baselines"]["first"] + 1.0) / 2)
    assert mean["of"] == ["pictures official/overall", "texts subsets/overall"]
    assert mean["missing"] == ["gone"]
    assert "1 of its 3 benchmarks" in mean["definition"]
    assert stored_table(here)["averages"] == [mean]


def stored_table(here: Path) -> dict[str, Any]:
    """Return the table that the evaluation of the suite has written."""
    table: dict[str, Any] = json.loads((here / "evaluations" / "longer" / "suite-mine.json").read_text())
    return table


def test_interval_of_the_average() -> None:
    """Half-widths of 3 and 4 points give one of sqrt(3^2 + 4^2) / 2 = 2.5 points, and without one there is none."""
    members = [SuiteMember(name, "text", (("v", "m"),)) for name in "ab"]
    head = {"suite": "text", "variant": "v", "metric": "m", "baselines": {"random": 0.5}}
    rows = [
        {**head, "benchmark": "a", "value": 0.6, "low": 0.57, "high": 0.63},
        {**head, "benchmark": "b", "value": 0.8, "low": 0.76, "high": 0.84},
    ]
    mean = average("text", members, rows)
    assert (mean["value"], mean["low"], mean["high"]) == pytest.approx((0.7, 0.675, 0.725))
    assert average("text", members, [rows[0], {**rows[1], "low": None}])["low"] is None
    assert average("other", members, rows)["value"] is None


def test_suite_of_a_judge(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each evaluation is that of a single call. A second call asks nothing again, unless the judge is asked in another
    way; benchmarks that a judge cannot read are listed."""
    write_benchmark(
        here / "own",
        "videos",
        path=str(here / "texts" / "rows.jsonl"),
        protocol={"_target_": "rewardbench"},
        headline=["subsets/overall"],
        unscored="videos in prompts",
    )
    with serving(lambda body, number: "<answer>1</answer>") as server:
        options = ["--judge", "m", "--endpoint", server.url, "--order", "both"]
        suite = evaluated(capsys, *options, "--suite", "mine", "--out", "suite")
        asked = len(server.asked)
        again = evaluated(capsys, *options, "--suite", "mine", "--out", "suite")
        assert len(server.asked) == asked == 2 * (12 + 5)
        assert again["suite"] == suite["suite"]
        for name in ("pictures", "texts"):
            assert evaluated(capsys, *options, "--benchmark", name, "--out", "single")[name] == suite[name]
        asked = len(server.asked)
        options[-1] = "fixed"
        evaluated(capsys, *options, "--suite", "mine", "--out", "suite")
        assert len(server.asked) == asked + 12 + 5
    assert "videos in prompts" in suite["suite"]["absent"]["videos"]


def test_stored_outcomes_are_counted_anew(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished evaluation is counted by the code of this call: where the protocol counts otherwise than before, its
    files get the new values, and the judge is asked nothing."""
    with serving(lambda body, number: "<answer>1</answer>") as server:
        options = ["--judge", "m", "--endpoint", server.url, "--suite", "mine", "--out", "suite"]
        before = evaluated(capsys, *options)
        asked = len(server.asked)
        counted = RewardBench.variants.fget  # type: ignore[attr-defined]
        double = property(lambda protocol: counted(protocol) | {"again": counted(protocol)["subsets"]})
        monkeypatch.setattr(RewardBench, "variants", double)
        after = evaluated(capsys, *options)
        assert len(server.asked) == asked
    assert after["texts"] == before["texts"] | {"again": before["texts"]["subsets"]}
    assert json.loads((here / "suite" / "texts" / "evaluation.json").read_text())["variants"] == after["texts"]
    assert after["pictures"] == before["pictures"]
    costs = [facts["cost"]["requests"] for facts in after["evaluations"]]
    assert costs == [facts["cost"]["requests"] for facts in before["evaluations"]]


def test_suites_have_the_same_weight_in_all() -> None:
    """The average of 0.9 over two benchmarks and 0.5 over one is 0.7, and there is none if a suite has none."""
    members = [SuiteMember(name, suite, (("v", "m"),)) for name, suite in (("a", "x"), ("b", "x"), ("c", "y"))]
    measure = {"variant": "v", "metric": "m", "baselines": {}, "low": None, "high": None}
    rows = [
        {**measure, "benchmark": member.benchmark, "suite": member.suite, "value": value}
        for member, value in zip(members, (0.8, 1.0, 0.5), strict=True)
    ]
    averages = [average(suite, members, rows) for suite in "xy"]
    assert average_of_suites(averages)["value"] == pytest.approx(0.7)
    assert average_of_suites([averages[0], average("y", members, rows[:2])])["value"] is None


def test_missing_files_are_listed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The others are measured; the reason names the file and how to give it. Given, it is measured as well."""
    assert main(["eval", "longer", "--suite", "mine"]) == 0
    output = capsys.readouterr().out
    assert "not measured: gone: " in output
    assert "gone.jsonl" in output
    assert "gone.data=PATH" in output
    given = ["gone.data=texts/rows.jsonl", "gone.expected_items=5"]
    result = evaluated(capsys, "longer", "--suite", "mine", *given)
    assert result["suite"]["absent"] == {}
    assert [row["benchmark"] for row in result["suite"]["rows"]] == ["gone", "pictures", "texts"]


def test_partial_rows_are_refused_or_marked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five of nine rows: the benchmark is listed with both numbers; --allow-partial measures and marks it."""
    arguments = ["longer", "--suite", "mine", "gone.data=texts/rows.jsonl"]
    assert "9 expected, 5 found" in evaluated(capsys, *arguments)["suite"]["absent"]["gone"]
    assert main(["eval", *arguments, "--allow-partial"]) == 0
    assert "PARTIAL: gone (5 of 9 items)" in capsys.readouterr().out


def test_nothing_to_measure_is_an_error(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message has the reason for each benchmark, and nothing is written."""
    for name in ("pictures", "texts"):
        (here / "own" / "benchmarks" / f"{name}.yaml").unlink()
    message = refused(capsys, "longer", "--suite", "mine")
    assert "gone.jsonl" in message
    assert not (here / "evaluations").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["longer", "--suite", "min"], "did you mean 'mine'"),
        (["longer", "--suite", "mine", "--benchmark", "texts"], "--suite"),
        (["--scores", "mine.jsonl", "--suite", "mine"], "--scores"),
        (["longer", "--suite", "mine", "data=rows.jsonl"], "gone.data=rows.jsonl"),
        (["longer", "--suite", "mine", "texts.pathh=rows.jsonl"], "did you mean 'path'"),
        (["longer", "--suite", "mine", "texts.data=no.jsonl"], "no.jsonl"),
    ],
)
def test_mistakes_are_refused(arguments: list[str], text: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 with what was given and what to do."""
    assert text in refused(capsys, *arguments)


@pytest.mark.parametrize("headline", [None, [], "official/overall", ["official"], ["/overall"], [3]])
def test_suite_needs_a_headline(headline: Any, here: Path) -> None:
    """A benchmark that is in a suite names its measures as a list of VARIANT/METRIC."""
    write_benchmark(here / "own", "wrong", path="x.jsonl", protocol={"_target_": "rewardbench"}, headline=headline)
    with pytest.raises(RecipeError, match=r"'wrong'.*VARIANT/METRIC"):
        suite_members("mine")


def test_headline_that_is_not_counted(here: Path) -> None:
    """The benchmark is listed, and its measures do not appear as another number."""
    text_benchmark(here / "own", "texts", here / "more", rows=5)
    node = {"path": str(here / "more" / "rows.jsonl"), "protocol": {"_target_": "rewardbench"}}
    write_benchmark(here / "own", "texts", **node, headline=["four_sections/overall"])
    result = evaluate_suite("longer", "mine")
    assert "four_sections/overall" in result["suite"]["absent"]["texts"]
    assert [row["benchmark"] for row in result["suite"]["rows"]] == ["pictures"]


@pytest.mark.parametrize("file", sorted((EXPERIMENTS / "benchmarks").glob("*.yaml")), ids=lambda file: file.stem)
def test_headline_names_a_variant(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variant that stands for a shipped benchmark is one of its protocol."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(EXPERIMENTS))
    members = {member.benchmark: member for member in suite_members(ALL)}
    if file.stem in members:
        variants = load_benchmark(file.stem).variants
        assert {variant for variant, _ in members[file.stem].headline} <= set(variants)


def test_suite_of_a_trained_judge(here: Path) -> None:
    """The model itself is asked: its table is in a folder of its own, beside that of its scores."""
    with serving(lambda body, number: "<answer>1</answer>") as server:
        judge = replace(open_judge("m", endpoint=server.url, order="both"), trained=True)
        result = evaluate_suite("longer", "mine", judge=judge)
        assert len(server.asked) == 2 * (12 + 5)
        single = evaluate("longer", ["texts"], judge=judge, out="single")
    assert result["suite"]["out"] == "evaluations/longer/both_1/suite-mine.json"
    assert result["texts"] == single["texts"]
    assert (here / "evaluations" / "longer" / "both_1" / "texts" / "evaluation.json").is_file()
