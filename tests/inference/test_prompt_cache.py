"""Scoring against a cached prompt: the scores equal those of a single call, and the prompt is encoded once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from basereward.data.schema.group import Part, Turn
from basereward.errors import DataError, ModelError
from basereward.inference import prompt_cache as rollouts
from basereward.inference.prompt_cache import PromptScorer
from basereward.inference.scorer import Scorer
from basereward.model.families.processing import load_encoder
from basereward.model.reward_model import build_model
from basereward.recipe.schema import BackboneRecipe, BatchRecipe, LoraRecipe, ModelRecipe, Recipe, TrainerRecipe
from tests.helpers.families import write_tiny
from tests.helpers.own_forward import OwnForward, visual_group
from tests.helpers.support import TEXT, VISION, fill_adapters, picture

FolderOf = Callable[[str], Path]
ANSWERS = ["It is a seven.", "4", "This is the number eight, and I say it at some length.", "no"]


def scorer_of(
    folder: Path, *, lora: bool = False, precision: str = "32-true", max_tokens: int = 4096, layout: str = "tree"
) -> Scorer:
    """Return a scorer with random weights, and with non-zero adapters if `lora` is set."""
    recipe = Recipe(
        model=ModelRecipe(
            backbone=BackboneRecipe(path=str(folder)),
            lora=LoraRecipe(rank=4) if lora else None,
            head={"_target_": "mlp"},
        ),
        batch=BatchRecipe(layout=layout),  # type: ignore[arg-type]
        trainer=TrainerRecipe(precision=precision),  # type: ignore[arg-type]
    )
    model = build_model(recipe.model, path=str(folder), seed=0)
    torch.manual_seed(1)
    fill_adapters(model)
    return Scorer(model.eval(), encoder=load_encoder(folder, max_tokens=max_tokens), recipe=recipe)


@pytest.mark.parametrize("layout", ["tree", "plain"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", [*VISION, *TEXT])
def test_cached_scores_equal_a_single_call(family: str, lora: bool, layout: str, folder_of: FolderOf) -> None:
    """Scores do not depend on earlier calls, on the order of the responses or on the other responses of a call."""
    scorer = scorer_of(folder_of(family), lora=lora, layout=layout)
    images = [picture(0), picture(1)] if scorer.model.backbone.reads_images else []
    expected = dict(zip(ANSWERS, scorer.score("Which digits?", ANSWERS, images=images), strict=True))
    assert max(expected.values()) - min(expected.values()) > 1e-2
    prompt = scorer.prompt("Which digits?", images=images)
    for responses in (ANSWERS[:1], ANSWERS[2:], ANSWERS[1::-1], ANSWERS, ANSWERS[:1]):
        assert prompt.score(responses) == pytest.approx([expected[answer] for answer in responses], abs=1e-5)


@pytest.mark.parametrize("family", VISION)
def test_cached_scores_of_responses_with_images(family: str, folder_of: FolderOf, monkeypatch: Any) -> None:
    """They equal those of a single call, in any order and pass size, with images in the prompt, in responses or both;
    the vision tower encodes those of the responses alone."""
    scorer = scorer_of(folder_of(family))
    texts = ["It is <image> a seven.", "4", "", "<image> or <image>?"]
    drawn = [[picture(2)], [], [picture(0)], [picture(3), picture(2)]]
    transformer: Any = scorer.model.backbone.transformer
    encode = transformer.get_image_features
    calls: list[int] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return encode(*arguments, **options)

    for images in ([picture(0), picture(1)], []):
        expected = scorer.score("Which digits?", texts, images=images, response_images=drawn)
        prompt = scorer.prompt("Which digits?", images=images)
        calls.clear()
        monkeypatch.setattr(transformer, "get_image_features", counted)
        assert prompt.score(texts, response_images=drawn) == pytest.approx(expected, abs=1e-5)
        assert len(calls) == 1
        monkeypatch.setattr(rollouts, "MAX_BRANCH_TOKENS", 1)
        order = [2, 0, 3, 1]
        again = prompt.score([texts[i] for i in order], response_images=[drawn[i] for i in order])
        assert again == pytest.approx([expected[i] for i in order], abs=1e-5)
        assert prompt.score(["4"]) == pytest.approx([expected[1]], abs=1e-5)
        monkeypatch.undo()


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_cached_scores_are_those_of_transformers(family: str, folder_of: FolderOf) -> None:
    """A cached prompt with an image and a video, and responses with images: each score is that of the head on the last
    state of transformers' own forward of the whole conversation."""
    scorer, own = scorer_of(folder_of(family)), OwnForward(folder_of(family), family)
    sample = visual_group(drawn=True)
    prompt = PromptScorer(scorer, scorer.encode(sample))
    expected = []
    for row in range(len(sample.responses)):
        _, states = own(sample, row)
        with torch.no_grad():
            expected.append(float(scorer.model.head(states[-1:])))
    assert abs(expected[0] - expected[1]) > 1e-2
    for _ in range(2):
        assert prompt.score_group(sample) == pytest.approx(expected, abs=1e-5)
    # The prompt of the group that is scored is not read: it is the one of the cache.
    other = replace(sample, prompt=(Turn("user", (Part("Draw."),)),), images=())
    assert prompt.score_group(other) == pytest.approx(expected, abs=1e-5)


def test_prompt_and_images_are_encoded_once(folder_of: FolderOf) -> None:
    """The vision tower runs for the prompt only, and later calls process no more tokens than their responses have."""
    scorer = scorer_of(folder_of("qwen2_5_vl"))
    transformer: Any = scorer.model.backbone.transformer
    calls = {"vision": 0}
    tokens: list[int] = []

    def count_call(*_: object) -> None:
        calls["vision"] += 1

    transformer.visual.register_forward_hook(count_call)
    transformer.language_model.embed_tokens.register_forward_hook(
        lambda _, inputs, __: tokens.append(inputs[0].numel())
    )
    prompt = scorer.prompt("Which digit?", images=[picture(0)])
    assert calls["vision"] == 1
    (prefix,) = tokens
    for answer in ANSWERS:
        prompt.score([answer])
    assert calls["vision"] == 1
    assert tokens == [prefix, *(len(scorer.encoder.branch(answer)) for answer in ANSWERS)]


def test_scores_do_not_depend_on_the_pass_size(folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any number of tokens in a forward pass the scores are the same and in order."""
    scorer = scorer_of(folder_of("qwen2_5_vl"))
    prompt = scorer.prompt("Which digit?", images=[picture(0)])
    expected = scorer.score("Which digit?", ANSWERS * 3, images=[picture(0)])
    for tokens in (1, 30, 2048):
        monkeypatch.setattr(rollouts, "MAX_BRANCH_TOKENS", tokens)
        assert prompt.score(ANSWERS * 3) == pytest.approx(expected, abs=1e-5)


def test_prompts_of_one_scorer_are_independent(folder_of: FolderOf) -> None:
    """Two prompts of one scorer are scored in turns, with full calls between them, and keep their scores."""
    scorer = scorer_of(folder_of("qwen2_5_vl"), lora=True)
    image_prompt, text_prompt = scorer.prompt("Which digit?", images=[picture(0)]), scorer.prompt("Is 4 more than 3?")
    for _ in range(2):
        expected = scorer.score("Which digit?", ANSWERS, images=[picture(0)])
        assert image_prompt.score(ANSWERS) == pytest.approx(expected, abs=1e-5)
        assert text_prompt.score(ANSWERS) == pytest.approx(scorer.score("Is 4 more than 3?", ANSWERS), abs=1e-5)


def test_precision_is_that_of_training(folder_of: FolderOf) -> None:
    """In bf16-mixed the scores agree to the rounding of bfloat16 and differ from those in float32."""
    mixed, full = (scorer_of(folder_of("qwen2_5_vl"), precision=name) for name in ("bf16-mixed", "32-true"))
    rounded = mixed.prompt("Which digit?").score(ANSWERS)
    assert rounded == pytest.approx(mixed.score("Which digit?", ANSWERS), abs=2e-2)
    assert rounded != pytest.approx(full.score("Which digit?", ANSWERS), abs=1e-6)


def test_invalid_responses_are_refused(folder_of: FolderOf) -> None:
    """The prompt refuses what `score` refuses: responses that are too long, empty or not text.

    It can still be used after an error.
    """
    scorer = scorer_of(folder_of("llama"), max_tokens=200)
    prompt = scorer.prompt("Which is larger?")
    longest = 200 - len(prompt._group.prefix) - 1
    with pytest.raises(DataError, match=r"201 tokens; data\.encoding\.max_tokens allows 200"):
        prompt.score(["yes", "9" * (longest + 1)])
    with pytest.raises(DataError, match="a list of at least one response"):
        prompt.score([])
    with pytest.raises(DataError, match=r"responses\[1\]"):
        prompt.score(["yes", None])  # type: ignore[list-item]
    turns = [{"role": "user", "content": "And 5?"}, {"role": "assistant", "content": "no"}]
    with pytest.raises(DataError, match="turns before the responses differ"):
        prompt.score([turns])  # type: ignore[list-item]
    with pytest.raises(DataError, match="half of a surrogate pair"):
        prompt.score(["yes", "no\ud800"])
    with pytest.raises(DataError, match="too_long"):
        scorer.prompt("9" * 300)
    answers = ["yes", "9" * longest]
    assert prompt.score(answers) == pytest.approx(scorer.score("Which is larger?", answers), abs=1e-5)


@pytest.mark.parametrize("layout", ["tree", "plain"])
def test_cached_prompt_respects_sliding_windows(layout: str, folder_of: FolderOf, tmp_path: Path) -> None:
    """With a layer that attends in windows of eight tokens, a cached prompt gives the scores of a single call."""
    folder = tmp_path / "windows"
    shutil.copytree(folder_of("qwen2"), folder)
    config = json.loads((folder / "config.json").read_text())
    full_attention_scores = scorer_of(folder).score("Which digits?", ANSWERS)
    config |= {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    (folder / "config.json").write_text(json.dumps(config))
    scorer = scorer_of(folder, layout=layout)
    expected = scorer.score("Which digits?", ANSWERS)
    assert expected != pytest.approx(full_attention_scores, abs=1e-3), "the window has no effect"
    prompt = scorer.prompt("Which digits?")
    assert prompt.score(ANSWERS) == pytest.approx(expected, abs=1e-5)
    assert prompt.score(ANSWERS[:1]) == pytest.approx(expected[:1], abs=1e-5)


def test_plain_row_backbone_refuses_a_cached_prompt(folder_of: FolderOf, tmp_path: Path) -> None:
    """The error names the family of the backbone, also with the plain layout in the recipe."""
    write_tiny("bloom", tmp_path)
    recipe = replace(scorer_of(folder_of("qwen2")).recipe, batch=BatchRecipe(layout="plain"))
    model = build_model(replace(recipe.model, backbone=BackboneRecipe(path=str(tmp_path))), path=str(tmp_path), seed=0)
    with pytest.raises(ModelError, match="bloom"):
        Scorer(model.eval(), encoder=load_encoder(folder_of("qwen2")), recipe=recipe).prompt("Which?")


def test_other_responses_change_a_score_by_rounding_only(folder_of: FolderOf) -> None:
    """A score alone, with other responses and with a cached prompt differs by less than 5e-6, a few units in the last
    place of a float32 near 1."""
    scorer = scorer_of(folder_of("llama"))
    answers = [f"{number} is right." for number in range(12)]
    together = scorer.score("Which is larger, 3 or 7?", answers)
    alone = [scorer.score("Which is larger, 3 or 7?", [answer])[0] for answer in answers]
    assert alone == pytest.approx(together, rel=0, abs=5e-6)
    assert scorer.prompt("Which is larger, 3 or 7?").score(answers) == pytest.approx(together, rel=0, abs=5e-6)
