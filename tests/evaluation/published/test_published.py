"""Test the published tables: every shipped file loads, corrections follow from arithmetic, and an invalid file is
refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from basereward.errors import DataError
from basereward.evaluation.benchmark import load_benchmark
from basereward.evaluation.published.published import PublishedValue, every_value, published
from basereward.evaluation.published.published_file import read_table
from basereward.evaluation.published.published_value import UNKNOWN

FOLDER = Path(__file__).resolve().parents[3] / "experiments" / "published"
SIZES = {  # pairs of Multimodal RewardBench
    "correctness": 623,
    "preference": 654,
    "knowledge": 630,
    "math": 514,
    "coding": 584,
    "safety": 508,
    "vqa": 1198,
}
GOOD = """\
paper: {title: A paper, arxiv: null, table: "1", year: 2025}
columns:
  general: {benchmark: vl_rewardbench, variant: official, metric: general}
  reasoning: {benchmark: vl_rewardbench, variant: official, metric: reasoning}
rows:
  A: [50.0, 25.0]
  B: [10.0, null]
"""


@pytest.fixture(scope="module")
def shipped() -> list[PublishedValue]:
    """Return the values of all files that the project ships."""
    return every_value(FOLDER)


def find(values: list[PublishedValue], **fields: Any) -> list[PublishedValue]:
    """Return the values with these fields."""
    return [value for value in values if all(getattr(value, key) == expected for key, expected in fields.items())]


def one(values: list[PublishedValue], **fields: Any) -> PublishedValue:
    """Return the only value with these fields."""
    matches = find(values, **fields)
    assert len(matches) == 1, (fields, matches)
    return matches[0]


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_file_loads_and_names_its_source(file: Path) -> None:
    """All values are shares, and after the line for editors a summary and the source stand."""
    values = read_table(file)
    assert values
    assert all(0 <= value.value <= 1 for value in values)
    _, first, second = file.read_text().splitlines()[:3]
    assert first.startswith("# ")
    assert second.startswith("# From ")


@pytest.mark.parametrize("number", [1, 2, 4, 5, 6, 7, 8, 9, 10])
def test_every_table_of_the_paper_is_shipped(shipped: list[PublishedValue], number: int) -> None:
    """Every results table of BaseReward is a file of its own."""
    table_values = [value for value in find(shipped, table=f"Table {number}") if "2509.16127" in value.paper]
    assert table_values
    assert set(table_values) == set(read_table(FOLDER / f"basereward_table_{number}.yaml"))


@pytest.mark.parametrize(
    ("table", "model", "variant", "metric", "count", "percent"),
    [
        ("Table 9", "BaseReward (Qwen2.5-VL)", "r1_reward", "overall", (1027, 1250), "82.16"),
        ("Table 9", "BaseReward (Qwen2-VL)", "r1_reward_dedupe_by_id", "overall", (962, 1225), "78.53"),
        ("Table 9", "BaseReward (Ensemble)", "r1_reward_dedupe_by_id", "overall", (1034, 1225), "84.41"),
        ("Table 9", "R1-Reward 7B", "r1_reward", "overall", (899, 1250), "71.92"),
        ("Table 9", "R1-Reward 7B", "r1_reward", "general", (309, 484), "63.84"),
        ("Table 9", "R1-Reward 7B", "r1_reward", "hallucination", (384, 448), "85.71"),
        ("Table 9", "R1-Reward 7B", "r1_reward", "reasoning", (206, 318), "64.78"),
        ("Table 8", "BaseReward (Qwen2.5-VL)", "published", "acc", (156, 170), "91.76"),
        ("Table 8", "BaseReward (Qwen2.5-VL)", "published", "acc_plus", (37, 46), "80.43"),
        ("Table 8", "BaseReward (Ensemble)", "published", "acc", (158, 170), "92.94"),
    ],
)
def test_counts_give_the_printed_percentages(
    shipped: list[PublishedValue],
    table: str,
    model: str,
    variant: str,
    metric: str,
    count: tuple[int, int],
    percent: str,
) -> None:
    """The share of right items with two decimals is the printed number."""
    value = one(shipped, table=table, model=model, variant=variant, metric=metric)
    assert value.count == count
    assert value.value == count[0] / count[1]
    assert f"{100 * value.value:.2f}" == f"{value.printed:.2f}" == percent


@pytest.mark.parametrize(
    ("model", "variant", "general", "hallucination", "reasoning"),
    [
        ("BaseReward (Qwen2.5-VL)", "r1_reward", (396, 484), (413, 448), (218, 318)),
        ("BaseReward (Qwen2-VL)", "r1_reward_dedupe_by_id", (400, 484), (380, 448), (182, 293)),
        ("BaseReward (Ensemble)", "r1_reward_dedupe_by_id", (413, 484), (411, 448), (210, 293)),
    ],
)
def test_swapped_columns_are_corrected(
    shipped: list[PublishedValue],
    model: str,
    variant: str,
    general: tuple[int, int],
    hallucination: tuple[int, int],
    reasoning: tuple[int, int],
) -> None:
    """General and Reasoning are exchanged, and the three categories give Overall and Macro."""
    row = {value.metric: value for value in find(shipped, table="Table 9", model=model, variant=variant)}
    counts = {"general": general, "hallucination": hallucination, "reasoning": reasoning}
    assert {metric: row[metric].count for metric in counts} == counts
    assert row["general"].corrected
    assert row["reasoning"].note is not None
    assert "swapped" in row["reasoning"].note
    overall = tuple(map(sum, zip(*counts.values(), strict=True)))
    assert row["overall"].count == overall
    macro = sum(right / total for right, total in counts.values()) / 3
    assert row["macro"].value == pytest.approx(macro, abs=0.5e-4)


def test_value_is_not_assigned_to_another_variant(shipped: list[PublishedValue]) -> None:
    """BaseReward's categories are not the official ones; only values that are equal in every scheme have the official
    variant."""
    rows = [value for value in find(shipped, table="Table 9") if value.model.startswith("BaseReward")]
    official = [value for value in rows if value.variant.startswith("official")]
    assert {value.metric for value in official} == {"overall", "reasoning"}
    single = {value.metric: value.count for value in official if value.variant == "official"}
    assert single == {"overall": (1027, 1250), "reasoning": (218, 318)}
    assert not find(rows, variant="official", model="BaseReward (Ensemble)")  # its values are over 1,225 pairs only
    assert not find(shipped, table="Table 9", model="R1-Reward 7B", variant="official")
    assert not find(shipped, table="Table 9", model="GPT-4o", variant="r1_reward")


def test_misprints_are_corrected_and_printed_values_kept(shipped: list[PublishedValue]) -> None:
    """Table 8 prints 95.74 for 40 of 42; its five categories add up to Acc."""
    row = {value.metric: value for value in find(shipped, table="Table 8", model="BaseReward (Qwen2.5-VL)")}
    mcq = row["mcq"]
    assert (mcq.printed, round(100 * mcq.value, 2), mcq.corrected) == (95.74, 95.24, True)
    assert (row["video"].printed, row["video"].corrected) == (88.0, False)
    counts = [row[metric].count for metric in ("mcq", "long", "short", "safety", "video")]
    assert tuple(map(sum, zip(*(count for count in counts if count), strict=True))) == row["acc"].count == (156, 170)


def test_both_overall_values_follow_from_the_columns(shipped: list[PublishedValue]) -> None:
    """All twelve rows of Table 10 have an Overall over pairs and one over columns, equal to the printed decimal."""
    table_values = find(shipped, table="Table 10")
    models = {value.model for value in table_values}
    assert len(models) == 12
    for model in models:
        row = {(value.variant, value.metric): value.value for value in find(table_values, model=model)}
        micro = sum(size * row["micro", metric] for metric, size in SIZES.items()) / sum(SIZES.values())
        mean = sum(row["seven_column_mean", metric] for metric in SIZES) / len(SIZES)
        assert row["micro", "overall"] == pytest.approx(micro, abs=0.000501), model
        assert row["seven_column_mean", "overall"] == pytest.approx(mean, abs=0.000501), model


def test_macro_is_the_mean_of_the_three_categories(shipped: list[PublishedValue]) -> None:
    """This holds for every row with a known variant and all four values."""
    rows: dict[tuple[str, str, str, str], dict[str, float]] = {}
    for value in find(shipped, benchmark="vl_rewardbench"):
        if value.variant != UNKNOWN:
            rows.setdefault((value.paper, value.table, value.model, value.variant), {})[value.metric] = value.value
    complete_rows = {
        key: row for key, row in rows.items() if {"general", "hallucination", "reasoning", "macro"} <= row.keys()
    }
    assert len(complete_rows) > 40
    deviating = {
        model
        for (_, _, model, _), row in complete_rows.items()
        if abs(row["macro"] - (row["general"] + row["hallucination"] + row["reasoning"]) / 3) > 0.00101
    }
    assert deviating == set()


@pytest.mark.parametrize(
    ("file", "average", "columns"),
    [
        ("basereward_table_1", "overall", 2),
        ("basereward_table_6", "multimodal", 4),
        ("basereward_table_7", "multimodal", 3),
        ("basereward_table_7", "text", 2),
    ],
)
def test_average_over_benchmarks_is_the_mean_of_its_columns(file: str, average: str, columns: int) -> None:
    """The printed average is the mean of two, three or four printed columns, to the printed decimal."""
    values = read_table(FOLDER / f"{file}.yaml")
    averaged_columns = {
        "overall": [("multimodal_rewardbench", "overall"), ("vl_rewardbench", "macro")],
        "multimodal": [
            ("vl_rewardbench", "overall"),
            ("mm_rlhf_rewardbench", "acc"),
            ("mm_rlhf_rewardbench", "acc_plus"),
            ("multimodal_rewardbench", "overall"),
        ],
        "text": [("rewardbench", "overall"), ("rm_bench", "overall")],
    }[average]
    for mean in find(values, benchmark="mean_of_benchmarks", metric=average):
        column_values = [
            value.value
            for benchmark, metric in averaged_columns
            for value in find(values, model=mean.model, benchmark=benchmark, metric=metric)
        ]
        assert len(column_values) == columns
        assert mean.value == pytest.approx(sum(column_values) / columns, abs=0.000501), mean.model
        assert mean.variant == {2: "two_columns", 3: "three_columns", 4: "four_columns"}[columns]


VIDEO_SIZES = {"long_perception": 283, "short_perception": 413, "knowledge": 238, "reasoning": 278, "safety": 351}


def test_videorewardbench_overall_is_over_all_pairs(shipped: list[PublishedValue]) -> None:
    """In all 18 rows the counts of the five categories add up to the count of the printed overall value."""
    values = find(shipped, benchmark="videorewardbench", variant="micro")
    models = dict.fromkeys(value.model for value in values)
    assert len(models) == 18
    for model in models:
        row = {value.metric: value.count for value in find(values, model=model)}
        assert {name: (row[name] or (0, 0))[1] for name in VIDEO_SIZES} == VIDEO_SIZES
        assert (row["overall"] or (0, 0))[0] == sum((row[name] or (0, 0))[0] for name in VIDEO_SIZES), model


def test_one_model_has_values_of_two_protocols(shipped: list[PublishedValue]) -> None:
    """VideoRewardBench in its own paper and as YOJO ran it: two variants, and none of both is in the other's list."""
    for model, percents in {"R1-Reward": (39.0, 61.2), "Skywork-VL-Reward": (60.5, 62.9)}.items():
        values = [
            one(shipped, benchmark="videorewardbench", variant=variant, metric="overall", model=model)
            for variant in ("micro", "yojo")
        ]
        assert tuple(value.printed for value in values) == percents
        assert len({value.paper for value in values}) == 2
    papers = {value.paper for value in published("videorewardbench", "micro", folder=FOLDER)}
    assert not [paper for paper in papers if "YOJO" in paper]


def test_average_of_yojo_is_the_mean_of_its_six_columns() -> None:
    """This holds for all sixteen rows, to the printed decimal."""
    values = read_table(FOLDER / "yojo.yaml")
    means = find(values, benchmark="mean_of_benchmarks")
    assert len(means) == 16
    for mean in means:
        columns = [value.value for value in find(values, model=mean.model) if value != mean]
        assert len(columns) == 6
        assert mean.value == pytest.approx(sum(columns) / 6, abs=0.001001), mean.model


def test_mmrb2_average_is_not_beside_its_reasoning_task(shipped: list[PublishedValue]) -> None:
    """The average of the four tasks belongs to the pooled benchmark, and each task to its own."""
    row = {value.benchmark: value.printed for value in find(shipped, model="GPT-5", variant="both_orders")}
    name = "multimodal_rewardbench_2"
    assert row[name] == 70.2
    assert row[f"{name}_pooled"] == 72.2
    assert row[f"{name}_t2i"] == 70.5


def test_omnirewardbench_overall_is_the_mean_of_the_tasks(shipped: list[PublishedValue]) -> None:
    """Of all nine in one row; the others are means of the seven tasks that they can read, and have no known variant."""
    values = find(shipped, benchmark="omnirewardbench")
    for model in dict.fromkeys(value.model for value in values):
        row = find(values, model=model)
        tasks = [value.value for value in row if value.variant == "with_ties" and value.metric != "overall"]
        (overall,) = [value for value in row if value.metric == "overall" and value.variant != "without_ties"]
        assert overall.value == pytest.approx(sum(tasks) / len(tasks), abs=0.5e-4), model
        assert overall.variant == ("with_ties" if len(tasks) == 9 else UNKNOWN)


def test_revision_of_1247_pairs_is_a_benchmark_of_its_own(shipped: list[PublishedValue]) -> None:
    """The categories of JEV-27B-VL add up to 1,247, and no value over 1,247 pairs is filed under the 1,250."""
    row = {value.metric: value.count or (0, 0) for value in find(shipped, model="JEV-27B-VL")}
    categories = [row[name] for name in ("general", "hallucination", "reasoning")]
    assert tuple(map(sum, zip(*categories, strict=True))) == row["overall"] == (976, 1247)
    values = [value for value in shipped if value.benchmark == "vl_rewardbench"]
    assert not [value for value in values if value.count is not None and value.count[1] == 1247]
    assert not [value for value in values if value.model.startswith(("JEV", "DT2IT"))]


def test_variants_are_those_of_the_protocols(shipped: list[PublishedValue], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other variant is in the list of those that no evaluation of ours has."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(FOLDER.parent))
    for benchmark in sorted({value.benchmark for value in shipped} - {"mean_of_benchmarks"}):
        variants = {value.variant for value in shipped if value.benchmark == benchmark}
        of_others = {"yojo"} if benchmark == "videorewardbench" else set()
        assert variants - of_others - {UNKNOWN} <= set(load_benchmark(benchmark).variants), benchmark


def test_unknown_variant_has_a_note(shipped: list[PublishedValue]) -> None:
    """Every value whose variant the table does not give has the variant `unknown` and a note with the reason."""
    unknown = find(shipped, variant=UNKNOWN)
    assert unknown
    assert [value for value in unknown if not value.note] == []


def test_published_selects_by_metric() -> None:
    """Benchmark, variant and metric select the values; without a metric all metrics are returned."""
    overall = published("vl_rewardbench", "r1_reward", "overall", folder=FOLDER)
    all_metrics = published("vl_rewardbench", "r1_reward", folder=FOLDER)
    assert {value.metric for value in overall} == {"overall"}
    assert {(value.benchmark, value.variant) for value in all_metrics} == {("vl_rewardbench", "r1_reward")}
    assert [value for value in all_metrics if value.metric == "overall"] == overall


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("vl_rewardbnch", "official"), "unknown benchmark 'vl_rewardbnch'; did you mean 'vl_rewardbench'?"),
        (("rm_bench", "domain_men"), "unknown variant of rm_bench 'domain_men'; did you mean 'domain_mean'?"),
        (("rm_bench", "domain_mean", "hrd"), "unknown metric of rm_bench 'hrd'; did you mean 'hard'?"),
    ],
)
def test_unknown_name_has_a_suggestion(names: tuple[str, ...], message: str) -> None:
    """The message suggests the nearest known name."""
    with pytest.raises(DataError) as error:
        published(*names, folder=FOLDER)
    assert message in str(error.value)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    """An empty list would say that nothing is published."""
    with pytest.raises(DataError, match=str(tmp_path / "none")):
        every_value(tmp_path / "none")


def test_empty_cell_has_no_value(tmp_path: Path) -> None:
    """A null cell is left out; it is not zero."""
    (tmp_path / "good.yaml").write_text(GOOD)
    assert [(value.model, value.metric, value.value) for value in every_value(tmp_path)] == [
        ("A", "general", 0.5),
        ("A", "reasoning", 0.25),
        ("B", "general", 0.1),
    ]


WRONG = [
    ("notes: x", "the file: unknown key 'notes'; did you mean 'note'?"),
    ("counts: {C: {general: [1, 2]}}", "counts: unknown row 'C'. Allowed: A, B."),
    ("counts: {A: {generals: [1, 2]}}", "counts: unknown column 'generals'; did you mean 'general'?"),
    ("counts: {A: {general: [1, 3]}}", "1/3 is 33.33, 50.0 is printed"),
    ("counts: {A: {general: [3, 2]}}", "'general' of 'A': a count is [right, all] items, [3, 2]"),
    ("counts: {A: {general: [0, 0]}}", "[0, 0]"),
    ("row_notes: {C: x}", "row_notes: unknown row 'C'"),
    ("corrections: [{rows: [C], cells: {general: {value: 1}}, why: x}]", "corrections[0]: unknown row 'C'"),
    ("corrections: [{rows: [A], cells: {x: {value: 1}}, why: x}]", "corrections[0]: unknown column 'x'"),
    ("corrections: [{rows: [B], cells: {reasoning: {value: 1}}, why: x}]", "'reasoning' of 'B' is empty in the table"),
    ("corrections: [{rows: [A], cells: {general: {value: 101}}, why: x}]", "101.0"),
    ("corrections: [{rows: [A], cells: {general: {}}, why: x}]", "nothing is changed"),
    ("corrections: [{rows: [A], cells: {general: {value: 1, count: [1, 2]}}, why: x}]", "value or count, not both"),
    ("corrections: [{rows: [A], cells: {general: {value: 1}}}]", "the key 'why' is missing"),
    ("corrections: [{rows: [A], cells: {general: {values: 1}}, why: x}]", "did you mean 'value'?"),
    ("corrections: [{rows: [A], cells: {general: {variant: ofical}}, why: x}]", "did you mean 'official'?"),
    (
        "corrections: [{rows: [A, A], cells: {general: {value: 1}}, why: x}]",
        "'general' of 'A' appears in corrections twice",
    ),
    ("corrections: [{rows: [A], cells: {general: {metric: reasoning}}, why: x}]", "two values for reasoning"),
]


@pytest.mark.parametrize(("added", "message"), WRONG, ids=[added[:60] for added, _ in WRONG])
def test_invalid_addition_is_refused(tmp_path: Path, added: str, message: str) -> None:
    """The message names the file and the fault."""
    file = tmp_path / "bad.yaml"
    file.write_text(GOOD + added)
    with pytest.raises(DataError) as error:
        read_table(file)
    assert str(error.value).startswith(f"{file}: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("50.0", "150.0", "row 'A': 150.0"),
        ("50.0", "-1", "row 'A': -1.0"),
        ("50.0", ".nan", "row 'A': nan"),
        ("50.0", "half", "rows"),
        ("50.0, ", "", "row 'A' has 1 values for 2 columns; write null for none"),
        ("metric: general", "metric: generals", "unknown metric of vl_rewardbench 'generals'"),
        ("variant: official, metric: general", "metric: general", "columns.general: the key 'variant' is missing"),
        ("year: 2025", "yearr: 2025", "paper: unknown key 'yearr'; did you mean 'year'?"),
        ("rows:", "{", "not valid YAML"),
    ],
)
def test_invalid_table_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    """An invalid value in the required part of a file is an error."""
    file = tmp_path / "bad.yaml"
    file.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(DataError) as error:
        read_table(file)
    assert message in str(error.value)


def test_all_faults_of_all_files_are_listed(tmp_path: Path) -> None:
    """Two faults in one file and one in another give three lines."""
    (tmp_path / "one.yaml").write_text(GOOD.replace("50.0", "150.0").replace("metric: general", "metric: x"))
    (tmp_path / "two.yaml").write_text(GOOD.replace("25.0", "-3"))
    with pytest.raises(DataError) as error:
        every_value(tmp_path)
    assert [line.split(": ")[0] for line in str(error.value).splitlines()] == [
        str(tmp_path / "one.yaml"),
        str(tmp_path / "one.yaml"),
        str(tmp_path / "two.yaml"),
    ]
