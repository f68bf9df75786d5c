"""Test MMRB2 over its four tasks, VideoRewardBench, MR2Bench and OmniRewardBench on made outcomes with known counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.data.images.image_store import ImageStore
from basereward.errors import DataError, RecipeError
from basereward.evaluation.benchmark import Benchmark, load_benchmark
from basereward.evaluation.items import Item, JudgedItem, Outcome
from basereward.evaluation.outcome_files import read_outcomes
from basereward.evaluation.protocols.mr2bench import MR2Bench
from basereward.evaluation.protocols.multimodal_rewardbench_2 import MultimodalRewardBench2
from basereward.evaluation.protocols.omnirewardbench import TASKS, OmniRewardBench
from basereward.evaluation.protocols.videorewardbench import CATEGORIES, VideoRewardBench
from basereward.evaluation.run_benchmark import check_readable
from basereward.evaluation.scoring import bundles
from basereward.evaluation.statistics.baselines import chance_rounds
from basereward.evaluation.statistics.measures import Measure
from basereward.evaluation.subject import Subject
from tests.fixtures.published.benchmarks import benchmark_rows as rows
from tests.fixtures.published.writing import write_jsonl
from tests.helpers.benchmark_rows import write_outcomes

EXPERIMENTS = Path(__file__).resolve().parents[3] / "experiments"


@pytest.fixture(autouse=True)
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to an empty folder and use the project's benchmarks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(EXPERIMENTS))


def items(protocol: Any, dataset_rows: Sequence[rows.Row]) -> list[Item]:
    """Convert rows to items."""
    return [protocol.item(row, number=number, images=ImageStore()) for number, row in enumerate(dataset_rows)]


def judged(benchmark_items: Sequence[Item], outcomes: Sequence[Outcome]) -> list[JudgedItem]:
    """Attach outcomes to items."""
    return [JudgedItem(*pair) for pair in zip(benchmark_items, outcomes, strict=True)]


def counts(measures: Mapping[str, Measure]) -> dict[str, tuple[float, float]]:
    """Return numerators and denominators by metric."""
    return {name: (measure.numerator, measure.denominator) for name, measure in measures.items()}


# How often the first answer is chosen in each task, which the example of the authors' script prints as accuracies:
# 53.20, 55.50, 57.50 and 47.50, and 53.42 overall.
FIRST = {"t2i": 532, "edit": 555, "interleaved": 575, "reasoning": 475}


def test_mmrb2_pools_its_four_tasks() -> None:
    """A judge that always names answer A has the values that the authors' script prints for it."""
    task_rows = [
        rows.multimodal_rewardbench_2(str(number), chosen="A" if number < first else "B") | {"part": task}
        for task, first in FIRST.items()
        for number in range(1000)
    ]
    benchmark_items = items(MultimodalRewardBench2(), task_rows)
    measures = MultimodalRewardBench2().variants["both_orders"](
        judged(benchmark_items, [Outcome(votes=(0, 0))] * len(benchmark_items))
    )
    assert counts(measures)["overall"] == (2 * sum(FIRST.values()), 8000)
    assert round(100 * measures["overall"].value, 3) == 53.425
    assert {task: counts(measures)[task] for task in FIRST} == {task: (2 * n, 2000) for task, n in FIRST.items()}
    # Ids repeat in the tasks, and each is a prompt of its own.
    assert len({item.prompt_id for item in benchmark_items}) == 4000


def test_mmrb2_is_pooled_over_verdicts_and_not_the_mean_of_tasks() -> None:
    """2 of 2 verdicts in one task and 1 of 4 in another, with two missing: 3 of 6 are right, the mean would be 5/8."""
    task_rows = [
        rows.multimodal_rewardbench_2(name) | {"part": part} for name, part in zip("abcd", "ttee", strict=True)
    ]
    votes: list[tuple[int | None, ...]] = [(0, 0), (None, None), (0, 1), (1, 1)]
    measures = MultimodalRewardBench2().variants["both_orders"](
        judged(items(MultimodalRewardBench2(), task_rows), [Outcome(votes=vote) for vote in votes])
    )
    assert counts(measures)["overall"] == (3, 6)
    assert (counts(measures)["t"], counts(measures)["e"]) == ((2, 2), (1, 4))
    assert measures["overall"].undecided == 2


def test_guess_between_two_pictures_is_a_coin() -> None:
    """Answers without text are two answers: one of two orders is right."""
    row = rows.multimodal_rewardbench_2("1", drawn=True)
    row |= {"response_a_text": "", "response_b_text": "", "response_b_images": ["4.png"]}
    benchmark_items = items(MultimodalRewardBench2(), [row])
    for independent in (True, False):
        rounds = [outcomes[0].scores or () for outcomes in chance_rounds(benchmark_items, independent=independent)]
        assert sorted(scores[0] > scores[1] for scores in rounds) == [False, True]


SIZES = dict(zip(CATEGORIES, (283, 413, 238, 278, 351), strict=True))
VIDEO_RIGHT = {  # right pairs of three models in the paper, and what it prints
    "R1-Reward": ((102, 165, 90, 85, 168), (36.0, 40.0, 37.8, 30.6, 47.9), 39.0),
    "Skywork-VL-Reward": ((186, 203, 126, 150, 281), (65.7, 49.2, 52.9, 54.0, 80.1), 60.5),
    "IXC-2.5-Reward": ((208, 212, 134, 145, 136), (73.5, 51.3, 56.3, 52.2, 38.7), 53.4),
}


@pytest.mark.parametrize("model", VIDEO_RIGHT)
def test_videorewardbench_is_micro(model: str) -> None:
    """The counts give the printed categories and the printed overall value, which is over all 1,563 pairs."""
    right, printed, overall = VIDEO_RIGHT[model]
    video_rows: list[rows.Row] = []
    outcomes: list[Outcome] = []
    for (name, size), count in zip(SIZES.items(), right, strict=True):
        video_rows += [rows.videorewardbench(name, number=number) for number in range(size)]
        outcomes += [Outcome(correct=number < count) for number in range(size)]
    measures = VideoRewardBench().variants["micro"](judged(items(VideoRewardBench(), video_rows), outcomes))
    assert counts(measures)["overall"] == (sum(right), 1563)
    assert round(100 * measures["overall"].value, 1) == overall
    assert tuple(round(100 * measures[name].value, 1) for name in CATEGORIES) == printed
    shares = [count / size for count, size in zip(right, SIZES.values(), strict=True)]
    assert measures["macro"].value == pytest.approx(sum(shares) / 5)


def test_videorewardbench_maps_names_of_categories() -> None:
    """The argument `categories` adds names, and ours stay allowed."""
    protocol = VideoRewardBench(categories={"Perception (long)": "long_perception"})
    names = ["Perception (long)", "safety"]
    labels = [item.labels["category"] for item in items(protocol, [rows.videorewardbench(name) for name in names])]
    assert labels == ["long_perception", "safety"]


@pytest.mark.parametrize(("right", "printed"), [(209, 87.1), (150, 62.5), (108, 45.0)])
def test_mr2bench_counts_the_best_of_four(right: int, printed: float) -> None:
    """Of 240 prompts, those count whose answer of rank 1 has the highest score, whatever the order of the others."""
    ranks = [[1, 2, 3, 4], [4, 3, 2, 1], [3, 1, 4, 2], [2, 4, 1, 3]]
    benchmark_items = items(MR2Bench(), [rows.mr2bench(ranks[number % 4]) for number in range(240)])
    outcomes: list[Outcome] = []
    for number, item in enumerate(benchmark_items):
        top = item.right[0] if number < right else item.wrong[number % 3]
        outcomes.append(Outcome(scores=tuple(9.0 if place == top else -float(place) for place in range(4))))
    measure = MR2Bench().variants["best_of_four"](judged(benchmark_items, outcomes))["overall"]
    assert (measure.numerator, measure.denominator) == (right, 240)
    assert round(100 * measure.value, 1) == printed


@pytest.mark.parametrize(
    ("ranks", "outcome", "right", "ties"),
    [
        pytest.param([1, 1, 3, 4], Outcome(scores=(0.0, 3.0, 2.0, 1.0)), 1, 0, id="one_of_two_best"),
        pytest.param([1, 1, 3, 4], Outcome(scores=(3.0, 3.0, 2.0, 1.0)), 1, 0, id="both_best_share_the_highest"),
        pytest.param([1, 2, 3, 4], Outcome(scores=(3.0, 3.0, 2.0, 1.0)), 0, 1, id="shared_with_a_worse_one"),
        pytest.param([1, 1, 3, 4], Outcome(scores=(1.0, 0.0, 3.0, 2.0)), 0, 0, id="worse_one"),
        pytest.param([2, 1, 1, 4], Outcome(votes=(2,)), 1, 0, id="verdict_for_a_best_one"),
        pytest.param([2, 1, 1, 4], Outcome(votes=(3, 3, 1)), 0, 0, id="majority_for_a_worse_one"),
    ],
)
def test_mr2bench_with_shared_ranks_and_scores(ranks: list[int], outcome: Outcome, right: int, ties: int) -> None:
    """One of several best answers is enough; a highest score that a worse answer shares is wrong."""
    measure = MR2Bench().variants["best_of_four"](judged(items(MR2Bench(), [rows.mr2bench(ranks)]), [outcome]))
    assert (measure["overall"].numerator, measure["overall"].ties) == (right, ties)


def omni_items(*preferences: tuple[str, str]) -> list[Item]:
    """Return items of OmniRewardBench by (task, preference)."""
    return items(OmniRewardBench(), [rows.omnirewardbench(label, task=task) for task, label in preferences])


def test_omnirewardbench_with_and_without_ties() -> None:
    """Text: 2 of 4 with ties, 1 of 2 without. Pictures: 1 of 1. The overall values are means of tasks, 3/4 and 3/4."""
    pairs = [("text_to_text", label) for label in ("response1", "response2", "tie", "tie")]
    benchmark_items = omni_items(*pairs, ("text_to_image", "response1"))
    scores = [(1.0, 0.0), (1.0, 0.0), (2.0, 2.0), (2.0, 1.0), (1.0, 0.0)]
    outcomes = judged(benchmark_items, [Outcome(scores=pair) for pair in scores])
    measures = OmniRewardBench().variants
    with_ties, without = measures["with_ties"](outcomes), measures["without_ties"](outcomes)
    assert counts(with_ties)["text_to_text"] == (2, 4)
    assert counts(without)["text_to_text"] == (1, 2)
    assert (with_ties["overall"].value, without["overall"].value) == (0.75, 0.75)
    assert counts(without)["text_to_image"] == (1, 1)


def test_tie_verdicts(tmp_path: Path) -> None:
    """The verdict "tie" is right for a labelled tie alone; other benchmarks refuse it."""
    benchmark_items = omni_items(*[("text_to_text", label) for label in ("tie", "response1", "tie", "tie")])
    file = write_outcomes(tmp_path / "out.jsonl", benchmark_items, verdicts=[["tie"], ["tie"], [1], [None]])
    outcomes = read_outcomes(file, benchmark_items)
    measures = OmniRewardBench().variants["with_ties"](judged(benchmark_items, [outcomes[row] for row in range(4)]))
    assert (counts(measures)["text_to_text"], measures["text_to_text"].undecided) == ((1, 4), 1)
    others = items(MR2Bench(), [rows.mr2bench([1, 2, 3, 4])])
    with pytest.raises(DataError, match="indices 0 to 3"):
        read_outcomes(write_outcomes(tmp_path / "other.jsonl", others, verdicts=[["tie"]]), others)


def test_omnirewardbench_items() -> None:
    """The criterion follows the prompt, pictures of the prompt are images, and answers that are no text are named."""
    row = rows.omnirewardbench("response2", task="text_image_to_image", image={"bytes": b"1", "path": None})
    row |= {"response1": {"bytes": b"2", "path": None}, "response1_path": "a/1.png", "response2": "a/2.png"}
    (item,) = items(OmniRewardBench(), [row])
    assert item.prompt == "Name a colour.\n\nCriterion: It is short."
    assert item.images == (row["image"],)
    assert item.responses == ("", "")
    assert item.response_images == (({"bytes": b"2", "path": None},), ("a/2.png",))
    assert (item.right, item.wrong) == ((1,), (0,))
    video = rows.omnirewardbench("tie", task="text_video_to_text", video="v/1.mp4")
    assert items(OmniRewardBench(), [video])[0].videos == ("v/1.mp4",)


def opened(name: str, *overrides: str) -> Benchmark:
    """Load a benchmark with overrides."""
    return load_benchmark(name, overrides=overrides)


def test_github_layout_of_several_files(tmp_path: Path) -> None:
    """The four files of the authors become one benchmark, in the order of its tasks, with their pictures' places."""
    for task in FIRST:
        row = {"id": f"{task}_1", "chosen": "B", "prompt_source": task, "prompt_content": [["text", f"{task}?"]]}
        answers = {f"response_{name}": {"response_content": [["text", name]]} for name in "ab"}
        (tmp_path / f"{task}.json").write_text(json.dumps({"pairs": [row | answers] * 2}))
    benchmark = opened("multimodal_rewardbench_2_pooled", f"data={tmp_path}", "layout=github")
    assert [item.labels["task"] for item in benchmark.items] == [task for task in FIRST for _ in range(2)]
    assert [item.row for item in benchmark.items] == list(range(8))
    assert [path.name for path in benchmark.inputs][:4] == [f"{task}.json" for task in FIRST]
    assert "task t2i: 1,000 expected, 2 found" in str(benchmark.partial)
    single = opened("multimodal_rewardbench_2_edit", f"data={tmp_path}", "layout=github")
    assert [item.id for item in single.items] == ["edit_1", "edit_1"]


def test_hub_layout_of_several_configurations(tmp_path: Path) -> None:
    """Each configuration of a data set is a part."""
    configurations = ""
    for task in ("text_to_text", "text_image_to_text"):
        write_jsonl(tmp_path / f"{task}.jsonl", [rows.omnirewardbench("tie", task=None, image="1.png")])
        configurations += f"- config_name: {task}\n  data_files: [{{split: test, path: {task}.jsonl}}]\n"
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configurations}---\n")
    found = [item.labels["task"] for item in opened("omnirewardbench_text", f"data={tmp_path}").items]
    assert found == ["text_to_text", "text_image_to_text"]


def test_file_of_one_task_needs_its_task(tmp_path: Path) -> None:
    """`protocol.task` names the task of rows that do not."""
    write_jsonl(tmp_path / "rows.jsonl", [rows.omnirewardbench("response1", task=None)])
    with pytest.raises(DataError, match=r"protocol\.task="):
        _ = opened("omnirewardbench", "data=rows.jsonl").items
    (item,) = opened("omnirewardbench", "data=rows.jsonl", "protocol.task=text_to_text").items
    assert item.labels == {"task": "text_to_text"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["layout=gihub"], "did you mean 'github'"),
        (["layouts.github.file=x.json"], "did you mean 'files'"),
        (["parts.t2i.splits=test"], "did you mean 'split'"),
    ],
)
def test_wrong_layout_is_refused(overrides: list[str], message: str, tmp_path: Path) -> None:
    """The message suggests the nearest name, before a row is read."""
    with pytest.raises(RecipeError, match=message):
        opened("multimodal_rewardbench_2_pooled", f"path={tmp_path}", *overrides)


def test_rows_with_videos_are_read_and_listed(tmp_path: Path) -> None:
    """Models get each row with its video; outcomes of other programs are counted, and each row names its video."""
    write_jsonl(tmp_path / "rows.jsonl", rows.ROWS["videorewardbench"])
    benchmark = opened("videorewardbench", "data=rows.jsonl")
    write_outcomes(tmp_path / "theirs.jsonl", benchmark.items, correct=[1, 1, 1, 0, 0])
    arguments = ["--benchmark", "videorewardbench", "data=rows.jsonl", "--allow-partial"]
    assert main(["eval", "--scores", "theirs.jsonl", *arguments]) == 0
    groups = [bundle.group(ImageStore(tmp_path)) for bundle in bundles(benchmark.items)]
    assert [str(visual.file) for group in groups for visual in group.images] == [  # type: ignore[union-attr]
        str(tmp_path / f"videos/{number}.mp4") for number in range(5)
    ]
    check_readable(benchmark, Subject("run", "run", tmp_path, fingerprint="f"), None)
    folder = tmp_path / "evaluations" / "theirs" / "videorewardbench"
    lines = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    assert [line["videos"] for line in lines] == [[f"videos/{number}.mp4"] for number in range(5)]
    overall = json.loads((folder / "evaluation.json").read_text())["variants"]["micro"]["overall"]
    assert (overall["numerator"], overall["denominator"]) == (3, 5)


def test_every_task_of_omnirewardbench_is_a_part() -> None:
    """The file of the benchmark names the tasks of the protocol, and its counts add up to 3,725."""
    node = (EXPERIMENTS / "benchmarks" / "omnirewardbench.yaml").read_text()
    assert all(f"  {task}: {{subset: {task}}}" in node for task in TASKS)
