"""The SQLite file of an MLflow store: created whole or not at all; artifact addresses are corrected after a move."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

from basereward.io.files import is_special
from basereward.io.lease import acquire
from basereward.runs.tracking.uploader import Refused

log = logging.getLogger(__name__)

ARTIFACTS = "mlartifacts"
"""The folder of all artifacts, beside the database."""
BUSY_S = 20.0
"""Seconds to wait for another process that writes to the database."""
GROWING_S = 5.0
"""Another program may still be building an incomplete database that changed within so many seconds."""


def ensure_database(path: Path, *, build: Callable[[Path], None]) -> None:
    """Create the database when it does not exist, once, however many processes call this at the same time.

    It is built under a temporary name and then linked to its own, so a killed process leaves all of it or nothing. An
    incomplete database of an earlier version that holds no run is renamed.

    Args:
        path: of the database.
        build: creates a complete database at a path.

    Raises:
        Refused: the path is something else than a database.
        OSError: the folder cannot be written.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "mlflow.db"
    >>> ensure_database(file, build=Path.touch)
    >>> file.exists()
    True
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
            # A program that does not use our lock was faster.
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
        finally:
            _unlink(temporary)


def move_artifact_addresses(path: Path) -> int:
    """Correct the addresses of artifacts after the database was moved or copied together with its artifacts.

    MLflow stores absolute addresses. An experiment changes its address when that is in another folder `mlartifacts`
    than the one beside the database, and its files are beside the database or nowhere. Files that exist only at the old
    address keep it.

    Args:
        path: of the database.

    Returns:
        The number of experiments whose address changed.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "mlflow.db"
    >>> with contextlib.closing(sqlite3.connect(file)) as connection:
    ...     _ = connection.execute("CREATE TABLE experiments (experiment_id, artifact_location)")
    >>> move_artifact_addresses(file)
    0
    """
    artifacts = path.absolute().parent / ARTIFACTS
    moved: list[tuple[int, str, str]] = []
    with contextlib.closing(_connect(path)) as connection:
        # This runs at every start, so the usual case is one query and no transaction.
        query = "SELECT experiment_id, artifact_location FROM experiments WHERE artifact_location LIKE ?"
        for key, old in connection.execute(query, (f"file:///%/{ARTIFACTS}/%",)).fetchall():
            new = f"{artifacts.as_uri()}/{old.rpartition('/')[2]}"
            if _parent(old) == ARTIFACTS and _has_moved(old, new):
                moved.append((key, old, new))
        if moved:
            # One transaction, so that a crash leaves all addresses old or all new.
            with connection:
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
        for row_id, address in rows:
            target = new + str(address)[len(old) :]
            if str(address).startswith(f"{old}/") and _has_moved(address, target):
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE {name} = ?", (target, row_id))


def _has_moved(old: str, new: str) -> bool:
    """Whether the files of an old address are at the new one, or would be created there."""
    old_folder, new_folder = _folder(old), _folder(new)
    if old_folder == new_folder:
        return False
    if old_folder.exists() and new_folder.exists() and old_folder.samefile(new_folder):
        return False
    return new_folder.exists() or not old_folder.exists()


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
    """Whether MLflow finished creating the database; its last step adds the experiment `Default`.

    Raises:
        Refused: the path is not a SQLite database.
    """
    if not path.exists():
        return False
    if is_special(path):
        raise Refused(f"'{path}' is a device or a pipe; the store is a file. Move it away, or give another file")
    if path.is_dir():
        raise Refused(f"'{path}' is a folder; the store is a file. Give a file, such as sqlite:///{path}/mlflow.db")
    try:
        with contextlib.closing(_connect(path)) as connection:
            return _rows(connection, "alembic_version") > 0 and _rows(connection, "experiments") > 0
    except sqlite3.OperationalError:
        # The file is locked or not readable now, which may pass; it is no sign of another format.
        raise
    except sqlite3.DatabaseError as error:
        raise Refused(f"'{path}' is not a SQLite database ({error}); move it away, or give another file") from error


def _rows(connection: sqlite3.Connection, table: str) -> int:
    if not _has_table(connection, table):
        return 0
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _becomes_complete(path: Path) -> bool:
    """Whether the database is complete, or another program that does not use our lock completes it now."""
    while not (complete := _is_complete(path)):
        if not path.exists() or not path.stat().st_size or time.time() - path.stat().st_mtime > GROWING_S:
            break
        time.sleep(0.1)
    return complete


def _set_aside(path: Path) -> None:
    """Rename the rest of an earlier attempt. It holds no run, because its creation did not end."""
    if not path.exists():
        return
    with contextlib.closing(_connect(path)) as connection:
        runs = _rows(connection, "runs")
    if runs:
        raise Refused(
            f"'{path}' lacks MLflow's tables but holds {runs} runs; repair it with `mlflow db upgrade "
            f"sqlite:///{path}`, or give another file"
        )
    if path.stat().st_size:
        target = path.with_name(f"{path.name}.broken-{secrets.token_hex(2)}")
        path.rename(target)
        log.warning("The MLflow database %s was incomplete and held no run; it was renamed to %s.", path, target)
    else:
        path.unlink()
    for rest in ("-journal", "-wal", "-shm"):
        path.with_name(path.name + rest).unlink(missing_ok=True)


def _remove_unfinished(path: Path) -> None:
    """Remove the files of processes that were killed while they built a database. The caller holds the lock."""
    for rest in path.parent.glob(f".{path.name}.*.new*"):
        rest.unlink(missing_ok=True)


def _unlink(temporary: Path) -> None:
    for end in ("", "-journal", "-wal", "-shm"):
        temporary.with_name(temporary.name + end).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from building a database in a folder.

    The lock is on the folder itself, so no lock file is left beside the user's database. Where the file system has no
    locks, two processes may both build; the database of the first one is kept.
    """
    lease: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    with contextlib.suppress(OSError):
        lease = acquire(folder, wait=True, flags=os.O_RDONLY)
    with lease:
        yield
