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

AT_ONCE = 16


class LocalEngine:
    """Writes with transformers' `generate`.

    Args:
        path: a checkpoint with its language head: a hub id or a folder.
        max_tokens: of a prompt; longer ones fail.
        at_once: requests in a batch.

    Raises:
        ModelError: it cannot be loaded, or has no language head.
    """

    def __init__(self, path: str, *, max_tokens: int = 32_768, at_once: int = AT_ONCE) -> None:
        if (Path(path) / "reward_model.json").is_file():
            raise ModelError(
                f"'{path}' is a saved reward model, which answers in its own way; evaluate it as a MODEL. Give a "
                "checkpoint that chats"
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
        """As `Engine.write`; prompt after prompt in batches."""
        for some in several(asked, self.at_once):
            ready: list[tuple[Request, EncodedGroup]] = []
            for request in some:
                try:
                    ready.append((request, self._encoded(request)))
                except RowRejected as loss:
                    yield Failed(request.id, f"{loss.reason}: {loss.detail}", 0, refused=True)
            if not ready:
                continue
            rows = collate([group for _, group in ready], layout="tree", pad_id=self.encoder.pad_id).to(self.device)
            for (request, group), (text,) in zip(ready, self.writer(rows, how), strict=True):
                said = self.encoder.tokenizer.decode(text, skip_special_tokens=False)  # type: ignore[attr-defined]
                written = Written(request.id, said, len(group.prefix) + 1, len(text))
                if arrived is not None:
                    arrived(written)
                yield written

    def _encoded(self, request: Request) -> EncodedGroup:
        """The prompt, of which the last token is the branch that the text goes on from."""
        return self.encoder.opening(Group(request.id, "judge", request.turns, ("",), images=request.images))
