"""Test that no command overwrites its inputs, whatever paths name the input and the output."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from basereward.cli import main
from basereward.errors import BaseRewardError, DataError
from basereward.evaluation.benchmark import load_benchmark
from basereward.evaluation.reports.evaluation_report import report
from basereward.evaluation.reports.viewer import look
from basereward.recipe import Recipe, recipe_sha256, recipe_yaml
from basereward.runs.run_folder import RunFolder
from tests.evaluation.annotation.test_annotate import better, read, run, says, write_rows
from tests.helpers.benchmark_rows import ANY_SIZE, small_benchmark, write_outcomes
from tests.helpers.chat_servers import serving
from tests.helpers.evaluation_folders import write_folder

ROOT = Path(__file__).parents[2]


def content(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files of a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def same(source: Path) -> Path:
    """Return the path itself."""
    return source


def relative(source: Path) -> Path:
    """Return a path to the file with `..` in it."""
    (source.parent / "sub").mkdir()
    return source.parent / "sub" / ".." / source.name


def symbolic(source: Path) -> Path:
    """Return a symbolic link to the file."""
    link = source.parent / "link.jsonl"
    link.symlink_to(source)
    return link


def hard(source: Path) -> Path:
    """Return a hard link to the file."""
    os.link(source, source.parent / "hard.jsonl")
    return source.parent / "hard.jsonl"


def behind_answers(source: Path) -> Path:
    """Return an output whose file of answers would be the source."""
    os.link(source, source.parent / "told.answers.jsonl")
    return source.parent / "told.jsonl"


def behind_disagreed(source: Path) -> Path:
    """Return an output whose file of disagreeing pairs would be the source."""
    os.link(source, source.parent / "told.disagreed.jsonl")
    return source.parent / "told.jsonl"


def a_picture(source: Path) -> Path:
    """Return a picture that a row refers to."""
    return source.parent / "3.png"


WAYS = [same, relative, symbolic, hard, behind_answers, behind_disagreed, a_picture]


@pytest.mark.parametrize("make_output", WAYS)
def test_annotate_does_not_overwrite_its_source(make_output: Callable[[Path], Path], tmp_path: Path) -> None:
    """The call is refused before any request, and every file is unchanged."""
    source = write_rows(tmp_path, images=True)
    out = make_output(source)
    before = content(tmp_path)
    with serving(lambda body, number: says(better(body))) as server:
        with pytest.raises(DataError, match="would overwrite the input"):
            run(source, server.url, out)
        assert not server.asked
    assert content(tmp_path) == before


def test_annotate_does_not_overwrite_its_prompt(tmp_path: Path) -> None:
    """The prompt file is an input too."""
    source, prompt = write_rows(tmp_path), tmp_path / "prompt.txt"
    prompt.write_text("{question} Answer 1: {answer_1} Answer 2: {answer_2} Which?")
    before = content(tmp_path)
    with pytest.raises(DataError, match="would overwrite the input"):
        run(source, "http://localhost:1/v1", prompt, prompt_file=str(prompt))
    assert content(tmp_path) == before


def test_annotate_does_not_overwrite_its_judge(tmp_path: Path) -> None:
    """The files of a local model are inputs."""
    (tmp_path / "judge").mkdir()
    config = tmp_path / "judge" / "config.json"
    config.write_text("{}")
    source = write_rows(tmp_path)
    with pytest.raises(DataError, match="would overwrite the input"):
        run(source, "local", config, model=str(tmp_path / "judge"))
    assert config.read_text() == "{}"


def test_look_does_not_overwrite_a_picture_or_its_model(tmp_path: Path) -> None:
    """The pictures of rows and the files of the model are inputs, like the file of the rows."""
    source = write_rows(tmp_path, images=True)
    (tmp_path / "model").mkdir()
    weights = tmp_path / "model" / "head.safetensors"
    weights.write_bytes(b"weights")
    before = content(tmp_path)
    for out in (source, a_picture(source), weights):
        with pytest.raises(BaseRewardError):
            look(str(source), model=str(tmp_path / "model") if out == weights else None, out=str(out))
    assert content(tmp_path) == before


def test_annotate_does_not_write_into_its_source_folder(tmp_path: Path) -> None:
    """The next call would read a new file in the folder as rows. An output beside the folder is allowed."""
    rows = tmp_path / "rows"
    rows.mkdir()
    write_rows(rows)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"_target_: hub\npath: {rows}\nval: 0.0\ntest: 0.0\n")
    with serving(lambda body, number: says(better(body))) as server:
        for out in ("told.jsonl", "sub/told.jsonl"):
            (rows / "sub").mkdir(exist_ok=True)
            with pytest.raises(DataError, match="input folder"):
                run(recipe, server.url, rows / out, overrides=[])
        with pytest.raises(DataError, match="would overwrite"):
            run(recipe, server.url, recipe, overrides=[])
        assert not server.asked
        run(recipe, server.url, tmp_path / "told.jsonl", overrides=[])
    assert len(read(tmp_path / "told.jsonl")) == 12


@pytest.mark.parametrize("out", ["taken", ".", ".."])
def test_annotate_refuses_a_folder_as_output_before_any_request(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes before the first request."""
    (tmp_path / "taken").mkdir()
    monkeypatch.chdir(tmp_path)
    with serving(lambda body, number: says(better(body))) as server:
        with pytest.raises(DataError, match="is a folder"):
            run(write_rows(tmp_path), server.url, Path(out))
        assert not server.asked


@pytest.mark.parametrize("out", ["rows.jsonl", "./rows.jsonl", "link.jsonl", "0.png", "model/reward_model.json"])
def test_score_does_not_overwrite_its_inputs(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The inputs are rows, pictures and the model. Exit code 2 before the model is opened, and every file is
    unchanged."""
    write_rows(tmp_path, count=2, images=True).rename(tmp_path / "rows.jsonl")
    (tmp_path / "link.jsonl").symlink_to("rows.jsonl")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "reward_model.json").write_text("{}")
    before = content(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["score", "./model", "rows.jsonl", "--out", out]) == 2
    assert "would overwrite the input" in capsys.readouterr().err
    assert content(tmp_path) == before


RUN_PLACES = ["recipe.yaml", "status.json", "result.json", "scores/test.jsonl", "scores/new.jsonl"]
RUN_PLACES += ["outbox/journal.jsonl", "checkpoints/last.ckpt", "model/reward_model.json", "model/new.jsonl"]


def run_to_read() -> RunFolder:
    """Return the folder of a run that has every kind of file; none of them is opened in these tests."""
    run = RunFolder.create(recipe_yaml(Recipe()), recipe_sha256=recipe_sha256(Recipe()), name="mine")
    for place in RUN_PLACES:
        (run.path / place).parent.mkdir(exist_ok=True)
        if not (run.path / place).exists() and "new" not in place:
            (run.path / place).write_text("{}")
    return run


@pytest.mark.parametrize("place", RUN_PLACES)
@pytest.mark.parametrize("command", ["score", "convert", "look"])
def test_no_command_writes_over_a_file_of_a_run(
    command: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its own path and by a symbolic link, exit code 2 before the model is opened, and every file is unchanged. A
    new file in a folder of the run would be taken for one of the run's own."""
    rows, run = write_rows(tmp_path), run_to_read()
    (tmp_path / "link").symlink_to(run.path)
    before = content(run.path)
    arguments = {"score": [run.run_id, str(rows)], "convert": [str(rows)], "look": [str(rows), "--model", run.run_id]}
    for folder in (run.path, tmp_path / "link"):
        assert main([command, *arguments[command], "--out", str(folder / place)]) == 2
        message = capsys.readouterr().err
        assert f"a file of the run '{run.run_id}'" in message
        assert place.split("/")[0] in message
    assert content(run.path) == before


@pytest.mark.parametrize("out", ["model", "scores", "."])
def test_eval_does_not_write_into_a_folder_of_its_run(
    out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when the name of the benchmark leads there. The model's folder of no run is protected as well."""
    run = run_to_read()
    name = "model.jsonl" if out == "." else "mine.jsonl"
    (tmp_path / name).write_text(json.dumps({"prompt": "?", "chosen": "a", "rejected": "b"}) + "\n")
    before = content(run.path)
    data = ["--data", str(tmp_path / name), *(["--name", "x"] if out == "." else [])]
    folder = run.path / out
    if out == ".":
        # The benchmark of a file has the name pairs-NAME, so the link gives it the name of the folder.
        (tmp_path / "pairs-model").symlink_to(run.model)
        folder = tmp_path
    assert main(["eval", run.run_id, *data, "--out", str(folder)]) == 2
    assert "a file of the run" in capsys.readouterr().err
    assert content(run.path) == before


@pytest.mark.parametrize("command", ["score", "eval", "look"])
def test_nothing_is_added_to_the_folder_of_a_model(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy of a model without its run would no longer be replaced by `save`, which rejects files of others."""
    rows, model = write_rows(tmp_path), tmp_path / "model"
    model.mkdir()
    (model / "reward_model.json").write_text("{}")
    before = content(model)
    arguments = {
        "score": [str(model), str(rows), "--out", str(model / "new.jsonl")],
        "eval": [str(model), "--data", str(rows), "--out", str(model)],
        "look": [str(rows), "--model", str(model), "--out", str(model / "new.html")],
    }
    assert main([command, *arguments[command]]) == 2
    assert "lies in the input folder" in capsys.readouterr().err
    assert content(model) == before


def test_report_of_an_experiment_is_not_written_into_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    """One page, and the pages of all experiments."""
    run = run_to_read()
    before = content(run.path)
    for arguments in (["head_depth", "--out", str(run.model / "page.html")], ["all", "--out", str(run.scores)]):
        assert main(["report", *arguments]) == 2
        assert "a file of the run" in capsys.readouterr().err
    assert content(run.path) == before


def test_report_does_not_overwrite_its_evaluations(tmp_path: Path) -> None:
    """The figures go to the folder with the page's name, which here is the folder of the evaluation."""
    folder = write_folder(tmp_path / "mine", [True, False, True])
    before = content(tmp_path)
    with pytest.raises(DataError, match="would overwrite the input"):
        report([folder], out=str(tmp_path / "mine.html"))
    assert content(tmp_path) == before
    assert json.loads((tmp_path / "mine" / "evaluation.json").read_text())["name"] == "mine"


@pytest.mark.parametrize("name", ["scores.jsonl", "items.jsonl", "partial.jsonl", "evaluation.json"])
@pytest.mark.parametrize("role", ["scores", "data", "own", "folder"])
def test_eval_does_not_overwrite_its_inputs(
    role: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Outcomes, benchmark rows or own pairs are where the evaluation would be written, also as files of a given folder.
    Exit code 2, and every file is unchanged."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
    rows = small_benchmark(tmp_path / "data")
    out = tmp_path / "out" / ("pairs-mine" if role == "own" else "vl_rewardbench")
    out.mkdir(parents=True)
    arguments = ["longer", "--benchmark", "vl_rewardbench", "data=data/rows.json", *ANY_SIZE]
    if role == "scores":
        items = load_benchmark("vl_rewardbench", overrides=["data=data/rows.json"]).items
        file = write_outcomes(out / name, items, scores=[[1.0, 0.0]] * 12)
        arguments = ["--scores", str(file), *arguments[1:]]
    elif role == "own":
        pair = {"prompt": "?", "chosen": "a", "rejected": "b"}
        (tmp_path / "mine.jsonl").write_text(json.dumps(pair) + "\n")
        (out / name).symlink_to(tmp_path / "mine.jsonl")
        arguments = ["longer", "--data", "mine.jsonl"]
    else:
        lines = [json.dumps(row) for row in json.loads(rows.read_text())]
        (out / name).write_text("\n".join(lines) + "\n")
        (tmp_path / "link").symlink_to(out)
        overrides = ["data=link", f"files=[{name}]"] if role == "folder" else [f"data=out/vl_rewardbench/{name}"]
        arguments = [*arguments[:3], *overrides, "split=train", *ANY_SIZE]
    before = content(tmp_path)
    assert main(["eval", *arguments, "--out", "out", "--name", "x"]) == 2
    assert "would overwrite the input" in capsys.readouterr().err
    assert content(tmp_path) == before
