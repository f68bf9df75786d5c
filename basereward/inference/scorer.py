"""Scores prompts and responses with one reward model, by the same path as in training."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any, Self

import torch
from peft import PeftModel
from torch import Tensor

from basereward.data.batching.collate import collate
from basereward.data.batching.packing import PackedGroup, pack_groups
from basereward.data.encoding.content_hash import encoder_hashes, hash_differences
from basereward.data.encoding.encoder import EncodedGroup, Encoder
from basereward.data.schema.group import Group
from basereward.data.schema.image_references import ImageReference
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError, ModelError
from basereward.inference.export.model_card import model_card
from basereward.inference.group_scores import ChatPrompt, prompt_group
from basereward.inference.prompt_cache import PromptScorer
from basereward.inference.reward_scorer import RewardScorer
from basereward.inference.stopwatch import Stopwatch
from basereward.model.heads.contracts import is_generative
from basereward.model.lora import merge_lora
from basereward.model.reward_model import RewardModel
from basereward.model.saving.card import read_card
from basereward.model.saving.folder_checks import first_not_finite
from basereward.model.saving.saved_model import kind_of, load_reward_model, save_model
from basereward.recipe.schema import Recipe

logger = logging.getLogger(__name__)
# Tokens of a forward pass if neither the call nor the recipe sets a limit. A GPU needs many tokens to be busy; on a CPU
# more tokens only take more memory.
DEFAULT_TOKENS = {"cuda": 16_384}
DEFAULT_TOKENS_ELSEWHERE = 4_096


@dataclass(frozen=True, slots=True)
class _Pass:
    """A forward pass that was started.

    Attributes:
        responses: number of responses of every group, by the index of the group.
        scores: `(K,)`, on the device; a GPU may still be computing them.
        watch: measures the pass.
    """

    responses: dict[int, int]
    scores: Tensor
    watch: Stopwatch

    def read(self, latencies: list[float] | None) -> dict[int, list[float]]:
        """The scores of every group by its index; waits until they are computed."""
        scores = iter(self.scores.tolist())
        if latencies is not None:
            latencies.append(self.watch.ms)
        return {index: list(islice(scores, number)) for index, number in self.responses.items()}


class Scorer(RewardScorer):
    """A reward model with its encoder, ready to score.

    Args:
        model: in evaluation mode; with a generative head, built with the encoder.
        encoder: of its training.
        recipe: of its training; it gives the layout, the precision and the size of a batch.
        scores: mean and standard deviation of its scores on validation data, for standardised ensembles.

    Raises:
        ModelError: the model has a generative head and was built without an encoder.
    """

    def __init__(
        self, model: RewardModel, *, encoder: Encoder, recipe: Recipe, scores: dict[str, float] | None = None
    ) -> None:
        self.model = model
        if is_generative(model.head) and model.generator is None:
            raise ModelError("the model has a generative head and was built without an encoder: give build_model one")
        self.encoder = encoder
        self.recipe = recipe
        self.scores = scores or {}

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device) -> Self:
        """The same scorer, moved to a device."""
        self.model.to(device)
        return self

    def prompt(
        self, prompt: ChatPrompt, *, images: Sequence[ImageReference] = (), videos: Sequence[Any] = ()
    ) -> PromptScorer:
        """As the base.

        Raises:
            DataError: as `score`.
            ModelError: the head is generative, or the backbone has windowed attention.
        """
        if is_generative(self.model.head):
            raise ModelError("a generative head reads the complete prompt; call score() with all responses at once")
        group = prompt_group(prompt, [""], images=images, videos=videos, where="prompt()")
        return PromptScorer(self, self.encode(group))

    def score_encoded(
        self, groups: Iterable[EncodedGroup], *, tokens: int | None = None, latencies: list[float] | None = None
    ) -> Iterator[list[list[float]]]:
        """As `score_groups`, for encoded groups; yields groups in order, as soon as their scores are computed.

        If verdicts of a judge could not be parsed, their number is logged.
        """
        tally = Counter[str]()
        ready: dict[int, list[float]] = {}
        yielded = 0
        running: _Pass | None = None
        budget = tokens or self.recipe.batch.tokens or DEFAULT_TOKENS.get(self.device.type, DEFAULT_TOKENS_ELSEWHERE)
        passes = pack_groups(groups, budget=budget, layout=self.recipe.batch.layout)
        while True:
            # The next groups are encoded on the CPU before the scores of the running pass are read, which waits.
            batch = next(passes, None)
            if batch is None:
                _log_unread(tally)
            if running is not None:
                ready |= running.read(latencies)
                # Passes are filled by length, so groups may be ready before earlier ones.
                if yielded in ready:
                    indices = list(takewhile(ready.__contains__, count(yielded)))
                    yielded += len(indices)
                    yield [ready.pop(index) for index in indices]
            if batch is None:
                return
            running = self._start(batch, tally)

    def encode(self, group: Group) -> EncodedGroup:
        """Encodes a group.

        Raises:
            DataError: this model cannot score the group; the message names it.
        """
        try:
            return self.encoder(group)
        except RowRejected as rejection:
            raise DataError(f"'{group.id}' cannot be scored: {rejection.reason}: {rejection.detail}") from rejection

    def _not_finite(self) -> str:
        """As the base; first looks for a weight that is not finite, which no setting of the training repairs."""
        weight = first_not_finite(self.model.state_dict())
        if weight is None:
            return super()._not_finite()
        return f"The model's weight {weight} holds NaN or infinity; use another checkpoint of the backbone or the model"

    def precision(self) -> AbstractContextManager[Any]:
        """The autocast context of a forward pass, as in training."""
        mixed = self.recipe.trainer.precision == "bf16-mixed"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=mixed)

    @torch.inference_mode()
    def _start(self, batch: Sequence[PackedGroup], tally: Counter[str]) -> _Pass:
        """Starts a forward pass; on a GPU it may still be running when this returns."""
        watch = Stopwatch(self.device)
        rows = collate([group for _, group in batch], layout=self.recipe.batch.layout, pad_id=self.encoder.pad_id).to(
            self.device
        )
        with self.precision():
            scores = self.model.response_scores(rows, tally=tally)
        watch.stop()
        return _Pass({index: len(group.lengths) for index, group in batch}, scores, watch)

    def merged(self) -> Scorer:
        """Merges the adapters into the weights and returns this scorer.

        Raises:
            ModelError: there are no adapters.
        """
        backbone = self.model.backbone
        if not isinstance(backbone.model, PeftModel):
            raise ModelError("there are no adapters to merge: the model was not trained with model.lora")
        backbone.model = merge_lora(backbone.model)
        backbone.quantization = None
        backbone.merged = True
        return self

    def save(self, folder: str | Path) -> None:
        """As the base; it is not written either where the folder holds the backbone that the model needs."""
        save_model(self.model, Path(folder), recipe=self.recipe, encoder=self.encoder, scores=self.scores)

    def model_card(self) -> str:
        """As the base."""
        return model_card(self, form="saved")

    def backbone_folders(self) -> list[str]:
        """As the base."""
        path = self.model.backbone.origin.path
        return [path] if kind_of(self.model) != "full" and os.path.isdir(path) else []


def _log_unread(tally: Counter[str]) -> None:
    """Logs the number of verdicts that could not be parsed, if there are any."""
    if tally["unread"]:
        logger.warning("%d of %d verdicts could not be parsed and are ignored", tally["unread"], tally["verdicts"])


def load_scorer(folder: str | Path, *, device: str | None = None, dtype: str | None = None) -> Scorer:
    """Opens a saved model.

    Args:
        folder: of a saved model.
        device: None: the GPU if there is one.
        dtype: of the backbone's weights, `float32` or `bfloat16`; None: as in training.

    Raises:
        ModelError: the folder is not a saved model, or its weights do not fit; there is no such dtype, or the weights
            are quantised and cannot be cast to it.
    """
    folder = Path(folder)
    model, recipe, encoder = load_reward_model(folder, dtype=dtype)
    card = read_card(folder)
    _warn_of_other_encoder(folder, card, encoder)
    scorer = Scorer(model, encoder=encoder, recipe=recipe, scores=card["scores"])
    return scorer.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _warn_of_other_encoder(folder: Path, card: Mapping[str, Any], encoder: Encoder) -> None:
    """Warns if tokenizer, chat template or image processor have changed since the model was saved.

    A user may edit the files in the folder, and another version of transformers may interpret them differently.
    """
    before = (card.get("identity") or {}).get("hashes", {})
    for line in hash_differences(before, encoder_hashes(encoder)):
        logger.warning("%s: %s since the model was saved; scores may differ from those in training", folder, line)
