"""The critic: it generates a critique of a response and reads the score at the end of the critique."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from basereward.data.batching.branch_edits import append_to_branches
from basereward.data.encoding.branch_images import response_content
from basereward.model.generation.generate import SamplingParams
from basereward.model.generation.prompts import REQUEST, load_prompt
from basereward.model.heads._judge_head import HeadTemplate, branch_with_target, check_one_for_each_response
from basereward.model.heads.contracts import head_scores
from basereward.model.heads.mlp import MLP

if TYPE_CHECKING:
    from basereward.data.batching.tree_batch import TreeBatch
    from basereward.data.encoding.encoder import BranchTarget, Encoder
    from basereward.data.schema.group import Group, Turn
    from basereward.model.generation.response_generator import ResponseGenerator


class Critic(MLP):
    """Critique, then score (MM-RLHF, arXiv 2502.10391; the Critic-RM of BaseReward, Table 1).

    A branch is the response, a request for a critique, and the critique. Training uses the critiques of the data: the
    model learns their tokens by cross-entropy, and the score is read at the last token. At scoring time the model
    generates the critique.

    Args:
        hidden_size: width D of the backbone's hidden states.
        layers, activation, width, dropout: of the layers that give the score; see `MLP`.
        language_weight: factor of the cross-entropy over critiques, added to the loss over scores.
        max_tokens: limit of a generated critique; a longer one is truncated, and the score is read at its end.
        temperature: of sampling; 0 takes the most likely token. The draws depend on the tokens of
            the response alone.
        samples: critiques for each response; the score is the mean over them. Training generates one.
        critiques: where training reads the scores that it ranks: at the end of critiques `given` in the data; of the
            model's `own`, generated anew at every step and not learned as language; or of `both`, each with half of
            the loss.
        prompt: the request, by the name of a file in `basereward/model/prompts`.
        prompt_file: a text file with the request, instead of `prompt`.

    Raises:
        ValueError: there is no such prompt, the prompt has fields, or `samples` is above 1 at temperature 0.

    >>> Critic(16, critiques="own").rank_reference, Critic(16, critiques="both").rank_generated
    (False, True)
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
            raise ValueError(
                f"samples={samples} at temperature 0 would be {samples} identical critiques. Set temperature above 0, "
                "or samples=1."
            )
        self.language_weight = language_weight
        self.rank_reference = critiques != "own"
        self.rank_generated = critiques != "given"
        self.sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature, samples=samples)
        request = load_prompt(prompt, prompt_file, fields=REQUEST).text
        self.branch_template = CritiqueTemplate(request, given=critiques != "own")

    def judge(self, generator: ResponseGenerator, batch: TreeBatch) -> Tensor:
        """Scores `(K,)` of responses, each read at the end of a generated critique; the mean over samples."""
        scores = []
        for finished in self.append_generated(generator, batch, samples=self.sampling.samples):
            scores.append(head_scores(self, generator.pooled(finished)))
        return torch.stack(scores).mean(0)

    def append_generated(self, generator: ResponseGenerator, batch: TreeBatch, *, samples: int) -> list[TreeBatch]:
        """`samples` copies of the batch, each with a generated critique at the end of every branch."""
        # All samples are generated in one call: the keys and values of the responses are computed once.
        texts_of_branches = generator.generate(batch, replace(self.sampling, samples=samples))
        batches: list[TreeBatch] = []
        for sample in range(samples):
            batches.append(append_to_branches(batch, [texts[sample] for texts in texts_of_branches]))
        return batches


class CritiqueTemplate(HeadTemplate):
    """Lays out a branch as the response, a request for a critique, and in training the critique.

    Args:
        request: text of the request.
        given: whether training uses the critiques of the data.

    >>> CritiqueTemplate("Criticise the answer.", given=True).open  # the request is a turn of its own
    False
    """

    kind = "critique"

    def __init__(self, request: str, *, given: bool) -> None:
        super().__init__(request, given)
        self.given = given

    def prompt(self, group: Group) -> tuple[Turn, ...]:
        """The prompt of the group: a critic reads the conversation itself, and not a description of it."""
        return group.prompt

    def __call__(self, encoder: Encoder, group: Group, *, with_targets: bool) -> Sequence[tuple[Tensor, BranchTarget]]:
        with_critiques = with_targets and self.given
        if with_critiques:
            check_one_for_each_response(
                group,
                group.critiques,
                name="critique",
                remedy="a critic learns from written ones, which the sources digits, numbers, digit_pairs and mm_rlhf "
                "have. Give the rows `critiques`, let the critic learn its own (model.head.critiques=own), or take "
                "another head",
            )
        request = encoder.asked(self.text)
        branches = []
        for index in range(len(group.responses)):
            # `request` begins with the end of the response's turn, so the branch's own end-of-turn token is cut off.
            answer = encoder.branch(response_content(group, index))[:-1]
            target = encoder.answer(group.critiques[index]) if with_critiques else answer[:0]
            branches.append(branch_with_target([answer, request], target))
        return branches
