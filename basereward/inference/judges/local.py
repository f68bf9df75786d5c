"""A model on this machine as a judge's engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from basereward.data.batching.tree_batch import collate
from basereward.data.encoding.encoder import EncodedGroup, Encoder
from basereward.data.schema.group import Group
from basereward.data.schema.rejections import RowRejected
from basereward.errors import ModelError
from basereward.inference.judges.engine import Answer, Arrived, Failed, Request, Written, several
from basereward.model.backbone import load_backbone, load_config
from basereward.model.families.lm_head import load_language_head
from basereward.model.families.processing import load_encoder
from basereward.model.generation.generate import Writer, Writing

AT_ONCE = 16  # prompts in a batch


class LocalEngine:
    """Generates with transformers' `generate`.

    Args:
        path: hub id or folder of a checkpoint with its language-model head.
        max_tokens: limit of a prompt; longer prompts fail.
        at_once: requests in a batch.

    Raises:
        ModelError: the checkpoint cannot be loaded, or has no language-model head.
    """

    def __init__(self, path: str, *, max_tokens: int = 32_768, at_once: int = AT_ONCE) -> None:
        if (Path(path) / "reward_model.json").is_file():
            raise ModelError(
                f"'{path}' is a saved reward model, not a chat model. Evaluate it as a MODEL, or give a chat checkpoint"
            )
        self.name = path
        self.at_once = at_once
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        backbone = load_backbone(path, dtype=dtype)
        self.encoder: Encoder = load_encoder(path, max_tokens=max_tokens)
        language = load_language_head(path, load_config(path), dtype=dtype)
        backbone.eval().to(self.device)
        language.to(self.device)
        self.writer = Writer(backbone, language, end=self.encoder.end_of_turn, pad=self.encoder.pad_id)

    def write(self, asked: Iterable[Request], how: Writing, *, arrived: Arrived | None = None) -> Iterator[Answer]:
        """As `Engine.write`, in batches."""
        for requests in several(asked, self.at_once):
            ready: list[tuple[Request, EncodedGroup]] = []
            for request in requests:
                try:
                    ready.append((request, self._encoded(request)))
                except RowRejected as rejection:
                    yield Failed(request.id, f"{rejection.reason}: {rejection.detail}", 0, refused=True)
            if not ready:
                continue
            rows = collate([group for _, group in ready], layout="tree", pad_id=self.encoder.pad_id).to(self.device)
            for (request, group), (text,) in zip(ready, self.writer(rows, how), strict=True):
                decoded = self.encoder.tokenizer.decode(text, skip_special_tokens=False)  # type: ignore[attr-defined]
                # The branch of an opening is the last token of the prompt.
                written = Written(request.id, decoded, len(group.prefix) + 1, len(text))
                if arrived is not None:
                    arrived(written)
                yield written

    def _encoded(self, request: Request) -> EncodedGroup:
        """The prompt as a group whose only branch is the last token, after which the text is generated."""
        return self.encoder.opening(Group(request.id, "judge", request.turns, ("",), images=request.images))
