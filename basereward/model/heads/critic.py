"""The critic: it writes a critique of a response, and scores at the critique's end."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from basereward.data.batching.continued import continued
from basereward.data.encoding.encoder import BranchTarget
from basereward.data.schema.rejections import RowRejected
from basereward.model.generation.generate import Writing
from basereward.model.generation.prompts import REQUEST, load_prompt
from basereward.model.heads.mlp import MLP

if TYPE_CHECKING:
    from basereward.data.batching.tree_batch import TreeBatch
    from basereward.data.encoding.encoder import Encoder
    from basereward.data.schema.group import Group, Turn
    from basereward.model.generation.response_generator import ResponseGenerator
    from basereward.model.reward_model import RewardModel


class Critic(MLP):
    """Critique, then score (MM-RLHF, arXiv 2502.10391; the Critic-RM of BaseReward, Table 1).

    A branch is the response, a request for a critique, and the critique. In training the critique is the data's: its
    tokens are learned as language, and the score is read at its end. In scoring the model writes it itself.

    Args:
        hidden_size: width D of the backbone's hidden states.
        layers, activation, width, dropout: of the score; see `MLP`.
        language_weight: what the mean cross-entropy of a group's critiques counts beside the loss over scores.
        max_tokens: of a critique that the model writes; a longer one is cut, and scored where it was cut.
        temperature: of the writing; 0 takes the likeliest token. At a higher one, scores vary with the batch.
        samples: critiques a response; its score is their mean. In training it is one.
        critiques: at whose end scores are ranked in training: at the end of those `given` in the data; of the model's
            `own`, written anew at every step, of which no language is learned; or of `both`, half the loss each.
        prompt: the request, by the name of a file in `basereward/model/prompts`.
        prompt_file: a text file with the request, in its place.

    Raises:
        ValueError: there is no such prompt, its fields are others, or several samples would be the same.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        layers: Annotated[int, Interval(ge=1, le=64)] = 2,
        activation: Literal["none", "tanh", "relu", "silu"] = "silu",
        width: Annotated[int, Interval(ge=1, le=131_072)] | None = None,
        dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0,
        language_weight: Annotated[float, Ge(0)] = 1.0,
        max_tokens: Annotated[int, Interval(ge=1, le=131_072)] = 512,
        temperature: Annotated[float, Ge(0)] = 0.0,
        samples: Annotated[int, Interval(ge=1, le=64)] = 1,
        critiques: Literal["given", "own", "both"] = "given",
        prompt: str = "critique",
        prompt_file: str | None = None,
    ) -> None:
        super().__init__(hidden_size, layers=layers, activation=activation, width=width, dropout=dropout)
        if samples > 1 and not temperature:
            raise ValueError(f"samples={samples} at temperature 0 would be the same critique so many times")
        self.language_weight = language_weight
        self.ranks = critiques != "own"
        self.ranks_own = critiques != "given"
        self.writing = Writing(max_tokens=max_tokens, temperature=temperature, samples=samples)
        self.speech = Critiques(load_prompt(prompt, prompt_file, fields=REQUEST).text, given=critiques != "own")

    def judge(self, voice: ResponseGenerator, model: RewardModel, batch: TreeBatch) -> Tensor:
        """Scores `(K,)` of responses, each at the end of what the model writes about it; the mean over samples."""
        scores = [model(finished) for finished in self.finished(voice, model, batch, samples=self.writing.samples)]
        return torch.stack(scores).mean(0)

    def finished(
        self, voice: ResponseGenerator, model: RewardModel, batch: TreeBatch, *, samples: int
    ) -> list[TreeBatch]:
        """The batch with a critique written at the end of every branch, so many times."""
        written = voice.write(model, batch, replace(self.writing, samples=samples))
        return [continued(batch, [texts[i] for texts in written]) for i in range(samples)]


class Critiques:
    """Branches with a request for a critique, and the critique where it is `given`."""

    open = False

    def __init__(self, request: str, *, given: bool) -> None:
        self.text = request
        self.given = given

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"critique {self.given} {self.text}".encode()).hexdigest()

    def prompt(self, group: Group) -> tuple[Turn, ...]:
        return group.prompt

    def __call__(self, encoder: Encoder, group: Group, *, taught: bool) -> Sequence[tuple[Tensor, BranchTarget]]:
        taught = taught and self.given
        if taught and len(group.critiques) != len(group.responses):
            raise RowRejected(
                "no_critique",
                f"{len(group.critiques)} critiques of {len(group.responses)} responses; a critic learns from written "
                "ones, which the sources digits, numbers, digit_pairs and mm_rlhf have. Give the rows `critiques`, let "
                "the critic learn from its own (model.head.critiques=own), or take another head",
            )
        asked = encoder.asked(self.text)
        laid = []
        for index, response in enumerate(group.responses):
            said = encoder.branch(response)[:-1]
            told = encoder.answer(group.critiques[index]) if taught else said[:0]
            laid.append((torch.cat([said, asked, told]), BranchTarget(len(told))))
        return laid
