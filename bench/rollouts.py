"""Time the generation of rollouts: with a copy of the prompt for each, as in TRL, and with the prompt read once.

    python -m bench.rollouts [--rounds 3] [--work FOLDER]

The two ways are the engines `transformers` and `shared_prefix` of `objective.rollouts`. Both start from images and
texts, write the same number of tokens with random weights, and are timed in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from basereward.data.encoding.chat import messages
from basereward.data.images.open_images import open_image
from basereward.data.schema.group import Group
from basereward.data.sources.digits import Digits
from basereward.model.generation.shared_prefix import sharing_prefixes
from basereward.model.policy import Policy, load_policy
from basereward.model.tiny_models.tiny_qwen2_5_vl import tiny_qwen2_5_vl
from bench import checkpoint
from bench.rl_learning import encoded
from bench.timing import quiet_stdout


@dataclass(frozen=True)
class Load:
    """The size of a measurement.

    Attributes:
        name: of the row in the table.
        side: of the images, in pixels.
        prompts: of a batch.
        rollouts: of each prompt.
        tokens: of each rollout.
        tiny: whether the model is that of the tiny profile, or one of hidden size 512 with 8 layers.

    >>> Load("tiny", side=56, prompts=8, rollouts=8, tokens=8).tiny
    True
    """

    name: str
    side: int
    prompts: int
    rollouts: int
    tokens: int
    tiny: bool = True


LOADS = (
    Load("judge of the tiny profile, 2 of each of 32 prompts", side=56, prompts=32, rollouts=2, tokens=70),
    Load("policy of the tiny profile, 8 of each of 8 prompts", side=56, prompts=8, rollouts=8, tokens=8),
    Load("larger model, 448 pixels, 8 of each of 2 prompts", side=448, prompts=2, rollouts=8, tokens=16, tiny=False),
)


def prompts(load: Load) -> list[Group]:
    """Questions about digits that are drawn in the size of a load.

    >>> len(prompts(LOADS[1]))
    8
    """
    return list(Digits("digits", side=load.side).groups("train")[: load.prompts])


def written(policy: Policy, groups: list[Group], load: Load, *, copies: int) -> torch.Tensor:
    """Tokens `(prompts * rollouts, tokens)` after `copies` of each prompt: one for each rollout, or one in all."""
    rows: list[dict[str, Any]] = []
    for group in groups:
        row = {"prompt": messages(group.prompt, in_parts=True), "images": [open_image(i) for i in group.images]}
        rows += [row] * copies
    inputs = encoded(policy, rows)
    # Without an end every rollout has the same length.
    options: dict[str, Any] = {"max_new_tokens": load.tokens, "min_new_tokens": load.tokens}
    model: Any = policy.model
    places = [place // load.rollouts for place in range(load.rollouts * len(groups))]
    with sharing_prefixes(model, places) if copies == 1 else contextlib.nullcontext():
        tokens = model.generate(**inputs, **options, do_sample=True, top_k=0, pad_token_id=0)
    return torch.as_tensor(tokens)[:, inputs["input_ids"].size(1) :]


def seconds(write: Callable[[], torch.Tensor], load: Load) -> float:
    """Seconds of one call, which must write all rollouts to their limit."""
    began = time.perf_counter()
    with torch.no_grad():
        shape = write().shape
    spent = time.perf_counter() - began
    if shape != (load.prompts * load.rollouts, load.tokens):
        raise SystemExit(f"{load.name}: rollouts have the shape {tuple(shape)}, so the two ways did not do equal work")
    return spent


def measure(load: Load, folder: Path, *, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of both ways, in turns."""
    if not (folder / "config.json").exists():
        if load.tiny:
            tiny_qwen2_5_vl(folder)
        else:
            checkpoint.write(folder)
    policy = load_policy(folder)
    policy.model.eval()
    groups = prompts(load)
    ways = (
        lambda: written(policy, groups, load, copies=load.rollouts),
        lambda: written(policy, groups, load, copies=1),
    )
    for write in ways:
        seconds(write, load)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for write, spent in zip(ways, times, strict=True):
            spent.append(seconds(write, load))
    return times


def main() -> int:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m bench.rollouts")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way (default: 3)")
    parser.add_argument("--work", type=Path, help="folder for the checkpoints (default: a temporary one)")
    args = parser.parse_args()
    lines = ["| rollouts | prompt repeated, s | prompt read once, s | times faster |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        for load in LOADS:
            with quiet_stdout():
                folder = work / ("tiny_model" if load.tiny else "image_model")
                repeated_s, shared_s = measure(load, folder, rounds=args.rounds)
            faster = statistics.median(slow / fast for slow, fast in zip(repeated_s, shared_s, strict=True))
            cells = [load.name, f"{statistics.median(repeated_s):.2f}", f"{statistics.median(shared_s):.2f}"]
            lines.append("| " + " | ".join([*cells, f"{faster:.2f}"]) + " |")
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
