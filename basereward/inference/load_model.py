"""Opens trained models: runs, folders, models of MLflow, and repositories of the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path

import huggingface_hub

from basereward.errors import ModelError, sentence
from basereward.inference.ensemble import ENSEMBLE, is_ensemble, load_ensemble
from basereward.inference.export.model_card import is_hub_id
from basereward.inference.export.push import HUB_ERRORS
from basereward.inference.reward_scorer import RewardScorer
from basereward.inference.scorer import load_scorer
from basereward.io.progress import phase
from basereward.model.saving.card import CARD
from basereward.recipe.trust import trusting
from basereward.runs.resolve_model import resolve_model

DOWNLOADED = ("*.json", "*.safetensors", "*.yaml", "*.txt", "*.model", "*.jinja", "README.md")
"""The files of a saved model. A pickle in a repository is not even downloaded."""
CODE = ("*.py",)
"""Of a tokenizer or a backbone with code of its own, which runs only with trust."""


def load(
    model: str | os.PathLike[str], *, device: str | None = None, dtype: str | None = None, trust: bool = False
) -> RewardScorer:
    """Opens a trained model (a `Scorer`), or an ensemble of them (an `Ensemble`).

    Args:
        model: a run id, `runs:/<run id>/model`, `models:/<name>/<version>`, or a folder that was saved.
        device: None: the GPU if there is one.
        dtype: of the backbone's weights, `float32` or `bfloat16`; None: as in training. The head is always in float32.
        trust: whether heads from outside of this package, and Python files of the checkpoint, may run. A folder from
            elsewhere can name any code, so only the caller can allow it.

    Raises:
        RunError: there is no such run.
        ModelError: the folder is not a saved model, or its weights do not fit; there is no such dtype, or the weights
            are quantised and cannot be cast to it.
    """
    folder = resolve_model(str(model))
    with trusting(trust):
        if is_ensemble(folder):
            return load_ensemble(folder, find=resolve_model, device=device, dtype=dtype)
        return load_scorer(folder, device=device, dtype=dtype)


def from_pretrained(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    trust: bool = False,
) -> RewardScorer:
    """Opens a model of the Hugging Face hub that `push_to_hub` has uploaded; or, as `load`, a folder or a run.

    Args:
        model: OWNER/NAME of the hub, or as in `load`. A folder of this name comes first.
        revision: branch, tag or commit of the repository; None: its main branch.
        token: of the hub, for a private repository; None: that of `hf auth login` or HF_TOKEN.
        device, dtype, trust: as in `load`.

    Raises:
        RunError: as `load`.
        ModelError: as `load`; or there is no such repository, the hub does not answer, or the repository holds another
            kind of model.
    """
    path = os.path.expanduser(model)
    if os.path.isdir(path) or not is_hub_id(str(model)):
        if revision is not None:
            raise ModelError(
                f"revision is '{revision}', and '{model}' is no repository of the hub; only OWNER/NAME has revisions"
            )
        return load(path, device=device, dtype=dtype, trust=trust)
    folder = _download(str(model), revision=revision, token=token, patterns=[*DOWNLOADED, *(CODE if trust else ())])
    return load(folder, device=device, dtype=dtype, trust=trust)


def _download(repository: str, *, revision: str | None, token: str | None, patterns: list[str]) -> Path:
    """The files of a repository, in the cache of the hub.

    Raises:
        ModelError: there is no such repository, the hub does not answer, or the repository holds no saved model.
    """
    try:
        with phase(f"downloading {repository}"):
            folder = Path(
                huggingface_hub.snapshot_download(repository, revision=revision, token=token, allow_patterns=patterns)
            )
    except HUB_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        at = "" if revision is None else f" at revision '{revision}'"
        raise ModelError(
            f"'{repository}' cannot be opened: there is no folder {os.path.abspath(repository)}, and no such model{at} "
            f"came from the hub: {sentence(reason)} Give a folder, a run id, or OWNER/NAME; a private repository needs "
            "a token"
        ) from error
    if not (folder / CARD).is_file() and not (folder / ENSEMBLE).is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise ModelError(
            f"the repository '{repository}' holds no model that push_to_hub has uploaded: it has no {CARD} (found: "
            f"{found}). `basereward import` converts published reward models of other forms"
        )
    return folder
