"""Time the loading of groups with images against the backbone's image processor alone, both in two processes.

    python -m bench.loading [--work FOLDER] [--rounds 5] [--seconds 5] [--groups 1]

A group has one image of 896 x 896 pixels, so groups a second and images a second are one. Ours are the batches of
training as they reach the training process: opened, cut into patches, tokenized, laid out and handed over. Alone, each
process opens the same images, gives them to `Qwen2VLImageProcessorPil` and keeps nothing. The two take turns.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import PIL.Image
import torch

from basereward import load_recipe
from basereward.data.module import PreferenceData
from basereward.model.families.processing import load_encoder
from basereward.training.allocator import keep_freed_memory
from basereward.training.build import build_data
from bench import checkpoint, workloads
from bench.ours import HERE, overrides

WORKERS = 2
# Batches, or images of each process, that are not counted.
WARM_UP = 8
# Steps; more than are ever asked for.
ENDLESS = 100_000


def measure_loading(data: PreferenceData, *, seconds: float) -> float:
    """Groups a second in the stream of training batches; the workers go on loading while they are counted."""
    batches = iter(data.stage_loader(0))
    for _ in islice(batches, WARM_UP):
        pass

    def taken() -> Iterator[int]:
        for batch in batches:
            # The model converts bytes to float32, and that time counts.
            assert batch.images.pixels.values.dtype == torch.float32
            yield batch.num_groups

    return rate(taken(), seconds=seconds)


def measure_processor(processor: Any, images: list[Path], *, seconds: float) -> float:
    """Images a second of the image processor alone, in `WORKERS` processes that share the images."""
    # Forked, as PyTorch's data loader starts its workers on Linux.
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    together = context.Barrier(WORKERS)
    workers = [
        context.Process(
            target=_process, args=(processor, images[k::WORKERS], together, results.put), kwargs={"seconds": seconds}
        )
        for k in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    rates = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return float(sum(rates))


def _process(
    processor: Any, images: list[Path], together: Barrier, put: Callable[[float], None], *, seconds: float
) -> None:
    # PyTorch's data loader sets one thread in each of its workers.
    torch.set_num_threads(1)

    def processed() -> Iterator[int]:
        for path in cycle(images):
            with PIL.Image.open(path) as image:
                processor(images=[image], return_tensors="pt")
            yield 1

    stream = processed()
    for _ in islice(stream, WARM_UP):
        pass
    # All processes begin to count at the same moment, when all of them are busy.
    together.wait()
    put(rate(stream, seconds=seconds))


def rate(counts: Iterator[int], *, seconds: float) -> float:
    """The counts a second, from now until the first count that comes after `seconds`.

    >>> rate(cycle([2]), seconds=0.01) > 0
    True
    """
    start = now = time.perf_counter()
    total = 0
    while now - start < seconds:
        total += next(counts)
        now = time.perf_counter()
    return total / (now - start)


def prepare(work: Path, *, groups: int) -> PreferenceData:
    """The data of the bench's groups of four, as a run with two workers reads them."""
    model = work / "image_model"
    if not (model / "tokenizer.json").exists():
        checkpoint.write(model)
    workloads.write(work)
    settings = overrides(model, work / "groups.jsonl", layout="tree", groups=groups, steps=ENDLESS, vision=False)
    profile = str(HERE / "profile.yaml")
    recipe = load_recipe(str(HERE / "recipe.yaml"), profile=profile, overrides=[*settings, f"data.workers={WORKERS}"])
    encoder = load_encoder(model, max_pixels=recipe.data.encoding.max_pixels)
    data = build_data(recipe, encoder=encoder, rejections_file=work / "lost.jsonl")
    data.setup()
    return data


def main() -> int:
    """Prints one Markdown table; the ratio is the median of the rounds' ratios."""
    parser = argparse.ArgumentParser(prog="python -m bench.loading")
    parser.add_argument("--work", type=Path, help="folder for rows and checkpoint (default: a temporary one)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each of the two (default: 5)")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of one measurement (default: 5)")
    parser.add_argument("--groups", type=int, default=1, help="groups of a batch (default: 1)")
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # As a training run does: glibc would return freed memory to the system after every call.
    keep_freed_memory()
    rounds: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        data = prepare(work, groups=args.groups)
        images = sorted((work / "images").iterdir())
        for _ in range(args.rounds):
            processor_rate = measure_processor(data.encoder.image_processor, images, seconds=args.seconds)
            rounds.append((measure_loading(data, seconds=args.seconds), processor_rate))
            print(f"loading {rounds[-1][0]:.1f} a second, image processor alone {processor_rate:.1f}", file=sys.stderr)
    speed, processor_rate = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(loading / processor for loading, processor in rounds)
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, {WORKERS} worker processes\n")
    print("| groups a batch | loading, groups a second | image processor alone, images a second | ratio |")
    print("|---|---|---|---|")
    print(f"| {args.groups} | {speed:.1f} | {processor_rate:.1f} | {ratio:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
