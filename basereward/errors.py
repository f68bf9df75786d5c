"""Every error that the project raises on purpose, and the sentence it is made of.

BaseRewardError
├── RecipeError          a recipe, an override or a name in one is wrong; holds the list of all faults
├── DataError            a row, a file or an image cannot be used
│   └── TooManyRowsLost  more rows were lost than `data.max_lost` allows
├── ModelError           a folder is not a model, or its weights do not fit
│   └── SilentError      an endpoint answers nothing, or refuses all that it is asked
├── TrainingError        training cannot go on
│   ├── NotFiniteError   a loss or a gradient is NaN or infinite
│   └── CheckpointError  a checkpoint cannot be written or read
└── RunError             a run is not there, or cannot be continued

All of them mean a user's mistake or a fault of the user's machine: the command line prints the message, without a
traceback, and exits with 2. Slips of our own are `assert`s and keep their traceback.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Set


class BaseRewardError(Exception):
    """Root of the project's errors; catch it to catch them all."""


class RecipeError(BaseRewardError, ValueError):
    """A recipe is wrong. `faults` lists every fault found, not only the first."""

    def __init__(self, message: str, faults: Iterable[object] = ()) -> None:
        super().__init__(message)
        self.faults = list(faults)


class DataError(BaseRewardError, ValueError):
    """A row, a file or an image cannot be used."""


class TooManyRowsLost(DataError):
    """More rows were lost than `data.max_lost` allows."""


class ModelError(BaseRewardError, ValueError):
    """A folder is not a model, or its weights do not fit the recipe."""


class SilentError(ModelError):
    """An endpoint has answered nothing for long, or refuses all that it is asked."""


class TrainingError(BaseRewardError, RuntimeError):
    """Training cannot go on."""


class NotFiniteError(TrainingError):
    """A loss or a gradient is NaN or infinite."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be written or read."""


class RunError(BaseRewardError, LookupError):
    """A run is not there, or cannot be continued."""


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """The allowed name most like the given one, or None when nothing is close. Capitals and small letters are alike.

    >>> nearest("weigth_decay", ["weight_decay", "lr"])
    'weight_decay'
    >>> nearest("MPL", ["linear", "mlp"]), nearest("rl", ["lr", "eps"]), nearest("x", ["lr", "eps"])
    ('mlp', 'lr', None)
    """
    best, name = max(((_likeness(given.casefold(), name.casefold()), name) for name in allowed), default=(0.0, ""))
    return name if best >= 0.6 else None


def _likeness(given: str, name: str) -> float:
    """From 0 to 1. Two letters that changed places halve the likeness of a short name, so they are looked at apart."""
    likeness = difflib.SequenceMatcher(None, given, name).ratio()
    swapped = len(given) == len(name) and any(
        given[:i] + given[i : i + 2][::-1] + given[i + 2 :] == name for i in range(len(given) - 1)
    )
    return max(likeness, 0.9) if swapped else likeness


def unknown(kind: str, given: str, allowed: Iterable[str]) -> str:
    """The sentence for a name that does not exist: what, given, the nearest right one, allowed.

    >>> unknown("head", "mpl", ["linear", "mlp"])
    "unknown head 'mpl'; did you mean 'mlp'? Allowed: linear, mlp."
    """
    names = sorted(allowed)
    close = nearest(given, names)
    hint = f"; did you mean '{close}'?" if close else "."
    return f"unknown {kind} '{given}'{hint} Allowed: {', '.join(names) or 'none'}."


def check_several(given: object, *, name: str, of: str, error: type[BaseRewardError] = DataError) -> None:
    """Checks that an argument is several values, and not one text, whose letters would be taken for them.

    Args:
        given: what a caller passed; any iterable with an order is right.
        name: of the argument.
        of: what it holds, in the plural.
        error: the type of error to raise.

    Raises:
        BaseRewardError: of type `error`; it is a single value, or has no order.

    >>> check_several("a cat", name="responses", of="texts")
    Traceback (most recent call last):
        ...
    basereward.errors.DataError: responses is one str; a list of texts is needed: responses=[...]
    """
    kind = type(given).__name__
    if isinstance(given, str | bytes | bytearray | os.PathLike) or not isinstance(given, Iterable):
        raise error(f"{name} is one {kind}; a list of {of} is needed: {name}=[...]")
    if isinstance(given, Mapping | Set):
        raise error(f"{name} is a {kind}, which has no order of {of}; a list is needed: {name}=[...]")


def explain(error: BaseException) -> str:
    """The message of an error and what was noted on its way up, such as the run that it ended.

    >>> error = DataError("pairs.jsonl:3: not JSON")
    >>> error.add_note("The run is r1.")
    >>> explain(error)
    'pairs.jsonl:3: not JSON\\nThe run is r1.'
    """
    return "\n".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])


def format_count(number: int, noun: str) -> str:
    """A number with its noun, for messages and tables.

    >>> format_count(1, "cell"), format_count(7, "cell")
    ('1 cell', '7 cells')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
