"""The scorer: forward passes filled to a token budget, scores in reduced precision, latencies, and use by several
threads."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from basereward.data.schema.group import Group
from basereward.errors import DataError, ModelError
from basereward.inference.scorer import Scorer, load_scorer
from basereward.model.families.processing import recipe_encoder
from basereward.model.quantization import Quantization
from basereward.model.reward_model import build_model
from basereward.recipe.schema import BackboneRecipe, BatchRecipe, DataRecipe, LoraRecipe, ModelRecipe, Recipe
from tests.helpers.support import checkpoint, fill_adapters, group, mixed_groups, picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small Qwen2.5-VL checkpoint."""
    return checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("model") / "m")


def scorer_of(
    folder: Path,
    *,
    quantization: Quantization | None = None,
    lora: bool = False,
    head: dict[str, Any] | None = None,
    **batch: Any,
) -> Scorer:
    """Return a scorer with random weights, and with non-zero adapters if `lora` is set."""
    recipe = Recipe(
        model=ModelRecipe(
            backbone=BackboneRecipe(path=str(folder), quantization=quantization),
            lora=LoraRecipe(rank=4) if lora else None,
            head=head or {"_target_": "mlp"},
        ),
        data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}),
        batch=BatchRecipe(**batch),
    )
    encoder = recipe_encoder(recipe, path=str(folder))
    model = build_model(recipe.model, path=str(folder), seed=0, encoder=encoder)
    torch.manual_seed(1)
    fill_adapters(model)
    return Scorer(model.eval(), encoder=encoder, recipe=recipe)


def some_groups() -> list[Group]:
    """Return forty groups of different shapes in random order."""
    rng = random.Random(0)
    groups = mixed_groups(vision=True)
    for index in range(35):
        responses = tuple("word " * rng.randint(0, 30) + str(k) for k in range(rng.randint(1, 4)))
        groups.append(
            group(f"Question {index} " * rng.randint(1, 20), responses, images=index % 3 == 0, name=f"{index}")
        )
    rng.shuffle(groups)
    return groups


def record_shapes(scorer: Scorer) -> list[tuple[int, int]]:
    """Return a list that receives the rows and columns of every later forward pass."""
    shapes: list[tuple[int, int]] = []
    scorer.model.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].rows.input_ids.shape)))
    return shapes


@pytest.mark.parametrize("layout", ["tree", "plain"])
def test_scores_do_not_depend_on_the_budget(folder: Path, layout: str) -> None:
    """Scores come in the order of the groups, and no forward pass with several groups is larger than the budget."""
    scorer, groups = scorer_of(folder, layout=layout), some_groups()
    shapes = record_shapes(scorer)
    alone = list(scorer.score_groups(groups, tokens=1))
    assert len(shapes) == len(groups)
    sizes = sorted(rows * columns for rows, columns in shapes)
    for tokens in (sizes[-1] // 2, sizes[-1] * 2, 100_000):
        shapes.clear()
        for scores, expected in zip(scorer.score_groups(groups, tokens=tokens), alone, strict=True):
            assert scores == pytest.approx(expected, abs=1e-5)
        assert len(shapes) < len(groups)
        above = [rows * columns for rows, columns in shapes if rows * columns > tokens]
        assert above == [] or sorted(above) == [size for size in sizes if size > tokens]
    assert len(shapes) == 1, "all groups fit in one forward pass"


def test_forward_passes_are_filled(folder: Path) -> None:
    """With tree rows no forward pass has room for the first group of the next one."""
    scorer, groups = scorer_of(folder), some_groups()
    shapes = record_shapes(scorer)
    sizes = [scorer.encoder.measure(group).tokens for group in groups]
    list(scorer.score_groups(groups, tokens=1000))
    passes: list[list[int]] = []
    for columns in (columns for _, columns in shapes):
        passes.append([])
        while sum(passes[-1]) < columns:
            passes[-1].append(sizes.pop(0))
        assert sum(passes[-1]) == columns
    for sizes_of_pass, sizes_of_next in pairwise(passes):
        assert sum(sizes_of_pass) + sizes_of_next[0] > 1000


def test_plain_rows_are_sorted_by_length(folder: Path) -> None:
    """With plain rows the padding is less than in the order of the groups."""
    scorer, groups = scorer_of(folder, layout="plain"), some_groups()
    shapes = record_shapes(scorer)
    list(scorer.score_groups(groups, tokens=3000))
    padded_tokens = sum(rows * columns for rows, columns in shapes)
    real_tokens = sum(
        measured.prefix * len(measured.branches) + sum(measured.branches)
        for measured in map(scorer.encoder.measure, groups)
    )
    assert real_tokens <= padded_tokens < 1.3 * real_tokens, "the ratio is 1.6 without sorting"


def test_recipe_sets_the_default_budget(folder: Path) -> None:
    """Without the argument `tokens` the budget is `batch.tokens`, or 4096 on the CPU where the recipe has none."""
    groups = some_groups()
    passes = []
    cases: list[tuple[dict[str, Any], int | None]] = [({"tokens": 700}, None), ({}, 700), ({}, None), ({}, 4096)]
    for settings, tokens in cases:
        scorer = scorer_of(folder, **settings)
        shapes = record_shapes(scorer)
        list(scorer.score_groups(groups, tokens=tokens))
        passes.append(shapes)
    assert passes[0] == passes[1]
    assert passes[2] == passes[3]
    assert len(passes[0]) > len(passes[2])


def test_groups_are_read_lazily(folder: Path) -> None:
    """A source of any length needs the memory of two forward passes, and the scores before an invalid group are
    returned."""
    read: list[int] = []
    groups = some_groups()

    def read_groups() -> Iterator[Group]:
        for index, item in enumerate(groups):
            read.append(index)
            yield item

    scored = scorer_of(folder).score_groups(read_groups(), tokens=500)
    next(scored)
    assert len(read) < len(groups) // 2
    long = group("word " * 5000, name="long")
    scored = scorer_of(folder).score_groups([*groups[:6], long], tokens=1)
    assert all(next(scored) for _ in range(6)), "the scores of the groups before it are returned before the error"
    with pytest.raises(DataError, match="'long' cannot be scored: too_long"):
        next(scored)


def test_latencies_are_recorded_per_forward_pass(folder: Path) -> None:
    """There is one latency per forward pass, it grows with the tokens, and all together are at most the total time."""
    scorer = scorer_of(folder)
    latencies: list[float] = []
    short, long = group("one", ("1",)), group("one " * 500, tuple("two " * 200 + str(k) for k in range(4)))
    list(scorer.score_groups([long, short], tokens=1))
    start = time.perf_counter()
    list(scorer.score_groups([short, long] * 3, tokens=1, latencies=latencies))
    total_ms = 1000 * (time.perf_counter() - start)
    assert len(latencies) == 6
    assert 0 < sum(latencies) <= total_ms
    assert min(latencies[1::2]) > min(latencies[::2])


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_bfloat16_scores_are_close(folder: Path, tmp_path: Path, lora: bool) -> None:
    """The weights of the backbone are cast and those of the head are not.

    The scores are close to the float32 scores, and a model saved in bfloat16 loads again.
    """
    scorer_of(folder, lora=lora).save(tmp_path / "model")
    full, rounded = load_scorer(tmp_path / "model"), load_scorer(tmp_path / "model", dtype="bfloat16")
    assert {parameter.dtype for parameter in rounded.model.backbone.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in rounded.model.head.parameters()} == {torch.float32}
    buffers = [name for name, buffer in rounded.model.named_buffers() if buffer.dtype == torch.bfloat16]
    assert buffers == [], "positions would be rounded"
    groups = some_groups()[:8]
    expected, actual = (torch.cat([*map(torch.tensor, scorer.score_groups(groups))]) for scorer in (full, rounded))
    assert 1e-6 < float((actual - expected).abs().max()) < 0.05 * float(expected.abs().max())
    rounded.save(tmp_path / "again")
    reloaded = load_scorer(tmp_path / "again", dtype="bfloat16")
    assert list(reloaded.score_groups(groups)) == list(rounded.score_groups(groups))


def test_invalid_dtype_is_refused(folder: Path, tmp_path: Path) -> None:
    """An unknown dtype is refused by name, and quantised weights cannot be cast to any dtype."""
    scorer = scorer_of(folder, lora=True)
    scorer.save(tmp_path / "model")
    with pytest.raises(ModelError, match="unknown dtype 'bfloat61'; did you mean 'bfloat16'"):
        load_scorer(tmp_path / "model", dtype="bfloat61")
    quantised = scorer_of(folder, quantization="nf4", lora=True)
    quantised.save(tmp_path / "quantised")
    with pytest.raises(ModelError, match=r"quantised \(nf4\) and cannot be cast to bfloat16"):
        load_scorer(tmp_path / "quantised", dtype="bfloat16")
    assert load_scorer(tmp_path / "quantised").model.backbone.quantization == "nf4"
    plain = replace(scorer.recipe, batch=BatchRecipe(layout="plain"))
    assert Scorer(scorer.model, encoder=scorer.encoder, recipe=plain).score("?", ["a"])


@pytest.mark.parametrize("head", ["mlp", "critic", "drawing", "generative"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_threads_can_share_a_scorer(head: str, lora: bool, folder: Path) -> None:
    """Four threads with different prompts and images get the scores of calls made one after the other."""
    heads: dict[str, dict[str, Any]] = {
        "mlp": {"_target_": "mlp"},
        "critic": {"_target_": "critic", "max_tokens": 3, "prompt": "critique_brief"},
        "drawing": {"_target_": "critic", "max_tokens": 3, "prompt": "critique_brief", "temperature": 1.0},
        "generative": {"_target_": "generative", "prompt": "pairwise_brief"},
    }
    scorer = scorer_of(folder, lora=lora, head=heads[head])
    calls: list[dict[str, Any]] = [
        {
            "prompt": f"Question {index} " * (1 + index % 5),
            "responses": ["yes " * (1 + index % 4), "no", "7"][: 2 + index % 2],
            "images": [picture(index)] * (index % 3),
        }
        for index in range(8 if head == "mlp" else 4)
    ]
    sequential = [scorer.score(**call) for call in calls]
    with ThreadPoolExecutor(4) as threads:
        concurrent = list(threads.map(lambda index: scorer.score(**calls[index % len(calls)]), range(3 * len(calls))))
    for index, scores in enumerate(concurrent):
        assert scores == pytest.approx(sequential[index % len(calls)], rel=0, abs=1e-6)
