"""Functions that take several values refuse a single str, which Python would iterate letter by letter."""

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
    """Return a scorer of a small Qwen2.5-VL."""
    return scorer_of(checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("model") / "m"))


@pytest.mark.parametrize("responses", ["a cat", b"a cat", "", {"a cat"}, {"a cat": 1}, 7, None], ids=repr)
def test_single_response_is_refused(responses: Any, scorer: Scorer) -> None:
    """`score` of a scorer and of a prompt refuses a value that is not a list of responses and names the argument."""
    for score in (lambda: scorer.score("What?", responses), lambda: scorer.prompt("What?").score(responses)):
        with pytest.raises(DataError, match="responses"):
            score()


@pytest.mark.parametrize(
    "image", ["x.png", b"bytes", Path("x.png"), picture(0), None], ids=lambda image: type(image).__name__
)
def test_single_image_is_refused(image: Any, scorer: Scorer) -> None:
    """`score` and `prompt` refuse a single image of any type."""
    for call in (lambda: scorer.score("What?", ["a"], images=image), lambda: scorer.prompt("What?", images=image)):
        with pytest.raises(DataError, match="images"):
            call()


@pytest.mark.parametrize("groups", [group(), "abc"], ids=["group", "text"])
def test_single_group_is_refused(groups: Any, scorer: Scorer) -> None:
    """The error is raised by the call, before the returned generator is read."""
    with pytest.raises(DataError, match="groups"):
        scorer.score_groups(groups)


def test_lists_tuples_and_generators_are_accepted(scorer: Scorer) -> None:
    """A list, a tuple and a generator of the same responses give the same scores."""
    texts = ["a cat", "a dog"]
    expected = scorer.score("What?", texts)
    assert len(expected) == 2
    assert scorer.score("What?", tuple(texts)) == scorer.score("What?", (text for text in texts)) == expected  # type: ignore[arg-type]
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
def test_single_text_is_refused(call: Any, name: str) -> None:
    """The functions behind the commands refuse one str for a list of texts."""
    with pytest.raises(BaseRewardError, match=f"^{name} is one str"):
        call()
