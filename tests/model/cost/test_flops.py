"""The cost of a step, counted from shapes, is what torch sees the real model do."""

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
from basereward.model.families.vision import encode
from basereward.model.pooling import Pooling
from basereward.model.reward_model import RewardModel, build_model
from basereward.recipe.schema import BackboneRecipe, LoraRecipe, ModelRecipe, PoolingName
from basereward.training.objectives.critique_ranking import critic_outputs
from tests.helpers.support import TEXT, VISION, group, mixed_groups

pytestmark = pytest.mark.slow

FolderOf = Callable[[str], Path]
HEAD = {"_target_": "mlp", "layers": 2}
SPEAKING: dict[str, dict[str, Any]] = {
    "critic": {"prompt": "critique_brief"},
    "generative": {"prompt": "pairwise_brief"},
}
LINEAR = ("mm", "addmm", "convolution", "convolution_backward")
# What is trained of a model: all, a part, adapters.
TRAINED: dict[str, dict[str, Any]] = {
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
    """A small model of which something is trained."""
    backbone = BackboneRecipe(freeze=list(freeze), gradient_checkpointing=checkpointing)
    return ModelRecipe(backbone=backbone, lora=lora, head=HEAD, pooling=pooling)


def batch_of(path: Path, *, layout: Layout = "tree", vision: bool = True) -> TreeBatch:
    """Groups of many shapes."""
    encoder = load_encoder(path)
    return collate([encoder(each) for each in mixed_groups(vision=vision)], layout=layout, pad_id=encoder.pad_id)


def seen(model: RewardModel, batch: TreeBatch) -> int:
    """Operations of linear layers that torch counts in a step."""
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(model(batch).sum())
    counts = {str(name).removeprefix("aten."): flops for name, flops in counter.get_flop_counts()["Global"].items()}
    assert set(counts) <= {*LINEAR, "bmm"}  # bmm: rotary positions; attention on the CPU is not among torch's counts
    return sum(flops for name, flops in counts.items() if name != "bmm")


def linear(flops: Flops) -> int:
    """All but attention."""
    return flops.total - flops.attention


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("family", VISION)
def test_linear_layers_with_pictures_are_counted_to_the_multiplication(
    family: str, trained: str, folder_of: FolderOf
) -> None:
    """Forward and backward, wherever gradients are needed and nowhere else."""
    path = folder_of(family)
    model = build_model(recipe(**TRAINED[trained]), path=str(path), seed=0)
    batch = batch_of(path)
    assert linear(count_batch(model, batch)) == seen(model, batch)


@pytest.mark.parametrize("trained", ["all", "head", "adapters"])
@pytest.mark.parametrize("family", [*TEXT, *VISION])
def test_linear_layers_of_text_are_counted_to_the_multiplication(
    family: str, trained: str, folder_of: FolderOf
) -> None:
    """In text-only backbones, and in those whose vision tower has nothing to do."""
    path = folder_of(family)
    model = build_model(recipe(**TRAINED[trained]), path=str(path), seed=0)
    batch = batch_of(path, vision=False)
    flops = count_batch(model, batch)
    assert linear(flops) == seen(model, batch)
    assert flops.vision == 0


@pytest.mark.parametrize(
    ("trained", "checkpointing"), [("all", False), ("head", False), ("adapters", False), ("all", True)]
)
@pytest.mark.parametrize("layout", ["tree", "plain"])
@pytest.mark.parametrize("pooling", ["last_text", "mean"])
def test_what_is_read_is_counted_to_the_multiplication(
    pooling: PoolingName, layout: Layout, trained: str, checkpointing: bool, folder_of: FolderOf
) -> None:
    """Of the last layer, for the tokens that are read; of the head, for every response once."""
    path = str(folder_of("qwen3"))
    encoder = load_encoder(path)
    # of one length, so that plain rows have no padding, whose work torch sees and no step needs
    encoded = encoder(group("Which?", ("one", "two", "six")))
    batch = collate([encoded], layout=layout, pad_id=encoder.pad_id)
    asked = recipe(**TRAINED[trained], checkpointing=checkpointing, pooling=pooling)
    model = build_model(asked, path=path, seed=0)
    flops = count_batch(model, batch)
    assert count(outline(asked, path=path), batch_shapes(batch)) == flops
    again = flops.recomputed - count_batch(model, batch, training=False).attention if checkpointing else 0
    assert linear(flops) + again == seen(model, batch)
    assert flops.head == 3 * count_batch(model, batch, training=False).head - (trained == "head") * 2 * 3 * 64 * 64


def test_what_is_named_is_counted_where_it_is_named(folder_of: FolderOf) -> None:
    """The small text model by hand: 2 layers, width 64, feed-forward 128, 4 heads of 16 of which 2 have keys; adapters
    of rank 4; a tree of 5 tokens and branches of 2 and 3."""
    model = build_model(recipe(lora=LoraRecipe(rank=4)), path=str(folder_of("qwen2")), seed=0)
    flops = count(model, [SequenceShape(5, (2, 3))])
    keys, query, feed = 2 * 64 * 32, 64 * 64, 64 * 128
    # ten tokens in the first layer, where the projections need no gradient of their input, and two in the last one
    first = 10 * (keys + query) + 2 * 10 * (query + 3 * feed)
    last = 2 * (10 * keys + 2 * (2 * query + 3 * feed))
    assert flops.language == 2 * (first + last)
    low, high = 4 * 64, 4 * 32  # of one side of an adapter
    wide = 4 * 128
    first = 10 * (2 * low + 3 * low) + 2 * 10 * (2 * low + 3 * high) + 10 * 3 * (low + low + 3 * (low + wide))
    last = 10 * 3 * 2 * (low + high) + 2 * 3 * (4 * low + 3 * (low + wide))
    assert flops.lora == 2 * (first + last)
    # 15 + (10 + 3) + (15 + 6) pairs in the first layer, 7 + 8 in the last; each multiplies 64 numbers twice, thrice
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
def test_what_is_taught_is_counted_to_the_multiplication(
    head: str, family: str, trained: str, folder_of: FolderOf
) -> None:
    """The logits of every token that a head is taught to write, and a last layer that works for all tokens."""
    path = str(folder_of(family))
    asked = replace(recipe(**TRAINED[trained]), head={"_target_": head} | SPEAKING[head])
    model = build_model(asked, path=path, seed=0)
    encoder = load_encoder(path).with_branch_template(model.head.branch_template)  # type: ignore[arg-type]
    told = [
        replace(each, critiques=tuple(f"{text} is so." for text in each.responses))
        for each in mixed_groups(vision="vl" in family)
        if len(each.responses) > 1
    ]
    encoded = [encoder(each, with_targets=True) for each in told]
    batch = collate(encoded, layout="tree", pad_id=encoder.pad_id)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        outputs = critic_outputs(model, batch)
        assert outputs.language is not None
        total = sum(outputs.scores, outputs.language).sum()
        torch.autograd.backward(total)
    found = sum(counter.get_flop_counts()["Global"].get(getattr(torch.ops.aten, name), 0) for name in LINEAR)
    assert linear(count_batch(model, batch)) == found
    assert count(outline(asked, path=path), batch_shapes(batch)) == count_batch(model, batch)
    assert sum(shape.written for group in encoded for shape in group_shapes(group, layout="tree")) == len(
        batch.targets.positions
    )


@pytest.mark.parametrize("pooling", ["last", "last_text", "mean"])
@pytest.mark.parametrize("layout", ["tree", "plain"])
def test_pairs_are_those_that_the_law_of_attention_lets_see(
    layout: Any, pooling: PoolingName, folder_of: FolderOf
) -> None:
    """Same group, not later, and of the prefix or of the same branch: counted in the batch, token by token."""
    batch = batch_of(folder_of("qwen2"), layout=layout, vision=False)
    columns = {
        "last": lambda row: batch.rows.ends[batch.rows.ends[:, 0] == row, 1],
        "last_text": lambda row: batch.rows.ends[batch.rows.ends[:, 0] == row, 1] - 1,
        "mean": lambda row: (batch.rows.branch[row] > 0).nonzero().flatten(),
    }[pooling]
    pairs = read = pairs_of_read = 0
    for row in range(len(batch.rows.group)):
        group_of, branch = batch.rows.group[row], batch.rows.branch[row]
        same = (group_of[:, None] == group_of) & (group_of >= 0)
        sees = same & ((branch == 0) | (branch[:, None] == branch)) & torch.ones_like(same).tril()
        pairs += int(sees.sum())
        read += len(columns(row))
        pairs_of_read += int(sees[columns(row)].sum())
    shapes = batch_shapes(batch)
    assert sum(shape.pairs for shape in shapes) == pairs
    assert sum(shape.pooled(Pooling(pooling)) for shape in shapes) == read
    assert sum(shape.pairs_of_pooled(Pooling(pooling)) for shape in shapes) == pairs_of_read


@pytest.mark.parametrize("family", VISION)
def test_attention_of_the_vision_tower_is_what_torch_sees(family: str, folder_of: FolderOf) -> None:
    """It has no blind pairs, so that it can be compared: in windows, in whole pictures, of several sizes."""
    path = folder_of(family)
    model = build_model(recipe(), path=str(path), seed=0)
    batch = batch_of(path)
    assert batch.images.pixels is not None
    assert batch.images.grids is not None
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        states = encode(model.backbone.transformer, batch.images.pixels.values, batch.images.grids)
        torch.autograd.backward(torch.cat(states, dim=1).sum())
    found = counter.get_flop_counts()["Global"][torch.ops.aten.bmm]
    with_pictures, text = count_batch(model, batch), count(model, [without_pictures(s) for s in batch_shapes(batch)])
    assert with_pictures.attention - text.attention == found


def without_pictures(shape: SequenceShape) -> SequenceShape:
    """The tree alone."""
    return SequenceShape(shape.prefix, shape.branches)


@pytest.mark.parametrize(
    ("grid", "pairs"), [((1, 8, 8), 64**2), ((1, 10, 8), 64**2 + 16**2), ((2, 4, 4), 2 * 16**2)]
)  # fmt: skip
def test_windows_end_at_the_edge_of_the_picture(grid: Any, pairs: int) -> None:
    """Windows of eight patches a side: one, one and a rest, and one a frame."""
    assert window_pairs(grid, window=4, merge=2) == pairs


@pytest.mark.parametrize("family", VISION)
@pytest.mark.parametrize("trained", ["all", "adapters"])
def test_gradient_checkpointing_is_told_apart(trained: str, family: str, folder_of: FolderOf) -> None:
    """The useful work is the same; on top comes what torch sees more of, where there are gradients to compute."""
    path = folder_of(family)
    batch = batch_of(path)
    options = TRAINED[trained]
    plain, again = (build_model(recipe(checkpointing=on, **options), path=str(path), seed=0) for on in (False, True))
    counted = count_batch(again, batch)
    assert counted.total == count_batch(plain, batch).total
    assert count_batch(plain, batch).recomputed == 0
    text = [without_pictures(shape) for shape in batch_shapes(batch)]
    forward = count_batch(again, batch, training=False) if trained == "all" else count(again, text, training=False)
    more = seen(again, batch) - seen(plain, batch)
    if trained == "adapters":  # of the last product's adapters the second half is spared too, but in the last layer
        layers = again.backbone.transformer.config.get_text_config().num_hidden_layers
        more += (layers - 1) * 2 * 4 * 64 * sum(shape.tokens for shape in text)
    assert counted.recomputed - forward.attention == more


@pytest.mark.parametrize(
    ("family", "trained"), [*(("qwen2_5_vl", trained) for trained in TRAINED), *((each, "all") for each in VISION[1:])]
)
def test_the_outline_of_a_recipe_counts_like_its_model(family: str, trained: str, folder_of: FolderOf) -> None:
    """With no weight in memory."""
    path = str(folder_of(family))
    outlined = outline(recipe(**TRAINED[trained]), path=path)
    model = build_model(recipe(**TRAINED[trained]), path=path, seed=0)
    assert {p.device.type for p in outlined.parameters()} == {"meta"}
    names = [(name, p.shape, p.dtype, p.requires_grad) for name, p in model.named_parameters()]
    assert [(name, p.shape, p.dtype, p.requires_grad) for name, p in outlined.named_parameters()] == names
    shapes = [SequenceShape(20, (4, 5), ((1, 4, 6),))]
    assert count(outlined, shapes) == count(model, shapes)


def test_the_shape_of_a_group_is_that_of_its_batch(folder_of: FolderOf) -> None:
    """In both layouts, pictures included."""
    encoder = load_encoder(folder_of("qwen2_5_vl"))
    encoded = encoder(group(images=2))
    for layout in ("tree", "plain"):
        batch = collate([encoded], layout=layout, pad_id=encoder.pad_id)
        mine, theirs = group_shapes(encoded, layout=layout), batch_shapes(batch)
        assert [(s.prefix, s.branches) for s in mine] == [(s.prefix, s.branches) for s in theirs]
        assert [grid for s in mine for grid in s.images] == [grid for s in theirs for grid in s.images]


def test_scoring_is_the_forward_pass_alone(folder_of: FolderOf) -> None:
    """A third of a step in which everything is trained, but for the patches, whose gradient nobody needs."""
    path = folder_of("qwen2_5_vl")
    model = build_model(recipe(), path=str(path), seed=0)
    batch = batch_of(path)
    assert batch.images.pixels is not None
    patches = 2 * len(batch.images.pixels.values) * batch.images.pixels.values.shape[1] * 64
    assert 3 * count_batch(model, batch, training=False).total - patches // 2 == count_batch(model, batch).total


def test_layers_that_are_not_known_are_not_guessed_at(folder_of: FolderOf) -> None:
    """The error names them."""
    model = build_model(recipe(), path=str(folder_of("qwen2")), seed=0)
    transformer: Any = model.backbone.transformer
    transformer.layers[0].mlp.router = torch.nn.Linear(64, 2)
    with pytest.raises(ModelError, match="router"):
        count(model, [SequenceShape(3, (2,))])
