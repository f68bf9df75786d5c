"""The pointwise judge: one answer in a prompt, and its rating as one token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from basereward.data.encoding.branch_images import response_content
from basereward.data.schema.rejections import RowRejected
from basereward.model.generation.prompts import POINTWISE, Prompt, load_prompt
from basereward.model.heads._judge_head import (
    JudgeHead,
    JudgeTemplate,
    branch_with_target,
    check_one_for_each_response,
)

if TYPE_CHECKING:
    from basereward.data.batching.tree_batch import TreeBatch
    from basereward.data.encoding.encoder import BranchTarget, Encoder
    from basereward.data.schema.group import Group
    from basereward.model.generation.response_generator import ResponseGenerator


class Rating(JudgeHead):
    """A judge of one answer at a time, as VL-RewardBench trains critics pointwise (arXiv 2411.17451, section 5).

    The model learns, by cross-entropy, to write the rating of the data as a number from 1 to `scale`. The score of an
    answer is the mean rating under the softmax over the tokens of those numbers.

    Args:
        hidden_size: of the backbone; not used.
        scale: the best rating; each number up to 9 is one token.
        prompt: name of a file in `basereward/model/prompts`; its text must name the same scale.
        prompt_file: a text file with the prompt, instead of `prompt`.

    Raises:
        ValueError: there is no such prompt, or its fields are not `question` and `answer`.

    >>> Rating(128, scale=3).branch_template.target(0.5)
    '2'
    """

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
        self.branch_template = RatingTemplate(load_prompt(prompt, prompt_file, fields=POINTWISE), scale=scale)

    def judge(self, generator: ResponseGenerator, batch: TreeBatch) -> Tensor:
        """Scores `(K,)` of responses, 1 to `scale`."""
        logits = generator.next_token_logits(batch)
        # Only these tokens: the model may also give weight to spaces or words, which are no rating.
        tokens = [generator.token(str(rating)) for rating in range(1, self.scale + 1)]
        ratings = torch.arange(1, self.scale + 1, dtype=torch.float32, device=logits.device)
        return logits[:, tokens].softmax(-1) @ ratings


class RatingTemplate(JudgeTemplate):
    """A branch for every answer, after one prefix with the question and its images.

    Args:
        prompt: with the fields `POINTWISE`.
        scale: the best rating.
    """

    kind = "ratings"

    def __init__(self, prompt: Prompt, *, scale: int) -> None:
        super().__init__(prompt, scale)
        self.scale = scale

    def __call__(self, encoder: Encoder, group: Group, *, with_targets: bool) -> Sequence[tuple[Tensor, BranchTarget]]:
        if with_targets:
            _check_ratings(group)
        ending = torch.cat([encoder.plain(self.judge_prompt.after("answer")), encoder.closing])
        branches = []
        for index in range(len(group.responses)):
            # Without targets the branch ends where the model's next token is the rating.
            target = encoder.answer(self.target(group.ratings[index])) if with_targets else ending[:0]
            branches.append(branch_with_target([encoder.plain(response_content(group, index)), ending], target))
        return branches

    def target(self, rating: float) -> str:
        """The number that the model learns to write for a rating from 0 to 1.

        >>> [RatingTemplate(load_prompt("pointwise_rating", fields=POINTWISE), scale=5).target(r) for r in (0.0, 1.0)]
        ['1', '5']
        """
        return str(1 + round(rating * (self.scale - 1)))


def _check_ratings(group: Group) -> None:
    """Checks that every response has a rating from 0 to 1.

    Raises:
        RowRejected: `no_rating` or `bad_ratings`.
    """
    check_one_for_each_response(
        group,
        group.ratings,
        name="rating",
        remedy="a rating head learns from ratings, which the sources digits, numbers, digit_pairs and "
        "llava_critic_pointwise (with its scale) have. Give the rows `ratings` from 0 to 1, or take another head",
    )
    if not all(0 <= rating <= 1 for rating in group.ratings):
        shown = ", ".join(f"{rating:g}" for rating in group.ratings[:8])
        raise RowRejected(
            "bad_ratings",
            f"ratings of {shown}; a rating head learns ratings from 0 to 1. For another scale give the source its "
            "lowest and highest value, as in rating_range: [1, 5]",
        )
