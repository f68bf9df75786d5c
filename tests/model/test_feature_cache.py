"""A frozen tower's features on the disk change nothing but the time; equal pictures are encoded once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
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

from basereward.data.batching.tree_batch import Layout, TreeBatch, collate
from basereward.data.encoding.encoder import Encoder
from basereward.data.schema.group import IMAGE, Group, Part, Turn, rank_preferences
from basereward.errors import ModelError, RecipeError
from basereward.model.backbone import load_backbone
from basereward.model.families.parts import freeze
from basereward.model.families.processing import load_encoder
from basereward.model.families.vision import keep_features
from basereward.model.heads.mlp import MLP
from basereward.model.reward_model import RewardModel
from basereward.recipe import load_recipe
from basereward.training.build import build
from tests.helpers.feature_runs import FROZEN, KEPT, TRAIN, VAL, Run, different, train, write_pictures
from tests.helpers.kept_features import features, size_of
from tests.helpers.support import SMALL, picture

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
LORA = "model.lora.rank=2"
FEATURES = "features"


@pytest.fixture(autouse=True)
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The experiments of the project, wherever the tests are run from."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))


def kept_folder() -> Path:
    """Where the runs of a test keep features."""
    return Path(os.environ["BASEREWARD_CACHE"]) / FEATURES


def begun(overrides: Sequence[str], *, die_at: int | None = None) -> subprocess.Popen[str]:
    """A run in another process."""
    told = json.dumps({"overrides": list(overrides), "die_at": die_at})
    command = [sys.executable, "-m", "tests.helpers.feature_runs", told]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ}, stdout=pipe, stderr=pipe, text=True)


def ended(process: subprocess.Popen[str]) -> Run:
    """What a run in another process came to."""
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return Run(**json.loads(out.splitlines()[-1]))


# Whole runs.


@pytest.mark.parametrize(
    "changes",
    [
        ("model.backbone.freeze=[vision,merger,language]",),
        (LORA,),
    ],
    ids=["head", "lora"],
)
def test_a_run_that_keeps_features_ends_with_the_same_bits(changes: tuple[str, ...], tmp_path: Path) -> None:
    """With and without processes that load; in the second epoch nothing is opened and the tower is not called."""
    overrides = [*write_pictures(tmp_path), *changes]
    plain = train(*overrides)
    assert plain.after != plain.before
    assert plain.opened == [TRAIN + 1 + VAL] * 2
    assert min(plain.towers) > different(tmp_path)
    kept = train(*overrides, KEPT)
    assert (kept.before, kept.after) == (plain.before, plain.after)
    assert kept.towers == [different(tmp_path), 0]
    assert kept.opened[0] > 0
    assert kept.opened[1] == 0
    shutil.rmtree(kept_folder())
    with_workers = train(*overrides, KEPT, "data.workers=2")
    assert (with_workers.before, with_workers.after) == (plain.before, plain.after)
    assert with_workers.towers == [different(tmp_path), 0]


def test_plain_rows_in_mixed_precision_keep_features_too(tmp_path: Path) -> None:
    """The same bits; a picture comes once for every response, and is encoded once in two epochs."""
    overrides = [*write_pictures(tmp_path), LORA, "batch.layout=plain", "trainer.precision=bf16-mixed"]
    plain, kept = train(*overrides), train(*overrides, KEPT)
    assert plain.after != plain.before
    assert kept.after == plain.after
    assert kept.towers == [different(tmp_path), 0]


def test_runs_that_stream_keep_features_too(tmp_path: Path) -> None:
    """A stream goes round once more: the same bits, and the tower is called for every picture once."""
    streamed = ["data.streaming.buffer=8", "data.streaming.held_out=2", "trainer.steps=5"]
    overrides = [*write_pictures(tmp_path), LORA, "data.sources.mine.val=0.1", *streamed]
    plain, kept = train(*overrides), train(*overrides, KEPT)
    assert plain.after != plain.before
    assert kept.after == plain.after
    assert sum(kept.towers) <= different(tmp_path) < sum(plain.towers)


def test_other_processes_find_what_one_kept(tmp_path: Path) -> None:
    """One run is killed among its pictures; two more at the same time go on with what it kept; a last one has nothing
    left to look at. All end with the bits of a run that keeps nothing."""
    overrides = [*write_pictures(tmp_path), LORA]
    plain = train(*overrides)
    overrides.append(KEPT)
    killed = begun(overrides, die_at=3)
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert len([file for file in kept_folder().glob("*/*") if file.is_file()]) == 2
    for run in map(ended, [begun(overrides), begun(overrides)]):
        assert run.after == plain.after
        assert run.towers[0] <= different(tmp_path) - 2
        assert run.towers[1] == 0
    last = train(*overrides)
    assert last.after == plain.after
    assert (last.towers, last.opened) == ([0, 0], [0, 0])


def test_damaged_features_are_made_anew(tmp_path: Path) -> None:
    """Records that were cut, altered and mixed up since do not change a run."""
    overrides = [*write_pictures(tmp_path), LORA, KEPT]
    first = train(*overrides)
    files = sorted(file for file in kept_folder().glob("*/*") if file.is_file())
    contents = [file.read_bytes() for file in files]
    assert len(files) == different(tmp_path)
    files[0].write_bytes(contents[0][:-4])
    altered = bytearray(contents[1])
    altered[len(altered) // 2] ^= 1
    files[1].write_bytes(altered)
    files[2].write_bytes(contents[3])
    files[3].write_bytes(contents[2])
    again = train(*overrides)
    assert again.after == first.after
    assert again.towers == [4, 0]
    assert [file.read_bytes() for file in files] == contents


def test_a_full_folder_changes_no_bit(tmp_path: Path) -> None:
    """There is room for some of the pictures: they are found in the second epoch, and the others are encoded."""
    overrides = [*write_pictures(tmp_path), LORA]
    plain = train(*overrides)
    size = size_of(features(0, states=1, width=64))  # of all of these pictures: six tokens each
    run = train(*overrides, f"data.encoding.feature_cache={3.5 * size / 2**30:.12f}")
    assert run.after == plain.after
    assert sum(file.stat().st_size for file in kept_folder().glob("*/*")) == 3 * size
    assert 0 < run.opened[1] < plain.opened[1]
    assert 0 < run.towers[1] < plain.towers[1]


# What features depend on.


def of_pictures(*pictures: Any, name: str = "g", responses: tuple[str, ...] = ("7", "It is 4.")) -> Group:
    """A group whose prompt has these pictures."""
    prompt = (Turn("user", (*[IMAGE] * len(pictures), Part("Which digit?"))),)
    preferences = rank_preferences(range(len(responses)))
    return Group(name, "test", prompt=prompt, responses=responses, preferences=preferences, images=pictures)


def batch_of(encoder: Encoder, *groups: Group, layout: Layout = "tree") -> TreeBatch:
    """Groups as a model takes them."""
    return collate([encoder(each) for each in groups], layout=layout, pad_id=encoder.pad_id)


def frozen_model(folder: Path, dtype: torch.dtype = torch.float32) -> RewardModel:
    """A model whose head alone is trained."""
    return model_of(folder, frozen=("vision", "merger", "language"), dtype=dtype)


def model_of(folder: Path, *, frozen: Sequence[str] = (), dtype: torch.dtype = torch.float32) -> RewardModel:
    """A small model with the head of a seed."""
    backbone = load_backbone(folder, dtype=dtype)
    torch.manual_seed(0)
    model = RewardModel(backbone, MLP(backbone.hidden_size))
    freeze(model.backbone, frozen)
    return model.train()


def looked_at(model: RewardModel) -> list[int]:
    """A list that gets the number of patches of every call of the vision tower."""
    calls: list[int] = []
    transformer: Any = model.backbone.transformer

    def look(module: Any, arguments: tuple[Any, ...], options: Any) -> None:
        calls.append(len(arguments[0] if arguments else options["hidden_states"]))

    transformer.visual.register_forward_pre_hook(look, with_kwargs=True)
    return calls


def keep(model: RewardModel, encoder: Encoder, *, precision: str = "32-true", device: torch.device = CPU) -> None:
    """As a run of that precision does."""
    transformer = model.backbone.transformer
    keep_features(
        model.backbone.vision, transformer=transformer, encoder=encoder, gib=0.1, device=device, precision=precision
    )


def png(folder: Path, index: int, *, name: str = "") -> Path:
    """A picture as a file."""
    file = folder / f"{name or index}.png"
    picture(index).save(file)
    return file


OTHERS: dict[str, Callable[[RewardModel, Encoder], None]] = {
    "a weight of the tower": lambda model, _: change(model, "visual.blocks.0.attn.qkv.weight"),
    "a bias of the tower": lambda model, _: change(model, "visual.blocks.1.mlp.down_proj.bias"),
    "a weight of the merger": lambda model, _: change(model, "visual.merger.mlp.2.weight"),
    "fewer pixels": lambda _, encoder: setattr(encoder.image_processor.size, "longest_edge", 28 * 28 * 2),
    "other shades": lambda _, encoder: setattr(encoder.image_processor, "image_mean", [0.5, 0.5, 0.5]),
    "other resampling": lambda _, encoder: setattr(encoder.image_processor, "resample", 0),
    "other attention": lambda model, _: setattr(
        model.backbone.transformer.config.vision_config, "_attn_implementation", "eager"
    ),
}


def change(model: RewardModel, name: str) -> None:
    """Adds the smallest step to one number of a weight."""
    weights: dict[str, Tensor] = dict(model.backbone.transformer.named_parameters())
    with torch.no_grad():
        flat = weights[name].view(-1)
        flat[0] = torch.nextafter(flat[0], torch.tensor(9.0))


def test_a_picture_is_found_whatever_its_file_is_called(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """By another model of the same weights; another picture in the same file is a miss, with its own features."""
    one, other = png(tmp_path, 0), png(tmp_path, 0, name="copy")
    for file, expected in ((one, [24]), (one, []), (other, [])):
        model, encoder = frozen_model(folder_of("qwen2_5_vl")), load_encoder(folder_of("qwen2_5_vl"))
        keep(model, encoder)
        calls = looked_at(model)
        scores = model(batch_of(encoder, of_pictures(file)))
        assert calls == expected
    png(tmp_path, 1, name="copy")
    found = model(batch_of(encoder, of_pictures(other)))
    assert calls == [24]
    alone = frozen_model(folder_of("qwen2_5_vl"))(batch_of(load_encoder(folder_of("qwen2_5_vl")), of_pictures(other)))
    assert torch.equal(found, alone)
    assert not torch.equal(found, scores)


@pytest.mark.parametrize("what", OTHERS)
def test_everything_that_features_depend_on_makes_others(
    what: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """The tower is called, and scores are those of a model that keeps nothing."""
    groups = of_pictures(png(tmp_path, 0), png(tmp_path, 1))
    for changed in (lambda *_: None, OTHERS[what]):
        model, encoder = frozen_model(folder_of("qwen2_5_vl")), load_encoder(folder_of("qwen2_5_vl"))
        changed(model, encoder)
        expected = model(batch_of(encoder, groups))
        keep(model, encoder)
        calls = looked_at(model)
        for number in (2, 0):
            calls.clear()
            assert torch.equal(model(batch_of(encoder, groups)), expected)
            assert len(calls) == number


def test_another_precision_makes_others(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """Of the run, and of the weights."""
    groups = of_pictures(png(tmp_path, 0))
    kinds = (("32-true", torch.float32), ("bf16-mixed", torch.float32), ("32-true", torch.bfloat16))
    for precision, dtype in kinds:
        model, encoder = frozen_model(folder_of("qwen2_5_vl"), dtype), load_encoder(folder_of("qwen2_5_vl"))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
            expected = model(batch_of(encoder, groups))
            keep(model, encoder, precision=precision)
            calls = looked_at(model)
            for number in (1, 0):
                calls.clear()
                assert torch.equal(model(batch_of(encoder, groups)), expected)
                assert len(calls) == number


def test_features_that_are_found_and_that_are_made_go_together(
    folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Some pictures of a batch are kept, some not, in any order and several times, in both layouts: the same bits."""
    a, b, c, d = (png(tmp_path, index) for index in range(4))
    model, encoder = frozen_model(folder_of("qwen2_5_vl")), load_encoder(folder_of("qwen2_5_vl"))
    groups = [of_pictures(a, b, a), of_pictures(), of_pictures(c, responses=("1", "2", "3")), of_pictures(d, b)]
    layouts: tuple[Layout, ...] = ("tree", "plain")
    expected = [model(batch_of(encoder, *groups, layout=layout)) for layout in layouts]
    calls = looked_at(model)
    keep(model, encoder)
    model(batch_of(encoder, of_pictures(b)))
    calls.clear()
    early = [batch_of(encoder, *groups, layout=layout) for layout in layouts]  # before the others are kept
    for found, layout in zip(early, layouts, strict=True):
        assert torch.equal(model(found), expected[layouts.index(layout)])
    assert calls == [24] * 3
    for layout, scores in zip(layouts, expected, strict=True):
        assert torch.equal(model(batch_of(encoder, *groups, layout=layout)), scores)
    assert calls == [24] * 3


# Equal pictures of a batch.


def separately(model: RewardModel, folder: Path, groups: Sequence[Group]) -> tuple[Tensor, Any]:
    """Scores by transformers' own forward pass, one plain row a response with each of its pictures by itself."""
    encoder = load_encoder(folder)
    transformer = AutoModel.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    scores = []
    for group in groups:
        pixels = encoder.image_processor(images=list(group.images), return_tensors="pt") if group.images else None
        encoded = encoder(group)
        for branch in encoded.branches:
            ids = torch.cat([encoded.prefix, branch])[None]
            options: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if pixels is not None:
                kinds = (ids == encoder.image_token_id).int()
                options |= {**pixels, "mm_token_type_ids": kinds}
            hidden = transformer(**options, use_cache=False).last_hidden_state[0, -1]
            scores.append(model.head(hidden[None].float()))
    return torch.cat(scores), transformer


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
@pytest.mark.parametrize("layout", ["tree", "plain"])
def test_equal_pictures_are_encoded_once(family: str, layout: Layout, folder_of: Callable[[str], Path]) -> None:
    """In and across groups: scores and gradients of every weight are those of encoding each by itself with
    transformers' own classes, and the tower sees the patches of the different ones, once."""
    a, b, c = picture(0), picture(1), picture(2).resize((112, 56))
    groups = [of_pictures(a, b, a, name="1"), of_pictures(name="2"), of_pictures(b.copy(), name="3")]
    groups += [of_pictures(c, a.copy(), name="4", responses=("1", "2", "three"))]
    model = model_of(folder_of(family), dtype=torch.float64)
    weighing = torch.linspace(-1.0, 2.0, 9)
    truth, transformer = separately(model, folder_of(family), groups)
    (truth * weighing).sum().backward()
    model.head.zero_grad()
    calls = looked_at(model)
    scores = model(batch_of(load_encoder(folder_of(family)), *groups, layout=layout))
    (scores * weighing).sum().backward()
    assert calls == [24 + 24 + 32]
    torch.testing.assert_close(scores, truth, rtol=1e-5, atol=1e-6)  # the head works in float32
    expected = {name: weight.grad for name, weight in transformer.named_parameters() if weight.grad is not None}
    assert {name.split(".")[0] for name in expected} == {"visual", "language_model"}
    for name, weight in model.backbone.transformer.named_parameters():
        if name in expected:
            assert weight.grad is not None
            error = (weight.grad - expected[name]).norm() / expected[name].norm().clamp(min=1e-12)
            # Rounding of float32: sums come in another order, by 1.03e-6 with some kernels of the CPU.
            assert error < 5e-6 or expected[name].norm() < 1e-9, f"{name}: {error}"


def test_a_frozen_tower_sees_each_picture_alone(folder_of: Callable[[str], Path]) -> None:
    """A call for every different picture, so that its bits are the same in whatever batch it comes."""
    a, b, c = picture(0), picture(1), picture(2).resize((112, 56))
    model, encoder = frozen_model(folder_of("qwen2_5_vl")), load_encoder(folder_of("qwen2_5_vl"))
    calls = looked_at(model)
    together = model(batch_of(encoder, of_pictures(c, a), of_pictures(a), of_pictures(b, c, b)))
    assert calls == [32, 24, 24]
    encoded = model.backbone.vision(
        model.backbone.transformer, batch_of(encoder, of_pictures(c, a), of_pictures(a), of_pictures(b, c, b))
    ).pooler_output
    for place, one in enumerate((c, a, a, b, c, b)):
        (alone,) = model.backbone.vision(model.backbone.transformer, batch_of(encoder, of_pictures(one))).pooler_output
        assert torch.equal(encoded[place], alone)
    assert together.shape == (6,)


def test_pictures_that_differ_in_one_number_are_two(folder_of: Callable[[str], Path]) -> None:
    """Wherever in a picture it is; the copy of a picture is the same one."""
    encoder = load_encoder(folder_of("qwen2_5_vl"))
    content = np.asarray(picture(0)).copy()
    height, width, _ = content.shape
    for place in range(0, height * width * 3, 997):
        changed = content.copy()
        changed.reshape(-1)[place] ^= 1
        batch = batch_of(encoder, of_pictures(picture(0), PIL.Image.fromarray(changed), picture(0)))
        assert batch.image_grid_thw is not None
        assert (len(batch.image_grid_thw), batch.image_places) == (2, (0, 1, 0))


# What cannot be.


@pytest.mark.parametrize("parts", [["merger"], ["vision"], []])
def test_a_trained_tower_keeps_no_features(parts: list[str]) -> None:
    """Of a recipe that was not checked: the error names the key and both ways out."""
    checked = load_recipe("basereward", overrides=[*SMALL, FROZEN, KEPT])
    recipe = replace(checked, model=replace(checked.model, backbone=replace(checked.model.backbone, freeze=parts)))
    with pytest.raises(ModelError, match="the vision tower or its merger is trained") as raised:
        build(recipe)
    for told in ("data.encoding.feature_cache is 0.1", "model.backbone.freeze", "model.lora.parts", "to null"):
        assert told in str(raised.value)


def test_a_text_only_backbone_keeps_no_features(folder_of: Callable[[str], Path]) -> None:
    """The error names the key and what to set."""
    kept = [each for each in SMALL if not each.startswith(("model.", "data.sources.digits"))]
    backbone = ["model.backbone.make=null", f"model.backbone.path={folder_of('qwen3')}"]
    changes = [*kept, *backbone, "data.sources.digits=null", FROZEN, KEPT]
    with pytest.raises(ModelError, match=r"data\.encoding\.feature_cache is 0\.1, and the backbone.*null"):
        build(load_recipe("basereward", overrides=changes))


@pytest.mark.parametrize("given", ["0", "0.0", "-1", ".nan", ".inf", "much", "[1]"])
def test_a_limit_out_of_range_is_refused(given: str) -> None:
    """By `load_recipe`, at its key."""
    with pytest.raises(RecipeError, match=r"data\.encoding\.feature_cache"):
        load_recipe("basereward", overrides=[FROZEN, f"data.encoding.feature_cache={given}"])


def test_a_trained_tower_is_refused_with_the_recipe() -> None:
    """By `load_recipe`, before anything is read."""
    with pytest.raises(RecipeError, match=r"data\.encoding\.feature_cache.*vision and merger would be trained"):
        load_recipe("basereward", overrides=[*SMALL, KEPT])
