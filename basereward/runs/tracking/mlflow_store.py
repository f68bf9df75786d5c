"""MLflow: the store that the uploader writes to, and from which a run's artifacts are downloaded."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from basereward.errors import RunError, sentence
from basereward.io.secrets import has_secret_query, redact, userinfo_of, with_userinfo, without_userinfo
from basereward.runs.params import MAX_TAG, shorten
from basereward.runs.run_folder import find
from basereward.runs.tracking.database import ARTIFACTS, ensure_database, move_artifact_addresses
from basereward.runs.tracking.journal import Record, RunJournal, warn_once
from basereward.runs.tracking.mlflow_view import VIEW_TAG, saved_view, view_address
from basereward.runs.tracking.uploader import Refused, Uploader, describe

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, LoggedModel, Run
    from mlflow.exceptions import MlflowException
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

log = logging.getLogger(__name__)

DEFAULT_URI = "sqlite:///mlflow.db"
SCHEMES_WITHOUT_ADDRESS = ("databricks", "databricks-uc", "uc")
SCHEMES = (*SCHEMES_WITHOUT_ADDRESS, "http", "https", "mssql", "mysql", "postgresql", "sqlite")
KIND_TAG = "mlflow.experimentKind"
NO_KIND = "no_inferred_type"
EXPERIMENT_TAGS = {KIND_TAG: "custom_model_development"}
"""MLflow's web pages open such an experiment on its training runs; without a kind they open it on traces."""
RUN_TAG = "basereward.run_id"
PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
"""The description of a run or an experiment, in Markdown."""
CONTEXT_TAG = "mlflow.data.context"
"""What a run reads a data set for, such as `training`."""
SYSTEM = "system/"
"""MLflow shows metrics with this prefix apart from the others."""
MEASURED = ("mem/", "perf/", "time/")
"""Prefixes of what a run measures of the machine. MLflow sorts the sections of its charts by their names, and these
would come before accuracy, loss and learning rate; so they get the prefix `SYSTEM` there."""
# By default MLflow repeats a request for minutes, reports its use to its makers, and writes to the terminal. A variable
# that the user has set wins. A large file and a slow server may need a longer MLFLOW_HTTP_REQUEST_TIMEOUT (seconds).
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
"""Error codes of MLflow that a repeated request would give again. All others may pass."""
MAY_PASS = (
    *("database is locked", "UNIQUE constraint failed", "duplicate key value", "Duplicate entry"),
    *("QueuePool limit", "has been rolled back"),
)
"""Parts of the messages of BAD_REQUEST that a busy database causes: MLflow gives this code to every error of SQLAlchemy
but one. The request finds another state when it is repeated, and a refused record would not be delivered."""
RETRIED_STATUS = {401, 403, 407, 408, 425, 429}
"""The HTTP statuses from 400 to 499 that may pass: rights that are granted later, timeouts, rate limits."""
SQLITE_MODULES = ("mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store", "sqlalchemy.dialects.sqlite")
PARAMS_PER_REQUEST = 100
"""The limit of MLflow's `log-batch` request."""


def load_mlflow() -> None:
    """Import MLflow, which takes seconds, with the defaults of `ENVIRONMENT`."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Every new database would log its hundred migrations, and every statement on a full disk its traceback. The error
    # itself is raised, and the upload worker logs it.
    levels = {"mlflow": logging.WARNING, "alembic": logging.WARNING, "mlflow.store": logging.CRITICAL}
    for name, level in levels.items():
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(level)
    importlib.import_module("mlflow")


def load_store() -> None:
    """Import MLflow, and what it imports at the first request to a SQLite file if $MLFLOW_TRACKING_URI names one.

    A process from which others are forked imports it for all of them.
    """
    load_mlflow()
    if os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_URI).startswith("sqlite:"):
        for module in SQLITE_MODULES:
            importlib.import_module(module)


_userinfo: dict[str, str] = {}
"""User and password by the address without them. They stay in memory: journals hold the address alone."""


def tracking_uri(uri: str | None) -> str:
    """The address of the store, in a form that may be written to a file.

    A SQLite file gets its absolute path. A user and a password are removed; `MlflowStore` adds them again, from memory
    or from $MLFLOW_TRACKING_URI.

    Args:
        uri: the address; by default $MLFLOW_TRACKING_URI, else `mlflow.db` in the working directory.

    Raises:
        RunError: MLflow does not support a store at this address, or the address has a secret in its query.

    >>> tracking_uri("http://localhost:5000"), tracking_uri("sqlite:////data/mlflow.db")
    ('http://localhost:5000', 'sqlite:////data/mlflow.db')
    """
    full_uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    uri = without_userinfo(full_uri)
    if userinfo_of(full_uri):
        _userinfo[uri] = userinfo_of(full_uri)
    if has_secret_query(uri):
        raise RunError(
            f"the address of the MLflow store, {masked(uri)}, has a secret in its query, and every run stores the "
            "address. Remove the secret, and set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD"
        )
    if re.fullmatch(r"[\w.\-]+:\d+(/.*)?", uri):
        raise RunError(
            f"MLflow has no store at '{uri}': the address of a server begins with http:// or https://. Set "
            f"MLFLOW_TRACKING_URI or tracking.uri to http://{uri}"
        )
    if _is_file_store(uri) and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
        raise RunError(
            f"MLflow no longer supports a folder of files as a store, and '{uri}' is one. Set MLFLOW_TRACKING_URI or "
            f"tracking.uri to a database, such as {DEFAULT_URI}, or to the address of a server; or set "
            "MLFLOW_ALLOW_FILE_STORE=true to use the folder nevertheless"
        )
    if fault := _address_fault(uri):
        raise RunError(
            f"MLflow has no store at '{masked(uri)}': {sentence(fault)} Set MLFLOW_TRACKING_URI or tracking.uri to a "
            f"database, such as {DEFAULT_URI}, or to the address of a server, such as http://localhost:5000"
        )
    database = database_of(uri)
    # Absolute, because a later command may upload pending records from another working directory.
    return uri if database is None else f"sqlite:///{database.absolute()}{''.join(uri.partition('?')[1:])}"


def _is_file_store(uri: str) -> bool:
    """
    >>> [_is_file_store(uri) for uri in ("file:mlruns", "./mlruns", "databricks", "databricks://profile", "http://host")]
    [True, True, False, False, False]
    """
    return uri.startswith("file:") or ("://" not in uri and uri not in SCHEMES_WITHOUT_ADDRESS)


def _address_fault(uri: str) -> str:
    """What is wrong with an address; '' for an address that may be right.

    >>> _address_fault("http://host:5000"), _address_fault("sqlite:///mlflow.db"), _address_fault("databricks")
    ('', '', '')
    >>> _address_fault("http://"), _address_fault("htp://host")[:30]
    ('it names no host', 'the scheme is none of databric')
    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        return ""
    if scheme.partition("+")[0] not in SCHEMES:
        return f"the scheme is none of {', '.join(SCHEMES)}"
    if scheme == "sqlite" and not rest.startswith("/"):
        return "the file of a SQLite database follows three slashes, as in sqlite:///mlflow.db"
    return _host_fault(uri) if scheme in ("http", "https") else ""


def _host_fault(uri: str) -> str:
    """What is wrong with the host and the port of a server's address; '' for nothing.

    >>> _host_fault("http://host:99999")
    'its port is no number from 0 to 65535'
    """
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        return "its port is no number from 0 to 65535"
    return "" if parts.hostname else "it names no host"


def _whole_address(uri: str) -> str:
    """The address that the client needs: with the user and password that this process knows for it."""
    environment_uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    from_environment = without_userinfo(environment_uri) == uri
    userinfo = userinfo_of(environment_uri) if from_environment else _userinfo.get(uri, "")
    return with_userinfo(uri, userinfo) if userinfo else uri


def masked(uri: str) -> str:
    """The URI for messages, without user and password.

    >>> masked("https://me:secret@tracking.example")
    'https://***@tracking.example'
    """
    return redact(uri)


class MlflowStore:
    """One MLflow server or database. Every call may be repeated: equal metrics, parameters and files are stored once.

    Args:
        uri: address, as `tracking_uri` gives it.
    """

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
        # MLflow's ids of models, by the run and their name.
        self._models: dict[tuple[str, str], str | None] = {}

    def open_run(self, start: Record) -> str:
        """Return the id of the run with our id as a tag. A crash after its creation must not create a second one."""
        tags = {key: shorten(value, limit=MAX_TAG) for key, value in start["tags"].items()}
        with refusals():
            experiment = self._experiment(start)
            # MLflow has no unique key besides its own id, so a run is found again by the tag that holds our id.
            query = f"tags.`{RUN_TAG}` = '{tags[RUN_TAG]}'"
            for run in self._client.search_runs([experiment], query, max_results=1):
                return str(run.info.run_id)
            run = self._client.create_run(experiment, start["time"], tags, start["name"])
        return str(run.info.run_id)

    def name_parent(self, run_id: str, parent_id: str) -> None:
        """Make the run a child of another one."""
        with refusals():
            self._client.set_tag(run_id, PARENT_TAG, parent_id)

    def reopen(self, run_id: str) -> None:
        """Mark the run as running again."""
        with refusals():
            self._client.update_run(run_id, "RUNNING")

    def metrics(self, run_id: str, records: list[Record]) -> None:
        """Store the values of several records, each with its own step and time."""
        from mlflow.entities import Metric

        values: list[Metric] = []
        for record in records:
            time_ms, step = record["time"], record["step"]
            model_id = self._model_id(run_id, record["model"]) if "model" in record else None
            for name, value in record["values"].items():
                values.append(Metric(mlflow_name(name), value, time_ms, step, model_id=model_id, run_id=run_id))
        with refusals():
            self._client.log_batch(run_id, metrics=values)

    def params(self, run_id: str, values: dict[str, str]) -> None:
        """Store parameters. MLflow rejects a second value for a parameter."""
        from mlflow.entities import Param

        items = [Param(key, value) for key, value in values.items()]
        with refusals():
            for i in range(0, len(items), PARAMS_PER_REQUEST):
                self._client.log_batch(run_id, params=items[i : i + PARAMS_PER_REQUEST])

    def tags(self, run_id: str, values: dict[str, str]) -> None:
        """Store tags, which replace tags of the same name."""
        from mlflow.entities import RunTag

        tags = [RunTag(key, shorten(value, limit=MAX_TAG)) for key, value in values.items()]
        with refusals():
            self._client.log_batch(run_id, tags=tags)

    def artifact(self, run_id: str, path: Path, folder: str) -> None:
        """Store a file under its own name in a folder of the run ('' for none)."""
        with refusals():
            self._client.log_artifact(run_id, str(path), folder or None)

    def inputs(self, run_id: str, datasets: list[dict[str, str]]) -> None:
        """Store data sets that the run reads; see `Tracker.inputs` for their fields."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for fields in datasets:
            context = InputTag(CONTEXT_TAG, fields["context"])
            dataset = Dataset(**{key: value for key, value in fields.items() if key != "context"})
            inputs.append(DatasetInput(dataset, [context]))
        with refusals():
            self._client.log_inputs(run_id, inputs)

    def model(self, run_id: str, record: Record) -> None:
        """Create the model of the run that the record names, or mark it as ready."""
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        with refusals():
            run = self._client.get_run(run_id)
            model = self._find_model(run, record["name"]) or self._create_model(run, record)
            if model is None:
                return
            self._models[run_id, record["name"]] = model.model_id
            # MLflow would list a second output for a repeated request.
            outputs = run.outputs.model_outputs if run.outputs is not None else []
            if all(output.model_id != model.model_id for output in outputs):
                self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, record["step"])])
            if record["ready"]:
                self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)

    def model_artifact(self, run_id: str, name: str, path: Path, folder: str) -> None:
        """Store a file under its own name in a folder of a model ('' for none).

        A server before MLflow 3 has no models beside the artifacts of a run; there the file becomes an artifact.
        """
        with refusals():
            model_id = self._model_id(run_id, name)
            if model_id is None:
                self._client.log_artifact(run_id, str(path), f"{name}/{folder}".rstrip("/"))
            else:
                self._client.log_model_artifact(model_id, str(path), folder or None)

    def finish(self, run_id: str, status: str, time_ms: int) -> None:
        """Mark the run as FINISHED, FAILED or KILLED."""
        with refusals():
            self._client.set_terminated(run_id, status, time_ms)

    def find_run(self, own_id: str) -> str | None:
        """MLflow's id of the run that has this id as a tag; None when there is none."""
        with refusals():
            experiments = [experiment.experiment_id for experiment in self._client.search_experiments()]
            runs = self._client.search_runs(experiments, f"tags.`{RUN_TAG}` = '{own_id}'", max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def download(self, run_id: str, folder: str, *, to: Path) -> Path:
        """Copy a folder of the run's artifacts into `to`, and return the path of the copy."""
        with refusals():
            return self._download(f"runs:/{run_id}/{folder}", to=to)

    def download_registered(self, name: str, version: str, *, to: Path) -> Path:
        """Copy the files of a version of a registered model into `to`, and return the path of the copy."""
        with refusals():
            return self._download(f"models:/{name}/{version}", to=to)

    def registered_version(self, name: str, *, version: str | None = None, alias: str | None = None) -> tuple[str, str]:
        """The number of a version of a registered model, given by it or by an alias, and a text that no other has.

        A name that was deleted and registered again begins anew with version 1.
        """
        with refusals():
            if alias is not None:
                found = self._client.get_model_version_by_alias(name, alias)
            else:
                found = self._client.get_model_version(name, str(version))
        return str(found.version), f"{self._uri} {name} {found.version} {found.creation_timestamp} {found.source}"

    def _download(self, uri: str, *, to: Path) -> Path:
        from mlflow.artifacts import download_artifacts

        address = _whole_address(self._uri)
        # Both: by default the registry is the one of the environment.
        return Path(download_artifacts(artifact_uri=uri, dst_path=str(to), tracking_uri=address, registry_uri=address))

    def _model_id(self, run_id: str, name: str) -> str | None:
        """MLflow's id of a model of the run; None where a server before MLflow 3 has no models."""
        if (run_id, name) not in self._models:
            model = self._find_model(self._client.get_run(run_id), name)
            self._models[run_id, name] = None if model is None else model.model_id
        return self._models[run_id, name]

    def _find_model(self, run: Run, name: str) -> LoggedModel | None:
        """The model of a run with this name. A crash after its creation must not create a second one."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.search_logged_models(
                [run.info.experiment_id], f"name = '{name}' AND source_run_id = '{run.info.run_id}'", max_results=1
            )
        except MlflowException as error:
            if _is_unknown_request(error):
                return None
            raise
        return next(iter(found), None)

    def _create_model(self, run: Run, record: Record) -> LoggedModel | None:
        from mlflow.exceptions import MlflowException

        try:
            return self._client.create_logged_model(
                run.info.experiment_id, record["name"], run.info.run_id, params=record["params"]
            )
        except MlflowException as error:
            if _is_unknown_request(error):
                return None
            raise

    def _experiment(self, start: Record) -> str:
        """The id of the experiment; it is created when it does not exist."""
        from mlflow.exceptions import MlflowException

        name = start["experiment"]
        experiment: Experiment | None = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                self._client.create_experiment(name, self._artifacts(name), EXPERIMENT_TAGS)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            # This run has created it, or another one in the meantime.
            experiment = self._client.get_experiment_by_name(name)
        assert experiment is not None
        if experiment.lifecycle_stage == "deleted":
            raise Refused(
                f"the experiment '{name}' is deleted in MLflow; restore it with `mlflow experiments restore "
                f"--experiment-id {experiment.experiment_id}`, or choose another name with tracking.experiment=NAME"
            )
        kind = experiment.tags.get(KIND_TAG, NO_KIND)
        # MLflow guesses a kind when a page is opened; a kind that a person chose stays.
        if kind in (NO_KIND, "") or kind.endswith("_inferred"):
            self._client.set_experiment_tag(experiment.experiment_id, KIND_TAG, EXPERIMENT_TAGS[KIND_TAG])
        self._describe(experiment, start)
        return str(experiment.experiment_id)

    def _describe(self, experiment: Experiment, start: Record) -> None:
        """Give the experiment a description and a view of its cells, unless it has them."""
        key, axes = experiment.experiment_id, start.get("axes")
        if axes is None:
            return
        # A view of runs without axes gives way to that of a sweep; a view that a person changed stays.
        views = [saved_view([], time_ms=0), None]
        if experiment.tags.get(VIEW_TAG) in (views if axes else views[1:]):
            self._client.set_experiment_tag(key, VIEW_TAG, saved_view(axes, time_ms=start["time"] if axes else 0))
        if NOTE_TAG not in experiment.tags:
            summary = start.get("summary", "")
            note = f"{summary}\n\n[All runs side by side]({view_address(key)})".strip()
            self._client.set_experiment_tag(key, NOTE_TAG, note)

    def _artifacts(self, name: str) -> str | None:
        """Where artifacts are stored: beside a SQLite database; None where a server decides."""
        database = database_of(self._uri)
        if database is None:
            return None
        return (database.absolute().parent / ARTIFACTS / _folder_name(name)).as_uri()


def _folder_name(experiment: str) -> str:
    """The name of the folder of an experiment's artifacts. No name of an experiment may lead out of the parent folder.

    >>> _folder_name("head depth"), _folder_name("..")
    ('head_depth', '_..')
    """
    name = re.sub(r"[^\w.\-]+", "_", experiment)
    return name if name.strip(".") else f"_{name}"


def mlflow_name(metric: str) -> str:
    """The name of a metric in MLflow; see `MEASURED`.

    >>> mlflow_name("perf/mfu"), mlflow_name("train/loss")
    ('system/perf_mfu', 'train/loss')
    """
    # One level, because MLflow makes a section of its own for `system/perf`.
    return SYSTEM + metric.replace("/", "_") if metric.startswith(MEASURED) else metric


def system_monitors() -> Sequence[BaseMetricsMonitor]:
    """MLflow's own monitors of processors, memory, disk and network, and of NVIDIA GPUs where there are any."""
    load_mlflow()
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    # It raises where the driver or its library is missing.
    with contextlib.suppress(ImportError, RuntimeError):
        monitors.append(GPUMonitor())
    return monitors


def _is_unknown_request(error: MlflowException) -> bool:
    """Whether the server is older than MLflow 3, and does not know requests about models."""
    return "error code 404" in str(error) or error.error_code == "ENDPOINT_NOT_FOUND"


def _build_database(path: Path) -> None:
    """Create MLflow's tables in a new file, with the experiment `Default`."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{path}", (path.parent / ARTIFACTS).as_uri())
    store.engine.dispose()


def _keep_artifacts_beside(database: Path) -> None:
    """Correct the addresses of artifacts after a move; a database that cannot be changed now is used as it is."""
    try:
        moved = move_artifact_addresses(database)
    except sqlite3.Error as error:
        warn_once(f"The addresses of artifacts in {database} are not checked: {describe(error)}.")
        return
    if moved:
        log.info("%s was moved: the artifacts of %d experiments are now read from beside it.", database, moved)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turn errors that a repeated request would give again into `Refused`."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    try:
        yield
    except MlflowException as error:
        if error.error_code in FINAL and not any(words in str(error) for words in MAY_PASS):
            raise Refused(describe(error)) from error
        raise
    except HTTPError as error:
        # A response is missing when the connection broke, which may pass.
        code = error.response.status_code if error.response is not None else 0
        if 400 <= code < 500 and code not in RETRIED_STATUS:
            raise Refused(describe(error)) from error
        raise


def mlflow_uploader(journal: RunJournal) -> Uploader:
    """The uploader of a journal to MLflow. The caller holds the journal's lock.

    Args:
        journal: in the folder of a run, beside which the folder of its parent lies.
    """
    root = journal.folder.parent.parent
    return Uploader(journal, connect=MlflowStore, parent_id=lambda parent: _mlflow_id(parent, root))


def _mlflow_id(parent: str, root: Path) -> str | None:
    """MLflow's id of a parent, given by its run folder or by MLflow's own id; None while MLflow does not have it."""
    try:
        folder = find(parent, root=root)
    except RunError:
        return parent
    journal = folder.journal
    # Nobody else uploads the parent when its lock is free: without this its children would stay pending.
    if folder.mlflow_run_id is None and journal.acquire():
        try:
            mlflow_uploader(journal).upload_next()
        finally:
            journal.release()
    return folder.mlflow_run_id


def database_of(uri: str) -> Path | None:
    """The file of a SQLite URI; None for any other URI.

    >>> database_of("sqlite:///mlflow.db?timeout=9"), database_of("sqlite:///:memory:"), database_of("http://host")
    (PosixPath('mlflow.db'), None, None)
    """
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(path) if uri.startswith("sqlite:///") and path and not path.startswith(":") else None
