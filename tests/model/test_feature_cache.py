"""The feature cache of a frozen vision tower: runs with it are bit-identical, whatever is cached, and equal those
without it up to the rounding of images in one pass; equal images are encoded once."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import Layout, TreeBatch
from basereward.data.encoding.encoder import Encoder
from basereward.data.schema.group import IMAGE, Group, Part, Turn, rank_preferences
from basereward.errors import ModelError, RecipeError
from basereward.model.backbone import load_backbone
from basereward.model.families.parts import freeze
from basereward.model.families.processing import load_encoder
from basereward.model.families.vision import keep_features, towers
from basereward.model.heads.mlp import MLP
from basereward.model.reward_model import RewardModel
from basereward.recipe import load_recipe
from basereward.training.build import build
from tests.helpers.cache_processes import run_together
from tests.helpers.feature_runs import FROZEN, KEPT, TRAIN, VAL, different, distance, train, write_pictures
from tests.helpers.forked_program import ForkedProgram
from tests.helpers.kept_features import features, size_of
from tests.helpers.support import SMALL, VISION, picture

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ready_store")]

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
LORA = "model.lora.rank=2"
# Largest distance between the weights of runs that encode images alone and together, as a share of what they change.
ROUNDING = 1e-4
FEATURES = "features"
RUN = """
import dataclasses, json
given = json.loads(sys.argv[1])
print(json.dumps(dataclasses.asdict(train(*given["overrides"], die_at=given["die_at"]))))
"""


@pytest.fixture(autouse=True)
def shipped_experiments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the experiments of the project, independent of the working directory."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))


def cache_folder() -> Path:
    """Return the folder where the runs of a test store features."""
    return Path(os.environ["BASEREWARD_CACHE"]) / FEATURES


def start_run(overrides: Sequence[str], *, die_at: int | None = None) -> ForkedProgram:
    """Start a run in another process; with `die_at` it is killed at that image."""
    return ForkedProgram(
        "tests.helpers.feature_runs", RUN, json.dumps({"overrides": list(overrides), "die_at": die_at})
    )


def end_runs(*processes: ForkedProgram) -> list[dict[str, Any]]:
    """Let started processes run at the same time, and return the object that each prints last."""
    run_together(*processes)
    return [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]


# Complete runs with and without the cache.


@pytest.mark.parametrize(
    "changes",
    [
        ("model.backbone.freeze=[vision,merger,language]",),
        (LORA,),
    ],
    ids=["head", "lora"],
)
def test_cached_run_ends_with_the_same_weights(changes: tuple[str, ...], tmp_path: Path) -> None:
    """Final weights are equal with and without data workers.

    In the second epoch no image is opened and the tower is not called.
    """
    overrides = [*write_pictures(tmp_path), *changes]
    plain = train(*overrides)
    assert plain.after != plain.before
    assert plain.opened == [TRAIN + 1 + VAL] * 2
    cached = train(*overrides, KEPT)
    assert cached.before == plain.before
    assert distance(cached, plain) < ROUNDING
    assert cached.towers == [different(tmp_path), 0]
    assert cached.opened[0] > 0
    assert cached.opened[1] == 0
    shutil.rmtree(cache_folder())
    with_workers = train(*overrides, KEPT, "data.workers=2")
    assert (with_workers.before, with_workers.after) == (cached.before, cached.after)
    assert with_workers.towers == [different(tmp_path), 0]


def test_cache_works_with_plain_rows_in_mixed_precision(tmp_path: Path) -> None:
    """Final weights are equal. Plain rows repeat an image for every response, and it is encoded once in two epochs."""
    overrides = [*write_pictures(tmp_path), LORA, "batch.layout=plain", "trainer.precision=bf16-mixed"]
    plain, cached = train(*overrides), train(*overrides, KEPT)
    assert plain.after != plain.before
    # bfloat16 has three digits.
    assert distance(cached, plain) < 0.05
    assert cached.towers == [different(tmp_path), 0]


def test_cache_works_with_streaming(tmp_path: Path) -> None:
    """A stream that repeats its rows ends with the same weights and calls the tower once per image."""
    streaming = ["data.streaming.buffer=8", "data.streaming.held_out=2", "trainer.steps=5"]
    overrides = [*write_pictures(tmp_path), LORA, "data.sources.mine.val=0.1", *streaming]
    plain, cached = train(*overrides), train(*overrides, KEPT)
    assert plain.after != plain.before
    assert distance(cached, plain) < ROUNDING
    assert sum(cached.towers) <= different(tmp_path)


def test_processes_share_the_cache(tmp_path: Path) -> None:
    """One run is killed after two images, two concurrent runs reuse its features, and a last run encodes no image.

    All end with the weights of a run that did not share it.
    """
    overrides = [*write_pictures(tmp_path), LORA, KEPT]
    alone = train(*overrides)
    shutil.rmtree(cache_folder())
    killed = start_run(overrides, die_at=3)
    run_together(killed)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert len([file for file in cache_folder().glob("*/*") if file.is_file()]) == 2
    for run in end_runs(start_run(overrides), start_run(overrides)):
        assert run["after"] == alone.after
        assert run["towers"][0] <= different(tmp_path) - 2
        assert run["towers"][1] == 0
    last = train(*overrides)
    assert last.after == alone.after
    assert (last.towers, last.opened) == ([0, 0], [0, 0])


def test_damaged_features_are_recomputed(tmp_path: Path) -> None:
    """Truncated, altered and swapped records do not change a run, and are written again."""
    overrides = [*write_pictures(tmp_path), LORA, KEPT]
    first = train(*overrides)
    files = sorted(file for file in cache_folder().glob("*/*") if file.is_file())
    contents = [file.read_bytes() for file in files]
    assert len(files) == different(tmp_path)
    files[0].write_bytes(contents[0][:-4])
    altered = bytearray(contents[1])
    altered[len(altered) // 2] ^= 1
    files[1].write_bytes(altered)
    files[2].write_bytes(contents[3])
    files[3].write_bytes(contents[2])
    second = train(*overrides)
    assert second.after == first.after
    assert second.towers == [4, 0]
    assert [file.read_bytes() for file in files] == contents


def test_full_cache_gives_the_same_weights(tmp_path: Path) -> None:
    """With room for some of the images, the second epoch reads those from the cache and encodes the others."""
    overrides = [*write_pictures(tmp_path), LORA]
    whole = train(*overrides, KEPT)
    shutil.rmtree(cache_folder())
    # Every image of this test has six tokens.
    size = size_of(features(0, states=1, width=64))
    run = train(*overrides, f"data.encoding.feature_cache={3.5 * size / 2**30:.12f}")
    assert run.after == whole.after
    assert sum(file.stat().st_size for file in cache_folder().glob("*/*")) == 3 * size
    assert 0 < run.opened[1] < run.opened[0]
    assert whole.towers[1] == 0 < run.towers[1]


# The settings that features depend on.


def image_group(*pictures: Any, name: str = "g", responses: tuple[str, ...] = ("7", "It is 4.")) -> Group:
    """Return a group whose prompt has these images."""
    prompt = (Turn("user", (*[IMAGE] * len(pictures), Part("Which digit?"))),)
    preferences = rank_preferences(range(len(responses)))
    return Group(name, "test", prompt=prompt, responses=responses, preferences=preferences, images=pictures)


def batch_of(encoder: Encoder, *groups: Group, layout: Layout = "tree") -> TreeBatch:
    """Return the encoded groups in one batch."""
    return collate([encoder(group) for group in groups], layout=layout, pad_id=encoder.pad_id)


def frozen_model(folder: Path, dtype: torch.dtype = torch.float32) -> RewardModel:
    """Return a model that trains its head only."""
    return model_of(folder, frozen=("vision", "merger", "language"), dtype=dtype)


def model_of(folder: Path, *, frozen: Sequence[str] = (), dtype: torch.dtype = torch.float32) -> RewardModel:
    """Return a small model whose head has fixed random weights."""
    backbone = load_backbone(folder, dtype=dtype)
    torch.manual_seed(0)
    model = RewardModel(backbone, MLP(backbone.hidden_size))
    freeze(model.backbone, frozen)
    return model.train()


def record_tower_calls(model: RewardModel) -> list[int]:
    """Return a list that receives the number of patches of every call of the vision tower."""
    calls: list[int] = []
    transformer: Any = model.backbone.transformer

    def record(module: Any, arguments: tuple[Any, ...], options: Any) -> None:
        calls.append(len(arguments[0] if arguments else options["hidden_states"]))

    transformer.visual.register_forward_pre_hook(record, with_kwargs=True)
    return calls


def use_cache(
    model: RewardModel, encoder: Encoder, *, precision: str = "32-true", device: torch.device = CPU
) -> Encoder:
    """Return the encoder with the feature cache set up for a run of this precision."""
    transformer = model.backbone.transformer
    return keep_features(
        model.backbone.vision, transformer=transformer, encoder=encoder, gib=0.1, device=device, precision=precision
    )


def save_png(folder: Path, index: int, *, name: str = "") -> Path:
    """Write an image to a file and return its path."""
    file = folder / f"{name or index}.png"
    picture(index).save(file)
    return file


CHANGES: dict[str, Callable[[RewardModel, Encoder], None]] = {
    "a weight of the tower": lambda model, _: nudge_weight(model, "visual.blocks.0.attn.qkv.weight"),
    "a bias of the tower": lambda model, _: nudge_weight(model, "visual.blocks.1.mlp.down_proj.bias"),
    "a weight of the merger": lambda model, _: nudge_weight(model, "visual.merger.mlp.2.weight"),
    "fewer pixels": lambda _, encoder: setattr(encoder.image_processor.size, "longest_edge", 28 * 28 * 2),
    "other shades": lambda _, encoder: setattr(encoder.image_processor, "image_mean", [0.5, 0.5, 0.5]),
    "other resampling": lambda _, encoder: setattr(encoder.image_processor, "resample", 0),
    "other attention": lambda model, _: setattr(
        model.backbone.transformer.get_submodule("visual").config, "_attn_implementation", "eager"
    ),
}


def nudge_weight(model: RewardModel, name: str) -> None:
    """Increase one number of a weight by the smallest float step."""
    weights: dict[str, Tensor] = dict(model.backbone.transformer.named_parameters())
    with torch.no_grad():
        values = weights[name].view(-1)
        values[0] = torch.nextafter(values[0], torch.tensor(9.0))


def test_cache_identifies_images_by_content(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """A copy of an image under another name is found by another model with the same weights.

    Another image in the same file is a miss and gets its own features.
    """
    original, copy = save_png(tmp_path, 0), save_png(tmp_path, 0, name="copy")
    for file, expected in ((original, [24]), (original, []), (copy, [])):
        model, encoder = frozen_model(folder_of("qwen2_5_vl")), load_encoder(folder_of("qwen2_5_vl"))
        encoder = use_cache(model, encoder)
        calls = record_tower_calls(model)
        scores = model(batch_of(encoder, image_group(file)))
        assert calls == expected
    save_png(tmp_path, 1, name="copy")
    actual = model(batch_of(encoder, image_group(copy)))
    assert calls == [24]
    expected_scores = frozen_model(folder_of("qwen2_5_vl"))(
        batch_of(load_encoder(folder_of("qwen2_5_vl")), image_group(copy))
    )
    assert torch.equal(actual, expected_scores)
    assert not torch.equal(actual, scores)


@pytest.mark.parametrize("change_name", CHANGES)
def test_changed_model_or_processor_misses_the_cache(
    change_name: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """A changed weight, processor setting or attention calls the tower, and scores equal those without the cache."""
    two_images = image_group(save_png(tmp_path, 0), save_png(tmp_path, 1))
    for apply_change in (lambda *_: None, CHANGES[change_name]):
        model, encoder = frozen_model(folder_of("qwen2_5_vl")), load_encoder(folder_of("qwen2_5_vl"))
        apply_change(model, encoder)
        expected = model(batch_of(encoder, two_images))
        encoder = use_cache(model, encoder)
        calls = record_tower_calls(model)
        for num_calls in (2, 0):
            calls.clear()
            torch.testing.assert_close(model(batch_of(encoder, two_images)), expected, rtol=1e-5, atol=1e-6)
            assert len(calls) == num_calls


def test_changed_precision_misses_the_cache(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """Another precision of the run or of the weights calls the tower, and scores equal those without the cache."""
    one_image = image_group(save_png(tmp_path, 0))
    precisions = (("32-true", torch.float32), ("bf16-mixed", torch.float32), ("32-true", torch.bfloat16))
    for precision, dtype in precisions:
        model, encoder = frozen_model(folder_of("qwen2_5_vl"), dtype), load_encoder(folder_of("qwen2_5_vl"))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
            expected = model(batch_of(encoder, one_image))
            encoder = use_cache(model, encoder, precision=precision)
            calls = record_tower_calls(model)
            for num_calls in (1, 0):
                calls.clear()
                assert torch.equal(model(batch_of(encoder, one_image)), expected)
                assert len(calls) == num_calls


def test_cached_and_new_features_mix_in_one_batch(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """Cached and new images in any order, repeated and in both layouts, give the same bits in any batch."""
    a, b, c, d = (save_png(tmp_path, index) for index in range(4))
    model, encoder = frozen_model(folder_of("qwen2_5_vl")), load_encoder(folder_of("qwen2_5_vl"))
    groups = [image_group(a, b, a), image_group(), image_group(c, responses=("1", "2", "3")), image_group(d, b)]
    layouts: tuple[Layout, ...] = ("tree", "plain")
    packed = [model(batch_of(encoder, *groups, layout=layout)) for layout in layouts]
    encoder = use_cache(model, encoder)
    expected = [model(batch_of(encoder, *groups, layout=layout)) for layout in layouts]
    for with_cache, without in zip(expected, packed, strict=True):
        torch.testing.assert_close(with_cache, without, rtol=1e-5, atol=1e-6)
    shutil.rmtree(cache_folder())
    calls = record_tower_calls(model)
    encoder = use_cache(model, load_encoder(folder_of("qwen2_5_vl")))
    model(batch_of(encoder, image_group(b)))
    calls.clear()
    # These batches are encoded before the other images are cached.
    early_batches = [batch_of(encoder, *groups, layout=layout) for layout in layouts]
    for batch, layout in zip(early_batches, layouts, strict=True):
        assert torch.equal(model(batch), expected[layouts.index(layout)])
    assert calls == [24] * 3
    for layout, scores in zip(layouts, expected, strict=True):
        assert torch.equal(model(batch_of(encoder, *groups, layout=layout)), scores)
    assert calls == [24] * 3


# Equal images in a batch.


def reference_scores(model: RewardModel, folder: Path, groups: Sequence[Group]) -> tuple[Tensor, Any]:
    """Return scores of transformers' own forward pass, one plain row per response and every image encoded alone."""
    encoder = load_encoder(folder)
    transformer = AutoModel.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    scores = []
    for group in groups:
        pixels = encoder.image_processor(images=list(group.images), return_tensors="pt") if group.images else None
        encoded = encoder(group)
        for branch in encoded.branches:
            ids = torch.cat([encoded.prefix, branch])[None]
            inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if pixels is not None:
                token_types = (ids == encoder.image_token_id).int()
                inputs |= {**pixels, "mm_token_type_ids": token_types}
            hidden = transformer(**inputs, use_cache=False).last_hidden_state[0, -1]
            scores.append(model.head(hidden[None].float()))
    return torch.cat(scores), transformer


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
@pytest.mark.parametrize("layout", ["tree", "plain"])
def test_equal_images_are_encoded_once(family: str, layout: Layout, folder_of: Callable[[str], Path]) -> None:
    """Within and across groups, scores and all gradients equal those of transformers with every image encoded alone.

    The tower receives the patches of each distinct image once.
    """
    a, b, c = picture(0), picture(1), picture(2).resize((112, 56))
    groups = [image_group(a, b, a, name="1"), image_group(name="2"), image_group(b.copy(), name="3")]
    groups += [image_group(c, a.copy(), name="4", responses=("1", "2", "three"))]
    model = model_of(folder_of(family), dtype=torch.float64)
    loss_weights = torch.linspace(-1.0, 2.0, 9)
    expected_scores, transformer = reference_scores(model, folder_of(family), groups)
    (expected_scores * loss_weights).sum().backward()
    model.head.zero_grad()
    calls = record_tower_calls(model)
    scores = model(batch_of(load_encoder(folder_of(family)), *groups, layout=layout))
    (scores * loss_weights).sum().backward()
    assert calls == [24 + 24 + 32]
    # The tolerance is that of float32, in which the head computes.
    torch.testing.assert_close(scores, expected_scores, rtol=1e-5, atol=1e-6)
    expected_gradients = {
        name: weight.grad for name, weight in transformer.named_parameters() if weight.grad is not None
    }
    assert {name.split(".")[0] for name in expected_gradients} == {"visual", "language_model"}
    for name, weight in model.backbone.transformer.named_parameters():
        if name in expected_gradients:
            assert weight.grad is not None
            error = (weight.grad - expected_gradients[name]).norm() / expected_gradients[name].norm().clamp(min=1e-12)
            # float32 sums in another order differ by up to 1.03e-6 with some CPU kernels.
            assert error < 5e-6 or expected_gradients[name].norm() < 1e-9, f"{name}: {error}"


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("family", VISION)
def test_images_of_a_batch_are_encoded_together(family: str, frozen: bool, folder_of: Callable[[str], Path]) -> None:
    """One call of the tower for the distinct images of a batch, frozen or trained; the features are those of each image
    alone, by transformers' own attention."""
    a, b, c = picture(0), picture(1), picture(2).resize((112, 56))
    encoder = load_encoder(folder_of(family))
    model = frozen_model(folder_of(family)) if frozen else model_of(folder_of(family))
    transformer: Any = model.backbone.transformer
    tower = next(module for _, module in towers(transformer))
    calls: list[int] = []
    tower.register_forward_pre_hook(lambda *_: calls.append(1))

    def features(*images: Any) -> Tensor:
        output = model.backbone.vision(transformer, batch_of(encoder, image_group(*images))).pooler_output
        return output if isinstance(output, Tensor) else torch.cat(output)

    together = features(c, a, a, b, c, b)
    assert len(calls) == 1
    assert together.requires_grad is not frozen
    tower.config._attn_implementation = "eager"
    expected = torch.cat([features(image) for image in (c, a, a, b, c, b)])
    torch.testing.assert_close(together, expected, rtol=1e-5, atol=1e-5)


def test_images_that_differ_in_one_pixel_are_distinct(folder_of: Callable[[str], Path]) -> None:
    """A changed number at any position of an image makes a distinct image; a copy of an image does not."""
    encoder = load_encoder(folder_of("qwen2_5_vl"))
    content = np.asarray(picture(0)).copy()
    height, width, _ = content.shape
    for index in range(0, height * width * 3, 997):
        changed = content.copy()
        changed.reshape(-1)[index] ^= 1
        batch = batch_of(encoder, image_group(picture(0), PIL.Image.fromarray(changed), picture(0)))
        assert (len(batch.images.grids), batch.images.places) == (2, (0, 1, 0))


# Recipes that cannot use the cache.


@pytest.mark.parametrize("parts", [["merger"], ["vision"], []])
def test_trained_tower_refuses_the_cache(parts: list[str]) -> None:
    """`build` refuses a recipe that was not validated; the error names the key and both ways to fix it."""
    checked = load_recipe("basereward", overrides=[*SMALL, FROZEN, KEPT])
    recipe = replace(checked, model=replace(checked.model, backbone=replace(checked.model.backbone, freeze=parts)))
    with pytest.raises(ModelError, match="the vision tower or its merger is trained") as excinfo:
        build(recipe)
    for expected in ("data.encoding.feature_cache is 0.1", "model.backbone.freeze", "model.lora.parts", "to null"):
        assert expected in str(excinfo.value)


def test_text_only_backbone_refuses_the_cache(folder_of: Callable[[str], Path]) -> None:
    """The error names the key and the value to set."""
    text_overrides = [override for override in SMALL if not override.startswith(("model.", "data.sources.digits"))]
    backbone = ["model.backbone.make=null", f"model.backbone.path={folder_of('qwen3')}"]
    changes = [*text_overrides, *backbone, "data.sources.digits=null", FROZEN, KEPT]
    with pytest.raises(ModelError, match=r"data\.encoding\.feature_cache is 0\.1, and the backbone.*null"):
        build(load_recipe("basereward", overrides=changes))


@pytest.mark.parametrize("value", ["0", "0.0", "-1", ".nan", ".inf", "much", "[1]"])
def test_cache_size_out_of_range_is_refused(value: str) -> None:
    """`load_recipe` refuses the value and names its key."""
    with pytest.raises(RecipeError, match=r"data\.encoding\.feature_cache"):
        load_recipe("basereward", overrides=[FROZEN, f"data.encoding.feature_cache={value}"])


def test_recipe_with_trained_tower_and_cache_is_refused() -> None:
    """`load_recipe` refuses the recipe before anything is read."""
    with pytest.raises(RecipeError, match=r"data\.encoding\.feature_cache.*vision and merger would be trained"):
        load_recipe("basereward", overrides=[*SMALL, KEPT])
