"""What the head reads, for every pooling: the reduction by hand of the states of transformers' own model."""

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
    """Groups of many shapes, empty responses among the others, and at the beginning of a group."""
    encoder = load_encoder(path)
    mixed = [*mixed_groups(vision=vision), group("Say no more.", ("", "no", ""), name="empty")]
    return [encoder(each) for each in mixed]


def by_hand(name: str, states: Tensor) -> Tensor:
    """Of the states `(L, D)` of a branch, its end of turn the last of them."""
    if name == "mean":
        return states.sum(0) / len(states)
    return states[-1] if name == "last" or len(states) == 1 else states[-2]


def read_apart(model: Any, groups: list[EncodedGroup], name: str) -> Tensor:
    """Pooled states `(B, D)` of one call of transformers' own model a response."""
    pooled = []
    for each in groups:
        for branch in each.branches:
            ids = torch.cat([each.prefix, branch])[None]
            options: dict[str, Any] = {}
            if each.pixels is not None:
                kinds = (ids == model.config.image_token_id).int()
                options = {"pixel_values": each.pixels.values, "image_grid_thw": each.images_thw}
                options["mm_token_type_ids"] = kinds
            hidden = model(input_ids=ids, **options).last_hidden_state[0]
            pooled.append(by_hand(name, hidden[len(each.prefix) :]))
    return torch.stack(pooled)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llama"])
def test_states_and_gradients_are_those_of_separate_sequences(
    family: str, name: Any, layout: Any, folder_of: FolderOf
) -> None:
    """All groups together give what transformers' model gives for every response by itself, reduced by hand."""
    path = folder_of(family)
    groups = encoded_groups(path, vision=family == "qwen2_5_vl")
    theirs = AutoModel.from_pretrained(path, attn_implementation="eager").train()
    expected = read_apart(theirs, groups, name)
    upstream = torch.randn_like(expected)
    torch.autograd.backward(expected, upstream)
    wanted = {weight: gradient for weight, gradient in gradients(theirs).items() if gradient.any()}
    backbone = load_backbone(path).train()
    found = backbone(collate(groups, layout=layout, pad_id=0), pooling=Pooling(name))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)
    torch.autograd.backward(found, upstream)
    own = gradients(backbone.transformer)
    assert len(wanted) >= 20
    for weight, gradient in wanted.items():
        torch.testing.assert_close(own[weight], gradient, rtol=1e-5, atol=1e-5 * float(gradient.norm() + 1))


@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
@pytest.mark.parametrize("name", NAMES)
def test_the_last_layer_can_be_restricted_to_what_is_read(name: Any, checkpointing: bool, folder_of: FolderOf) -> None:
    """States and gradients are those of a last layer that works for all tokens, adapters in it or not."""
    path = folder_of("qwen2_5_vl")
    batch = collate(encoded_groups(path, vision=True), layout="tree", pad_id=0)
    backbone = load_backbone(path, gradient_checkpointing=checkpointing)
    backbone.model = add_lora(backbone.transformer, rank=2, alpha=4.0)
    torch.manual_seed(0)
    for weight, parameter in backbone.named_parameters():
        if "lora_B" in weight:
            torch.nn.init.normal_(parameter, std=0.1)
    backbone.train()
    whole = Pooling(name)(backbone.hidden_states(batch), batch)
    upstream = torch.randn_like(whole)
    torch.autograd.backward(whole, upstream)
    expected = gradients(backbone)
    pooled = backbone(batch, pooling=Pooling(name))
    torch.testing.assert_close(pooled, whole, rtol=1e-5, atol=1e-5)
    torch.autograd.backward(pooled, upstream)
    found = gradients(backbone)
    assert found.keys() == expected.keys()
    for weight, gradient in found.items():
        torch.testing.assert_close(
            gradient, expected[weight], rtol=1e-5, atol=1e-5 * float(expected[weight].norm() + 1)
        )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "tokens"), [("last", 4), ("last_text", 4), ("mean", 15)])
def test_the_last_layer_works_for_what_is_read_alone(name: Any, tokens: int, layout: Any, folder_of: FolderOf) -> None:
    """Of four branches with fifteen tokens, to the multiplication: query, output and feed-forward network."""
    backbone = load_backbone(folder_of("qwen2")).eval()
    batch = collate([encoded_group(6, [4, 1]), encoded_group(3, [8, 2])], layout=layout, pad_id=0)
    config = backbone.transformer.config
    a_token = 2 * (2 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size)
    with torch.no_grad(), FlopCounterMode(display=False) as whole:
        backbone.hidden_states(batch)
    with torch.no_grad(), FlopCounterMode(display=False) as pooled:
        backbone(batch, pooling=Pooling(name))
    linear = [
        sum(n for op, n in each.get_flop_counts()["Global"].items() if "mm" in str(op)) for each in (whole, pooled)
    ]
    assert linear[0] - linear[1] == (batch.rows.input_ids.numel() - tokens) * a_token


def scorer_of(folder: Path, name: Any, *, layout: Any = "tree", lora: bool = False) -> Scorer:
    """A scorer with random weights, those of adapters too."""
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
def test_a_score_belongs_to_its_response_alone(name: Any, layout: Any, folder_of: FolderOf) -> None:
    """Batch mates, padding, other groups and the order of the responses change no score."""
    path = folder_of("qwen2_5_vl")
    model = scorer_of(path, name).model
    groups = encoded_groups(path, vision=True)

    def scores(*members: EncodedGroup) -> Tensor:
        with torch.no_grad():
            found: Tensor = model(collate(members, layout=layout, pad_id=0))
        return found

    alone = torch.cat([scores(each) for each in groups])
    assert float(alone.std()) > 1e-2
    torch.testing.assert_close(scores(*groups), alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        scores(*groups[::-1]), torch.cat([scores(each) for each in groups[::-1]]), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_saved_model_reads_what_it_was_trained_to_read(lora: bool, folder_of: FolderOf, tmp_path: Path) -> None:
    """Loaded, a model gives the same scores; the same weights with another pooling give others."""
    told = {}
    for name in NAMES:
        scorer = scorer_of(folder_of("qwen2_5_vl"), name, lora=lora)
        told[name] = scorer.score("Which digit?", ANSWERS, images=[picture(0)])
        scorer.save(tmp_path / name)
        loaded = load_scorer(tmp_path / name)
        assert loaded.model.pooling == Pooling(name)
        assert loaded.score("Which digit?", ANSWERS, images=[picture(0)]) == told[name]
    for one, other in (("last", "last_text"), ("last", "mean"), ("last_text", "mean")):
        apart = [abs(a - b) for a, b in zip(told[one], told[other], strict=True)]
        assert apart[1] < 1e-5, "of an empty answer there is but the end of turn"
        assert min(apart[0], apart[2], apart[3]) > 1e-3


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_that_is_read_once_gives_the_same_scores(name: Any, layout: Any, folder_of: FolderOf) -> None:
    """Whatever answers come together, an empty one first among them."""
    scorer = scorer_of(folder_of("qwen2_5_vl"), name, layout=layout)
    expected = dict(zip(ANSWERS, scorer.score("Which digit?", ANSWERS, images=[picture(0)]), strict=True))
    asked = scorer.prompt("Which digit?", images=[picture(0)])
    for some in (ANSWERS[1:], ANSWERS[:1], ANSWERS[1:2], ANSWERS[::-1]):
        assert asked.score(some) == pytest.approx([expected[answer] for answer in some], abs=1e-5)


def test_last_has_the_bits_of_the_states_at_the_ends(folder_of: FolderOf) -> None:
    """Nothing is computed on the way from the states to the head."""
    path = folder_of("qwen2_5_vl")
    batch: TreeBatch = collate(encoded_groups(path, vision=True), layout="tree", pad_id=0)
    backbone = load_backbone(path).eval()
    with torch.no_grad():
        hidden = backbone.hidden_states(batch, pooling=Pooling())
        assert torch.equal(backbone(batch), hidden[batch.rows.ends[:, 0], batch.rows.ends[:, 1]])


def test_a_mean_of_bfloat16_is_rounded_once() -> None:
    """It is taken in float32: adding up in bfloat16, 256 would take no more of the ones."""
    batch = collate([encoded_group(2, [600])], layout="tree", pad_id=0)
    hidden = torch.ones(1, 602, 1, dtype=torch.bfloat16)
    hidden[0, 2:302] = 3.0
    found = Pooling("mean")(hidden, batch)
    assert found.dtype == torch.bfloat16
    assert found.tolist() == [[2.0]]


@pytest.mark.parametrize("head", ["critic", "generative", "rating", "basereward.model.heads.critic.Critic"])
def test_a_head_that_speaks_reads_where_its_text_ends(head: str) -> None:
    """Another pooling is a fault that checking names; the default is none."""
    for name, message in (("last", None), ("mean", "'mean' given"), ("last_text", "'last_text' given")):
        _, faults = find_faults(
            "basereward", profile="tiny", overrides=[f"model.head={{_target_: {head}}}", f"model.pooling={name}"]
        )
        found = {fault.key: fault.message for fault in faults}
        if message is None:
            assert "model.pooling" not in found
        else:
            assert message in found["model.pooling"]


class Inherits(Generative):
    """Speaks, though its own text does not say so."""


def test_a_head_whose_text_does_not_tell_is_found_out_when_it_is_made(folder_of: FolderOf) -> None:
    """Before anything is trained."""
    backbone = load_backbone(folder_of("qwen2"))
    with pytest.raises(ModelError, match=r"model\.pooling is mean\. Set model\.pooling=last"):
        RewardModel(backbone, Inherits(backbone.hidden_size), pooling=Pooling("mean"))


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    """As for every key with a choice."""
    _, faults = find_faults("basereward", profile="tiny", overrides=["model.pooling=last_txt"])
    (fault,) = faults
    assert fault.key == "model.pooling"
    assert "did you mean 'last_text'?" in fault.message
