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
    outputs: Mapping[str, Path | str],
    inputs: Iterable[Path | str],
    *,
    read_whole: Iterable[Path | str] = (),
    error: type[BaseRewardError] = DataError,
) -> None:
    """Checks that no output is one of the inputs, overwrites a file of an input folder, or is another output.

    Args:
        outputs: the path of each output by what it is for the user, such as `--out`. Derived names are included.
        inputs: every file or folder that the command reads. A folder stands for the files that are in it now.
        read_whole: folders of which every file is read, so that a new file in one would be read by the next call. No
            output may lie in one.
        error: the type of error to raise.

    Raises:
        BaseRewardError: of type `error`; it names the output, the file that it would overwrite, and what to do.
    """
    names = list(outputs)
    for place, name in enumerate(names):
        for other in names[:place]:
            if same_file(outputs[name], outputs[other]):
                raise error(f"{name} and {other} are both '{outputs[name]}'; give each a path of its own")
    there = {name: path for name, path in outputs.items() if os.path.lexists(path)}
    for path in map(Path, inputs if there else ()):  # what is not there overwrites nothing, and inputs may be many
        for name, output in there.items():
            if same_file(output, path) or (path.is_dir() and not Path(output).is_dir() and _inside(output, path)):
                raise error(f"{name} '{output}' would overwrite the input '{path}'; give another path")
    for path in map(Path, read_whole):
        for name, output in outputs.items():
            if _inside(output, path):
                raise error(
                    f"{name} '{output}' lies in the input folder '{path}', which is read whole; write elsewhere"
                )


def _inside(path: Path | str, folder: Path) -> bool:
    """Whether a path is a folder or lies anywhere below it, by its own name or through links."""
    root = folder.resolve()
    return Path(path).absolute().is_relative_to(folder.absolute()) or Path(path).resolve().is_relative_to(root)
