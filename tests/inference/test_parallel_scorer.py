"""A model on several devices: the same scores in the same order as in one process, and errors of its processes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from basereward.cli import main
from basereward.data.schema.group import Group
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError, ModelError
from basereward.inference import parallel_scorer
from basereward.inference.load_model import load
from basereward.inference.parallel_scorer import ParallelScorer, available_devices
from tests.helpers.served_model import save_scored_model
from tests.helpers.support import group, mixed_groups, pair_rows, write_rows

pytestmark = pytest.mark.usefixtures("forked_scorers")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save a small Qwen2.5-VL with random weights, and return its folder."""
    return str(save_scored_model(tmp_path_factory.mktemp("models"), head="mlp"))


@pytest.fixture(scope="module")
def parallel(model: str, forked_scorers: None) -> Iterator[ParallelScorer]:
    """Open the model in two processes."""
    scorer = ParallelScorer(model, devices=["cpu", "cpu"])
    yield scorer
    scorer.close()


def groups_with_pictures() -> list[Group]:
    """Return thirty groups, some with pictures, of one to three responses."""
    texts = [
        group(f"Question {number}?", ("yes", "no " * number, "perhaps")[: number % 3 + 1], name=f"text {number}")
        for number in range(25)
    ]
    return [*mixed_groups(vision=True), *texts]


def test_scores_equal_those_of_one_process(
    model: str, parallel: ParallelScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks of seven groups on two processes give the scores of one process, in the order of the groups."""
    monkeypatch.setattr(parallel_scorer, "GROUPS_OF_TASK", 7)
    groups = groups_with_pictures()
    latencies: list[float] = []
    scored = list(parallel.score_groups(groups, tokens=500, latencies=latencies))
    expected = list(load(model).score_groups(groups, tokens=500))
    assert [len(scores) for scores in scored] == [len(group.responses) for group in groups]
    for scores, expected_scores in zip(scored, expected, strict=True):
        assert scores == pytest.approx(expected_scores, abs=1e-5)
    assert len(latencies) >= len(groups) / 7


def test_rejected_group_keeps_its_place_and_its_cause(parallel: ParallelScorer) -> None:
    """A group that is too long gives its error between the scores of its neighbours, and `score_groups` raises it."""
    groups = [group("a?", ("b",)), group("x" * 50_000, ("b",), name="long"), group("c?", ("d", "e"))]
    first, second, third = parallel.score_or_reject(groups)
    assert isinstance(first, list)
    assert isinstance(second, DataError)
    assert isinstance(second.__cause__, RowRejected)
    assert second.__cause__.reason == "too_long"
    assert isinstance(third, list)
    assert len(third) == 2
    with pytest.raises(DataError, match="long"):
        list(parallel.score_groups(groups))


def test_call_that_was_left_early_does_not_disturb_the_next(
    parallel: ParallelScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results of the groups that nobody read are not those of the next call."""
    monkeypatch.setattr(parallel_scorer, "GROUPS_OF_TASK", 2)
    groups = groups_with_pictures()
    expected = list(parallel.score_groups(groups[:4]))
    next(iter(parallel.score_groups(groups[10:])))
    for scores, expected_scores in zip(parallel.score_groups(groups[:4]), expected, strict=True):
        assert scores == pytest.approx(expected_scores, abs=1e-5)


def test_killed_process_is_an_error(model: str) -> None:
    """A process that dies ends the scoring with the device and the signal, and no process is left."""
    scorer = ParallelScorer(model, devices=["cpu"])
    children = [worker.process for worker in scorer._workers]
    os.kill(scorer._workers[0].process.pid or 0, signal.SIGKILL)
    with pytest.raises(ModelError, match="signal 9"):
        list(scorer.score_groups(groups_with_pictures()))
    scorer.close()
    assert not any(child.is_alive() for child in children)


def test_model_that_cannot_be_opened(tmp_path: Path) -> None:
    """The error of the processes is raised in the parent."""
    with pytest.raises(ModelError):
        ParallelScorer(str(tmp_path), devices=["cpu"])


def test_score_command_on_two_processes(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`score --devices cpu,cpu` writes the file that one process writes."""
    file = write_rows(tmp_path / "rows.jsonl", pair_rows(6))
    written: list[list[dict[str, object]]] = []
    for devices in ("cpu", "cpu,cpu"):
        out = tmp_path / f"{devices}.jsonl"
        assert main(["score", model, str(file), "--out", str(out), "--devices", devices, "--json"]) == 0
        written.append([json.loads(line) for line in out.read_text().splitlines()])
    assert [row["id"] for row in written[0]] == [row["id"] for row in written[1]]
    for row, other in zip(*written, strict=True):
        assert row["scores"] == pytest.approx(other["scores"], abs=1e-5)


@pytest.mark.parametrize("devices", [["cuda:77"], ["meta"], 0])
def test_devices_that_are_not_there(devices: list[str] | int) -> None:
    """A device that the machine lacks, and no device at all, are errors."""
    with pytest.raises(DataError):
        available_devices(devices)


def test_wrong_device_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """The command line names what is allowed, with exit code 2."""
    assert main(["score", "model", "rows.jsonl", "--devices", "gpu"]) == 2
    assert "cuda:0,cuda:1" in capsys.readouterr().err
