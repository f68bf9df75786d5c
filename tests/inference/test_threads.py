"""Eight threads that share a model get the floats of one thread, and a pass leaves no trace in the process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from basereward.inference.aggregation import Rule
from basereward.inference.ensemble import Ensemble, Member, model_digest
from basereward.inference.reward_scorer import RewardScorer
from basereward.inference.scorer import Scorer, load_scorer
from basereward.model.families.processing import recipe_encoder
from basereward.model.reward_model import build_model
from basereward.recipe.schema import BackboneRecipe, DataRecipe, ModelRecipe, Recipe
from tests.helpers.served_model import save_scored_model
from tests.helpers.support import checkpoint, picture

THREADS = 8
ROUNDS = 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save a small Qwen2.5-VL with each kind of head; random weights of one seed, so their backbones are equal."""
    root = tmp_path_factory.mktemp("threads")
    return {head: save_scored_model(root / head, head=head) for head in ("linear", "mlp")}


@pytest.fixture(scope="module")
def scorer(folders: dict[str, Path]) -> Scorer:
    """Open one of the models."""
    return load_scorer(folders["mlp"])


@pytest.fixture(scope="module")
def ensemble(folders: dict[str, Path]) -> Ensemble:
    """Open both models as an ensemble, whose members share one backbone."""
    members = [Member(head, folder, model_digest(folder)) for head, folder in folders.items()]
    opened = Ensemble(members, Rule("pessimistic", members=2))
    assert len(opened.scorers) == 1
    return opened


CALLS: list[dict[str, Any]] = [
    {
        "prompt": f"Question {index}: " + "which one? " * (1 + index % 4),
        "responses": ["yes " * (1 + index % 5), "no", "7", "It is a seven."][: 1 + index % 4],
        "images": [picture(index + k) for k in range(index % 3)],
    }
    for index in range(THREADS)
]
"""Prompts of different lengths, with no, one and two images and one to four responses."""


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """Return what each of eight threads returns; all begin together, so that their passes overlap."""
    barrier = threading.Barrier(THREADS)

    def begin(index: int) -> Any:
        barrier.wait()
        return work(index)

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(begin, range(THREADS)))


def rounds(score: Callable[..., Any], index: int, calls: Sequence[dict[str, Any]]) -> list[Any]:
    """Return the scores of all calls in several rounds, beginning with the one of this index."""
    order = [(index + step) % len(calls) for step in range(len(calls))]
    return [(place, score(**calls[place])) for _ in range(ROUNDS) for place in order]


@pytest.mark.parametrize("kind", ["scorer", "ensemble"])
def test_score_in_eight_threads(kind: str, request: pytest.FixtureRequest) -> None:
    """Every thread scores every prompt in another order, and gets the same floats as alone."""
    model: RewardScorer = request.getfixturevalue(kind)
    expected = [model.score(**call) for call in CALLS]
    assert len({scores[0] for scores in expected}) == len(CALLS), "the prompts differ, or nothing is compared"
    for results in at_once(lambda index: rounds(model.score, index, CALLS)):
        assert results == [(place, expected[place]) for place, _ in results]


@pytest.mark.parametrize("kind", ["scorer", "ensemble"])
def test_rows_in_eight_threads(kind: str, request: pytest.FixtureRequest) -> None:
    """Passes that hold several prompts do not mix with those of other threads."""
    model: RewardScorer = request.getfixturevalue(kind)
    rows_of = [[CALLS[(first + step) % THREADS] for step in range(4)] for first in range(THREADS)]
    expected = [model.score_rows(rows, tokens=300) for rows in rows_of]
    assert at_once(lambda index: [model.score_rows(rows_of[index], tokens=300) for _ in range(ROUNDS)]) == [
        [scores] * ROUNDS for scores in expected
    ]


def test_one_prompt_in_eight_threads(scorer: Scorer) -> None:
    """Threads that share the keys and values of a prompt do not see each other's responses."""
    prompt = scorer.prompt("Which digit?", images=[picture(1)])
    responses = [["It is " * (1 + index), "4"][: 1 + index % 2] for index in range(THREADS)]
    expected = [prompt.score(texts) for texts in responses]
    assert at_once(lambda index: [prompt.score(responses[index]) for _ in range(ROUNDS)]) == [
        [scores] * ROUNDS for scores in expected
    ]


def test_one_undecoded_image_in_eight_threads(scorer: Scorer, tmp_path: Path) -> None:
    """PIL decodes a file when its pixels are first read, which here eight threads do at once."""
    picture(2, side=448).save(tmp_path / "2.png")
    expected = scorer.score("Which digit?", ["4"], images=[tmp_path / "2.png"])
    for _ in range(ROUNDS):
        image = PIL.Image.open(tmp_path / "2.png")
        scores = at_once(lambda _, image=image: scorer.score("Which digit?", ["4"], images=[image]))  # type: ignore[misc]
        assert scores == [expected] * THREADS


def test_pass_changes_no_setting_of_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers makes models in the data type of their configuration by changing torch's default for all threads.

    A critic in bfloat16 makes one for every text, and the first image makes one too; the default stays as it is."""
    path = checkpoint("qwen2_5_vl", tmp_path / "backbone")
    config = json.loads((path / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "bfloat16"
    (path / "config.json").write_text(json.dumps(config))
    head = {"_target_": "critic", "max_tokens": 3, "prompt": "critique_brief"}
    recipe = Recipe(
        model=ModelRecipe(backbone=BackboneRecipe(path=str(path), dtype="bfloat16"), head=head),
        data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}),
    )
    encoder = recipe_encoder(recipe, path=str(path))
    model = build_model(recipe.model, path=str(path), seed=0, encoder=encoder).eval()
    changes: list[torch.dtype] = []
    change = torch.set_default_dtype

    def record(dtype: torch.dtype) -> None:
        changes.append(dtype)
        change(dtype)

    monkeypatch.setattr(torch, "set_default_dtype", record)
    scores = Scorer(model, encoder=encoder, recipe=recipe).score("Which digit?", ["4", "7"], images=[picture(1)])
    assert len(scores) == 2
    assert changes, "transformers makes models in another way now"
    assert set(changes) == {torch.float32}
