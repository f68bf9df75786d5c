"""Finds the folder of a saved model, given as a path, a run id or an MLflow address."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from basereward.errors import ModelError, RunError
from basereward.runs.run_folder import RunFolder, find, runs_root
from basereward.runs.tracking.uploader import describe

MODEL = "model"


def resolve_model(model: str | Path, *, uri: str | None = None, root: Path | None = None) -> Path:
    """Find the folder of a saved model.

    A run is searched among the local run folders, then in MLflow; the download is kept in `runs/downloads`.

    Args:
        model: the folder of a model or of a run, the id of a run, or `runs:/ID[/model]`.
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


def _download(run_id: str, folder: str, *, uri: str | None, root: Path | None, local_error: RunError) -> Path:
    # MLflow takes seconds to import, and most models are local.
    from basereward.runs.tracking.mlflow_store import MlflowStore, masked, tracking_uri

    root = (root or runs_root()).absolute()
    target = root / "downloads" / run_id / folder
    if target.is_dir():
        return target
    address = tracking_uri(uri)
    if address.startswith("sqlite:///") and not Path(address.removeprefix("sqlite:///")).exists():
        # MLflow's client would only create an empty database.
        raise local_error
    # Downloaded under another name and then renamed, so that an interrupted download is not taken for a model.
    temporary = root / "downloads" / f".{secrets.token_hex(4)}"
    try:
        temporary.mkdir(parents=True)
        store = MlflowStore(address)
        copy = store.download(store.find_run(run_id) or run_id, folder, to=temporary)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy.rename(target)
    except Exception as error:
        # MLflow raises errors of many types; with each of them there is no model.
        raise RunError(
            f"{local_error} MLflow at {masked(address)} has no such model either ({describe(error)})."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
