"""Time the scoring of a prompt with an image, by the number of its responses and the number of calls.

    python -m bench.scoring [--work FOLDER] [--prompts 6] [--rounds 5]

The prompts are those of the workload `groups`: an image of 896 x 896 pixels and four responses of 40 to 200 words. Each
round scores every prompt with its first response alone, with all four in one tree row, and with the four in one call
each; then with eight responses in one tree row, as rewards in reinforcement learning, and in eight calls, first reading
the prompt in every call, then reading it once for all calls. The variants take turns.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from basereward import build, load_recipe
from basereward.inference.scorer import Scorer
from basereward.training.allocator import keep_freed_memory
from bench import checkpoint, workloads
from bench.ours import HERE, overrides


def prepare(work: Path) -> Scorer:
    """A scorer with random weights."""
    model = work / "image_model"
    if not (model / "tokenizer.json").exists():
        checkpoint.write(model)
    workloads.write(work)
    settings = overrides(model, work / "groups.jsonl", layout="tree", groups=1, steps=1, vision=False)
    recipe = load_recipe(str(HERE / "recipe.yaml"), profile=str(HERE / "profile.yaml"), overrides=settings)
    module, data, _ = build(recipe)
    return Scorer(module.model.eval(), encoder=data.encoder, recipe=recipe)


def rollouts(scorer: Scorer, prompt: str, responses: list[str], images: list[Path]) -> list[float]:
    """Scores of responses that arrive one by one; the prompt is read once."""
    scored_prompt = scorer.prompt(prompt, images=images)
    return [scored_prompt.score([response])[0] for response in responses]


def eight(responses: list[str]) -> list[str]:
    """Four responses and four others of the same length.

    >>> eight(["a b", "c"])
    ['a b', 'c', 'b a', 'c']
    """
    return [*responses, *(" ".join(reversed(response.split())) for response in responses)]


def seconds(work: Callable[[], object]) -> float:
    """The duration of a call in seconds.

    >>> seconds(lambda: None) < 1
    True
    """
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def score_separately(scorer: Scorer, prompt: str, responses: list[str], images: list[Path]) -> list[float]:
    """Scores of responses, one call each, which reads the prompt every time."""
    return [scorer.score(prompt, [response], images=images)[0] for response in responses]


def variants(scorer: Scorer, prompts: list[tuple[str, list[str], list[Path]]]) -> dict[str, Callable[[], object]]:
    """The calls that are timed, by name."""
    return {
        "one answer": lambda: [
            scorer.score(prompt, responses[:1], images=images) for prompt, responses, images in prompts
        ],
        "four together": lambda: [
            scorer.score(prompt, responses, images=images) for prompt, responses, images in prompts
        ],
        "four apart": lambda: [
            score_separately(scorer, prompt, responses, images) for prompt, responses, images in prompts
        ],
        "eight together": lambda: [
            scorer.score(prompt, eight(responses), images=images) for prompt, responses, images in prompts
        ],
        "eight calls": lambda: [
            score_separately(scorer, prompt, 2 * responses, images) for prompt, responses, images in prompts
        ],
        "eight rollouts": lambda: [
            rollouts(scorer, prompt, 2 * responses, images) for prompt, responses, images in prompts
        ],
    }


def main() -> int:
    """Print two Markdown tables; ratios are medians over the rounds."""
    parser = argparse.ArgumentParser(prog="python -m bench.scoring")
    parser.add_argument("--work", type=Path, help="folder for rows and checkpoint (default: a temporary one)")
    parser.add_argument(
        "--prompts", type=int, default=6, help="prompts that each variant scores in a round (default: 6)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each variant (default: 5)")
    args = parser.parse_args()
    # As a training run does: without it, glibc returns freed memory to the system after every call.
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        rounds = time_rounds(prepare(work), work, prompts=args.prompts, rounds=args.rounds)
    for times in rounds:
        print(", ".join(f"{name} {spent:.2f} s a prompt" for name, spent in times.items()), file=sys.stderr)
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores\n")
    print(format_tables(rounds))
    return 0


def time_rounds(scorer: Scorer, work: Path, *, prompts: int, rounds: int) -> list[dict[str, float]]:
    """Time every variant once in every round.

    Args:
        scorer: the model.
        work: the folder of the workloads.
        prompts: number of prompts that each variant scores.
        rounds: turns of each variant.

    Returns:
        For each round the seconds for a prompt, by variant.
    """
    rows = workloads.read_rows(work / "groups.jsonl")[:prompts]
    inputs = [(row["prompt"], row["responses"], [work / image for image in row["images"]]) for row in rows]
    calls = variants(scorer, inputs)
    # The first call of a shape allocates memory and chooses kernels, which is not what is measured.
    for call in calls.values():
        call()
    # In turns, so that a machine that slows down slows all variants and leaves their ratios as they are.
    return [{name: seconds(call) / len(inputs) for name, call in calls.items()} for _ in range(rounds)]


def format_tables(rounds: list[dict[str, float]]) -> str:
    """Two Markdown tables of ratios and times, as medians over the rounds.

    >>> times = {"one answer": 1.0, "four together": 1.5, "four apart": 4.0, "eight together": 1.6}
    >>> print(format_tables([times | {"eight calls": 8.0, "eight rollouts": 2.0}]))
    | four together / one | eight together / one | four apart / one | one answer: ms a call |
    |---|---|---|---|
    | 1.50 | 1.60 | 4.00 | 1000 |
    <BLANKLINE>
    | eight calls / with the prompt read once | the latter: ms an answer |
    |---|---|
    | 4.00 | 250 |
    """
    # Ratios within a round, then their median: the rounds of a busy machine differ more than the ratios do.
    together = statistics.median(times["four together"] / times["one answer"] for times in rounds)
    rollouts_together = statistics.median(times["eight together"] / times["one answer"] for times in rounds)
    separate = statistics.median(times["four apart"] / times["one answer"] for times in rounds)
    faster = statistics.median(times["eight calls"] / times["eight rollouts"] for times in rounds)
    one_s = statistics.median(times["one answer"] for times in rounds)
    rollouts_s = statistics.median(times["eight rollouts"] for times in rounds)
    return "\n".join(
        [
            "| four together / one | eight together / one | four apart / one | one answer: ms a call |",
            "|---|---|---|---|",
            f"| {together:.2f} | {rollouts_together:.2f} | {separate:.2f} | {1000 * one_s:.0f} |",
            "",
            "| eight calls / with the prompt read once | the latter: ms an answer |",
            "|---|---|",
            f"| {faster:.2f} | {1000 * rollouts_s / 8:.0f} |",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
