"""Time the scoring of a prompt with a picture by how many answers it has, and by whether they come in one call.

    python -m bench.scoring [--work FOLDER] [--prompts 6] [--rounds 5]

The prompts are those of the workload `groups`: a picture of 896 x 896 pixels and four answers of 40 to 200 words. Each
round scores every prompt with its first answer alone, with all four in one tree row, and with the four one after the
other; then with eight answers in eight calls, once each call reading the prompt anew and once all together reading it
once, as rollouts in reinforcement learning come. All take turns.
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
    told = overrides(model, work / "groups.jsonl", layout="tree", groups=1, steps=1, vision=False)
    recipe = load_recipe(str(HERE / "recipe.yaml"), profile=str(HERE / "profile.yaml"), overrides=told)
    module, data, _ = build(recipe)
    return Scorer(module.model.eval(), encoder=data.encoder, recipe=recipe)


def rollouts(scorer: Scorer, prompt: str, answers: list[str], images: list[Path]) -> list[float]:
    """Scores of answers that come one by one."""
    asked = scorer.prompt(prompt, images=images)
    return [asked.score([answer])[0] for answer in answers]


def seconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> int:
    """Prints two Markdown tables; ratios are medians over the rounds."""
    parser = argparse.ArgumentParser(prog="python -m bench.scoring")
    parser.add_argument("--work", type=Path, help="keeps rows and checkpoint; default: a temporary folder")
    parser.add_argument("--prompts", type=int, default=6, help="scored in every turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way")
    given = parser.parse_args()
    keep_freed_memory()  # as a run does
    with tempfile.TemporaryDirectory() as temporary:
        work = (given.work or Path(temporary)).resolve()
        scorer = prepare(work)
        rows = workloads.read_rows(work / "groups.jsonl")[: given.prompts]
        asked = [(row["prompt"], row["responses"], [work / image for image in row["images"]]) for row in rows]
        ways: dict[str, Callable[[], object]] = {
            "one answer": lambda: [scorer.score(p, r[:1], images=i) for p, r, i in asked],
            "four together": lambda: [scorer.score(p, r, images=i) for p, r, i in asked],
            "four apart": lambda: [scorer.score(p, [one], images=i) for p, r, i in asked for one in r],
            "eight calls": lambda: [scorer.score(p, [one], images=i) for p, r, i in asked for one in 2 * r],
            "eight rollouts": lambda: [rollouts(scorer, p, 2 * r, i) for p, r, i in asked],
        }
        for way in ways.values():
            way()
        rounds = [{name: seconds(way) / len(asked) for name, way in ways.items()} for _ in range(given.rounds)]
    for told in rounds:
        print(", ".join(f"{name} {spent:.2f} s a prompt" for name, spent in told.items()), file=sys.stderr)
    together = statistics.median(told["four together"] / told["one answer"] for told in rounds)
    apart = statistics.median(told["four apart"] / told["one answer"] for told in rounds)
    faster = statistics.median(told["eight calls"] / told["eight rollouts"] for told in rounds)
    spent, rolled = (statistics.median(told[name] for told in rounds) for name in ("one answer", "eight rollouts"))
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores\n")
    print("| four together / one | four apart / one | one answer: ms a call |")
    print("|---|---|---|")
    print(f"| {together:.2f} | {apart:.2f} | {1000 * spent:.0f} |\n")
    print("| eight calls / with the prompt read once | the latter: ms an answer |")
    print("|---|---|")
    print(f"| {faster:.2f} | {1000 * rolled / 8:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
