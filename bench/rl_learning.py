"""Measure what a judge and a policy learn by reinforcement on the tiny profile.

    python -m bench.rl_learning [--parts judge policy] [--seeds 3] [--work FOLDER]

Trains the shipped recipes: `r1_cold_start` and `r1_reward_rl`; `policy_start`, `rl_reward_models` and `rl_rewards` with
the rewards `rule` and `model`. How often runs collapse is the sweep `r1_unstable`. Each model answers the pictures of
the test split greedily before and after, a judge in both orders of the answers. Intervals are paired, over pictures.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from basereward import load_recipe
from basereward.data.schema.group import Group
from basereward.data.sources import Source
from basereward.metrics.interval import Interval, resampled
from basereward.model.generation.prompts import PAIRWISE, load_prompt
from basereward.model.generation.verdicts import parse_verdict
from basereward.model.policy import Policy, load_policy
from basereward.recipe import make
from basereward.recipe.schema import Recipe
from basereward.rl.exact_match import exact_match
from basereward.rl.rewards.rule import RuleReward
from basereward.rl.rewards.verdict import JudgeReward
from basereward.rl.train import train
from basereward.runs.run_folder import find
from bench.timing import quiet_stdout

# Texts of held-out rows that are written together.
ROWS_TOGETHER = 125
REWARDS = {"rule": "{_target_: rule}", "model": "{_target_: model, model: RUN}"}


@dataclass(frozen=True)
class Measured:
    """What a model answers about held-out pictures.

    Attributes:
        right: share of right answers about each picture.
        consistent: whether a judge prefers the same answer in both orders; empty for a policy.
        unread: share of texts without a verdict.

    >>> Measured([1.0, 0.5]).accuracy
    0.75
    """

    right: Sequence[float]
    consistent: Sequence[float] = ()
    unread: float = 0.0

    @property
    def accuracy(self) -> float:
        """The mean over pictures."""
        return float(np.mean(self.right))


@dataclass
class Line:
    """A line of the table: values before and after runs, one for each picture and seed.

    >>> line = Line("judge", before=[[0.0, 1.0] * 50], after=[[1.0, 1.0] * 50])
    >>> round(line.difference, 2), line.interval[0] > 0
    (0.5, True)
    """

    name: str
    before: list[Sequence[float]] = field(default_factory=list)
    after: list[Sequence[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, before: Sequence[float], after: Sequence[float], seconds: float) -> None:
        """Adds a run, and says so on standard error."""
        self.before.append(before)
        self.after.append(after)
        self.seconds.append(seconds)
        print(f"{self.name}: {_range([before])} -> {_range([after])}, {seconds:.0f} s", file=sys.stderr, flush=True)

    @property
    def difference(self) -> float:
        """The mean over pictures and seeds."""
        return float(np.mean(self._of_pictures()))

    @property
    def interval(self) -> Interval:
        """Its 95 % interval, over pictures: the seeds share them."""
        values = self._of_pictures()
        return resampled(np.stack([values, np.ones_like(values)], -1)[:, None], np.ones(1))

    def _of_pictures(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        changes: np.ndarray[Any, np.dtype[np.float64]] = np.asarray(self.after, float) - np.asarray(self.before, float)
        mean: np.ndarray[Any, np.dtype[np.float64]] = changes.mean(0)
        return mean

    def __str__(self) -> str:
        low, high = self.interval
        change = f"{100 * self.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        seconds = ", ".join(f"{value:.0f}" for value in self.seconds)
        return "| " + " | ".join([self.name, _range(self.before), _range(self.after), change, seconds]) + " |"


def _range(of_seeds: Sequence[Sequence[float]]) -> str:
    """The means of all seeds, in percent.

    >>> _range([[1.0, 0.0], [1.0, 1.0]])
    '50.0, 100.0'
    """
    return ", ".join(f"{100 * float(np.mean(values)):.1f}" for values in of_seeds)


def recipe_of(experiment: str, *overrides: str, seed: int | None) -> Recipe:
    """The recipe of an experiment on the tiny profile; the seed is that of data and weights, None: of the experiment.

    >>> recipe_of("r1_cold_start", seed=2).seeds.data
    2
    """
    seeds = () if seed is None else (f"seeds.data={seed}", f"seeds.init={seed}", f"model.backbone.make.seed={seed}")
    return load_recipe(experiment, profile="tiny", overrides=[*overrides, *seeds, "tracking.system_metrics=null"])


def trained(recipe: Recipe) -> tuple[str, float]:
    """Trains a recipe; gives the id of the run and the processor seconds that it took."""
    began = time.process_time()
    result = train(recipe)
    return str(result["run_id"]), time.process_time() - began


def groups_of_test(recipe: Recipe) -> list[Group]:
    """The groups of a recipe's test split.

    >>> len(groups_of_test(recipe_of("policy_start", seed=None)))
    250
    """
    groups: list[Group] = []
    for name, node in recipe.data.sources.items():
        source: Source = make(node, "sources", name)
        groups += source.groups("test")
    return groups


def measure_judge(recipe: Recipe, run: str | Path) -> Measured:
    """Asks the judge of a run about the test split of a recipe, in both orders."""
    prompt = load_prompt(recipe.model.head["prompt"], fields=PAIRWISE)
    rows = list(JudgeReward(prompt=prompt).held_out_rows(groups_of_test(recipe)))
    texts = greedy(_policy(run), rows, max_tokens=recipe.model.head["max_tokens"])
    verdicts = [parse_verdict(text) for text in texts]
    right: dict[str, list[bool]] = {}
    for row, verdict in zip(rows, verdicts, strict=True):
        # Rows in both orders of a pair have labels 1 and 2, so that equal truth is equal preference.
        right.setdefault(row["pair"], []).append(verdict == row["label"])
    unread = {row["pair"] for row, verdict in zip(rows, verdicts, strict=True) if verdict is None}
    consistent = [float(len(set(orders)) == 1 and pair not in unread) for pair, orders in right.items()]
    accuracies = [float(np.mean(orders)) for orders in right.values()]
    return Measured(accuracies, consistent, verdicts.count(None) / len(verdicts))


def measure_policy(recipe: Recipe, run: str | Path) -> Measured:
    """Asks the policy of a run the questions of a recipe's test split."""
    rows = list(RuleReward().held_out_rows(groups_of_test(recipe)))
    assert recipe.objective is not None
    texts = greedy(_policy(run), rows, max_tokens=recipe.objective["max_tokens"])
    return Measured([float(exact_match(text, row["answer"])) for text, row in zip(texts, rows, strict=True)])


def _policy(run: str | Path) -> Policy:
    """The model of a run by its id, or of a folder."""
    return load_policy(run if isinstance(run, Path) else find(run).model)


@torch.no_grad()
def greedy(policy: Policy, rows: Sequence[Mapping[str, Any]], *, max_tokens: int) -> list[str]:
    """The most likely text of a policy for each row."""
    texts: list[str] = []
    tokenizer: Any = policy.processor.tokenizer
    # Its type, of a mixin, hides that `generate` is a method.
    model: Any = policy.model
    model.eval()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    for start in range(0, len(rows), ROWS_TOGETHER):
        inputs = encoded(policy, rows[start : start + ROWS_TOGETHER])
        written = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False, **ends)
        texts += tokenizer.batch_decode(written[:, inputs["input_ids"].size(1) :], skip_special_tokens=True)
    return texts


def encoded(policy: Policy, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The inputs of a policy for rows with `prompt` and `images`."""
    prompts: list[str] = []
    tokenizer: Any = policy.processor.tokenizer
    for row in rows:
        prompts.append(tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False))
    images = [row["images"] for row in rows]
    return dict(policy.processor(text=prompts, images=images, padding=True, return_tensors="pt"))


def judge_part(*, seeds: int) -> list[Line]:
    """A judge before and after `stable_reinforce`, with several seeds from one start.

    The accuracy is over both orders of the answers; the consistency is the agreement of the verdicts in both orders.
    """
    accuracy, consistency = Line("judge, accuracy"), Line("judge, consistency between orders")
    start, _ = trained(recipe_of("r1_cold_start", seed=0))
    for seed in range(seeds):
        recipe = recipe_of("r1_reward_rl", f"model.start={start}", seed=seed)
        before = measure_judge(recipe, start)
        run, seconds = trained(recipe)
        after = measure_judge(recipe, run)
        accuracy.add(before.right, after.right, seconds)
        consistency.add(before.consistent, after.consistent, seconds)
    return [accuracy, consistency]


def policy_part(*, seeds: int) -> list[Line]:
    """A policy before and after GRPO with eight rollouts, by the rule and by a reward model."""
    lines = {name: Line(f"policy, exact match, reward {name}") for name in REWARDS}
    for seed in range(seeds):
        start, _ = trained(recipe_of("policy_start", seed=seed))
        scorer, _ = trained(recipe_of("rl_reward_models", f"seeds=[{seed}]", seed=None))
        for name, line in lines.items():
            reward = f"objective.reward={REWARDS[name].replace('RUN', scorer)}"
            recipe = recipe_of("rl_rewards", "grid=null", reward, f"model.start={start}", seed=seed)
            before = measure_policy(recipe, start)
            run, seconds = trained(recipe)
            line.add(before.right, measure_policy(recipe, run).right, seconds)
    return list(lines.values())


def table(lines: Sequence[Line]) -> str:
    """A Markdown table of values before and after, in percent, one value for each seed."""
    head = "| of the test pictures, in percent | before | after | difference (95 %) | processor seconds of a run |"
    return "\n".join([head, "|---|---|---|---|---|", *map(str, lines)])


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.rl_learning")
    parts = ("judge", "policy")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="what is measured (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of judge and policy (default: 3)")
    parser.add_argument("--work", type=Path, help="folder for runs and their records (default: a temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        os.environ["BASEREWARD_RUNS"] = str(work / "runs")
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{work / 'mlflow.db'}"
        with quiet_stdout():
            lines = judge_part(seeds=args.seeds) if "judge" in args.parts else []
            lines += policy_part(seeds=args.seeds) if "policy" in args.parts else []
    print(f"{datetime.date.today()}, {platform.machine()}, {torch.get_num_threads()} threads, float32\n")
    print(table(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
