"""Values on the command line that argparse cannot check by itself."""

from __future__ import annotations

import argparse

from basereward.data.schema.group import SPLITS
from basereward.errors import BaseRewardError, unknown
from basereward.training.cost.gpu_specs import GPUS

LISTED = ("experiments", "profiles", "sources", "benchmarks", "heads", "losses", "runs")
ORDERS = ("fixed", "random", "both")
DTYPES = ("float32", "bfloat16")


class UsageError(BaseRewardError):
    """The command line itself is wrong."""


def check_values(arguments: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: an option has a value that it cannot have, or says nothing without another.
    """
    checks = {
        "ls": _check_ls, "check": _check_cost, "score": _check_score, "eval": _check_eval, "annotate": _check_annotate,
        "look": _check_look,
    }  # fmt: skip
    if check := checks.get(arguments.command):
        check(arguments)


def _check_ls(arguments: argparse.Namespace) -> None:
    if arguments.kind not in LISTED:
        raise UsageError(unknown("kind", arguments.kind, LISTED))


def _check_eval(arguments: argparse.Namespace) -> None:
    if arguments.model is not None and "=" in arguments.model:
        arguments.overrides.insert(0, arguments.model)
        arguments.model = None
    if bool(arguments.benchmark) == (arguments.data is not None):
        raise UsageError("give --benchmark with the name of one, or --data with a file of pairs of your own")
    if arguments.order not in (None, *ORDERS):
        raise UsageError(unknown("order", arguments.order, ORDERS))
    if (arguments.endpoint is None) != (arguments.judge is None):
        raise UsageError("a judge has both: --endpoint says where it is, --judge its name there")


def _check_annotate(arguments: argparse.Namespace) -> None:
    if arguments.endpoint is None:
        raise UsageError("--endpoint is needed: the judge's address, or local, or vllm")
    if arguments.split not in SPLITS:
        raise UsageError(unknown("part", arguments.split, SPLITS))


def _check_look(arguments: argparse.Namespace) -> None:
    if arguments.split not in (None, *SPLITS):
        raise UsageError(unknown("part", arguments.split, SPLITS))
    if arguments.rows < 1:
        raise UsageError(f"--rows {arguments.rows}: at least 1 is needed")


def _check_score(arguments: argparse.Namespace) -> None:
    if arguments.dtype not in (None, *DTYPES):
        raise UsageError(unknown("dtype", arguments.dtype, DTYPES))
    if arguments.tokens is not None and arguments.tokens < 1:
        raise UsageError(f"--tokens {arguments.tokens}: at least 1 is needed")


def _check_cost(arguments: argparse.Namespace) -> None:
    if arguments.gpu not in (None, *GPUS):
        raise UsageError(unknown("GPU", arguments.gpu, GPUS))
    if arguments.utilisation is not None and not 0 < arguments.utilisation <= 1:
        raise UsageError(f"--utilisation {arguments.utilisation}: a share above 0 and at most 1 is needed")
    if not arguments.cost and (arguments.gpu is not None or arguments.utilisation is not None):
        raise UsageError("--gpu and --utilisation say nothing without --cost; add it")
