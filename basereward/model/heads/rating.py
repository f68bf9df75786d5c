"""The pointwise judge: one answer in a prompt, and its rating as one token."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Interval
from torch import Tensor, nn

from basereward.data.encoding.encoder import BranchTarget
from basereward.data.schema.group import Turn
from basereward.data.schema.rejections import RowRejected
from basereward.errors import ModelError
from basereward.model.generation.prompts import POINTWISE, Prompt, load_prompt
from basereward.model.heads.generative import with_sentinel

if TYPE_CHECKING:
    from basereward.data.batching.tree_batch import TreeBatch
    from basereward.data.encoding.encoder import Encoder
    from basereward.data.schema.group import Group
    from basereward.model.generation.response_generator import ResponseGenerator
    from basereward.model.reward_model import RewardModel


class Rating(nn.Module):
    """A judge of one answer at a time, as VL-RewardBench trains critics pointwise (arXiv 2411.17451, section 5).

    The model learns, by cross-entropy, to say the rating of the data as a number from 1 to `scale`; an answer's score
    is the mean rating under the softmax over those numbers' tokens.

    Args:
        hidden_size: of the backbone; not used.
        scale: the best rating; up to 9 each is one token.
        prompt: by the name of a file in `basereward/model/prompts`; it must speak of the same scale.
        prompt_file: a text file with the prompt, in its place.

    Raises:
        ValueError: there is no such prompt, or its fields are others.
    """

    language_weight = 1.0
    ranks = False
    ranks_own = False

    def __init__(
        self,
        hidden_size: int,
        *,
        scale: Annotated[int, Interval(ge=2, le=9)] = 5,
        prompt: str = "pointwise_rating",
        prompt_file: str | None = None,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.speech = Ratings(load_prompt(prompt, prompt_file, fields=POINTWISE), scale=scale)

    def forward(self, pooled: Tensor) -> Tensor:
        """Not for this head: it has no score of a hidden state."""
        raise ModelError("a rating head scores by what is written: call judged(batch), score() or score_groups()")

    def judge(self, voice: ResponseGenerator, model: RewardModel, batch: TreeBatch) -> Tensor:
        """Scores `(K,)` of responses, 1 to `scale`."""
        assert model.language is not None
        logits = model.language.logits(model.backbone.transformer, model.backbone(batch))
        tokens = [voice.token(str(rating)) for rating in range(1, self.scale + 1)]
        ratings = torch.arange(1, self.scale + 1, dtype=torch.float32, device=logits.device)
        return logits[:, tokens].softmax(-1) @ ratings


class Ratings:
    """A branch for every answer, after one prefix with the question and its pictures."""

    open = True

    def __init__(self, prompt: Prompt, *, scale: int) -> None:
        self.asked = prompt
        self.scale = scale

    @property
    def text(self) -> str:
        return self.asked.text

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"ratings {self.scale} {self.text}".encode()).hexdigest()

    def prompt(self, group: Group) -> tuple[Turn, ...]:
        (turn,) = self.asked.turns(group)
        return (with_sentinel(turn),)

    def __call__(self, encoder: Encoder, group: Group, *, taught: bool) -> Sequence[tuple[Tensor, BranchTarget]]:
        if taught and len(group.ratings) != len(group.responses):
            raise RowRejected(
                "no_rating",
                f"{len(group.ratings)} ratings of {len(group.responses)} responses; a rating head learns from ratings, "
                "which the sources digits, numbers, digit_pairs and llava_critic_pointwise (with its scale) have. Give "
                "the rows `ratings` from 0 to 1, or take another head",
            )
        if taught and not all(0 <= rating <= 1 for rating in group.ratings):
            raise RowRejected(
                "bad_ratings",
                f"ratings of {', '.join(f'{rating:g}' for rating in group.ratings[:8])}; a rating head learns ratings "
                "from 0 to 1; of another scale give the source its lowest and highest, as in rating_range: [1, 5]",
            )
        ending = torch.cat([encoder.plain(self.asked.after("answer")), encoder.closing])
        laid = []
        for index, response in enumerate(group.responses):
            told = encoder.answer(self._said(group.ratings[index])) if taught else ending[:0]
            laid.append((torch.cat([encoder.plain(response), ending, told]), BranchTarget(len(told))))
        return laid

    def _said(self, rating: float) -> str:
        return str(1 + round(rating * (self.scale - 1)))
