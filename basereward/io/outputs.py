"""Checks that an output does not take the place of an input, and folders that are replaced only when we wrote them."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from basereward.errors import BaseRewardError, DataError
from basereward.io.files import is_special


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
    """Checks that no output is an input, a device or another output, or overwrites a file of an input folder.

    Args:
        outputs: the path of each output by what it is for the user, such as `--out`. Derived names are included.
        inputs: every file or folder that the command reads. A folder stands for the files that are in it now.
        read_whole: folders of which every file is read, so that a new file in one would be read by the next call. No
            output may lie in one.
        error: the type of error to raise.

    Raises:
        BaseRewardError: of type `error`; it names the output, the file that it would overwrite, and what to do.
    """
    _check_each(outputs, error=error)
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


def _check_each(outputs: Mapping[str, Path | str], *, error: type[BaseRewardError]) -> None:
    """Checks that each output can be a file, and one of its own."""
    names = list(outputs)
    for place, name in enumerate(names):
        if is_special(outputs[name]):
            raise error(
                f"{name} '{outputs[name]}' is a device or a pipe, and no file takes its place; give another path"
            )
        for other in names[:place]:
            if same_file(outputs[name], outputs[other]):
                raise error(f"{name} and {other} are both '{outputs[name]}'; give each a path of its own")


def _inside(path: Path | str, folder: Path) -> bool:
    """Whether a path is a folder or lies anywhere below it, by its own name or through links."""
    root = folder.resolve()
    return Path(path).absolute().is_relative_to(folder.absolute()) or Path(path).resolve().is_relative_to(root)


def check_replaceable(
    folder: Path | str, *, foreign: Callable[[Path], Iterable[str]], error: type[BaseRewardError] = DataError
) -> None:
    """Checks that an output folder does not stand where something of the user's is.

    Args:
        folder: where the output goes. A folder that is not there yet, or is empty, is always allowed.
        foreign: the files in an existing folder that this project did not write.
        error: the type of error to raise.

    Raises:
        BaseRewardError: of type `error`; the path is a file, holds the working folder or the home folder, or has
            foreign files, of which the first are named.
    """
    path = Path(os.path.abspath(folder))
    if os.path.lexists(path) and not path.is_dir():
        raise error(f"'{path}' is a file; give a folder that is not there yet, or is empty")
    for name, place in (("the working folder", Path.cwd()), ("the home folder", Path.home())):
        if place.resolve().is_relative_to(path.resolve()):
            raise error(f"'{path}' is {name}, or holds it, and is not replaced; give a folder of its own")
    if not path.is_dir() or not any(path.iterdir()):
        return
    if names := sorted(foreign(path)):
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise error(
            f"'{path}' is not replaced: it holds files that were not written by this project ({shown}). "
            "Give a folder that is not there yet, or is empty"
        )


def replace_folder(new: Path, target: Path) -> None:
    """Gives a complete folder its name. A folder of that name is moved aside first and deleted last.

    Args:
        new: the complete folder, on the same file system as `target`.
        target: its name. The caller has checked it with `check_replaceable`.

    Raises:
        OSError: the folder cannot be renamed. The old one is then in its place again.
    """
    if not target.exists():
        new.rename(target)
        return
    aside = target.with_name(f".{target.name}-old-{secrets.token_hex(4)}")
    target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def foreign_files(folder: Path, ours: Callable[[str], bool]) -> list[str]:
    """The files and links below a folder that are not ours, by their path in it.

    Args:
        folder: an existing folder.
        ours: whether this project wrote a file, given its relative path with forward slashes.
    """
    found = []
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in [*files, *links]:
            relative = Path(place, name).relative_to(folder).as_posix()
            if not ours(relative):
                found.append(relative)
    return found
