"""Write an HTML page about evaluations on benchmarks: tables, intervals, errors, and agreement between models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from basereward.errors import DataError, RecipeError, RunError, check_several
from basereward.evaluation.evaluation_folder import EvaluatedItem, Evaluation, read_evaluation
from basereward.evaluation.published.published import PublishedValue, every_value
from basereward.evaluation.recording import record
from basereward.evaluation.reports.alt_texts import category_text, interval_text
from basereward.evaluation.reports.benchmark_figures import bars, forest
from basereward.evaluation.reports.drawing import embedded, save
from basereward.evaluation.reports.numbers import Labels, Row, as_csv, labels, numbers, percent, same_items
from basereward.evaluation.reports.page import render_data_page
from basereward.evaluation.statistics.agreement import agreement
from basereward.io.files import write_atomic
from basereward.io.outputs import check_folder_of, check_outputs
from basereward.io.progress import track
from basereward.runs.run_folder import find

OUT = "benchmarks.html"
# Wrong items that the page shows of each model. `write_evaluation` keeps pictures of as many.
MAX_ERRORS = 24
# Of one prompt or answer; the page says how many more there are.
MAX_CHARACTERS = 4000


def report(evaluations: Sequence[str], *, out: str | None = None) -> dict[str, Any]:
    """Write one self-contained HTML page about evaluations.

    A folder of the same name beside the page gets the figures as PNG files, and all numbers as `numbers.csv`.

    Args:
        evaluations: folders that `basereward eval` wrote, of any models and benchmarks.
        out: the page; `benchmarks.html` in the working directory by default.

    Returns:
        `out`; `figures` and `csv`, the files beside it; `evaluations`, their number.

    Raises:
        DataError: an evaluation is missing, damaged or given twice, or the page cannot be written.

    >>> report([])
    Traceback (most recent call last):
    basereward.errors.DataError: no evaluation is given; give one or more folders that `basereward eval` wrote
    """
    check_several(evaluations, name="evaluations", of="folders")
    target = _target(out or OUT)
    folder = target.with_suffix("")
    check_outputs({"--out": target, "the folder beside it": folder}, evaluations)
    _check_distinct(evaluations)
    opened = [read_evaluation(path) for path in evaluations]
    published, without = _published()
    names = labels(opened)
    sections = [_section(group, names, published) for group in same_items(opened)]
    _add_file_keys(sections)
    folder.mkdir(exist_ok=True)
    figures: list[str] = []
    rows: list[Row] = []
    for section in track(sections, "drawing", unit="benchmarks"):
        figures += [_save(folder, section, figure) for figure in section["figures"]]
        rows += section["rows"]
    csv_file = folder / "numbers.csv"
    write_atomic(csv_file, as_csv(rows))
    data = {"benchmarks": sections, "without": without}
    write_atomic(target, render_data_page("evaluation_report", data, title="Benchmarks", styles=["tables", "articles"]))
    _record(opened, [target, csv_file, *map(Path, figures)])
    return {"out": str(target), "figures": figures, "csv": str(csv_file), "evaluations": len(opened)}


def _record(evaluations: Iterable[Evaluation], files: Sequence[Path]) -> None:
    """Add the files to the MLflow run of every evaluated model."""
    run_ids = dict.fromkeys(evaluation.run_id for evaluation in evaluations if evaluation.run_id is not None)
    for run_id in run_ids:
        try:
            run = find(run_id)
        except RunError:
            # The model was trained elsewhere, so its run folder is not here.
            continue
        record(run, {}, files, folder="report")


def _target(out: str) -> Path:
    target = Path(out)
    if target.suffix != ".html":
        raise DataError(f"the page cannot be written to '{out}': its name must end in .html, such as {OUT}")
    check_folder_of(target, what="the page")
    folder = target.with_suffix("")
    if target.is_dir() or (folder.exists() and not folder.is_dir()):
        raise DataError(
            f"the page cannot be written to '{out}': '{target}' is a folder, or '{folder}', the folder for its "
            "figures, is a file. Choose another name."
        )
    return target


def _check_distinct(folders: Sequence[str]) -> None:
    if not folders:
        raise DataError("no evaluation is given; give one or more folders that `basereward eval` wrote")
    # Resolved, because one folder may be given by several paths.
    paths = [Path(folder).resolve() for folder in folders]
    repeated = sorted({str(path) for path in paths if paths.count(path) > 1})
    if repeated:
        raise DataError(f"given more than once: {', '.join(repeated)}. Give each evaluation once.")


def _published() -> tuple[list[PublishedValue], str | None]:
    """The published values, or the reason why the page has none."""
    try:
        return every_value(), None
    except (DataError, RecipeError) as error:
        # The evaluations are of use without them.
        return [], f"Published values are not shown: {error}"


def _section(group: Sequence[Evaluation], names: Labels, published: Iterable[PublishedValue]) -> dict[str, Any]:
    """The content of the page about one version of one benchmark, as plain data and figures."""
    first = group[0]
    rows = numbers(group, names, published)
    return {
        "name": first.benchmark,
        "version": first.version,
        "partial": first.partial is not None,
        "models": [_model(evaluation, names) for evaluation in group],
        "rows": rows,
        "percent": [_percentages(row) for row in rows],
        "figures": _figures(rows, first.benchmark),
        "agreement": [_agreement(one, two, names) for one, two in combinations(group, 2)],
        "errors": [_errors(evaluation, names) for evaluation in group],
    }


def _percentages(row: Row) -> list[str | None]:
    # Formatted here, so that the page rounds as the command line does.
    return [percent(row[key]) for key in ("value", "low", "high")]


def _model(evaluation: Evaluation, names: Labels) -> dict[str, Any]:
    copied = ("model", "kind", "order", "votes", "items", "scored", "partial", "run_id")
    return {"label": names[evaluation.folder], **{name: getattr(evaluation, name) for name in copied}}


def _figures(rows: Sequence[Row], benchmark: str) -> list[dict[str, Any]]:
    title = f"{benchmark}: models and 95 % intervals"
    figures = [_figure("forest", title, forest(rows), alt=interval_text(rows))]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        members = [row for row in rows if row["variant"] == variant]
        categories = bars(members)
        if categories is not None:
            title = f"{benchmark}, {variant}: categories"
            figures.append(_figure(variant, title, categories, alt=category_text(members)))
    return figures


def _figure(name: str, title: str, figure: Figure, *, alt: str) -> dict[str, Any]:
    return {"name": name, "title": title, "figure": figure, "alt": alt}


def _add_file_keys(sections: Sequence[dict[str, Any]]) -> None:
    """Add to each section a distinct `key`, with which the names of its files begin."""
    # A benchmark has several sections if its items changed between evaluations.
    used: Counter[str] = Counter()
    for section in sections:
        key = "-".join((section["name"], section["version"], *(["partial"] if section["partial"] else [])))
        used[key] += 1
        section["key"] = key if used[key] == 1 else f"{key}-{used[key]}"


def _save(folder: Path, section: dict[str, Any], entry: dict[str, Any]) -> str:
    """Write a figure as PNG, and replace it in its entry by a data URI."""
    figure: Figure = entry.pop("figure")
    entry |= embedded(figure)
    return save(figure, folder, f"{section['key']}-{entry['name']}", "png")[0]


def _agreement(one: Evaluation, two: Evaluation, names: Labels) -> dict[str, Any]:
    pair = {"first": names[one.folder], "second": names[two.folder]}
    try:
        values = asdict(agreement(one, two))
    except DataError as error:
        return {**pair, "refused": str(error)}
    percentages = {key: percent(values[key]) for key in ("alike", "difference", "low", "high")}
    return {**pair, **values, "percent": percentages}


def _errors(evaluation: Evaluation, names: Labels) -> dict[str, Any]:
    """The wrong items in ascending order of their margins; items without a margin come last."""
    wrong = [item for item in evaluation.rows if item.correct is False]
    wrong.sort(key=lambda item: (item.margin is None, item.margin or 0.0))
    undecided = sum(item.scored and item.correct is None for item in evaluation.rows)
    shown = [_item(item) for item in wrong[:MAX_ERRORS]]
    return {"label": names[evaluation.folder], "wrong": len(wrong), "undecided": undecided, "items": shown}


def _item(item: EvaluatedItem) -> dict[str, Any]:
    copied = {name: getattr(item, name) for name in ("row", "id", "margin", "tie", "picture")}
    item_labels = {name: str(value) for name, value in item.labels.items() if value is not None}
    answers = [_answer(item, place) for place in range(len(item.responses))]
    return {**copied, "labels": item_labels, "prompt": _cut(item.prompt), "answers": answers}


def _answer(item: EvaluatedItem, place: int) -> dict[str, Any]:
    return {
        **_cut(item.responses[place]),
        "right": place in item.right,
        "wrong": place in item.wrong,
        "score": item.scores[place] if item.scores is not None else None,
        "votes": item.votes.count(place) if item.votes is not None else None,
    }


def _cut(text: str) -> dict[str, Any]:
    return {"text": text[:MAX_CHARACTERS], "length": len(text)}
