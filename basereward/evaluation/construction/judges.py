"""Judges that select pairs: reward models, generative judges and simple rules, with their votes kept in files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias
from typing import Protocol as Contract

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.group import Group
from basereward.errors import DataError
from basereward.evaluation.items import Item, Outcome
from basereward.evaluation.judging.judge import Judge, judge_items
from basereward.evaluation.judging.run_judge import open_judge
from basereward.evaluation.outcome import Baseline, baseline
from basereward.evaluation.scoring import score_items
from basereward.evaluation.subject import find_subject
from basereward.inference.judges.engine import LOCAL, VLLM

RULES: tuple[Baseline, ...] = ("longer", "shorter", "random")
"""Rules that may be judges. `first` would always be right, because the preferred response is stored first."""

Outcomes: TypeAlias = dict[int, Outcome]


class PairJudge(Contract):
    """Compares the two responses of items."""

    @property
    def name(self) -> str:
        """The name in tables, and of the file of its answers."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """Everything that its outcomes depend on."""
        ...

    @property
    def inputs(self) -> list[Path]:
        """The local files and folders that it reads."""
        ...

    def outcomes(
        self, items: Sequence[Item], *, journal: Path, header: dict[str, str], allow_partial: bool
    ) -> tuple[Outcomes, dict[str, float]]:
        """Compare the responses of all items, resuming where an earlier call was stopped.

        Args:
            items: with two responses each, and prompts as turns.
            journal: the file that keeps the answers or scores.
            header: identifies the items.
            allow_partial: leave out items that cannot be judged.

        Returns:
            The outcomes by row, and the cost of a generative judge.
        """
        ...


@dataclass(frozen=True)
class RuleJudge:
    """A rule, such as preferring the longer response.

    >>> item = Item(0, "a", "2 + 2?", ("4", "five"), (0,), (1,), "a")
    >>> outcomes, _ = RuleJudge("longer", "longer").outcomes([item], journal=Path(), header={}, allow_partial=False)
    >>> outcomes[0].scores
    (1.0, 4.0)
    """

    name: str
    rule: Baseline

    @property
    def facts(self) -> dict[str, Any]:
        """The rule."""
        return {"judge": self.rule, "kind": "rule"}

    @property
    def inputs(self) -> list[Path]:
        """None."""
        return []

    def outcomes(
        self, items: Sequence[Item], *, journal: Path, header: dict[str, str], allow_partial: bool
    ) -> tuple[Outcomes, dict[str, float]]:
        """As in `PairJudge`; nothing is kept."""
        computed = baseline(self.rule, items)
        return {item.row: outcome for item, outcome in zip(items, computed, strict=True)}, {}


@dataclass(frozen=True)
class ScoringJudge:
    """A reward model: the response with the higher score wins. It votes once, since its scores never differ."""

    name: str
    model: str
    """what `load` opens"""
    fingerprint: str
    folder: Path
    devices: Sequence[str] | int = ()

    @property
    def facts(self) -> dict[str, Any]:
        """The model and the hash of its files."""
        return {"judge": self.name, "kind": "reward model", "fingerprint": self.fingerprint}

    @property
    def inputs(self) -> list[Path]:
        """The folder of the model."""
        return [self.folder]

    def outcomes(
        self, items: Sequence[Item], *, journal: Path, header: dict[str, str], allow_partial: bool
    ) -> tuple[Outcomes, dict[str, float]]:
        """As in `PairJudge`."""
        # It scores as `ScoresGroups`, whose import takes seconds.
        scorer: Any = _LazyScorer(self.model, self.devices)
        scored = score_items(
            scorer,
            items,
            images=ImageStore(),
            journal=journal,
            header={**header, "model": self.fingerprint},
            allow_partial=allow_partial,
        )
        return scored, {}


@dataclass(frozen=True)
class GenerativeJudge:
    """A generative judge, which writes verdicts; the order of the responses is drawn for every vote."""

    name: str
    judge: Judge

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of `Judge`."""
        return {**self.judge.facts, "kind": "generative judge"}

    @property
    def inputs(self) -> list[Path]:
        """The user's own file of the prompt."""
        return [self.judge.prompt_file] if self.judge.prompt_file is not None else []

    def outcomes(
        self, items: Sequence[Item], *, journal: Path, header: dict[str, str], allow_partial: bool
    ) -> tuple[Outcomes, dict[str, float]]:
        """As in `PairJudge`."""
        return judge_items(
            self.judge, items, images=ImageStore(), journal=journal, header=header, allow_partial=allow_partial
        )


@dataclass(frozen=True)
class JudgeOptions:
    """How all generative judges are asked; the arguments are those of `open_judge`.

    Attributes:
        votes: of a generative judge on a pair, 1 to 15.
        temperature: None: 1 for several votes, otherwise 0.
        devices: that reward models score on.
    """

    votes: int = 3
    temperature: float | None = None
    prompt: str = "pairwise_thinking"
    prompt_file: str | None = None
    pattern: str | None = None
    max_tokens: int = 2048
    concurrency: int = 8
    timeout_s: float = 120.0
    send: str | None = field(default=None, repr=False)
    devices: Sequence[str] | int = ()

    @property
    def sampling_temperature(self) -> float:
        """The temperature of generative judges.

        >>> JudgeOptions(votes=3).sampling_temperature, JudgeOptions(votes=1).sampling_temperature
        (1.0, 0.0)
        """
        return float(self.votes > 1) if self.temperature is None else self.temperature


def open_judges(given: Iterable[str], options: JudgeOptions) -> list[PairJudge]:
    """Open judges by their texts on the command line. No weights are loaded yet, except those of `MODEL@local`.

    Args:
        given: each a reward model as `load` takes it, `MODEL@ENDPOINT` for a generative judge (the endpoint is an
            address, `local` or `vllm`), or one of `RULES`.
        options: of generative judges, and the devices of reward models.

    Raises:
        DataError: a judge is empty or given twice, or an option is out of range.
        BaseRewardError: a judge cannot be opened.

    >>> [judge.name for judge in open_judges(["longer", "Qwen2-VL-7B@http://localhost:8000/v1"], JudgeOptions())]
    ['longer', 'Qwen2-VL-7B_at_localhost_8000']
    """
    texts = list(given)
    if not all(text.strip() for text in texts):
        # An empty path is the current folder, so that a shell variable that is not set would name a model.
        raise DataError(
            "a judge is an empty text; give a run id, the folder of a model, MODEL@URL, "
            f"or one of {', '.join(RULES)}, and look whether a variable of the shell is not set"
        )
    repeated = sorted({text for text in texts if texts.count(text) > 1})
    if repeated:
        raise DataError(f"judges are given twice: {', '.join(repeated)}. Their votes would be counted twice.")
    judges: list[PairJudge] = []
    names: set[str] = set()
    for text in texts:
        judge = _open(text, options, taken=names)
        names.add(judge.name)
        judges.append(judge)
    return judges


def parse_judge(text: str) -> tuple[str, str | None]:
    """Split the text of a judge into the model and its endpoint; None: a reward model or a rule.

    >>> parse_judge("Qwen2-VL-7B@http://localhost:8000/v1"), parse_judge("models:/mine@best")
    (('Qwen2-VL-7B', 'http://localhost:8000/v1'), ('models:/mine@best', None))
    """
    model, mark, endpoint = text.partition("@")
    if mark and (endpoint in (LOCAL, VLLM) or endpoint.startswith(("http://", "https://"))):
        return model, endpoint
    return text, None


def _open(text: str, options: JudgeOptions, *, taken: Iterable[str]) -> PairJudge:
    model, endpoint = parse_judge(text)
    if endpoint is not None:
        judge = open_judge(
            model,
            endpoint=endpoint,
            order="random",
            votes=options.votes,
            prompt=options.prompt,
            prompt_file=options.prompt_file,
            pattern=options.pattern,
            temperature=options.sampling_temperature,
            max_tokens=options.max_tokens,
            concurrency=options.concurrency,
            timeout_s=options.timeout_s,
            send=options.send,
        )
        return GenerativeJudge(_file_name(judge.engine.name, text, taken), judge)
    if text in RULES and not Path(text).exists():
        return RuleJudge(_file_name(text, text, taken), next(rule for rule in RULES if rule == text))
    if text == "first":
        raise DataError("the rule 'first' would always be right here; as rules, judges may be longer, shorter, random")
    subject = find_subject(text, None, None, out=None, name=None)
    assert subject.model_folder is not None
    name = _file_name(subject.name, text, taken)
    return ScoringJudge(name, text, subject.fingerprint, subject.model_folder, options.devices)


def _file_name(name: str, text: str, taken: Iterable[str]) -> str:
    """The name of a judge, which is also that of a file; judges of equal names differ by a hash of their texts."""
    plain = re.sub(r"[^\w.\-]+", "_", name).strip("._-")[:80] or "judge"
    return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:6]}" if plain in taken else plain


class _LazyScorer:
    """A reward model that is loaded when the first group is scored, because a resumed call may not need it."""

    def __init__(self, model: str, devices: Sequence[str] | int) -> None:
        self._model = model
        self._devices = devices

    def score_batches(self, groups: Iterable[Group]) -> Iterator[list[list[float] | DataError]]:
        """As in `ScoresGroups`."""
        waiting = iter(groups)
        first = next(waiting, None)
        if first is None:
            return
        # The import takes seconds, and other judges do not need it.
        from basereward.inference.parallel_scorer import open_scorer

        with open_scorer(self._model, devices=self._devices) as scorer:
            yield from scorer.score_batches(chain([first], waiting))
