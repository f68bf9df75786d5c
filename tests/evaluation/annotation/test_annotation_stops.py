"""`basereward annotate` interrupted, killed, or started twice: what arrived is kept, and nothing else is asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from basereward.errors import DataError
from basereward.evaluation.judging.answers import Answers
from basereward.io.journal import Journal
from tests.evaluation.annotation.test_annotate import better, read, run, says, write_rows
from tests.helpers.chat_servers import serving, words

AT_ONCE = 4
ANSWERED = 20


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_call_repeats_only_what_was_under_way(stop: signal.Signals, tmp_path: Path) -> None:
    """Twenty requests are answered, and four wait at the server when the signal comes. The call ends while they still
    wait, the twenty are on the disk, and the next call asks the four and the sixteen that were never asked.

    Meanwhile a second call with the same output is refused and asks nothing.
    """
    source, out = write_rows(tmp_path, count=40), tmp_path / "told.jsonl"
    go_on = Event()

    def reply(body: dict[str, Any], number: int) -> str:
        if number >= ANSWERED:
            go_on.wait(60)
        return says(better(body))

    with serving(reply) as server:
        command = [sys.executable, "-m", "basereward", "annotate", str(source), "val=0.0", "test=0.0"]
        command += ["--model", "judge", "--endpoint", server.url, "--out", str(out), "--concurrency", str(AT_ONCE)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while len(server.asked) < ANSWERED + AT_ONCE:
            assert process.poll() is None, process.communicate()
            go_on.wait(0.02)
        with pytest.raises(DataError, match="another process"):
            run(source, server.url, out)
        process.send_signal(stop)
        _, errors = process.communicate()
        assert not go_on.is_set()
        assert process.returncode == (130 if stop == signal.SIGINT else -9)
        assert len(read(tmp_path / "told.answers.jsonl")) == 1 + ANSWERED
        if stop == signal.SIGINT:
            assert "told.answers.jsonl" in errors
            assert f"{ANSWERED} answers" in errors
            assert "Traceback" not in errors
        go_on.set()
        result = run(source, server.url, out, concurrency=AT_ONCE)
        assert (result["agreed"], result["fresh"]) == (40, 20)
        times = Counter(words(body) for body in server.asked)
        assert len(times) == 40
        assert sorted(times.values()) == [1] * 36 + [2] * AT_ONCE


def test_a_journal_is_one_writer_s(tmp_path: Path) -> None:
    """Also within a process; and it is free again when it is closed, or was removed meanwhile."""
    file = tmp_path / "a" / "journal.jsonl"
    with Journal(file) as first:
        first.restart({"of": "a"})
        with pytest.raises(DataError, match="another process"):
            Journal(file)
        file.unlink()
        with Journal(file) as second:  # another file of the same name
            second.restart({"of": "b"})
        first.append([{"lost": 1}])
    with Journal(file) as third:
        assert (third.head, third.lines) == ('{"of": "b"}', [])


def test_a_cut_line_is_taken_off(tmp_path: Path) -> None:
    """And what is added then stands in a line of its own."""
    file = tmp_path / "journal.jsonl"
    file.write_text('{"of": "a"}\n{"n": 1}\n{"n": 2')
    with Journal(file) as journal:
        assert journal.lines == ['{"n": 1}']
        journal.append([{"n": 3}])
    assert file.read_text() == '{"of": "a"}\n{"n": 1}\n{"n": 3}\n'


@pytest.mark.parametrize(
    "line", ['{"id": "1"}', '{"id": "1", "text": 5, "prompt_tokens": 1, "tokens": 1}', '{"id": "1", "text": "a"}', "[]"]
)
def test_a_line_that_is_no_answer_is_told(line: str, tmp_path: Path) -> None:
    """Rather than found when it is counted."""
    file = tmp_path / "answers.jsonl"
    file.write_text('{"of": "a"}\n' + line + "\n")
    with pytest.raises(DataError, match="is damaged"):
        Answers(file, header={"of": "a"})
    Journal(file).close()  # the lock is given back


def test_a_pipe_is_no_journal(tmp_path: Path) -> None:
    """Opening it would wait for a reader."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="FIFO"):
        Journal(tmp_path / "pipe")
