"""A saved reward model at work: a prompt and answers in, a score for each out, by the same path as in training."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from basereward.data.batching.packing import PackedGroup, fill
from basereward.data.batching.tree_batch import collate
from basereward.data.encoding.content_hash import encoder_hashes, hash_differences
from basereward.data.encoding.encoder import EncodedGroup, Encoder
from basereward.data.schema.group import Group, Image
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.rows import RowFormat
from basereward.errors import DataError, ModelError, check_several
from basereward.inference.group_scores import ScoresGroups
from basereward.inference.prompt_cache import PromptScorer
from basereward.inference.stopwatch import Stopwatch
from basereward.model.heads.contracts import is_generative
from basereward.model.lora import merge_lora
from basereward.model.reward_model import RewardModel
from basereward.model.saving.card import read_card
from basereward.model.saving.folder_checks import first_not_finite
from basereward.model.saving.saved_model import load_reward_model, save_model
from basereward.recipe.schema import Recipe

logger = logging.getLogger(__name__)
TOKENS = {"cuda": 16_384}  # of a forward pass where neither call nor recipe says; on other devices:
FEW_TOKENS = 4_096


@dataclass(frozen=True, slots=True)
class _Pass:
    """A forward pass that was begun."""

    responses: dict[int, int]  # of every group, by its place
    scores: Tensor  # (B,)
    watch: Stopwatch

    def read(self, latencies: list[float] | None) -> dict[int, list[float]]:
        """The scores of every group by its place, when they are there."""
        scores = iter(self.scores.tolist())
        if latencies is not None:
            latencies.append(self.watch.ms)
        return {place: list(islice(scores, number)) for place, number in self.responses.items()}


class Scorer(ScoresGroups):
    """A reward model with its encoder, ready to score.

    Args:
        model: in evaluation mode.
        encoder: that of its training.
        recipe: that of its training; gives the layout, the precision and the size of a batch.
        scores: mean and standard deviation of its scores on validation data, for bringing scores to one scale.
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
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device) -> Scorer:
        """The same scorer, moved to a device."""
        self.model.to(device)
        return self

    def prompt(self, prompt: str | Sequence[dict[str, Any]], *, images: Sequence[Image] = ()) -> PromptScorer:
        """Reads a prompt and its images once, for answers that come in several calls.

        Raises:
            DataError: as `score`.
            ModelError: the backbone attends in windows.
        """
        if is_generative(self.model.head):
            raise ModelError("a generative head writes about whole prompts; call score() with all responses at once")

        check_several(images, name="images", of="pictures")
        row = {"prompt": prompt, "responses": [""], "images": list(images) or None}
        group = RowFormat(for_training=False).group(row, source="score", row_id="0", where="prompt()")
        return PromptScorer(self, self.encode(group))

    def score_encoded(
        self, groups: Iterable[EncodedGroup], *, tokens: int | None = None, latencies: list[float] | None = None
    ) -> Iterator[list[list[float]]]:
        """As `score_groups`, for groups of `encode`, and as soon as a forward pass is done: some groups at a time.

        The scores of a pass are read after the groups of the next are: on a GPU both are worked at together. Verdicts
        that a judge wrote and that could not be read are told in the log.
        """
        tally = Counter[str]()
        ready: dict[int, list[float]] = {}
        told = 0
        at_work: _Pass | None = None
        budget = tokens or self.recipe.batch.tokens or TOKENS.get(self.device.type, FEW_TOKENS)
        passes = fill(groups, budget=budget, layout=self.recipe.batch.layout)
        while True:
            batch = next(passes, None)
            if batch is None:
                _tell_unread(tally)
            if at_work is not None:
                ready |= at_work.read(latencies)
                if told in ready:
                    whole = list(takewhile(ready.__contains__, count(told)))
                    told += len(whole)
                    yield [ready.pop(place) for place in whole]
            if batch is None:
                return
            at_work = self._begin(batch, tally)

    def encode(self, group: Group) -> EncodedGroup:
        """
        Raises:
            DataError: it cannot be scored by this model; the message names it.
        """
        try:
            return self.encoder(group)
        except RowRejected as loss:
            raise DataError(f"'{group.id}' cannot be scored: {loss.reason}: {loss.detail}") from loss

    def _not_finite(self) -> str:
        weight = first_not_finite(self.model.state_dict())
        if weight is None:
            return super()._not_finite()
        return (
            f"The model's weight {weight} holds NaN or infinity; give another checkpoint of the backbone or the model"
        )

    def precision(self) -> AbstractContextManager[Any]:
        """The precision of its training, while it lasts."""
        mixed = self.recipe.trainer.precision == "bf16-mixed"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=mixed)

    @torch.inference_mode()
    def _begin(self, batch: Sequence[PackedGroup], tally: Counter[str]) -> _Pass:
        watch = Stopwatch(self.device)
        rows = collate([group for _, group in batch], layout=self.recipe.batch.layout, pad_id=self.encoder.pad_id).to(
            self.device
        )
        with self.precision():
            scores = self.model.response_scores(rows, tally=tally)
        watch.stop()
        return _Pass({place: len(group.lengths) for place, group in batch}, scores, watch)

    def merged(self) -> Scorer:
        """The same scorer with its adapters folded into the weights; this one must not be used any more.

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
        """Writes the folder that `load` opens."""
        save_model(self.model, Path(folder), recipe=self.recipe, encoder=self.encoder, scores=self.scores)


def _tell_unread(tally: Counter[str]) -> None:
    if tally["unread"]:
        logger.warning("%d of %d verdicts could not be read, and say nothing", tally["unread"], tally["verdicts"])


def load_scorer(folder: str | Path, *, device: str | None = None, dtype: str | None = None) -> Scorer:
    """Opens a saved model, on the GPU when there is one.

    Args:
        dtype: of the backbone's weights, `float32` or `bfloat16`; by default as they were trained.

    Raises:
        ModelError: the folder is not a saved model, or its weights do not fit; there is no such dtype, or weights in
            four or eight bits cannot take it.
    """
    folder = Path(folder)
    model, recipe, encoder = load_reward_model(folder, dtype=dtype)
    card = read_card(folder)
    _warn_of_other_encoder(folder, card, encoder)
    scorer = Scorer(model, encoder=encoder, recipe=recipe, scores=card["scores"])
    return scorer.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _warn_of_other_encoder(folder: Path, card: Mapping[str, Any], encoder: Encoder) -> None:
    """Says when tokenizer, template or image processor are not as they were when the model was saved.

    The files in the model's folder are the user's to edit. Another version of transformers may read them otherwise.
    """
    before = (card.get("identity") or {}).get("hashes", {})
    for line in hash_differences(before, encoder_hashes(encoder)):
        logger.warning("%s: %s since the model was saved; scores may differ from those in training", folder, line)
