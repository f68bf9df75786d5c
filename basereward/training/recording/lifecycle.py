"""The life of a run from start to end: its lock, its final state, and the command that continues it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from basereward.errors import BaseRewardError, DamagedCheckpointError, RunError, TrainingError
from basereward.io.interrupts import Terminated, termination
from basereward.io.lease import LostLeaseError
from basereward.io.processes import remove_leftovers
from basereward.recipe import recipe_sha256
from basereward.recipe.schema import Recipe
from basereward.recipe.text import NOT_CONTENT, NOT_CONTENT_OF_TRAINER
from basereward.runs.locks import lock_run, unlock_run
from basereward.runs.params import flatten
from basereward.runs.run_folder import RunFolder, find, resume_command, runs_root
from basereward.runs.tracking.tracker import deliver_pending
from basereward.training.parallel.collectives import broadcast, is_first
from basereward.training.recording.run_record import RunRecord
from basereward.training.run_identity import has_checkpoint

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class CurrentRun:
    """The run that this process works on.

    Attributes:
        folder: None as long as a new run has no folder.

    >>> CurrentRun().folder is None
    True
    """

    folder: RunFolder | None = None

    def fail(self, fault: str) -> None:
        """Mark the run as failed, because another process of it has."""
        if self.folder is not None and self.folder.exists and is_first():
            self.folder.give_up("failed", TrainingError(fault))

    def reopen(self, run_id: str | None, recipe: Recipe) -> None:
        """Reopen the run to resume, if there is one; the first process does so for all."""
        if run_id is None:
            return
        folder = reopen_run(run_id, recipe) if is_first() else None
        # The others must not look for it: they would see a run that is running.
        self.folder = RunFolder(broadcast(folder.path if folder is not None else Path()))

    def begin(self, record: RunRecord) -> None:
        """Begin a new run; the first process does so for all."""
        # Assigned before the folder is created, so that a failure while it is created is recorded in it.
        self.folder = record.agree_on_run()
        if is_first():
            record.begin_run()
            lock_run(self.folder)


@contextlib.contextmanager
def current_run() -> Iterator[CurrentRun]:
    """Mark the run as killed or failed when the block raises, and release its lock when the block ends.

    >>> with current_run() as current:
    ...     current.folder is None
    True
    """
    current = CurrentRun()
    try:
        yield current
    # Lightning's loops turn an interrupt into SystemExit.
    except (KeyboardInterrupt, SystemExit) as stop:
        if not is_first() and not termination.requested:
            raise
        interrupt = Terminated() if termination.requested else KeyboardInterrupt()
        if is_first():
            interrupt.add_note(_mark_killed(current.folder))
        raise interrupt from stop
    except Exception as error:
        if current.folder is not None and is_first():
            _mark_failed(current.folder, error)
        raise
    finally:
        if current.folder is not None:
            unlock_run(current.folder)


def tidy_up() -> None:
    """Clean up after earlier runs."""
    # Records that an earlier run could not upload, because the tracking server did not answer.
    deliver_pending()
    # Half-made run folders and downloads of killed processes; nothing else would ever remove them.
    remove_leftovers(runs_root(), ".*.new")
    remove_leftovers(runs_root() / "downloads", ".*")


def _mark_killed(run: RunFolder | None) -> str:
    """Mark an interrupted run, and say how to continue it."""
    if run is None or not run.exists:
        return "no run had begun"
    # A run that was interrupted while its last records were uploaded is finished already. Its journal keeps the
    # records, and a later command uploads them.
    if run.state == "finished":
        return f"the run {run.run_id} is finished; the next command uploads the rest of its record"
    run.give_up("killed", KeyboardInterrupt())
    return _how_to_resume(run)


def _mark_failed(run: RunFolder, error: Exception) -> None:
    # After a lost lease the folder belongs to another process.
    if not run.exists or isinstance(error, LostLeaseError):
        return
    run.give_up("failed", error)
    # From a damaged checkpoint the command would fail again.
    if isinstance(error, BaseRewardError) and not isinstance(error, DamagedCheckpointError):
        error.add_note(_how_to_resume(run))


def _how_to_resume(run: RunFolder) -> str:
    """Say which run ended, and the command that continues it."""
    if has_checkpoint(run):
        advice = "continue it from its last checkpoint"
    else:
        advice = "it has no checkpoint yet; begin it again"
    return f"the run is {run.run_id}, in {run.path}; {advice}: {resume_command(run)}"


def reopen_run(run_id: str, recipe: Recipe) -> RunFolder:
    """Find a stopped run, check it against the recipe, and lock it for this process.

    Args:
        run_id: of the run.
        recipe: that the run must have been started with.

    Raises:
        RunError: there is no such run, it is finished or still running, it has another recipe, or its recipe was edited
            after the start. The run stays as it is.

    >>> reopen_run("no-such-run", Recipe())
    Traceback (most recent call last):
    basereward.errors.RunError: ...
    """
    run = find(run_id)
    # The lock decides between processes that resume the same run at the same time.
    if not lock_run(run):
        raise _still_running(run_id)
    try:
        _check_resumable(run, recipe)
    except BaseException:
        unlock_run(run)
        raise
    # This process holds the lock, so no other one writes these files, and their age does not matter.
    for folder in (run.path, run.checkpoints, run.scores):
        remove_leftovers(folder, ".*.tmp", ".*.part", "*.part", ".model-*", older_than_s=0)
    run.mark("running")
    return run


def _still_running(run_id: str) -> RunError:
    return RunError(f"run '{run_id}' is still running; stop it before you resume it")


def _check_resumable(run: RunFolder, recipe: Recipe) -> None:
    run_id = run.run_id
    if run.state == "finished":
        raise RunError(
            f"run '{run_id}' is finished and cannot be resumed. Use its model: basereward score {run_id} FILE"
        )
    if run.state == "running":
        raise _still_running(run_id)
    run_recipe = run.read_recipe()
    if recipe_sha256(run_recipe) != recipe_sha256(recipe):
        raise RunError(
            f"run '{run_id}' has another recipe ({run.recipe}), and a run resumes only with its own. "
            + _recipe_difference(run_recipe, recipe)
        )


def _recipe_difference(run_recipe: Recipe, recipe: Recipe) -> str:
    """List the keys whose values differ, without keys that do not count for the hash of a recipe."""
    # The hash leaves these out, so a run may resume under another name or with another tracking server.
    uncounted = (*NOT_CONTENT, *(f"trainer.{key}" for key in NOT_CONTENT_OF_TRAINER))
    in_run, now = flatten(dataclasses.asdict(run_recipe)), flatten(dataclasses.asdict(recipe))
    lines = []
    for key in dict.fromkeys([*in_run, *now]):
        counts = key not in uncounted and key.split(".")[0] not in uncounted
        if counts and in_run.get(key) != now.get(key):
            lines.append(f"  {key}: {in_run.get(key, 'absent')} in the run, {now.get(key, 'absent')} now")
    return "The difference:\n" + "\n".join(lines)
