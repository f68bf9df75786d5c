"""The record of a run of reinforcement learning: metrics of steps and validations, progress, test, scores."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from typing import Any

from basereward.data.schema.group import Split
from basereward.io.files import write_state
from basereward.io.progress import Phase, begin
from basereward.recipe.schema import Recipe
from basereward.rl.running.checkpoint import trained_weights, write_best
from basereward.rl.running.held_out import judged_groups
from basereward.rl.running.prepare import PreparedPolicy, monitored
from basereward.rl.running.run_trainer import RunTrainer
from basereward.runs.locks import check_run_lock
from basereward.runs.resolve_model import MODEL
from basereward.runs.run_folder import RunFolder
from basereward.runs.score_files import ScoredGroup, read_scores, scores_text
from basereward.training.parallel.collectives import is_first
from basereward.training.recording.best_weights import BEST, restore_scores
from basereward.training.recording.run_record import RunDetails, RunRecord, peak_gib

logger = logging.getLogger(__name__)

RENAMED = {"learning_rate": "lr", "step_time": "step_s"}
"""Metrics of TRL that have another name in runs of this project."""
UNRECORDED = ("epoch", "num_input_tokens_seen", "frac_reward_zero_std")
SHOWN = ("reward", "judge/accuracy", "policy/exact_match", "completions/mean_length")
"""Metrics beside the bar of progress."""


def step_metrics(logs: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a step by their names in a record: `train/` and TRL's name.

    Args:
        logs: what TRL logs; None stands for a value that is not defined.

    >>> step_metrics({"loss": 0.5, "learning_rate": 1e-6, "kl": None, "epoch": 0.1})
    {'train/loss': 0.5, 'train/lr': 1e-06}
    """
    metrics: dict[str, float] = {}
    for name, value in logs.items():
        if value is not None and name not in UNRECORDED:
            metrics[f"train/{RENAMED.get(name, name)}"] = float(value)
    return metrics


class RolloutRecord(RunRecord):
    """Records what a `RunTrainer` does.

    Args:
        recipe: of the run.
        prepared: what it trains.
        run: its folder.
        details: names of a new run.

    Attributes:
        pair_s: seconds to judge a test pair in both orders; None before the test, and for a policy.
    """

    def __init__(self, recipe: Recipe, prepared: PreparedPolicy, *, run: RunFolder, details: RunDetails) -> None:
        super().__init__(recipe, run=run, rows=prepared.rows, identity=prepared.identity, details=details)
        self.prepared = prepared
        self.pair_s: float | None = None
        self._step = 0
        self._phase: Phase | None = None
        self._shown = ""
        self._test_metrics: dict[str, float] = {}

    @property
    def finished_steps(self) -> int:
        """Number of finished optimizer steps."""
        return self._step

    def own_tags(self) -> dict[str, str]:
        """A tag with the hash of a judge's prompt; none for a policy."""
        template = getattr(self.prepared.head, "branch_template", None)
        if self.prepared.reward.trains != "judge" or template is None:
            return {}
        return {"prompt.sha256": hashlib.sha256(template.text.encode()).hexdigest()}

    def begin_progress(self, steps: int, *, done: int) -> None:
        """Begin the bar, where an earlier process of the run has stopped."""
        self._step = done
        if is_first():
            self._phase = begin("training", total=steps, initial=done, detail=f"{steps} steps")

    def end_progress(self) -> None:
        """End the bar."""
        if self._phase is not None:
            self._phase.end()
            self._phase = None

    def advance(self, step: int) -> None:
        """Count a step.

        Raises:
            LostLeaseError: another process has taken over the run.
        """
        check_run_lock(self.run)
        self._step = step
        if self._phase is not None:
            self._phase.advance(detail=f"step {step} of {self.prepared.steps}{self._shown}")

    def log_step(self, logs: Mapping[str, Any], step: int) -> None:
        """Record the metrics of a step.

        Args:
            logs: by TRL's names.
            step: number of finished optimizer steps.
        """
        shown = [f"{name.rpartition('/')[2]} {logs[name]:.3f}" for name in SHOWN if logs.get(name) is not None]
        self._shown = f", {', '.join(shown)}" if shown else ""
        self.metrics(step_metrics(logs), step=step)

    def validate(self, trainer: RunTrainer) -> dict[str, float]:
        """Answer the held-out rows, record what they show, and keep the weights if they are the best so far.

        Args:
            trainer: of the run.

        Returns:
            The metrics, on every process.
        """
        step = int(trainer.state.global_step)
        metrics = self._measured(trainer, "val")
        name = monitored(self.recipe, metrics)
        # The validation before the first step counts too: if training only makes the policy worse, the start is kept.
        is_best = trainer.best is None or metrics[name] > trainer.best
        if is_best:
            trainer.best = metrics[name]
        if not is_first():
            return metrics
        self.metrics({**metrics, "mem/peak_gib": peak_gib()}, step=step)
        shown = [f"{key} {value:.4f}" for key, value in metrics.items() if key.count("/") == 1]
        logger.info("step %d of %d: %s", step, self.prepared.steps, ", ".join(shown))
        if is_best:
            check_run_lock(self.run)
            weights = trained_weights(trainer.accelerator.unwrap_model(trainer.model))
            text = self._scores_text("val")
            write_best(self.run, weights, step=step, metrics=metrics, scores=text)
            # For reports of a run that is still training. If the process is killed here, `restore_scores` writes it.
            self._write_scores("val", text)
        return metrics

    def restore_scores(self) -> None:
        """Write the file of the scores of the best validation again, where a killed process has not."""
        restore_scores(self.run.checkpoints / BEST, self.run.scores / "val.jsonl")

    def test(self, trainer: RunTrainer) -> dict[str, float]:
        """Answer the test rows with the best weights, and record what they show.

        Args:
            trainer: whose model has the best weights.

        Returns:
            The metrics; {} without test rows.
        """
        if not self.prepared.held_out.has("test"):
            logger.info("no rows are held out for the test, so there are no test metrics")
            return {}
        began = time.perf_counter()
        metrics = self._measured(trainer, "test")
        pairs = sum(len(rows) for rows, _ in self.prepared.held_out.answered.values()) / 2
        if self.prepared.reward.trains == "judge":
            self.pair_s = (time.perf_counter() - began) / max(pairs, 1.0)
        if is_first():
            self._write_scores("test", self._scores_text("test"))
        self._test_metrics = metrics
        return metrics

    def record_best(self, step: int) -> None:
        """Record whose weights the saved model has, and the metrics of the test, which belong to it.

        Args:
            step: number of optimizer steps after which the weights were.
        """
        self.metrics({"train/best_step": float(step)}, step=self.prepared.steps)
        # MLflow's models score responses, and a policy writes them: its files are plain artifacts.
        if self.prepared.reward.trains == "judge":
            self.record_model(step=step)
        self.metrics(self._test_metrics, step=self.prepared.steps)
        for split in ("val", "test"):
            file = self.run.scores / f"{split}.jsonl"
            # Those of the best validation may be of an earlier process.
            if file.exists():
                self.record_scores(split, read_scores(file))

    def publish_model(self) -> str:
        """Record the saved model, and return its address."""
        if self.prepared.reward.trains == "judge":
            return super().publish_model()
        assert self.tracker is not None
        self.tracker.artifacts(self.run.model, folder=MODEL)
        return self.address_of_model()

    def _measured(self, trainer: RunTrainer, split: Split) -> dict[str, float]:
        per_generation = trainer.args.generation_batch_size
        chunk, own = int(per_generation), int(per_generation) // trainer.accelerator.num_processes
        return self.prepared.held_out(split, lambda rows: trainer.answers(rows, batch=own), chunk=chunk)

    def _scores_text(self, split: Split) -> str | None:
        """The scores of a judge's last answers, as the content of their file; None for a policy."""
        if self.prepared.reward.trains != "judge":
            return None
        scored: list[ScoredGroup] = []
        for name, (rows, texts) in self.prepared.held_out.answered.items():
            scored += judged_groups(self.prepared.held_out.groups[split][name], rows, texts, source=name)
        return scores_text(scored)

    def _write_scores(self, split: Split, text: str | None) -> None:
        if text is not None:
            write_state(self.run.scores / f"{split}.jsonl", text)
