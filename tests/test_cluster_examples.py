"""The example files of whole clusters are valid YAML, and the commands in them are ones that `basereward` takes."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from basereward.cli.parser import parse

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "how-to" / "clusters"
SKYPILOT_KEYS = {"name", "num_nodes", "resources", "workdir", "envs", "file_mounts", "setup", "run"}


def read(name: str) -> dict[str, Any]:
    """Read a file with a safe loader."""
    content: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return content


def check_sweep(line: str) -> None:
    """Parse a command line of ours."""
    program, *words = shlex.split(line)
    arguments = parse(words)
    assert (program, arguments.command, arguments.on) == ("basereward", "sweep", "ray")


def test_skypilot() -> None:
    """Its keys are those of a SkyPilot task, its scripts are valid, and its sweep is a command of ours."""
    task = read("skypilot.yaml")
    assert task.keys() == SKYPILOT_KEYS
    for script in (task["setup"], task["run"]):
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    (sweep,) = [line.strip() for line in task["run"].splitlines() if "basereward sweep" in line]
    check_sweep(sweep)


def test_kuberay() -> None:
    """A RayJob whose containers all have the folder of runs and the tracking server, and whose command is ours."""
    job = read("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    check_sweep(job["spec"]["entrypoint"])
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        names = {variable["name"] for variable in container["env"]}
        assert names == {"BASEREWARD_RUNS", "MLFLOW_TRACKING_URI"}
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("name", ["skypilot.yaml", "kuberay.yaml"])
def test_first_line_has_the_command(name: str) -> None:
    """Which names the file by its path in the repository."""
    first = (FOLDER / name).read_text().splitlines()[0]
    assert first.startswith("# ")
    assert f"docs/how-to/clusters/{name}" in first
