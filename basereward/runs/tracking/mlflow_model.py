"""Makes the folder of a saved model an MLflow model: `MLmodel` with the flavour `pyfunc`, a signature and an example.

MLflow then opens it (`mlflow.pyfunc.load_model`), serves it (`mlflow models serve`) and registers it. Nothing is
pickled: `MLmodel` names `LOADER`, a module of this package, which opens the folder as `basereward.load` does.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basereward.io.files import write_atomic
from basereward.runs.tracking.mlflow_store import load_mlflow

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

MODEL_FILE = "MLmodel"
"""Written last: a folder that has it is complete."""
LOADER = "basereward.inference.mlflow_loader"
EXAMPLE_FILE = "input_example.json"
SERVING_FILE = "serving_input_example.json"
REQUIREMENTS_FILE = "requirements.txt"
PYTHON_FILE = "python_env.yaml"
REQUIREMENTS = ("basereward", "mlflow", "torch", "transformers")
OPTIONAL = ("images", "image", "response_images", "videos", "video", "system")
"""Columns of rows that a model reads beside `prompt` and `responses`. MLflow drops all that the signature lacks, before
the model sees them, so that a row would be scored without what stands there."""
EXAMPLE: dict[str, list[Any]] = {"prompt": ["What is 2 + 2?"], "responses": [["4", "5"]]}
"""One row by columns: a prompt and two responses, which every head can score."""


def write_mlflow_model(folder: Path, *, metadata: Mapping[str, str]) -> None:
    """Add the files of an MLflow model to the folder of a saved model.

    Args:
        folder: of a saved model, or of an ensemble.
        metadata: stored in `MLmodel`, such as the id of the run.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_mlflow_model(folder, metadata={"run_id": "20260314-153012-9f2c41"})
    >>> sorted(file.name for file in folder.iterdir())
    ['MLmodel', 'input_example.json', 'python_env.yaml', 'requirements.txt', 'serving_input_example.json']
    """
    load_mlflow()
    import mlflow.pyfunc
    from mlflow.models import Model

    rows = [list(row) for row in zip(*EXAMPLE.values(), strict=True)]
    table = {"columns": list(EXAMPLE), "data": rows}
    write_atomic(folder / EXAMPLE_FILE, json.dumps(table))
    write_atomic(folder / SERVING_FILE, json.dumps({"dataframe_split": table}))
    write_atomic(folder / REQUIREMENTS_FILE, "".join(f"{line}\n" for line in _requirements()))
    write_atomic(folder / PYTHON_FILE, _python_environment())
    example = {"artifact_path": EXAMPLE_FILE, "serving_input_path": SERVING_FILE}
    example |= {"type": "dataframe", "pandas_orient": "split"}
    model = Model(signature=_signature(), saved_input_example_info=example, metadata=dict(metadata))
    mlflow.pyfunc.add_to_model(model, loader_module=LOADER, python_env=PYTHON_FILE)
    write_atomic(folder / MODEL_FILE, model.to_yaml())


def _signature() -> ModelSignature:
    """The columns of a row, and its scores.

    The type `any` lets a prompt be a text or messages, and lets rows with and without images stand in one table: pandas
    fills an empty cell with NaN, which MLflow refuses in a column of arrays.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Array

    inputs = Schema(
        [
            ColSpec(AnyType(), "prompt"),
            ColSpec(Array(DataType.string), "responses"),
            *(ColSpec(AnyType(), name, required=False) for name in OPTIONAL),
        ]
    )
    return ModelSignature(inputs=inputs, outputs=Schema([ColSpec(Array(DataType.double), "scores")]))


def _python_environment() -> str:
    """The environment in which `mlflow models serve` runs the model.

    >>> _python_environment().splitlines()[1:]
    ['dependencies:', '- -r requirements.txt']
    """
    return f"python: {platform.python_version()}\ndependencies:\n- -r {REQUIREMENTS_FILE}\n"


def _requirements() -> list[str]:
    """The packages that scoring needs, with their versions here.

    >>> [line.partition("==")[0] for line in _requirements()]
    ['basereward', 'mlflow', 'torch', 'transformers']
    """
    # A local version such as 2.13.0+cpu is on no index.
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS]
