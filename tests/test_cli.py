"""Test the command line: its output on both streams and its exit status."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main, parse
from basereward.cli.commands import COMMANDS
from basereward.cli.commands.sweep import exit_status
from basereward.errors import ModelError
from tests.helpers.forked_command import run_command
from tests.helpers.support import SMALL, console_script, pair_rows, write_rows

ROOT = Path(__file__).parents[1]

TRAINED = {
    "run_id": "r1",
    "model": "runs:/r1/model",
    "metrics": {
        "test/digits/pair_accuracy": 0.98765,
        "test/digits/follows_length": float("nan"),
        "test/digits/pairs": 300,
    },
    "seconds": 61.2,
    "skipped": {"digits": {"too_long": 2}},
}


@pytest.fixture
def _experiments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))


def replace_run(monkeypatch: pytest.MonkeyPatch, command: str, function: Callable[[], dict[str, Any]]) -> None:
    """Replace the work of a command, so that a test sees only what `main` does around it."""
    replaced = dataclasses.replace(COMMANDS[command], run=lambda arguments: (function(), 0))
    monkeypatch.setitem(COMMANDS, command, replaced)


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own from the project's root."""
    command = [sys.executable, "-m", "basereward", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)


def test_help_names_every_command() -> None:
    """What `--help` imports is tested with the first lines of commands, and its time is measured by the benchmarks."""
    assert all(command in run("--help").stdout for command in COMMANDS)


def test_check_prints_the_cells_as_json_and_nothing_else() -> None:
    """The object has the cells with their overrides and no fault."""
    completed = run_command("check", "head_depth", "--json", cwd=ROOT)
    result = json.loads(completed.stdout)
    assert completed.returncode == 0
    assert [cell["name"] for cell in result["cells"]][:2] == ["head=1_none", "head=2_none"]
    assert result["cells"][1]["overrides"] == {"model.head": {"_target_": "mlp", "layers": 2, "activation": "none"}}
    assert result["faults"] == []


def test_check_exits_with_2_and_lists_every_fault() -> None:
    """The faults are text by default and objects with --json."""
    arguments = ("check", "head_depth", "optimizer.lrr=1", "--profile", "tiny", "model.head.bias=3")
    completed = run_command(*arguments, cwd=ROOT)
    assert completed.returncode == 2
    assert "unknown key 'lrr'; did you mean 'lr'?" in completed.stdout
    assert "7 cells, 3 faults" in completed.stdout
    completed = run_command(*arguments, "--json", cwd=ROOT)
    assert completed.returncode == 2
    faults = json.loads(completed.stdout)["faults"]
    assert {"cell", "key", "message"} == set(faults[0])
    assert {fault["cell"] for fault in faults if fault["key"] == "model.head.bias"} == {
        f"head={row}" for row in ("1_none", "2_none", "2_tanh", "2_silu", "3_silu", "4_silu", "5_silu")
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jsn", "check", "x"], "unknown option '--jsn'; did you mean '--json'?"),
        (["checkx", "x"], "unknown command 'checkx'; did you mean 'check'?"),
        ([], "the following arguments are required: COMMAND"),
        (["ls", "head"], "unknown kind 'head'; did you mean 'heads'?"),
        (["ls", "shapes"], "'adapters'"),
        (["ls", "makers"], "'tiny_models'"),
        (["ls"], "the following arguments are required: KIND"),
        (["check", "basereward", "--profle", "tiny"], "unknown option '--profle'; did you mean '--profile'?"),
        (["check", "basereward", "--resume=x"], "unknown option '--resume'"),
        (["score", "model"], "the following arguments are required: FILE"),
        (["score", "model", "file", "a=1"], "unexpected argument 'a=1'"),
        (["score", "model", "file", "--dtyp", "float32"], "unknown option '--dtyp'; did you mean '--dtype'?"),
        (["score", "model", "file", "--dtype", "bfloat"], "unknown dtype 'bfloat'; did you mean 'bfloat16'?"),
        (["score", "model", "file", "--tokens", "0"], "--tokens 0: at least 1 is needed"),
        (["train", "basereward", "a=1", "--profile", "tiny", "b"], "unexpected argument 'b'; a change is KEY=VALUE"),
        (["train", "basereword"], "unknown experiment 'basereword'; did you mean 'basereward'?"),
        (["sweep", "head_depth", "loss.margn=1"], "did you mean 'margin'?"),
        (["eval", "--benchmark", "b", "--judge", "j", "--endpoint", "e", "--votes", "16"], "--votes 16"),
        (["annotate", "s", "--model", "m", "--endpoint", "e", "--out", "o", "--attempts", "0"], "--attempts 0"),
        (["ensemble", "a", "b", "--how", "meen"], "'meen'; did you mean 'mean'?"),
        (["audti", "basereward"], "unknown command 'audti'; did you mean 'audit'?"),
        (["audit"], "the following arguments are required: EXPERIMENT"),
        (["audit", "basereward", "--modle", "m"], "unknown option '--modle'; did you mean '--model'?"),
        (["audit", "basereward", "data.curation.duplicate=true"], "did you mean 'duplicates'?"),
        (["audit", "basereward", "data.curation.against.vl.include=sources/vl_rewardbenc"], "sources/vl_rewardbench"),
        (["train", "head_depth"], "sweep of 7 cells"),
    ],
)
@pytest.mark.usefixtures("_experiments")
def test_invalid_arguments_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 with a message on standard error; with --json standard output has an error object."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
    if arguments and "unknown command" not in message:
        assert main([*arguments, "--json"]) == 2
        error = json.loads(capsys.readouterr().out)["error"]
        assert set(error) == {"type", "message"}
        assert message in error["message"]


def test_overrides_may_be_anywhere() -> None:
    """Overrides before, between and after the options keep their order."""
    arguments = parse(["train", "basereward", "a=1", "--profile", "p", "b=2", "--resume", "r", "c=3"])
    assert (arguments.experiment, arguments.profile, arguments.resume) == ("basereward", "p", "r")
    assert arguments.overrides == ["a=1", "b=2", "c=3"]


def test_json_option_may_precede_or_follow_the_command() -> None:
    """Without the option it is false, although two parsers define it."""
    assert parse(["--json", "ls", "heads"]).json
    assert parse(["ls", "heads", "--json"]).json
    assert not parse(["ls", "heads"]).json


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_in_the_help_can_be_parsed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help of every command shows its examples."""
    with pytest.raises(SystemExit):
        parse([command, "--help"])
    help_text = capsys.readouterr().out
    for example in COMMANDS[command].examples:
        assert example in help_text
        words = shlex.split(example.removeprefix('eval "$(').removesuffix(')"').partition(" > ")[0])
        assert words[:2] == ["basereward", command]
        assert parse(words[1:]).command == command


def test_version_is_that_of_the_package() -> None:
    """It is on standard output, with status 0."""
    completed = run("--version")
    assert completed.returncode == 0
    assert completed.stdout.split() == ["basereward", importlib.metadata.version("basereward")]


def test_quick_check_imports_no_torch() -> None:
    """`check --quick` imports no slow library, although it reads the recipe's data settings."""
    heavy = ("torch", "transformers", "datasets", "mlflow", "pytorch_lightning", "sklearn")
    code = "import sys; from basereward.cli import main; main(['check', 'head_depth', '--quick']); "
    code += f"print({heavy} & sys.modules.keys())"
    completed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert completed.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_prints_a_script_of_the_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The script has the commands and their options."""
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command in script for command in COMMANDS)
    assert "--utilisation" in script


def test_completion_without_shtab_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """shtab is an optional dependency."""
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert "basereward[completion]" in capsys.readouterr().err
    assert main(["completion", "fish"]) == 2
    assert "'fish'" in capsys.readouterr().err


@pytest.mark.usefixtures("ready_store")
@pytest.mark.usefixtures("_experiments")
def test_train_and_score_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Progress goes to standard error, and standard output has only the result as text or as one JSON object."""
    assert main(["train", "basereward", *SMALL, "trainer.steps=2", "trainer.validations=1", "--json"]) == 0
    printed = capsys.readouterr()
    trained = json.loads(printed.out)
    assert set(trained) >= {"run_id", "model", "metrics", "seconds", "skipped"}
    assert 0 <= trained["metrics"]["test/digits/pair_accuracy"] <= 1
    assert "step" in printed.err

    rows, scores = write_rows(tmp_path / "rows.jsonl", pair_rows(2)), tmp_path / "scores.jsonl"
    options = ["--tokens", "512", "--dtype", "bfloat16", "--out", str(scores)]
    assert main(["score", trained["run_id"], str(rows), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("4 responses of 2 rows scored in ")
    assert lines[0].endswith(str(scores))
    assert [len(json.loads(line)["scores"]) for line in scores.read_text().splitlines()] == [2, 2]


def test_train_prints_measures_and_skipped_rows() -> None:
    """An undefined metric is a dash, and a count has no decimals."""
    assert list(COMMANDS["train"].format_text(TRAINED)) == [
        "metric                      value",
        "test/digits/pair_accuracy   0.9877",
        "test/digits/follows_length  -",
        "test/digits/pairs           300",
        "skipped in digits: 2 (too_long)",
        "run r1 took 61 s; its model: runs:/r1/model",
    ]


def test_json_has_null_for_values_that_are_not_finite(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """JSON has no NaN."""
    replace_run(monkeypatch, "train", lambda: TRAINED)
    assert main(["train", "basereward", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["metrics"]
    assert metrics == {
        "test/digits/pair_accuracy": 0.98765,
        "test/digits/follows_length": None,
        "test/digits/pairs": 300,
    }


def test_sweep_with_a_failed_cell_exits_with_1() -> None:
    """The failed cell is named, the others are in the table with their accuracy, and an ensemble with a failed member
    fails."""
    cells: list[dict[str, Any]] = [
        {"name": "head=a", "run_id": "r1", "status": "finished", "metrics": {"test/digits/pair_accuracy": 0.5}},
        {"name": "head=b", "run_id": None, "status": "failed", "metrics": {}, "error": "the loss is NaN"},
    ]
    ensembles: list[dict[str, Any]] = []
    result = {"sweep_id": "s", "cells": cells, "ensembles": ensembles, "differences": ["a beats b"]}
    assert exit_status(result) == 1
    lines = list(COMMANDS["sweep"].format_text(result))
    assert lines[1].split() == ["head=a", "finished", "0.5000", "r1"]
    assert lines[2].split() == ["head=b", "failed", "-", "-"]
    assert "head=b failed: the loss is NaN" in lines
    assert lines[-1] == "1 finished, 1 failed"
    assert "a beats b" in lines
    assert "test/pair_accuracy is the mean over the sources." not in lines
    cells[0]["metrics"] |= {"test/words/pair_accuracy": 0.7, "test/pair_accuracy": 0.6}
    lines = list(COMMANDS["sweep"].format_text(result))
    assert lines[lines.index("a beats b") - 1] == "test/pair_accuracy is the mean over the sources."
    del cells[1]
    assert exit_status(result) == 0
    ensembles.append({"name": "all", "run_id": None, "status": "failed", "metrics": {}, "error": "head=b failed"})
    assert exit_status(result) == 1
    assert "all failed: head=b failed" in list(COMMANDS["sweep"].format_text(result))


AUDITED = {
    "source": "digits",
    "num_groups": 4,
    "num_responses": 9,
    "num_decided": 5,
    "num_ties": 1,
    "images": {0: 1, 1: 3},
    "longer_wins": {"count": 2, "total": 4, "low": 0.15, "high": 0.85},
    "equally_long": 1,
    "prompt_chars": [1.0, 2.0, 3.0, 4.0, 5.0],
    "winner_chars": [float("nan")] * 5,
    "loser_chars": [float("nan")] * 5,
    "repeated": {"count": 0, "total": 4, "low": 0.0, "high": 0.49},
    "languages": {"en": 3, "de": 1},
    "noise": {
        "threshold": 2.0,
        "disagrees": {"count": 1, "total": 5, "low": 0.04, "high": 0.62},
        "strongly": {"count": 0, "total": 5, "low": 0.0, "high": 0.43},
        "bins": [[float("-inf"), 0.0, 1], [0.0, float("inf"), 4]],
    },
    "unscored": 2,
}


def test_audit_shows_the_sources_and_the_curation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text output has tables; in the JSON output values that are not finite are null."""
    row = {"source": "digits", "benchmark": "vl", "rows": 4, "contaminated": 3, "kinds": {"prompt": 2, "image": 3}}
    curation = {
        "left_out": {"digits": {"duplicate": 1, "contaminated": 3}},
        "overlaps": [row],
        "unread": {"digits": 7},
        "relabelled": {"num_preferences": 5, "num_dropped": 2, "num_down_weighted": 1},
    }
    result = {"sources": {"digits": AUDITED}, "lost": {"digits": {"too_long": 2}}, "model": "m", "curation": curation}
    lines = "\n".join(COMMANDS["audit"].format_text(result)).splitlines()
    assert lines[1].split()[:6] == ["digits", "4", "9", "5", "1", "75.0%"]
    assert "50.0% (15.0% to 85.0%)" in lines[1]
    assert lines[1].endswith("en 75%, de 25%")
    assert any("20.0% (4.0% to 62.0%)" in line and line.endswith("4") for line in lines)
    assert "lost in digits: too_long 2" in lines
    assert "2 groups of digits cannot be scored by m" in lines
    assert "curation leaves out of digits: duplicate 1, contaminated 3" in lines
    assert "the judge drops 2 of 5 preferences and weighs 1 down" in lines
    assert "digits  vl         4     3      prompt 2, image 3" in lines
    assert lines[-1] == "7 images of digits could not be compared"
    replace_run(monkeypatch, "audit", lambda: result)
    assert main(["audit", "basereward", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert printed["sources"]["digits"]["winner_chars"] == [None] * 5
    assert printed["sources"]["digits"]["noise"]["bins"] == [[None, 0.0, 1], [0.0, None, 4]]
    assert printed["curation"]["overlaps"] == [row]


def test_score_prints_the_output_path_and_the_speed() -> None:
    """The output has two lines."""
    result = {"rows": 2, "responses": 6, "seconds": 0.5, "responses_per_s": 12.0, "out": "scores.jsonl"}
    result |= {"forwards": 3, "forward_ms": 90.4, "forward_ms_95": 120.6}
    assert list(COMMANDS["score"].format_text(result)) == [
        "6 responses of 2 rows scored in 0.5 s: scores.jsonl",
        "12.0 responses a second; 3 forward passes of 90 ms (median; 95 % took at most 121 ms)",
    ]


def test_own_errors_are_printed_and_others_raised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A BaseRewardError is a message, another exception keeps its traceback, and an interrupt exits with 130."""

    def raising(error: BaseException) -> Callable[[], dict[str, Any]]:
        def work() -> dict[str, Any]:
            raise error

        return work

    replace_run(monkeypatch, "score", raising(ModelError("the folder 'm' is not a model")))
    assert main(["score", "m", "f", "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1] == "basereward: the folder 'm' is not a model"
    assert json.loads(printed.out) == {"error": {"type": "ModelError", "message": "the folder 'm' is not a model"}}
    replace_run(monkeypatch, "score", raising(KeyboardInterrupt()))
    assert main(["score", "m", "f"]) == 130
    replace_run(monkeypatch, "score", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["score", "m", "f"])


@pytest.mark.parametrize(("command", "shown"), [("train", True), ("sweep", True), ("score", False)])
def test_logs_go_to_standard_error(
    command: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard output has only the JSON. Long commands show the project's log of level INFO but not that of other
    libraries; a short command shows none."""

    def work() -> dict[str, Any]:
        logging.getLogger("basereward.training.callbacks.progress").info("step 6, 3 s")
        logging.getLogger("other").info("chatter")
        return {"cells": [], "ensembles": []}

    replace_run(monkeypatch, command, work)
    arguments = ["m", "f"] if command == "score" else ["basereward"]
    assert main([command, *arguments, "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.out == '{"cells": [], "ensembles": []}\n'
    # The first line says what the command does.
    assert printed.err.splitlines()[1:] == (["step 6, 3 s"] if shown else [])


def test_output_of_child_processes_goes_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A child process inherits standard error as its standard output, so standard output has only the JSON."""

    def work() -> dict[str, Any]:
        subprocess.run(["echo", "from a child"], check=True)
        os.write(1, b"from C\n")
        return {"rows": 0}

    replace_run(monkeypatch, "score", work)
    assert main(["score", "m", "f", "--json"]) == 0
    printed = capfd.readouterr()
    assert printed.out == '{"rows": 0}\n'
    assert printed.err.splitlines()[1:] == ["from a child", "from C"]


def test_ls_lists_names_and_summaries(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The output is a table or JSON. A folder without profiles adds none to the package's; a missing folder fails."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
    assert main(["ls", "heads", "--json"]) == 0
    heads = json.loads(capsys.readouterr().out)["heads"]
    assert {"name", "summary"} == set(heads[0])
    assert main(["ls", "heads"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith(f"{heads[0]['name']} ")
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(tmp_path))
    assert main(["ls", "profiles"]) == 0
    assert capsys.readouterr().out.startswith("qwen2_5_vl_3b ")
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(tmp_path / "no_such_folder"))
    for kind in ("experiments", "profiles", "sources", "benchmarks"):
        assert main(["ls", kind]) == 2
        assert str(tmp_path / "no_such_folder") in capsys.readouterr().err
    for kind in ("heads", "losses", "adapters", "tiny_models"):  # these kinds are in the package
        assert main(["ls", kind]) == 0


def test_ls_runs_needs_no_tracking_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs are listed from their folders; without folders the list is empty."""
    monkeypatch.setenv("BASEREWARD_RUNS", str(tmp_path / "runs"))
    assert main(["ls", "runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"runs": []}


def test_closed_pipe_is_no_error() -> None:
    """`basereward ls heads | head -0` prints nothing on standard error."""
    read, write = os.pipe()
    os.close(read)
    completed = subprocess.run(
        [sys.executable, "-m", "basereward", "ls", "heads"],
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert completed.returncode == 141
    assert completed.stderr == ""


def test_trusted_class_in_the_working_folder_is_found(tmp_path: Path) -> None:
    """The dotted path works for every way to start the command."""
    (tmp_path / "my_heads.py").write_text("class Mine:\n    def __init__(self, size, *, depth: int = 1): ...\n")
    completed = console_script(
        tmp_path, *["check", "basereward", "model.head._target_=my_heads.Mine", "model.head.depth=2", "--trust"]
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
