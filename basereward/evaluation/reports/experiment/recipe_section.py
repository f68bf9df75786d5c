"""What the recipes differ in, what they cost, and where their runs are."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from basereward.evaluation.reports.experiment.differences import recipes, shared, varied
from basereward.evaluation.reports.experiment.gather import Contender, Trained
from basereward.evaluation.reports.experiment.parts import NONE, Section, cell, chip, note, number, row
from basereward.evaluation.reports.markup import MarkupChild, Markup, join, table, tag

LOCAL = "http://127.0.0.1:5000"  # where `make ui` serves a store that is a file
COSTS: dict[str, tuple[Callable[[Trained], float | None], int]] = {
    "training, s": (lambda run: run.told.get("seconds"), 0),
    "peak memory, GiB": (lambda run: run.peak_gib, 2),
    "a scored pair, ms": (lambda run: _milliseconds(run.told.get("pair_s")), 1),
    "tokens a scored pair": (lambda run: run.metrics.get("test/tokens_per_pair"), 1),
    "rows not used": (lambda run: sum(sum(reasons.values()) for reasons in run.told.get("skipped", {}).values()), 0),
}


def costs(contenders: Sequence[Contender]) -> Section:
    """Means over the seeds of a recipe."""
    rows = [
        row(join([chip(place), each.name]), [cell(_mean(each, of, digits)) for of, digits in COSTS.values()])
        for place, each in enumerate(contenders)
    ]
    about = note(
        "Means over seeds. Times are those of the machine and of what else it did: they compare within one sweep. Peak "
        "memory is the GPU's where there is one, else the process's. Tokens: read and written for the scores of a test "
        "pair. An ensemble is not trained; its members' training is not counted again."
    )
    return Section("cost", "Cost", [table(["recipe", *COSTS], rows), about])


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def _mean(each: Contender, of: Callable[[Trained], float | None], digits: int) -> str:
    values = [value for run in each.trained if (value := of(run)) is not None]
    return number(statistics.fmean(values) if values else None, digits)


def differences(contenders: Sequence[Contender]) -> Section:
    """The keys that are varied, and folded those that are not."""
    of = recipes(contenders)
    keys, common = varied(of), shared(of)
    places = {each.name: place for place, each in enumerate(contenders)}
    rows = [
        row(join([chip(places[name]), name]), [tag("td", recipe.get(key, NONE), class_="left") for key in keys])
        for name, recipe in of.items()
    ]
    body: list[MarkupChild] = [table(["recipe", *keys], rows)] if keys else [note("Nothing is varied but seeds.")]
    ensembles = [_ensemble(each, places[each.name]) for each in contenders if each.results[0].ensemble]
    if ensembles:
        body.append(table(["ensemble", "how", "members", "for prompts without pictures"], ensembles))
    same = [row(key, [tag("td", value, class_="left")]) for key, value in common.items()]
    folded = tag(
        "details", tag("summary", f"{len(common)} keys that all have in common"), table(["key", "value"], same)
    )
    return Section("recipes", "Recipes", [*body, folded])


def _ensemble(each: Contender, place: int) -> Markup:
    recipe = each.results[0].ensemble
    assert recipe is not None
    told = (recipe.how, ", ".join(recipe.members), ", ".join(recipe.text) or NONE)
    return row(join([chip(place), each.name]), [tag("td", text, class_="left") for text in told])


def runs(contenders: Sequence[Contender], *, how: str) -> Section:
    """Every cell and ensemble: its run and MLflow's page of it, or how to finish it."""
    rows = []
    for place, each in enumerate(contenders):
        done = {run.name: run for run in each.trained}
        for result in each.results:
            name = join([chip(place), result.name])
            rows.append(_run(name, done[result.name]) if result.name in done else _missing(name, how))
    about = note(
        f"Links to {LOCAL} open while `make ui` serves the store that is named beside them, on the machine that has it."
    )
    return Section("runs", "Runs", [table(["cell", "run", "MLflow"], rows), about])


def _run(name: Markup, run: Trained) -> Markup:
    known = run.run.mlflow_run_id
    served = run.store if run.store and run.store.startswith("http") else LOCAL
    link = tag("a", known, href=f"{served.rstrip('/')}/#/runs/{known}", rel="noreferrer") if known else NONE
    where = tag("small", run.store) if run.store else None
    return row(name, [tag("td", tag("code", run.run.run_id), class_="left"), tag("td", link, where, class_="left")])


def _missing(name: Markup, how: str) -> Markup:
    told = tag("td", tag("span", "not finished: ", class_="bad"), tag("code", how), class_="left", colspan=2)
    return row(name, [told])
