"""Test Ctrl-C and `basereward resume` as a person uses them: on a terminal, with the command that was printed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from basereward.cli import main
from basereward.errors import RunError
from basereward.recipe import load_experiment, load_recipe, recipe_sha256, recipe_yaml
from basereward.recipe.trust import trusting
from basereward.runs.run_folder import RunFolder, list_runs
from basereward.sweeps.launchers.local import Local
from basereward.sweeps.resume import resume
from basereward.sweeps.saved_sweep import load_sweep, save_sweep, sweep_grid
from tests.helpers.forked_command import run_command
from tests.helpers.support import pair_rows, write_rows
from tests.helpers.terminal import run_basereward_in_terminal

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PROFILE = str(ROOT / "tests" / "small.yaml")
SOURCE = ["data.sources.numbers=null", "data.sources.mine.include=sources/jsonl", "data.sources.mine.path=rows.jsonl"]
SEEDS = """\
# Two seeds of one recipe.
include: basereward
seeds: [0, 1]
"""


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a project in a folder, with runs and tracking in their default places."""
    replaced = ("MLFLOW_TRACKING_URI", "BASEREWARD_RUNS", "BASEREWARD_EXPERIMENTS")
    kept = {name: value for name, value in os.environ.items() if name not in replaced}
    paths = {"PYTHONPATH": str(ROOT), "BASEREWARD_CACHE": str(folder / "cache")}
    return {**kept, **paths}


def printed_command(text: str) -> list[str]:
    """Return the words of the last `basereward resume ...` in an output, after `basereward`."""
    commands = re.findall(r"basereward resume [^\r\n]+", text)
    assert commands, text
    return shlex.split(commands[-1])[1:]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with rows and experiments, in which commands are given."""
    folder = tmp_path_factory.mktemp("project") / "project"
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    (folder / "experiments" / "seeds.yaml").write_text(SEEDS)
    write_rows(folder / "rows.jsonl", pair_rows(60))
    return folder


@pytest.fixture(scope="module")
def interrupted(project: Path) -> tuple[str, str, Path]:
    """Type Ctrl-C in one of the first steps. Returns the output, and a copy of the project as it was left."""
    overrides = [*SOURCE, "trainer.steps=40", "trainer.validations=2", "trainer.checkpoint_every=1"]
    result = run_basereward_in_terminal(
        *("train", "basereward", "--profile", PROFILE, *overrides),
        cwd=project,
        environment=environment(project),
        interrupt_when=lambda output: re.search(r"training: step \d+ of 40", output) is not None,
    )
    assert result.code == 130, result.output
    copy = project.with_name("copy")
    shutil.copytree(project, copy)
    return result.output, result.output.split("\n")[0], copy


def test_terminal_shows_the_plan_the_bar_and_how_to_continue(interrupted: tuple[str, str, Path]) -> None:
    """The first line says what begins, the plan says what is trained, one bar goes over the whole run, and the last
    line is the command that continues it."""
    output, first, _ = interrupted
    assert first.startswith("train: ")
    for line in ("trained: ", "device: ", "memory by count: ", "plan: 40 steps", "source mine: "):
        assert re.search(line, output), line
    assert re.search(r"training: step \d+ of 40 +\d+%\|.*\| \d\d:\d\d<\d\d:\d\d", output)
    assert "Traceback" not in output
    last = [line for line in output.replace("\r", "\n").split("\n") if line.strip()][-1]
    assert "basereward resume " in last


def test_printed_command_runs_to_the_end(project: Path, interrupted: tuple[str, str, Path]) -> None:
    """It needs neither profile nor overrides. Its log has no control characters. It cannot be given twice."""
    command = printed_command(interrupted[0])
    completed = run_command(*command, "--json", cwd=project, environment=environment(project))
    assert completed.returncode == 0, completed.stderr
    result = json.loads(completed.stdout)
    assert result["kind"] == "run"
    assert result["run_id"] == command[-1]
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", completed.stderr)
    assert "training: 40 steps in 2 stages" in completed.stderr
    again = run_command(*command, cwd=project, environment=environment(project))
    assert again.returncode == 2
    assert "finished" in again.stderr


def test_moved_project_resumes_from_another_folder(
    interrupted: tuple[str, str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The path of the run is enough: the rows are found from the working folder of the start, or what became of it."""
    _, _, copy = interrupted
    moved = copy.rename(tmp_path / "moved")
    (folder,) = (moved / "runs").glob("2*")
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps({**status, "folder": str(copy)}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASEREWARD_CACHE", str(moved / "cache"))
    assert main(["resume", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run_id"] == folder.name
    assert Path.cwd() == tmp_path
    (listed,) = list_runs(root=moved / "runs")
    assert listed.state == "finished"
    assert listed.seconds is not None


def test_sweep_continues_from_its_folder_alone(tmp_path: Path, project: Path, empty_store: Path) -> None:
    """Ctrl-C in the second cell names the sweep; its command needs no experiment, and skips the finished cell."""
    folder = tmp_path / "sweep"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    shutil.copytree(project / "experiments", folder / "experiments")
    result = run_basereward_in_terminal(
        *("sweep", "seeds", "--profile", PROFILE, "trainer.checkpoint_every=1"),
        cwd=folder,
        environment=environment(folder),
        interrupt_when=lambda output: re.search(r"cell 2 of 2: training: step \d", output) is not None,
    )
    assert result.code == 130, result.output
    assert re.search(r"cell 2 of 2: seed=1; the last, seed=0, scored 0\.\d{4}; about \d.* to the end", result.output)
    sweep = printed_command(result.output)
    assert RunFolder(folder / "runs" / sweep[-1]).status["kind"] == "sweep"
    shutil.rmtree(folder / "experiments")
    completed = run_command(*sweep, "--json", cwd=folder, environment=environment(folder))
    assert completed.returncode == 0, completed.stderr
    resumed = json.loads(completed.stdout)
    assert resumed["sweep_id"] == sweep[-1]
    assert [cell["status"] for cell in resumed["cells"]] == ["skipped", "finished"]


def begun(folder: Path, *, kind: str = "run", trust: bool = False, state: str = "killed") -> RunFolder:
    """Return the folder of a run in a state."""
    with trusting(trust):
        run = RunFolder.create("name: a", recipe_sha256="0", name="a", kind=kind, root=folder)  # type: ignore[arg-type]
    run.mark(state)  # type: ignore[arg-type]
    return run


def test_options_of_the_start_are_asked_for_again(tmp_path: Path) -> None:
    """A run that may execute foreign code does so only when it is allowed again."""
    run = begun(tmp_path, trust=True)
    with pytest.raises(RunError, match=f"basereward resume {re.escape(str(run.path))} --trust"):
        resume(str(run.path))


@pytest.mark.parametrize("state", ["finished", "running"])
@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_what_is_not_stopped_is_refused(kind: str, state: str, tmp_path: Path) -> None:
    """The state is in the message, and the folder is left as it is."""
    run = begun(tmp_path, kind=kind, state=state)
    before = run.status
    with pytest.raises(RunError, match=state):
        resume(str(run.path))
    assert run.status == before


def test_ensemble_and_early_sweep_are_refused(tmp_path: Path) -> None:
    """An ensemble has no steps; a sweep of an earlier version kept no cells."""
    for kind, word in (("ensemble", "basereward ensemble"), ("sweep", "basereward sweep")):
        with pytest.raises(RunError, match=word):
            resume(str(begun(tmp_path, kind=kind).path))


def test_edited_recipe_is_refused(tmp_path: Path) -> None:
    """A run does not go on with another learning rate. With the file as it was, the check passes."""
    recipe = load_recipe("basereward")
    text = recipe_yaml(recipe)
    run = RunFolder.create(text, recipe_sha256=recipe_sha256(recipe), name="a", root=tmp_path)
    run.mark("killed")
    run.recipe.write_text(recipe_yaml(replace(recipe, optimizer=replace(recipe.optimizer, lr=0.5))))
    status = run.status
    with pytest.raises(RunError, match=re.escape(str(run.recipe))):
        resume(str(run.path))
    assert run.status == status
    # Comments and the order of the keys are no part of a recipe.
    run.recipe.write_text("# read by hand\n" + text)
    assert run.read_recipe() == recipe


def test_edited_cells_of_a_sweep_are_refused(tmp_path: Path) -> None:
    """A cell that was edited in the saved sweep would be trained as a cell of the sweep that was started."""
    experiment = load_experiment("head_depth")
    folder = RunFolder.create(sweep_grid(experiment), recipe_sha256="", name="a", kind="sweep", root=tmp_path)
    save_sweep(folder, experiment, Local())
    folder.mark("killed")
    assert load_sweep(folder)[0].cells == experiment.cells
    file = folder.path / "sweep.json"
    cells = json.loads(file.read_text())
    lr = re.compile(r"\blr: [\d.e-]+")
    assert lr.search(cells["cells"][0]["recipe"])
    cells["cells"][0]["recipe"] = lr.sub("lr: 0.5", cells["cells"][0]["recipe"], count=1)
    file.write_text(json.dumps(cells))
    with pytest.raises(RunError, match=re.escape(str(file))):
        resume(str(folder.path))


def test_missing_working_folder_is_named(tmp_path: Path) -> None:
    """Relative paths of the recipe would be looked for in the wrong place."""
    run = begun(tmp_path / "elsewhere")
    status = run.status
    (run.path / "status.json").write_text(json.dumps({**status, "folder": str(tmp_path / "gone")}))
    with pytest.raises(RunError, match="--folder"):
        resume(str(run.path))
