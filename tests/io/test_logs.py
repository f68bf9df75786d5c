"""Who is heard on standard error while a command works."""

from __future__ import annotations

import logging

import pytest

from basereward.io.logs import log_to_stderr


def test_our_progress_is_shown_once_and_that_of_others_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a library does to the root logger; what is below the level is left out."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler()])
    with log_to_stderr():
        logging.getLogger("basereward.sweeps.sweep").info("cell 1 of 3")
        logging.getLogger("basereward.sweeps.sweep").debug("a detail")
        logging.getLogger("other").info("chatter")
        logging.getLogger("other").warning("a warning")
    printed = capsys.readouterr()
    assert printed.err == "cell 1 of 3\na warning\n"
    assert printed.out == ""


def test_a_command_that_only_answers_shows_warnings_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """The level is the caller's."""
    with log_to_stderr(logging.WARNING):
        logging.getLogger("basereward.data").info("12 rows")
        logging.getLogger("basereward.data").warning("2 rows are lost")
    assert capsys.readouterr().err == "2 rows are lost\n"


def test_loggers_are_left_as_they_were() -> None:
    """A program that calls the command's function keeps its own set-up, also after an error."""
    ours = logging.getLogger("basereward")
    before = ours.level, ours.propagate, list(ours.handlers)
    with pytest.raises(ZeroDivisionError), log_to_stderr():
        raise ZeroDivisionError
    assert (ours.level, ours.propagate, ours.handlers) == before
