"""Checks what a run needs of this machine without importing torch: devices, packages, folders, MLflow, the hub's cache.

The functions `..._problems` yield pairs of a dotted key and a message.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from basereward.errors import RunError, sentence
from basereward.io.files import cache_folder, is_special
from basereward.io.limits import kind_of
from basereward.io.names import folder_fault
from basereward.recipe import Recipe
from basereward.recipe.checks.rollouts import learns_from_rollouts, writes_by_vllm
from basereward.runs.run_folder import runs_root
from basereward.runs.tracking.mlflow_store import database_of, tracking_uri

Problem: TypeAlias = tuple[str, str]
"""A key of the recipe, and what is wrong with its value."""

DISK = "disk"
"""In the place of a key, for a fault of the free disk, which no key of the recipe decides."""
GPU_FILES = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd")
"""Files of the drivers of GPUs that torch calls `cuda`: NVIDIA's, those of Jetson and of WSL, and AMD's."""
DRIVERS = {"postgresql": ("psycopg2", "psycopg2-binary"), "mysql": ("MySQLdb", "mysqlclient"), "mssql": ("pyodbc",) * 2}
"""The module and the package with which SQLAlchemy opens a database when the address names no driver."""
DRIVER_PACKAGES = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "pymysql": "pymysql"}
"""Packages of drivers that an address names after `+`, where package and module differ or are well known."""

EXAMPLES = {"models": "Qwen/Qwen2.5-VL-3B-Instruct", "datasets": "trl-lib/rlaif-v"}


def machine_problems(recipe: Recipe, *, here: bool = True) -> Iterator[Problem]:
    """Yield everything that this machine lacks for a run and that can be found without torch.

    Args:
        recipe: of the run.
        here: whether the run is on this machine; the devices of others are not known.

    >>> from basereward.recipe.schema import TrainerRecipe
    >>> list(machine_problems(Recipe(trainer=TrainerRecipe(accelerator="cpu"))))
    []
    """
    if here:
        yield from accelerator_problems(recipe)
    yield from package_problems(recipe)
    yield from folder_problems(recipe)
    yield from store_problems(recipe)
    yield from backbone_problems(recipe)


def accelerator_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield an accelerator whose driver is surely missing. `device_problems` asks torch, which takes seconds.

    Args:
        recipe: of the run.

    >>> list(accelerator_problems(Recipe()))
    []
    """
    accelerator = recipe.trainer.accelerator
    has_driver = {
        "cuda": platform.system() != "Linux" or any(map(os.path.exists, GPU_FILES)),
        "mps": platform.system() == "Darwin",
    }
    has_driver["gpu"] = any(has_driver.values())
    if not has_driver.get(accelerator, True):
        yield "trainer.accelerator", f"{accelerator} given, and this machine has none. Allowed here: auto, cpu"
    if writes_by_vllm(recipe.objective) and not has_driver["cuda"]:
        yield "objective.rollouts", "vllm given, and this machine has no GPU. Allowed here: auto, transformers"


WITHOUT_PACKAGE = {
    "model.backbone.quantization": "null",
    "model.backbone.kernels": "none",
    "optimizer.kind": "adamw",
    "data.encoding.image_backend": "pil",
    "tracking.also": "[]",
    "objective": "null",
    "objective.rollouts": "auto",
}
"""Values that need no package, by the keys whose other values do."""


def package_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield packages that a recipe needs and that are not installed.

    Args:
        recipe: of the run.

    >>> list(package_problems(Recipe()))
    []
    """
    for key, value, module, package in _needed_packages(recipe):
        spec = importlib.util.find_spec(module)
        # Without an origin it is a folder of that name: Weights & Biases writes one into the working folder.
        if spec is None or spec.origin is None:
            yield (
                key,
                (
                    f"{value} given, and the package {module} is not installed. Install it (pip install {package}), "
                    f"or set {key}={WITHOUT_PACKAGE[key]}"
                ),
            )


def _needed_packages(recipe: Recipe) -> list[tuple[str, str, str, str]]:
    """Key, its value, the module that the value needs, and how to install it."""
    backbone, encoding = recipe.model.backbone, recipe.data.encoding
    needed: list[tuple[str, str, str, str]] = []
    if backbone.quantization is not None:
        needed.append(("model.backbone.quantization", backbone.quantization, "bitsandbytes", "bitsandbytes"))
    if recipe.optimizer.kind != "adamw":
        needed.append(("optimizer.kind", recipe.optimizer.kind, "bitsandbytes", "bitsandbytes"))
    if backbone.kernels == "liger":
        needed.append(("model.backbone.kernels", "liger", "liger_kernel", "'basereward[liger]'"))
    if encoding.image_backend == "torchvision":
        needed.append(("data.encoding.image_backend", "torchvision", "torchvision", "'basereward[video]'"))
    if learns_from_rollouts(recipe.objective):
        needed.append(("objective", str((recipe.objective or {})["_target_"]), "trl", "'basereward[rl]'"))
        if writes_by_vllm(recipe.objective):
            needed.append(("objective.rollouts", "vllm", "vllm", "'basereward[rl-vllm]'"))
    for name in recipe.tracking.also:
        # The names of the loggers are those of their packages and of our extras.
        needed.append(("tracking.also", name, name, f"'basereward[{name}]'"))
    return needed


def folder_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield a folder of runs, or of caches that the recipe needs, that cannot be written to. It need not exist yet.

    Args:
        recipe: of the run.

    >>> list(folder_problems(Recipe()))
    []
    """
    folders = [("the runs", "BASEREWARD_RUNS", runs_root())]
    # Other caches, such as that of lengths, only save time, and a run goes on without them.
    if recipe.model.backbone.make is not None or recipe.probe or recipe.data.encoding.feature_cache is not None:
        folders.append(("caches", "BASEREWARD_CACHE", cache_folder()))
    for name, variable, folder in folders:
        existing = nearest_folder(folder)
        if not existing.is_dir():
            yield "", f"the folder of {name} is {folder}, and {existing} is a file. Move it, or set {variable}"
        elif not os.access(existing, os.W_OK | os.X_OK) or existing == Path("/proc"):
            yield "", f"the folder of {name} is {folder}, and {existing} cannot be written to. Set {variable}"


def nearest_folder(path: Path) -> Path:
    """Return the path, or the nearest of its parents that exists: new folders are made below it.

    >>> nearest_folder(Path("/no/such/folder"))
    PosixPath('/')
    """
    return next(place for place in (path.absolute(), *path.absolute().parents) if os.path.lexists(place))


def store_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield an address at which MLflow has no store. No connection is made.

    Args:
        recipe: of the run.

    >>> from basereward.recipe.schema import TrackingRecipe
    >>> [key for key, message in store_problems(Recipe(tracking=TrackingRecipe(uri="htp://host")))]
    ['tracking.uri']
    """
    try:
        uri = tracking_uri(recipe.tracking.uri)
    except RunError as error:
        yield "tracking.uri", str(error)
        return
    fault = _database_fault(uri) or _driver_fault(uri)
    if fault:
        remedy = "Set MLFLOW_TRACKING_URI or tracking.uri to another address, such as sqlite:///mlflow.db"
        yield "tracking.uri", f"MLflow cannot open its store: {sentence(fault)} {remedy}"


def _content_fault(file: Path) -> str:
    """What is wrong with a file that should be a SQLite database; '' for nothing."""
    if is_special(file):
        # Opening a pipe would wait for a writer.
        return f"{file} is {kind_of(file)} and no database"
    with file.open("rb") as opened:
        start = opened.read(16)
    # An empty file is what `touch` leaves, and SQLite takes it for a new database.
    return "" if not start or start.startswith(b"SQLite format 3") else f"{file} is no SQLite database"


def _database_fault(uri: str) -> str:
    """What is wrong with the file of a SQLite address; '' for any other address."""
    file = database_of(uri)
    if file is None:
        return ""
    place = nearest_folder(file)
    if place == file and file.is_dir():
        return f"{file} is a folder and no database"
    if place == file:
        return _content_fault(file)
    if not place.is_dir():
        return f"{place} is no folder, so there is no {file}"
    return "" if os.access(place, os.W_OK | os.X_OK) else f"{file} cannot be made, because {place} cannot be written to"


def _driver_fault(uri: str) -> str:
    """A database whose Python driver is not installed; '' for any other address."""
    scheme = uri.partition("://")[0]
    dialect, _, driver = scheme.partition("+")
    if dialect not in DRIVERS:
        return ""
    module, package = (driver, DRIVER_PACKAGES.get(driver, driver)) if driver else DRIVERS[dialect]
    if not module.isidentifier() or importlib.util.find_spec(module) is not None:
        return ""
    return f"{scheme}:// needs the package {package}, which is not installed (pip install '{package}')"


def backbone_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield a backbone in a folder that does not exist, or one of the hub that offline mode cannot reach.

    Args:
        recipe: of the run.

    >>> from basereward.recipe.schema import BackboneRecipe, ModelRecipe
    >>> recipe = Recipe(model=ModelRecipe(backbone=BackboneRecipe(path="./no-such-folder")))
    >>> [key for key, message in backbone_problems(recipe)]
    ['model.backbone.path']
    """
    path = recipe.model.backbone.path
    if path is None:
        return
    path = os.path.expanduser(path)
    if fault := folder_fault(path) or hub_fault(path, kind="models"):
        yield "model.backbone.path", fault
    elif os.path.isdir(path) and not os.path.exists(os.path.join(path, "config.json")):
        found = ", ".join(sorted(os.listdir(path))[:5]) or "nothing"
        yield (
            "model.backbone.path",
            (
                f"no model could be loaded from '{path}': it has no config.json (found: {found}). Give a hub id, or a "
                "folder with config.json, *.safetensors and a tokenizer."
            ),
        )


def hub_fault(path: str, *, kind: str) -> str | None:
    """What is wrong with an id of the Hugging Face Hub; None for a local path, and for an id that may be right.

    The hub is not asked. In offline mode only what is in its cache can be loaded.

    Args:
        path: of a recipe.
        kind: `models` or `datasets`.

    >>> hub_fault("Qwen Qwen", kind="models")
    "'Qwen Qwen' is no folder here and no id of the hub: an id has letters, digits, '-', '_' and '.', ..."
    """
    if os.path.exists(path):
        return None
    if not all(character.isalnum() or character in "-_./" for character in path) or path.strip("/") != path:
        return (
            f"'{path}' is no folder here and no id of the hub: an id has letters, digits, '-', '_' and '.', and at "
            f"most one '/'. Correct the path, or give an id such as {EXAMPLES[kind]}"
        )
    if not _is_offline(kind) or _is_cached(path, kind):
        return None
    return (
        f"'{path}' is not in the cache of the hub, and HF_HUB_OFFLINE forbids to load it. Unset HF_HUB_OFFLINE, or "
        f"load it once on a machine with a network (hf download {path}), or give a folder"
    )


def _is_offline(kind: str) -> bool:
    names = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE" if kind == "models" else "HF_DATASETS_OFFLINE"]
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def _is_cached(path: str, kind: str) -> bool:
    """Whether a repository has a folder in a cache, by the rules of huggingface_hub and datasets for their folders."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    home = Path(os.environ.get("HF_HOME") or home).expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or home / "hub")
    if (hub / f"{kind}--{path.replace('/', '--')}").exists():
        return True
    prepared = Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets")
    return kind == "datasets" and (prepared / path.replace("/", "___").lower()).exists()


def local_facts(recipe: Recipe) -> dict[str, Any]:
    """Return where a run would write: `runs`, `cache` and `tracking`, the first two with their free bytes.

    Args:
        recipe: of the run; its address of MLflow is right.

    >>> sorted(local_facts(Recipe()))
    ['cache', 'runs', 'tracking']
    """
    facts: dict[str, Any] = {}
    for name, folder in (("runs", runs_root()), ("cache", cache_folder())):
        facts[name] = {"path": str(folder.absolute()), "free": shutil.disk_usage(nearest_folder(folder)).free}
    return {**facts, "tracking": tracking_uri(recipe.tracking.uri)}
