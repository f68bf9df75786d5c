"""The pooled states that the head reads, for every pooling, compared with a reduction of the states of transformers'
own model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.encoding.encoder import EncodedGroup
from basereward.errors import ModelError
from basereward.inference.scorer import Scorer, load_scorer
from basereward.model.backbone import load_backbone
from basereward.model.families.processing import load_encoder
from basereward.model.heads.generative import Generative
from basereward.model.lora import add_lora
from basereward.model.pooling import READS, Pooling
from basereward.model.reward_model import RewardModel, build_model
from basereward.recipe import find_faults
from basereward.recipe.schema import BackboneRecipe, BatchRecipe, DataRecipe, LoraRecipe, ModelRecipe, Recipe
from tests.helpers.support import encoded_group, gradients, group, mixed_groups, picture

FolderOf = Callable[[str], Path]
NAMES: tuple[Any, ...] = tuple(READS)
LAYOUTS: tuple[Any, ...] = ("tree", "plain")
ANSWERS = ["It is a seven.", "", "4", "This is the number eight, and I say it at some length."]


def encoded_groups(path: Path, *, vision: bool) -> list[EncodedGroup]:
    """Return groups of many shapes, with empty responses at the start and the end of a group."""
    encoder = load_encoder(path)
    groups = [*mixed_groups(vision=vision), group("Say no more.", ("", "no", ""), name="empty")]
    return [encoder(item) for item in groups]


def reduce_states(name: str, states: Tensor) -> Tensor:
    """Reduce the states `(L, D)` of a branch, whose last state is the end of turn, to one state."""
    if name == "mean":
        return states.sum(0) / len(states)
    return states[-1] if name == "last" or len(states) == 1 else states[-2]


def reference_states(model: Any, groups: list[EncodedGroup], name: str) -> Tensor:
    """Return pooled states `(B, D)` from one call of transformers' own model per response."""
    pooled = []
    for encoded in groups:
        for number, branch in enumerate(encoded.branches):
            ids = torch.cat([encoded.prefix, branch])[None]
            options: dict[str, Any] = {}
            own = encoded.branch_images[number].images if encoded.branch_images else ()
            indices = [*encoded.prefix_images, *own]
            if encoded.pixels is not None and encoded.images_thw is not None and indices:
                patches = encoded.pixels.values.split(encoded.images_thw.prod(-1).tolist())
                options = {"pixel_values": torch.cat([patches[index] for index in indices])}
                options["image_grid_thw"] = encoded.images_thw[indices]
                options["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
            hidden = model(input_ids=ids, **options).last_hidden_state[0]
            pooled.append(reduce_states(name, hidden[len(encoded.prefix) :]))
    return torch.stack(pooled)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llama"])
def test_states_and_gradients_equal_separate_sequences(
    family: str, name: Any, layout: Any, folder_of: FolderOf
) -> None:
    """States and gradients of a batch equal those of transformers' model on every response alone, reduced by hand."""
    path = folder_of(family)
    groups = encoded_groups(path, vision=family == "qwen2_5_vl")
    reference = AutoModel.from_pretrained(path, attn_implementation="eager").train()
    expected = reference_states(reference, groups, name)
    upstream = torch.randn_like(expected)
    torch.autograd.backward(expected, upstream)
    expected_gradients = {weight: gradient for weight, gradient in gradients(reference).items() if gradient.any()}
    backbone = load_backbone(path).train()
    actual = backbone(collate(groups, layout=layout, pad_id=0), pooling=Pooling(name))
    torch.testing.assert_close(actual, expected.detach(), rtol=1e-5, atol=1e-5)
    torch.autograd.backward(actual, upstream)
    actual_gradients = gradients(backbone.transformer)
    assert len(expected_gradients) >= 20
    for weight, gradient in expected_gradients.items():
        torch.testing.assert_close(
            actual_gradients[weight], gradient, rtol=1e-5, atol=1e-5 * float(gradient.norm() + 1)
        )


@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
@pytest.mark.parametrize("name", NAMES)
def test_restricted_last_layer_equals_the_full_layer(name: Any, checkpointing: bool, folder_of: FolderOf) -> None:
    """States and gradients equal those of a last layer that computes all tokens, with adapters in that layer."""
    path = folder_of("qwen2_5_vl")
    batch = collate(encoded_groups(path, vision=True), layout="tree", pad_id=0)
    backbone = load_backbone(path, gradient_checkpointing=checkpointing)
    backbone.model = add_lora(backbone.transformer, rank=2, alpha=4.0)
    torch.manual_seed(0)
    for weight, parameter in backbone.named_parameters():
        if "lora_B" in weight:
            torch.nn.init.normal_(parameter, std=0.1)
    backbone.train()
    full = Pooling(name)(backbone.hidden_states(batch), batch)
    upstream = torch.randn_like(full)
    torch.autograd.backward(full, upstream)
    expected = gradients(backbone)
    pooled = backbone(batch, pooling=Pooling(name))
    torch.testing.assert_close(pooled, full, rtol=1e-5, atol=1e-5)
    torch.autograd.backward(pooled, upstream)
    actual = gradients(backbone)
    assert actual.keys() == expected.keys()
    for weight, gradient in actual.items():
        torch.testing.assert_close(
            gradient, expected[weight], rtol=1e-5, atol=1e-5 * float(expected[weight].norm() + 1)
        )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "tokens"), [("last", 4), ("last_text", 4), ("mean", 15)])
def test_last_layer_computes_pooled_tokens_only(name: Any, tokens: int, layout: Any, folder_of: FolderOf) -> None:
    """The saved operations are exactly those of query, output and feed-forward network for every token that is not
    pooled."""
    backbone = load_backbone(folder_of("qwen2")).eval()
    batch = collate([encoded_group(6, [4, 1]), encoded_group(3, [8, 2])], layout=layout, pad_id=0)
    config = backbone.transformer.config
    flops_per_token = 2 * (2 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size)
    with torch.no_grad(), FlopCounterMode(display=False) as full_counter:
        backbone.hidden_states(batch)
    with torch.no_grad(), FlopCounterMode(display=False) as pooled_counter:
        backbone(batch, pooling=Pooling(name))
    linear_flops = [
        sum(flops for op, flops in counter.get_flop_counts()["Global"].items() if "mm" in str(op))
        for counter in (full_counter, pooled_counter)
    ]
    assert linear_flops[0] - linear_flops[1] == (batch.rows.input_ids.numel() - tokens) * flops_per_token


def scorer_of(folder: Path, name: Any, *, layout: Any = "tree", lora: bool = False) -> Scorer:
    """Return a scorer with random weights, also in its adapters."""
    recipe = Recipe(
        model=ModelRecipe(
            backbone=BackboneRecipe(path=str(folder)),
            lora=LoraRecipe(rank=4) if lora else None,
            head={"_target_": "mlp"},
            pooling=name,
        ),
        data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}),
        batch=BatchRecipe(layout=layout),
    )
    model = build_model(recipe.model, path=str(folder), seed=0)
    torch.manual_seed(1)
    for weight, parameter in model.named_parameters():
        if "lora_B" in weight:
            torch.nn.init.normal_(parameter, std=0.1)
    return Scorer(model.eval(), encoder=load_encoder(folder), recipe=recipe)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_score_depends_on_its_response_only(name: Any, layout: Any, folder_of: FolderOf) -> None:
    """Batch mates, padding, other groups and the order of the groups change no score."""
    path = folder_of("qwen2_5_vl")
    model = scorer_of(path, name).model
    groups = encoded_groups(path, vision=True)

    def score_groups(*members: EncodedGroup) -> Tensor:
        with torch.no_grad():
            scores: Tensor = model(collate(members, layout=layout, pad_id=0))
        return scores

    alone = torch.cat([score_groups(item) for item in groups])
    assert float(alone.std()) > 1e-2
    torch.testing.assert_close(score_groups(*groups), alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        score_groups(*groups[::-1]), torch.cat([score_groups(item) for item in groups[::-1]]), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_saved_model_keeps_its_pooling(lora: bool, folder_of: FolderOf, tmp_path: Path) -> None:
    """A loaded model gives the same scores, and the same weights with another pooling give other scores."""
    scores = {}
    for name in NAMES:
        scorer = scorer_of(folder_of("qwen2_5_vl"), name, lora=lora)
        scores[name] = scorer.score("Which digit?", ANSWERS, images=[picture(0)])
        scorer.save(tmp_path / name)
        loaded = load_scorer(tmp_path / name)
        assert loaded.model.pooling == Pooling(name)
        assert loaded.score("Which digit?", ANSWERS, images=[picture(0)]) == scores[name]
    for first_name, second_name in (("last", "last_text"), ("last", "mean"), ("last_text", "mean")):
        differences = [abs(a - b) for a, b in zip(scores[first_name], scores[second_name], strict=True)]
        assert differences[1] < 1e-5, "an empty response has only its end of turn"
        assert min(differences[0], differences[2], differences[3]) > 1e-3


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_cached_prompt_gives_the_same_scores(name: Any, layout: Any, folder_of: FolderOf) -> None:
    """The scores do not depend on which responses are scored together, also with an empty response first."""
    scorer = scorer_of(folder_of("qwen2_5_vl"), name, layout=layout)
    expected = dict(zip(ANSWERS, scorer.score("Which digit?", ANSWERS, images=[picture(0)]), strict=True))
    prompt = scorer.prompt("Which digit?", images=[picture(0)])
    for responses in (ANSWERS[1:], ANSWERS[:1], ANSWERS[1:2], ANSWERS[::-1]):
        assert prompt.score(responses) == pytest.approx([expected[answer] for answer in responses], abs=1e-5)


def test_last_pooling_returns_the_end_states_unchanged(folder_of: FolderOf) -> None:
    """The pooled states are bit-identical to the hidden states at the ends of the responses."""
    path = folder_of("qwen2_5_vl")
    batch: TreeBatch = collate(encoded_groups(path, vision=True), layout="tree", pad_id=0)
    backbone = load_backbone(path).eval()
    with torch.no_grad():
        hidden = backbone.hidden_states(batch, pooling=Pooling())
        assert torch.equal(backbone(batch), hidden[batch.rows.ends[:, 0], batch.rows.ends[:, 1]])


def test_a_mean_of_bfloat16_is_rounded_once() -> None:
    """The mean is computed in float32; a bfloat16 sum of ones would stop at 256."""
    batch = collate([encoded_group(2, [600])], layout="tree", pad_id=0)
    hidden = torch.ones(1, 602, 1, dtype=torch.bfloat16)
    hidden[0, 2:302] = 3.0
    pooled = Pooling("mean")(hidden, batch)
    assert pooled.dtype == torch.bfloat16
    assert pooled.tolist() == [[2.0]]


@pytest.mark.parametrize("head", ["critic", "generative", "rating", "basereward.model.heads.critic.Critic"])
def test_generative_head_requires_last_pooling(head: str) -> None:
    """Validation reports any other pooling by its key; the default is accepted."""
    for name, message in (("last", None), ("mean", "'mean' given"), ("last_text", "'last_text' given")):
        _, faults = find_faults(
            "basereward", profile="tiny", overrides=[f"model.head={{_target_: {head}}}", f"model.pooling={name}"]
        )
        messages = {fault.key: fault.message for fault in faults}
        if message is None:
            assert "model.pooling" not in messages
        else:
            assert message in messages["model.pooling"]


class Inherits(Generative):
    """A generative head by inheritance only, which the source text of the class does not show."""


def test_inherited_generative_head_is_detected_at_construction(folder_of: FolderOf) -> None:
    """Constructing the model with another pooling is refused before anything is trained."""
    backbone = load_backbone(folder_of("qwen2"))
    with pytest.raises(ModelError, match=r"model\.pooling is mean\. Set model\.pooling=last"):
        RewardModel(backbone, Inherits(backbone.hidden_size), pooling=Pooling("mean"))


def test_misspelled_pooling_suggests_the_nearest_name() -> None:
    """The fault names the key and suggests the valid value."""
    _, faults = find_faults("basereward", profile="tiny", overrides=["model.pooling=last_txt"])
    (fault,) = faults
    assert fault.key == "model.pooling"
    assert "did you mean 'last_text'?" in fault.message
