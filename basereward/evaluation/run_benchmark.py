"""A model, a file of outcomes or a simple rule on benchmarks: `basereward eval`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from basereward.errors import DataError, check_several
from basereward.evaluation.benchmark import Benchmark, load_benchmark, open_pairs
from basereward.evaluation.benchmarks.pairs import Pairs
from basereward.evaluation.items import JudgedItem, Outcome
from basereward.evaluation.judging.judge import Judge, judge_items
from basereward.evaluation.outcome import BASELINES, AnswerOrder, Baseline, baseline, judged_by
from basereward.evaluation.outcome_files import read_outcomes
from basereward.evaluation.recording import record
from basereward.evaluation.scoring import score_items
from basereward.evaluation.subject import FOLDER, Subject, check_names, find_subject
from basereward.evaluation.write_evaluation import WRITTEN, measured, write_evaluation
from basereward.io.outputs import check_outputs

JOURNAL = "partial.jsonl"


def evaluate(
    model: str | None,
    benchmarks: Sequence[str] = (),
    *,
    data: str | None = None,
    scores: str | None = None,
    out: str | None = None,
    name: str | None = None,
    order: AnswerOrder | None = None,
    allow_partial: bool = False,
    judge: Judge | None = None,
    overrides: Iterable[str] = (),
) -> dict[str, Any]:
    """Evaluates one thing on one or several benchmarks.

    Args:
        model: what `load` opens, or one of `random`, `longer`, `shorter`, `first`, rules that read nothing.
        benchmarks: names in `experiments/benchmarks`, or YAML files such as lie there.
        data: a file or folder of pairs of one's own, in place of benchmarks (see `evaluate/benchmarks/pairs.py`).
        scores: a file of outcomes made elsewhere, in place of a model; see `basereward/evaluation/outcome_files.py`.
        out: the folder that gets a folder a benchmark; by default `evaluations` in the model's run, or
            `evaluations/NAME` in the working directory.
        name: what tables call it; by default the run's name, or that of the folder or file.
        order: has the rule `first` judge as one who sees the answers in that order.
        allow_partial: rows that are missing or cannot be scored are left out, and a benchmark may have other rows than
            its published whole; every table says so, and no published value stands beside.
        judge: compares the answers pair by pair, in place of a model.
        overrides: `key=value` for arguments of the benchmark, as in `data=rows.jsonl`; `BENCHMARK.key=value` with
            several.

    Returns:
        By benchmark, variant and metric: value (a share), numerator, denominator, low, high, ties, undecided and
        baselines; `evaluations` says of each where it lies and how many items were scored.

    Raises:
        BaseRewardError: something cannot be opened or read, counts only in part, or would be written over an input;
            nothing is counted then.
    """
    check_several(benchmarks, name="benchmarks", of="names")
    check_several(overrides, name="overrides", of="texts")
    if bool(benchmarks) == (data is not None):
        raise DataError("give either benchmarks or a file of pairs of your own (--data)")
    told = _by_benchmark(benchmarks, list(overrides)) if benchmarks else {}
    if scores is not None and len(benchmarks) > 1:
        raise DataError(f"--scores holds the outcomes of one benchmark, and {len(benchmarks)} are named; give one")
    subject = find_subject(model, scores, judge, out=out, name=name)
    opened = [load_benchmark(given, overrides=told[given]) for given in benchmarks]
    opened += [open_pairs(data, overrides=overrides)] if data is not None else []
    check_names(opened, subject)
    if order is not None and model != "first" and judge is None:
        raise DataError(
            f"--order {order} is for a judge that sees answers in an order; a reward model sees one at a time"
        )
    outcomes_of = _Outcomes(subject, scores=scores, order=order, allow_partial=allow_partial, judge=judge)
    result: dict[str, Any] = {}
    evaluations = []
    for benchmark in opened:  # all are read before anything is scored, so that a bad one costs no time
        _check_whole(benchmark, allow_partial=allow_partial)
        _check_outputs(subject, benchmark, scores=scores, judge=judge)
    for benchmark in opened:
        folder = subject.folder / benchmark.name
        outcomes = outcomes_of(benchmark, journal=folder / JOURNAL)
        judged = [JudgedItem(item, outcomes[item.row]) for item in benchmark.items if item.row in outcomes]
        if not judged:
            raise DataError(f"no row of benchmark '{benchmark.name}' could be scored; there is nothing to count")
        variants = measured(benchmark.variants, judged)
        facts = _facts(subject, benchmark, outcomes, order=order) | {"variants": variants}
        facts |= {"cost": outcomes_of.cost, "judge": judge.facts} if judge is not None else {}
        facts |= {"lost": dict(benchmark.lost)} if isinstance(benchmark, Pairs) else {}
        _make(folder)
        write_evaluation(folder, facts, judged, images=benchmark.store if subject.fingerprint else None)
        result[benchmark.name] = variants
        evaluations.append(
            {"benchmark": benchmark.name, "out": str(folder)}
            | {name: facts[name] for name in (*SHOWN, "cost", "lost") if name in facts}
        )
        _record(subject, folder, benchmark.name, variants, partial=facts["partial"] is not None)
    for benchmark in opened:  # now that all are done: a call that is killed before scores nothing twice
        (subject.folder / benchmark.name / JOURNAL).unlink(missing_ok=True)
    return {**result, "evaluations": evaluations}


@dataclass
class _Outcomes:
    """Where the outcomes of a subject come from: a file, a model or a rule."""

    subject: Subject
    scores: str | None
    order: AnswerOrder | None
    allow_partial: bool
    judge: Judge | None = None
    scorer: Any = None
    cost: dict[str, float] = field(default_factory=dict)  # of the last benchmark's judgements

    def __call__(self, benchmark: Benchmark, *, journal: Path) -> dict[int, Outcome]:
        if self.scores is not None:
            return read_outcomes(self.scores, benchmark.items, allow_partial=self.allow_partial)
        if self.judge is not None:
            return self._judged(self.judge, benchmark, journal=journal)
        if not self.subject.fingerprint:
            return _by_rule(self.subject.model, benchmark, order=self.order)
        _check_readable(benchmark)
        _make(journal.parent)
        self.scorer = self.scorer or _load(self.subject.model)
        return score_items(
            self.scorer,
            benchmark.items,
            images=benchmark.store,
            journal=journal,
            of={"model": self.subject.fingerprint, "benchmark": benchmark.digest},
            allow_partial=self.allow_partial,
        )

    def _judged(self, judge: Judge, benchmark: Benchmark, *, journal: Path) -> dict[int, Outcome]:
        _check_readable(benchmark)
        outcomes, self.cost = judge_items(
            judge,
            benchmark.items,
            images=benchmark.store,
            journal=journal,
            of={"benchmark": benchmark.digest},
            allow_partial=self.allow_partial,
        )
        return outcomes


def _check_readable(benchmark: Benchmark) -> None:
    if benchmark.judges_only:
        raise DataError(
            f"the answers of benchmark '{benchmark.name}' are pictures, which can be neither scored nor compared here; "
            "give the verdicts of a judge with --scores"
        )


def _check_whole(benchmark: Benchmark, *, allow_partial: bool) -> None:
    """
    Raises:
        DataError: the rows are malformed, or others than those of the whole benchmark and `allow_partial` is not given.
    """
    assert benchmark.items  # reads them
    if benchmark.partial and not allow_partial:
        raise DataError(
            f"these rows are not the whole benchmark '{benchmark.name}' (version {benchmark.version}): "
            f"{benchmark.partial}. Give the whole file, or the name of the benchmark that it is; --allow-partial "
            "counts what there is, marked as partial"
        )


def _check_outputs(subject: Subject, benchmark: Benchmark, *, scores: str | None, judge: Judge | None) -> None:
    """
    Raises:
        DataError: a file that is written would take the place of one that is read.
    """
    folder = subject.folder / benchmark.name
    outputs = {f"the output '{name}'": folder / name for name in (*WRITTEN, JOURNAL)}
    # What an evaluation before has left there is ours, and `check_names` has seen whose it is.
    ours = (folder / WRITTEN[-1]).is_file() or (folder / JOURNAL).is_file()
    inputs = [each for each in benchmark.inputs if each.is_file() or not ours]
    inputs += [Path(scores)] if scores is not None else []
    inputs += [judge.prompt_file] if judge is not None and judge.prompt_file is not None else []
    check_outputs(outputs, inputs)


SHOWN = ("name", "kind", "order", "votes", "items", "scored", "expected", "partial")


def _by_benchmark(benchmarks: Sequence[str], overrides: Sequence[str]) -> dict[str, list[str]]:
    if len(set(benchmarks)) < len(benchmarks):
        raise DataError(f"a benchmark is named twice: {', '.join(benchmarks)}")
    told: dict[str, list[str]] = {given: [] for given in benchmarks}
    for override in overrides:
        meant = next((given for given in benchmarks if override.startswith(f"{given}.")), None)
        if meant is not None:
            told[meant].append(override.removeprefix(f"{meant}."))
        elif len(told) == 1:
            told[benchmarks[0]].append(override)
        else:
            raise DataError(f"'{override}' could mean several benchmarks; write {benchmarks[0]}.{override}")
    return told


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the evaluation cannot be written to '{folder}': {error.strerror or error}") from error


def _load(model: str) -> Any:
    from basereward.inference.score_file import load  # seconds; not needed for outcomes that are there already

    return load(model)


def _by_rule(name: str, benchmark: Benchmark, *, order: AnswerOrder | None) -> dict[int, Outcome]:
    if order is not None:
        return dict(enumerate(judged_by(lambda item, shown: 0, benchmark.items, order=order)))
    rule: Baseline = next(each for each in BASELINES if each == name)
    return dict(enumerate(baseline(rule, benchmark.items)))


def _facts(
    subject: Subject, benchmark: Benchmark, outcomes: dict[int, Outcome], *, order: AnswerOrder | None
) -> dict[str, Any]:
    votes = {len(outcome.votes) for outcome in outcomes.values() if outcome.votes is not None}
    missing = len(benchmark.items) - len(outcomes)
    parts = [benchmark.partial, f"{missing:,} of {len(benchmark.items):,} items are not scored" if missing else None]
    return {
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "digest": benchmark.digest,
        "name": subject.name,
        "model": subject.model,
        "kind": next((outcome.kind for outcome in outcomes.values()), None),
        "order": order,
        "votes": max(votes, default=None),
        "items": len(benchmark.items),
        "scored": len(outcomes),
        "expected": benchmark.expected_items,
        "partial": "; ".join(filter(None, parts)) or None,
        "fingerprint": dict(benchmark.fingerprint),
        "run_id": subject.run.run_id if subject.run else None,
    }


def _record(
    subject: Subject, folder: Path, benchmark: str, variants: dict[str, dict[str, dict[str, Any]]], *, partial: bool
) -> None:
    """The numbers and the files go to the MLflow run of the model; numbers of a part under names of their own."""
    if subject.run is None:
        return
    head = "eval_partial" if partial else "eval"
    values = {
        f"{head}/{benchmark}/{variant}/{metric}": measure["value"]
        for variant, measures in variants.items()
        for metric, measure in measures.items()
        if measure["value"] is not None
    }
    files = sorted(file for file in folder.iterdir() if file.name != JOURNAL)
    record(subject.run, values, files, folder=f"{FOLDER}/{benchmark}")
