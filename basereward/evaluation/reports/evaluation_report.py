"""A page about what models reached on benchmarks: tables, intervals, errors, and how far the models agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from basereward.errors import DataError, RunError, check_several
from basereward.evaluation.statistics.agreement import agreement
from basereward.evaluation.reports.benchmark_figures import bars, forest
from basereward.evaluation.reports.drawing import keep, shown
from basereward.evaluation.evaluation_folder import Evaluation, EvaluatedItem, read_evaluation
from basereward.evaluation.reports.numbers import Labels, Row, as_csv, labels, numbers, percent, same_items
from basereward.evaluation.reports.page import page
from basereward.evaluation.published.published import PublishedValue, every_value
from basereward.evaluation.recording import record
from basereward.io.files import write_atomic
from basereward.io.outputs import check_outputs
from basereward.runs.run_folder import find

OUT = "benchmarks.html"
ERRORS = 24  # wrong items of a model that are shown
LETTERS = 4000  # of a prompt or an answer


def report(evaluations: Sequence[str], *, out: str | None = None) -> dict[str, Any]:
    """Writes one HTML page about one or more evaluations, which needs no other file and no network.

    Beside it, in a folder of its name, are the figures as PNG files and the numbers as `numbers.csv`.

    Args:
        evaluations: folders that `basereward eval` wrote, of any models and benchmarks.
        out: the page; by default `benchmarks.html` in the working directory.

    Returns:
        `out`; `figures` and `csv`, the files beside it; `evaluations`, how many there are.

    Raises:
        DataError: an evaluation is missing or damaged or given twice, or the page cannot be written there.
    """
    check_several(evaluations, name="evaluations", of="folders")
    target = _target(out or OUT)
    check_outputs({"--out": target, "the folder beside it": target.with_suffix("")}, evaluations)
    read = [read_evaluation(folder) for folder in _once(evaluations)]
    published, without = _published()
    names = labels(read)
    sections = [_section(same, names, published) for same in same_items(read)]
    _name_figures(sections)
    folder = target.with_suffix("")
    folder.mkdir(exist_ok=True)
    figures = [_save(folder, section, figure) for section in sections for figure in section["figures"]]
    rows = [row for section in sections for row in section["rows"]]
    table = folder / "numbers.csv"
    write_atomic(table, as_csv(rows))
    write_atomic(target, page("report", {"benchmarks": sections, "without": without}, base="tables"))
    _record(read, [target, table, *map(Path, figures)])
    return {"out": str(target), "figures": figures, "csv": str(table), "evaluations": len(read)}


def _record(evaluations: Iterable[Evaluation], files: Sequence[Path]) -> None:
    """The page goes to the MLflow run of every model that has a run here."""
    for run_id in dict.fromkeys(each.run_id for each in evaluations if each.run_id is not None):
        try:
            run = find(run_id)
        except RunError:
            continue  # evaluated elsewhere: its record is not at hand
        record(run, {}, files, folder="report")


def _target(out: str) -> Path:
    target = Path(out)
    if target.suffix != ".html":
        raise DataError(f"the page cannot be written to '{out}': its name must end in .html, such as {OUT}")
    if not target.parent.is_dir():
        raise DataError(f"the page cannot be written to '{out}': there is no folder '{target.parent}'. Make it first.")
    if target.is_dir() or (target.with_suffix("").exists() and not target.with_suffix("").is_dir()):
        raise DataError(f"the page cannot be written to '{out}': its name is taken, or that of the folder beside it")
    return target


def _once(folders: Sequence[str]) -> Sequence[str]:
    if not folders:
        raise DataError("no evaluation is given; give one or more folders that `basereward eval` wrote")
    places = [Path(folder).resolve() for folder in folders]
    twice = sorted({str(place) for place in places if places.count(place) > 1})
    if twice:
        raise DataError(f"given more than once: {', '.join(twice)}. Give each evaluation once.")
    return folders


def _published() -> tuple[list[PublishedValue], str | None]:
    """What papers print, or why there is nothing of it in the page."""
    try:
        return every_value(), None
    except DataError as error:
        return [], f"Published values are not shown: {error}"


def _section(same: Sequence[Evaluation], names: Labels, published: Iterable[PublishedValue]) -> dict[str, Any]:
    """All about one version of one benchmark, as plain data; `partial` where it is about parts of it."""
    rows = numbers(same, names, published)
    return {
        "name": same[0].benchmark,
        "version": same[0].version,
        "partial": same[0].partial is not None,
        "models": [_model(each, names) for each in same],
        "rows": rows,
        "percent": [[percent(row[key]) for key in ("value", "low", "high")] for row in rows],
        "figures": _figures(rows, same[0].benchmark),
        "agreement": [_agreement(one, two, names) for one, two in combinations(same, 2)],
        "errors": [_errors(each, names) for each in same],
    }


def _model(each: Evaluation, names: Labels) -> dict[str, Any]:
    kept = ("model", "kind", "order", "votes", "items", "scored", "partial", "run_id")
    return {"label": names[each.folder], **{name: getattr(each, name) for name in kept}}


def _figures(rows: Sequence[Row], benchmark: str) -> list[dict[str, Any]]:
    made: list[tuple[str, str, Figure]] = [("forest", f"{benchmark}: models and 95 % intervals", forest(rows))]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        drawn = bars([row for row in rows if row["variant"] == variant])
        if drawn is not None:
            made.append((variant, f"{benchmark}, {variant}: categories", drawn))
    return [{"name": name, "title": title, "figure": figure} for name, title, figure in made]


def _name_figures(sections: Sequence[dict[str, Any]]) -> None:
    """A `key` for each section, which its files are called by: a benchmark may have several."""
    used: Counter[str] = Counter()
    for section in sections:
        key = "-".join((section["name"], section["version"], *(["partial"] if section["partial"] else [])))
        used[key] += 1
        section["key"] = key if used[key] == 1 else f"{key}-{used[key]}"


def _save(folder: Path, section: dict[str, Any], figure: dict[str, Any]) -> str:
    """Writes a figure as PNG and leaves it in the section as data URI."""
    drawn: Figure = figure.pop("figure")
    figure |= shown(drawn)
    return keep(drawn, folder, "-".join((section["key"], figure["name"])), "png")[0]


def _agreement(one: Evaluation, two: Evaluation, names: Labels) -> dict[str, Any]:
    head = {"first": names[one.folder], "second": names[two.folder]}
    try:
        found = asdict(agreement(one, two))
    except DataError as error:
        return {**head, "refused": str(error)}
    shown = {key: percent(found[key]) for key in ("alike", "difference", "low", "high")}
    return {**head, **found, "percent": shown}


def _errors(each: Evaluation, names: Labels) -> dict[str, Any]:
    """The wrong items, the worst margin first; those without a margin come last."""
    wrong = [item for item in each.rows if item.correct is False]
    wrong.sort(key=lambda item: (item.margin is None, item.margin or 0.0))
    undecided = sum(item.scored and item.correct is None for item in each.rows)
    shown = [_item(item) for item in wrong[:ERRORS]]
    return {"label": names[each.folder], "wrong": len(wrong), "undecided": undecided, "items": shown}


def _item(item: EvaluatedItem) -> dict[str, Any]:
    answers = [
        {
            **_cut(text),
            "right": place in item.right,
            "wrong": place in item.wrong,
            "score": item.scores[place] if item.scores is not None else None,
            "votes": item.votes.count(place) if item.votes is not None else None,
        }
        for place, text in enumerate(item.responses)
    ]
    kept = {name: getattr(item, name) for name in ("row", "id", "margin", "tie", "picture")}
    told = {name: str(value) for name, value in item.labels.items() if value is not None}
    return {**kept, "labels": told, "prompt": _cut(item.prompt), "answers": answers}


def _cut(text: str) -> dict[str, Any]:
    return {"text": text[:LETTERS], "length": len(text)}
