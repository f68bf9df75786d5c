"""Floating-point operations of a step, calculated from shapes and compared with torch's counter on the real model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import Layout, TreeBatch
from basereward.errors import ModelError
from basereward.model.cost.flops import Flops, count, count_batch, window_pairs
from basereward.model.cost.meta_model import outline
from basereward.model.cost.sequence_shapes import SequenceShape, batch_shapes, group_shapes
from basereward.model.families.processing import load_encoder
from basereward.model.families.vision import encode, towers
from basereward.model.pooling import Pooling
from basereward.model.reward_model import RewardModel, build_model
from basereward.recipe.schema import BackboneRecipe, LoraRecipe, ModelRecipe, PoolingName
from basereward.training.objectives.critique_ranking import critic_outputs
from tests.helpers.support import TEXT, VISION, group, mixed_groups

pytestmark = pytest.mark.slow

FolderOf = Callable[[str], Path]
HEAD = {"_target_": "mlp", "layers": 2}
GENERATIVE_HEADS: dict[str, dict[str, Any]] = {
    "critic": {"prompt": "critique_brief"},
    "generative": {"prompt": "pairwise_brief"},
}
LINEAR = ("mm", "addmm", "addmm_", "convolution", "convolution_backward")
# The trained parts of a model: all weights, one part, or adapters.
TRAINED_PARTS: dict[str, dict[str, Any]] = {
    "all": {},
    "no vision": {"freeze": ["vision"]},
    "merger": {"freeze": ["vision", "language"]},
    "head": {"freeze": ["vision", "merger", "language"]},
    "adapters": {"lora": LoraRecipe(rank=4)},
    "adapters everywhere": {"lora": LoraRecipe(rank=4, parts=["vision", "merger", "language"])},
    "adapters on merger": {"lora": LoraRecipe(rank=4, parts=["merger", "language"])},
}


def recipe(
    *,
    lora: LoraRecipe | None = None,
    freeze: Sequence[str] = (),
    checkpointing: bool = False,
    pooling: PoolingName = "last",
) -> ModelRecipe:
    """Return the recipe of a small model with these parts trained."""
    backbone = BackboneRecipe(freeze=list(freeze), gradient_checkpointing=checkpointing)
    return ModelRecipe(backbone=backbone, lora=lora, head=HEAD, pooling=pooling)


def batch_of(path: Path, *, layout: Layout = "tree", vision: bool = True) -> TreeBatch:
    """Return a batch of groups of many shapes."""
    encoder = load_encoder(path)
    return collate([encoder(item) for item in mixed_groups(vision=vision)], layout=layout, pad_id=encoder.pad_id)


def flop_counter() -> FlopCounterMode:
    """Return torch's counter; it does not know the products that adapters add in place."""

    def add_product(states: Any, left: Any, right: Any, out_shape: Any = None, **options: Any) -> int:
        return int(2 * left[0] * left[1] * right[1])

    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: add_product})


def count_with_torch(model: RewardModel, batch: TreeBatch) -> int:
    """Return the operations of linear layers that torch counts in a step."""
    with flop_counter() as counter:
        torch.autograd.backward(model(batch).sum())
    counts = {str(name).removeprefix("aten."): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    # bmm computes rotary positions; torch does not count attention on the CPU.
    assert set(counts) <= {*LINEAR, "bmm"}
    return sum(flops for name, flops in counts.items() if name != "bmm")


def linear_flops(flops: Flops) -> int:
    """Return all operations except those of attention."""
    return flops.total - flops.attention


@pytest.mark.parametrize("trained", TRAINED_PARTS)
@pytest.mark.parametrize("family", VISION)
def test_linear_layers_with_images_are_counted_exactly(family: str, trained: str, folder_of: FolderOf) -> None:
    """Forward and backward operations are counted exactly where gradients are needed."""
    path = folder_of(family)
    model = build_model(recipe(**TRAINED_PARTS[trained]), path=str(path), seed=0)
    batch = batch_of(path)
    assert linear_flops(count_batch(model, batch)) == count_with_torch(model, batch)


@pytest.mark.parametrize("trained", ["all", "head", "adapters"])
@pytest.mark.parametrize("family", [*TEXT, *VISION])
def test_linear_layers_with_text_are_counted_exactly(family: str, trained: str, folder_of: FolderOf) -> None:
    """The count is exact for text-only backbones and for image backbones on a batch without images."""
    path = folder_of(family)
    model = build_model(recipe(**TRAINED_PARTS[trained]), path=str(path), seed=0)
    batch = batch_of(path, vision=False)
    flops = count_batch(model, batch)
    assert linear_flops(flops) == count_with_torch(model, batch)
    assert flops.vision == 0


@pytest.mark.parametrize(
    ("trained", "checkpointing"), [("all", False), ("head", False), ("adapters", False), ("all", True)]
)
@pytest.mark.parametrize("layout", ["tree", "plain"])
@pytest.mark.parametrize("pooling", ["last_text", "mean"])
def test_pooled_tokens_are_counted_exactly(
    pooling: PoolingName, layout: Layout, trained: str, checkpointing: bool, folder_of: FolderOf
) -> None:
    """The last layer is counted for the pooled tokens, and the head once per response."""
    path = str(folder_of("qwen3"))
    encoder = load_encoder(path)
    # Responses of one length: padding in plain rows would add operations that torch counts and no step needs.
    encoded = encoder(group("Which?", ("one", "two", "six")))
    batch = collate([encoded], layout=layout, pad_id=encoder.pad_id)
    model_recipe = recipe(**TRAINED_PARTS[trained], checkpointing=checkpointing, pooling=pooling)
    model = build_model(model_recipe, path=path, seed=0)
    flops = count_batch(model, batch)
    assert count(outline(model_recipe, path=path), batch_shapes(batch)) == flops
    recomputed = flops.recomputed - count_batch(model, batch, training=False).attention if checkpointing else 0
    assert linear_flops(flops) + recomputed == count_with_torch(model, batch)
    assert flops.head == 3 * count_batch(model, batch, training=False).head - (trained == "head") * 2 * 3 * 64 * 64


def test_parts_are_counted_separately(folder_of: FolderOf) -> None:
    """The parts are calculated by hand for the small text model: 2 layers, width 64, feed-forward 128, 4 query heads
    and 2 key heads of 16, adapters of rank 4, and a tree of 5 tokens with branches of 2 and 3."""
    model = build_model(recipe(lora=LoraRecipe(rank=4)), path=str(folder_of("qwen2")), seed=0)
    flops = count(model, [SequenceShape(5, (2, 3))])
    key_value, query, feed_forward = 2 * 64 * 32, 64 * 64, 64 * 128
    # Ten tokens in the first layer, whose projections need no gradient of their input, and two in the last layer.
    first_layer = 10 * (key_value + query) + 2 * 10 * (query + 3 * feed_forward)
    last_layer = 2 * (10 * key_value + 2 * (2 * query + 3 * feed_forward))
    assert flops.language == 2 * (first_layer + last_layer)
    # Sizes of adapter matrices of rank 4, by their other dimension.
    adapter_64, adapter_32 = 4 * 64, 4 * 32
    adapter_128 = 4 * 128
    first_layer = (
        10 * (2 * adapter_64 + 3 * adapter_64)
        + 2 * 10 * (2 * adapter_64 + 3 * adapter_32)
        + 10 * 3 * (adapter_64 + adapter_64 + 3 * (adapter_64 + adapter_128))
    )
    last_layer = 10 * 3 * 2 * (adapter_64 + adapter_32) + 2 * 3 * (4 * adapter_64 + 3 * (adapter_64 + adapter_128))
    assert flops.lora == 2 * (first_layer + last_layer)
    # 15 + (10 + 3) + (15 + 6) pairs in the first layer, 7 + 8 in the last; two products of 64 numbers, in three passes.
    assert flops.attention == 3 * 4 * 64 * (49 + 15)
    assert flops.head == 2 * 2 * 3 * (64 * 64 + 64)
    assert (flops.vision, flops.recomputed) == (0, 0)
    assert flops.total == flops.language + flops.lora + flops.attention + flops.head


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3"])
@pytest.mark.parametrize(
    ("head", "trained"),
    [
        *(("critic", trained) for trained in ("all", "head", "adapters")),
        ("generative", "all"),
        ("generative", "adapters"),
    ],
)
def test_language_targets_are_counted_exactly(head: str, family: str, trained: str, folder_of: FolderOf) -> None:
    """The logits of every target token are counted, and a last layer that computes all tokens."""
    path = str(folder_of(family))
    model_recipe = replace(recipe(**TRAINED_PARTS[trained]), head={"_target_": head} | GENERATIVE_HEADS[head])
    model = build_model(model_recipe, path=path, seed=0)
    encoder = load_encoder(path).with_branch_template(model.head.branch_template)  # type: ignore[arg-type]
    groups = [
        replace(item, critiques=tuple(f"{text} is so." for text in item.responses))
        for item in mixed_groups(vision="vl" in family)
        if len(item.responses) > 1
    ]
    encoded = [encoder(item, with_targets=True) for item in groups]
    batch = collate(encoded, layout="tree", pad_id=encoder.pad_id)
    with flop_counter() as counter, sdpa_kernel(SDPBackend.MATH):
        outputs = critic_outputs(model, batch)
        assert outputs.language is not None
        total = sum(outputs.scores, outputs.language).sum()
        torch.autograd.backward(total)
    counted = sum(counter.get_flop_counts()["Global"].get(getattr(torch.ops.aten, name), 0) for name in LINEAR)
    assert linear_flops(count_batch(model, batch)) == counted
    assert count(outline(model_recipe, path=path), batch_shapes(batch)) == count_batch(model, batch)
    assert sum(shape.written for group in encoded for shape in group_shapes(group, layout="tree")) == len(
        batch.targets.positions
    )


@pytest.mark.parametrize("pooling", ["last", "last_text", "mean"])
@pytest.mark.parametrize("layout", ["tree", "plain"])
def test_attention_pairs_equal_the_visible_tokens(layout: Any, pooling: PoolingName, folder_of: FolderOf) -> None:
    """A token sees earlier tokens of its group that belong to the prefix or to its own branch; pairs are counted token
    by token."""
    batch = batch_of(folder_of("qwen2"), layout=layout, vision=False)
    columns = {
        "last": lambda row: batch.rows.ends[batch.rows.ends[:, 0] == row, 1],
        "last_text": lambda row: batch.rows.ends[batch.rows.ends[:, 0] == row, 1] - 1,
        "mean": lambda row: (batch.rows.branch[row] > 0).nonzero().flatten(),
    }[pooling]
    num_pairs = num_pooled = num_pooled_pairs = 0
    for row in range(len(batch.rows.group)):
        group_index, branch = batch.rows.group[row], batch.rows.branch[row]
        same_group = (group_index[:, None] == group_index) & (group_index >= 0)
        visible = same_group & ((branch == 0) | (branch[:, None] == branch)) & torch.ones_like(same_group).tril()
        num_pairs += int(visible.sum())
        num_pooled += len(columns(row))
        num_pooled_pairs += int(visible[columns(row)].sum())
    shapes = batch_shapes(batch)
    assert sum(shape.pairs for shape in shapes) == num_pairs
    assert sum(shape.pooled(Pooling(pooling)) for shape in shapes) == num_pooled
    assert sum(shape.pairs_of_pooled(Pooling(pooling)) for shape in shapes) == num_pooled_pairs


@pytest.mark.parametrize("family", VISION)
def test_vision_attention_equals_the_count_of_torch(family: str, folder_of: FolderOf) -> None:
    """The vision tower masks no pairs inside its windows, so torch's count is exact for windows and full images of
    several sizes."""
    path = folder_of(family)
    model = build_model(recipe(), path=str(path), seed=0)
    batch = batch_of(path)
    assert batch.images.pixels is not None
    # torch counts the products of its mathematical attention alone.
    for _, tower in towers(model.backbone.transformer):
        if hasattr(tower, "config"):
            tower.config._attn_implementation = "sdpa"
    with flop_counter() as counter, sdpa_kernel(SDPBackend.MATH):
        states = encode(model.backbone.transformer, batch.images.pixels.values, batch.images.grids)
        torch.autograd.backward(torch.cat(states, dim=1).sum())
    counted = counter.get_flop_counts()["Global"][torch.ops.aten.bmm]
    with_pictures, text_only = (
        count_batch(model, batch),
        count(model, [without_images(shape) for shape in batch_shapes(batch)]),
    )
    assert with_pictures.attention - text_only.attention == counted


def without_images(shape: SequenceShape) -> SequenceShape:
    """Return the shape without its images."""
    return SequenceShape(shape.prefix, shape.branches)


@pytest.mark.parametrize(
    ("grid", "pairs"), [((1, 8, 8), 64**2), ((1, 10, 8), 64**2 + 16**2), ((2, 4, 4), 2 * 16**2)]
)  # fmt: skip
def test_windows_end_at_the_edge_of_the_image(grid: Any, pairs: int) -> None:
    """Windows of eight patches per side: one window, one window with a remainder, and one window per frame."""
    assert window_pairs(grid, window=4, merge=2) == pairs


@pytest.mark.parametrize("family", VISION)
@pytest.mark.parametrize("trained", ["all", "adapters"])
def test_recomputed_operations_are_counted_separately(trained: str, family: str, folder_of: FolderOf) -> None:
    """The useful operations are the same with gradient checkpointing; `recomputed` is what torch counts in addition."""
    path = folder_of(family)
    batch = batch_of(path)
    parts = TRAINED_PARTS[trained]
    plain, checkpointed = (
        build_model(recipe(checkpointing=checkpointing, **parts), path=str(path), seed=0)
        for checkpointing in (False, True)
    )
    flops = count_batch(checkpointed, batch)
    assert flops.total == count_batch(plain, batch).total
    assert count_batch(plain, batch).recomputed == 0
    text_shapes = [without_images(shape) for shape in batch_shapes(batch)]
    forward = (
        count_batch(checkpointed, batch, training=False)
        if trained == "all"
        else count(checkpointed, text_shapes, training=False)
    )
    extra = count_with_torch(checkpointed, batch) - count_with_torch(plain, batch)
    # Matrix B of the last product's adapters is not recomputed, except in the last layer.
    if trained == "adapters":
        layers = checkpointed.backbone.transformer.config.get_text_config().num_hidden_layers
        extra += (layers - 1) * 2 * 4 * 64 * sum(shape.tokens for shape in text_shapes)
    assert flops.recomputed - forward.attention == extra


@pytest.mark.parametrize(
    ("family", "trained"),
    [*(("qwen2_5_vl", trained) for trained in TRAINED_PARTS), *((family, "all") for family in VISION[1:])],
)
def test_outline_has_the_same_counts_as_the_model(family: str, trained: str, folder_of: FolderOf) -> None:
    """An outline on the meta device has the parameters and the counts of the built model."""
    path = str(folder_of(family))
    outlined = outline(recipe(**TRAINED_PARTS[trained]), path=path)
    model = build_model(recipe(**TRAINED_PARTS[trained]), path=path, seed=0)
    assert {parameter.device.type for parameter in outlined.parameters()} == {"meta"}
    parameters = [
        (name, parameter.shape, parameter.dtype, parameter.requires_grad)
        for name, parameter in model.named_parameters()
    ]
    assert [
        (name, parameter.shape, parameter.dtype, parameter.requires_grad)
        for name, parameter in outlined.named_parameters()
    ] == parameters
    shapes = [SequenceShape(20, (4, 5), ((1, 4, 6),))]
    assert count(outlined, shapes) == count(model, shapes)


def test_group_shapes_equal_batch_shapes(folder_of: FolderOf) -> None:
    """The shapes of an encoded group equal those of its batch in both layouts, with images."""
    encoder = load_encoder(folder_of("qwen2_5_vl"))
    encoded = encoder(group(images=2))
    for layout in ("tree", "plain"):
        batch = collate([encoded], layout=layout, pad_id=encoder.pad_id)
        from_group, from_batch = group_shapes(encoded, layout=layout), batch_shapes(batch)
        assert [(shape.prefix, shape.branches) for shape in from_group] == [
            (shape.prefix, shape.branches) for shape in from_batch
        ]
        assert [grid for shape in from_group for grid in shape.images] == [
            grid for shape in from_batch for grid in shape.images
        ]


def test_scoring_counts_the_forward_pass_only(folder_of: FolderOf) -> None:
    """Scoring costs a third of a step that trains all weights, apart from the patches, whose gradient is not needed."""
    path = folder_of("qwen2_5_vl")
    model = build_model(recipe(), path=str(path), seed=0)
    batch = batch_of(path)
    assert batch.images.pixels is not None
    patches = 2 * len(batch.images.pixels.values) * batch.images.pixels.values.shape[1] * 64
    assert 3 * count_batch(model, batch, training=False).total - patches // 2 == count_batch(model, batch).total


def test_unknown_layers_are_refused(folder_of: FolderOf) -> None:
    """The error names the layer."""
    model = build_model(recipe(), path=str(folder_of("qwen2")), seed=0)
    transformer: Any = model.backbone.transformer
    transformer.layers[0].mlp.router = torch.nn.Linear(64, 2)
    with pytest.raises(ModelError, match="router"):
        count(model, [SequenceShape(3, (2,))])
