"""A scorer at work: forward passes filled to a budget, in any precision, and the time they take."""

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
from tests.helpers.support import checkpoint, group, mixed_groups, picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Qwen2.5-VL."""
    return checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("model") / "m")


def scorer_of(
    folder: Path,
    *,
    quantization: Quantization | None = None,
    lora: bool = False,
    head: dict[str, Any] | None = None,
    **batch: Any,
) -> Scorer:
    """A scorer with random weights; adapters, when there are any, do something."""
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
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # B starts at zero, and does nothing
            torch.nn.init.normal_(parameter, std=0.1)
    return Scorer(model.eval(), encoder=encoder, recipe=recipe)


def some_groups() -> list[Group]:
    """Forty groups of all shapes, in no order of length."""
    rng = random.Random(0)
    groups = mixed_groups(vision=True)
    for number in range(35):
        answers = tuple("word " * rng.randint(0, 30) + str(k) for k in range(rng.randint(1, 4)))
        groups.append(
            group(f"Question {number} " * rng.randint(1, 20), answers, images=number % 3 == 0, name=f"{number}")
        )
    rng.shuffle(groups)
    return groups


def shapes(scorer: Scorer) -> list[tuple[int, int]]:
    """Rows and columns of every forward pass from now on."""
    seen: list[tuple[int, int]] = []
    scorer.model.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].rows.input_ids.shape)))
    return seen


@pytest.mark.parametrize("layout", ["tree", "plain"])
def test_scores_do_not_depend_on_the_budget(folder: Path, layout: str) -> None:
    """And come in the order of the groups; no pass of several groups is above the budget."""
    scorer, groups = scorer_of(folder, layout=layout), some_groups()
    seen = shapes(scorer)
    alone = list(scorer.score_groups(groups, tokens=1))
    assert len(seen) == len(groups)
    sizes = sorted(rows * columns for rows, columns in seen)
    for tokens in (sizes[-1] // 2, sizes[-1] * 2, 100_000):
        seen.clear()
        for scores, expected in zip(scorer.score_groups(groups, tokens=tokens), alone, strict=True):
            assert scores == pytest.approx(expected, abs=1e-5)
        assert len(seen) < len(groups)
        above = [rows * columns for rows, columns in seen if rows * columns > tokens]
        assert above == [] or sorted(above) == [size for size in sizes if size > tokens]
    assert len(seen) == 1, "all of them fit in one"


def test_a_pass_is_filled(folder: Path) -> None:
    """In tree rows no pass could have taken the first group of the next."""
    scorer, groups = scorer_of(folder), some_groups()
    seen = shapes(scorer)
    sizes = [scorer.encoder.measure(each).tokens for each in groups]
    list(scorer.score_groups(groups, tokens=1000))
    filled: list[list[int]] = []
    for columns in (columns for _, columns in seen):
        filled.append([])
        while sum(filled[-1]) < columns:
            filled[-1].append(sizes.pop(0))
        assert sum(filled[-1]) == columns
    for one, after in pairwise(filled):
        assert sum(one) + after[0] > 1000


def test_short_plain_rows_go_together(folder: Path) -> None:
    """Less padding than in the order of the groups."""
    scorer, groups = scorer_of(folder, layout="plain"), some_groups()
    seen = shapes(scorer)
    list(scorer.score_groups(groups, tokens=3000))
    sorted_tokens = sum(rows * columns for rows, columns in seen)
    real = sum(m.prefix * len(m.branches) + sum(m.branches) for m in map(scorer.encoder.measure, groups))
    assert real <= sorted_tokens < 1.3 * real, "filled in the order of the groups it is 1.6"


def test_the_recipe_gives_the_budget(folder: Path) -> None:
    """`batch.tokens` where the call says nothing; else 4,096 on the CPU."""
    groups = some_groups()
    passes = []
    ways: list[tuple[dict[str, Any], int | None]] = [({"tokens": 700}, None), ({}, 700), ({}, None), ({}, 4096)]
    for settings, tokens in ways:
        scorer = scorer_of(folder, **settings)
        seen = shapes(scorer)
        list(scorer.score_groups(groups, tokens=tokens))
        passes.append(seen)
    assert passes[0] == passes[1]
    assert passes[2] == passes[3]
    assert len(passes[0]) > len(passes[2])


def test_scores_come_while_groups_are_read(folder: Path) -> None:
    """A file of any length needs the memory of two passes; what was scored before a fault is not lost with it."""
    read: list[int] = []
    groups = some_groups()

    def reading() -> Iterator[Group]:
        for number, each in enumerate(groups):
            read.append(number)
            yield each

    scored = scorer_of(folder).score_groups(reading(), tokens=500)
    next(scored)
    assert len(read) < len(groups) // 2
    long = group("word " * 5000, name="long")
    scored = scorer_of(folder).score_groups([*groups[:6], long], tokens=1)
    assert all(next(scored) for _ in range(4)), "all but the pass that is at work and the one that is filled"
    with pytest.raises(DataError, match="'long' cannot be scored: too_long"):
        next(scored)


def test_latencies_are_those_of_the_passes(folder: Path) -> None:
    """One a pass, more for more tokens, and together no more than the whole takes."""
    scorer = scorer_of(folder)
    latencies: list[float] = []
    short, long = group("one", ("1",)), group("one " * 500, tuple("two " * 200 + str(k) for k in range(4)))
    list(scorer.score_groups([long, short], tokens=1))
    began = time.perf_counter()
    list(scorer.score_groups([short, long] * 3, tokens=1, latencies=latencies))
    whole = 1000 * (time.perf_counter() - began)
    assert len(latencies) == 6
    assert 0 < sum(latencies) <= whole
    assert min(latencies[1::2]) > min(latencies[::2])


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_bfloat16_stays_close(folder: Path, tmp_path: Path, lora: bool) -> None:
    """The backbone's weights are rounded, the head's are not; the scores are those of a rounded backbone, and saved
    again it loads again."""
    scorer_of(folder, lora=lora).save(tmp_path / "model")
    whole, rounded = load_scorer(tmp_path / "model"), load_scorer(tmp_path / "model", dtype="bfloat16")
    assert {p.dtype for p in rounded.model.backbone.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in rounded.model.head.parameters()} == {torch.float32}
    buffers = [name for name, b in rounded.model.named_buffers() if b.dtype == torch.bfloat16]
    assert buffers == [], "positions would be rounded"
    groups = some_groups()[:8]
    expected, found = (torch.cat([*map(torch.tensor, each.score_groups(groups))]) for each in (whole, rounded))
    assert 1e-6 < float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())
    rounded.save(tmp_path / "again")
    again = load_scorer(tmp_path / "again", dtype="bfloat16")
    assert list(again.score_groups(groups)) == list(rounded.score_groups(groups))


def test_a_dtype_that_cannot_be_is_refused(folder: Path, tmp_path: Path) -> None:
    """An unknown one by name; any for quantised weights."""
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
def test_threads_that_share_a_scorer_do_not_meet(head: str, lora: bool, folder: Path) -> None:
    """Four threads at once, each with prompts of other lengths and pictures, get the scores that one gets alone."""
    heads: dict[str, dict[str, Any]] = {
        "mlp": {"_target_": "mlp"},
        "critic": {"_target_": "critic", "max_tokens": 3, "prompt": "critique_brief"},
        "drawing": {"_target_": "critic", "max_tokens": 3, "prompt": "critique_brief", "temperature": 1.0},
        "generative": {"_target_": "generative", "prompt": "pairwise_brief"},
    }
    scorer = scorer_of(folder, lora=lora, head=heads[head])
    calls: list[dict[str, Any]] = [
        {
            "prompt": f"Question {number} " * (1 + number % 5),
            "responses": ["yes " * (1 + number % 4), "no", "7"][: 2 + number % 2],
            "images": [picture(number)] * (number % 3),
        }
        for number in range(8 if head == "mlp" else 4)
    ]
    alone = [scorer.score(**call) for call in calls]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda number: scorer.score(**calls[number % len(calls)]), range(3 * len(calls))))
    for number, scores in enumerate(together):
        assert scores == pytest.approx(alone[number % len(calls)], rel=0, abs=1e-6)
