"""Finds the folder of a saved model, given as a path, a run id or an MLflow address."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from basereward.errors import ModelError, RunError
from basereward.io.names import name_problem
from basereward.runs.run_folder import RunFolder, find, runs_root
from basereward.runs.tracking.uploader import describe

if TYPE_CHECKING:
    from basereward.runs.tracking.mlflow_store import MlflowStore

Answer = TypeVar("Answer")
MODEL = "model"


def resolve_model(model: str | Path, *, uri: str | None = None, root: Path | None = None) -> Path:
    """Find the folder of a saved model.

    A run is searched among the local run folders, then in MLflow; the download is kept in `runs/downloads`.

    Args:
        model: the folder of a model or of a run, the id of a run, `runs:/ID[/model]`, or a model of MLflow's registry,
            `models:/NAME/VERSION` or `models:/NAME@ALIAS`.
        uri: address of the MLflow store.
        root: folder of all runs.

    Raises:
        RunError: there is no such run, neither here nor in MLflow.
        ModelError: the run has no model, or the folder does not exist.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> resolve_model(folder) == Path(folder)
    True
    """
    text = str(model)
    if text.startswith("models:"):
        return _registered_model(text, uri=uri, root=root)
    if text.startswith("runs:"):
        run_id, _, folder = text.removeprefix("runs:").strip("/").partition("/")
        return _model_of_run(run_id, folder or MODEL, uri=uri, root=root)
    path = Path(model).expanduser().absolute()
    if path.is_dir():
        return _model_in_folder(RunFolder(path), MODEL) if (path / "status.json").is_file() else path
    # A run id holds no separator.
    if isinstance(model, Path) or os.sep in text:
        raise ModelError(f"There is no folder {path}. Give the folder of a saved model, the id of a run, or runs:/ID.")
    return _model_of_run(text, MODEL, uri=uri, root=root)


def _model_of_run(run_id: str, folder: str, *, uri: str | None, root: Path | None) -> Path:
    try:
        run = find(run_id, root=root)
    except RunError as error:
        return _download(run_id, folder, uri=uri, root=root, local_error=error)
    return _model_in_folder(run, folder)


def _model_in_folder(run: RunFolder, folder: str) -> Path:
    path = run.path / folder
    if not path.is_dir():
        raise ModelError(f"Run {run.run_id} ({run.state}) has no folder '{folder}' in {run.path}.")
    return path


def _registered_model(address: str, *, uri: str | None, root: Path | None) -> Path:
    """The folder of a version of a registered model."""
    kind = "alias" if "@" in address else "version"
    name, _, value = address.removeprefix("models:").strip("/").rpartition("@" if kind == "alias" else "/")
    if name_problem(name) or name_problem(value):
        raise ModelError(f"'{address}' is no model of a registry; give models:/NAME/VERSION or models:/NAME@ALIAS")
    fault = RunError(f"There is no model {address}.")
    # Asked each time: an alias moves, and a name can be registered again.
    version, identity = _ask_mlflow(lambda store: store.registered_version(name, **{kind: value}), uri=uri, fault=fault)

    def download(store: MlflowStore, to: Path) -> Path:
        return store.download_registered(name, version, to=to)

    folder = f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    return _download_once(Path(folder, version), download, uri=uri, root=root, fault=fault)


def _download(run_id: str, folder: str, *, uri: str | None, root: Path | None, local_error: RunError) -> Path:
    def download(store: MlflowStore, to: Path) -> Path:
        return store.download(store.find_run(run_id) or run_id, folder, to=to)

    return _download_once(Path(run_id, folder), download, uri=uri, root=root, fault=local_error)


def _download_once(
    name: Path,
    download: Callable[[MlflowStore, Path], Path],
    *,
    uri: str | None,
    root: Path | None,
    fault: RunError,
) -> Path:
    """Download a model into the folder of downloads, under a name, unless it is there already."""
    downloads = (root or runs_root()).absolute() / "downloads"
    target = downloads / name
    if target.is_dir():
        return target
    # Downloaded under another name and then renamed, so that an interrupted download is not taken for a model.
    temporary = downloads / f".{secrets.token_hex(4)}"

    def place(store: MlflowStore) -> Path:
        temporary.mkdir(parents=True)
        copy = download(store, temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy.rename(target)
        return target

    try:
        return _ask_mlflow(place, uri=uri, fault=fault)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _ask_mlflow(question: Callable[[MlflowStore], Answer], *, uri: str | None, fault: RunError) -> Answer:
    """Ask the MLflow store.

    Raises:
        RunError: `fault`, where there is no store; or it with the reason of MLflow.
    """
    # MLflow takes seconds to import, and most models are local.
    from basereward.runs.tracking.mlflow_store import MlflowStore, masked, tracking_uri

    address = tracking_uri(uri)
    if address.startswith("sqlite:///") and not Path(address.removeprefix("sqlite:///")).exists():
        # MLflow's client would only create an empty database.
        raise fault
    try:
        return question(MlflowStore(address))
    except Exception as error:
        # MLflow raises errors of many types; with each of them there is no model.
        raise RunError(f"{fault} MLflow at {masked(address)} has no such model either ({describe(error)}).") from error
