"""A model on this machine as a judge's engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from basereward.data.encoding.encoder import EncodedGroup, Encoder
from basereward.data.schema.group import Group
from basereward.errors import ModelError
from basereward.inference.judges.batches import BATCH_SIZE, EncodedRequest, in_batches
from basereward.inference.judges.chat_model import ChatModel
from basereward.inference.judges.engine import Answer, Completion, OnCompletion, Request
from basereward.model.backbone import load_backbone, load_config
from basereward.model.families.lm_head import load_language_head
from basereward.model.families.processing import load_encoder
from basereward.model.generation.generate import SamplingParams, TextGenerator


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

        def complete(encoded: Sequence[EncodedRequest]) -> Iterator[Completion]:
            # By the request and not by its batch: a resumed call has other batches.
            names = [request.id for request, _ in encoded]
            texts = self.chat.generate([group for _, group in encoded], sampling, names=names)
            for (request, _), generated in zip(encoded, texts, strict=True):
                yield Completion(request.id, generated.text, generated.prompt_tokens, generated.tokens)

        return in_batches(
            requests, self.batch_size, encode=self._encoded, complete=complete, on_completion=on_completion
        )

    def _encoded(self, request: Request) -> EncodedGroup:
        return self.chat.encode(Group(request.id, "judge", request.turns, ("",), images=request.images))
