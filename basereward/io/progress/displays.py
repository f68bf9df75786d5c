"""What a user sees of the running phase: nothing, plain lines, or one bar."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

FIRST_LINE_S = 5.0
"""Seconds from the begin of a phase to its first line with a count."""
GROWTH = 1.6
"""Factor between two such times: 5, 8, 13, 20, 33 s and so on, so that a log of a day has some dozens of lines."""
LONGEST_S = 1800.0
"""Most seconds between two lines."""
DRAW_S = 0.1
"""Least seconds between two drawings of the bar. A terminal shows no more, and drawing costs a millisecond."""


@dataclass
class PhaseState:
    """How far a phase is.

    Attributes:
        name: what is being done.
        total: units of the whole phase; None where it is unknown.
        unit: what is counted, in the plural; empty for a total of mixed work, which is shown as a percentage alone.
        label: of the whole work that the phase belongs to, as in `cell 2 of 7`; empty without one.
        done: units that are done.
        initial: units that were done before the phase began, as in a run that is resumed.
        detail: where in the phase the work is, as in `step 40 of 200`; empty: the count.
        began: time of the begin on the monotonic clock.
        announced: whether its begin was printed.

    >>> PhaseState("encoding", total=200, unit="rows", done=50).position
    '50 of 200 rows'
    """

    name: str
    total: int | None = None
    unit: str = ""
    label: str = ""
    done: int = 0
    initial: int = 0
    detail: str = ""
    began: float = field(default_factory=time.monotonic)
    announced: bool = False

    @property
    def title(self) -> str:
        """The label and the name, without characters that control a terminal: names of files may have them."""
        text = f"{self.label}: {self.name}" if self.label else self.name
        return "".join(character if character.isprintable() else "?" for character in text)

    @property
    def position(self) -> str:
        """Where in the phase the work is; empty where nothing is known."""
        if self.detail or not self.unit:
            return self.detail
        if self.total is None:
            return f"{self.done:,} {self.unit}" if self.done else ""
        return f"{self.done:,} of {self.total:,} {self.unit}"

    def left_s(self, elapsed_s: float) -> float | None:
        """Seconds to the end at the mean speed so far; None where that is unknown.

        >>> PhaseState("encoding", total=200, done=50).left_s(10.0)
        30.0
        """
        fresh = self.done - self.initial
        if self.total is None or fresh <= 0:
            return None
        return max(self.total - self.done, 0) * elapsed_s / fresh


class Display(Protocol):
    """Shows the running phase. All members are called with a lock held."""

    def show(self, state: PhaseState) -> None:
        """Show a phase from its begin on, or again after an inner one."""
        ...

    def update(self, state: PhaseState) -> None:
        """Show the progress of the phase, unless the last time was too recent. Called for every unit of work."""
        ...

    def hide(self) -> None:
        """Stop showing a phase."""
        ...

    def line(self, text: str) -> None:
        """Print a line that stays."""
        ...


class NoDisplay:
    """Shows nothing: the phases of a library that somebody else's program calls."""

    def show(self, state: PhaseState) -> None:
        """Do nothing."""

    def update(self, state: PhaseState) -> None:
        """Do nothing."""

    def hide(self) -> None:
        """Do nothing."""

    def line(self, text: str) -> None:
        """Do nothing."""


class LineDisplay:
    """Prints a line at the begin of a phase, and lines with its progress at intervals that grow.

    Args:
        stream: where to, such as a log file; None: the standard error of the moment.
        clock: seconds that never go back.

    >>> now = [0.0]
    >>> display, state = LineDisplay(sys.stdout, clock=lambda: now[0]), PhaseState("encoding", 200, "rows", began=0.0)
    >>> display.show(state)
    encoding: 0 of 200 rows
    >>> now[0], state.done = 6.0, 50
    >>> display.update(state)
    encoding: 50 of 200 rows, 25 %, 6 s, about 18 s left
    """

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._due = 0.0

    def show(self, state: PhaseState) -> None:
        """Print the begin of a phase. One that is shown again, after an inner one, was printed before."""
        now = self._clock()
        if not state.announced:
            state.announced = True
            self.line(_described(state))
        self._due = now + FIRST_LINE_S

    def update(self, state: PhaseState) -> None:
        """Print the progress when the next line is due."""
        now = self._clock()
        if now < self._due:
            return
        elapsed = now - state.began
        self._due = now + min(max(elapsed * (GROWTH - 1), FIRST_LINE_S), LONGEST_S)
        percent = f"{100 * state.done / state.total:.0f} %" if state.total else ""
        left = state.left_s(elapsed)
        ending = "" if left is None else f"about {format_seconds(left)} left"
        parts = ", ".join(filter(None, [state.position, percent, format_seconds(elapsed), ending]))
        self.line(f"{state.title}: {parts}")

    def hide(self) -> None:
        """Do nothing: what was printed stays."""

    def line(self, text: str) -> None:
        """Print a line. A log that cannot be written must not stop the work."""
        stream = self._stream or sys.stderr
        with contextlib.suppress(OSError, ValueError):
            stream.write(f"{text}\n")
            stream.flush()


class BarDisplay:
    """One bar of tqdm, in whose place every phase is shown.

    Args:
        notebook: use the widget of notebooks, where `ipywidgets` is installed.
    """

    def __init__(self, *, notebook: bool = False) -> None:
        self._notebook = notebook
        self._bar: Any = None
        self._drawn = 0.0

    def show(self, state: PhaseState) -> None:
        """Draw the phase in the place of the one before it."""
        self.hide()
        # A total of None draws no bar: how much is left is not known.
        self._bar = self._tqdm()(
            desc=_described(state),
            total=state.total,
            initial=state.initial,
            file=sys.stderr,
            leave=False,
            # Some terminals, such as that of a container, report a width of 0, in which tqdm would draw nothing.
            ncols=None if _terminal_width() else 80,
            dynamic_ncols=_terminal_width() > 0,
            # The mean speed of the whole phase: steps, validations and their pauses alternate.
            smoothing=0,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}" if state.total else "{desc} {elapsed}",
            delay=0,
        )
        # tqdm counts from its own creation, and a phase may be shown again after an inner one.
        self._bar.start_t -= time.monotonic() - state.began
        self._draw(state)

    def update(self, state: PhaseState) -> None:
        """Draw the progress, at most ten times a second."""
        if self._bar is None or time.monotonic() - self._drawn < DRAW_S:
            return
        if bool(self._bar.total) != bool(state.total):
            # Without a total there is no bar to fill, so that the line has another form.
            self.show(state)
        self._bar.total = state.total
        self._draw(state)

    def hide(self) -> None:
        """Remove the bar from the screen."""
        if self._bar is not None:
            # A terminal that is gone must not stop the work.
            with contextlib.suppress(OSError, ValueError):
                self._bar.close()
            self._bar = None

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        with contextlib.suppress(OSError, ValueError):
            if self._bar is None:
                sys.stderr.write(f"{text}\n")
                sys.stderr.flush()
            else:
                self._bar.write(text, file=sys.stderr)

    def _draw(self, state: PhaseState) -> None:
        self._drawn = time.monotonic()
        self._bar.n = state.done
        with contextlib.suppress(OSError, ValueError):
            self._bar.set_description_str(_described(state), refresh=False)
            self._bar.refresh()

    def _tqdm(self) -> Any:
        # Imported here: a command that shows no bar, such as `--help`, does not wait for it.
        if self._notebook:
            with contextlib.suppress(ImportError):
                import ipywidgets  # noqa: F401
                from tqdm.notebook import tqdm as notebook_tqdm

                return notebook_tqdm
        from tqdm import tqdm

        return tqdm


def _described(state: PhaseState) -> str:
    """What is done, and where in it the work is."""
    return ": ".join(filter(None, [state.title, state.position]))


def choose_display() -> Display:
    """The display of a command: a bar on a terminal, else lines.

    >>> type(choose_display()).__name__
    'LineDisplay'
    """
    return BarDisplay() if _is_terminal() else LineDisplay()


def default_display() -> Display:
    """The display outside of a command: a bar in notebooks and on terminals, else nothing.

    >>> type(default_display()).__name__
    'NoDisplay'
    """
    if _in_notebook():
        return BarDisplay(notebook=True)
    return BarDisplay() if _is_terminal() else NoDisplay()


def _is_terminal() -> bool:
    # Closed or replaced streams have no `isatty`, or raise.
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):
        return False


def _terminal_width() -> int:
    """Columns of the terminal of standard error; 0 where they are not known."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return 0


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook. IPython is not imported: a kernel has done so."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel") and threading.current_thread() is threading.main_thread()


def format_seconds(seconds: float) -> str:
    """A time for people.

    >>> format_seconds(7.4), format_seconds(200), format_seconds(3 * 3600 + 125)
    ('7 s', '3 min 20 s', '3 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
