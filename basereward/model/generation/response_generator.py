"""a generative head, at work: it writes after every branch, and what it has written comes to scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.encoding.encoder import BranchTemplate
from basereward.errors import ModelError
from basereward.model.generation.generate import Writer, Writing

if TYPE_CHECKING:
    from basereward.data.encoding.encoder import Encoder
    from basereward.model.reward_model import RewardModel


@runtime_checkable
class GenerativeHead(Protocol):
    """A head that writes, or reads the next token, before it scores. It has all of these; another head may have any.

    Attributes:
        speech: what it adds to the branches of a group.
        language_weight: what the cross-entropy of the taught tokens counts in the loss.
        ranks: whether scores at the end of the taught text are ranked in training.
        ranks_own: whether those at the end of the text that it writes itself are.
    """

    speech: BranchTemplate
    language_weight: float
    ranks: bool
    ranks_own: bool

    def judge(self, voice: ResponseGenerator, model: RewardModel, batch: TreeBatch) -> Tensor:
        """Scores `(K,)` of the responses of a batch."""
        ...


def is_generative(head: nn.Module) -> bool:
    """Whether a head keeps the contract of `GenerativeHead`."""
    return isinstance(head, GenerativeHead)


class ResponseGenerator:
    """Writes, and reads what is written.

    Args:
        encoder: that of the batches.
        tally: counts how many `tokens` are written, and of judges that write how many `verdicts` are looked for and
            how many are `unread`.
    """

    def __init__(self, encoder: Encoder, tally: Counter[str] | None = None) -> None:
        self.encoder = encoder
        self.tally: Counter[str] = Counter() if tally is None else tally

    def counting(self, tally: Counter[str] | None = None) -> ResponseGenerator:
        """The same for one pass, counting in `tally`, or in one of its own."""
        return ResponseGenerator(self.encoder, tally)

    def write(self, model: RewardModel, batch: TreeBatch, how: Writing) -> list[list[Tensor]]:
        """For every branch `how.samples` texts, `(n,)` tokens each, with the end of turn unless they were cut.

        Raises:
            ModelError: the batch is of plain rows.
        """
        if batch.layout == "plain":
            raise ModelError("a generative head writes after tree rows; batch.layout is plain. Set batch.layout=tree.")
        assert model.language is not None
        end = self.encoder.end_of_turn
        writer = Writer(model.backbone, model.language, end=end, pad=self.encoder.pad_id)
        with _evaluated(model):
            written = writer(batch, how)
        ended = [
            [text if len(text) >= how.max_tokens else torch.cat([text, text.new_tensor([end])]) for text in texts]
            for texts in written
        ]
        self.tally["tokens"] += sum(len(text) for texts in ended for text in texts)
        return ended

    def text(self, tokens: Tensor) -> str:
        """Tokens as text, special ones to be seen, the end of turn left out."""
        kept = tokens[:-1] if len(tokens) and int(tokens[-1]) == self.encoder.end_of_turn else tokens
        text: str = self.encoder.tokenizer.decode(kept, skip_special_tokens=False)  # type: ignore[attr-defined]
        return text

    def token(self, text: str) -> int:
        """The one token that a text is.

        Raises:
            ModelError: it is several.
        """
        ids = self.encoder.plain(text).tolist()
        if len(ids) != 1:
            raise ModelError(
                f"'{text}' is {len(ids)} tokens of this backbone's tokenizer, so its probability cannot be read from "
                "one place. Use a judge that writes (generative with thinking: true), or another backbone."
            )
        return int(ids[0])


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """Without dropout, while it lasts."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
