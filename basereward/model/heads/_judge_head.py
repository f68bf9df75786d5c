"""What generative heads share: a base of their branch templates, and a base of judges without weights of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from basereward.data.encoding.chat import SENTINEL
from basereward.data.encoding.encoder import BranchTarget
from basereward.data.schema.group import Group, Part, Turn
from basereward.data.schema.rejections import RowRejected
from basereward.errors import ModelError
from basereward.model.generation.prompts import Prompt


class JudgeHead(nn.Module):
    """Base of generative heads that have no weights of their own and learn by cross-entropy alone.

    >>> list(JudgeHead().parameters())
    []
    """

    language_weight = 1.0
    rank_reference = False
    rank_generated = False

    def forward(self, pooled: Tensor) -> Tensor:
        """Raises `ModelError`: a judge does not score hidden states."""
        name = type(self).__name__.lower()
        raise ModelError(
            f"head '{name}' scores by the text or the token that the model generates, not by a hidden state. Call "
            "response_scores(batch), score() or score_groups()."
        )


class HeadTemplate:
    """Base of the branch templates of generative heads; subclasses lay out the branches.

    Args:
        text: of the prompt.
        options: everything else that changes a branch; part of the fingerprint.

    Attributes:
        kind: the beginning of the fingerprint, which is different for every subclass.
        open: whether branches continue the last turn of the prompt.

    >>> HeadTemplate("Is it right?", 5).fingerprint == HeadTemplate("Is it right?", 4).fingerprint
    False
    """

    kind: ClassVar[str] = ""
    open = False

    def __init__(self, text: str, *options: object) -> None:
        self.text = text
        self.options = options

    @property
    def fingerprint(self) -> str:
        """A hash of everything that the branches depend on, apart from the group."""
        return hashlib.sha256(f"{self.kind} {self._fingerprint_parts()}".encode()).hexdigest()

    def _fingerprint_parts(self) -> str:
        """What the fingerprint hashes after the kind; caches of lengths on the disk depend on its exact form."""
        return " ".join(str(part) for part in (*self.options, self.text))


class JudgeTemplate(HeadTemplate):
    """Base of templates whose branches continue one user turn: the question with its images, then the answers.

    Args:
        prompt: of the judge, with a field for the question and one for each answer.
        options: as in `HeadTemplate`.

    >>> JudgeTemplate(Prompt("p", "{question} A: {answer}")).judge_prompt.fields
    ('question', 'answer')
    """

    open = True

    def __init__(self, prompt: Prompt, *options: object) -> None:
        super().__init__(prompt.text, *options)
        self.judge_prompt = prompt

    def prompt(self, group: Group) -> tuple[Turn, ...]:
        """The judge's turn up to the first answer, with the sentinel where branches continue."""
        (turn,) = self.judge_prompt.turns(group)
        *before, last = turn.parts
        # An image or a video has no text to which the sentinel could be appended.
        if last.is_visual:
            return (Turn(turn.role, (*before, last, Part(SENTINEL))),)
        return (Turn(turn.role, (*before, Part(f"{last.text}{SENTINEL}"))),)


def branch_with_target(
    pieces: Sequence[Tensor], target: Tensor, *, weight: float = 1.0, responses: tuple[int, ...] = ()
) -> tuple[Tensor, BranchTarget]:
    """A branch that ends with the tokens that the model learns to write.

    Args:
        pieces: tokens `(n,)` of the parts before the target.
        target: tokens `(n,)`; empty when the model is to generate them.
        weight: of the branch in the language loss.
        responses: indices of the responses that the branch shows, in this order.

    >>> branch_with_target([torch.tensor([1, 2])], torch.tensor([3]))[0].tolist()
    [1, 2, 3]
    """
    return torch.cat([*pieces, target]), BranchTarget(len(target), weight, responses)


def check_one_for_each_response(group: Group, annotations: Sequence[object], *, name: str, remedy: str) -> None:
    """Checks that training data has an annotation for each response.

    Args:
        group: of the data.
        annotations: of the group.
        name: what one of them is called; the reason of the rejection is `no_<name>`.
        remedy: for the message: which head learns from them, and what to do.

    Raises:
        RowRejected: the numbers differ.

    >>> group = Group("a", "made", (), ("4", "5"))
    >>> check_one_for_each_response(group, [0.5], name="rating", remedy="give one for each")
    Traceback (most recent call last):
        ...
    basereward.data.schema.rejections.RowRejected: 1 ratings of 2 responses; give one for each
    """
    if len(annotations) != len(group.responses):
        raise RowRejected(f"no_{name}", f"{len(annotations)} {name}s of {len(group.responses)} responses; {remedy}")
