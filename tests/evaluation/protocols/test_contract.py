"""What every benchmark in experiments/benchmarks promises, found by listing the folder."""

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
# A protocol without the optional members, which does not derive from ours.
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
    """The benchmark with rows of its shape from a file in the folder."""
    target = yaml.safe_load(file.read_text())["protocol"]["_target_"]
    write_jsonl(folder / "rows.jsonl", ROWS[target])
    return load_benchmark(file.stem, overrides=[f"data={folder / 'rows.jsonl'}"])


def test_all_eight_benchmarks_and_their_further_parts_are_there() -> None:
    """Every protocol has a benchmark, and every benchmark one of the protocols that this file knows rows of."""
    targets = {yaml.safe_load(file.read_text())["protocol"]["_target_"] for file in FILES}
    assert targets == set(ROWS)
    assert len(ROWS) == 8


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_file_of_the_folder_holds_one_protocol(name: str) -> None:
    """A class that derives from the contract, is made without arguments, and names columns and variants."""
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


def test_a_benchmark_is_added_by_a_class_and_a_yaml_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read and counted without a change elsewhere; the optional members have their defaults."""
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
    assert not benchmark.judges_only
    write_jsonl(tmp_path / "rows.jsonl", [{"question": "2 + 2?", "good": "4"}])
    with trusting(), pytest.raises(DataError, match="bad"):
        _ = load_benchmark(str(file)).items


def test_a_class_that_is_no_protocol_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the benchmark is opened, with the members that it lacks."""
    (tmp_path / "own_protocol.py").write_text(OWN_PROTOCOL)
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "own.yaml"
    content = {"_target_": "annotated", "path": str(tmp_path / "rows.jsonl")}
    file.write_text(yaml.safe_dump({**content, "protocol": {"_target_": "own_protocol.Broken"}}))
    with trusting(), pytest.raises(RecipeError, match=r"'Broken' lacks: variants, item"):
        load_benchmark(str(file))


@each_benchmark
def test_head_comment_says_what_it_is_how_to_run_it_and_its_licence(file: Path) -> None:
    """A comment tops the file; its command names this benchmark; the values below have a version."""
    lines = file.read_text().splitlines()
    comment = [line for line in lines if line.startswith("# ")]
    assert lines[: len(comment)] == comment
    assert re.search(r"arXiv \d{4}\.\d{5}", comment[0])
    assert re.fullmatch(rf"# Run it: basereward eval .*--benchmark {file.stem}( data=\S+)?", comment[1])
    assert comment[2].startswith("# Licence: ")
    assert isinstance(yaml.safe_load(file.read_text())["version"], str)


@each_benchmark
def test_rows_become_items_whose_right_and_wrong_answers_are_apart(file: Path, tmp_path: Path) -> None:
    """Every row is an item; right and wrong answers are places of its answers, some of each, and none is both."""
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
def test_scores_are_counted_under_every_variant(file: Path, tmp_path: Path) -> None:
    """Perfect scores give 1 (Ties 0.01 more at most), their negatives 0; the first measure of a variant has a value."""
    items = opened(file, tmp_path).items
    perfect = [
        JudgedItem(item, Outcome(scores=tuple(float(i in item.right) for i in range(len(item.responses)))))
        for item in items
    ]
    reverse = [JudgedItem(each.item, Outcome(scores=tuple(-s for s in each.outcome.scores or ()))) for each in perfect]
    for name, variant in opened(file, tmp_path).variants.items():
        if "length_controlled" in name or name == "per_vote":
            continue
        best, worst = variant(perfect), variant(reverse)
        assert next(iter(best)) in ("overall", "acc")
        for metric, measure in best.items():
            if measure.denominator:
                assert measure.value == pytest.approx(1.0, abs=0.011), (name, metric)
                assert worst[metric].value == pytest.approx(0.0, abs=0.011), (name, metric)
        assert next(iter(best.values())).denominator


@each_benchmark
def test_intervals_hold_their_value_and_baselines_can_be_counted(file: Path, tmp_path: Path) -> None:
    """A coin's value lies in its interval, in every variant that has measures. Ties has one prompt
    here, of which nothing is known, and may lie a hundredth outside of 0 to 1."""
    benchmark = opened(file, tmp_path)
    outcomes = baseline("random", benchmark.items, seed=random.Random(file.stem).randrange(99))
    judged = [JudgedItem(item, outcome) for item, outcome in zip(benchmark.items, outcomes, strict=True)]
    for name, variant in benchmark.variants.items():
        for metric, measure in variant(judged).items():
            if name != "length_controlled" and metric != "ties" and measure.interval is not None:
                low, high = measure.interval
                assert low - 1e-9 <= measure.value <= high + 1e-9, (name, metric)
            assert not math.isnan(measure.numerator), (name, metric)


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
]


@pytest.mark.parametrize(("name", "changed", "message"), BAD)
def test_bad_row_stops_the_benchmark_and_is_named(
    name: str, changed: dict[str, object], message: str, tmp_path: Path
) -> None:
    """The file, the line and the fault are in the message; nothing is counted without the row."""
    write_jsonl(tmp_path / "rows.jsonl", [ROWS[name][0], {**ROWS[name][0], **changed}])
    with pytest.raises(DataError, match=message) as caught:
        _ = load_benchmark(name, overrides=[f"data={tmp_path / 'rows.jsonl'}"]).items
    assert "rows.jsonl:2" in str(caught.value)
