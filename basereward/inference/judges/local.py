"""A model on this machine as a judge's engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from basereward.data.encoding.encoder import EncodedGroup, Encoder
from basereward.data.schema.group import Group
from basereward.data.schema.rejections import RowRejected
from basereward.errors import ModelError
from basereward.inference.judges.chat_model import ChatModel
from basereward.inference.judges.engine import Answer, Completion, Failed, OnCompletion, Request, several
from basereward.model.backbone import load_backbone, load_config
from basereward.model.families.lm_head import load_language_head
from basereward.model.families.processing import load_encoder
from basereward.model.generation.generate import SamplingParams, TextGenerator

# Prompts in a batch.
BATCH_SIZE = 16


class LocalEngine:
    """Generates with transformers' `generate`.

    Args:
        path: hub id or folder of a checkpoint with its language-model head.
        max_tokens: limit of a prompt; longer prompts fail.
        batch_size: requests in a batch.

    Raises:
        ModelError: the checkpoint cannot be loaded, or has no language-model head.
    """

    def __init__(self, path: str, *, max_tokens: int = 32_768, batch_size: int = BATCH_SIZE) -> None:
        if (Path(path) / "reward_model.json").is_file():
            raise ModelError(
                f"'{path}' is a saved reward model and not a chat model. Evaluate it with `basereward eval {path}`, or "
                "give a chat checkpoint"
            )
        self.name = path
        self.batch_size = batch_size
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        backbone = load_backbone(path, dtype=dtype)
        self.encoder: Encoder = load_encoder(path, max_tokens=max_tokens)
        language = load_language_head(path, load_config(path), dtype=dtype)
        backbone.eval().to(device)
        language.to(device)
        end, pad = self.encoder.end_of_turn, self.encoder.pad_id
        self.chat = ChatModel(self.encoder, TextGenerator(backbone, language, end=end, pad=pad), device=device)

    def generate(
        self, requests: Iterable[Request], sampling: SamplingParams, *, on_completion: OnCompletion | None = None
    ) -> Iterator[Answer]:
        """As `Engine.generate`, one batch after the other."""
        for batch in several(requests, self.batch_size):
            encoded: list[tuple[Request, EncodedGroup]] = []
            for request in batch:
                try:
                    encoded.append((request, self._encoded(request)))
                except RowRejected as rejection:
                    yield Failed(request.id, f"{rejection.reason}: {rejection.detail}", 0, refused=True)
            for completion in self._completions(encoded, sampling):
                if on_completion is not None:
                    on_completion(completion)
                yield completion

    def _completions(
        self, encoded: list[tuple[Request, EncodedGroup]], sampling: SamplingParams
    ) -> Iterator[Completion]:
        """Generates the texts of one batch."""
        # Every request of the batch may have been rejected, and a batch of tree rows cannot be empty.
        if not encoded:
            return
        texts = self.chat.generate([group for _, group in encoded], sampling)
        for (request, _), generated in zip(encoded, texts, strict=True):
            yield Completion(request.id, generated.text, generated.prompt_tokens, generated.tokens)

    def _encoded(self, request: Request) -> EncodedGroup:
        return self.chat.encode(Group(request.id, "judge", request.turns, ("",), images=request.images))
