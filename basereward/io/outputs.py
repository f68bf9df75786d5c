"""Checks that an output does not take the place of an input, and folders that are replaced only when we wrote them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from basereward.errors import BaseRewardError, DataError


def same_file(first: Path | str, second: Path | str) -> bool:
    """Whether two paths name one file, through symbolic links, hard links and unresolved parts as `..`.

    A path that does not exist yet is compared by its resolved name.
    """
    try:
        return os.path.samefile(first, second)
    except (OSError, ValueError):
        return Path(first).resolve() == Path(second).resolve()


def check_outputs(
    outputs: Mapping[str, Path | str], inputs: Iterable[Path | str], *, error: type[BaseRewardError] = DataError
) -> None:
    """Checks that no output is one of the inputs, lies inside an input folder's place, or is another output.

    Args:
        outputs: the path of each output by what it is for the user, such as `--out`. Derived names are included.
        inputs: every file or folder that the command reads.
        error: the type of error to raise.

    Raises:
        BaseRewardError: of type `error`; it names the output, the file that it would overwrite, and what to do.
    """
    read = [Path(path) for path in inputs]
    names = list(outputs)
    for place, name in enumerate(names):
        for path in read:
            if same_file(outputs[name], path):
                raise error(f"{name} '{outputs[name]}' would overwrite the input '{path}'; give another path")
        for other in names[:place]:
            if same_file(outputs[name], outputs[other]):
                raise error(f"{name} and {other} are both '{outputs[name]}'; give each a path of its own")
