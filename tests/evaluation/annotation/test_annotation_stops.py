"""Test interrupted, killed and concurrent calls of `basereward annotate`: received answers stay and are not requested
again."""

from __future__ import annotations

import signal
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
from tests.helpers.forked_command import ForkedCommand

AT_ONCE = 4
ANSWERED = 20


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_stopped_call_repeats_only_pending_requests(stop: signal.Signals, tmp_path: Path) -> None:
    """Twenty requests are answered and four are pending at the server when the signal comes. The call ends without
    their answers, the twenty answers are on disk, and the next call sends the four and the other sixteen requests.

    A second call with the same output at the same time is refused and sends nothing.
    """
    source, out = write_rows(tmp_path, count=40), tmp_path / "told.jsonl"
    answers = tmp_path / "told.answers.jsonl"
    release = Event()

    def reply(body: dict[str, Any], number: int) -> str:
        if number >= ANSWERED:
            release.wait(60)
        return says(better(body))

    with serving(reply) as server:
        command = ["annotate", source, "val=0.0", "test=0.0", "--model", "judge", "--endpoint", server.url]
        process = ForkedCommand(*command, "--out", out, "--concurrency", AT_ONCE)
        while len(server.asked) < ANSWERED + AT_ONCE:
            assert process.poll() is None, process.communicate()
            release.wait(0.02)
        with pytest.raises(DataError, match="another process"):
            run(source, server.url, out)
        # An answer is written a moment after it has come, and the next request may be sent before that.
        while len(answers.read_text().splitlines()) < 1 + ANSWERED:
            assert process.poll() is None
            release.wait(0.02)
        process.send_signal(stop)
        _, errors = process.communicate()
        assert not release.is_set()
        assert process.returncode == (130 if stop == signal.SIGINT else -9)
        assert len(read(answers)) == 1 + ANSWERED
        if stop == signal.SIGINT:
            assert "told.answers.jsonl" in errors
            assert f"{ANSWERED} answers" in errors
            assert "Traceback" not in errors
        release.set()
        result = run(source, server.url, out, concurrency=AT_ONCE)
        assert (result["agreed"], result["fresh"]) == (40, 20)
        request_counts = Counter(words(body) for body in server.asked)
        assert len(request_counts) == 40
        assert sorted(request_counts.values()) == [1] * 36 + [2] * AT_ONCE


def test_journal_has_one_writer(tmp_path: Path) -> None:
    """This also holds within a process. The lock is released when the journal is closed, or when its file was
    removed."""
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


def test_incomplete_last_line_is_removed(tmp_path: Path) -> None:
    """The next record starts on a line of its own."""
    file = tmp_path / "journal.jsonl"
    file.write_text('{"of": "a"}\n{"n": 1}\n{"n": 2')
    with Journal(file) as journal:
        assert journal.lines == ['{"n": 1}']
        journal.append([{"n": 3}])
    assert file.read_text() == '{"of": "a"}\n{"n": 1}\n{"n": 3}\n'


@pytest.mark.parametrize(
    "line", ['{"id": "1"}', '{"id": "1", "text": 5, "prompt_tokens": 1, "tokens": 1}', '{"id": "1", "text": "a"}', "[]"]
)
def test_line_that_is_no_answer_is_refused(line: str, tmp_path: Path) -> None:
    """The error comes when the file is opened."""
    file = tmp_path / "answers.jsonl"
    file.write_text('{"of": "a"}\n' + line + "\n")
    with pytest.raises(DataError, match="is damaged"):
        Answers(file, header={"of": "a"})
    Journal(file).close()  # the lock is released
