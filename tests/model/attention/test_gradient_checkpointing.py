"""Layers whose activations are computed again: which ones, that no number changes, and what embeddings are spared."""

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
from tests.helpers.support import TEXT, VISION, gradients, mixed_groups

FolderOf = Callable[[str], Path]


def adapted(path: Path, *, lora: bool = True, **options: Any) -> RewardModel:
    """A checkpoint with a head and, with `lora`, adapters that do something and drop something out."""
    backbone = load_backbone(path, **options)
    torch.manual_seed(1)
    head = make({"_target_": "mlp"}, "heads", backbone.hidden_size)
    if lora:
        backbone.model = add_lora(backbone.transformer, rank=4, alpha=8.0, dropout=0.2, parts=["language"])
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return RewardModel(backbone, head).train()


def passes_and_gradients(model: RewardModel, batch: TreeBatch) -> tuple[list[int], dict[str, Tensor]]:
    """How often every layer of the language model ran in a step, and the step's gradients."""
    layers = decoder_layers(model.backbone.transformer)
    passes = [0] * len(layers)

    def count(index: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            passes[index] += 1

        return hook

    hooks = [layer.self_attn.register_forward_pre_hook(count(index)) for index, layer in enumerate(layers)]
    torch.manual_seed(0)  # dropout
    loss, _ = BradleyTerry(centring=0.01)(model(batch), batch)
    loss.backward()
    for hook in hooks:
        hook.remove()
    return passes, gradients(model) | {"loss": loss.detach()}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("layout", ["tree", "plain"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llama"])
def test_the_first_layers_alone_run_twice_and_no_bit_changes(
    family: str, layout: Any, lora: bool, folder_of: FolderOf
) -> None:
    """None, one or both of two layers are computed again; loss and gradients are equal, dropout included."""
    path = folder_of(family)
    encoder = load_encoder(path)
    groups = [encoder(each) for each in mixed_groups(vision=family == "qwen2_5_vl")]
    batch = collate(groups, layout=layout, pad_id=encoder.pad_id)
    runs = {
        (1, 1): adapted(path, lora=lora),
        (2, 1): adapted(path, lora=lora, gradient_checkpointing=True, checkpoint_layers=1),
        (2, 2): adapted(path, lora=lora, gradient_checkpointing=True),
    }
    found = {expected: passes_and_gradients(model, batch) for expected, model in runs.items()}
    kept = found[1, 1][1]
    assert len(kept) > 4
    for expected, (passes, again) in found.items():
        assert tuple(passes) == expected
        assert again.keys() == kept.keys()
        for name, gradient in kept.items():
            assert torch.equal(again[name], gradient), name


def test_more_layers_than_there_are_is_refused(folder_of: FolderOf) -> None:
    """The message names the key, the number, and how many layers there are."""
    with pytest.raises(ModelError, match=r"model\.backbone\.checkpoint_layers is 3; the language model has 2 layers"):
        load_backbone(folder_of("llama"), gradient_checkpointing=True, checkpoint_layers=3)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
@pytest.mark.parametrize("family", [*VISION, "llama"])
def test_frozen_embeddings_get_no_gradient(
    family: str, checkpointing: bool, folder_of: FolderOf, pictures_of: Callable[[str], TreeBatch]
) -> None:
    """With adapters neither the embeddings' weights nor their output is in the backward pass; trained in full they
    are."""
    path = folder_of(family)
    for lora in (True, False):
        model = adapted(path, lora=lora, gradient_checkpointing=checkpointing)
        embeddings: Any = model.backbone.transformer.get_input_embeddings()
        outputs: list[Tensor] = []
        embeddings.register_forward_hook(lambda *call, outputs=outputs: outputs.append(call[-1]))
        batch = pictures_of(family) if family in VISION else text_batch(path)
        model(batch).sum().backward()
        assert [output.requires_grad for output in outputs] == [not lora]
        assert (embeddings.weight.grad is None) == lora


def text_batch(path: Path) -> TreeBatch:
    """Groups of text in one tree row."""
    encoder = load_encoder(path)
    return collate([encoder(each) for each in mixed_groups(vision=False)], layout="tree", pad_id=encoder.pad_id)


def test_a_frozen_language_model_still_trains_its_head(folder_of: FolderOf) -> None:
    """Nothing needs a gradient below the head, and checkpointing does not mind."""
    model = adapted(folder_of("llama"), lora=False, gradient_checkpointing=True)
    freeze(model.backbone, ["language"])
    model(text_batch(folder_of("llama"))).sum().backward()
    assert gradients(model).keys() == {f"head.{name}" for name, _ in model.head.named_parameters()}


def test_neither_checkpointing_nor_adapters_warn_of_old_names(folder_of: FolderOf) -> None:
    """A user sees no warning about what transformers renamed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        adapted(folder_of("llama"), gradient_checkpointing=True)


@pytest.mark.parametrize("family", [*VISION, *TEXT])
def test_no_logits_and_no_states_of_every_layer(family: str, folder_of: FolderOf) -> None:
    """There is no language head, nothing as wide as the vocabulary comes out of any module but the weights of the
    embeddings, and the states of single layers are not kept."""
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
