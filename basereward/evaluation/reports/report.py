"""`basereward report`: a page of evaluations, of an experiment, or of all experiments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from basereward.errors import DataError, unknown
from basereward.recipe import names

EVERY = "all"
FOLDER = "reports"
YAML = (".yaml", ".yml")


def report_of(words: Sequence[str], *, profile: str, overrides: Sequence[str], out: str | None) -> dict[str, Any]:
    """Writes what the words ask for.

    Args:
        words: folders that `basereward eval` wrote; or one name of an experiment, or a path of its YAML; or `all`.
            `KEY=VALUE` among them is a change of the experiment.
        profile: what the experiment runs on.
        overrides: further changes of the experiment.
        out: the page; of `all` the folder. By default `benchmarks.html`, `reports/PROFILE/EXPERIMENT.html`, `reports`.

    Returns:
        What `report`, `Made.told` or `make_index` says.

    Raises:
        BaseRewardError: a word is none of these, they do not go together, or what is asked for cannot be made.
    """
    changes = [word for word in words if "=" in word and not Path(word).exists()]
    given = [word for word in words if word not in changes]
    changes += overrides
    experiments = [word for word in given if _is_experiment(word)]
    folders = [word for word in given if word not in experiments]
    if experiments and (folders or len(experiments) > 1):
        raise DataError(
            f"{', '.join(given)}: one page is of one experiment, or of evaluations. Give one name of an experiment, or "
            f"'{EVERY}', or only folders that `basereward eval` wrote"
        )
    if experiments:
        return _experiment(experiments[0], profile=profile, overrides=changes, out=out)
    _check_folders(folders, changes)
    from basereward.evaluation.reports.evaluation_report import report  # matplotlib: a mistake is told before it is loaded

    return report(folders, out=out)


def _is_experiment(word: str) -> bool:
    if (Path(word) / "evaluation.json").is_file():
        return False
    return word == EVERY or word.endswith(YAML) or word in [entry.name for entry in names("experiments")]


def _check_folders(folders: Sequence[str], changes: Sequence[str]) -> None:
    for word in folders:
        if not Path(word).is_dir():
            known = [EVERY, *(entry.name for entry in names("experiments"))]
            raise DataError(f"{unknown('experiment', word, known)}; nor is it a folder that `basereward eval` wrote")
    if changes:
        raise DataError(f"{', '.join(changes)}: changes are of an experiment, and none is named; drop them")


def _experiment(name: str, *, profile: str, overrides: Sequence[str], out: str | None) -> dict[str, Any]:
    from basereward.evaluation.reports.experiment.index import make_index, page_place
    from basereward.evaluation.reports.experiment.make import make_page

    if name == EVERY:
        folder = Path(out or FOLDER)
        if folder.suffix == ".html" or folder.is_file():
            raise DataError(f"the pages of all experiments go to a folder, and --out is '{out}'; give a folder")
        return make_index(folder, profile=profile, overrides=overrides)
    place = Path(out) if out else page_place(Path(FOLDER), name, profile)
    if place.suffix != ".html" or place.is_dir():
        raise DataError(f"the page cannot be written to '{out}': give the name of a file that ends in .html")
    if out and not place.parent.is_dir():
        raise DataError(f"the page cannot be written to '{out}': there is no folder '{place.parent}'. Make it first.")
    return make_page(name, profile=profile, overrides=overrides, out=place).told()
