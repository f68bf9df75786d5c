"""The door to MLflow: a store that the courier delivers to, and where a run's artifacts come from."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from basereward.errors import RunError
from basereward.io.secrets import has_secret_query, redact, userinfo_of, with_userinfo, without_userinfo
from basereward.runs.tracking.uploader import Courier, Refused, describe
from basereward.runs.tracking.journal import RunJournal, Record, warn_once
from basereward.runs.params import MAX_TAG, shorten
from basereward.runs.run_folder import find
from basereward.runs.tracking.database import ARTIFACTS, ensure_database, move_artifact_addresses

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

log = logging.getLogger(__name__)

DEFAULT_URI = "sqlite:///mlflow.db"
SCHEMES_WITHOUT_ADDRESS = ("databricks", "databricks-uc", "uc")
SCHEMES = (*SCHEMES_WITHOUT_ADDRESS, "http", "https", "mssql", "mysql", "postgresql", "sqlite")
KIND_TAG = "mlflow.experimentKind"
NO_KIND = "no_inferred_type"
EXPERIMENT_TAGS = {KIND_TAG: "custom_model_development"}
"""MLflow's pages show such an experiment as one of training runs; without a kind they open it as one of traces."""
RUN_TAG = "basereward.run_id"
PARENT_TAG = "mlflow.parentRunId"
# MLflow asks again for minutes, reports its use to its makers, and writes to the terminal; a user who has set one of
# these has decided otherwise. A large file and a slow server may need a longer MLFLOW_HTTP_REQUEST_TIMEOUT.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
FINAL = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST", "MALFORMED_REQUEST"}
"""MLflow's answers that will not change by asking again; all others may."""
WORTH_ANOTHER_TRY = {401, 403, 407, 408, 425, 429}
"""Likewise of HTTP, among 400 to 499."""
PARAMS_A_BATCH = 100


def load_mlflow() -> None:
    """Import MLflow (seconds) with its habits set by `ENVIRONMENT`, where the user has not set them."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Every new database would log its hundred migrations, and every statement that a full disk refuses its traceback;
    # the error itself is raised, and logged by whoever delivers.
    levels = {"mlflow": logging.WARNING, "alembic": logging.WARNING, "mlflow.store": logging.CRITICAL}
    for name, level in levels.items():
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(level)
    importlib.import_module("mlflow")


_userinfo: dict[str, str] = {}
"""User information of addresses that this process was given, by the address without it. It stays in memory."""


def tracking_uri(uri: str | None) -> str:
    """The store: this one, else $MLFLOW_TRACKING_URI, else mlflow.db here, as it may be written to a file.

    A SQLite file is named by its whole path. A user and a password are left out; `MlflowStore` adds them again, from
    memory or from $MLFLOW_TRACKING_URI.

    Raises:
        RunError: a store of files, which MLflow does not take any more; or an address with a secret in its query.

    >>> tracking_uri("http://localhost:5000"), tracking_uri("sqlite:////data/mlflow.db")
    ('http://localhost:5000', 'sqlite:////data/mlflow.db')
    """
    given = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    uri = without_userinfo(given)
    if userinfo_of(given):
        _userinfo[uri] = userinfo_of(given)
    if has_secret_query(uri):
        raise RunError(
            f"the address of the MLflow store, {masked(uri)}, has a secret in its query, and is kept with every run. "
            "Leave it out, and set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    if _is_file_store(uri) and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
        raise RunError(
            f"MLflow does not take a folder of files as a store any more, and '{uri}' is one. Set MLFLOW_TRACKING_URI "
            f"or tracking.uri to a database, such as {DEFAULT_URI}, or to the address of a server; or set "
            "MLFLOW_ALLOW_FILE_STORE=true to use the folder all the same"
        )
    if fault := _address_fault(uri):
        raise RunError(
            f"MLflow has no store at '{masked(uri)}': {fault}. Set MLFLOW_TRACKING_URI or tracking.uri to a database, "
            f"such as {DEFAULT_URI}, or to the address of a server, such as http://localhost:5000"
        )
    database = database_of(uri)
    # What is left over may be delivered from another working directory.
    return uri if database is None else f"sqlite:///{database.absolute()}{''.join(uri.partition('?')[1:])}"


def _is_file_store(uri: str) -> bool:
    """
    >>> [_is_file_store(uri) for uri in ("file:mlruns", "./mlruns", "databricks", "databricks://profile", "http://host")]
    [True, True, False, False, False]
    """
    return uri.startswith("file:") or ("://" not in uri and uri not in SCHEMES_WITHOUT_ADDRESS)


def _address_fault(uri: str) -> str:
    """What is wrong with an address that no store can have; empty for one that may be right.

    >>> _address_fault("http://host:5000"), _address_fault("sqlite:///mlflow.db"), _address_fault("databricks")
    ('', '', '')
    >>> _address_fault("http://"), _address_fault("htp://host")[:30]
    ('it names no host', 'the scheme is none of databric')
    """
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme == "file":
        return ""
    if scheme.partition("+")[0] not in SCHEMES:
        return f"the scheme is none of {', '.join(SCHEMES)}"
    return "it names no host" if scheme in ("http", "https") and not urlsplit(uri).hostname else ""


def _whole_address(uri: str) -> str:
    """The address as a client needs it: with the user information that this process knows of it."""
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    known = userinfo_of(given) if without_userinfo(given) == uri else _userinfo.get(uri, "")
    return with_userinfo(uri, known) if known else uri


def masked(uri: str) -> str:
    """The URI for people to read, without a password.

    >>> masked("https://me:secret@tracking.example")
    'https://***@tracking.example'
    """
    return redact(uri)


class MlflowStore:
    """One MLflow server or database. Every call may be repeated: it keeps equal metrics, parameters and files once."""

    def __init__(self, uri: str) -> None:
        load_mlflow()
        from mlflow import MlflowClient

        self._uri = uri
        database = database_of(uri)
        if database is not None:
            ensure_database(database, build=_build_database)
            _keep_artifacts_beside(database)
        with refusals():
            self._client: MlflowClient = MlflowClient(_whole_address(uri))

    def open_run(self, start: Record) -> str:
        """The run that has our id as a tag: found, when an earlier try was cut off after making it, or made."""
        tags = {key: shorten(value, limit=MAX_TAG) for key, value in start["tags"].items()}
        with refusals():
            experiment = self._experiment(start["experiment"])
            query = f"tags.`{RUN_TAG}` = '{tags[RUN_TAG]}'"
            for run in self._client.search_runs([experiment], query, max_results=1):
                return str(run.info.run_id)
            made = self._client.create_run(experiment, start["time"], tags, start["name"])
        return str(made.info.run_id)

    def name_parent(self, run_id: str, parent_id: str) -> None:
        """Show the run below another one."""
        with refusals():
            self._client.set_tag(run_id, PARENT_TAG, parent_id)

    def reopen(self, run_id: str) -> None:
        """Mark the run as running again."""
        with refusals():
            self._client.update_run(run_id, "RUNNING")

    def metrics(self, run_id: str, records: list[Record]) -> None:
        """Store the values of several records, each with its own step and time."""
        from mlflow.entities import Metric

        values = [Metric(k, v, r["time"], r["step"]) for r in records for k, v in r["values"].items()]
        with refusals():
            self._client.log_batch(run_id, metrics=values)

    def params(self, run_id: str, values: dict[str, str]) -> None:
        """Store parameters; MLflow refuses other values for those that it has."""
        from mlflow.entities import Param

        items = [Param(key, value) for key, value in values.items()]
        with refusals():
            for i in range(0, len(items), PARAMS_A_BATCH):
                self._client.log_batch(run_id, params=items[i : i + PARAMS_A_BATCH])

    def tags(self, run_id: str, values: dict[str, str]) -> None:
        """Store tags, over those of the same name."""
        from mlflow.entities import RunTag

        with refusals():
            self._client.log_batch(run_id, tags=[RunTag(k, shorten(v, limit=MAX_TAG)) for k, v in values.items()])

    def artifact(self, run_id: str, path: Path, folder: str) -> None:
        """Store a file under its name in a folder of the run ('' for none)."""
        with refusals():
            self._client.log_artifact(run_id, str(path), folder or None)

    def finish(self, run_id: str, status: str, time_ms: int) -> None:
        """Mark the run as FINISHED, FAILED or KILLED."""
        with refusals():
            self._client.set_terminated(run_id, status, time_ms)

    def find_run(self, own_id: str) -> str | None:
        """MLflow's id of the run that carries this id of ours; None when there is none."""
        with refusals():
            experiments = [each.experiment_id for each in self._client.search_experiments()]
            runs = self._client.search_runs(experiments, f"tags.`{RUN_TAG}` = '{own_id}'", max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def download(self, run_id: str, folder: str, *, to: Path) -> Path:
        """Copy a folder of the run's artifacts into `to`; the path of the copy."""
        with refusals():
            return Path(self._client.download_artifacts(run_id, folder, str(to)))

    def _experiment(self, name: str) -> str:
        """The id of the experiment; made when it is not there."""
        from mlflow.exceptions import MlflowException

        found: Experiment | None = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, self._artifacts(name), EXPERIMENT_TAGS))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(name)  # another run was faster
        assert found is not None
        if found.lifecycle_stage == "deleted":
            raise Refused(
                f"the experiment '{name}' is deleted in MLflow; bring it back with `mlflow experiments restore "
                f"--experiment-id {found.experiment_id}`, or choose another name with tracking.experiment=NAME"
            )
        if found.tags.get(KIND_TAG, NO_KIND) in (NO_KIND, "") or found.tags[KIND_TAG].endswith("_inferred"):
            self._client.set_experiment_tag(found.experiment_id, KIND_TAG, EXPERIMENT_TAGS[KIND_TAG])
        return str(found.experiment_id)

    def _artifacts(self, name: str) -> str | None:
        """Files lie beside a SQLite database, wherever the program was started; a server knows its own place."""
        database = database_of(self._uri)
        if database is None:
            return None
        return (database.absolute().parent / ARTIFACTS / _folder_name(name)).as_uri()


def _folder_name(experiment: str) -> str:
    """The name of an experiment's folder of artifacts, which lies in the folder of all whatever the name is.

    >>> _folder_name("head depth"), _folder_name("..")
    ('head_depth', '_..')
    """
    name = re.sub(r"[^\w.\-]+", "_", experiment)
    return name if name.strip(".") else f"_{name}"


def _build_database(path: Path) -> None:
    """Make MLflow's tables in a new file, with the experiment `Default`."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{path}", (path.parent / ARTIFACTS).as_uri())  # type: ignore[no-untyped-call]
    store.engine.dispose()


def _keep_artifacts_beside(database: Path) -> None:
    """Correct addresses after a move; a database that cannot be changed now is used as it is."""
    try:
        moved = move_artifact_addresses(database)
    except sqlite3.Error as error:
        warn_once(f"The addresses of artifacts in {database} are not checked: {describe(error)}.")
        return
    if moved:
        log.info("%s was moved: the artifacts of %d experiments are looked for beside it now.", database, moved)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turn the errors that no further try will change into `Refused`."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    try:
        yield
    except MlflowException as error:
        if error.error_code in FINAL:
            raise Refused(describe(error)) from error
        raise
    except HTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        if 400 <= code < 500 and code not in WORTH_ANOTHER_TRY:
            raise Refused(describe(error)) from error
        raise


def courier(outbox: RunJournal) -> Courier:
    """What takes this outbox, in the folder of a run, to MLflow; the caller holds its lock."""
    root = outbox.folder.parent.parent
    return Courier(outbox, connect=MlflowStore, parent_id=lambda parent: _mlflow_id(parent, root))


def _mlflow_id(parent: str, root: Path) -> str | None:
    """MLflow's id of the parent, which is a run folder's id, or MLflow's own already; None while MLflow has none."""
    try:
        folder = find(parent, root=root)
    except RunError:
        return parent
    outbox = folder.outbox
    if folder.mlflow_run_id is None and outbox.acquire():  # nobody is there any more to make it known
        try:
            courier(outbox).deliver()
        finally:
            outbox.release()
    return folder.mlflow_run_id


def database_of(uri: str) -> Path | None:
    """The file of a SQLite URI; None of any other.

    >>> database_of("sqlite:///mlflow.db?timeout=9"), database_of("sqlite:///:memory:"), database_of("http://host")
    (PosixPath('mlflow.db'), None, None)
    """
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(path) if uri.startswith("sqlite:///") and path and not path.startswith(":") else None
