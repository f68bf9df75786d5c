"""Uploads an exported model to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from basereward.errors import ModelError
from basereward.inference.export.model_card import is_hub_id


def check_repository(repository: str) -> None:
    """Checks what can be known about an upload before it begins.

    Raises:
        ModelError: the name cannot be that of a repository, the hub is switched off, or there is no token.

    >>> check_repository("my model")
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: --push 'my model' is no name of a repository; OWNER/NAME is needed, such as ...
    """
    if not is_hub_id(repository):
        raise ModelError(
            f"--push '{repository}' is no name of a repository; OWNER/NAME is needed, such as my-name/my-reward-model, "
            "of letters, digits, '-', '_' and '.'"
        )
    if huggingface_hub.constants.is_offline_mode():
        raise ModelError("--push: the hub is switched off by HF_HUB_OFFLINE=1; unset it, or leave --push out")
    if huggingface_hub.get_token() is None:
        raise ModelError("--push: there is no token of the hub; run `hf auth login`, or set HF_TOKEN")


def push_folder(folder: Path, repository: str) -> str:
    """Uploads a folder as one commit; a repository that does not exist is created, and is private.

    Returns:
        The address of the repository.

    Raises:
        ModelError: the hub refuses it or does not answer. The folder stays.
    """
    api = huggingface_hub.HfApi()
    try:
        # What is public cannot be taken back, so the user makes it public.
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository, commit_message="Upload a reward model by BaseReward")
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"--push {repository}: {reason} The export is complete in '{folder}'; `hf upload {repository} {folder}` "
            "uploads it again"
        ) from error
    return str(address)
