"""Gradient checkpointing: which layers are recomputed, that gradients are unchanged, and that frozen embeddings get no
gradient."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import TreeBatch
from basereward.errors import ModelError
from basereward.model.backbone import Backbone, load_backbone
from basereward.model.families.parts import decoder_layers, freeze
from basereward.model.families.processing import load_encoder
from basereward.model.lora import add_lora
from basereward.model.losses.bradley_terry import BradleyTerry
from basereward.model.reward_model import RewardModel
from basereward.recipe import make
from tests.helpers.support import TEXT, VISION, fill_adapters, gradients, mixed_groups

FolderOf = Callable[[str], Path]


def build_reward_model(path: Path, *, lora: bool = True, **options: Any) -> RewardModel:
    """Return a checkpoint with a head and, with `lora`, non-zero adapters with dropout."""
    backbone = load_backbone(path, **options)
    torch.manual_seed(1)
    head = make({"_target_": "mlp"}, "heads", backbone.hidden_size)
    if lora:
        backbone.model = add_lora(backbone.transformer, rank=4, alpha=8.0, dropout=0.2, parts=["language"])
        fill_adapters(backbone)
    return RewardModel(backbone, head).train()


def passes_and_gradients(model: RewardModel, batch: TreeBatch) -> tuple[list[int], dict[str, Tensor]]:
    """Return how often every decoder layer ran in a step, and the gradients of the step."""
    layers = decoder_layers(model.backbone.transformer)
    passes = [0] * len(layers)

    def count(index: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            passes[index] += 1

        return hook

    hooks = [layer.self_attn.register_forward_pre_hook(count(index)) for index, layer in enumerate(layers)]
    # Dropout must draw the same masks in every model.
    torch.manual_seed(0)
    loss, _ = BradleyTerry(centring=0.01)(model(batch), batch)
    loss.backward()
    for hook in hooks:
        hook.remove()
    return passes, gradients(model) | {"loss": loss.detach()}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("layout", ["tree", "plain"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llama"])
def test_checkpointed_layers_run_twice_with_equal_gradients(
    family: str, layout: Any, lora: bool, folder_of: FolderOf
) -> None:
    """With zero, one or two recomputed layers, loss and gradients are bit-identical, also with dropout."""
    path = folder_of(family)
    encoder = load_encoder(path)
    groups = [encoder(group) for group in mixed_groups(vision=family == "qwen2_5_vl")]
    batch = collate(groups, layout=layout, pad_id=encoder.pad_id)
    runs = {
        (1, 1): build_reward_model(path, lora=lora),
        (2, 1): build_reward_model(path, lora=lora, gradient_checkpointing=True, checkpoint_layers=1),
        (2, 2): build_reward_model(path, lora=lora, gradient_checkpointing=True),
    }
    results = {expected: passes_and_gradients(model, batch) for expected, model in runs.items()}
    expected_gradients = results[1, 1][1]
    assert len(expected_gradients) > 4
    for expected, (passes, actual_gradients) in results.items():
        assert tuple(passes) == expected
        assert actual_gradients.keys() == expected_gradients.keys()
        for name, gradient in expected_gradients.items():
            assert torch.equal(actual_gradients[name], gradient), name


def test_too_many_checkpoint_layers_are_refused(folder_of: FolderOf) -> None:
    """The message names the key, its value and the number of layers."""
    with pytest.raises(ModelError, match=r"model\.backbone\.checkpoint_layers is 3; the language model has 2 layers"):
        load_backbone(folder_of("llama"), gradient_checkpointing=True, checkpoint_layers=3)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
@pytest.mark.parametrize("family", [*VISION, "llama"])
def test_frozen_embeddings_get_no_gradient(
    family: str, checkpointing: bool, folder_of: FolderOf, pictures_of: Callable[[str], TreeBatch]
) -> None:
    """With adapters, neither the weights of the embeddings nor their output require gradients; in full training both
    do."""
    path = folder_of(family)
    for lora in (True, False):
        model = build_reward_model(path, lora=lora, gradient_checkpointing=checkpointing)
        embeddings: Any = model.backbone.transformer.get_input_embeddings()
        outputs: list[Tensor] = []
        embeddings.register_forward_hook(lambda *call, outputs=outputs: outputs.append(call[-1]))
        batch = pictures_of(family) if family in VISION else text_batch(path)
        model(batch).sum().backward()
        assert [output.requires_grad for output in outputs] == [not lora]
        assert (embeddings.weight.grad is None) == lora


def text_batch(path: Path) -> TreeBatch:
    """Return text groups in one tree row."""
    encoder = load_encoder(path)
    return collate([encoder(group) for group in mixed_groups(vision=False)], layout="tree", pad_id=encoder.pad_id)


def test_frozen_language_model_trains_its_head(folder_of: FolderOf) -> None:
    """Gradient checkpointing works when no parameter below the head needs a gradient."""
    model = build_reward_model(folder_of("llama"), lora=False, gradient_checkpointing=True)
    freeze(model.backbone, ["language"])
    model(text_batch(folder_of("llama"))).sum().backward()
    assert gradients(model).keys() == {f"head.{name}" for name, _ in model.head.named_parameters()}


def test_no_future_warnings(folder_of: FolderOf) -> None:
    """Checkpointing and adapters raise no FutureWarning about names that transformers renamed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        build_reward_model(folder_of("llama"), gradient_checkpointing=True)


@pytest.mark.parametrize("family", [*VISION, *TEXT])
def test_backbone_computes_no_logits(family: str, folder_of: FolderOf) -> None:
    """There is no language head, no module output is as wide as the vocabulary, and states of single layers are not
    stored."""
    backbone: Backbone = load_backbone(folder_of(family))
    transformer: Any = backbone.transformer
    vocabulary = transformer.get_input_embeddings().weight.shape[0]
    assert transformer.get_output_embeddings() is None
    assert not any(name.split(".")[-1] == "lm_head" for name, _ in backbone.named_modules())
    widths: list[int] = []
    results: list[Any] = []
    for module in backbone.modules():
        module.register_forward_hook(lambda *call: widths.extend(_widths(call[-1])))
    transformer.register_forward_hook(lambda *call: results.append(call[-1]))
    backbone(text_batch(folder_of(family)))
    assert widths
    assert vocabulary not in widths
    assert [result.hidden_states for result in results] == [None]
    assert transformer.config.get_text_config().output_hidden_states is False


def _widths(output: Any) -> list[int]:
    return [output.shape[-1]] if isinstance(output, Tensor) and output.ndim else []
