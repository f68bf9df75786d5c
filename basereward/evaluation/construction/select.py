"""`basereward select`: keep the pairs that all judges get wrong, and draw a control sample of the same sources.

This is the first stage of VL-RewardBench (arXiv 2411.17451, section 3). `basereward verify` is the second.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from basereward.errors import DataError, unknown
from basereward.evaluation.construction.annotations import has_begun
from basereward.evaluation.construction.candidates import CandidateOptions, Candidates, read_candidates
from basereward.evaluation.construction.judges import JudgeOptions, Outcomes, PairJudge, open_judges
from basereward.evaluation.construction.pictures import PictureFolder
from basereward.evaluation.construction.selected_rows import (
    ANNOTATIONS,
    DECISIONS,
    FORMAT,
    ROWS,
    SELECTION,
    SelectedRow,
    make_row,
    read_rows,
    read_selection,
    vote_list,
    write_rows,
)
from basereward.evaluation.items import Decision, Item, JudgedItem, Outcome
from basereward.evaluation.judging.run_judge import MAX_VOTES
from basereward.evaluation.statistics.measures import accuracy
from basereward.evaluation.statistics.votes import accuracy_difference, accuracy_over_votes
from basereward.io.files import write_atomic
from basereward.io.lease import acquire
from basereward.io.outputs import check_outside_runs
from basereward.io.progress import phase, track

logger = logging.getLogger(__name__)

ANSWERS = "judges"
"""The folder of the answers of the judges."""

WrongBy: TypeAlias = Literal["majority", "unanimous"]
WRONG_BY: tuple[WrongBy, ...] = get_args(WrongBy)


@dataclass(frozen=True)
class SelectionRule:
    """Which candidates are kept.

    Attributes:
        wrong_by: when a judge is wrong: `majority`, if more than half of all its votes are, or `unanimous`, if all are.
            A vote that cannot be read is not wrong.
        control: size of the control sample; None: as many as are kept.
        seed: of the control sample.
    """

    wrong_by: WrongBy = "majority"
    control: int | None = None
    seed: int = 0


def select(
    sources: Sequence[str],
    *,
    judges: Sequence[str],
    out: str,
    candidates: CandidateOptions | None = None,
    rule: SelectionRule | None = None,
    options: JudgeOptions | None = None,
    probe: str | None = None,
    allow_partial: bool = False,
    overrides: Iterable[str] = (),
) -> dict[str, Any]:
    """Select the pairs of sources that all judges get wrong, and a control sample.

    Args:
        sources: names in `experiments/sources`, or rows: files, folders, patterns or hub ids.
        judges: see `open_judges`. Several of different kinds make a better benchmark than one.
        out: the folder of the selection. It gets `rows.jsonl` (the kept pairs and the control sample), `images`,
            `decisions.jsonl` (every candidate, its votes, and why it is kept or not), `judges` (all answers and scores,
            from which a stopped call resumes), and `selection.json`.
        candidates: which preferences are judged.
        rule: which candidates are kept.
        options: how generative judges are asked.
        probe: a further judge, which does not select: its accuracies on the kept pairs and on the control sample show
            whether the kept ones are harder.
        allow_partial: leave out pairs that a judge cannot judge, with a warning each; they are never kept.
        overrides: `key=value` for arguments of the source; `SOURCE.key=value` if there are several.

    Returns:
        The content of `selection.json`, and `out`. `candidates`, `kept` and `control` are numbers of pairs; `decisions`
        and `left_out` are numbers by reason; `judges` has counts and accuracies; `hardness` is that of the probe.

    Raises:
        BaseRewardError: something cannot be opened, a pair cannot be judged, or annotators have worked on another
            selection in the folder.
    """
    candidates, rule, options = candidates or CandidateOptions(), rule or SelectionRule(), options or JudgeOptions()
    _check_options(judges, candidates, rule, options)
    folder = Path(out)
    outputs = {f"the output '{name}'": folder / name for name in (ROWS, DECISIONS, SELECTION)}
    for name, path in outputs.items():
        check_outside_runs(path, name=name)
    opened = open_judges([*judges, *([probe] if probe is not None else [])], options)
    _make_folder(folder)
    with _only_process(folder), _not_served(folder):
        pictures = PictureFolder(folder)
        inputs: list[Path] = []
        for judge in opened:
            inputs += judge.inputs
        pool = read_candidates(
            sources, candidates, overrides=overrides, pictures=pictures, outputs=outputs, also=inputs
        )
        selecting, probing = opened[: len(judges)], opened[len(judges) :]
        work = _Selection(folder, pool, rule, allow_partial)
        settings = {
            "format": FORMAT,
            "sources": list(sources),
            "options": asdict(candidates),
            "rule": asdict(rule),
            "digest": pool.digest,
        }
        result = work.run(selecting, probing, pictures, settings)
    return {**result, "out": str(folder)}


@dataclass(frozen=True)
class _Chosen:
    """The rows that are chosen from the candidates."""

    decisions: Sequence[str]
    """of all candidates"""
    kept: Sequence[Item]
    control: Sequence[Item]

    @property
    def items(self) -> list[Item]:
        """Kept pairs and control sample, each pair once, in the order of the candidates."""
        by_row = {item.row: item for item in (*self.kept, *self.control)}
        return [by_row[row] for row in sorted(by_row)]


@dataclass(frozen=True)
class _Selection:
    """One selection in its folder."""

    folder: Path
    pool: Candidates
    rule: SelectionRule
    allow_partial: bool

    def run(
        self,
        judges: Sequence[PairJudge],
        probes: Sequence[PairJudge],
        pictures: PictureFolder,
        settings: dict[str, Any],
    ) -> dict[str, Any]:
        """Judge, decide, draw and write.

        Returns:
            The content of `selection.json`.
        """
        settings |= {"judges": [judge.facts for judge in judges], "probe": [judge.facts for judge in probes]}
        if (annotated := self._annotated(settings)) is not None:
            pictures.remove_others(_images(read_rows(self.folder)))
            return annotated
        items = self.pool.items
        outcomes = {judge.name: self._judged(judge, items, part="all") for judge in judges}
        chosen = self._chosen(outcomes)
        probed = {judge.name: self._judged(judge, chosen.items, part="chosen") for judge in probes}
        facts = {
            "settings": settings,
            "read": self.pool.read,
            "left_out": self.pool.left_out,
            "candidates": len(items),
            "kept": len(chosen.kept),
            "control": len(chosen.control),
            "decisions": dict(sorted(Counter(chosen.decisions).items())),
            "by_source": _by_source(items, chosen.kept),
            "judges": [_judge_facts(name, items, found) for name, found in outcomes.items()],
            "hardness": [_hardness(name, chosen, found) for name, found in probed.items()],
        }
        rows = _rows(chosen, outcomes, probed, pictures)
        self._write(rows, outcomes, chosen.decisions, facts)
        pictures.remove_others(_images(rows))
        return facts

    def _chosen(self, outcomes: Mapping[str, Outcomes]) -> _Chosen:
        """Decide about all candidates, and draw the control sample."""
        decisions: list[str] = []
        kept: list[Item] = []
        for item in self.pool.items:
            decisions.append(self._decision(_of(outcomes, item), judges=len(outcomes)))
            if decisions[-1] == "kept":
                kept.append(item)
        control = draw_control(self.pool.items, kept, size=self.rule.control, seed=self.rule.seed)
        return _Chosen(decisions, kept, control)

    def _decision(self, outcomes: Mapping[str, Outcome], *, judges: int) -> str:
        """Why a pair is kept or not: `kept`, `judged_right` by a judge, `undecided` by one, or `not_judged` by one."""
        if len(outcomes) < judges:
            return "not_judged"
        verdicts = {verdict(vote_list(outcome), self.rule.wrong_by) for outcome in outcomes.values()}
        if Decision.RIGHT in verdicts:
            return "judged_right"
        return "kept" if verdicts == {Decision.WRONG} else "undecided"

    def _annotated(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The content of `selection.json` if annotators have begun to work; then nothing is written again.

        Raises:
            DataError: they work on a selection with other settings.
        """
        if not has_begun(self.folder / ANNOTATIONS) or not (self.folder / SELECTION).exists():
            return None
        content = read_selection(self.folder)
        given = json.loads(json.dumps(settings))
        names = [name for name in given if content["settings"].get(name) != given[name]]
        if names:
            raise DataError(
                f"annotators have worked on the selection in '{self.folder}', and {', '.join(names)} changed since. "
                "Give another folder"
            )
        return content

    def _judged(self, judge: PairJudge, items: Sequence[Item], *, part: str) -> Outcomes:
        journal = self.folder / ANSWERS / f"{judge.name}.{part}.jsonl"
        rows = hashlib.sha256(repr([item.row for item in items]).encode()).hexdigest()[:16]
        header = {"candidates": self.pool.digest, "rows": rows}
        with phase(f"judging by {judge.name}"):
            outcomes, _ = judge.outcomes(items, journal=journal, header=header, allow_partial=self.allow_partial)
        votes: list[str] = []
        for outcome in outcomes.values():
            votes += vote_list(outcome)
        if votes and set(votes) == {"unread"}:
            # Such a judge is never wrong, so that it keeps no pair.
            logger.warning(
                "%s: none of its %d votes could be read; its texts are in '%s'. Look whether they answer the prompt "
                "and fit --pattern, and whether --max-tokens cuts them",
                *(judge.name, len(votes), journal),
            )
        return outcomes

    def _write(
        self,
        rows: Sequence[SelectedRow],
        outcomes: Mapping[str, Outcomes],
        decisions: Sequence[str],
        facts: Mapping[str, Any],
    ) -> None:
        lines: list[dict[str, Any]] = []
        for item, decision in zip(self.pool.items, decisions, strict=True):
            votes = {name: vote_list(outcome) for name, outcome in _of(outcomes, item).items()}
            lines.append({"id": item.id, "source": item.labels["source"], "decision": decision, "judges": votes})
        # Without `selection.json` the folder is incomplete; it is written last.
        (self.folder / SELECTION).unlink(missing_ok=True)
        write_rows(self.folder / DECISIONS, lines)
        write_rows(self.folder / ROWS, (row.as_dict() for row in rows))
        write_atomic(self.folder / SELECTION, json.dumps(facts, indent=2, allow_nan=False) + "\n")


def verdict(votes: Sequence[str], wrong_by: WrongBy) -> Decision:
    """What a judge says about a pair: right or wrong, a tie, or undecided.

    >>> [verdict(["wrong", "wrong", "unread"], rule).value for rule in ("majority", "unanimous")]
    ['wrong', 'undecided']
    """
    if list(votes) == ["tie"]:
        return Decision.TIE
    if votes.count("right") > len(votes) / 2:
        return Decision.RIGHT
    needed = len(votes) if wrong_by == "unanimous" else len(votes) // 2 + 1
    return Decision.WRONG if votes.count("wrong") >= needed else Decision.UNDECIDED


def draw_control(items: Sequence[Item], kept: Sequence[Item], *, size: int | None, seed: int) -> list[Item]:
    """Draw a sample of all candidates, whatever the judges say, with the same share of each source as the kept pairs.

    It may contain kept pairs: without them, it would be easier than the sources.

    Args:
        items: all candidates.
        kept: those that are kept.
        size: of the sample; None: as many as are kept. A source with too few pairs gives all of them.
        seed: of the draw.

    >>> items = [Item(row, f"{row}", "?", ("4", "5"), (0,), (1,), "a", labels={"source": "s"}) for row in range(9)]
    >>> len(draw_control(items, items[:4], size=None, seed=0)), draw_control(items, items[:4], size=0, seed=0)
    (4, [])
    """
    of_source = Counter(item.labels["source"] for item in kept)
    total = len(kept) if size is None else size
    control: list[Item] = []
    for source, number in _allotted(total, of_source).items():
        members = [item for item in items if item.labels["source"] == source]
        control += random.Random(f"control/{seed}/{source}").sample(members, min(number, len(members)))
    return sorted(control, key=lambda item: item.row)


def _allotted(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Whole numbers that sum to `total`, in proportion to the weights, by largest remainders."""
    whole = sum(weights.values())
    if not whole:
        return {}
    numbers = {name: total * weight // whole for name, weight in weights.items()}
    remainders = sorted(weights, key=lambda name: (-(total * weights[name] % whole), name))
    for name in remainders[: total - sum(numbers.values())]:
        numbers[name] += 1
    return numbers


def _rows(
    chosen: _Chosen, outcomes: Mapping[str, Outcomes], probed: Mapping[str, Outcomes], pictures: PictureFolder
) -> list[SelectedRow]:
    kept, control = {item.row for item in chosen.kept}, {item.row for item in chosen.control}
    rows: list[SelectedRow] = []
    for item in track(chosen.items, "writing rows"):
        parts = {"selected": item.row in kept, "control": item.row in control}
        rows.append(make_row(item, pictures, **parts, judges=_of(outcomes, item), probe=_of(probed, item)))
    return rows


def _images(rows: Sequence[SelectedRow]) -> list[str]:
    images: list[str] = []
    for row in rows:
        images += row.images
    return images


def _of(outcomes: Mapping[str, Outcomes], item: Item) -> dict[str, Outcome]:
    """The outcomes of an item by judge."""
    return {name: found[item.row] for name, found in outcomes.items() if item.row in found}


def _by_source(items: Sequence[Item], kept: Sequence[Item]) -> dict[str, dict[str, int]]:
    candidates, counts = (Counter(item.labels["source"] for item in part) for part in (items, kept))
    return {source: {"candidates": number, "kept": counts[source]} for source, number in candidates.items()}


def _judge_facts(name: str, items: Sequence[Item], outcomes: Outcomes) -> dict[str, Any]:
    """Counts of a judge's decisions on all candidates, its accuracy, and that of fewer votes."""
    judged = [JudgedItem(item, outcomes[item.row]) for item in items if item.row in outcomes]
    decisions = Counter(entry.decision.value for entry in judged)
    unread = sum((entry.outcome.votes or ()).count(None) for entry in judged)
    over_votes = {
        measure: found.as_dict() for measure, found in accuracy_over_votes(judged).items() if found.denominator
    }
    return {
        "name": name,
        "pairs": len(judged),
        **{decision.value: decisions[decision.value] for decision in Decision},
        "unread_votes": unread,
        "accuracy": accuracy(judged).as_dict(),
        "accuracy_over_votes": over_votes,
    }


def _hardness(name: str, chosen: _Chosen, outcomes: Outcomes) -> dict[str, Any]:
    """The accuracies of a judge that did not select, and their difference with its interval."""
    parts: list[list[JudgedItem]] = []
    for items in (chosen.kept, chosen.control):
        parts.append([JudgedItem(item, outcomes[item.row]) for item in items if item.row in outcomes])
    difference = accuracy_difference(*parts)
    return {
        "name": name,
        "kept": difference.first,
        "control": difference.second,
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
    }


def _check_options(
    judges: Sequence[str], candidates: CandidateOptions, rule: SelectionRule, options: JudgeOptions
) -> None:
    if not judges:
        raise DataError("a selection needs at least one judge; give several of different kinds")
    if rule.wrong_by not in WRONG_BY:
        raise DataError(unknown("rule of a wrong judge", rule.wrong_by, WRONG_BY))
    if rule.control is not None and rule.control < 0:
        raise DataError(f"the control sample has {rule.control} pairs; 0 or more are allowed")
    if candidates.limit is not None and candidates.limit < 1:
        raise DataError(f"a limit of {candidates.limit} pairs; at least 1 is needed")
    if candidates.length_control is not None and not candidates.length_control > 0:
        raise DataError(f"a length control of {candidates.length_control:g}; a share above 0 is needed, such as 0.1")
    if not 1 <= options.votes <= MAX_VOTES:
        raise DataError(f"{options.votes} votes; 1 to {MAX_VOTES} are allowed")


def _make_folder(folder: Path) -> None:
    try:
        (folder / ANSWERS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the selection cannot be written to '{folder}': {error.strerror or error}") from error


@contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    """
    Raises:
        DataError: another process selects in the folder.
    """
    with _held(folder / ANSWERS / "lock", f"another process selects in '{folder}'; wait until it ends"):
        yield


@contextmanager
def _not_served(folder: Path) -> Iterator[None]:
    """
    Raises:
        DataError: the page of annotators is open for the selection, and would show the pairs of before.
    """
    if not (folder / ANNOTATIONS).is_file():
        yield
        return
    with _held(folder / ANNOTATIONS, f"`basereward verify` serves the selection in '{folder}'; end it"):
        yield


@contextmanager
def _held(file: Path, busy: str) -> Iterator[None]:
    """Hold the lease of a file.

    Raises:
        DataError: another process holds it.
    """
    lease = acquire(file, wait=False)
    if lease is None:
        raise DataError(f"{busy}, or give another folder")
    with lease:
        yield
