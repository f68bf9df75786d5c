"""Answers in several calls: the scores of one call, and the prompt read once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from basereward.errors import DataError, ModelError
from basereward.inference import prompt_cache as rollouts
from basereward.inference.scorer import Scorer
from basereward.model.families.processing import load_encoder
from basereward.model.reward_model import build_model
from basereward.recipe.schema import BackboneRecipe, BatchRecipe, LoraRecipe, ModelRecipe, Recipe, TrainerRecipe
from tests.helpers.families import write_tiny
from tests.helpers.support import TEXT, VISION, picture

FolderOf = Callable[[str], Path]
ANSWERS = ["It is a seven.", "4", "This is the number eight, and I say it at some length.", "no"]


def scorer_of(
    folder: Path, *, lora: bool = False, precision: str = "32-true", max_tokens: int = 4096, layout: str = "tree"
) -> Scorer:
    """A scorer with random weights; adapters, when there are any, do something."""
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
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # B starts at zero, and does nothing
            nn.init.normal_(parameter, std=0.1)
    return Scorer(model.eval(), encoder=load_encoder(folder, max_tokens=max_tokens), recipe=recipe)


@pytest.mark.parametrize("layout", ["tree", "plain"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("family", [*VISION, *TEXT])
def test_scores_are_those_of_one_call(family: str, lora: bool, layout: str, folder_of: FolderOf) -> None:
    """Whatever answers came before, in which order and with how many others."""
    scorer = scorer_of(folder_of(family), lora=lora, layout=layout)
    images = [picture(0), picture(1)] if scorer.model.backbone.reads_images else []
    expected = dict(zip(ANSWERS, scorer.score("Which digits?", ANSWERS, images=images), strict=True))
    assert max(expected.values()) - min(expected.values()) > 1e-2
    asked = scorer.prompt("Which digits?", images=images)
    for some in (ANSWERS[:1], ANSWERS[2:], ANSWERS[1::-1], ANSWERS, ANSWERS[:1]):
        assert asked.score(some) == pytest.approx([expected[answer] for answer in some], abs=1e-5)


def test_a_prompt_and_its_pictures_are_read_once(folder_of: FolderOf) -> None:
    """The vision tower runs for the prompt alone, and no call reads more tokens than its answers have."""
    scorer = scorer_of(folder_of("qwen2_5_vl"))
    transformer: Any = scorer.model.backbone.transformer
    calls = {"vision": 0}
    tokens: list[int] = []

    def saw(*_: object) -> None:
        calls["vision"] += 1

    transformer.visual.register_forward_hook(saw)
    transformer.language_model.embed_tokens.register_forward_hook(lambda _, given, __: tokens.append(given[0].numel()))
    asked = scorer.prompt("Which digit?", images=[picture(0)])
    assert calls["vision"] == 1
    (prefix,) = tokens
    for answer in ANSWERS:
        asked.score([answer])
    assert calls["vision"] == 1
    assert tokens == [prefix, *(len(scorer.encoder.branch(answer)) for answer in ANSWERS)]


def test_many_answers_share_passes(folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tokens a pass takes, the scores are the same and in order."""
    scorer = scorer_of(folder_of("qwen2_5_vl"))
    asked = scorer.prompt("Which digit?", images=[picture(0)])
    expected = scorer.score("Which digit?", ANSWERS * 3, images=[picture(0)])
    for tokens in (1, 30, 2048):
        monkeypatch.setattr(rollouts, "MAX_BRANCH_TOKENS", tokens)
        assert asked.score(ANSWERS * 3) == pytest.approx(expected, abs=1e-5)


def test_prompts_do_not_meet(folder_of: FolderOf) -> None:
    """Two prompts of one scorer take turns, with whole batches between them."""
    scorer = scorer_of(folder_of("qwen2_5_vl"), lora=True)
    one, other = scorer.prompt("Which digit?", images=[picture(0)]), scorer.prompt("Is 4 more than 3?")
    for _ in range(2):
        expected = scorer.score("Which digit?", ANSWERS, images=[picture(0)])
        assert one.score(ANSWERS) == pytest.approx(expected, abs=1e-5)
        assert other.score(ANSWERS) == pytest.approx(scorer.score("Is 4 more than 3?", ANSWERS), abs=1e-5)


def test_the_precision_is_that_of_training(folder_of: FolderOf) -> None:
    """In bf16-mixed the scores agree to the rounding of bfloat16, and are not those of float32."""
    mixed, single = (scorer_of(folder_of("qwen2_5_vl"), precision=name) for name in ("bf16-mixed", "32-true"))
    rounded = mixed.prompt("Which digit?").score(ANSWERS)
    assert rounded == pytest.approx(mixed.score("Which digit?", ANSWERS), abs=2e-2)
    assert rounded != pytest.approx(single.score("Which digit?", ANSWERS), abs=1e-6)


def test_answers_that_cannot_be_scored_are_refused(folder_of: FolderOf) -> None:
    """As `score` refuses them: too long with the prompt, none at all, no text; the prompt stays of use."""
    scorer = scorer_of(folder_of("llama"), max_tokens=200)
    asked = scorer.prompt("Which is larger?")
    longest = 200 - len(asked._group.prefix) - 1
    with pytest.raises(DataError, match=r"201 tokens; data\.encoding\.max_tokens allows 200"):
        asked.score(["yes", "9" * (longest + 1)])
    with pytest.raises(DataError, match="a list of at least one response"):
        asked.score([])
    with pytest.raises(DataError, match=r"responses\[1\]"):
        asked.score(["yes", None])  # type: ignore[list-item]
    turns = [{"role": "user", "content": "And 5?"}, {"role": "assistant", "content": "no"}]
    with pytest.raises(DataError, match="turns before the responses differ"):
        asked.score([turns])  # type: ignore[list-item]
    with pytest.raises(DataError, match="half of a surrogate pair"):
        asked.score(["yes", "no\ud800"])
    with pytest.raises(DataError, match="too_long"):
        scorer.prompt("9" * 300)
    answers = ["yes", "9" * longest]
    assert asked.score(answers) == pytest.approx(scorer.score("Which is larger?", answers), abs=1e-5)


@pytest.mark.parametrize("layout", ["tree", "plain"])
def test_answers_keep_the_windows_of_the_layers(layout: str, folder_of: FolderOf, tmp_path: Path) -> None:
    """After a cached prompt an answer sees no more of it than in one call: a layer in windows of eight tokens."""
    folder = tmp_path / "windows"
    shutil.copytree(folder_of("qwen2"), folder)
    config = json.loads((folder / "config.json").read_text())
    scores = scorer_of(folder).score("Which digits?", ANSWERS)
    config |= {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    (folder / "config.json").write_text(json.dumps(config))
    scorer = scorer_of(folder, layout=layout)
    expected = scorer.score("Which digits?", ANSWERS)
    assert expected != pytest.approx(scores, abs=1e-3), "the window does nothing"
    asked = scorer.prompt("Which digits?")
    assert asked.score(ANSWERS) == pytest.approx(expected, abs=1e-5)
    assert asked.score(ANSWERS[:1]) == pytest.approx(expected[:1], abs=1e-5)


def test_a_backbone_that_takes_plain_rows_only_reads_no_prompt_apart(folder_of: FolderOf, tmp_path: Path) -> None:
    """The error names its family, whatever the layout of the recipe."""
    write_tiny("bloom", tmp_path)
    recipe = replace(scorer_of(folder_of("qwen2")).recipe, batch=BatchRecipe(layout="plain"))
    model = build_model(replace(recipe.model, backbone=BackboneRecipe(path=str(tmp_path))), path=str(tmp_path), seed=0)
    with pytest.raises(ModelError, match="bloom"):
        Scorer(model.eval(), encoder=load_encoder(folder_of("qwen2")), recipe=recipe).prompt("Which?")


def test_the_company_of_an_answer_moves_its_score_in_the_last_bits_alone(folder_of: FolderOf) -> None:
    """A score alone, with others, and after a prompt that was read apart differ by a few units in the last place of a
    float32: by less than 5e-6, where scores are about 1."""
    scorer = scorer_of(folder_of("llama"))
    answers = [f"{number} is right." for number in range(12)]
    together = scorer.score("Which is larger, 3 or 7?", answers)
    alone = [scorer.score("Which is larger, 3 or 7?", [answer])[0] for answer in answers]
    assert alone == pytest.approx(together, rel=0, abs=5e-6)
    assert scorer.prompt("Which is larger, 3 or 7?").score(answers) == pytest.approx(together, rel=0, abs=5e-6)
