"""What the pairwise and the pointwise judge share: no weights, no score of a hidden state, one prompt for a group."""

from __future__ import annotations

import hashlib
from typing import ClassVar

from torch import Tensor, nn

from basereward.data.encoding.chat import SENTINEL
from basereward.data.schema.group import Group, Part, Turn
from basereward.errors import ModelError
from basereward.model.generation.prompts import Prompt


class JudgeHead(nn.Module):
    """Base of generative heads that have no weights of their own and learn by cross-entropy alone."""

    language_weight = 1.0
    rank_reference = False
    rank_generated = False

    def forward(self, pooled: Tensor) -> Tensor:
        """Raises `ModelError`: a judge has no score of a hidden state."""
        name = type(self).__name__.lower()
        raise ModelError(
            f"head '{name}' scores by the text or the token that the model generates, not by a hidden state. Call "
            "response_scores(batch), score() or score_groups()."
        )


class JudgeTemplate:
    """Base of templates whose branches continue one user turn: the question with its images, then the answers.

    Args:
        prompt: of the judge, with a field for the question and one for each answer.
        options: everything else that changes a branch; part of the fingerprint.
    """

    kind: ClassVar[str]
    open = True  # branches continue the last turn of the prompt

    def __init__(self, prompt: Prompt, *options: object) -> None:
        self.judge_prompt = prompt
        self.options = options

    @property
    def text(self) -> str:
        return self.judge_prompt.text

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.kind} {self._fingerprint_parts()}".encode()).hexdigest()

    def _fingerprint_parts(self) -> str:
        """What the fingerprint hashes after the kind; caches of lengths on the disk depend on its exact form."""
        return str((self.text, *self.options))

    def prompt(self, group: Group) -> tuple[Turn, ...]:
        """The judge's turn up to the first answer, with the sentinel where branches continue."""
        (turn,) = self.judge_prompt.turns(group)
        *before, last = turn.parts
        if last.is_image:
            return (Turn(turn.role, (*before, last, Part(SENTINEL))),)
        return (Turn(turn.role, (*before, Part(f"{last.text}{SENTINEL}"))),)
