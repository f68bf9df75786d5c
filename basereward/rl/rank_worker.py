"""Trains a run together with the process that has started this one: `python -m basereward.rl.rank_worker`."""

from __future__ import annotations

import sys

from basereward.training.parallel.worker import TrainRank, main


def _load() -> TrainRank:
    from basereward.rl.run import train_policy_rank

    return train_policy_rank


if __name__ == "__main__":
    sys.exit(main(_load))
