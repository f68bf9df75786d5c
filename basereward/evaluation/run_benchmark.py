"""`basereward eval`: evaluate a model, a judge, a baseline or a file of outcomes on benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from basereward.errors import DataError, check_several
from basereward.evaluation.benchmark import Benchmark, load_benchmark, open_pairs
from basereward.evaluation.benchmarks.pairs import Pairs
from basereward.evaluation.items import JudgedItem, Outcome
from basereward.evaluation.judging.judge import Judge, judge_items
from basereward.evaluation.judging.voting import add_expected, vote_variants
from basereward.evaluation.outcome import BASELINES, AnswerOrder, Baseline, baseline, judged_by
from basereward.evaluation.outcome_files import read_outcomes
from basereward.evaluation.recording import record
from basereward.evaluation.scoring import score_items
from basereward.evaluation.subject import FOLDER, Subject, check_names, find_subject
from basereward.evaluation.write_evaluation import WRITTEN, measured, write_evaluation
from basereward.io.files import set_aside
from basereward.io.outputs import check_outputs, check_outside_runs
from basereward.recipe.fragment import assign_overrides

# In the folder of an evaluation while it is computed.
JOURNAL = "partial.jsonl"
# Facts of an evaluation that `evaluate` returns; the last three only if there are any.
RETURNED = ("name", "kind", "order", "votes", "items", "scored", "expected", "partial", "unscored", "cost", "lost")

CountedVariants = dict[str, dict[str, dict[str, Any]]]
"""Measures as JSON, by variant and metric."""


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
    devices: Sequence[str] | int = (),
    overrides: Iterable[str] = (),
) -> dict[str, Any]:
    """Evaluate one subject on one or several benchmarks.

    Args:
        model: what `load` opens, or one of the baselines `random`, `longer`, `shorter` and `first`.
        benchmarks: names in `experiments/benchmarks`, or paths of such YAML files.
        data: a file or folder of the user's own pairs, in place of benchmarks; see
            `basereward/evaluation/benchmarks/pairs.py`.
        scores: a file of outcomes, in place of a model; see `basereward/evaluation/outcome_files.py`.
        out: the folder that gets one folder per benchmark. The default is `evaluations` in the run of the model, or
            `evaluations/NAME` in the working directory.
        name: in tables; the name of the run, the folder or the file by default.
        order: makes the baseline `first` a judge that sees the responses in this order.
        allow_partial: leave out rows that are missing or cannot be scored, and accept other rows than those of the
            whole benchmark. Every table then marks the evaluation as partial, without published values beside it.
        judge: a generative judge that compares responses pair by pair, in place of a model; or the model itself, as
            `open_trained_judge` opens it, whose evaluations then have a folder of their own in those of the run.
        devices: that the model scores on, as in `basereward.inference.parallel_scorer.open_scorer`.
        overrides: `key=value` for arguments of the benchmark, such as `data=rows.jsonl`; `BENCHMARK.key=value` if there
            are several benchmarks.

    Returns:
        By benchmark, variant and metric: `value` (a share), `numerator`, `denominator`, `low`, `high`, `ties`,
        `undecided` and `baselines`. `evaluations` lists for each evaluation its folder and the number of scored items.

    Raises:
        BaseRewardError: something cannot be opened or read, is counted only in part, or would overwrite an input.
    """
    check_several(benchmarks, name="benchmarks", of="names")
    check_several(overrides, name="overrides", of="texts")
    subject, opened = _open(model, benchmarks, data, scores, judge, out=out, name=name, overrides=list(overrides))
    check_order(order, model=model, judge=judge)
    # All benchmarks are read before anything is scored, so that a mistake costs no GPU time.
    for benchmark in opened:
        check_readable(benchmark, subject, judge)
        check_whole(benchmark, allow_partial=allow_partial)
        check_writable(subject, benchmark, scores=scores, judge=judge)
    result: dict[str, Any] = {}
    evaluations: list[dict[str, Any]] = []
    with ExitStack() as stack:
        evaluator = Evaluator(subject, stack, scores, order, allow_partial, judge, devices)
        for benchmark in opened:
            result[benchmark.name], facts = evaluator.evaluate(benchmark)
            evaluations.append(facts)
    # Only when all are done: a call that is interrupted before can resume without scoring anything twice.
    for benchmark in opened:
        (subject.folder / benchmark.name / JOURNAL).unlink(missing_ok=True)
    return {**result, "evaluations": evaluations}


@dataclass
class Evaluator:
    """Evaluates one subject on benchmarks, one after the other."""

    subject: Subject
    stack: ExitStack
    """closes the model"""
    scores: str | None
    order: AnswerOrder | None
    allow_partial: bool
    judge: Judge | None
    devices: Sequence[str] | int
    scorer: Any = None
    """the loaded model; None before the first benchmark that needs it"""
    cost: dict[str, float] = field(default_factory=dict)
    """of the judge on the last benchmark"""

    def evaluate(
        self, benchmark: Benchmark, *, known: dict[int, Outcome] | None = None
    ) -> tuple[CountedVariants, dict[str, Any]]:
        """Score, count, write and record one benchmark.

        Args:
            benchmark: that is measured.
            known: the outcomes by row, which are then only counted; None: they are computed.

        Returns:
            The measures, and the facts that the command prints.
        """
        folder = self.subject.folder / benchmark.name
        outcomes = self._outcomes(benchmark, journal=folder / JOURNAL) if known is None else known
        judged = [JudgedItem(item, outcomes[item.row]) for item in benchmark.items if item.row in outcomes]
        if not judged:
            raise DataError(f"no row of benchmark '{benchmark.name}' could be scored; there is nothing to count")
        variants = self.count(benchmark, judged)
        facts = self._facts(benchmark, outcomes) | {"variants": variants} | self._further_facts(benchmark)
        _make_folder(folder)
        # Outcomes of other programs are often counted where the images are not.
        write_evaluation(folder, facts, judged, images=benchmark.store if self.subject.is_model else None)
        _record(self.subject, folder, self._place(benchmark), variants, partial=facts["partial"] is not None)
        returned = {key: facts[key] for key in RETURNED if key in facts}
        return variants, {"benchmark": benchmark.name, "out": str(folder), **returned}

    def count(self, benchmark: Benchmark, judged: Sequence[JudgedItem]) -> CountedVariants:
        """The measures of a benchmark, and those of the votes of a judge."""
        variants = dict(benchmark.variants)
        if self.judge is not None:
            # A benchmark may count votes itself, also by category.
            variants = vote_variants(self.judge.order, self.judge.votes) | variants
        counted = measured(variants, judged)
        add_expected(counted)
        return counted

    def _place(self, benchmark: Benchmark) -> str:
        """Where the evaluation is in the record of its run."""
        if self.judge is None:
            return benchmark.name
        return f"{self.judge.label}/{benchmark.name}"

    def _outcomes(self, benchmark: Benchmark, *, journal: Path) -> dict[int, Outcome]:
        if self.scores is not None:
            return read_outcomes(self.scores, benchmark.items, allow_partial=self.allow_partial)
        if self.judge is not None:
            return self._judge_outcomes(self.judge, benchmark, journal=journal)
        if self.subject.is_model:
            return self._model_outcomes(benchmark, journal=journal)
        return _baseline_outcomes(self.subject.model, benchmark, order=self.order)

    def _model_outcomes(self, benchmark: Benchmark, *, journal: Path) -> dict[int, Outcome]:
        _make_folder(journal.parent)
        self.scorer = self.scorer or self.stack.enter_context(_opened(self.subject.model, self.devices))
        return score_items(
            self.scorer,
            benchmark.items,
            images=benchmark.store,
            journal=journal,
            header={"model": self.subject.fingerprint, "benchmark": benchmark.digest},
            allow_partial=self.allow_partial,
        )

    def _judge_outcomes(self, judge: Judge, benchmark: Benchmark, *, journal: Path) -> dict[int, Outcome]:
        outcomes, self.cost = judge_items(
            judge,
            benchmark.items,
            images=benchmark.store,
            journal=journal,
            header={"benchmark": benchmark.digest},
            allow_partial=self.allow_partial,
        )
        return outcomes

    def _facts(self, benchmark: Benchmark, outcomes: dict[int, Outcome]) -> dict[str, Any]:
        """The content of `evaluation.json`, without the measures."""
        votes = {len(outcome.votes) for outcome in outcomes.values() if outcome.votes is not None}
        items, missing = len(benchmark.items), len(benchmark.items) - len(outcomes)
        unscored = f"{missing:,} of {items:,} items are not scored" if missing else None
        return {
            "benchmark": benchmark.name,
            "version": benchmark.version,
            "digest": benchmark.digest,
            "name": self.subject.name,
            "model": self.subject.model,
            "kind": next((outcome.kind for outcome in outcomes.values()), None),
            "order": self.order,
            "votes": max(votes, default=None),
            "items": items,
            "scored": len(outcomes),
            "expected": benchmark.expected_items,
            "partial": "; ".join(filter(None, [benchmark.partial, unscored])) or None,
            "fingerprint": dict(benchmark.fingerprint),
            "run_id": self.subject.run.run_id if self.subject.run else None,
        }

    def _further_facts(self, benchmark: Benchmark) -> dict[str, Any]:
        """Facts that only some evaluations have."""
        facts: dict[str, Any] = {}
        if self.judge is not None:
            facts |= {"cost": self.cost, "judge": self.judge.facts}
        if self.subject.is_model:
            facts["model_fingerprint"] = self.subject.fingerprint
        if benchmark.unscored:
            facts["unscored"] = benchmark.unscored
        if isinstance(benchmark, Pairs):
            facts["lost"] = dict(benchmark.lost)
        return facts


def _open(
    model: str | None,
    benchmarks: Sequence[str],
    data: str | None,
    scores: str | None,
    judge: Judge | None,
    *,
    out: str | None,
    name: str | None,
    overrides: Sequence[str],
) -> tuple[Subject, list[Benchmark]]:
    """Resolve the subject and the benchmarks, without reading a row."""
    if bool(benchmarks) == (data is not None):
        raise DataError("give either benchmarks or your own file of pairs (--data)")
    overrides_by_benchmark = assign_overrides(benchmarks, overrides) if benchmarks else {}
    if scores is not None and len(benchmarks) > 1:
        raise DataError(f"--scores holds the outcomes of one benchmark, and {len(benchmarks)} are named; give one")
    subject = open_subject(model, scores, judge, out=out, name=name)
    opened = [load_benchmark(entry, overrides=overrides_by_benchmark[entry]) for entry in benchmarks]
    if data is not None:
        opened.append(open_pairs(data, overrides=overrides))
    check_names(opened, subject)
    return subject, opened


def open_subject(
    model: str | None, scores: str | None, judge: Judge | None, *, out: str | None, name: str | None
) -> Subject:
    """Resolve the subject as `find_subject` does; a trained judge is the model itself, with a folder of its own.

    Args:
        model, scores, judge, out, name: as of `evaluate`.

    Raises:
        BaseRewardError: as `find_subject`.

    >>> open_subject("longer", None, None, out=None, name=None).folder
    PosixPath('evaluations/longer')
    """
    if judge is None or not judge.trained:
        return find_subject(model, scores, judge, out=out, name=name)
    subject = find_subject(model, scores, None, out=out, name=name)
    # Its scores on the same benchmark are another evaluation.
    return subject if out is not None else replace(subject, folder=subject.folder / judge.label)


def check_order(order: AnswerOrder | None, *, model: str | None, judge: Judge | None) -> None:
    """Check that only what sees responses in an order is given one.

    Raises:
        DataError: a reward model is.

    >>> check_order("both", model="first", judge=None)
    """
    if order is not None and model != "first" and judge is None:
        raise DataError(
            f"--order {order} is for a judge that sees answers in an order; a reward model sees one at a time"
        )


def check_readable(benchmark: Benchmark, subject: Subject, judge: Judge | None) -> None:
    """Check that a model or a judge can read everything that the rows hold. Rules and files of outcomes need not.

    Raises:
        DataError: it cannot.

    >>> from basereward.evaluation.benchmark import load_benchmark
    >>> check_readable(load_benchmark("videorewardbench"), Subject("longer", "longer", Path("evaluations")), None)
    """
    if benchmark.unscored and (subject.is_model or judge is not None):
        raise DataError(
            f"benchmark '{benchmark.name}' has {benchmark.unscored}, which models and judges cannot read here yet; its "
            "rows are read, and --scores FILE counts the outcomes of another program"
        )


def check_whole(benchmark: Benchmark, *, allow_partial: bool) -> None:
    """Read the rows, and check that they are the whole benchmark.

    Raises:
        DataError: rows are malformed, or are not the whole benchmark and `allow_partial` is not given.
    """
    assert benchmark.items
    if benchmark.partial and not allow_partial:
        raise DataError(
            f"these rows are not the whole benchmark '{benchmark.name}' (version {benchmark.version}): "
            f"{benchmark.partial}. Give the whole file, or the name of the benchmark that it belongs to; "
            "--allow-partial counts these rows and marks the result as partial"
        )


def check_writable(subject: Subject, benchmark: Benchmark, *, scores: str | None, judge: Judge | None) -> None:
    """Check that no output would overwrite an input or lie in the model; set aside what is no file in the place of one.

    Raises:
        DataError: it would.
    """
    folder = subject.folder / benchmark.name
    outputs = {f"the output '{name}'": folder / name for name in (*WRITTEN, JOURNAL)}
    # Before anything is set aside, which would rename a file of a run.
    for name, path in outputs.items():
        check_outside_runs(path, name=name)
    for path in outputs.values():
        set_aside(path)
    inputs = _inputs(benchmark, folder)
    if scores is not None:
        inputs.append(Path(scores))
    if judge is not None and judge.prompt_file is not None:
        inputs.append(judge.prompt_file)
    model = [] if subject.model_folder is None else [subject.model_folder]
    check_outputs(outputs, inputs, read_whole=model)


def _inputs(benchmark: Benchmark, folder: Path) -> list[Path]:
    """The files and folders that a benchmark reads.

    A folder with the files of an earlier evaluation of this subject may be overwritten even if it is also among the
    inputs; `check_names` has made sure that it is of this subject.

    Args:
        benchmark: the benchmark.
        folder: of the evaluation.
    """
    is_evaluation = (folder / WRITTEN[-1]).is_file() or (folder / JOURNAL).is_file()
    return [path for path in benchmark.inputs if path.is_file() or not is_evaluation]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the evaluation cannot be written to '{folder}': {error.strerror or error}") from error


def _opened(model: str, devices: Sequence[str] | int) -> AbstractContextManager[Any]:
    # The import takes seconds, and reading a file of outcomes does not need it.
    from basereward.inference.parallel_scorer import open_scorer

    return open_scorer(model, devices=devices)


def _baseline_outcomes(name: str, benchmark: Benchmark, *, order: AnswerOrder | None) -> dict[int, Outcome]:
    if order is not None:
        return dict(enumerate(judged_by(lambda item, shown: 0, benchmark.items, order=order)))
    rule: Baseline = next(known for known in BASELINES if known == name)
    return dict(enumerate(baseline(rule, benchmark.items)))


def _record(subject: Subject, folder: Path, benchmark: str, variants: CountedVariants, *, partial: bool) -> None:
    """Add the metrics and files to the MLflow run of the model."""
    if subject.run is None:
        return
    # Under another name, so that MLflow does not plot partial results together with whole ones.
    prefix = "eval_partial" if partial else "eval"
    values: dict[str, float] = {}
    for variant, measures in variants.items():
        for metric, measure in measures.items():
            if measure["value"] is not None:
                values[f"{prefix}/{benchmark}/{variant}/{metric}"] = measure["value"]
    files = sorted(file for file in folder.iterdir() if file.name != JOURNAL)
    written_ms = (folder / "evaluation.json").stat().st_mtime_ns // 10**6
    record(subject.run, values, files, folder=f"{FOLDER}/{benchmark}", step=written_ms)
