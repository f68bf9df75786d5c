"""Trains a run together with the process that has started this one: `python -m basereward.training.parallel.worker`.

The task is read from standard input. The first process prints the result, and says what went wrong.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from basereward.errors import BaseRewardError, RankError
from basereward.io.logs import log_to_stderr
from basereward.io.progress import reporting
from basereward.io.progress.displays import NoDisplay
from basereward.io.secrets import redact
from basereward.recipe.trust import trusting
from basereward.training.parallel.link import FAILED

TrainRank: TypeAlias = Callable[[Mapping[str, Any]], None]


def main(load: Callable[[], TrainRank]) -> int:
    """Train, and return the exit status.

    Args:
        load: imports what trains, which takes seconds, and returns it.
    """
    # Ctrl-C reaches every process of a terminal. The first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    task = json.load(sys.stdin)
    # The first process says the same.
    logging.disable(logging.WARNING)
    with reporting(NoDisplay()), log_to_stderr(logging.ERROR), trusting(task["trust"]):
        if task["trust"]:
            # The user's own classes are often in the working folder, which `-m` leaves out with PYTHONSAFEPATH.
            sys.path.append(os.getcwd())
        train_rank = load()
        try:
            train_rank(task)
        except RankError as error:
            if error.first_is_gone:
                sys.stderr.write(f"basereward: {redact(str(error))}\n")
            return FAILED
        except BaseRewardError:
            return FAILED
    return 0


def _load() -> TrainRank:
    from basereward.training.fit import train_rank

    return train_rank


if __name__ == "__main__":
    sys.exit(main(_load))
