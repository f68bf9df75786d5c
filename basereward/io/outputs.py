"""Checks that no output overwrites an input, and replaces folders only when this project wrote them."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from basereward.errors import BaseRewardError, DataError
from basereward.io.files import is_special
from basereward.io.processes import is_temporary_name

RUN_MARKS = ("status.json", "recipe.yaml")
"""Files that every folder of a run has."""
RUN_FILES = frozenset(
    {*RUN_MARKS, "result.json", "identity.json", "lost.jsonl", "sweep.json", "cells.json", "pipeline.json"}
)
"""Files of the folder of a run or a sweep that only the run itself writes."""
RUN_FOLDERS = frozenset({"checkpoints", "model", "figures", "scores", "outbox", "lease"})
"""Folders of a run in which only the run itself writes; `evaluations` gets those of every later command."""


def same_file(first: Path | str, second: Path | str) -> bool:
    """Whether two paths name the same file, also through symbolic links, hard links and parts such as `..`.

    A path that does not exist yet is compared by its resolved name.

    >>> same_file("/dev/null", "/dev/../dev/null"), same_file("/dev/null", "/dev/zero")
    (True, False)
    """
    try:
        return os.path.samefile(first, second)
    except OSError:
        return Path(first).resolve() == Path(second).resolve()
    except ValueError:
        # No file has a NUL character in its name.
        return False


def check_folder_of(target: Path, *, what: str) -> None:
    """Checks that the folder of a file that a user names exists: a missing one is more often a typing error.

    Args:
        target: the file.
        what: that is written, for the message.

    Raises:
        DataError: there is no such folder.

    >>> check_folder_of(Path("no folder/scores.jsonl"), what="the scores")
    Traceback (most recent call last):
        ...
    basereward.errors.DataError: the scores cannot be written to 'no folder/scores.jsonl': there is no folder ...
    """
    if not target.parent.is_dir():
        raise DataError(f"{what} cannot be written to '{target}': there is no folder '{target.parent}'. Make it first.")


def check_outputs(
    outputs: Mapping[str, Path | str],
    inputs: Iterable[Path | str],
    *,
    read_whole: Iterable[Path | str] = (),
    error: type[BaseRewardError] = DataError,
) -> None:
    """Checks that no output is an input, a device or another output, or overwrites a file of a run or an input folder.

    Args:
        outputs: the path of each output by the name that the user knows, such as `--out`. Files whose names are made
            from it are included.
        inputs: every file or folder that the command reads. A folder stands for the files that are in it now.
        read_whole: folders whose files are all read. No output may lie in one, because the next call would read it.
        error: the type of error to raise.

    Raises:
        BaseRewardError: of type `error`; it names the output, the file that it would overwrite, and what to do.

    >>> check_outputs({"--out": "/dev/null"}, [])
    Traceback (most recent call last):
    basereward.errors.DataError: --out '/dev/null' is a device or a pipe, ...; give another path
    """
    _check_each(outputs, error=error)
    existing = {name: path for name, path in outputs.items() if os.path.lexists(path)}
    # A new output overwrites nothing, and there may be a million inputs to compare with.
    if existing:
        for path in map(Path, inputs):
            _check_input(path, existing, error=error)
    for path in map(Path, read_whole):
        for name, output in outputs.items():
            if _inside(output, path):
                raise error(
                    f"{name} '{output}' lies in the input folder '{path}', whose files are all read; write elsewhere"
                )


def _check_input(path: Path, existing: Mapping[str, Path | str], *, error: type[BaseRewardError]) -> None:
    """Checks that no existing output is the input at a path, or a file of the input folder there."""
    for name, output in existing.items():
        # A folder inside an input folder is a place to write in, and overwrites none of its files.
        is_file_inside = path.is_dir() and not Path(output).is_dir() and _inside(output, path)
        if same_file(output, path) or is_file_inside:
            raise error(f"{name} '{output}' would overwrite the input '{path}'; give another path")


def _check_each(outputs: Mapping[str, Path | str], *, error: type[BaseRewardError]) -> None:
    """Checks that each output can be a file and is none of a run, and that no two are the same."""
    names = list(outputs)
    for index, name in enumerate(names):
        check_path(outputs[name], name=name, error=error)
        check_outside_runs(outputs[name], name=name, error=error)
        if is_special(outputs[name]):
            raise error(
                f"{name} '{outputs[name]}' is a device or a pipe, which is never replaced by a file; give another path"
            )
        for other in names[:index]:
            if same_file(outputs[name], outputs[other]):
                raise error(f"{name} and {other} are both '{outputs[name]}'; give each a path of its own")


def check_outside_runs(path: Path | str, *, name: str, error: type[BaseRewardError] = DataError) -> None:
    """Checks that a path that a user names is none of the files that a run writes itself.

    Args:
        path: of a file or a folder, as the user gave it.
        name: of the option or argument, for the message.
        error: the type of error to raise.

    Raises:
        BaseRewardError: of type `error`; the path is a file of a run, such as its recipe, or lies in a folder of a run
            such as `model` or `checkpoints`. Other names, and the folder `evaluations`, are allowed.

    >>> import tempfile
    >>> run = Path(tempfile.mkdtemp())
    >>> for mark in RUN_MARKS:
    ...     (run / mark).touch()
    >>> check_outside_runs(run / "evaluations/mine", name="--out")
    >>> check_outside_runs(run / "model/scores.jsonl", name="--out")
    Traceback (most recent call last):
    basereward.errors.DataError: --out '.../model/scores.jsonl' has the place of a file of the run '...': only the ...
    """
    # By its own name and through links: one of them may lead into a run.
    for target in dict.fromkeys((Path(os.path.abspath(path)), Path(path).resolve())):
        for run in target.parents:
            part = target.relative_to(run).parts[0]
            if part in RUN_FILES | RUN_FOLDERS and all((run / mark).is_file() for mark in RUN_MARKS):
                # A link to the folder may have another name than the run.
                raise error(
                    f"{name} '{path}' has the place of a file of the run '{run.resolve().name}': only the run writes "
                    f"'{part}'; give a path outside its folder"
                )


def check_path(path: Path | str, *, name: str, error: type[BaseRewardError] = DataError) -> None:
    """Checks that a path can be one of a file; the system fails on a NUL character without naming it.

    Args:
        path: as the user gave it.
        name: of the option or argument, for the message.
        error: the type of error to raise.

    Raises:
        BaseRewardError: of type `error`; the path has a NUL character.

    >>> check_path("a\\0b", name="--out")
    Traceback (most recent call last):
    basereward.errors.DataError: --out 'a\\x00b' has a NUL character, which no name of a file has; give another path
    """
    if "\0" in str(path):
        raise error(f"{name} {str(path)!r} has a NUL character, which no name of a file has; give another path")


def _inside(path: Path | str, folder: Path) -> bool:
    """Whether a path is the folder or lies below it, by its own name or through links."""
    root = folder.resolve()
    return Path(path).absolute().is_relative_to(folder.absolute()) or Path(path).resolve().is_relative_to(root)


def check_replaceable(
    folder: Path | str, *, foreign: Callable[[Path], Iterable[str]], error: type[BaseRewardError] = DataError
) -> None:
    """Checks that an output folder does not replace files of the user.

    Args:
        folder: the output folder. A folder that does not exist, or is empty, is always allowed.
        foreign: returns the files in an existing folder that this project did not write.
        error: the type of error to raise.

    Raises:
        BaseRewardError: of type `error`; the path has a NUL character, is a file, contains the working folder or the
            home folder, or has foreign files. The message has the first five of them.

    >>> check_replaceable("/", foreign=lambda folder: [])
    Traceback (most recent call last):
    basereward.errors.DataError: '/' is the working folder or contains it, and is never replaced; give another folder
    """
    check_path(folder, name="the folder", error=error)
    path = Path(os.path.abspath(folder))
    if os.path.lexists(path) and not path.is_dir():
        raise error(f"'{path}' is a file; give a new or an empty folder")
    for name, place in (("the working folder", Path.cwd()), ("the home folder", Path.home())):
        if place.resolve().is_relative_to(path.resolve()):
            raise error(f"'{path}' is {name} or contains it, and is never replaced; give another folder")
    if not path.is_dir() or not any(path.iterdir()):
        return
    if names := sorted(foreign(path)):
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise error(
            f"'{path}' is not replaced: it contains files that this project did not write ({shown}). "
            "Give a new or an empty folder"
        )


def replace_folder(new: Path, target: Path) -> None:
    """Gives a complete folder its final name, and removes an older folder of that name.

    Args:
        new: the complete folder, on the same file system as `target`.
        target: the final name. The caller has checked it with `check_replaceable`.

    Raises:
        OSError: the folder cannot be renamed. The older folder then has its name again.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> (root / "new").mkdir(), (root / "model").mkdir()
    (None, None)
    >>> replace_folder(root / "new", root / "model")
    >>> [path.name for path in root.iterdir()]
    ['model']
    """
    if not target.exists():
        new.rename(target)
        return
    # A folder with files cannot be replaced by a rename, so the older one is moved away first and deleted last.
    aside = target.with_name(f".{target.name}-old-{secrets.token_hex(4)}")
    target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def foreign_files(folder: Path, ours: Callable[[str], bool]) -> list[str]:
    """The files and links below a folder that this project did not write, by their path relative to it.

    Temporary files of this project are its own, also those that a killed process has left.

    Args:
        folder: an existing folder.
        ours: whether this project wrote a file, given its relative path with forward slashes.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> (root / "notes.txt").touch(), (root / "config.json").touch()
    (None, None)
    >>> foreign_files(root, lambda name: name == "config.json")
    ['notes.txt']
    """
    foreign = []
    for parent, folders, files in os.walk(folder):
        # `os.walk` does not enter links to folders and lists them among the folders.
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in [*files, *links]:
            relative = Path(parent, name).relative_to(folder).as_posix()
            # A killed process leaves its temporary files.
            if not ours(relative) and not is_temporary_name(name):
                foreign.append(relative)
    return foreign
