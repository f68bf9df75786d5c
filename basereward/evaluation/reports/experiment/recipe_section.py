"""The sections about recipes: their costs, their differences, and their runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from basereward.evaluation.reports.experiment.differences import recipes, shared, varied
from basereward.evaluation.reports.experiment.gather import Contender, TrainedRun
from basereward.evaluation.reports.experiment.parts import NONE, Section, cell, note, number, row, shown_name
from basereward.evaluation.reports.markup import Markup, MarkupChild, table, tag

# Where `make ui` serves a store that is a local file.
LOCAL_UI = "http://127.0.0.1:5000"

RunValue = Callable[[TrainedRun], float | None]


def _milliseconds_per_pair(run: TrainedRun) -> float | None:
    seconds = run.result.get("pair_s")
    return None if seconds is None else 1000 * seconds


def _rejected_rows(run: TrainedRun) -> float:
    skipped = run.result.get("skipped", {})
    return sum(sum(reasons.values()) for reasons in skipped.values())


# Column -> its value for a run, and the number of digits after the point.
COSTS: dict[str, tuple[RunValue, int]] = {
    "training, s": (lambda run: run.result.get("seconds"), 0),
    "peak memory, GiB": (lambda run: run.peak_gib, 2),
    "a scored pair, ms": (_milliseconds_per_pair, 1),
    "tokens a scored pair": (lambda run: run.metrics.get("test/tokens_per_pair"), 1),
    "rows not used": (_rejected_rows, 0),
}


def costs(contenders: Sequence[Contender]) -> Section:
    """Make the table of costs: means over the seeds of a recipe."""
    rows: list[Markup] = []
    for place, contender in enumerate(contenders):
        cells = [cell(_mean(contender, value_of, digits)) for value_of, digits in COSTS.values()]
        rows.append(row(shown_name(place, contender.name), cells))
    explanation = note(
        "Means over seeds. Times depend on the machine and on its other load: compare them within one sweep only. Peak "
        "memory is that of the GPU, or of the process if there is no GPU. Tokens are those read and written to score a "
        "test pair. An ensemble is not trained; the training of its members is not counted again."
    )
    return Section("cost", "Cost", [_sortable(["recipe", *COSTS], rows), explanation])


def _mean(contender: Contender, value_of: RunValue, digits: int) -> str:
    values = [value for run in contender.trained if (value := value_of(run)) is not None]
    return number(statistics.fmean(values) if values else None, digits)


def differences(contenders: Sequence[Contender]) -> Section:
    """Make the table of the keys that vary between recipes, with the common keys folded."""
    flat_recipes = recipes(contenders)
    keys, common = varied(flat_recipes), shared(flat_recipes)
    places = {contender.name: place for place, contender in enumerate(contenders)}
    rows: list[Markup] = []
    for name, recipe in flat_recipes.items():
        cells = [tag("td", recipe.get(key, NONE), class_="left") for key in keys]
        rows.append(row(shown_name(places[name], name), cells))
    body: list[MarkupChild] = [_sortable(["recipe", *keys], rows)] if keys else [note("Nothing is varied but seeds.")]
    ensembles = [
        _ensemble(contender, places[contender.name]) for contender in contenders if contender.results[0].ensemble
    ]
    if ensembles:
        body.append(table(["ensemble", "how", "members", "for prompts without pictures"], ensembles))
    same = [row(key, [tag("td", value, class_="left")]) for key, value in common.items()]
    summary = tag("summary", f"{len(common)} keys that all have in common")
    body.append(tag("details", summary, table(["key", "value"], same)))
    return Section("recipes", "Recipes", body)


def _sortable(header: Sequence[str], rows: Sequence[Markup]) -> Markup:
    return table(header, [tag("tbody", *rows)], class_="sortable")


def _ensemble(contender: Contender, place: int) -> Markup:
    recipe = contender.results[0].ensemble
    assert recipe is not None
    texts = (recipe.how, ", ".join(recipe.members), ", ".join(recipe.text) or NONE)
    return row(shown_name(place, contender.name), [tag("td", text, class_="left") for text in texts])


def runs(contenders: Sequence[Contender], *, how: str) -> Section:
    """Make the table of runs, with a link to each in MLflow.

    Args:
        contenders: recipes and ensembles.
        how: the command that finishes what is not finished.
    """
    rows: list[Markup] = []
    for place, contender in enumerate(contenders):
        runs_by_name = {run.name: run for run in contender.trained}
        for result in contender.results:
            name = shown_name(place, result.name)
            run = runs_by_name.get(result.name)
            rows.append(_missing_row(name, how) if run is None else _run_row(name, run))
    explanation = note(
        f"Links to {LOCAL_UI} open while `make ui` serves the store that is named beside them, on the machine that "
        "has it."
    )
    return Section("runs", "Runs", [_sortable(["cell", "run", "MLflow"], rows), explanation])


def _run_row(name: Markup, run: TrainedRun) -> Markup:
    mlflow_id = run.run.mlflow_run_id
    server = run.store if run.store and run.store.startswith("http") else LOCAL_UI
    link: MarkupChild = NONE
    if mlflow_id:
        # `noreferrer`: the page may be shared, and its address is nothing that the server needs.
        link = tag("a", mlflow_id, href=f"{server.rstrip('/')}/#/runs/{mlflow_id}", rel="noreferrer")
    store = tag("small", run.store) if run.store else None
    return row(name, [tag("td", tag("code", run.run.run_id), class_="left"), tag("td", link, store, class_="left")])


def _missing_row(name: Markup, how: str) -> Markup:
    text = tag("td", tag("span", "not finished: ", class_="bad"), tag("code", how), class_="left", colspan=2)
    return row(name, [text])
