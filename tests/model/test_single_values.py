"""A text is no list of texts: what takes several values refuses one, whose letters it would take for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from basereward.errors import BaseRewardError, DataError, check_several
from basereward.evaluation.reports.evaluation_report import report
from basereward.evaluation.run_benchmark import evaluate
from basereward.inference.scorer import Scorer
from basereward.recipe import load_cells, load_recipe
from basereward.recipe.fragment import load_source
from basereward.training.ensembles.make import ensemble
from tests.helpers.support import checkpoint, group, picture
from tests.inference.test_scorer import scorer_of


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """Of a small Qwen2.5-VL."""
    return scorer_of(checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("model") / "m"))


@pytest.mark.parametrize("given", ["a cat", b"a cat", "", {"a cat"}, {"a cat": 1}, 7, None], ids=repr)
def test_one_response_is_no_list_of_responses(given: Any, scorer: Scorer) -> None:
    """Not in `score`, which gave a score a letter, nor for a prompt that was read; the error names the argument."""
    for score in (lambda: scorer.score("What?", given), lambda: scorer.prompt("What?").score(given)):
        with pytest.raises(DataError, match="responses"):
            score()


@pytest.mark.parametrize(
    "given", ["x.png", b"bytes", Path("x.png"), picture(0), None], ids=lambda given: type(given).__name__
)
def test_one_picture_is_no_list_of_pictures(given: Any, scorer: Scorer) -> None:
    """Whatever form it has."""
    for call in (lambda: scorer.score("What?", ["a"], images=given), lambda: scorer.prompt("What?", images=given)):
        with pytest.raises(DataError, match="images"):
            call()


@pytest.mark.parametrize("given", [group(), "abc"], ids=["group", "text"])
def test_one_group_is_no_list_of_groups(given: Any, scorer: Scorer) -> None:
    """Known at the call, before anything is read from what comes back."""
    with pytest.raises(DataError, match="groups"):
        scorer.score_groups(given)


def test_lists_tuples_and_generators_are_right(scorer: Scorer) -> None:
    """And give the same scores."""
    texts = ["a cat", "a dog"]
    expected = scorer.score("What?", texts)
    assert len(expected) == 2
    assert scorer.score("What?", tuple(texts)) == scorer.score("What?", (each for each in texts)) == expected  # type: ignore[arg-type]
    check_several(range(3), name="numbers", of="numbers")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: load_recipe("basereward", overrides="trainer.steps=3"), "overrides"),
        (lambda: load_cells("head_depth", overrides="trainer.steps=3"), "overrides"),
        (lambda: load_source("digits", overrides="size=3"), "overrides"),
        (lambda: evaluate("longer", "vl_rewardbench"), "benchmarks"),
        (lambda: evaluate("longer", ["vl_rewardbench"], overrides="data=x.jsonl"), "overrides"),
        (lambda: report("evaluations/a"), "evaluations"),
        (lambda: ensemble("run-1"), "models"),
        (lambda: ensemble(["run-1", "run-2"], text="run-1"), "text"),
    ],
)
def test_one_text_is_no_list_of_texts(call: Any, name: str) -> None:
    """In the functions behind the commands."""
    with pytest.raises(BaseRewardError, match=f"^{name} is one str"):
        call()
