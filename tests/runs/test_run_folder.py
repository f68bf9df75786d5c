"""Run folders: state, result and lookup, also after a process was killed."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from basereward.errors import ModelError, RunError
from basereward.io.files import write_atomic
from basereward.io.processes import identify_process, process_state
from basereward.runs.resolve_model import resolve_model
from basereward.runs.run_folder import (
    RunFolder,
    find,
    finished_with,
    list_runs,
    resumable_with,
    scan_runs,
    unfinished_with,
)


def make(root: Path, *, sha: str = "0", name: str = "cell") -> RunFolder:
    """Make a run folder under `root`."""
    return RunFolder.create("name: cell\n", recipe_sha256=sha, name=name, root=root)


def in_dead_process(root: Path) -> str:
    """Make a run in a process that is then killed with SIGKILL, and return its id."""
    program = f"""
import sys, time
from pathlib import Path
from basereward.runs.run_folder import RunFolder
run = RunFolder.create("name: x", recipe_sha256="dead", name="dead", root=Path({str(root)!r}))
print(run.run_id, flush=True)
time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        assert RunFolder(root / run_id).state == "running"
        process.send_signal(signal.SIGKILL)
        process.wait()
    return run_id


def test_new_run_is_running_and_has_its_recipe(tmp_path: Path) -> None:
    """The folder has the recipe, the status and the subfolders, and is found by its id."""
    run = make(tmp_path, sha="abc", name="head=2_silu,seed=1")
    assert run.recipe.read_text() == "name: cell\n"
    assert (run.state, run.name, run.status["recipe_sha256"]) == ("running", "head=2_silu,seed=1", "abc")
    assert run.checkpoints.is_dir()
    assert run.scores.is_dir()
    assert run.result() is None
    assert run.mlflow_run_id is None
    assert find(run.run_id, root=tmp_path) == run
    assert [path.name for path in tmp_path.iterdir()] == [run.run_id]


def test_state_and_result_are_saved(tmp_path: Path) -> None:
    """Every state is read as written, with the reason of a failure."""
    run = make(tmp_path)
    run.mark("failed", error="the loss is NaN")
    assert (run.state, run.status["error"]) == ("failed", "the loss is NaN")
    run.mark("finished")
    run.write_result({"metrics": {"a": 0.5}})
    assert (run.state, run.status["error"], run.result()) == ("finished", None, {"metrics": {"a": 0.5}})


def test_run_of_a_killed_process_has_state_killed(tmp_path: Path) -> None:
    """SIGKILL leaves "running" in the file, but `state` is "killed"."""
    run = RunFolder(tmp_path / in_dead_process(tmp_path))
    assert run.status["state"] == "running"
    assert run.state == "killed"


def test_reused_process_number_is_another_process() -> None:
    """A process with the same number that started at another time, or in another boot, is not the same."""
    this_process = identify_process()
    assert process_state(this_process) == "alive"
    assert process_state(this_process | {"started": "1"}) == "gone"
    assert process_state(this_process | {"boot": "before"}) == "gone"
    assert process_state(this_process | {"boot": "x", "host": "elsewhere"}) == "unknown"


def test_old_run_of_another_machine_has_state_killed(tmp_path: Path) -> None:
    """Processes of another machine cannot be checked, so the age of the status file decides."""
    run = make(tmp_path)
    status = run.status
    status["process"] |= {"host": "elsewhere", "boot": "other"}
    (run.path / "status.json").write_text(json.dumps(status))
    assert run.state == "running"
    os.utime(run.path / "status.json", (1e9, 1e9))
    assert run.state == "killed"


def test_unknown_run_suggests_the_nearest_id(tmp_path: Path) -> None:
    """The error has the nearest id, the recent runs and the folder that was searched."""
    run = make(tmp_path, name="digits")
    with pytest.raises(RunError, match=f"Did you mean '{run.run_id}'") as caught:
        find(run.run_id[:-1] + "_", root=tmp_path)
    assert f"{run.run_id} (digits)" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(RunError, match="Recent runs: none"):
        find("x", root=tmp_path / "empty")
    for bad_id in ("", ".", "..", f"../{tmp_path.name}/{run.run_id}"):
        with pytest.raises(RunError, match="no run"):
            find(bad_id, root=tmp_path)


def test_runs_are_found_by_recipe_and_state(tmp_path: Path) -> None:
    """Finished, failed and killed runs are found by their recipe; a running run is neither finished nor unfinished."""
    finished, failed, _running = make(tmp_path, sha="a"), make(tmp_path, sha="b"), make(tmp_path, sha="c")
    finished.mark("finished")
    failed.mark("failed", error="disk full")
    killed = in_dead_process(tmp_path)
    assert finished_with("a", root=tmp_path) == finished
    assert unfinished_with("a", root=tmp_path) is None
    assert finished_with("b", root=tmp_path) is None
    assert unfinished_with("b", root=tmp_path) == failed
    assert (finished_with("c", root=tmp_path), unfinished_with("c", root=tmp_path)) == (None, None)
    assert unfinished_with("dead", root=tmp_path) == RunFolder(tmp_path / killed)


def test_resumable_run_has_a_checkpoint(tmp_path: Path) -> None:
    """Also when a newer run was killed before its first checkpoint."""
    assert resumable_with("a", root=tmp_path) is None
    older, newer = make(tmp_path, sha="a"), make(tmp_path, sha="a")
    for run in (older, newer):
        run.mark("killed")
    assert resumable_with("a", root=tmp_path) is None
    (older.checkpoints / "last.ckpt").write_bytes(b"")
    assert unfinished_with("a", root=tmp_path) == newer
    assert resumable_with("a", root=tmp_path) == older


def test_runs_are_listed_newest_first_despite_broken_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Other folders are ignored; a run with an incomplete status file is named in a warning."""
    runs = [make(tmp_path) for _ in range(3)]
    sweep = RunFolder.create("", recipe_sha256="", name="s", kind="sweep", root=tmp_path)
    (tmp_path / "downloads").mkdir()
    (runs[1].path / "status.json").write_text("{")
    assert list_runs(root=tmp_path) == [runs[2], runs[0]]
    assert str(runs[1].path) in caplog.text
    assert list_runs(kind="sweep", root=tmp_path) == [sweep]


@pytest.mark.parametrize("created", ["1" + "0" * 400, "1e999", "NaN", "true", "-5", '"yesterday"'])
def test_run_with_an_invalid_time_is_broken(tmp_path: Path, created: str) -> None:
    """JSON allows integers that no float can hold; such a run does not hide the others."""
    valid, broken = make(tmp_path), make(tmp_path)
    status = broken.path / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"created": "?"}).replace('"?"', created))
    assert list_runs(root=tmp_path) == [valid]
    assert "created" in scan_runs(tmp_path)[1][broken.run_id]


def test_pipe_in_place_of_a_recipe_is_not_read(tmp_path: Path) -> None:
    """Reading a pipe would block for ever."""
    run = make(tmp_path)
    run.recipe.unlink()
    os.mkfifo(run.recipe)
    assert run.recipe_text() == ""


def test_root_is_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$BASEREWARD_RUNS, otherwise `runs` in the working directory; a later change of directory has no effect."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BASEREWARD_RUNS", raising=False)
    assert make(None).path.parent == tmp_path / "runs"  # type: ignore[arg-type]
    monkeypatch.setenv("BASEREWARD_RUNS", "elsewhere")
    run = make(None)  # type: ignore[arg-type]
    assert run.path.parent == tmp_path / "elsewhere"
    monkeypatch.chdir("/")
    assert run.state == "running"


def test_resolve_model_accepts_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run id, runs:/ID, runs:/ID/model, the run folder and the model folder give the same path."""
    monkeypatch.chdir(tmp_path)
    run = make(tmp_path / "runs")
    with pytest.raises(ModelError, match="no folder 'model'"):
        resolve_model(run.run_id, root=tmp_path / "runs")
    run.model.mkdir()
    for name in (run.run_id, f"runs:/{run.run_id}", f"runs:/{run.run_id}/model", str(run.path), str(run.model)):
        assert resolve_model(name, root=tmp_path / "runs") == run.model, name
    assert resolve_model(f"runs/{run.run_id}/model") == run.model


def test_resolve_model_of_an_unknown_name_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing path is a `ModelError`, an unknown id a `RunError`; no database is created."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ModelError, match="no folder"):
        resolve_model("models/none")
    with pytest.raises(RunError, match="no run 'none'"):
        resolve_model("runs:/none")
    assert list(tmp_path.iterdir()) == []


def test_write_atomic_replaces_whole_files(tmp_path: Path) -> None:
    """Text and bytes replace the old content; no other file is left in the folder."""
    file = tmp_path / "a"
    write_atomic(file, "old")
    write_atomic(file, b"\x00new")
    assert file.read_bytes() == b"\x00new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_write_atomic_on_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    """A limit on the file size stands for a full disk: the old content stays, and no temporary file is left."""
    file = tmp_path / "a"
    write_atomic(file, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(OSError, match="File too large"):
            write_atomic(file, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
