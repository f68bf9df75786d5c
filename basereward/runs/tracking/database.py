"""The SQLite file of an MLflow store: made whole or not at all, and its artifact addresses kept right after a move."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

from basereward.runs.tracking.uploader import Refused

log = logging.getLogger(__name__)

ARTIFACTS = "mlartifacts"
"""The folder of all artifacts, beside the database."""
BUSY_S = 20.0
"""How long to wait for another process that writes to the database."""
GROWING_S = 5.0
"""An incomplete database that was changed in the last so many seconds may be in the making by another program."""


def ensure_database(path: Path, *, build: Callable[[Path], None]) -> None:
    """Make the database where there is none, once, however many processes ask at the same time.

    It is built under another name and then takes its own, so a process that is killed leaves nothing or all of it. What
    an earlier version left half made, and no run is in, is set aside.

    Args:
        path: of the database.
        build: makes a complete database at the path that it is given.

    Raises:
        Refused: something else lies at the path.
        OSError: the folder takes no file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_complete(path):
        return
    with _locked(path.parent):
        _remove_unfinished(path)
        if _becomes_complete(path):
            return
        _set_aside(path)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
        try:
            build(temporary)
            with contextlib.suppress(FileExistsError):  # a program that knows nothing of the lock was faster
                os.link(temporary, path)
        finally:
            _unlink(temporary)


def move_artifact_addresses(path: Path) -> int:
    """Correct the addresses of artifacts after the database was moved or copied together with its artifacts.

    MLflow keeps absolute addresses. An experiment whose artifacts lie in a folder `mlartifacts` that is not the one
    beside the database is moved, with its runs, when its files are beside the database, or nowhere. What still lies at
    the old address alone stays there.

    Returns:
        How many experiments were moved.
    """
    here = path.absolute().parent / ARTIFACTS
    with contextlib.closing(_connect(path)) as connection:
        # Every store is asked at every start, so the usual case is one query and no transaction.
        query = "SELECT experiment_id, artifact_location FROM experiments WHERE artifact_location LIKE ?"
        found = connection.execute(query, (f"file:///%/{ARTIFACTS}/%",)).fetchall()
        moved = [(key, old, f"{here.as_uri()}/{old.rpartition('/')[2]}") for key, old in found]
        moved = [(key, old, new) for key, old, new in moved if _parent(old) == ARTIFACTS and _has_moved(old, new)]
        if moved:
            with connection:  # one transaction
                for key, old, new in moved:
                    _move_experiment(connection, key, old, new)
    return len(moved)


def _move_experiment(connection: sqlite3.Connection, key: int, old: str, new: str) -> None:
    update = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?"
    connection.execute(update, (new, key))
    for table, column, name in (
        ("runs", "artifact_uri", "run_uuid"),
        ("logged_models", "artifact_location", "model_id"),
    ):
        if not _has_table(connection, table):
            continue
        rows = connection.execute(f"SELECT {name}, {column} FROM {table} WHERE experiment_id = ?", (key,)).fetchall()
        for row, address in rows:
            target = new + str(address)[len(old) :]
            if str(address).startswith(f"{old}/") and _has_moved(address, target):
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE {name} = ?", (target, row))


def _has_moved(old: str, new: str) -> bool:
    """Whether files of an old address are at the new one now, or would be made there."""
    before, now = _folder(old), _folder(new)
    if before == now or (before.exists() and now.exists() and before.samefile(now)):
        return False
    return now.exists() or not before.exists()


def _folder(address: str) -> Path:
    return Path(unquote(urlparse(address).path))


def _parent(address: str) -> str:
    return address.split("/")[-2]


def _connect(path: Path) -> sqlite3.Connection:
    # Not read-only: after a kill in mid-transaction SQLite has to roll back before anything can be read.
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_S)


def _has_table(connection: sqlite3.Connection, name: str) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return connection.execute(query, (name,)).fetchone() is not None


def _is_complete(path: Path) -> bool:
    """Whether MLflow has come to the end of making the database: its last step adds the experiment `Default`.

    Raises:
        Refused: the path is no SQLite database.
    """
    if not path.exists():
        return False
    if path.is_dir():
        raise Refused(f"'{path}' is a folder; the store is a file. Name one, such as sqlite:///{path}/mlflow.db")
    try:
        with contextlib.closing(_connect(path)) as connection:
            return _rows(connection, "alembic_version") > 0 and _rows(connection, "experiments") > 0
    except sqlite3.OperationalError:
        raise  # locked, or not readable now
    except sqlite3.DatabaseError as error:
        raise Refused(f"'{path}' is not a SQLite database ({error}); move it away, or name another file") from error


def _rows(connection: sqlite3.Connection, table: str) -> int:
    if not _has_table(connection, table):
        return 0
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _becomes_complete(path: Path) -> bool:
    """Whether the database is complete, or becomes so by the work of a program that does not know the lock."""
    while not (complete := _is_complete(path)):
        if not path.exists() or not path.stat().st_size or time.time() - path.stat().st_mtime > GROWING_S:
            break
        time.sleep(0.1)
    return complete


def _set_aside(path: Path) -> None:
    """Give what is left of an earlier attempt another name; no run is in it, since its making did not end."""
    if not path.exists():
        return
    with contextlib.closing(_connect(path)) as connection:
        runs = _rows(connection, "runs")
    if runs:
        raise Refused(
            f"'{path}' lacks MLflow's tables but holds {runs} runs; mend it with `mlflow db upgrade sqlite:///{path}`, "
            "or name another file"
        )
    if path.stat().st_size:
        place = path.with_name(f"{path.name}.broken-{secrets.token_hex(2)}")
        path.rename(place)
        log.warning("The MLflow database %s was half made and held no run; it is now %s.", path, place)
    else:
        path.unlink()
    for rest in ("-journal", "-wal", "-shm"):
        path.with_name(path.name + rest).unlink(missing_ok=True)


def _remove_unfinished(path: Path) -> None:
    """Remove what processes that were killed while they built have left. The caller holds the lock."""
    for rest in path.parent.glob(f".{path.name}.*.new*"):
        rest.unlink(missing_ok=True)


def _unlink(temporary: Path) -> None:
    for end in ("", "-journal", "-wal", "-shm"):
        temporary.with_name(temporary.name + end).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from building in a folder. The lock is the folder's own, so that no lock file is left.

    Where a file system has no locks, two processes may both build; the first one's database is kept.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
