"""Test what progress shows: plain lines in logs, one bar on a real terminal, and logs beside both."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from pathlib import Path

import pytest

from basereward.io.logs import log_to_stderr
from basereward.io.progress import announce, labelled, phase, reporting, track, write_line
from basereward.io.progress.displays import LineDisplay, PhaseState, format_seconds
from tests.helpers.terminal import run_in_terminal

ROOT = Path(__file__).resolve().parents[2]


def test_intervals_between_lines_grow() -> None:
    """A work of an hour has some dozens of lines, with longer and longer pauses, and each says where it is."""
    now = [0.0]
    stream = io.StringIO()
    display = LineDisplay(stream, clock=lambda: now[0])
    state = PhaseState("encoding", total=3600, unit="rows", began=0.0)
    display.show(state)
    times = []
    for second in range(1, 3601):
        now[0], state.done = float(second), second
        before = stream.tell()
        display.update(state)
        if stream.tell() > before:
            times.append(second)
    pauses = [after - before for before, after in zip([0, *times], times, strict=False)]
    assert times[0] == 5
    assert pauses == sorted(pauses)
    assert 10 <= len(times) <= 40
    lines = stream.getvalue().splitlines()
    assert lines[0] == "encoding: 0 of 3,600 rows"
    assert lines[1] == "encoding: 5 of 3,600 rows, 0 %, 5 s, about 59 min left"


def test_time_left_leaves_out_what_was_done_before() -> None:
    """A resumed run has no speed until it has done something itself."""
    state = PhaseState("training", total=100, done=60, initial=60)
    assert state.left_s(10.0) is None
    state.done = 70
    assert state.left_s(10.0) == 30.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(59.4, "59 s"), (60, "1 min 0 s"), (3599, "59 min"), (7260, "2 h 1 min")]
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    """Seconds matter in the first minutes only."""
    assert format_seconds(seconds) == text


def test_nested_phases_and_labels_in_lines() -> None:
    """Every begin is one line; an outer phase that goes on is not announced again."""
    stream = io.StringIO()
    with reporting(LineDisplay(stream)), labelled("cell 2 of 7"):
        announce("sweep")
        with phase("training", total=2):
            with phase("loading the model"):
                pass
            assert list(track("ab", "scoring")) == ["a", "b"]
    assert stream.getvalue().splitlines() == [
        "sweep",
        "cell 2 of 7: training",
        "cell 2 of 7: loading the model",
        "cell 2 of 7: scoring: 0 of 2 rows",
    ]


def test_names_cannot_control_a_terminal() -> None:
    """The name of a file may hold an escape sequence."""
    stream = io.StringIO()
    with reporting(LineDisplay(stream)), phase("reading a\x1b[31mb\n"):
        pass
    assert stream.getvalue() == "reading a?[31mb?\n"


def test_phase_of_an_interrupted_owner_is_ended() -> None:
    """The next command of this process begins without it."""
    stream = io.StringIO()
    with reporting(LineDisplay(stream)):
        generator = track(iter("abc"), "reading")
        next(generator)
    assert not write_line("nothing is shown any more")
    generator.close()


def test_nothing_is_shown_outside_of_commands(capfd: pytest.CaptureFixture[str]) -> None:
    """A program that uses the library has its standard error for itself."""
    with phase("loading the model"):
        announce("a line")
    assert capfd.readouterr().err == ""


def test_forked_process_shows_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """The workers of a data loader do the work that their parent shows; their warnings are still printed."""
    with reporting(), log_to_stderr(logging.INFO), phase("loading batches"):
        child = os.fork()
        if child == 0:
            with phase("of the child"):
                logging.getLogger("basereward.test").warning("a warning")
            sys.stderr.flush()
            os._exit(0)
        os.waitpid(child, 0)
    lines = capfd.readouterr().err.splitlines()
    assert lines == ["loading batches", "a warning"]


PROGRAM = """
import logging, time
from basereward.io.logs import log_to_stderr
from basereward.io.progress import phase, reporting
with reporting(), log_to_stderr():
    with phase("loading the model"):
        pass
    with phase("training", total=40) as training:
        for step in range(1, 41):
            time.sleep(0.02)
            training.advance(detail=f"step {step} of 40")
            if step == 20:
                logging.getLogger("basereward").info("step 20: a metric")
print("the end")
"""


def test_bar_on_a_terminal() -> None:
    """One line is drawn again and again, with steps from 1 to the end, a percentage and the time left; a record of a
    log stays above it; nothing of the bar is left at the end."""
    output = run_in_terminal([sys.executable, "-c", PROGRAM], cwd=ROOT).output
    assert re.search(r"training: step \d+ of 40 +\d+%\|.*\| \d\d:\d\d<\d\d:\d\d", output)
    assert "loading the model" in output
    assert "step 0 " not in output
    # What stays of a line is what was written after its last carriage return.
    drawn = [line.rstrip("\r").split("\r")[-1].strip() for line in output.split("\n")]
    assert [line for line in drawn if line] == ["step 20: a metric", "the end"]


def test_lines_in_a_pipe() -> None:
    """The same program prints lines without a control character."""
    result = run_in_terminal([sys.executable, "-c", PROGRAM], cwd=ROOT, errors_to_pipe=True)
    assert result.errors.splitlines() == ["loading the model", "training", "step 20: a metric"]
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", result.errors)
