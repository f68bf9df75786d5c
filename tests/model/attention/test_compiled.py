"""Compiled decoder layers, compared with the same layers without compilation."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch._dynamo import config as dynamo_config
from torch._dynamo.utils import counters

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.schema.group import Group
from basereward.model.attention.compiled import compile_layers
from basereward.model.backbone import Backbone, load_backbone
from basereward.model.families.processing import load_encoder
from basereward.model.lora import add_lora
from basereward.model.tiny_models.tiny_qwen2_5_vl import tiny_qwen2_5_vl
from tests.helpers.support import fill_adapters, gradients, mixed_groups

pytestmark = pytest.mark.slow

FolderOf = Callable[[str], Path]


def adapted(path: Path, *, gradient_checkpointing: bool = True) -> Backbone:
    """Return a backbone in training mode with non-zero adapters."""
    backbone = load_backbone(path, gradient_checkpointing=gradient_checkpointing)
    backbone.model = add_lora(backbone.transformer, rank=4, alpha=8.0)
    torch.manual_seed(1)
    fill_adapters(backbone)
    return backbone.train()


def tree_row(path: Path, groups: Sequence[Group]) -> TreeBatch:
    """Encode the groups for a checkpoint and return them in one tree row."""
    encoder = load_encoder(path)
    return collate([encoder(group) for group in groups], layout="tree", pad_id=encoder.pad_id)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_layers_give_the_same_states_and_gradients(folder_of: FolderOf) -> None:
    """States and gradients are equal for rows of any prefixes and branches, without recompilation.

    No weight changes its name.
    """
    path = folder_of("llama")
    plain, compiled = adapted(path), adapted(path)
    compile_layers(compiled.transformer)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    groups = mixed_groups(vision=False)
    graphs: list[int] = []
    for row_groups in (groups[:2], groups[1:], groups):
        row = tree_row(path, row_groups)
        expected, actual = plain(row), compiled(row)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
        expected.square().sum().backward()
        actual.square().sum().backward()
        expected_gradients = gradients(plain)
        assert expected_gradients
        for name, gradient in gradients(compiled).items():
            torch.testing.assert_close(gradient, expected_gradients.pop(name), rtol=1e-4, atol=1e-4)
        assert not expected_gradients
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert graphs[-1] == graphs[0], "layers were recompiled for other trees"


@pytest.mark.parametrize("recomputed", [False, True], ids=["stored", "recomputed"])
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_no_layer_is_compiled_again_after_the_first_batches(recomputed: bool, tmp_path: Path) -> None:
    """After two batches of a training, batches of one to four groups with other lengths, with and without pictures, in
    mixed precision and in evaluation, are an error if torch would compile a layer again. States stay those of layers
    without compilation."""
    path = tmp_path / "model"
    # The last layer is not compiled, and the first gets states without a gradient.
    tiny_qwen2_5_vl(path, hidden_size=64, layers=3, vision_layers=2)
    plain, compiled = (adapted(path, gradient_checkpointing=recomputed) for _ in range(2))
    compile_layers(compiled.transformer)
    text, pictures = mixed_groups(vision=False), mixed_groups(vision=True)[3:]

    def states(row_groups: Sequence[Group], *, training: bool = True) -> None:
        row = tree_row(path, row_groups)
        with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16):
            expected, actual = (backbone.train(training)(row) for backbone in (plain, compiled))
        torch.testing.assert_close(actual, expected, rtol=0.05, atol=0.05)
        if training:
            actual.float().square().sum().backward()

    for warm_up in (text[:2], pictures):
        states(warm_up)
        states(warm_up, training=False)
    with dynamo_config.patch(error_on_recompile=True):
        for row_groups in (text, text[2:], pictures[1:], [*text, *pictures], [*pictures, *pictures[:1]], text[1:]):
            states(row_groups)
            states(row_groups, training=False)
