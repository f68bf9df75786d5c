"""The generative judge: both answers in one prompt, and the number of the better one as text."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from annotated_types import Ge, Interval
from torch import Tensor, nn

from basereward.data.encoding.chat import SENTINEL
from basereward.data.encoding.encoder import BranchTarget
from basereward.data.schema.group import Turn
from basereward.data.schema.rejections import RowRejected
from basereward.errors import ModelError
from basereward.model.generation.generate import Writing
from basereward.model.generation.prompts import PAIRWISE, Prompt, load_prompt
from basereward.model.generation.round_robin import Order, ordered_pairs, scores
from basereward.model.generation.verdicts import compiled_pattern, parse_verdict

if TYPE_CHECKING:
    from basereward.data.batching.tree_batch import TreeBatch
    from basereward.data.encoding.encoder import Encoder
    from basereward.data.schema.group import Group
    from basereward.model.generation.response_generator import ResponseGenerator
    from basereward.model.reward_model import RewardModel

Taught = Iterator[tuple[int, int, str, float]]
"""First and second answer as they are shown, the text that is taught, and what it counts."""


class Generative(nn.Module):
    """A pairwise judge without weights of its own (BaseReward, Table 1: GRM and LongCoT-GRM; arXiv 2505.02835).

    Without thinking, the answer is one token, `1` or `2`: by how much the first answer leads is the difference of the
    two tokens' logits, whose sigmoid is the softmax over the two. With thinking, the model writes its reasoning and
    then `<answer>1</answer>` or `<answer>2</answer>`; every vote leads by 1, and text without a verdict is counted and
    says nothing. Both learn by cross-entropy on the text, and turn leads into scores as `judging.scores` says.

    Args:
        hidden_size: of the backbone; not used.
        thinking: whether reasoning is written before the verdict, and learned from the data's `reasonings`.
        order: in which orders a pair is shown, in training and in scoring: `both`, as `given`, or one at `random`.
            Written reasoning is learned in the order it speaks of.
        votes: verdicts on a pair in one order, with thinking; above 1 they are drawn at a temperature above 0.
        temperature: of the writing; 0 takes the likeliest token. At a higher one, scores vary with the batch.
        top_p: the smallest set of tokens with so much probability is drawn from.
        max_tokens: of a text with reasoning; a longer one is cut, and has no verdict.
        pairs: at most so many preferences of a group, with thinking of those that have reasoning, are learned from,
            spread evenly over them; None: all.
        prompt: by the name of a file in `basereward/model/prompts`; None: `pairwise_thinking` or `pairwise_verdict`.
        prompt_file: a text file with the prompt, in its place.
        pattern: a regular expression with one group, which finds the verdict in a text of another form.

    Raises:
        ValueError: there is no such prompt, its fields are others, `pattern` has not one group, or several votes would
            be the same.
    """

    language_weight = 1.0
    ranks = False
    ranks_own = False

    def __init__(
        self,
        hidden_size: int,
        *,
        thinking: bool = False,
        order: Literal["both", "given", "random"] = "both",  # spelled out: `check` reads it without importing
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
                f"votes={votes} of the same text would be the same vote: they need thinking: true and a temperature "
                "above 0"
            )
        self.thinking = thinking
        self.writing = Writing(max_tokens=max_tokens, temperature=temperature, top_p=top_p, samples=votes)
        self.pattern = None if pattern is None else compiled_pattern(pattern)
        name = prompt or ("pairwise_thinking" if thinking else "pairwise_verdict")
        loaded = load_prompt(name, prompt_file, fields=PAIRWISE)
        self.speech = Comparisons(loaded, thinking=thinking, order=order, pairs=pairs)

    def forward(self, pooled: Tensor) -> Tensor:
        """Not for this head: it has no score of a hidden state."""
        raise ModelError("a generative head scores by what is written: call judged(batch), score() or score_groups()")

    def judge(self, voice: ResponseGenerator, model: RewardModel, batch: TreeBatch) -> Tensor:
        """Scores `(K,)` of responses by their leads over each other; all 0 in a group with a response on which no
        verdict could be read, since any score of it would be a verdict."""
        leads = self._votes(voice, model, batch) if self.thinking else self._lead(voice, model, batch)
        found: list[float] = []
        shown: dict[tuple[int, int], list[float | None]] = defaultdict(list)
        for (first, second), values in zip(batch.about.tolist(), leads, strict=True):
            shown[first, second] += values
        for count in batch.responses:
            start = len(found)
            mine = {
                (i, j): shown[start + i, start + j] for i, j in ordered_pairs(count, "both")
            }  # a pair that was not shown has no values
            scored = scores(count, mine)
            found += [0.0] * count if any(map(math.isnan, scored)) else scored
        return torch.tensor(found).to(batch.input_ids.device)

    def _lead(self, voice: ResponseGenerator, model: RewardModel, batch: TreeBatch) -> list[list[float | None]]:
        """What the two tokens' logits differ by, at the end of every branch."""
        assert model.language is not None
        hidden = model.backbone(batch)
        logits = model.language.logits(model.backbone.transformer, hidden)
        lead = logits[:, voice.token("1")] - logits[:, voice.token("2")]
        return [[value] for value in lead.tolist()]

    def _votes(self, voice: ResponseGenerator, model: RewardModel, batch: TreeBatch) -> list[list[float | None]]:
        leads: list[list[float | None]] = []
        for texts in voice.write(model, batch, self.writing):
            verdicts = [parse_verdict(voice.text(text), self.pattern) for text in texts]
            voice.tally["verdicts"] += len(verdicts)
            voice.tally["unread"] += verdicts.count(None)
            leads.append([None if verdict is None else 3.0 - 2.0 * verdict for verdict in verdicts])
        return leads


class Comparisons:
    """A branch for every ordered pair of answers, after one prefix with the question and its pictures."""

    open = True

    def __init__(self, prompt: Prompt, *, thinking: bool, order: Order, pairs: int | None = None) -> None:
        self.asked = prompt
        self.thinking = thinking
        self.order = order
        self.pairs = pairs

    @property
    def text(self) -> str:
        return self.asked.text

    @property
    def fingerprint(self) -> str:
        parts = (self.text, self.thinking, self.order, self.pairs)
        return hashlib.sha256(f"comparisons {parts}".encode()).hexdigest()

    def prompt(self, group: Group) -> tuple[Turn, ...]:
        (turn,) = self.asked.turns(group)
        return (with_sentinel(turn),)

    def __call__(self, encoder: Encoder, group: Group, *, taught: bool) -> Sequence[tuple[Tensor, BranchTarget]]:
        if len(group.responses) < 2:
            raise RowRejected(
                "single_response", "a pairwise judge compares responses, and there is one; see head rating"
            )
        said = [encoder.plain(response) for response in group.responses]
        between = encoder.plain(self.asked.after("answer_1"))
        ending = encoder.plain(self.asked.after("answer_2"))
        closing = encoder.closing_before_reasoning if self.thinking else encoder.closing
        write = encoder.branch if self.thinking else encoder.answer
        laid = []
        for first, second, text, weight in self._taught(group) if taught else self._shown(group):
            told = write(text) if taught else said[0][:0]
            pieces = [said[first], between, said[second], ending, closing, told]
            laid.append((torch.cat(pieces), BranchTarget(len(told), weight, (first, second))))
        return laid

    def _shown(self, group: Group) -> Taught:
        for first, second in ordered_pairs(len(group.responses), self.order, seed=group.id):
            yield first, second, "", 1.0

    def _taught(self, group: Group) -> Taught:
        better = {(p.winner, p.loser): p.weight for p in group.preferences if not p.tie}
        if not better:
            raise RowRejected(
                "no_verdict", "all preferences of the group are ties; a judge learns from a better answer"
            )
        if self.thinking:
            yield from self._reasoned(group, better)
            return
        shown = {pair for pair in ordered_pairs(len(group.responses), self.order, seed=group.id)}
        for winner, loser in self._some(sorted(better)):
            for first, second in sorted(shown & {(winner, loser), (loser, winner)}):
                yield first, second, "1" if first == winner else "2", better[winner, loser]

    def _reasoned(self, group: Group, better: Mapping[tuple[int, int], float]) -> Taught:
        """Reasoning of the data is shown in its own order: its words say which answer is 1."""
        found = []
        for each in group.reasonings:
            verdict = 1 if (each.first, each.second) in better else 2
            pair = (each.first, each.second) if verdict == 1 else (each.second, each.first)
            if pair in better:
                text = f"<think>{each.text}</think><answer>{verdict}</answer>"
                found.append((pair, (each.first, each.second, text, better[pair])))
        if not found:
            raise RowRejected(
                "no_reasoning",
                "a judge that thinks learns from written reasoning, which the sources digits, numbers and digit_pairs "
                "have; `basereward annotate` writes it for others. Give the rows `reasonings`, or set "
                "model.head.thinking=false",
            )
        kept = self._some(sorted({pair for pair, _ in found}))
        yield from (taught for pair, taught in found if pair in kept)

    def _some(self, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """At most `self.pairs` of them, evenly spread."""
        count = len(pairs) if self.pairs is None else min(self.pairs, len(pairs))
        return [pairs[i * len(pairs) // count] for i in range(count)]


def with_sentinel(turn: Turn) -> Turn:
    """The turn with the mark at its end, where branches go on."""
    *before, last = turn.parts
    if last.is_image:
        return Turn(turn.role, (*turn.parts, type(last)(SENTINEL)))
    return Turn(turn.role, (*before, type(last)(f"{last.text}{SENTINEL}")))
