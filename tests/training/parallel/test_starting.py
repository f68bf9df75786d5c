"""Test how the processes of a run are started, what `check` refuses, and how they notice the end of one of them."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from basereward import build, load_recipe
from basereward.cli import main
from basereward.errors import RecipeError
from basereward.io.processes import this_rank
from basereward.recipe import Recipe, recipe_sha256
from basereward.recipe.checks.ranges import range_problems
from basereward.runs.run_folder import list_runs
from basereward.training.parallel.launch import in_environment
from basereward.training.parallel.link import Link, Listener, connect
from tests.helpers.killed_process import Moment, train_in_process
from tests.helpers.ranks import MIXED, torchrun_variables

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ready_store")]

PROFILE = "tests/small.yaml"


def with_trainer(recipe: Recipe | None = None, **keys: object) -> Recipe:
    """Return a recipe with other keys of section `trainer`."""
    recipe = recipe or Recipe()
    return dataclasses.replace(recipe, trainer=dataclasses.replace(recipe.trainer, **keys))  # type: ignore[arg-type]


def test_resume_starts_processes_for_all_devices(capfd: pytest.CaptureFixture[str]) -> None:
    """A run of one device continues on two, and standard output has the result alone."""
    overrides = ["trainer.checkpoint_every=1"]
    kill = Moment("basereward.training.module:RewardModule.training_step", call=6)
    assert train_in_process("basereward", overrides, profile=PROFILE, kill=kill) == -signal.SIGKILL
    (run,) = list_runs()
    capfd.readouterr()
    assert main(["resume", run.run_id, "--devices", "2", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["run_id"] == run.run_id
    assert [run.state for run in list_runs()] == ["finished"]
    # The variables of its processes are gone, and so is the connection to them.
    assert this_rank().starter == "nobody"
    assert not {"LOCAL_RANK", "MASTER_PORT", "BASEREWARD_LINK"} & os.environ.keys()
    assert not torch.distributed.is_initialized()


def test_cell_of_a_sweep_starts_its_processes(capfd: pytest.CaptureFixture[str]) -> None:
    """The cell is one run, although two processes train it."""
    overrides = ["trainer.devices=2", "trainer.steps=2", "trainer.validations=1"]
    assert main(["sweep", "basereward", "--profile", PROFILE, *overrides, "--json"]) == 0
    (cell,) = json.loads(capfd.readouterr().out)["cells"]
    assert cell["status"] == "finished"
    assert [run.run_id for run in list_runs()] == [cell["run_id"]]


def test_number_of_devices_is_no_part_of_the_identity() -> None:
    """A strategy is, but not the default one, so that recipes of earlier versions keep their hashes."""
    sha256 = recipe_sha256(Recipe())
    assert recipe_sha256(with_trainer(devices=8, nodes=2)) == sha256
    assert recipe_sha256(with_trainer(strategy="fsdp2")) != sha256
    # The hash of the default recipe before these keys existed.
    assert sha256 == "766c8e58fb81a38538978f9a8a96ea9231326fe0395a9353aa22701018ab2353"


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (["trainer.devices=3"], "batch.groups", "multiple"),
        (["trainer.devices=0"], "trainer.devices", "above 0"),
        (["trainer.strategy=fsdp3"], "trainer.strategy", "fsdp2"),
        (["trainer.shard=optimizer"], "trainer.shard", "fsdp2"),
        (["trainer.strategy=fsdp2", "model.backbone.quantization=nf4"], "trainer.strategy", "quantization"),
        (["trainer.strategy=fsdp2", "optimizer.kind=adamw_8bit"], "trainer.strategy", "adamw"),
        (["trainer.strategy=fsdp2", "probe=true"], "trainer.strategy", "probe"),
    ],
)
def test_what_does_not_fit_is_named(overrides: list[str], key: str, words: str) -> None:
    """The fault names the key and what is allowed."""
    with pytest.raises(RecipeError) as raised:
        load_recipe("basereward", profile=PROFILE, overrides=overrides)
    faults = [str(fault) for fault in raised.value.faults]
    assert any(key in fault and words in fault for fault in faults), faults


def test_check_refuses_devices_that_the_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """On GPUs the number is limited, on a CPU it is a number of processes."""
    from basereward.training.checks import model

    assert not list(model.device_problems(with_trainer(devices=64)))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    assert not list(model.device_problems(with_trainer(devices=2)))
    ((key, message),) = model.device_problems(with_trainer(devices=3))
    assert key == "trainer.devices"
    assert "1 to 2" in message


def test_launcher_gives_the_number_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe may leave it out, and must not contradict it."""
    for name, value in torchrun_variables(3, 4, port=1, nodes=2).items():
        monkeypatch.setenv(name, value)
    place = this_rank()
    assert (place.number, place.local, place.ranks, place.local_ranks) == (3, 1, 4, 2)
    trainer = in_environment(Recipe()).trainer
    assert (trainer.devices, trainer.nodes) == (2, 2)
    with pytest.raises(RecipeError, match="torchrun has started 4"):
        in_environment(with_trainer(devices=3))


def test_held_out_passes_are_as_many_on_every_rank() -> None:
    """Every group counts once, the ranks have equally many passes, and a rank without groups repeats another's."""
    _, data, _ = build(load_recipe("basereward", profile="tiny", overrides=[*MIXED]))
    places = data.parts["val"].places
    for ranks in (1, 2, 3, 5, 20):
        counted, numbers = [], set()
        for rank in range(ranks):
            data.trainer = SimpleNamespace(global_rank=rank, world_size=ranks)  # type: ignore[assignment]
            passes, own = data.held_out_passes("val")
            numbers.add(len(passes))
            counted += [place for batch in passes[:own] for place in batch]
            assert all(batch for batch in passes)
        assert len(numbers) == 1
        assert sorted(counted) == sorted(places)


TALKING = """
import sys, time
from basereward.training.parallel.link import Link, connect
link = Link()
connect(link, sys.argv[1], number=1)
if sys.argv[2] == "reports":
    link.report("its disk is full")
if sys.argv[2] == "closes":
    link.close()
else:
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("ending", "fault"),
    [("killed", "ended without a message"), ("reports", "has failed: its disk is full"), ("closes", None)],
)
def test_end_of_a_process_is_noticed(ending: str, fault: str | None) -> None:
    """The message of a process that fails arrives; a killed one is noticed; one that has done its work is no fault."""
    listener, link = Listener("127.0.0.1"), Link()
    process = subprocess.Popen([sys.executable, "-c", TALKING, listener.address, ending])
    try:
        listener.accept(link, 2)
        if ending == "killed":
            process.kill()
        if ending == "closes":
            assert process.wait(60) == 0
        noticed = link.wait_for_fault(1 if fault is None else 60)
        assert (noticed is None) == (fault is None)
        assert fault is None or (fault in str(noticed) and str(process.pid) in str(noticed))
    finally:
        link.close()
        listener.close()
        process.kill()
        process.wait()


def test_stranger_is_not_taken_for_a_process() -> None:
    """A connection without the secret is closed, and the process that comes later is accepted."""
    listener, link, other = Listener("127.0.0.1"), Link(), Link()
    host, port, _ = listener.address.split(",")
    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(b'{"number": 1, "secret": "0"}\n')
        connect(other, listener.address, number=1)
        listener.accept(link, 2)
        assert stranger.recv(1) == b""
    other.report("a word")
    assert "a word" in str(link.wait_for_fault(60))
    for opened in (link, other, listener):
        opened.close()


def test_ranges_allow_one_device_with_fsdp2() -> None:
    """A run that was begun on several devices must be able to continue on one."""
    recipe = load_recipe("basereward", profile=PROFILE)
    assert not range_problems(with_trainer(recipe, strategy="fsdp2", devices=1))
