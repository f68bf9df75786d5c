"""Where a run comes from: the commit, the packages and the machine."""

from __future__ import annotations

import contextlib
import getpass
import importlib.metadata
import os
import platform
import subprocess

import torch

PACKAGES = (
    *("basereward", "torch", "torchvision", "transformers", "tokenizers", "peft", "bitsandbytes", "accelerate"),
    *("pytorch-lightning", "torchmetrics", "datasets", "safetensors", "numpy", "pillow", "mlflow"),
)
GIT_LIMIT_S = 10


def provenance() -> dict[str, str]:
    """Tags of the run: `git.*` (inside a checkout only), `version.*`, `hardware.*`, and those that MLflow's pages show.

    Nothing is asked of a network.
    """
    return {**_git(), **_versions(), **_hardware(), **_who()}


def _git() -> dict[str, str]:
    commit = _ask_git("rev-parse", "HEAD")
    if not commit:
        return {}
    changed = _ask_git("status", "--porcelain", "--untracked-files=no")
    dirty = "unknown" if changed is None else str(bool(changed)).lower()
    return {"git.commit": commit, "git.dirty": dirty, "mlflow.source.git.commit": commit}


def _ask_git(*arguments: str) -> str | None:
    """What git answers; None when there is no git, no checkout, or no answer in time."""
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=GIT_LIMIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


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
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "hardware.host": platform.node(),
        "hardware.cpus": str(usable),
        "hardware.ram_gib": f"{memory:.1f}",
        "hardware.gpus": ", ".join(gpus) or "none",
    }


def _who() -> dict[str, str]:
    tags = {"mlflow.source.name": "basereward", "mlflow.source.type": "LOCAL"}
    with contextlib.suppress(KeyError, OSError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    return tags
