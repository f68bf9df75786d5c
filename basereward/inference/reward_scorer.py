"""The common type of what `basereward.load` returns: a model or an ensemble in this process."""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch

from basereward.data.schema.image_references import ImageReference
from basereward.errors import ModelError
from basereward.inference.export.push import check_repository, push_folder
from basereward.inference.group_scores import ChatPrompt, ScoresEncodedGroups
from basereward.inference.prompt_cache import PromptScorer
from basereward.io.files import write_atomic
from basereward.model.saving.saved_model import MODEL_CARD


class RewardScorer(ScoresEncodedGroups):
    """A reward model or an ensemble, ready to score. Threads may share it.

    `score` takes one prompt, `score_rows` many, and `score_groups` groups that are read already.

    Attributes:
        scores: `mean` and `std` of the scores on validation data; empty if they are not known, as for an ensemble.

    Example:
        model: RewardScorer = basereward.load("RUN")
        model.score("2 + 2?", ["4", "5"])
        model.to("cuda").score_rows(rows)
        model.save_pretrained("model")
    """

    scores: dict[str, float]

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device of all weights."""

    @abstractmethod
    def to(self, device: str | torch.device) -> Self:
        """The same object, with its weights moved to a device."""

    @abstractmethod
    def prompt(
        self, prompt: ChatPrompt, *, images: Sequence[ImageReference] = (), videos: Sequence[Any] = ()
    ) -> PromptScorer:
        """Encodes a prompt, its images and its videos once, to score responses over several calls.

        Args:
            prompt, images, videos: as in `score`.

        Raises:
            DataError: as `score`.
            ModelError: this model reads a complete prompt with its responses: it is an ensemble, the head is
                generative, or the backbone has windowed attention.
        """

    @abstractmethod
    def save(self, folder: str | Path) -> None:
        """Writes a folder that `basereward.load` opens, atomically; it replaces an older saved model.

        Args:
            folder: a folder with files that are not of a saved model is rejected and not changed.

        Raises:
            ModelError: the folder has other files, or is or contains the working folder or the home folder.
            CheckpointError: the folder cannot be written, for example because the disk is full.
        """

    @abstractmethod
    def model_card(self) -> str:
        """A page about the model in Markdown, with the metadata that the Hugging Face hub reads."""

    @abstractmethod
    def backbone_folders(self) -> list[str]:
        """The folders of this machine that a saved copy needs: backbones that are not saved with the model."""

    def save_pretrained(self, folder: str | Path) -> None:
        """As `save`, with `model_card` as README.md: the folder that `push_to_hub` uploads.

        `basereward.from_pretrained` and `basereward.load` open it.

        Raises:
            ModelError, CheckpointError: as `save`.
        """
        self.save(folder)
        write_atomic(Path(folder) / MODEL_CARD, self.model_card())

    def push_to_hub(self, repository: str, *, private: bool = True, token: str | None = None) -> str:
        """Uploads the folder of `save_pretrained` to the Hugging Face hub as one commit.

        Args:
            repository: OWNER/NAME. A repository that does not exist is created; one that exists stays as public or as
                private as it is.
            private: whether a new repository is private.
            token: of the hub; None: that of `hf auth login` or HF_TOKEN.

        Returns:
            The address of the repository.

        Raises:
            ModelError: the name cannot be that of a repository, there is no token, the hub is switched off, refuses the
                upload or does not answer; or a backbone lies in a folder of this machine, so that nobody else could
                open the model.
        """
        folders = self.backbone_folders()
        if folders:
            raise ModelError(
                f"the model has only its head and its adapters, and its backbone is the folder '{folders[0]}' of this "
                "machine, so nobody else could open it. Merge adapters into the backbone with merged(), or train on a "
                "backbone with a hub id"
            )
        check_repository(repository, token=token)
        with tempfile.TemporaryDirectory(prefix="basereward-") as temporary:
            folder = Path(temporary, "model")
            self.save_pretrained(folder)
            return push_folder(folder, repository, private=private, token=token)
