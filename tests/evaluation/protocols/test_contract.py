"""Test the contract that every benchmark in experiments/benchmarks must meet."""

from __future__ import annotations

import importlib
import math
import pkgutil
import random
import re
from pathlib import Path

import pytest
import yaml

from basereward.errors import DataError, RecipeError
from basereward.evaluation import protocols
from basereward.evaluation.benchmark import Benchmark, load_benchmark
from basereward.evaluation.items import JudgedItem, Outcome
from basereward.evaluation.outcome import baseline
from basereward.evaluation.protocols import Protocol, check_protocol
from basereward.recipe.trust import trusting
from tests.fixtures.published.benchmarks.benchmark_rows import ROWS
from tests.fixtures.published.writing import write_jsonl

FILES = sorted((Path(__file__).resolve().parents[3] / "experiments" / "benchmarks").glob("*.yaml"))
each_benchmark = pytest.mark.parametrize("file", [pytest.param(file, id=file.stem) for file in FILES])


PROTOCOLS = [module.name for module in pkgutil.iter_modules(protocols.__path__) if not module.name.startswith("_")]
# A protocol without the optional members that does not derive from `Protocol`.
OWN_PROTOCOL = """
from basereward.evaluation.items import Item
from basereward.evaluation.statistics.measures import accuracy


class Plain:
    columns = ("question", "good", "bad")

    @property
    def variants(self):
        return {"plain": lambda judged: {"overall": accuracy(judged)}}

    def item(self, row, *, number, images):
        answers = (row["good"], row["bad"])
        return Item(number, str(number), row["question"], answers, (0,), (1,), str(number))


class Broken:
    columns = ("question",)
"""


def opened(file: Path, folder: Path) -> Benchmark:
    """Load the benchmark with valid rows from a file in the folder."""
    target = yaml.safe_load(file.read_text())["protocol"]["_target_"]
    write_jsonl(folder / "rows.jsonl", ROWS[target])
    return load_benchmark(file.stem, overrides=[f"data={folder / 'rows.jsonl'}"])


def test_every_protocol_has_a_benchmark() -> None:
    """The benchmarks use exactly the twelve protocols that have test rows."""
    targets = {yaml.safe_load(file.read_text())["protocol"]["_target_"] for file in FILES}
    assert targets == set(ROWS)
    assert len(ROWS) == 12


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_file_has_one_protocol(name: str) -> None:
    """The class derives from `Protocol`, needs no arguments, and has columns and variants."""
    module = importlib.import_module(f"{protocols.__name__}.{name}")
    classes = [value for value in vars(module).values() if isinstance(value, type) and Protocol in value.__mro__[1:]]
    assert len(classes) == 1
    protocol = check_protocol(classes[0]())
    assert protocol.columns
    assert not set(protocol.optional_columns) & set(protocol.columns)
    assert set(protocol.missing_column_advice) <= set(protocol.columns)
    assert protocol.variants
    assert all(map(callable, protocol.variants.values()))
    assert name in ROWS


def test_own_protocol_and_yaml_file_add_a_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark is read and evaluated without other changes, and the optional members have their defaults."""
    (tmp_path / "own_protocol.py").write_text(OWN_PROTOCOL)
    monkeypatch.syspath_prepend(str(tmp_path))
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "2 + 2?", "good": "4", "bad": "5"}])
    file = tmp_path / "own.yaml"
    content = {"_target_": "annotated", "path": str(tmp_path / "rows.jsonl"), "split": "train"}
    file.write_text(yaml.safe_dump({**content, "protocol": {"_target_": "own_protocol.Plain"}}))
    with trusting():
        benchmark = load_benchmark(str(file))
    judged = [JudgedItem(item, Outcome(scores=(1.0, 0.0))) for item in benchmark.items]
    assert benchmark.variants["plain"](judged)["overall"].value == 1.0
    assert benchmark.unscored is None
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "2 + 2?", "good": "4"}])
    with trusting(), pytest.raises(DataError, match="bad"):
        _ = load_benchmark(str(file)).items


def test_incomplete_protocol_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the missing members when the benchmark is loaded."""
    (tmp_path / "own_protocol.py").write_text(OWN_PROTOCOL)
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "own.yaml"
    content = {"_target_": "annotated", "path": str(tmp_path / "rows.jsonl")}
    file.write_text(yaml.safe_dump({**content, "protocol": {"_target_": "own_protocol.Broken"}}))
    with trusting(), pytest.raises(RecipeError, match=r"'Broken' lacks: variants, item"):
        load_benchmark(str(file))


@each_benchmark
def test_head_comment_has_source_command_and_licence(file: Path) -> None:
    """The comment is at the top of the file, its command names this benchmark, and the file has a version."""
    # The first line is for editors.
    lines = file.read_text().splitlines()[1:]
    comment = [line for line in lines if line.startswith("# ")]
    assert lines[: len(comment)] == comment
    assert re.search(r"arXiv \d{4}\.\d{5}", comment[0])
    assert re.fullmatch(rf"# Run it: basereward eval .*--benchmark {file.stem}( data=\S+)?", comment[1])
    assert comment[2].startswith("# Licence: ")
    assert isinstance(yaml.safe_load(file.read_text())["version"], str)


@each_benchmark
def test_items_have_disjoint_right_and_wrong_answers(file: Path, tmp_path: Path) -> None:
    """Every row is an item. Every answer is right or wrong, and every item has both kinds."""
    benchmark = opened(file, tmp_path)
    assert [item.row for item in benchmark.items] == list(range(len(benchmark.items)))
    for item in benchmark.items:
        assert item.right
        assert item.wrong
        assert sorted(item.right + item.wrong) == list(range(len(item.responses)))
        assert item.id
        assert item.prompt_id
        assert all(isinstance(value, str) for value in item.labels.values())


@each_benchmark
def test_every_variant_measures_perfect_and_reversed_scores(file: Path, tmp_path: Path) -> None:
    """Perfect scores give 1 (Ties up to 0.01 more) and their negatives give 0; the first measure of a variant has a
    value."""
    items = opened(file, tmp_path).items
    perfect = [
        JudgedItem(item, Outcome(scores=tuple(float(place in item.right) for place in range(len(item.responses)))))
        for item in items
    ]
    reverse = [
        JudgedItem(judged_item.item, Outcome(scores=tuple(-score for score in judged_item.outcome.scores or ())))
        for judged_item in perfect
    ]
    for name, variant in opened(file, tmp_path).variants.items():
        if "length_controlled" in name or name in ("per_vote", "over_votes", "over_n"):
            continue
        best, worst = variant(perfect), variant(reverse)
        assert next(iter(best)) in ("overall", "acc")
        for metric, measure in best.items():
            if measure.denominator:
                assert measure.value == pytest.approx(1.0, abs=0.011), (name, metric)
                assert worst[metric].value == pytest.approx(0.0, abs=0.011), (name, metric)
        assert next(iter(best.values())).denominator


@each_benchmark
def test_interval_contains_the_value_of_random_scores(file: Path, tmp_path: Path) -> None:
    """This holds in every variant. Ties has only one prompt here, so its interval is unknown and its value may leave 0
    to 1 by 0.01."""
    benchmark = opened(file, tmp_path)
    outcomes = baseline("random", benchmark.items, seed=random.Random(file.stem).randrange(99))
    judged = [JudgedItem(item, outcome) for item, outcome in zip(benchmark.items, outcomes, strict=True)]
    for name, variant in benchmark.variants.items():
        for metric, measure in variant(judged).items():
            if name != "length_controlled" and metric != "ties" and measure.interval is not None:
                low, high = measure.interval
                assert low - 1e-9 <= measure.value <= high + 1e-9, (name, metric)
            assert not math.isnan(measure.numerator), (name, metric)


FILE_OF = {"mr2bench": "mr2bench_image"}  # protocols without a benchmark of their name
BAD = [
    pytest.param("multimodal_rewardbench", {"Category": "vqaa"}, "vqaa.*did you mean 'vqa'", id="category"),
    pytest.param("multimodal_rewardbench", {"Better": "A"}, "Allowed: Output1, Output2", id="better"),
    pytest.param("multimodal_rewardbench", {"Output1": 3}, "`Output1` is 3", id="number_for_text"),
    pytest.param("rewardbench", {"subset": "hep-rest"}, "did you mean 'hep-rust'", id="subset"),
    pytest.param("rewardbench", {"chosen": ["a"]}, "`chosen` is", id="list_for_text"),
    pytest.param("rewardbench_2", {"subset": "Tie"}, "did you mean 'Ties'", id="subset_2"),
    pytest.param("rewardbench_2", {"chosen": "Blue."}, "`chosen` is 'Blue.'", id="text_for_list"),
    pytest.param("rewardbench_2", {"num_correct": 2}, "`num_correct` is 2", id="num_correct"),
    pytest.param("rewardbench_2", {"num_correct": 2, "chosen": ["a", "b"]}, "exactly 1 is right", id="two_right"),
    pytest.param("rewardbench_2", {"subset": "Ties"}, "ref:N or tied:N", id="ties_id"),
    pytest.param("rewardbench_2", {"subset": "Ties", "id": "tied:4"}, "at least 2", id="tie_of_one"),
    pytest.param("rm_bench", {"chosen": ["a", "b"]}, "3 are needed", id="two_styles"),
    pytest.param("rm_bench", {"domain": "safety"}, "unknown domain 'safety'", id="domain"),
    pytest.param("judgebench", {"label": "A=B"}, "unknown label 'A=B'", id="label"),
    pytest.param("judgebench", {"source": "gsm8k"}, "gsm8k", id="source"),
    pytest.param("multimodal_rewardbench_2", {"chosen": "tie"}, "unknown chosen 'TIE'", id="chosen"),
    pytest.param("multimodal_rewardbench_2", {"response_b_text": ""}, "both empty", id="empty_answer"),
    pytest.param("best_of_n", {"right": [True, False]}, "2 values for 3", id="two_truths"),
    pytest.param("best_of_n", {"right": [1, 0, 1]}, "true and false", id="truths_as_numbers"),
    pytest.param("mr2bench", {"rankings": [1, 2, 3]}, "3 ranks for 4", id="three_ranks"),
    pytest.param("mr2bench", {"rankings": [2, 2, 2, 2]}, "the rank 2", id="all_ranks_equal"),
    pytest.param("mr2bench", {"rankings": [1, 2, 3, "4"]}, "whole numbers", id="rank_as_text"),
    pytest.param("mr2bench", {"responses": ["a", "b"]}, "4 are needed", id="two_answers"),
    pytest.param("videorewardbench", {"category": "perception"}, "protocol.categories", id="video_category"),
    pytest.param("omnirewardbench", {"criteria_preference": "both"}, "Allowed: response1", id="preference"),
    pytest.param("omnirewardbench", {"part": "text_to_txt"}, "did you mean .text_to_text", id="task"),
    pytest.param("omnirewardbench", {"part": None}, "protocol.task=text_to_text", id="no_task"),
    pytest.param("omnirewardbench", {"part": "text_to_image", "response1": 3}, "a path", id="no_path"),
    pytest.param("omnirewardbench", {"part": "text_image_to_text"}, "`image` is", id="no_image_of_the_prompt"),
    pytest.param("omnirewardbench", {"part": "text_video_to_text"}, "`video` is", id="no_video_of_the_prompt"),
    pytest.param("mr2bench", {"image": None}, "missing or empty: image", id="no_image"),
]


@pytest.mark.parametrize(("name", "changed", "message"), BAD)
def test_invalid_row_is_refused(name: str, changed: dict[str, object], message: str, tmp_path: Path) -> None:
    """The message has the file, the line and the fault, and no items are returned."""
    write_jsonl(tmp_path / "rows.jsonl", [ROWS[name][0], {**ROWS[name][0], **changed}])
    with pytest.raises(DataError, match=message) as caught:
        _ = load_benchmark(FILE_OF.get(name, name), overrides=[f"data={tmp_path / 'rows.jsonl'}"]).items
    assert "rows.jsonl:2" in str(caught.value)
