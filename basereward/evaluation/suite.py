"""`basereward eval --suite`: one table of a model over all benchmarks of a suite, with macro averages."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from basereward.errors import DataError, check_several, sentence
from basereward.evaluation.benchmark import Benchmark, load_benchmark
from basereward.evaluation.evaluation_folder import read_evaluation
from basereward.evaluation.items import JudgedItem, Outcome
from basereward.evaluation.judging.judge import Judge
from basereward.evaluation.outcome import AnswerOrder
from basereward.evaluation.recording import record
from basereward.evaluation.run_benchmark import (
    JOURNAL,
    RETURNED,
    CountedVariants,
    Evaluator,
    check_order,
    check_readable,
    check_whole,
    check_writable,
    open_subject,
)
from basereward.evaluation.statistics.measures import Z_95
from basereward.evaluation.subject import FOLDER, Subject, check_names
from basereward.io.files import write_state
from basereward.io.limits import read_json_object
from basereward.io.progress import track
from basereward.recipe.fragment import assign_overrides
from basereward.recipe.suites import ALL, SuiteMember, suite_members

AbsentBenchmarks = dict[str, str]
"""Name of a benchmark that is not measured -> the reason, and what to do."""


class EachEvaluation(NamedTuple):
    """What `evaluate_each` gives.

    >>> EachEvaluation({}, [], {"rm_bench": "no files"}).absent
    {'rm_bench': 'no files'}
    """

    result: dict[str, CountedVariants]
    """measures by benchmark"""
    evaluations: list[dict[str, Any]]
    """the facts of each evaluation"""
    absent: AbsentBenchmarks
    """the benchmarks that cannot be measured"""


def evaluate_each(
    subject: Subject,
    benchmarks: Sequence[str],
    *,
    order: AnswerOrder | None = None,
    allow_partial: bool = False,
    judge: Judge | None = None,
    devices: Sequence[str] | int = (),
    overrides: Iterable[str] = (),
) -> EachEvaluation:
    """Evaluate one subject on several benchmarks, of which some may be missing.

    Each evaluation is the one that `evaluate` makes of the benchmark alone. One that is finished for the same model and
    the same items is read instead of made again. A benchmark whose rows are missing or refused does not stop the rest.

    Args:
        subject: as `open_subject` resolves it.
        benchmarks: as of `evaluate`.
        order, allow_partial, judge, devices, overrides: as of `evaluate`.

    Raises:
        BaseRewardError: as `evaluate`.
    """
    absent: AbsentBenchmarks = {}
    assigned = assign_overrides(benchmarks, list(overrides))
    opened = _open(assigned, subject, judge, allow_partial=allow_partial, absent=absent)
    with ExitStack() as stack:
        evaluator = Evaluator(subject, stack, None, order, allow_partial, judge, devices)
        result, evaluations = _measure(evaluator, opened, absent)
    return EachEvaluation(result, evaluations, absent)


def evaluate_suite(
    model: str | None,
    suite: str,
    *,
    out: str | None = None,
    name: str | None = None,
    order: AnswerOrder | None = None,
    allow_partial: bool = False,
    judge: Judge | None = None,
    devices: Sequence[str] | int = (),
    overrides: Iterable[str] = (),
) -> dict[str, Any]:
    """Evaluate one subject on every benchmark of a suite, as `evaluate_each` does.

    Args:
        suite: the name of a suite, or `all`; see `basereward/recipe/suites.py`.
        model, out, name, order, allow_partial, judge, devices: as of `evaluate`.
        overrides: `BENCHMARK.key=value` for arguments of the benchmarks, such as `rm_bench.data=rows.json`.

    Returns:
        What `evaluate` returns of the measured benchmarks. In addition `suite`: its `name`, `rows` (a headline measure
        for each measured benchmark), `averages` with their definitions, `absent`, the reasons by benchmark, and `out`,
        the file of this table.

    Raises:
        BaseRewardError: as `evaluate`; or no benchmark of the suite can be measured. The message says why for each.
    """
    check_several(overrides, name="overrides", of="texts")
    members = suite_members(suite)
    subject = open_subject(model, None, judge, out=out, name=name)
    check_order(order, model=model, judge=judge)
    result, evaluations, absent = evaluate_each(
        subject,
        [member.benchmark for member in members],
        order=order,
        allow_partial=allow_partial,
        judge=judge,
        devices=devices,
        overrides=overrides,
    )
    table = _table(suite, members, result, absent)
    if not table["rows"]:
        reasons = "\n  ".join(f"{benchmark}: {reason}" for benchmark, reason in absent.items())
        raise DataError(f"no benchmark of the suite '{suite}' can be measured:\n  {reasons}")
    file = _write(subject, table)
    is_partial = any(facts["partial"] is not None for facts in evaluations)
    # The averages of a trained judge's scores have the plain names.
    place = f"{judge.label}/suite" if judge is not None and judge.trained else "suite"
    _record(subject, {} if is_partial else _whole_averages(table, place), file, place)
    return {**result, "evaluations": evaluations, "suite": {**table, "out": str(file)}}


def _open(
    assigned: Mapping[str, Sequence[str]],
    subject: Subject,
    judge: Judge | None,
    *,
    allow_partial: bool,
    absent: AbsentBenchmarks,
) -> list[Benchmark]:
    """Open the benchmarks and read their rows, so that all that is missing is known before anything is scored.

    Args:
        assigned: the overrides by benchmark.
        subject: what is evaluated.
        judge: the judge, if it is one.
        allow_partial: as of `evaluate`.
        absent: gets the benchmarks that cannot be measured.
    """
    opened: list[Benchmark] = []
    for name, overrides in track(assigned.items(), "reading the rows", unit="benchmarks", total=len(assigned)):
        # A wrong key, or a path that the user gave and that does not exist, is an error and not a missing file.
        benchmark = load_benchmark(name, overrides=overrides)
        check_names([benchmark], subject)
        fault = _fault(benchmark, subject, judge, allow_partial=allow_partial)
        if fault is None:
            check_writable(subject, benchmark, scores=None, judge=judge)
            opened.append(benchmark)
        else:
            absent[name] = fault
    return opened


def _fault(benchmark: Benchmark, subject: Subject, judge: Judge | None, *, allow_partial: bool) -> str | None:
    """The reason why a benchmark cannot be measured, and what to do; None if it can."""
    try:
        check_readable(benchmark, subject, judge)
    except DataError as error:
        return str(error)
    try:
        check_whole(benchmark, allow_partial=allow_partial)
    except DataError as error:
        return f"{sentence(str(error))} Download its files and add {benchmark.name}.data=PATH"
    return None


def _measure(
    evaluator: Evaluator, opened: Sequence[Benchmark], absent: AbsentBenchmarks
) -> tuple[dict[str, CountedVariants], list[dict[str, Any]]]:
    """Evaluate the benchmarks, one after the other.

    Returns:
        The measures by benchmark, and the facts of the evaluations.
    """
    result: dict[str, CountedVariants] = {}
    evaluations: list[dict[str, Any]] = []
    for benchmark in opened:
        try:
            result[benchmark.name], facts = _counted_again(evaluator, benchmark) or evaluator.evaluate(benchmark)
        except DataError as error:
            # What is scored already stays in the journal.
            absent[benchmark.name] = str(error)
            continue
        (evaluator.subject.folder / benchmark.name / JOURNAL).unlink(missing_ok=True)
        evaluations.append(facts)
    return result, evaluations


def _counted_again(evaluator: Evaluator, benchmark: Benchmark) -> tuple[CountedVariants, dict[str, Any]] | None:
    """The measures and facts of an evaluation of an earlier call; None if there is none of the same model and items.

    Only its outcomes are used: the code that counts them may have changed since.
    """
    stored = _finished(evaluator, benchmark)
    if stored is None:
        return None
    folder = evaluator.subject.folder / benchmark.name
    outcomes: dict[int, Outcome] = {}
    for row in read_evaluation(folder).rows:
        outcomes[row.row] = Outcome(scores=row.scores, votes=row.votes)
    variants = evaluator.count(benchmark, [JudgedItem(item, outcomes[item.row]) for item in benchmark.items])
    if json.loads(json.dumps(variants)) == stored["variants"]:
        # Written and recorded by the earlier call.
        returned = {key: stored[key] for key in RETURNED if key in stored}
        return stored["variants"], {"benchmark": benchmark.name, "out": str(folder), **returned}
    evaluator.cost = stored.get("cost", {})
    return evaluator.evaluate(benchmark, known=outcomes)


def _finished(evaluator: Evaluator, benchmark: Benchmark) -> dict[str, Any] | None:
    """The content of `evaluation.json` of an earlier call; None if there is none of the same model and items."""
    subject, judge = evaluator.subject, evaluator.judge
    # The outcomes of a rule are computed as quickly as they are read.
    if not subject.is_model and judge is None:
        return None
    try:
        stored = read_json_object(subject.folder / benchmark.name / "evaluation.json")
    except DataError:
        return None
    wanted = {
        "version": benchmark.version,
        "digest": benchmark.digest,
        "model_fingerprint": subject.fingerprint or None,
        "order": evaluator.order,
        "judge": None if judge is None else json.loads(json.dumps(judge.facts)),
        "items": len(benchmark.items),
        "scored": len(benchmark.items),
    }
    return stored if all(stored.get(key) == value for key, value in wanted.items()) else None


def _table(
    suite: str, members: Sequence[SuiteMember], result: Mapping[str, CountedVariants], absent: AbsentBenchmarks
) -> dict[str, Any]:
    """The rows, the averages and the benchmarks that are not measured."""
    rows: list[dict[str, Any]] = []
    for member in members:
        row = _row(member, result[member.benchmark]) if member.benchmark in result else None
        if row is not None:
            rows.append(row)
        elif member.benchmark not in absent:
            headline = " or ".join("/".join(pair) for pair in member.headline)
            absent[member.benchmark] = f"these outcomes do not count in {headline}"
    averages = [average(name, members, rows) for name in dict.fromkeys(member.suite for member in members)]
    if suite == ALL:
        averages.append(average_of_suites(averages))
    return {"name": suite, "rows": rows, "averages": averages, "absent": absent}


def _row(member: SuiteMember, variants: CountedVariants) -> dict[str, Any] | None:
    """The headline measure of a benchmark; None if none of them is counted."""
    for variant, metric in member.headline:
        measure = variants.get(variant, {}).get(metric)
        if measure is not None and measure["value"] is not None:
            names = {"benchmark": member.benchmark, "suite": member.suite, "variant": variant, "metric": metric}
            return {**names, **measure}
    return None


def _write(subject: Subject, table: Mapping[str, Any]) -> Path:
    """Write the table into the folder of the evaluations."""
    file = subject.folder / f"suite-{table['name']}.json"
    text = json.dumps({"model": subject.model, "model_name": subject.name, **table}, indent=2) + "\n"
    # An unchanged table keeps its time, which is the step of the averages in MLflow.
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        write_state(file, text)
    return file


def _whole_averages(table: Mapping[str, Any], place: str) -> dict[str, float]:
    """The averages over complete suites. MLflow would plot averages over different benchmarks in one curve."""
    return {
        f"eval/{place}/{mean['name']}": mean["value"]
        for mean in table["averages"]
        if not mean["missing"] and mean["value"] is not None
    }


def _record(subject: Subject, values: Mapping[str, float], file: Path, place: str) -> None:
    """Add the averages and the table to the MLflow run of the model."""
    if subject.run is not None:
        folder = "/".join([FOLDER, *place.split("/")[:-1]])
        record(subject.run, values, [file], folder=folder, step=file.stat().st_mtime_ns // 10**6)


def average(suite: str, members: Sequence[SuiteMember], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The macro average of a suite: the unweighted mean of the headline measures of its benchmarks.

    Benchmarks are independent samples, so that the variance of the mean is the sum of theirs, over the square of their
    number. The standard error of each is taken from the width of its 95 % interval.

    Args:
        suite: the name of the suite.
        members: of the suite, and of others.
        rows: a measure for each measured benchmark, of the suite and of others.

    Returns:
        `value`, `low`, `high`, the mean `baselines`; `of`, the measures that are averaged; `missing`, the benchmarks
        that are not measured; and the `definition` in words.

    >>> members = [SuiteMember("a", "text", (("v", "m"),)), SuiteMember("b", "text", (("v", "m"),))]
    >>> measure = {"suite": "text", "variant": "v", "metric": "m", "low": None, "high": None, "baselines": {}}
    >>> mean = average("text", members, [{**measure, "benchmark": "a", "value": 0.5}])
    >>> mean["value"], mean["of"], mean["missing"]
    (0.5, ['a v/m'], ['b'])
    """
    counted = [row for row in rows if row["suite"] == suite]
    expected = [member.benchmark for member in members if member.suite == suite]
    missing = sorted(set(expected) - {row["benchmark"] for row in counted})
    of = [f"{row['benchmark']} {row['variant']}/{row['metric']}" for row in counted]
    definition = f"unweighted mean of {', '.join(of) or 'nothing'}"
    if missing:
        definition += f"; {len(missing)} of its {len(expected)} benchmarks are not measured"
    return {"name": suite, **_mean(counted), "of": of, "missing": missing, "definition": definition}


def average_of_suites(averages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of the averages of all suites, which gives every suite the same weight.

    >>> text = {"name": "text", "value": 0.5, "low": None, "high": None, "baselines": {}, "missing": ["b"]}
    >>> average_of_suites([text, text | {"name": "multimodal", "value": 0.7, "missing": []}])["value"]
    0.6
    """
    missing: list[str] = []
    for entry in averages:
        missing += entry["missing"]
    of = [entry["name"] for entry in averages]
    definition = f"unweighted mean of the averages {' and '.join(of)}"
    return {"name": ALL, **_mean(averages), "of": of, "missing": missing, "definition": definition}


def _mean(measures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of measures with its interval, and the means of the baselines that all of them have."""
    values = [measure["value"] for measure in measures]
    # A mean over only some of the suites must not appear under this name.
    if not values or None in values:
        return {"value": None, "low": None, "high": None, "interval": None, "baselines": {}}
    value = math.fsum(values) / len(values)
    bounds: dict[str, Any] = {"low": None, "high": None, "interval": None}
    if all(measure["low"] is not None for measure in measures):
        errors = [(measure["high"] - measure["low"]) / (2 * Z_95) for measure in measures]
        spread = Z_95 * math.hypot(*errors) / len(errors)
        bounds = {"low": max(0.0, value - spread), "high": min(1.0, value + spread), "interval": "wald"}
    baselines: dict[str, float] = {}
    for name in measures[0]["baselines"]:
        shares = [measure["baselines"].get(name) for measure in measures]
        if None not in shares:
            baselines[name] = math.fsum(shares) / len(shares)
    return {"value": value, **bounds, "baselines": baselines}
