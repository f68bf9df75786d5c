"""Asks a judge about pairs, in this process or in shards on a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from basereward.cluster.options import ClusterOptions
from basereward.cluster.shards import ShardedRows
from basereward.evaluation.annotation.rows import Pair, digest, reasoning
from basereward.evaluation.judging.answers import Answers
from basereward.evaluation.judging.judge import compared
from basereward.inference.judges.engine import LOCAL, VLLM, Answer, Engine, OnCompletion, Request
from basereward.inference.judges.open_engine import judge_content, open_engine
from basereward.io.hashing import combined_sha256
from basereward.model.generation.generate import SamplingParams
from basereward.model.generation.prompts import Prompt
from basereward.model.generation.verdicts import parse_verdict
from basereward.recipe.trust import is_trusted, trusting

PAIRS_OF_BLOCK = 16
"""Shards begin at multiples of it, as the batches of a local judge do."""


@dataclass(frozen=True)
class PairAsker:
    """Asks about pairs until a verdict agrees with the label.

    Attributes:
        engine: the judge.
        prompt: the template of a request.
        pattern: finds the verdict; None: that of the tag `<answer>`.
        writing: sampling parameters; each attempt has the next seed.
        attempts: the most texts for each pair.
        retry_temperature: of all texts of a pair after the first; None: the same.
        content: of the judge, as of `judge_content`.
    """

    engine: Engine
    prompt: Prompt
    pattern: re.Pattern[str] | None
    writing: SamplingParams
    attempts: int
    retry_temperature: float | None
    content: str | None = None

    @property
    def retrying(self) -> dict[str, float | None]:
        """The temperature of further texts, a part of the identity of the answers; empty if it is that of the first."""
        if self.retry_temperature in (None, self.writing.temperature):
            return {}
        return {"retry_temperature": self.retry_temperature}

    def ask(self, pairs: Sequence[Pair], answers: Answers) -> dict[str, list[str]]:
        """Ask for texts until one agrees with the label.

        Each round sends one request for every pair without an agreeing text.

        Returns:
            The texts of each pair by its id, up to the first that agrees.
        """
        texts: dict[str, list[str]] = {pair.id: [] for pair in pairs}
        pending = list(pairs)
        for attempt in range(1, self.attempts + 1):
            # Engines that draw from the seed of a request would repeat the text of the attempt before.
            how = replace(self.writing, seed=self.writing.seed + attempt - 1)
            if attempt > 1 and self.retry_temperature is not None:
                how = replace(how, temperature=self.retry_temperature)
            requests = (self._request(pair, attempt) for pair in pending)
            # `answers` keeps what is received; nothing is done with each.
            for _ in answers.ask(self.engine, requests, how, total=len(pending)):
                pass
            pending = [pair for pair in pending if self._needs_another(pair, attempt, answers, texts[pair.id])]
        return texts

    def _request(self, pair: Pair, attempt: int) -> Request:
        first, second = pair.shown
        return compared(self.prompt, pair.group, first, second, request_id(pair, attempt))

    def _needs_another(self, pair: Pair, attempt: int, answers: Answers, texts: list[str]) -> bool:
        """Add the text of an attempt to `texts`, and say whether another attempt is needed."""
        line = answers.known.get(request_id(pair, attempt))
        # The request failed. The next call repeats this attempt before any later one.
        if line is None:
            return False
        texts.append(line["text"])
        return not self.agrees(line["text"], pair)

    def agrees(self, text: str, pair: Pair) -> bool:
        """Whether the verdict is the label, and has reasoning: a bare verdict teaches none."""
        return parse_verdict(text, self.pattern) == pair.verdict and reasoning(text) != ""


def request_id(pair: Pair, attempt: int) -> str:
    """The id of the request for a text, a part of saved files: a stopped call finds its answers by it.

    >>> from basereward.data.schema.group import Group
    >>> request_id(Pair("a/0>1", Group("a", "s", (), ("4", "5")), winner=0, loser=1, winner_first=True), 2)
    'a/0>1#2'
    """
    return f"{pair.id}#{attempt}"


@dataclass(frozen=True)
class Opening:
    """How an engine is opened; the arguments of `open_engine`, which can be sent to another process.

    >>> Opening("Qwen2.5-VL-7B", endpoint="http://localhost:8000/v1").engine().name
    'Qwen2.5-VL-7B at localhost:8000'
    """

    model: str
    endpoint: str
    concurrency: int = 8
    timeout_s: float = 120.0
    send: str | None = field(default=None, repr=False)

    def engine(self, *, lazy: bool = False) -> Engine:
        """Open the engine.

        Args:
            lazy: open a model in this process when the first text is asked for, since workers may write them all.

        Raises:
            ModelError: as `open_engine`.
        """
        if lazy and self.endpoint in (LOCAL, VLLM):
            return _LazyEngine(self)
        options: dict[str, Any] = {"concurrency": self.concurrency, "timeout_s": self.timeout_s, "send": self.send}
        return open_engine(self.model, endpoint=self.endpoint, **options)

    def content(self) -> str | None:
        """`judge_content` of the model.

        Raises:
            ModelError, RunError: as of `judge_content`.
        """
        return judge_content(self.model, endpoint=self.endpoint)


class _LazyEngine:
    """An engine in this process, opened at its first request."""

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        # That of the opened engine.
        self.name = opening.model

    @cached_property
    def _engine(self) -> Engine:
        return self._opening.engine()

    def generate(
        self, requests: Any, sampling: SamplingParams, *, on_completion: OnCompletion | None = None
    ) -> Iterator[Answer]:
        """As `Engine.generate`."""
        waiting: list[Request] = list(requests)
        return iter(()) if not waiting else self._engine.generate(waiting, sampling, on_completion=on_completion)


@dataclass(frozen=True)
class AskingCluster:
    """A cluster whose workers ask about pairs.

    Attributes:
        options: of the cluster.
        opening: how each worker opens its engine.
    """

    options: ClusterOptions
    opening: Opening

    def ask(self, asker: PairAsker, pairs: Sequence[Pair], answers: Answers, *, folder: Path) -> dict[str, Any]:
        """Let workers ask about all pairs, and add what they receive to the answers.

        Args:
            asker: how they ask; its engine is not used.
            pairs: what is asked about.
            answers: has the answers of earlier calls, which are not asked for again.
            folder: of the shards.

        Returns:
            What is reported about the workers.
        """
        settings = (asker.prompt, asker.pattern, asker.writing, asker.attempts, asker.retry_temperature, asker.content)
        work = _PairAskingWork(self.opening, *settings, pairs=pairs, known=dict(answers.known), trusted=is_trusted())
        with ShardedRows(self.options, folder=folder) as rows:
            running = rows.run(work, num_rows=len(pairs), what="asking the judge", multiple=PAIRS_OF_BLOCK)
            shards = list(running)
            received: dict[str, dict[str, Any]] = {}
            for shard in shards:
                with Answers(shard.file, header=HEADER) as stored:
                    received |= stored.known
            # In the order of one process, which makes the first attempts of all pairs first.
            for attempt in range(1, asker.attempts + 1):
                names = (request_id(pair, attempt) for pair in pairs)
                answers.add(received[name] for name in names if name in received)
            rows.remove()
        return rows.summary(shards)


HEADER = {"of": "a shard of pairs"}
"""The first line of the answers of a shard. What they depend on is in the name of the file."""


@dataclass(frozen=True)
class _PairAskingWork:
    """Asks about shards of pairs; itself the worker."""

    opening: Opening
    prompt: Prompt
    pattern: re.Pattern[str] | None
    writing: SamplingParams
    attempts: int
    retry_temperature: float | None
    content: str | None
    pairs: Sequence[Pair]
    known: Mapping[str, dict[str, Any]]
    trusted: bool

    def __call__(self) -> _PairAskingWork:
        return self

    @cached_property
    def _asker(self) -> PairAsker:
        with trusting(self.trusted):
            engine = self.opening.engine()
        return PairAsker(engine, self.prompt, self.pattern, self.writing, self.attempts, self.retry_temperature)

    def key(self, rows: range) -> str:
        """As in `ShardWorker`."""
        opening, writing = self.opening, self.writing
        judge = (opening.model, opening.endpoint, opening.send, self.content, self.prompt.sha256, str(self.pattern))
        attempts = (self.attempts, self.retry_temperature)
        sampling = (writing.max_tokens, writing.temperature, writing.top_p, writing.seed)
        parts = [("judge", repr((judge, attempts, sampling))), ("pairs", digest(self.pairs[rows.start : rows.stop]))]
        return combined_sha256(parts)[:32]

    def write(self, rows: range, target: Path) -> dict[str, Any]:
        """As in `ShardWorker`; the journal of the answers. A request that failed is asked again by the driver."""
        with Answers(target, header=HEADER) as answers:
            answers.known.update(self.known)
            self._asker.ask(self.pairs[rows.start : rows.stop], answers)
        return {"failed": len(answers.failed)}
