"""A backbone with its language-model head that continues conversations: a chat checkpoint, or a trained judge."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch

from basereward.data.batching.collate import collate
from basereward.data.encoding.encoder import EncodedGroup, Encoder
from basereward.data.schema.group import Group
from basereward.errors import ModelError
from basereward.inference.scorer import Scorer
from basereward.model.generation.generate import IsCancelled, SamplingParams, TextGenerator


class GeneratedText(NamedTuple):
    """What follows a conversation.

    Attributes:
        text: special tokens stay visible, except the end-of-turn token at the end.
        prompt_tokens: tokens of the conversation, those of images included.
        tokens: generated tokens, without the end-of-turn token.
        is_complete: whether the text ended before the limit.

    >>> GeneratedText("<answer>1</answer>", prompt_tokens=40, tokens=5, is_complete=True).tokens
    5
    """

    text: str
    prompt_tokens: int
    tokens: int
    is_complete: bool


class ChatModel:
    """Generates the text that follows a conversation.

    Args:
        encoder: of the model.
        generator: of the model.
        device: of its weights.
        precision: gives the autocast context of a forward pass.
    """

    def __init__(
        self,
        encoder: Encoder,
        generator: TextGenerator,
        *,
        device: torch.device,
        precision: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        self.encoder = encoder
        self.generator = generator
        self.device = device
        self.precision = precision

    def encode(self, group: Group) -> EncodedGroup:
        """Encodes a conversation with its generation prompt.

        Args:
            group: its prompt is the conversation; its responses are not read.

        Raises:
            RowRejected: the chat template rejects the conversation, it is too long, or an image cannot be opened.
        """
        return self.encoder.opening(group)

    def generate(
        self,
        prompts: Sequence[EncodedGroup],
        sampling: SamplingParams,
        *,
        names: Sequence[str] | None = None,
        is_cancelled: IsCancelled | None = None,
    ) -> list[GeneratedText]:
        """Generates one text for each encoded conversation, all in one batch.

        Args:
            prompts: at least one.
            sampling: of all texts; `sampling.samples` is 1.
            names: of the conversations, as of `TextGenerator`.
            is_cancelled: as in `TextGenerator`.
        """
        rows = collate(prompts, layout="tree", pad_id=self.encoder.pad_id).to(self.device)
        with self.precision():
            generated = self.generator(rows, sampling, names=names, is_cancelled=is_cancelled)
        texts: list[GeneratedText] = []
        for prompt, (tokens,) in zip(prompts, generated, strict=True):
            text = self.encoder.tokenizer.decode(tokens, skip_special_tokens=False)  # type: ignore[attr-defined]
            # One more than the prefix: the branch of an opening is the last token of the prompt.
            length = len(prompt.prefix) + 1
            texts.append(GeneratedText(text, length, len(tokens), is_complete=len(tokens) < sampling.max_tokens))
        return texts


def trained_chat_model(scorer: Scorer) -> ChatModel:
    """The chat model in a trained judge: it writes the text that the judge writes, whatever the conversation is.

    Raises:
        ModelError: the model has no generative head, so its language-model head was not kept.
    """
    model = scorer.model
    if model.generator is None or model.language is None:
        raise ModelError(
            "the model has a scalar head and writes no text; conversations need one with a generative head "
            "(generative, rating, critic)"
        )
    encoder = scorer.encoder
    generator = TextGenerator(model.backbone, model.language, end=encoder.end_of_turn, pad=encoder.pad_id)
    return ChatModel(encoder, generator, device=scorer.device, precision=scorer.precision)
