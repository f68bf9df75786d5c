"""Weights from validation scores that a test writes, by hand."""

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
    """A member whose run kept such margins: one pair a group, or the groups themselves."""

    def member(name: str, margins: Sequence[float] = (), *, groups: Sequence[ScoredGroup] = (), **scores: float) -> Any:
        run = tmp_path / name
        (run / "scores").mkdir(parents=True)
        (run / "model").mkdir()
        backbone = {"path": None, "revision": None, "fingerprint": None, "dtype": "float32", "quantization": None}
        card = {"format": 1, "kind": "full", "head": {"_target_": "mlp"}, "backbone": backbone, "scores": scores}
        (run / "model" / "reward_model.json").write_text(json.dumps(card))
        write_scores(run / "scores" / "val.jsonl", groups or [pair(f"{i}", m) for i, m in enumerate(margins)])
        return Member(name, run / "model", name)

    return member


def pair(name: str, margin: float, *, source: str = "a") -> ScoredGroup:
    """A group of two answers."""
    return ScoredGroup(name, source, [margin, 0.0], [1, 1], [(0, 1, False)])


def test_groups_of_one_id_are_all_kept(make: Make) -> None:
    """Three of them, two with one id and one with that id in another source; accuracies 2/3 and 1/3."""
    first = make("first", groups=[pair("x", 1.0), pair("x", -1.0), pair("x", 2.0, source="b")])
    other = make("other", groups=[pair("x", -3.0), pair("x", 4.0), pair("x", -1.0, source="b")])
    scored = validation_scores([first, other], needed=True)
    assert [[group.scores[0] for group in groups] for groups in scored] == [[1.0, -1.0, 2.0], [-3.0, 4.0, -1.0]]
    rule = find_rule(EnsembleRecipe(how="accuracy"), [first, other], scored, routes={})
    assert rule.weights == pytest.approx((2 / 3, 1 / 3))


def test_a_group_that_one_member_has_twice_is_told(make: Make) -> None:
    """The second of one id is missing from the other's."""
    members = [make("first", groups=[pair("x", 1.0), pair("x", 1.0)]), make("other", groups=[pair("x", 1.0)])]
    with pytest.raises(ModelError, match="'other' was validated on other pairs than 'first': 1 groups are missing, 0"):
        validation_scores(members, needed=True)
    assert validation_scores(members, needed=False) == []


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_validation_scores_that_are_no_numbers_name_the_member(make: Make, score: float) -> None:
    """Whatever the way to combine, since they are no member's."""
    members = [make("good", [1.0, 2.0]), make("bad", [1.0, score])]
    with pytest.raises(ModelError, match=r"member 'bad' has validation scores that are NaN or infinite, in 1 groups"):
        validation_scores(members, needed=False)


@pytest.mark.parametrize(
    ("how", "text", "image"),
    [
        pytest.param("accuracy", (1.0, 0.0, 0.0), (0.0, 0.75, 0.25), id="accuracy"),  # right: 4, 3 and 1 of 4
        pytest.param("confidence", (1.0, 0.0, 0.0), (0.0, 0.6, 0.4), id="confidence"),  # means: 2, 1.5, 1
    ],
)
def test_shares_are_of_the_members_that_are_asked(
    make: Make, how: Any, text: tuple[float, ...], image: tuple[float, ...]
) -> None:
    """They sum to one on either route."""
    members = [make("t", [2.0, 2.0, 2.0, 2.0]), make("a", [3.0, 3.0, 3.0, -3.0]), make("b", [7.0, -1.0, -1.0, -1.0])]
    rule = find_rule(EnsembleRecipe(how=how), members, validation_scores(members, needed=True), routes=ROUTES)
    assert rule.weights_of(images=False) == pytest.approx(text)
    assert rule.weights_of(images=True) == pytest.approx(image)


def test_learned_weights_of_a_route_are_learned_of_its_members(make: Make) -> None:
    """The one that is alone for text keeps its sign, though beside the others it would take theirs back; both routes
    are as a regression on their own members makes them, and so are the intervals."""
    rng = np.random.default_rng(0)
    base, noise = rng.normal(size=60) + 0.8, rng.normal(size=60)
    margins = np.stack([0.3 * base + noise, base + noise, base + 0.5 * noise])  # the first takes off the others' noise
    members = [make(name, row.tolist()) for name, row in zip("tab", margins, strict=True)]
    scored = validation_scores(members, needed=True)
    recipe = EnsembleRecipe(how="learned", seed=3)
    assert find_rule(recipe, members, scored, routes={}).weights[0] < 0
    rule = find_rule(recipe, members, scored, routes=ROUTES)
    drawn = random.Random("3/a").sample(range(60), 60)  # the bootstrap depends on the order of pairs
    alone, around = logistic_weights(margins[:1, drawn], groups=drawn, seed=3)
    pictures, between = logistic_weights(margins[1:, drawn], groups=drawn, seed=3)
    assert alone[0] > 0
    assert rule.text_weights == pytest.approx((*alone, 0.0, 0.0))
    assert rule.weights == pytest.approx((0.0, *pictures))
    intervals = (rule.intervals_of(images=False)[0], *rule.intervals_of(images=True)[1:])
    assert np.array(intervals) == pytest.approx(np.array([*around, *between]))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        pytest.param("accuracy", "the accuracy of t gives no weights", id="accuracy"),
        pytest.param("confidence", "the confidence of t gives no weights", id="confidence"),
        pytest.param("learned", "the learned weights of t are all 0", id="learned"),
    ],
)
def test_a_route_without_weight_names_its_members(make: Make, how: Any, message: str) -> None:
    """Always wrong, or never decided."""
    margins = [0.0, 0.0] if how == "learned" else [-1.0, -2.0]
    members = [make("t", margins), make("a", [1.0, 2.0]), make("b", [2.0, 1.0])]
    scored = validation_scores(members, needed=True)
    with pytest.raises(ModelError, match=message):
        find_rule(EnsembleRecipe(how=how), members, scored, routes=ROUTES)


@pytest.mark.parametrize(("pairs", "taken"), [(1, 3), (2, 3), (7, 6), (9, 9), (100, 30)])
def test_pairs_are_as_many_of_each_source_and_at_least_one(make: Make, pairs: int, taken: int) -> None:
    """Of three sources of ten pairs."""
    groups = [pair(f"{source}{i}", 1.0, source=source) for source in "abc" for i in range(10)]
    members = [make("first", groups=groups), make("other", groups=groups)]
    margins, places = drawn_margins(validation_scores(members, needed=True), pairs=pairs, seed=0)
    assert margins.shape == (2, taken)
    assert [sum(groups[place].source == source for place in places) for source in "abc"] == [taken // 3] * 3


@pytest.mark.parametrize("std", [0.0, float("nan"), float("inf")])
def test_scores_without_a_spread_cannot_be_standardised(make: Make, std: float) -> None:
    """The member is named."""
    members = [make("good", [1.0], mean=0.0, std=1.0), make("flat", [1.0], mean=0.0, std=std)]
    with pytest.raises(
        ModelError, match=rf"member 'flat' has validation scores of mean 0 and standard deviation {std:g}"
    ):
        find_rule(EnsembleRecipe(how="standardised"), members, [], routes={})
