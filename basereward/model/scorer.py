"""A saved reward model at work: a prompt and answers in, a score for each out, by the same path as in training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from basereward.data.encoding import Encoder
from basereward.data.group import Group, Image
from basereward.data.rows import RowFormat
from basereward.data.screening import RowLost
from basereward.data.tree import collate
from basereward.errors import DataError, ModelError
from basereward.model.lora import merge_lora
from basereward.model.processing import load_encoder
from basereward.model.reward import RewardModel
from basereward.model.saving import load_reward_model, read_card, save_model
from basereward.recipe.schema import Recipe


class Scorer:
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
        self.encoder = encoder
        self.recipe = recipe
        self.scores = scores or {}

    @property
    def device(self) -> torch.device:
        return next(self.model.head.parameters()).device

    def to(self, device: str | torch.device) -> Scorer:
        """The same scorer, moved to a device."""
        self.model.to(device)
        return self

    def score(
        self, prompt: str | Sequence[dict[str, Any]], responses: Sequence[str], *, images: Sequence[Image] = ()
    ) -> list[float]:
        """One score a response; higher is better.

        Args:
            prompt: a text, or messages `{"role", "content"}` as chat templates take them.
            responses: answers to it, at least one.
            images: paths, bytes or PIL images, in the order of their places in the prompt.

        Raises:
            DataError: the prompt is malformed, an image cannot be opened, or the whole is too long. Nothing is cut or
                left out.
        """
        row = {"prompt": prompt, "responses": list(responses), "images": list(images) or None}
        group = RowFormat(for_training=False).group(row, source="score", row_id="0", where="score()")
        return next(iter(self.score_groups([group])))

    def score_groups(self, groups: Iterable[Group]) -> Iterator[list[float]]:
        """The scores of every group's responses, in order.

        Raises:
            DataError: a group cannot be scored; the message names it.
        """
        waiting = iter(groups)
        while batch := list(islice(waiting, self.recipe.batch.groups_per_forward)):
            yield from self._score_batch(batch)

    @torch.inference_mode()
    def _score_batch(self, groups: Sequence[Group]) -> list[list[float]]:
        batch = collate(
            [self._encode(group) for group in groups], layout=self.recipe.batch.layout, pad_id=self.encoder.pad_id
        )
        mixed = self.recipe.trainer.precision == "bf16-mixed"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            scores = iter(self.model(batch.to(self.device)).tolist())
        return [list(islice(scores, len(group.responses))) for group in groups]

    def _encode(self, group: Group) -> Any:
        try:
            return self.encoder(group)
        except RowLost as loss:
            raise DataError(f"'{group.id}' cannot be scored: {loss.reason}: {loss.detail}") from loss

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


def load_scorer(folder: str | Path, *, device: str | None = None) -> Scorer:
    """Opens a saved model, on the GPU when there is one.

    Raises:
        ModelError: the folder is not a saved model, or its weights do not fit.
    """
    folder = Path(folder)
    model, recipe, path = load_reward_model(folder)
    encoder = recipe_encoder(recipe, path=path)
    scorer = Scorer(model, encoder=encoder, recipe=recipe, scores=read_card(folder)["scores"])
    return scorer.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def recipe_encoder(recipe: Recipe, *, path: str) -> Encoder:
    """The encoder that a recipe asks for, with the tokenizer and image processor at `path`."""
    settings = recipe.data.encoding
    return load_encoder(
        path,
        revision=recipe.model.backbone.revision if path == recipe.model.backbone.path else None,
        image_backend=settings.image_backend,
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
        max_tokens=settings.max_tokens,
        trust_remote_code=recipe.model.backbone.trust_remote_code,
    )
