"""Shared helpers: small checkpoints of every family, groups with real pictures, and a recipe that trains in seconds."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor, nn

from basereward.data.encoding.encoder import EncodedGroup
from basereward.data.schema.group import (
    IMAGE,
    VIDEO,
    Group,
    Part,
    PlacedImage,
    Preference,
    Turn,
    Video,
    Visual,
    rank_preferences,
)
from basereward.data.sources.digits import draw
from basereward.model.tiny_models._byte_level import byte_level_tokenizer
from basereward.model.tiny_models._checkpoint import TinySizes, text_settings, write_checkpoint
from basereward.model.tiny_models.tiny_internvl import tiny_internvl
from basereward.model.tiny_models.tiny_qwen2_5_vl import tiny_qwen2_5_vl
from basereward.model.tiny_models.tiny_qwen2_vl import tiny_qwen2_vl
from basereward.model.tiny_models.tiny_qwen3 import tiny_qwen3
from basereward.model.tiny_models.tiny_qwen3_vl import tiny_qwen3_vl
from basereward.runs.run_folder import list_runs
from basereward.runs.tracking.tracker import deliver_pending

VISION = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "internvl")
TEXT = ("qwen2", "qwen3", "llama")

# A run of a few steps on a few groups goes through every stage without learning.
SMALL = (
    "data.sources.numbers.include=sources/numbers",  # cells of a sweep with the tiny profile lack this source
    "data.sources.digits.size=24",
    "data.sources.digits.copies=1",
    "data.sources.digits.val_size=12",
    "data.sources.digits.test_size=12",
    "data.sources.numbers.size=40",
    "data.sources.numbers.val_size=12",
    "data.sources.numbers.test_size=12",
    "model.backbone.make.hidden_size=64",
    "model.backbone.make.layers=2",
    "model.backbone.make.vision_layers=2",
    "batch.groups=8",
    "batch.groups_per_forward=4",
    "trainer.steps=6",
    "trainer.validations=2",
    "trainer.log_every=1",
)


def checkpoint(family: str, folder: Path) -> Path:
    """Write a small checkpoint of a family with random weights in the hub's format."""
    if family in ("qwen2", "llama"):
        _text_model(family, folder)
    elif family == "qwen3":
        tiny_qwen3(folder, hidden_size=64, layers=2)
    elif family == "qwen3_vl":  # two of its three layers take states of deeper blocks
        tiny_qwen3_vl(folder, hidden_size=64, layers=3, vision_layers=3)
    else:
        maker = {"qwen2_5_vl": tiny_qwen2_5_vl, "qwen2_vl": tiny_qwen2_vl, "internvl": tiny_internvl}[family]
        maker(folder, hidden_size=64, layers=2, vision_layers=2)
    return folder


def _text_model(family: str, folder: Path) -> None:
    """Write a checkpoint of a family without a tiny model of its own."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    tokenizer = byte_level_tokenizer()
    size = text_settings(TinySizes(64, 2), tokenizer) | {"intermediate_size": 128}
    del size["rope_parameters"]
    models = {
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**size)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(head_dim=16, **size)),
    }
    write_checkpoint(folder, models[family], tokenizer=tokenizer, seed=0)


def picture(index: int, *, side: int = 56) -> PIL.Image.Image:
    """Return a scanned digit that is not square, so that swapped height and width are noticed."""
    return draw(index, side=side).resize((side, side + 28))


def group(
    text: str = "Which digit?",
    responses: tuple[str, ...] = ("It is a seven.", "4", "This is the number eight."),
    *,
    images: int = 0,
    name: str = "g",
    turns: tuple[Turn, ...] = (),
) -> Group:
    """Return a group of ranked responses to a prompt with `images` pictures before its text."""
    parts = (*[IMAGE] * images, Part(text))
    return Group(
        id=name,
        source="test",
        prompt=(*turns, Turn("user", parts)),
        responses=responses,
        preferences=rank_preferences(range(len(responses))),
        images=tuple(picture(i) for i in range(images)),
    )


def clip(frames: int, *, fps: float | None = 4.0, first: int = 0, side: int = 56) -> Video:
    """Return a video of scanned digits, a different one in every frame."""
    pictures = tuple(picture(first + index, side=side) for index in range(frames))
    return Video(frames=pictures, fps=fps, name=f"digits {first} to {first + frames - 1}")


def video_groups() -> list[Group]:
    """Return groups with one video, with two videos around an image, with the same video again, and with text alone."""
    long, short = clip(8), clip(3, fps=None, first=20)

    def of(name: str, turns: tuple[Turn, ...], visuals: tuple[Visual, ...], responses: tuple[str, ...]) -> Group:
        return Group(name, "test", turns, responses, rank_preferences(range(len(responses))), images=visuals)

    question = Turn("user", (VIDEO, Part("Which digit comes last?")))
    several = Turn("user", (Part("First "), VIDEO, Part(" or "), IMAGE, Part(" or "), VIDEO, Part("?")))
    earlier = (Turn("user", (Part("Hello."),)), Turn("assistant", (Part("Yes?"),)))
    return [
        of("one", (question,), (long,), ("It is a seven.", "4", "Eight")),
        of("several", (*earlier, several), (short, picture(5), long), ("The second", "None of them")),
        of("again", (question,), (long,), ("7",)),
        group(name="text", responses=("yes", "no")),
    ]


def fill_adapters(model: nn.Module) -> None:
    """Draw the second factor of every adapter. It is zero at first, and then adapters do nothing and the first factor
    has no gradient."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)


def encoded_group(
    prefix: int,
    branches: Sequence[int],
    preferences: tuple[Preference, ...] | None = None,
    *,
    name: str = "g",
    source: str = "test",
) -> EncodedGroup:
    """Return a text-only group with `prefix` and `branches` tokens, all different, counted from 1. Each branch includes
    its end of turn. Without `preferences` the responses are ranked from first to last."""
    ids = torch.arange(1, 1 + prefix + sum(branches))
    ranked = rank_preferences(range(len(branches)))
    return EncodedGroup(
        id=name,
        source=source,
        prefix=ids[:prefix],
        positions=torch.arange(prefix),
        branches=torch.split(ids[prefix:], list(branches)),
        preferences=ranked if preferences is None else preferences,
    )


def mixed_groups(*, vision: bool) -> list[Group]:
    """Return groups with no, one and several images, one, two and four responses, several turns, a system turn, and
    images in responses."""
    earlier_turns = (
        Turn("system", (Part("Judge digits."),)),
        Turn("user", (Part("Hello."),)),
        Turn("assistant", (Part("Hello! What do you need?"),)),
    )
    text = [
        group("Which is larger, 4 or 7?", ("7", "It is 4."), name="text"),
        group("Name one.", ("One, and no more.", "Two", "three", "4"), name="turns", turns=earlier_turns),
        group("Say it.", ("a single answer",), name="single"),
    ]
    if not vision:
        return text
    return [
        *text,
        group(images=1, name="picture"),
        group("Which of the two?", ("left", "the right one"), images=2, name="two"),
        *drawn_groups(),
    ]


def drawn_groups() -> list[Group]:
    """Return groups with pictures in responses: each response a picture, and texts with none, one and two pictures to a
    prompt with a picture. One picture stands in the prompt and in a response."""
    drawn = group("Draw a five.", ("", ""), name="drawn")
    edited = group("Edit it.", ("First, then  after.", "Never.", "So:"), images=1, name="edited")
    return [
        replace(drawn, response_images=(placed((0, 3)), placed((0, 4)))),
        replace(edited, response_images=(placed((7, 0), (12, 5)), (), placed((3, 6)))),
    ]


def placed(*pictures: tuple[int, int]) -> tuple[PlacedImage, ...]:
    """Return pictures in a response: for each its offset in the text and its index."""
    return tuple(PlacedImage(offset, picture(index)) for offset, index in pictures)


def only(path: Path) -> list[str]:
    """Return overrides that make a JSON Lines file the only source of the small run, named `mine`."""
    small = [override for override in SMALL if not override.startswith("data.sources.")]
    source = ["data.sources.mine.include=sources/jsonl", f"data.sources.mine.path={path}"]
    return [*small, "data.sources.digits=null", "data.sources.numbers=null", *source]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all gradients by name, and reset them."""
    copies = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    return copies


def write_rows(path: Path, rows: list[Any]) -> Path:
    """Write rows as a JSON Lines file; a str is written unchanged."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def pair_rows(number: int, *, folder: Path | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """Return preference pairs in TRL's columns; with a folder each pair has a picture there."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for index in range(number):
        row: dict[str, Any] = {
            "id": f"row-{index}",
            "prompt": [{"role": "user", "content": f"Question {index}: which is right?"}],
            "chosen": [{"role": "assistant", "content": "yes " * rng.randint(1, 5)}],
            "rejected": [{"role": "assistant", "content": "no " * rng.randint(1, 5)}],
        }
        if folder is not None:
            picture(index).save(folder / f"{index}.png")
            row["images"] = [f"{index}.png"]
        rows.append(row)
    return rows


def console_script(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command like its console script, without the working folder in `sys.path`."""
    code = "import sys; sys.path = [p for p in sys.path if p]; from basereward.cli import main; sys.exit(main())"
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "BASEREWARD_EXPERIMENTS": str(root / "experiments")}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def upload_all() -> None:
    """Wait until MLflow has every record of every run. On a busy machine a run may end before its upload."""
    while any(run.journal.pending for run in list_runs(kind=None)):
        deliver_pending(limit_s=300)
        time.sleep(0.1)
