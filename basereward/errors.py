"""The errors that the project raises on purpose, and the helpers that write their messages.

BaseRewardError
├── RecipeError          a recipe, an override or a name in a recipe is wrong; has the list of all faults
├── DataError            a row, a file or an image cannot be used
│   └── TooManyRowsLost  more rows were rejected than `data.max_lost` allows
├── ModelError           a folder is not a model, or its weights do not fit
│   └── SilentError      an endpoint does not answer, or refuses every request
├── TrainingError        training cannot continue
│   ├── NotFiniteError   a loss or a gradient is NaN or infinite
│   ├── CheckpointError  a checkpoint cannot be written or read
│   └── RankError        another process of a run on several devices has failed or was killed
├── RunError             a run does not exist, or cannot be continued
│   └── LostLeaseError   another process has taken over the run; defined in `basereward.io.lease`
├── ClusterError         a cluster cannot be reached, or has not what is asked for
└── UsageError           the command line itself is wrong; defined in `basereward.cli.command`

Each of them is a mistake of the user or a fault of the machine: the command line prints the message without a traceback
and exits with 2. Bugs of this project are `assert`s and other exceptions, and keep their traceback.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Set


class BaseRewardError(Exception):
    """Base class of all errors of this project."""


class RecipeError(BaseRewardError, ValueError):
    """A recipe is wrong.

    Attributes:
        faults: every fault that was found, not only the first.

    >>> RecipeError("2 faults", ["lr: missing", "loss: missing"]).faults
    ['lr: missing', 'loss: missing']
    """

    def __init__(self, message: str, faults: Iterable[object] = ()) -> None:
        super().__init__(message)
        self.faults = list(faults)


class DataError(BaseRewardError, ValueError):
    """A row, a file or an image cannot be used."""


class TooManyRowsLost(DataError):
    """More rows were rejected than `data.max_lost` allows."""


class ModelError(BaseRewardError, ValueError):
    """A folder is not a model, or its weights do not fit the recipe."""


class SilentError(ModelError):
    """An endpoint has not answered for a long time, or refuses every request."""


class TrainingError(BaseRewardError, RuntimeError):
    """Training cannot continue."""


class NotFiniteError(TrainingError):
    """A loss or a gradient is NaN or infinite."""


class NothingToLearnError(TrainingError):
    """In reinforcement learning, no rollout of several generations in succession can be learned from."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be written or read."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is no longer what was written, so its run cannot resume from it."""


class RankError(TrainingError):
    """Another process of a run on several devices has failed or was killed.

    Attributes:
        first_is_gone: whether it was the first process, which otherwise tells the user.

    >>> RankError("process 1 ended", first_is_gone=False).first_is_gone
    False
    """

    def __init__(self, message: str, *, first_is_gone: bool) -> None:
        super().__init__(message)
        self.first_is_gone = first_is_gone


class RunError(BaseRewardError, LookupError):
    """A run does not exist, or cannot be continued."""


class ClusterError(BaseRewardError, RuntimeError):
    """A cluster cannot be reached, or has not what is asked for."""


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that is most similar to the given one; None when none is similar. Case is ignored.

    >>> nearest("weigth_decay", ["weight_decay", "lr"])
    'weight_decay'
    >>> nearest("MPL", ["linear", "mlp"]), nearest("rl", ["lr", "eps"]), nearest("x", ["lr", "eps"])
    ('mlp', 'lr', None)
    """
    scores = [(_similarity(given.casefold(), name.casefold()), name) for name in allowed]
    best, name = max(scores, default=(0.0, ""))
    return name if best >= 0.6 else None  # the default cutoff of difflib.get_close_matches


def _similarity(given: str, name: str) -> float:
    """From 0 to 1, where 1 is equal."""
    similarity = difflib.SequenceMatcher(None, given, name).ratio()
    # A swap of two letters is the most common slip, and in a short name it halves difflib's ratio.
    return max(similarity, 0.9) if _is_swap(given, name) else similarity


def _is_swap(given: str, name: str) -> bool:
    """Whether two neighbouring letters changed places."""
    if len(given) != len(name):
        return False
    for index in range(len(given) - 1):
        pair = given[index : index + 2]
        if given[:index] + pair[::-1] + given[index + 2 :] == name:
            return True
    return False


def unknown(kind: str, given: str, allowed: Iterable[str]) -> str:
    """The message for a name that does not exist: what it names, the name, the nearest allowed one, all allowed ones.

    >>> unknown("head", "mpl", ["linear", "mlp"])
    "unknown head 'mpl'; did you mean 'mlp'? Allowed: linear, mlp."
    """
    names = sorted(allowed)
    close = nearest(given, names)
    hint = f"; did you mean '{close}'?" if close else "."
    return f"unknown {kind} '{given}'{hint} Allowed: {', '.join(names) or 'none'}."


def check_several(given: object, *, name: str, of: str, error: type[BaseRewardError] = DataError) -> None:
    """Checks that an argument is a list of values, and not one text, which Python would iterate by its letters.

    Args:
        given: what a caller passed; every ordered iterable is right.
        name: the name of the argument.
        of: what the list holds, in the plural.
        error: the type of error to raise.

    Raises:
        BaseRewardError: of type `error`; the argument is a single value, or has no order.

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
    """The message of an error and its notes, such as the id of the run that it ended.

    >>> error = DataError("pairs.jsonl:3: not JSON")
    >>> error.add_note("The run is r1.")
    >>> explain(error)
    'pairs.jsonl:3: not JSON\\nThe run is r1.'
    """
    return "\n".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])


def sentence(message: object) -> str:
    """A message or an error as a sentence with one full stop, for a message that goes on with another sentence.

    Messages of other libraries end with a full stop or without one.

    >>> sentence(DataError("it is cut off")), sentence("access is unsafe."), sentence("Which one?")
    ('it is cut off.', 'access is unsafe.', 'Which one?')
    """
    text = str(message).rstrip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def format_count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, for messages and tables.

    Args:
        number: how many.
        noun: for one of them; with its verb if that changes too.
        plural: for any other number; None: the noun with an s.

    >>> format_count(1, "cell"), format_count(7, "cell"), format_count(2, "row is", "rows are")
    ('1 cell', '7 cells', '2 rows are')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {plural or f'{noun}s'}"


def format_bytes(size: float) -> str:
    """A size with a binary prefix.

    >>> format_bytes(3 * 2**30), format_bytes(1_536), format_bytes(12), format_bytes(1_011 * 2**20)
    ('3 GiB', '1.5 KiB', '12 bytes', '1011 MiB')
    """
    for prefix, unit in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= unit:
            number = size / unit
            # With three digits 1,011 would be 1.01e+03.
            return f"{number:.0f} {prefix}" if number >= 100 else f"{number:.3g} {prefix}"
    return f"{size:.0f} bytes"
