"""Run folders tell the truth about their runs, whatever became of the processes."""

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
    broken_runs,
    find,
    finished_with,
    list_runs,
    resumable_with,
    unfinished_with,
)


def make(root: Path, *, sha: str = "0", name: str = "cell") -> RunFolder:
    """A new run folder under `root`."""
    return RunFolder.create("name: cell\n", recipe_sha256=sha, name=name, root=root)


def in_dead_process(root: Path) -> str:
    """Make a run in a process that is then killed with SIGKILL; the id of the run."""
    program = f"""
import sys, time
from pathlib import Path
from basereward.runs.run_folder import RunFolder
run = RunFolder.create("name: x", recipe_sha256="dead", name="dead", root=Path({str(root)!r}))
print(run.run_id, flush=True)
time.sleep(60)
"""
    ours = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=ours) as process:
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        assert RunFolder(root / run_id).state == "running"
        process.send_signal(signal.SIGKILL)
        process.wait()
    return run_id


def test_a_new_run_is_running_and_holds_its_recipe(tmp_path: Path) -> None:
    """The folder has the recipe, the facts and the places for what will come, and is found again by its id."""
    run = make(tmp_path, sha="abc", name="head=2_silu,seed=1")
    assert run.recipe.read_text() == "name: cell\n"
    assert (run.state, run.name, run.status["recipe_sha256"]) == ("running", "head=2_silu,seed=1", "abc")
    assert run.checkpoints.is_dir()
    assert run.scores.is_dir()
    assert run.result() is None
    assert run.mlflow_run_id is None
    assert find(run.run_id, root=tmp_path) == run
    assert [path.name for path in tmp_path.iterdir()] == [run.run_id]


def test_a_state_and_a_result_are_kept(tmp_path: Path) -> None:
    """Every state that is written is read again, with the reason of a failure."""
    run = make(tmp_path)
    run.mark("failed", error="the loss is NaN")
    assert (run.state, run.status["error"]) == ("failed", "the loss is NaN")
    run.mark("finished")
    run.write_result({"metrics": {"a": 0.5}})
    assert (run.state, run.status["error"], run.result()) == ("finished", None, {"metrics": {"a": 0.5}})


def test_a_running_run_whose_process_was_killed_is_killed(tmp_path: Path) -> None:
    """SIGKILL leaves 'running' in the file; the state is 'killed' none the less."""
    run = RunFolder(tmp_path / in_dead_process(tmp_path))
    assert run.status["state"] == "running"
    assert run.state == "killed"


def test_a_process_number_that_was_given_away_does_not_count() -> None:
    """Another process with the same number started at another time, or in another boot, is another process."""
    me = identify_process()
    assert process_state(me) == "alive"
    assert process_state(me | {"started": "1"}) == "gone"
    assert process_state(me | {"boot": "before"}) == "gone"
    assert process_state(me | {"boot": "x", "host": "elsewhere"}) == "unknown"


def test_a_run_of_another_machine_is_killed_when_it_is_silent(tmp_path: Path) -> None:
    """Nothing is known of another machine's processes, so a folder untouched for long decides."""
    run = make(tmp_path)
    status = run.status
    status["process"] |= {"host": "elsewhere", "boot": "other"}
    (run.path / "status.json").write_text(json.dumps(status))
    assert run.state == "running"
    os.utime(run.path / "status.json", (1e9, 1e9))
    assert run.state == "killed"


def test_an_unknown_run_is_answered_with_the_nearest_id(tmp_path: Path) -> None:
    """The error names the id that was meant, the recent runs and where it looked."""
    run = make(tmp_path, name="digits")
    with pytest.raises(RunError, match=f"Did you mean '{run.run_id}'") as caught:
        find(run.run_id[:-1] + "_", root=tmp_path)
    assert f"{run.run_id} (digits)" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(RunError, match="Recent runs: none"):
        find("x", root=tmp_path / "empty")
    for nonsense in ("", ".", "..", f"../{tmp_path.name}/{run.run_id}"):
        with pytest.raises(RunError, match="no run"):
            find(nonsense, root=tmp_path)


def test_a_sweep_finds_what_is_finished_and_what_is_not(tmp_path: Path) -> None:
    """Finished, failed and killed runs are found by their recipe; a run that is running is neither."""
    done, failed, _running = make(tmp_path, sha="a"), make(tmp_path, sha="b"), make(tmp_path, sha="c")
    done.mark("finished")
    failed.mark("failed", error="disk full")
    killed = in_dead_process(tmp_path)
    assert finished_with("a", root=tmp_path) == done
    assert unfinished_with("a", root=tmp_path) is None
    assert finished_with("b", root=tmp_path) is None
    assert unfinished_with("b", root=tmp_path) == failed
    assert (finished_with("c", root=tmp_path), unfinished_with("c", root=tmp_path)) == (None, None)
    assert unfinished_with("dead", root=tmp_path) == RunFolder(tmp_path / killed)


def test_a_sweep_goes_on_with_the_run_that_has_a_checkpoint(tmp_path: Path) -> None:
    """Also when a newer one was killed before its first."""
    assert resumable_with("a", root=tmp_path) is None
    older, newer = make(tmp_path, sha="a"), make(tmp_path, sha="a")
    for run in (older, newer):
        run.mark("killed")
    assert resumable_with("a", root=tmp_path) is None
    (older.checkpoints / "last.ckpt").write_bytes(b"")
    assert unfinished_with("a", root=tmp_path) == newer
    assert resumable_with("a", root=tmp_path) == older


def test_runs_are_listed_newest_first_and_a_broken_folder_does_not_hide_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no run folder is passed over; one with a torn status is named in a warning."""
    runs = [make(tmp_path) for _ in range(3)]
    sweep = RunFolder.create("", recipe_sha256="", name="s", kind="sweep", root=tmp_path)
    (tmp_path / "downloads").mkdir()
    (runs[1].path / "status.json").write_text("{")
    assert list_runs(root=tmp_path) == [runs[2], runs[0]]
    assert str(runs[1].path) in caplog.text
    assert list_runs(kind="sweep", root=tmp_path) == [sweep]


@pytest.mark.parametrize("created", ["1" + "0" * 400, "1e999", "NaN", "true", "-5", '"yesterday"'])
def test_a_run_from_no_time_at_all_is_broken(tmp_path: Path, created: str) -> None:
    """JSON has whole numbers that no float holds; such a folder does not hide the rest either."""
    good, bad = make(tmp_path), make(tmp_path)
    status = bad.path / "status.json"
    status.write_text(json.dumps(json.loads(status.read_text()) | {"created": "?"}).replace('"?"', created))
    assert list_runs(root=tmp_path) == [good]
    assert "created" in broken_runs(root=tmp_path)[bad.run_id]


def test_a_recipe_that_never_ends_is_no_recipe(tmp_path: Path) -> None:
    """A pipe in its place is not waited for."""
    run = make(tmp_path)
    run.recipe.unlink()
    os.mkfifo(run.recipe)
    assert run.recipe_text() == ""


def test_the_root_is_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """$BASEREWARD_RUNS first, else `runs` where the command was given; a later change of folder does not matter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BASEREWARD_RUNS", raising=False)
    assert make(None).path.parent == tmp_path / "runs"  # type: ignore[arg-type]
    monkeypatch.setenv("BASEREWARD_RUNS", "elsewhere")
    run = make(None)  # type: ignore[arg-type]
    assert run.path.parent == tmp_path / "elsewhere"
    monkeypatch.chdir("/")
    assert run.state == "running"


def test_locate_takes_every_way_to_name_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's id, runs:/ID, runs:/ID/model, the run's folder and the model's folder lead to the same place."""
    monkeypatch.chdir(tmp_path)
    run = make(tmp_path / "runs")
    with pytest.raises(ModelError, match="no folder 'model'"):
        resolve_model(run.run_id, root=tmp_path / "runs")
    run.model.mkdir()
    for name in (run.run_id, f"runs:/{run.run_id}", f"runs:/{run.run_id}/model", str(run.path), str(run.model)):
        assert resolve_model(name, root=tmp_path / "runs") == run.model, name
    assert resolve_model(f"runs/{run.run_id}/model") == run.model


def test_locate_says_what_is_not_there_and_leaves_no_database_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that is not there is a model's fault, an id that is not there a run's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ModelError, match="no folder"):
        resolve_model("models/none")
    with pytest.raises(RunError, match="no run 'none'"):
        resolve_model("runs:/none")
    assert list(tmp_path.iterdir()) == []


def test_write_atomic_replaces_whole_files(tmp_path: Path) -> None:
    """Text and bytes take the place of what was there; nothing else is left in the folder."""
    file = tmp_path / "a"
    write_atomic(file, "old")
    write_atomic(file, b"\x00new")
    assert file.read_bytes() == b"\x00new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_write_atomic_on_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    """The kernel refuses bytes beyond a limit, as it does on a full disk: the old content stays, no scrap is left."""
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
