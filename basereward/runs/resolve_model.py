"""Where a saved model lies, however it is named."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from basereward.errors import ModelError, RunError
from basereward.runs.tracking.uploader import describe
from basereward.runs.run_folder import RunFolder, find, runs_root

MODEL = "model"


def locate(model: str | Path, *, uri: str | None = None, root: Path | None = None) -> Path:
    """The folder of a saved model, given as a folder (of a model or of a run), a run's id, or `runs:/ID[/model]`.

    A run is looked for among the local run folders, then in MLflow, whose copy is kept in `runs/downloads`.

    Raises:
        RunError: when there is no such run, here or in MLflow.
        ModelError: when the run has no model, or the folder is not there.
    """
    text = str(model)
    if text.startswith("runs:"):
        run_id, _, folder = text.removeprefix("runs:").strip("/").partition("/")
        return _of_run(run_id, folder or MODEL, uri=uri, root=root)
    path = Path(model).expanduser().absolute()
    if path.is_dir():
        return _of_folder(RunFolder(path), MODEL) if (path / "status.json").is_file() else path
    if isinstance(model, Path) or os.sep in text:
        raise ModelError(f"There is no folder {path}. A model is the folder of a saved model, a run's id, or runs:/ID.")
    return _of_run(text, MODEL, uri=uri, root=root)


def _of_run(run_id: str, folder: str, *, uri: str | None, root: Path | None) -> Path:
    try:
        run = find(run_id, root=root)
    except RunError as error:
        return _download(run_id, folder, uri=uri, root=root, not_here=error)
    return _of_folder(run, folder)


def _of_folder(run: RunFolder, folder: str) -> Path:
    path = run.path / folder
    if not path.is_dir():
        raise ModelError(f"Run {run.run_id} ({run.state}) has no folder '{folder}' in {run.path}.")
    return path


def _download(run_id: str, folder: str, *, uri: str | None, root: Path | None, not_here: RunError) -> Path:
    from basereward.runs.tracking.mlflow_store import MlflowStore, masked, tracking_uri

    root = (root or runs_root()).absolute()
    place = root / "downloads" / run_id / folder
    if place.is_dir():
        return place
    where = tracking_uri(uri)
    if where.startswith("sqlite:///") and not Path(where.removeprefix("sqlite:///")).exists():
        raise not_here  # asking would only make an empty database
    temporary = root / "downloads" / f".{secrets.token_hex(4)}"
    try:
        temporary.mkdir(parents=True)
        store = MlflowStore(where)
        copy = store.download(store.find_run(run_id) or run_id, folder, to=temporary)
        place.parent.mkdir(parents=True, exist_ok=True)
        copy.rename(place)
    except Exception as error:  # MLflow's library raises many kinds, and each means that the model cannot be had
        raise RunError(f"{not_here} MLflow at {masked(where)} has no such model either ({describe(error)}).") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return place
