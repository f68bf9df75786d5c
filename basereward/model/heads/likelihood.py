"""A model that answers: it learns the preferred responses, and scores a response by its likelihood."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from basereward.data.encoding.chat import SENTINEL
from basereward.data.schema.group import Part, Turn
from basereward.data.schema.preferences import reference_answers
from basereward.data.schema.rejections import RowRejected
from basereward.model.generation.prompts import QUESTION, Prompt, load_prompt
from basereward.model.heads._judge_head import JudgeHead, JudgeTemplate, branch_with_target

if TYPE_CHECKING:
    from basereward.data.batching.tree_batch import TreeBatch
    from basereward.data.encoding.encoder import BranchTarget, Encoder
    from basereward.data.schema.group import Group
    from basereward.model.generation.response_generator import ResponseGenerator


class Likelihood(JudgeHead):
    """Supervised fine-tuning: the model learns, by cross-entropy, to write the preferred responses of each group.

    It is where a policy starts from in reinforcement learning. The score of a response is the mean of the
    log-probabilities of its tokens, with that of the end of its turn.

    Args:
        hidden_size: of the backbone; not used.
        prompt: name of a file in `basereward/model/prompts`; `question` keeps the conversation of the data as it is.
        prompt_file: a text file with the prompt, instead of `prompt`.

    Raises:
        ValueError: there is no such prompt, or its field is not `question`.

    >>> Likelihood(128).branch_template.text
    '{question}'
    """

    def __init__(self, hidden_size: int, *, prompt: str = "question", prompt_file: str | None = None) -> None:
        super().__init__()
        self.branch_template = ResponseTemplate(load_prompt(prompt, prompt_file, fields=QUESTION))

    def judge(self, generator: ResponseGenerator, batch: TreeBatch) -> Tensor:
        """Scores `(K,)` of responses: mean log-probabilities of their tokens."""
        hidden = generator.backbone.hidden_states(batch)
        rows, columns = batch.targets.positions.unbind(1)
        # The state at one position predicts the token at the next.
        logits = generator.language.logits(generator.backbone.transformer, hidden[rows, columns - 1])
        targets = batch.rows.input_ids[rows, columns]
        log_probs = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
        lengths = _lengths(batch.targets.positions.tolist(), batch.rows.ends.tolist())
        return torch.stack([part.mean() for part in torch.split(log_probs, lengths)])


class ResponseTemplate(JudgeTemplate):
    """A branch for every response: the end of the user's turn, and the response as the target.

    Training has branches for the reference answers of a group alone.

    Args:
        prompt: with the field `question`.
    """

    kind = "responses"

    def __init__(self, prompt: Prompt) -> None:
        super().__init__(prompt)

    def prompt(self, group: Group) -> tuple[Turn, ...]:
        """The conversation with the sentinel at its end, or the prompt's own turn about it."""
        if self.text.strip() != "{question}" or group.prompt[-1].role != "user":
            return super().prompt(group)
        *before, last = group.prompt
        return (*before, Turn(last.role, (*last.parts, Part(SENTINEL))))

    def __call__(self, encoder: Encoder, group: Group, *, with_targets: bool) -> Sequence[tuple[Tensor, BranchTarget]]:
        if group.response_images:
            raise RowRejected(
                "image_in_response",
                "a response has an image; the head likelihood scores a response by the probability of its text. Take "
                "another head",
            )
        answers = reference_answers(group) if with_targets else group.responses
        if not answers:
            raise RowRejected(
                "no_answer",
                "the group has no response that is preferred to another and to which none is preferred; the head "
                "likelihood learns such responses. Give rows with chosen and rejected responses, or with one response",
            )
        return [branch_with_target([encoder.closing], encoder.answer(answer)) for answer in answers]


def _lengths(places: Sequence[list[int]], ends: Sequence[list[int]]) -> list[int]:
    """The number of target tokens of each branch.

    Args:
        places: row and column of every target token; within a branch they are listed backwards from its end.
        ends: row and column of the last token of each branch, in the same order.

    >>> _lengths([[0, 7], [0, 6], [0, 5], [0, 12], [0, 11]], ends=[[0, 7], [0, 12]])
    [3, 2]
    """
    starts = [index for index, place in enumerate(places) if place in ends]
    return [stop - start for start, stop in itertools.pairwise([*starts, len(places)])]
