"""Text generation for generative heads: after every branch of a batch, with the weights of the reward model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.encoding.encoder import Encoder
from basereward.errors import ModelError
from basereward.model.backbone import Backbone
from basereward.model.families.lm_head import LanguageHead
from basereward.model.generation.generate import SamplingParams, TextGenerator
from basereward.model.sharded import whole_weights


class ResponseGenerator:
    """Generates text after branches, and reads logits at their ends.

    Args:
        encoder: the encoder of the batches; its tokenizer decodes what is generated.
        backbone: shared with the reward model, so generation uses the current weights.
        language: the language-model head of the backbone.
        tally: counters that are increased: generated `tokens`; for judges that generate text, the `verdicts` that were
            expected, and the `unread` ones that could not be parsed.
    """

    def __init__(
        self, encoder: Encoder, backbone: Backbone, language: LanguageHead, *, tally: Counter[str] | None = None
    ) -> None:
        self.encoder = encoder
        self.backbone = backbone
        self.language = language
        self.tally: Counter[str] = Counter() if tally is None else tally

    def counting(self, tally: Counter[str] | None = None) -> ResponseGenerator:
        """The same generator with its own counters: `tally`, or new ones."""
        # A forward pass has counters of its own, because several threads may score with one model.
        return ResponseGenerator(self.encoder, self.backbone, self.language, tally=tally)

    def generate(
        self, batch: TreeBatch, sampling: SamplingParams, *, names: Sequence[str] | None = None
    ) -> list[list[Tensor]]:
        """Generates text after every branch.

        Args:
            batch: tree rows with B branches.
            sampling: settings of the texts.
            names: of the branches, as of `TextGenerator`.

        Returns:
            For each of the B branches `sampling.samples` texts of `(n,)` tokens. A text ends with the end-of-turn
            token, unless it was truncated at `sampling.max_tokens`.

        Raises:
            ModelError: the batch has plain rows.
        """
        if batch.rows.layout == "plain":
            raise ModelError("a generative head needs tree rows, and batch.layout is plain. Set batch.layout=tree.")
        end = self.encoder.end_of_turn
        generator = TextGenerator(self.backbone, self.language, end=end, pad=self.encoder.pad_id)
        # Critics also generate during training, where dropout would change the text.
        with _evaluation_mode(self.backbone), whole_weights(self.backbone):
            texts_of_branches = generator(batch, sampling, names=names)
        completed: list[list[Tensor]] = []
        for texts in texts_of_branches:
            completed.append([self._with_end(text, max_tokens=sampling.max_tokens) for text in texts])
            self.tally["tokens"] += sum(len(text) for text in completed[-1])
        return completed

    def _with_end(self, text: Tensor, *, max_tokens: int) -> Tensor:
        """The text with its end-of-turn token, unless it was truncated."""
        if len(text) >= max_tokens:
            return text
        return torch.cat([text, text.new_tensor([self.encoder.end_of_turn])])

    def pooled(self, batch: TreeBatch) -> Tensor:
        """Hidden states `(B, D)` of the last token of every branch."""
        states: Tensor = self.backbone(batch)
        return states

    def next_token_logits(self, batch: TreeBatch) -> Tensor:
        """Logits `(B, V)` in float32 of the token that follows every branch."""
        return self.language.logits(self.backbone.transformer, self.pooled(batch))

    def text(self, tokens: Tensor) -> str:
        """Decodes tokens `(n,)`; special tokens stay visible, except the end-of-turn token at the end."""
        kept = tokens[:-1] if len(tokens) and int(tokens[-1]) == self.encoder.end_of_turn else tokens
        text: str = self.encoder.tokenizer.decode(kept, skip_special_tokens=False)  # type: ignore[attr-defined]
        return text

    def token(self, text: str) -> int:
        """The id of a text that is exactly one token.

        Raises:
            ModelError: the tokenizer splits it into several.
        """
        # Encoded without the tokens that some tokenizers add at the beginning of every text.
        ids = self.encoder.plain(text).tolist()
        if len(ids) != 1:
            raise ModelError(
                f"'{text}' is {len(ids)} tokens of this backbone's tokenizer, so its probability cannot be read at one "
                "position. Use a judge that generates its verdict as text (generative with thinking: true), or another "
                "backbone."
            )
        return int(ids[0])


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Turns dropout off for a block; afterwards every submodule has the mode that it had."""
    training = [submodule for submodule in module.modules() if submodule.training]
    module.eval()
    try:
        yield
    finally:
        for submodule in training:
            submodule.training = True
