"""Log messages on standard error while a command runs."""

from __future__ import annotations

import logging

import pytest

from basereward.io.logs import log_to_stderr


def test_only_progress_of_the_package_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message is shown once, even if a library adds a handler to the root logger. Debug messages, and progress of
    other loggers, are not shown."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler()])
    with log_to_stderr():
        logging.getLogger("basereward.sweeps.sweep").info("cell 1 of 3")
        logging.getLogger("basereward.sweeps.sweep").debug("a detail")
        logging.getLogger("other").info("chatter")
        logging.getLogger("other").warning("a warning")
    printed = capsys.readouterr()
    assert printed.err == "cell 1 of 3\na warning\n"
    assert printed.out == ""


def test_level_of_the_caller_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    """With the level WARNING, progress is not shown."""
    with log_to_stderr(logging.WARNING):
        logging.getLogger("basereward.data").info("12 rows")
        logging.getLogger("basereward.data").warning("2 rows are lost")
    assert capsys.readouterr().err == "2 rows are lost\n"


def test_loggers_are_restored() -> None:
    """A program that calls the command's function keeps its own logging, also after an error."""
    logger = logging.getLogger("basereward")
    before = logger.level, logger.propagate, list(logger.handlers)
    with pytest.raises(ZeroDivisionError), log_to_stderr():
        raise ZeroDivisionError
    assert (logger.level, logger.propagate, logger.handlers) == before


def test_warning_about_rows_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A source may be read to check it and again to train; other warnings are repeated."""
    with log_to_stderr():
        for _ in range(2):
            logging.getLogger("basereward.data.sources").warning("columns that are not read: %s", "x")
            logging.getLogger("basereward.runs").warning("no answer")
        logging.getLogger("basereward.data.sources").warning("columns that are not read: %s", "y")
    with log_to_stderr():
        logging.getLogger("basereward.data.sources").warning("columns that are not read: %s", "x")
    shown = ["columns that are not read: x", "no answer", "no answer", "columns that are not read: y"]
    assert capsys.readouterr().err.splitlines() == [*shown, "columns that are not read: x"]
