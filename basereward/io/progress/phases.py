"""Named phases of the work of a process. Code says what it does; the display decides what a user sees of it.

Phases nest: an inner one is shown until it ends, and then the outer one again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from basereward.io.progress.displays import Display, NoDisplay, PhaseState, choose_display, default_display

T = TypeVar("T")


class _Screen:
    """The display of this process, and the phases that are open on it.

    It belongs to the process and not to a thread, because there is one standard error.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        # None outside of a command: the display is chosen when the first phase begins.
        self.chosen: Display | None = None
        self.display: Display = NoDisplay()
        self.phases: list[Phase] = []
        self.label = ""


_SCREEN = _Screen()


def _silence_child() -> None:
    """Show nothing in a forked process, such as that of a data loader: its parent shows the work that both do."""
    # The lock may be held by a thread that does not exist here.
    _SCREEN.lock = threading.RLock()
    _SCREEN.chosen, _SCREEN.display, _SCREEN.phases = NoDisplay(), NoDisplay(), []


os.register_at_fork(after_in_child=_silence_child)


class Phase:
    """A part of the work, from its begin to `end`. `phase` ends it in every case.

    Args:
        name: what is being done, as in `loading the model`.
        total: units of the whole phase; None where it is unknown.
        unit: what is counted, in the plural; empty for mixed work, which is shown as a percentage alone.
        initial: units that were done before.
        detail: where in the phase the work is at the begin, in place of the count.

    >>> with phase("encoding", total=2, unit="rows") as encoding:
    ...     encoding.advance()
    ...     encoding.position
    '1 of 2 rows'
    """

    def __init__(
        self, name: str, *, total: int | None = None, unit: str = "", initial: int = 0, detail: str = ""
    ) -> None:
        self._state = PhaseState(name, total, unit, _SCREEN.label, done=initial, initial=initial, detail=detail)
        with _SCREEN.lock:
            if not _SCREEN.phases:
                _SCREEN.display = _SCREEN.chosen or default_display()
            _SCREEN.phases.append(self)
            _SCREEN.display.show(self._state)

    @property
    def position(self) -> str:
        """Where in the phase the work is, as it is shown."""
        return self._state.position

    def advance(self, count: int = 1, *, detail: str | None = None) -> None:
        """Count units that are done.

        Args:
            count: number of units.
            detail: where in the phase the work is, in place of the count; None: as before.
        """
        self._state.done += count
        if detail is not None:
            self._state.detail = detail
        self._update()

    def expect(self, count: int) -> None:
        """Add units to the total, which was not known at the begin."""
        self._state.total = (self._state.total or 0) + count
        self._update()

    def end(self) -> None:
        """End the phase; later calls do nothing."""
        with _SCREEN.lock:
            if self not in _SCREEN.phases:
                return
            was_shown = self._is_shown()
            _SCREEN.phases.remove(self)
            if not was_shown:
                return
            _SCREEN.display.hide()
            if _SCREEN.phases:
                _SCREEN.display.show(_SCREEN.phases[-1]._state)

    def _update(self) -> None:
        # A thread that is showing something already shows this too, a moment later.
        if _SCREEN.lock.acquire(blocking=False):
            try:
                if self._is_shown():
                    _SCREEN.display.update(self._state)
            finally:
                _SCREEN.lock.release()

    def _is_shown(self) -> bool:
        return bool(_SCREEN.phases) and _SCREEN.phases[-1] is self


def begin(name: str, *, total: int | None = None, unit: str = "", initial: int = 0, detail: str = "") -> Phase:
    """Begin a phase that ends in another function; see `Phase`. Its caller must call `end` in every case.

    >>> begin("asking the judge", total=3, unit="answers").end()
    """
    return Phase(name, total=total, unit=unit, initial=initial, detail=detail)


@contextlib.contextmanager
def phase(name: str, *, total: int | None = None, unit: str = "") -> Iterator[Phase]:
    """A phase that lasts as long as the block; see `Phase`.

    >>> with phase("loading the model"):
    ...     pass
    """
    begun = Phase(name, total=total, unit=unit)
    try:
        yield begun
    finally:
        begun.end()


def track(items: Iterable[T], name: str, *, total: int | None = None, unit: str = "rows") -> Iterator[T]:
    """The same items, counted in a phase that ends with the last one.

    Args:
        items: any iterable.
        name: of the phase.
        total: number of items; None: their length, where they have one.
        unit: what an item is, in the plural.

    >>> sum(track([1, 2, 3], "adding", unit="numbers"))
    6
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with phase(name, total=total, unit=unit) as begun:
        for item in items:
            yield item
            begun.advance()


def announce(text: str) -> None:
    """Print a line that says what begins now, in commands; nothing elsewhere.

    Args:
        text: the line; nothing is printed of an empty one.

    >>> announce("train basereward")
    """
    with _SCREEN.lock:
        if text and _SCREEN.chosen is not None:
            _SCREEN.chosen.line(text)


def write_line(text: str) -> bool:
    """Print a line beside the display, without breaking a bar.

    Returns:
        Whether it was printed. Outside of commands nothing is, and the caller prints it where it prints everything.

    >>> write_line("outside of a command")
    False
    """
    with _SCREEN.lock:
        display = _SCREEN.display if _SCREEN.phases else _SCREEN.chosen
        if display is None or isinstance(display, NoDisplay):
            return False
        display.line(text)
        return True


@contextlib.contextmanager
def reporting(display: Display | None = None) -> Iterator[None]:
    """In the block, phases are shown on standard error: as a bar on a terminal, else as lines.

    Args:
        display: None: one is chosen.

    >>> import sys
    >>> from basereward.io.progress.displays import LineDisplay
    >>> with reporting(LineDisplay(sys.stdout)), phase("reading"):
    ...     pass
    reading
    """
    before = _SCREEN.chosen
    _SCREEN.chosen = display or choose_display()
    try:
        yield
    finally:
        with _SCREEN.lock:
            # Phases whose owner was interrupted: the next line of the terminal is not theirs.
            for open_phase in reversed(_SCREEN.phases[:]):
                open_phase.end()
            _SCREEN.chosen = before


@contextlib.contextmanager
def labelled(label: str) -> Iterator[None]:
    """In the block, the names of new phases follow a label, as in `cell 2 of 7: training`.

    >>> with labelled("cell 2 of 7"), phase("training"):
    ...     pass
    """
    before, _SCREEN.label = _SCREEN.label, label
    try:
        yield
    finally:
        _SCREEN.label = before
