"""The generative judge: both answers in one prompt, and the number of the better one as text."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from basereward.data.encoding.branch_images import response_content
from basereward.data.schema.rejections import RowRejected
from basereward.model.generation.generate import SamplingParams
from basereward.model.generation.prompts import PAIRWISE, Prompt, load_prompt
from basereward.model.generation.round_robin import Order, ordered_pairs, scores
from basereward.model.generation.verdicts import compiled_pattern, parse_verdict
from basereward.model.heads._judge_head import JudgeHead, JudgeTemplate, branch_with_target

if TYPE_CHECKING:
    from basereward.data.batching.tree_batch import TreeBatch
    from basereward.data.encoding.encoder import BranchTarget, Encoder
    from basereward.data.schema.group import Group
    from basereward.model.generation.response_generator import ResponseGenerator


@dataclass(frozen=True, slots=True)
class ShownPair:
    """One ordered pair of answers as a judge sees it.

    Attributes:
        first: index of the response that is shown as answer 1.
        second: index of the response that is shown as answer 2.
        target: text that the model learns to write; empty in scoring.
        weight: of the target in the language loss.

    >>> ShownPair(0, 2).weight
    1.0
    """

    first: int
    second: int
    target: str = ""
    weight: float = 1.0


class Generative(JudgeHead):
    """A pairwise judge without weights of its own (BaseReward, Table 1: GRM and LongCoT-GRM; arXiv 2505.02835).

    Without thinking, the verdict is one token, `1` or `2`. The lead of the first answer is the difference of the two
    tokens' logits; its sigmoid is the softmax over the two. With thinking, the model writes its reasoning and then
    `<answer>1</answer>` or `<answer>2</answer>`. Each verdict is a lead of 1 for one side; text without a verdict is
    counted and ignored. Both forms learn by cross-entropy on the text, and `round_robin.scores` turns leads into
    scores.

    Args:
        hidden_size: of the backbone; not used.
        thinking: whether the model writes reasoning before the verdict, and learns it from the data's `reasonings`.
        order: the orders in which a pair is shown, in training and in scoring: `both`, as `given`, or one at `random`.
            Completion reasoning is always shown in its own order, because its words refer to answer 1 and answer 2.
        votes: verdicts for a pair in one order, with thinking; more than 1 need a temperature above 0.
        temperature: of sampling; 0 takes the most likely token. The draws depend on the tokens of
            the comparison alone.
        top_p: sampling draws from the smallest set of tokens that together have this probability.
        max_tokens: limit of a text with reasoning; a longer text is truncated and has no verdict.
        pairs: at most this many preferences of a group are learned, spread evenly over them; with thinking, of those
            that have reasoning. None: all.
        prompt: name of a file in `basereward/model/prompts`; None: `pairwise_thinking` or `pairwise_verdict`.
        prompt_file: a text file with the prompt, instead of `prompt`.
        pattern: a regular expression with one group that finds the verdict in a text of another form.

    Raises:
        ValueError: there is no such prompt, its fields are not those of a pairwise prompt, `pattern` does not have
            exactly one group, or several votes would be identical.

    >>> Generative(128).branch_template.judge_prompt.name
    'pairwise_verdict'
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        thinking: bool = False,
        # Not the equal alias `Order`: `basereward check` reads the hints of this file without importing others.
        order: Literal["both", "given", "random"] = "both",
        votes: Annotated[int, Interval(ge=1, le=15)] = 1,
        temperature: Annotated[float, Ge(0)] = 0.0,
        top_p: Annotated[float, Interval(gt=0, le=1)] = 1.0,
        max_tokens: Annotated[int, Interval(ge=1, le=131_072)] = 1024,
        pairs: Annotated[int, Ge(1)] | None = None,
        prompt: str | None = None,
        prompt_file: str | None = None,
        pattern: str | None = None,
    ) -> None:
        super().__init__()
        if votes > 1 and not (thinking and temperature):
            raise ValueError(
                f"votes={votes} at temperature {temperature:g} with thinking={thinking} would be identical votes. Set "
                "thinking: true and a temperature above 0, or votes=1"
            )
        self.thinking = thinking
        self.sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p, samples=votes)
        self.pattern = None if pattern is None else compiled_pattern(pattern)
        name = prompt or ("pairwise_thinking" if thinking else "pairwise_verdict")
        loaded = load_prompt(name, prompt_file, fields=PAIRWISE)
        self.branch_template = ComparisonTemplate(loaded, thinking=thinking, order=order, pairs=pairs)

    def judge(self, generator: ResponseGenerator, batch: TreeBatch) -> Tensor:
        """Scores `(K,)` of responses by their leads over each other.

        If no verdict about a response can be read, all scores of its group are 0: any other score would rank it.
        """
        leads = self._sampled_leads(generator, batch) if self.thinking else self._logit_leads(generator, batch)
        leads_of_pair: dict[tuple[int, int], list[float | None]] = defaultdict(list)
        for (first, second), values in zip(batch.targets.compared.tolist(), leads, strict=True):
            leads_of_pair[first, second] += values
        batch_scores: list[float] = []
        for count in batch.responses:
            start = len(batch_scores)
            # Indices of `about` count the responses of the whole batch. A pair that was not shown has no values.
            group_leads = {(i, j): leads_of_pair[start + i, start + j] for i, j in ordered_pairs(count, "both")}
            group_scores = scores(count, group_leads)
            # A score of NaN belongs to a response without any verdict that could be parsed.
            unjudged = any(math.isnan(score) for score in group_scores)
            batch_scores += [0.0] * count if unjudged else group_scores
        return torch.tensor(batch_scores).to(batch.rows.input_ids.device)

    def _logit_leads(self, generator: ResponseGenerator, batch: TreeBatch) -> list[list[float | None]]:
        """For every branch one lead: the logit of token `1` minus that of token `2` at its end."""
        logits = generator.next_token_logits(batch)
        leads = logits[:, generator.token("1")] - logits[:, generator.token("2")]
        return [[lead] for lead in leads.tolist()]

    def _sampled_leads(self, generator: ResponseGenerator, batch: TreeBatch) -> list[list[float | None]]:
        """For every branch a lead for each vote: 1, -1, or None where no verdict can be read."""
        leads: list[list[float | None]] = []
        for texts in generator.generate(batch, self.sampling):
            # A verdict that cannot be parsed is counted and gives no vote; a guess would move the score.
            verdicts = [parse_verdict(generator.text(text), self.pattern) for text in texts]
            generator.tally["verdicts"] += len(verdicts)
            generator.tally["unread"] += verdicts.count(None)
            # Verdict 1 is a lead of 1 for the first answer, verdict 2 a lead of -1.
            leads.append([None if verdict is None else 3.0 - 2.0 * verdict for verdict in verdicts])
        return leads


class ComparisonTemplate(JudgeTemplate):
    """A branch for every ordered pair of answers, after one prefix with the question and its images.

    Args:
        prompt: with the fields `PAIRWISE`.
        thinking: whether the target has reasoning before the verdict.
        order: see `Generative`.
        pairs: see `Generative`.

    >>> ComparisonTemplate(load_prompt("pairwise_verdict", fields=PAIRWISE), thinking=False, order="both").kind
    'comparisons'
    """

    kind = "comparisons"

    def __init__(self, prompt: Prompt, *, thinking: bool, order: Order, pairs: int | None = None) -> None:
        super().__init__(prompt, thinking, order, pairs)
        self.thinking = thinking
        self.order = order
        self.pairs = pairs

    def _fingerprint_parts(self) -> str:
        # The form that earlier versions hashed: with another one, caches of lengths would be computed again.
        return str((self.text, *self.options))

    def __call__(self, encoder: Encoder, group: Group, *, with_targets: bool) -> Sequence[tuple[Tensor, BranchTarget]]:
        if len(group.responses) < 2:
            raise RowRejected(
                "single_response", "a pairwise judge compares responses, and there is one; see head rating"
            )
        # Each text is encoded once, although a response stands in several branches. Pieces are encoded apart, so that a
        # response has the same tokens as answer 1 and as answer 2.
        answers = [encoder.plain(response_content(group, index)) for index in range(len(group.responses))]
        between = encoder.plain(self.judge_prompt.after("answer_1"))
        ending = encoder.plain(self.judge_prompt.after("answer_2"))
        closing = encoder.closing_before_reasoning if self.thinking else encoder.closing
        encode_target = encoder.branch if self.thinking else encoder.answer
        branches = []
        for comparison in self._training_comparisons(group) if with_targets else self._comparisons(group):
            target = encode_target(comparison.target) if with_targets else closing[:0]
            pair = (comparison.first, comparison.second)
            pieces = [answers[pair[0]], between, answers[pair[1]], ending, closing]
            branches.append(branch_with_target(pieces, target, weight=comparison.weight, responses=pair))
        return branches

    def _comparisons(self, group: Group) -> Iterator[ShownPair]:
        for first, second in ordered_pairs(len(group.responses), self.order, seed=group.id):
            yield ShownPair(first, second)

    def _training_comparisons(self, group: Group) -> Iterator[ShownPair]:
        """The comparisons whose verdict the data give.

        Raises:
            RowRejected: `no_verdict` or `no_reasoning`.
        """
        weights = {(p.winner, p.loser): p.weight for p in group.preferences if not p.tie}
        if not weights:
            raise RowRejected(
                "no_verdict", "all preferences of the group are ties; a judge learns which answer is better"
            )
        if self.thinking:
            yield from self._reasoned(group, weights)
            return
        pairs = set(ordered_pairs(len(group.responses), self.order, seed=group.id))
        for winner, loser in self._limited(sorted(weights)):
            for first, second in sorted(pairs & {(winner, loser), (loser, winner)}):
                verdict = "1" if first == winner else "2"
                yield ShownPair(first, second, verdict, weights[winner, loser])

    def _reasoned(self, group: Group, weights: Mapping[tuple[int, int], float]) -> Iterator[ShownPair]:
        """Comparisons with the data's reasoning, in the order that the reasoning refers to."""
        comparisons: list[tuple[tuple[int, int], ShownPair]] = []
        for reasoning in group.reasonings:
            first_wins = (reasoning.first, reasoning.second) in weights
            verdict = 1 if first_wins else 2
            preference = (reasoning.first, reasoning.second) if first_wins else (reasoning.second, reasoning.first)
            if preference in weights:
                text = f"<think>{reasoning.text}</think><answer>{verdict}</answer>"
                comparison = ShownPair(reasoning.first, reasoning.second, text, weights[preference])
                comparisons.append((preference, comparison))
        if not comparisons:
            raise RowRejected(
                "no_reasoning",
                "a judge with thinking=true learns from written reasoning, which the sources digits, numbers and "
                "digit_pairs have; `basereward annotate` writes it for others. Give the rows `reasonings`, or set "
                "model.head.thinking=false",
            )
        kept = self._limited(sorted({preference for preference, _ in comparisons}))
        yield from (comparison for preference, comparison in comparisons if preference in kept)

    def _limited(self, preferences: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """At most `self.pairs` of the preferences, evenly spread over them and the same at every epoch."""
        count = len(preferences) if self.pairs is None else min(self.pairs, len(preferences))
        return [preferences[i * len(preferences) // count] for i in range(count)]
