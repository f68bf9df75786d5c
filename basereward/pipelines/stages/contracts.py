"""The contract of a stage of a pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from basereward.errors import BaseRewardError
from basereward.io.files import write_atomic

UNTRAINED = "not trained yet: "
"""With the name of a stage, stands in for its model."""
PREVIEWED = 8
"""Groups of a source from which stand-ins are made."""


@dataclass(frozen=True)
class StageResult:
    """What a stage has made.

    Attributes:
        outputs: by name, as text: paths, or ids of runs.
        metrics: numbers for MLflow.
        facts: JSON values for people and programs.

    >>> StageResult({"rows": "runs/a/rows.jsonl"}).facts
    {}
    """

    outputs: Mapping[str, str]
    metrics: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class Stage(Protocol):
    """A stage that does not train.

    Its arguments are keyword-only. It is constructed before anything
    runs, which finds wrong arguments, and again with the outputs of earlier stages.

    Attributes:
        outputs: the names of what later stages may use. Written in the class itself, from whose text they are read.
        uncounted: the names of arguments that do not change what it makes, such as a number of requests in flight.
    """

    outputs: ClassVar[tuple[str, ...]]
    uncounted: ClassVar[tuple[str, ...]]

    def definitions(self) -> Mapping[str, Any]:
        """What the arguments name beside files, as JSON: a source, a benchmark, an experiment. If a definition changes,
        the stage is another one. It is called before `preview`; see `definition`."""
        ...

    def inputs(self) -> Sequence[Path]:
        """The files and folders that the arguments name, whether they exist or not. If the content of one changes, the
        stage is another one."""
        ...

    def preview(self, folder: Path) -> Mapping[str, str]:
        """Checks what can be checked in seconds, and makes a small stand-in of each output.

        Args:
            folder: for files, which are deleted after the checks.

        Raises:
            BaseRewardError: the stage could not run.
        """
        ...

    def run(self, folder: Path) -> StageResult:
        """Does the work.

        Args:
            folder: of the stage, for its files. After a stop the same stage continues from what is in it.

        Raises:
            BaseRewardError: it cannot go on; what is done is kept.
        """
        ...


def definition(load: Callable[[], Any]) -> Any:
    """What a function loads, for `Stage.definitions`; None if it cannot, which the check of the stage reports.

    Args:
        load: raises BaseRewardError if there is no such thing.

    >>> definition(lambda: {"_target_": "digits"})
    {'_target_': 'digits'}
    """
    try:
        # YAML has dates too, and what is loaded may be a tuple.
        return json.loads(json.dumps(load(), default=str))
    except BaseRewardError:
        return None


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """Write rows as JSON Lines, whole or not at all.

    Args:
        file: is replaced.
        rows: JSON values.

    Returns:
        The path as text, which is how stages pass files to later stages.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "rows.jsonl"
    >>> Path(write_rows(file, [{"id": "a"}])).read_text()
    '{"id": "a"}\\n'
    """
    write_atomic(file, "".join(f"{json.dumps(row)}\n" for row in rows))
    return str(file)
