"""Test ensemble weights from given validation scores against hand arithmetic."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from basereward.errors import ModelError
from basereward.inference.ensemble import Member
from basereward.metrics.logistic import logistic_weights
from basereward.recipe.schema import EnsembleRecipe
from basereward.runs.score_files import ScoredGroup, write_scores
from basereward.training.ensembles.weights import drawn_margins, find_rule, validation_scores

Make = Callable[..., Member]
ROUTES = {"text": (0,), "image": (1, 2)}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that writes a member's run with these margins (one pair a group) or with these groups."""

    def member(name: str, margins: Sequence[float] = (), *, groups: Sequence[ScoredGroup] = (), **scores: float) -> Any:
        run = tmp_path / name
        (run / "scores").mkdir(parents=True)
        (run / "model").mkdir()
        backbone = {"path": None, "revision": None, "fingerprint": None, "dtype": "float32", "quantization": None}
        card = {"format": 1, "kind": "full", "head": {"_target_": "mlp"}, "backbone": backbone, "scores": scores}
        (run / "model" / "reward_model.json").write_text(json.dumps(card))
        write_scores(
            run / "scores" / "val.jsonl", groups or [pair(f"{index}", margin) for index, margin in enumerate(margins)]
        )
        return Member(name, run / "model", name)

    return member


def pair(name: str, margin: float, *, source: str = "a") -> ScoredGroup:
    """Return a group of two answers."""
    return ScoredGroup(name, source, [margin, 0.0], [1, 1], [(0, 1, False)])


def test_groups_with_equal_ids_are_all_used(make: Make) -> None:
    """Of three groups two have one id, and one has that id in another source; the accuracies are 2/3 and 1/3."""
    first = make("first", groups=[pair("x", 1.0), pair("x", -1.0), pair("x", 2.0, source="b")])
    other = make("other", groups=[pair("x", -3.0), pair("x", 4.0), pair("x", -1.0, source="b")])
    scored = validation_scores([first, other], needed=True)
    assert [[group.scores[0] for group in groups] for groups in scored] == [[1.0, -1.0, 2.0], [-3.0, 4.0, -1.0]]
    rule = find_rule(EnsembleRecipe(how="accuracy"), [first, other], scored, routes={})
    assert rule.weights == pytest.approx((2 / 3, 1 / 3))


def test_group_that_one_member_lacks_is_an_error(make: Make) -> None:
    """The first member has two groups with one id and the other member has one."""
    members = [make("first", groups=[pair("x", 1.0), pair("x", 1.0)]), make("other", groups=[pair("x", 1.0)])]
    with pytest.raises(ModelError, match="'other' was validated on other pairs than 'first': 1 groups are missing, 0"):
        validation_scores(members, needed=True)
    assert validation_scores(members, needed=False) == []


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_validation_scores_that_are_not_finite_are_refused(make: Make, score: float) -> None:
    """The error names the member, for every way to combine."""
    members = [make("good", [1.0, 2.0]), make("bad", [1.0, score])]
    with pytest.raises(ModelError, match=r"member 'bad' has validation scores that are NaN or infinite, in 1 groups"):
        validation_scores(members, needed=False)


@pytest.mark.parametrize(
    ("how", "text", "image"),
    [
        pytest.param("accuracy", (1.0, 0.0, 0.0), (0.0, 0.75, 0.25), id="accuracy"),  # 4, 3 and 1 of 4 are right
        pytest.param("confidence", (1.0, 0.0, 0.0), (0.0, 0.6, 0.4), id="confidence"),  # the means are 2, 1.5 and 1
    ],
)
def test_weights_of_each_route_sum_to_one(
    make: Make, how: Any, text: tuple[float, ...], image: tuple[float, ...]
) -> None:
    """The weights of a route are shares among its own members."""
    members = [make("t", [2.0, 2.0, 2.0, 2.0]), make("a", [3.0, 3.0, 3.0, -3.0]), make("b", [7.0, -1.0, -1.0, -1.0])]
    rule = find_rule(EnsembleRecipe(how=how), members, validation_scores(members, needed=True), routes=ROUTES)
    assert rule.weights_of(images=False) == pytest.approx(text)
    assert rule.weights_of(images=True) == pytest.approx(image)


def test_learned_weights_of_a_route_use_its_members_only(make: Make) -> None:
    """The text member keeps a positive weight on its route, although a regression on all members makes it negative.
    Weights and intervals of both routes equal a regression on their own members."""
    rng = np.random.default_rng(0)
    base, noise = rng.normal(size=60) + 0.8, rng.normal(size=60)
    # The first member cancels the noise of the others.
    margins = np.stack([0.3 * base + noise, base + noise, base + 0.5 * noise])
    members = [make(name, row.tolist()) for name, row in zip("tab", margins, strict=True)]
    scored = validation_scores(members, needed=True)
    recipe = EnsembleRecipe(how="learned", seed=3)
    assert find_rule(recipe, members, scored, routes={}).weights[0] < 0
    rule = find_rule(recipe, members, scored, routes=ROUTES)
    drawn_pairs = random.Random("3/a").sample(range(60), 60)  # the bootstrap depends on the order of pairs
    text_weights, text_intervals = logistic_weights(margins[:1, drawn_pairs], groups=drawn_pairs, seed=3)
    image_weights, image_intervals = logistic_weights(margins[1:, drawn_pairs], groups=drawn_pairs, seed=3)
    assert text_weights[0] > 0
    assert rule.text_weights == pytest.approx((*text_weights, 0.0, 0.0))
    assert rule.weights == pytest.approx((0.0, *image_weights))
    intervals = (rule.intervals_of(images=False)[0], *rule.intervals_of(images=True)[1:])
    assert np.array(intervals) == pytest.approx(np.array([*text_intervals, *image_intervals]))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        pytest.param("accuracy", "the accuracy of t gives no weights", id="accuracy"),
        pytest.param("confidence", "the confidence of t gives no weights", id="confidence"),
        pytest.param("learned", "the learned weights of t are all 0", id="learned"),
    ],
)
def test_route_without_positive_weights_is_refused(make: Make, how: Any, message: str) -> None:
    """The text member is always wrong or always tied, and the error names it."""
    margins = [0.0, 0.0] if how == "learned" else [-1.0, -2.0]
    members = [make("t", margins), make("a", [1.0, 2.0]), make("b", [2.0, 1.0])]
    scored = validation_scores(members, needed=True)
    with pytest.raises(ModelError, match=message):
        find_rule(EnsembleRecipe(how=how), members, scored, routes=ROUTES)


@pytest.mark.parametrize(("pairs", "expected"), [(1, 3), (2, 3), (7, 6), (9, 9), (100, 30)])
def test_pairs_are_drawn_evenly_from_the_sources(make: Make, pairs: int, expected: int) -> None:
    """Three sources have ten pairs each, and each gives at least one."""
    groups = [pair(f"{source}{index}", 1.0, source=source) for source in "abc" for index in range(10)]
    members = [make("first", groups=groups), make("other", groups=groups)]
    margins, places = drawn_margins(validation_scores(members, needed=True), pairs=pairs, seed=0)
    assert margins.shape == (2, expected)
    assert [sum(groups[place].source == source for place in places) for source in "abc"] == [expected // 3] * 3


@pytest.mark.parametrize(
    ("std", "message"),
    [
        (0.0, "member 'flat' has validation scores of mean 0 and standard deviation 0"),
        # The card of a model refuses these before the ensemble looks at its spread.
        (float("nan"), r"flat/model/reward_model\.json(.|\n)*'std': nan"),
        (float("inf"), r"flat/model/reward_model\.json(.|\n)*'std': inf"),
    ],
)
def test_scores_without_a_spread_are_refused(make: Make, std: float, message: str) -> None:
    """The error names the member whose scores cannot be standardised."""
    members = [make("good", [1.0], mean=0.0, std=1.0), make("flat", [1.0], mean=0.0, std=std)]
    with pytest.raises(ModelError, match=message):
        find_rule(EnsembleRecipe(how="standardised"), members, [], routes={})
