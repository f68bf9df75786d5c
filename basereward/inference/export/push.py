"""Uploads folders of models to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

from basereward.errors import ModelError
from basereward.inference.export.model_card import is_hub_id

HUB_ERRORS = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)
"""What the library raises where the hub refuses or does not answer. The base classes are OSError and that of all errors
of its HTTP client, which is another package in other versions of the library."""
REPLACED = ["*.safetensors", "*.safetensors.index.json", "adapter/*", "backbone/*", "members/*", "processor/*"]
"""Files of an earlier upload that are deleted, so that none of its weights is taken for one of the new model."""


def check_repository(repository: str, *, token: str | None = None) -> None:
    """Checks what can be known about an upload before it begins.

    Args:
        repository: where to upload to.
        token: of the hub; None: that of `hf auth login` or HF_TOKEN.

    Raises:
        ModelError: the name cannot be that of a repository, the hub is switched off, or there is no token.

    >>> check_repository("my model")
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: 'my model' is no name of a repository; OWNER/NAME is needed, such as ...
    """
    if not is_hub_id(repository):
        raise ModelError(
            f"'{repository}' is no name of a repository; OWNER/NAME is needed, such as my-name/my-reward-model, of "
            "letters, digits, '-', '_' and '.'"
        )
    if huggingface_hub.constants.is_offline_mode():
        raise ModelError("nothing can be uploaded: the hub is switched off by HF_HUB_OFFLINE=1; unset it")
    if token is None and huggingface_hub.get_token() is None:
        raise ModelError("nothing can be uploaded: there is no token of the hub; run `hf auth login`, or set HF_TOKEN")


def push_folder(folder: Path, repository: str, *, private: bool = True, token: str | None = None) -> str:
    """Uploads a folder as one commit.

    Args:
        folder: of a model.
        repository: OWNER/NAME; it is created if it does not exist.
        private: whether a new repository is private. What is public cannot be taken back.
        token: of the hub; None: that of `hf auth login` or HF_TOKEN.

    Returns:
        The address of the repository.

    Raises:
        ModelError: the hub refuses it or does not answer. The folder stays.
    """
    api = huggingface_hub.HfApi(token=token)
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=repository,
            commit_message="Upload a reward model by BaseReward",
            delete_patterns=REPLACED,
        )
    except HUB_ERRORS as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"the upload to '{repository}' has failed: {reason}") from error
    return str(address)
