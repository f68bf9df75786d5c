"""Rows in shards on a Ray cluster: the output of one process, whatever is killed, and never that of other rows."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.cluster.options import ClusterOptions
from basereward.cluster.ray_cluster import connect
from basereward.cluster.shards import ShardedRows, cut
from basereward.cluster.shared_place import Sentinel
from basereward.data.curation import sharded as sharded_module
from basereward.errors import ClusterError, DataError
from basereward.evaluation.annotation.annotate import annotate
from basereward.training import audit as audit_module
from tests.helpers.chat_servers import serving, words
from tests.helpers.ray_servers import free_port
from tests.helpers.served_model import save_scored_model
from tests.helpers.shard_workers import Squares
from tests.helpers.support import pair_rows, write_rows

ROOT = Path(__file__).parents[2]

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")


def squares(
    work: Squares, address: str, folder: Path, *, shards: int = 4, num_rows: int | None = None
) -> tuple[str, int]:
    """Run the worker on two processes, and return its output and the number of shards that were found."""
    with ShardedRows(ClusterOptions(address, shards=shards, workers=2), folder=folder) as rows:
        files = list(rows.run(work, num_rows=len(work.numbers) if num_rows is None else num_rows, what="squaring"))
        return "".join(shard.file.read_text() for shard in files), sum(not shard.is_new for shard in files)


@pytest.mark.parametrize(
    ("num_rows", "shards", "multiple"), [(10, 3, 1), (10, 30, 1), (2000, 7, 512), (512, 4, 512), (0, 2, 1), (1, 1, 64)]
)
def test_shards_cover_every_row_once(num_rows: int, shards: int, multiple: int) -> None:
    """Shards are in order, begin at multiples and are at most as many as were asked for."""
    ranges = cut(num_rows, shards=shards, multiple=multiple)
    rows: list[int] = []
    for shard in ranges:
        assert shard.start % multiple == 0
        assert len(shard) > 0
        rows += shard
    assert rows == list(range(num_rows))
    assert len(ranges) <= shards


@needs_ray
def test_a_killed_worker_loses_and_doubles_nothing(address: str, tmp_path: Path) -> None:
    """A worker that SIGKILL ends in the middle of a shard is replaced; its shard is worked on again, the others not."""
    numbers = tuple(range(100))
    work = Squares(numbers, str(tmp_path / "notes"), kill_at=60, kills=1)
    output, _ = squares(work, address, tmp_path / "shards")
    assert output == "".join(f"{number**2}\n" for number in numbers)
    assert sorted(map(int, (tmp_path / "notes").read_text().split())) == [0, 25, 50, 50, 75]


@needs_ray
def test_cluster_is_joined_after_another_one_was_started_here(address: str, tmp_path: Path) -> None:
    """A cluster of this process needs tokens of its own; the actors of one that is joined later work all the same."""
    with connect(None, cpus=1) as cluster:
        assert cluster.resources()["CPU"] == 1
    output, _ = squares(Squares(tuple(range(10)), str(tmp_path / "notes")), address, tmp_path / "shards")
    assert output == "".join(f"{number**2}\n" for number in range(10))


@needs_ray
def test_complete_shards_are_found_again_and_those_of_other_rows_are_not(address: str, tmp_path: Path) -> None:
    """A second call works on the missing shards only; where a row has changed, its shard is made anew."""
    numbers = tuple(range(100))
    with pytest.raises(DataError, match="60 is bad"):
        squares(Squares(numbers, str(tmp_path / "notes"), bad=60), address, tmp_path / "shards")
    output, found = squares(Squares(numbers, str(tmp_path / "notes")), address, tmp_path / "shards")
    assert output == "".join(f"{number**2}\n" for number in numbers)
    assert found >= 1
    changed = (7, *numbers[1:])
    output, found = squares(Squares(changed, str(tmp_path / "notes")), address, tmp_path / "shards")
    assert output == "".join(f"{number**2}\n" for number in changed)
    assert found == 3


KILLED_DRIVER = """
import os, sys
from pathlib import Path
from basereward.cluster.options import ClusterOptions
from basereward.cluster.shards import ShardedRows
from tests.helpers.shard_workers import Squares
address, folder = sys.argv[1:]
work = Squares(tuple(range(100)), folder + "/notes", kill_at=60, kills=1, victim=os.getpid())
with ShardedRows(ClusterOptions(address, shards=4, workers=1), folder=Path(folder, "shards")) as rows:
    list(rows.run(work, num_rows=100, what="squaring"))
"""


@needs_ray
def test_a_killed_driver_continues_from_its_shards(address: str, tmp_path: Path) -> None:
    """After SIGKILL of the process that started the work, another one makes the missing shards only."""
    command = [sys.executable, "-c", KILLED_DRIVER, address, str(tmp_path)]
    killed = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    output, found = squares(Squares(tuple(range(100)), str(tmp_path / "notes")), address, tmp_path / "shards")
    assert output == "".join(f"{number**2}\n" for number in range(100))
    assert found >= 2


@needs_ray
def test_one_process_at_a_time_works_in_a_folder(address: str, tmp_path: Path) -> None:
    """The second one is refused and leaves the shards of the first; the folder is free again at the end."""
    options = ClusterOptions(address, shards=2, workers=1)
    work = Squares(tuple(range(10)), str(tmp_path / "notes"))
    with ShardedRows(options, folder=tmp_path / "shards") as rows:
        shards = list(rows.run(work, num_rows=10, what="squaring"))
        with pytest.raises(ClusterError, match="shards"):
            ShardedRows(options, folder=tmp_path / "shards")
        assert all(shard.file.exists() for shard in shards)
    with ShardedRows(options, folder=tmp_path / "shards") as rows:
        rows.remove()
    assert not (tmp_path / "shards").exists()


@needs_ray
def test_rows_that_always_end_the_process_are_named(address: str, tmp_path: Path) -> None:
    """After three beginnings the shard is an error with its rows, and not begun for ever."""
    work = Squares(tuple(range(4)), str(tmp_path / "notes"), kill_at=3, kills=99)
    with pytest.raises(DataError, match="rows 3 to 4"):
        squares(work, address, tmp_path / "shards", shards=2)
    assert (tmp_path / "notes").read_text().split().count("2") == 3


@needs_ray
def test_scores_are_those_of_one_process(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`score --on ray` writes the bytes that one process writes, removes its shards, and says what was done."""
    model = str(save_scored_model(tmp_path / "models", head="mlp"))
    file = write_rows(tmp_path / "rows.jsonl", pair_rows(1100))
    for name, options in (("local", []), ("ray", ["--on", "ray", "--address", address, "--workers", "2"])):
        out = tmp_path / f"{name}.jsonl"
        assert main(["score", model, str(file), "--out", str(out), "--json", *options]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (tmp_path / "ray.jsonl").read_bytes() == (tmp_path / "local.jsonl").read_bytes()
    assert result["rows"] == 1100
    assert result["shards"] == {"all": 3, "found": 0}
    assert not (tmp_path / "ray.jsonl.shards").exists()


@needs_ray
def test_audit_is_that_of_one_process(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lengths, statistics, disagreement with a model, exact and near duplicates and overlaps with a benchmark are the
    same on a cluster, whose workers load the model."""
    rows = pair_rows(60)
    text = "Which of these numbers is the larger one, and why is it so? " * 3
    rows += [
        {"id": f"long-{n}", "prompt": text + f"{n % 7} or {n // 9}", "chosen": "a", "rejected": "b"} for n in range(40)
    ]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    write_rows(tmp_path / "benchmark.jsonl", rows[5:9])
    # The signatures on the cluster; the rest has too few rows, and is worked on in shards by this process.
    monkeypatch.setattr(sharded_module, "FEW_ROWS", 0)
    source = f"{{_target_: jsonl, path: {file}, val: 0.1, test: 0.1}}"
    against = f"{{_target_: jsonl, path: {tmp_path / 'benchmark.jsonl'}}}"
    model = str(save_scored_model(tmp_path / "models", head="mlp"))
    results = []
    for options in ([], ["--on", "ray", "--address", address, "--shards", "3"]):
        command = ["audit", "basereward", "--model", model, "data.sources.digits=null", "data.sources.numbers=null"]
        command += [f"data.sources.rows={source}", "data.curation.near=0.8"]
        assert main([*command, f"data.curation.against={{bench: {against}}}", "--json", *options]) == 0
        results.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
        # For the second one: this process must not load the model.
        monkeypatch.delattr(audit_module, "load", raising=False)
    assert results[0] == results[1]
    assert results[0]["sources"]["rows"]["noise"]["disagrees"]["total"] > 50
    left_out = results[0]["curation"]["left_out"]["rows"]
    assert left_out["near_duplicate"] > 0
    assert left_out["contaminated"] > 0


class OftenRight:
    """A judge that is right at the second attempt only for one prompt in three. Each attempt has a seed of its own."""

    def __init__(self) -> None:
        self._first_seeds: dict[int, int] = {}

    def __call__(self, body: dict[str, Any], _: int) -> str:
        text = words(body)
        right = 1 + [int(answer) % 2 for answer in re.findall(r"Answer \d: (\d)", text)].index(0)
        row = int(re.findall(r"Row (\d+)", text)[0])
        is_right = self._first_seeds.setdefault(row, body["seed"]) != body["seed"] or row % 3 > 0
        return f"<think>One of them is odd.</think><answer>{right if is_right else 3 - right}</answer>"


@needs_ray
def test_annotations_are_those_of_one_process(address: str, tmp_path: Path) -> None:
    """All files of `annotate` are the same on a cluster, with the answers in the order of one request after another."""
    rows = [
        {"id": f"r{n}", "prompt": f"Row {n}: name an even number.", "chosen": "4", "rejected": "7"} for n in range(40)
    ]
    file = write_rows(tmp_path / "pairs.jsonl", rows)
    results = []
    with serving(OftenRight()) as server:
        for name, cluster in (("local", None), ("ray", ClusterOptions(address, shards=2))):
            out = tmp_path / name / "pairs.jsonl"
            out.parent.mkdir()
            options: dict[str, Any] = {"overrides": ["val=0.0", "test=0.0"], "concurrency": 1, "attempts": 2}
            result = annotate(str(file), model="judge", endpoint=server.url, out=str(out), cluster=cluster, **options)
            results.append(result)
    assert results[0]["by_attempts"] == results[1]["by_attempts"] == {"1": 26, "2": 14}
    for name in ("pairs.jsonl", "pairs.disagreed.jsonl", "pairs.answers.jsonl"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    assert not (tmp_path / "ray" / "pairs.jsonl.shards").exists()
    assert results[1]["shards"]["all"] == 2


@needs_ray
def test_what_a_cluster_lacks_is_refused_before_work_begins(address: str, tmp_path: Path) -> None:
    """More CPUs or GPUs than there are, are an error with what there is; nothing is left pending."""
    with connect(address) as cluster:
        assert cluster.resources()["CPU"] == 2
        cluster.require({"CPU": 1}, tasks=2)
        for needed, tasks in (({"CPU": 1.0}, 3), ({"CPU": 3.0}, 1), ({"GPU": 1.0}, 1)):
            with pytest.raises(ClusterError, match=r"has (2 CPU|0 GPU)"):
                cluster.require(needed, tasks=tasks)
    with pytest.raises(ClusterError, match="has 2 CPU"):
        ShardedRows(ClusterOptions(address, workers=5), folder=tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


@needs_ray
def test_a_folder_that_a_machine_does_not_see(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file that the command writes is not there for another machine, that machine is named."""
    # As on a machine with another file system under the same path.
    monkeypatch.setattr(Sentinel, "__enter__", lambda sentinel: sentinel.file)
    with pytest.raises(ClusterError, match=f"not see the folder.*{socket.gethostname()}"):
        ShardedRows(ClusterOptions(address), folder=tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--on", "ray", "--shards", "0"],
        ["--on", "ray", "--shards", "two"],
        ["--on", "ray", "--workers", "0"],
        ["--on", "ray", "--address", "nonsense"],
        ["--on", "ray", "--address", "ray://head:10001"],
        ["--on", "ray", "--address", "head:99999"],
        ["--on", "moon"],
        ["--shards", "3"],
        ["--address", "head:6379"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("command", ["score", "annotate", "data", "audit"])
def test_wrong_options_are_refused(command: str, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every command refuses them with exit code 2 and names the value, before it reads anything."""
    needed = {"score": ["RUN", "rows.jsonl"], "annotate": ["digits", "--model", "m", "--endpoint", "local"]}
    words = [command, *needed.get(command, ["basereward"]), *(["--out", "o.jsonl"] if command == "annotate" else [])]
    assert main([*words, *options]) == 2
    assert options[-1] in capsys.readouterr().err


@needs_ray
def test_an_address_without_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused with its name, and no output is begun."""
    address = f"127.0.0.1:{free_port()}"
    file = write_rows(tmp_path / "rows.jsonl", pair_rows(2))
    model = str(save_scored_model(tmp_path / "models", head="linear"))
    out = tmp_path / "scores.jsonl"
    assert main(["score", model, str(file), "--out", str(out), "--on", "ray", "--address", address]) == 2
    assert address in capsys.readouterr().err
    assert not (tmp_path / "scores.jsonl.shards").exists()
