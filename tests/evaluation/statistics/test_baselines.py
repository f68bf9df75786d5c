"""What guessing reaches, against enumeration by hand and against simulation."""

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
    """Items of one prompt, the better answer first."""
    return [
        Item(start + row, f"{prompt}-{row}", prompt, pair, (0,), (1,), prompt, prompt_items=len(answers))
        for row, pair in enumerate(answers)
    ]


def expected(items: list[Item], measure: Any, *, independent: bool) -> float:
    """The mean over all rounds."""
    rounds = list(chance_rounds(items, independent=independent))
    values = [measure([JudgedItem(i, o) for i, o in zip(items, outcomes, strict=True)]).value for outcomes in rounds]
    return sum(values) / len(values)


def test_three_answers_in_three_pairs() -> None:
    """One order of six has all pairs right; of a judge's eight outcomes one. Of a pair either has one half."""
    ranked = pairs("p", ("a", "b"), ("a", "c"), ("b", "c"))
    assert expected(ranked, all_right, independent=False) == pytest.approx(1 / 6, abs=1e-12)
    assert expected(ranked, all_right, independent=True) == pytest.approx(1 / 8, abs=1e-12)
    for independent in (False, True):
        assert expected(ranked, accuracy, independent=independent) == pytest.approx(1 / 2, abs=1e-12)


def test_pairs_that_share_one_answer() -> None:
    """The best of three in two pairs: 2 of 6 orders. Two pairs without a common answer: 1 of 4 in both."""
    star, apart = pairs("p", ("a", "b"), ("a", "c")), pairs("q", ("a", "b"), ("c", "d"))
    assert expected(star, all_right, independent=False) == pytest.approx(1 / 3, abs=1e-12)
    assert expected(star, all_right, independent=True) == pytest.approx(1 / 4, abs=1e-12)
    assert expected(apart, all_right, independent=False) == pytest.approx(1 / 4, abs=1e-12)


def test_one_right_of_four() -> None:
    """A quarter."""
    best_of_four = [Item(0, "i", "?", ("a", "b", "c", "d"), (0,), (1, 2, 3), "i")]
    assert expected(best_of_four, accuracy, independent=False) == pytest.approx(1 / 4, abs=1e-12)


def by_hand(items: list[Item]) -> float:
    """Acc+ of a random scorer: the orders of a prompt's answers in which every pair is right, of all orders."""
    shares = []
    for members in by_prompt([JudgedItem(each, Outcome(correct=True)) for each in items]).values():
        texts = list(dict.fromkeys(text for each in members for text in each.item.responses))
        right = sum(
            all(order[texts.index(e.item.responses[0])] > order[texts.index(e.item.responses[1])] for e in members)
            for order in permutations(range(len(texts)))
        )
        shares.append(right / factorial(len(texts)))
    return sum(shares) / len(shares)


def test_mm_rlhf_rewardbench(real_rows: Path) -> None:
    """A scorer of random numbers has 50.00 of the pairs and 18.79 of the prompts, by enumeration and within four
    standard errors of a simulation; a judge 11.24, the mean of 1 in 2 to the number of a prompt's pairs."""
    benchmark = mm_rlhf(real_rows)
    items = list(benchmark.items)

    def random_shares(outcome: Outcome) -> tuple[float, float]:
        told = measured(benchmark.variants, [JudgedItem(each, outcome) for each in items])["published"]
        return told["acc"]["baselines"]["random"], told["acc_plus"]["baselines"]["random"]

    acc, plus = random_shares(Outcome(scores=(1.0, 0.0)))
    assert (acc, plus) == pytest.approx((0.5, by_hand(items)), abs=1e-12)
    assert round(100 * plus, 2) == 18.79
    sizes = [len(group) for group in by_prompt([JudgedItem(each, Outcome(correct=True)) for each in items]).values()]
    halves = sum(0.5**size for size in sizes) / len(sizes)
    for unlike_scores in (Outcome(votes=(0,)), Outcome(correct=True)):
        assert random_shares(unlike_scores) == pytest.approx((0.5, halves), abs=1e-12)
    assert round(100 * halves, 2) == 11.24
    draws = 1000
    found = [
        all_right([JudgedItem(i, o) for i, o in zip(items, baseline("random", items, seed=seed), strict=True)]).value
        for seed in range(draws)
    ]
    spread = (sum((value - plus) ** 2 for value in found) / draws) ** 0.5
    assert abs(sum(found) / draws - plus) < 4 * spread / draws**0.5


def test_vl_rewardbench_is_one_half_in_every_category(real_rows: Path) -> None:
    """Exactly, in all variants that count pairs."""
    benchmark = vl_rewardbench(real_rows)
    told = measured(benchmark.variants, [JudgedItem(each, Outcome(scores=(1.0, 0.0))) for each in benchmark.items])
    for variant in ("official", "r1_reward", "unifiedreward"):
        assert {round(each["baselines"]["random"], 12) for each in told[variant].values()} == {0.5}


def test_many_answers_are_drawn() -> None:
    """Orders of thirty answers cannot be counted; each is one, and the same seed draws the same."""
    texts = tuple(f"answer {i}" for i in range(30))
    many = [Item(0, "i", "?", texts, (0,), tuple(range(1, 30)), "i"), item(1)]
    first, again = (list(chance_rounds(many, independent=False, seed=3)) for _ in range(2))
    assert first == again
    for outcomes in first:
        assert len(set(outcomes[0].scores or ())) == 30
    assert sum((outcomes[1].scores or ())[0] > (outcomes[1].scores or ())[1] for outcomes in first) == len(first) / 2


def test_the_same_answer_has_the_same_score() -> None:
    """In every item of a prompt, by the rule `random` and in every round; of another prompt it has another."""
    ranked = pairs("p", ("a", "b"), ("a", "c"), ("b", "c")) + pairs("q", ("a", "b"), start=3)
    for outcomes in [baseline("random", ranked), *chance_rounds(ranked, independent=False)]:
        by_answer: dict[tuple[str, str], set[float]] = defaultdict(set)
        for each, outcome in zip(ranked, outcomes, strict=True):
            for text, score in zip(each.responses, outcome.scores or (), strict=True):
                by_answer[each.prompt, text].add(score)
        assert all(len(scores) == 1 for scores in by_answer.values())
        assert by_answer["p", "a"] != by_answer["q", "a"]
    assert lcm(6, 2) == len(list(chance_rounds(ranked, independent=False)))
