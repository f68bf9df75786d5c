"""`basereward report`: choose between a page of evaluations, of one experiment, or of all experiments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from basereward.errors import DataError, unknown
from basereward.recipe import names

ALL_EXPERIMENTS = "all"
FOLDER = "reports"
YAML_SUFFIXES = (".yaml", ".yml")


def report_of(words: Sequence[str], *, profile: str, overrides: Sequence[str], out: str | None) -> dict[str, Any]:
    """Write the page that the words of a command line ask for.

    Args:
        words: folders that `basereward eval` wrote, or one experiment by name or by the path of its YAML file, or
            `all`. A word `KEY=VALUE` is an override of the experiment.
        profile: of the experiment.
        overrides: further overrides of the experiment.
        out: the page, or the folder of pages for `all`. The default is `benchmarks.html`,
            `reports/PROFILE/EXPERIMENT.html` or `reports`.

    Returns:
        What `evaluation_report.report`, `ReportPage.as_dict` or `make_index` returns.

    Raises:
        BaseRewardError: a word is none of these, the words exclude each other, or the page cannot be made.
    """
    changes = [word for word in words if "=" in word and not Path(word).exists()]
    subjects = [word for word in words if word not in changes]
    changes += overrides
    experiments = [word for word in subjects if _is_experiment(word)]
    folders = [word for word in subjects if word not in experiments]
    if experiments and (folders or len(experiments) > 1):
        raise DataError(
            f"{', '.join(subjects)}: a page is about one experiment, or about evaluations. Give one name of an "
            f"experiment, or '{ALL_EXPERIMENTS}', or only folders that `basereward eval` wrote"
        )
    if experiments:
        return _experiment_report(experiments[0], profile=profile, overrides=changes, out=out)
    _check_folders(folders, changes)
    # This imports matplotlib, which takes a second; the checks above answer a mistake before that.
    from basereward.evaluation.reports.evaluation_report import report

    return report(folders, out=out)


def _is_experiment(word: str) -> bool:
    # A folder of an evaluation may have the name of an experiment; the folder is meant then.
    if (Path(word) / "evaluation.json").is_file():
        return False
    return word == ALL_EXPERIMENTS or word.endswith(YAML_SUFFIXES) or word in _experiment_names()


def _experiment_names() -> list[str]:
    return [entry.name for entry in names("experiments")]


def _check_folders(folders: Sequence[str], changes: Sequence[str]) -> None:
    for word in folders:
        if not Path(word).is_dir():
            known = [ALL_EXPERIMENTS, *_experiment_names()]
            raise DataError(
                f"{unknown('experiment', word, known)}; '{word}' is not a folder that `basereward eval` wrote either"
            )
    if changes:
        raise DataError(
            f"{', '.join(changes)}: overrides apply to an experiment, and no experiment is given. Leave them out, or "
            "name an experiment"
        )


def _experiment_report(name: str, *, profile: str, overrides: Sequence[str], out: str | None) -> dict[str, Any]:
    from basereward.evaluation.reports.experiment.index import make_index, page_place
    from basereward.evaluation.reports.experiment.make import make_page

    if name == ALL_EXPERIMENTS:
        folder = Path(out or FOLDER)
        if folder.suffix == ".html" or folder.is_file():
            raise DataError(f"--out '{out}': the pages of all experiments are written to a folder; give a folder")
        return make_index(folder, profile=profile, overrides=overrides)
    target = Path(out) if out else page_place(Path(FOLDER), name, profile)
    if target.suffix != ".html" or target.is_dir():
        raise DataError(f"the page cannot be written to '{out}': give the name of a file that ends in .html")
    # The default folder is made; one that was typed may be a typing error.
    if out and not target.parent.is_dir():
        raise DataError(f"the page cannot be written to '{out}': there is no folder '{target.parent}'. Make it first.")
    return make_page(name, profile=profile, overrides=overrides, out=target).as_dict()
