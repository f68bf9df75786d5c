"""Test the baselines of random guessing against enumeration by hand and against simulation."""

from __future__ import annotations

from collections import defaultdict
from itertools import permutations
from math import factorial, lcm
from pathlib import Path
from typing import Any

import pytest

from basereward.evaluation.items import Item, JudgedItem, Outcome, by_prompt
from basereward.evaluation.outcome import baseline
from basereward.evaluation.statistics.baselines import chance_rounds
from basereward.evaluation.statistics.measures import accuracy, all_right
from basereward.evaluation.write_evaluation import measured
from tests.helpers.benchmark_rows import item, mm_rlhf, vl_rewardbench


def pairs(prompt: str, *answers: tuple[str, str], start: int = 0) -> list[Item]:
    """Return the pairs of one prompt with the better answer first."""
    return [
        Item(start + row, f"{prompt}-{row}", prompt, pair, (0,), (1,), prompt, prompt_items=len(answers))
        for row, pair in enumerate(answers)
    ]


def expected(items: list[Item], measure: Any, *, independent: bool) -> float:
    """Return the mean of a measure over all rounds of guessing."""
    rounds = list(chance_rounds(items, independent=independent))
    values = [
        measure([JudgedItem(item, outcome) for item, outcome in zip(items, outcomes, strict=True)]).value
        for outcomes in rounds
    ]
    return sum(values) / len(values)


def test_chance_of_three_answers_in_three_pairs() -> None:
    """One order of six has all pairs right, and one of eight independent outcomes. A single pair is right with
    probability one half."""
    ranked = pairs("p", ("a", "b"), ("a", "c"), ("b", "c"))
    assert expected(ranked, all_right, independent=False) == pytest.approx(1 / 6, abs=1e-12)
    assert expected(ranked, all_right, independent=True) == pytest.approx(1 / 8, abs=1e-12)
    for independent in (False, True):
        assert expected(ranked, accuracy, independent=independent) == pytest.approx(1 / 2, abs=1e-12)


def test_chance_of_pairs_that_share_one_answer() -> None:
    """The best of three answers in two pairs: 2 of 6 orders. Two pairs without a common answer: 1 of 4."""
    sharing, disjoint = pairs("p", ("a", "b"), ("a", "c")), pairs("q", ("a", "b"), ("c", "d"))
    assert expected(sharing, all_right, independent=False) == pytest.approx(1 / 3, abs=1e-12)
    assert expected(sharing, all_right, independent=True) == pytest.approx(1 / 4, abs=1e-12)
    assert expected(disjoint, all_right, independent=False) == pytest.approx(1 / 4, abs=1e-12)


def test_chance_of_one_right_of_four() -> None:
    """Guessing among four answers is right with probability one quarter."""
    best_of_four = [Item(0, "i", "?", ("a", "b", "c", "d"), (0,), (1, 2, 3), "i")]
    assert expected(best_of_four, accuracy, independent=False) == pytest.approx(1 / 4, abs=1e-12)


def by_hand(items: list[Item]) -> float:
    """Return Acc+ of random scores: the share of orders of a prompt's answers in which every pair is right."""
    shares = []
    for members in by_prompt([JudgedItem(member, Outcome(correct=True)) for member in items]).values():
        texts = list(dict.fromkeys(text for member in members for text in member.item.responses))
        right = sum(
            all(
                order[texts.index(pair.item.responses[0])] > order[texts.index(pair.item.responses[1])]
                for pair in members
            )
            for order in permutations(range(len(texts)))
        )
        shares.append(right / factorial(len(texts)))
    return sum(shares) / len(shares)


def test_random_baselines_of_mm_rlhf_rewardbench(real_rows: Path) -> None:
    """Random scores have 50.00 of the pairs and 18.79 of the prompts right, by enumeration and within four standard
    errors of a simulation. A random judge has 11.24 of the prompts right, the mean of 0.5 to the power of a prompt's
    pairs."""
    benchmark = mm_rlhf(real_rows)
    items = list(benchmark.items)

    def random_shares(outcome: Outcome) -> tuple[float, float]:
        measures = measured(benchmark.variants, [JudgedItem(pair, outcome) for pair in items])["published"]
        return measures["acc"]["baselines"]["random"], measures["acc_plus"]["baselines"]["random"]

    acc, plus = random_shares(Outcome(scores=(1.0, 0.0)))
    assert (acc, plus) == pytest.approx((0.5, by_hand(items)), abs=1e-12)
    assert round(100 * plus, 2) == 18.79
    sizes = [len(group) for group in by_prompt([JudgedItem(pair, Outcome(correct=True)) for pair in items]).values()]
    judge_plus = sum(0.5**size for size in sizes) / len(sizes)
    for unlike_scores in (Outcome(votes=(0,)), Outcome(correct=True)):
        assert random_shares(unlike_scores) == pytest.approx((0.5, judge_plus), abs=1e-12)
    assert round(100 * judge_plus, 2) == 11.24
    draws = 1000
    simulated = [
        all_right([JudgedItem(i, o) for i, o in zip(items, baseline("random", items, seed=seed), strict=True)]).value
        for seed in range(draws)
    ]
    spread = (sum((value - plus) ** 2 for value in simulated) / draws) ** 0.5
    assert abs(sum(simulated) / draws - plus) < 4 * spread / draws**0.5


def test_random_baseline_of_vl_rewardbench_is_one_half(real_rows: Path) -> None:
    """The baseline is exactly one half in every category of all variants that count pairs."""
    benchmark = vl_rewardbench(real_rows)
    measures = measured(benchmark.variants, [JudgedItem(item, Outcome(scores=(1.0, 0.0))) for item in benchmark.items])
    for variant in ("official", "r1_reward", "unifiedreward"):
        assert {round(measure["baselines"]["random"], 12) for measure in measures[variant].values()} == {0.5}


def test_orders_of_many_answers_are_sampled() -> None:
    """Orders of thirty answers cannot be enumerated. Every sample is an order, and the same seed gives the same
    samples."""
    texts = tuple(f"answer {i}" for i in range(30))
    many_answers = [Item(0, "i", "?", texts, (0,), tuple(range(1, 30)), "i"), item(1)]
    first, repeated = (list(chance_rounds(many_answers, independent=False, seed=3)) for _ in range(2))
    assert first == repeated
    for outcomes in first:
        assert len(set(outcomes[0].scores or ())) == 30
    assert sum((outcomes[1].scores or ())[0] > (outcomes[1].scores or ())[1] for outcomes in first) == len(first) / 2


def test_same_answer_of_a_prompt_has_the_same_score() -> None:
    """An answer has one score in all items of its prompt, in the baseline `random` and in every round; under another
    prompt it has another score."""
    ranked = pairs("p", ("a", "b"), ("a", "c"), ("b", "c")) + pairs("q", ("a", "b"), start=3)
    for outcomes in [baseline("random", ranked), *chance_rounds(ranked, independent=False)]:
        by_answer: dict[tuple[str, str], set[float]] = defaultdict(set)
        for pair, outcome in zip(ranked, outcomes, strict=True):
            for text, score in zip(pair.responses, outcome.scores or (), strict=True):
                by_answer[pair.prompt, text].add(score)
        assert all(len(scores) == 1 for scores in by_answer.values())
        assert by_answer["p", "a"] != by_answer["q", "a"]
    assert lcm(6, 2) == len(list(chance_rounds(ranked, independent=False)))
