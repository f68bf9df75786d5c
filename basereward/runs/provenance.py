"""The origin of a run: its commit, packages and machine."""

from __future__ import annotations

import contextlib
import getpass
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from basereward.io.secrets import redact

PACKAGES = (
    *("basereward", "torch", "torchvision", "transformers", "tokenizers", "peft", "bitsandbytes", "accelerate"),
    *("pytorch-lightning", "torchmetrics", "datasets", "safetensors", "numpy", "pillow", "mlflow"),
)
PROGRAM = "basereward"
GIT_LIMIT_S = 10
"""Seconds that a call of git may take; on a network file system it can hang."""


def provenance() -> dict[str, str]:
    """The tags `git.*` (only in a checkout), `version.*`, `hardware.*`, and those that MLflow's pages display.

    Makes no network request.

    >>> provenance()["version.python"] == platform.python_version()
    True
    """
    return {**_git(), **_versions(), **_hardware(), **_mlflow_tags()}


def command_line(arguments: Sequence[str] | None = None) -> str | None:
    """The command as a person typed it, without secrets; None in a notebook, a test or a process of a sweep's cell.

    Args:
        arguments: of the process; by default its own.

    >>> command_line(["/usr/bin/basereward", "train", "my recipe.yaml"])
    "basereward train 'my recipe.yaml'"
    >>> command_line(["/usr/bin/pytest"]) is None
    True
    """
    program, *rest = sys.argv if arguments is None else arguments
    path = Path(program)
    # `python -m basereward` puts the path of the module there.
    if PROGRAM not in (path.name, path.parent.name if path.name == "__main__.py" else ""):
        return None
    return redact(shlex.join([PROGRAM, *rest]))


def _git() -> dict[str, str]:
    commit = _run_git("rev-parse", "HEAD")
    if not commit:
        return {}
    # Files that git does not know are left out: runs and caches beside the code would make every run dirty.
    changed = _run_git("status", "--porcelain", "--untracked-files=no")
    dirty = "unknown" if changed is None else str(bool(changed)).lower()
    return {"git.commit": commit, "git.dirty": dirty, "mlflow.source.git.commit": commit}


def _run_git(*arguments: str) -> str | None:
    """The output of git; None when there is no git, no checkout, or no output in time."""
    try:
        completed = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=GIT_LIMIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return completed.stdout.strip()


def _versions() -> dict[str, str]:
    versions = {"version.python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[f"version.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        versions["version.cuda"] = torch.version.cuda
    return versions


def _hardware() -> dict[str, str]:
    # In a container the process may use fewer CPUs than the machine has; macOS cannot tell.
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Names rather than a count: the time of a run means nothing without the GPU.
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "hardware.host": platform.node(),
        "hardware.cpus": str(cpus),
        "hardware.ram_gib": f"{memory_gib:.1f}",
        "hardware.gpus": ", ".join(gpus) or "none",
    }


def _mlflow_tags() -> dict[str, str]:
    tags = {"mlflow.source.name": "basereward", "mlflow.source.type": "LOCAL"}
    # The user of a container may have no name.
    with contextlib.suppress(KeyError, OSError):
        tags["mlflow.user"] = getpass.getuser()
    return tags
