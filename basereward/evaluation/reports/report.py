"""`basereward report`: choose between a page of evaluations, of one experiment, or of all experiments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from basereward.errors import DataError, unknown
from basereward.io.outputs import check_folder_of, check_outside_runs
from basereward.recipe import names

ALL_EXPERIMENTS = "all"
FOLDER = "reports"
YAML_SUFFIXES = (".yaml", ".yml")


def report_of(
    words: Sequence[str], *, profile: str, overrides: Sequence[str], sweep: str | None = None, out: str | None
) -> dict[str, Any]:
    """Write the page that the words of a command line ask for.

    Args:
        words: folders that `basereward eval` wrote, or one experiment by name or by the path of its YAML file, or
            `all`. A word `KEY=VALUE` is an override of the experiment.
        profile: of the experiment.
        overrides: further overrides of the experiment.
        sweep: the sweep of the experiment, by its name or id; None: the newest complete one, unless there are
            overrides.
        out: the page, or the folder of pages for `all`. The default is `benchmarks.html`,
            `reports/PROFILE/EXPERIMENT/SWEEP/report.html` or `reports`.

    Returns:
        What `evaluation_report.report`, `SweepReport.as_dict` or `make_index` returns.

    Raises:
        BaseRewardError: a word is none of these, the words exclude each other, or the page cannot be made.

    >>> report_of(["no_such_experiment"], profile="tiny", overrides=[], out=None)
    Traceback (most recent call last):
    basereward.errors.DataError: unknown experiment 'no_such_experiment'...
    """
    subjects, changes = _split_words(words)
    changes += overrides
    experiment = _experiment_of(subjects)
    if experiment is not None:
        return _experiment_report(experiment, profile=profile, overrides=changes, sweep=sweep, out=out)
    _check_folders(subjects, changes)
    if sweep is not None:
        raise DataError(f"--sweep '{sweep}': a sweep belongs to an experiment, and no experiment is given")
    # This imports matplotlib, which takes a second; the checks above answer a mistake before that.
    from basereward.evaluation.reports.evaluation_report import report

    return report(subjects, out=out)


def _split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The subjects of the page, and the overrides `KEY=VALUE` among the words."""
    # The name of a folder may contain `=`, as that of a sweep's cell does; a path that exists is no override.
    changes = [word for word in words if "=" in word and not Path(word).exists()]
    return [word for word in words if word not in changes], changes


def _experiment_of(subjects: Sequence[str]) -> str | None:
    """The experiment that a page is about; None if it is about folders of evaluations.

    Raises:
        DataError: there are several experiments, or folders beside an experiment.
    """
    experiments = [word for word in subjects if _is_experiment(word)]
    if not experiments:
        return None
    if len(experiments) > 1 or len(experiments) < len(subjects):
        raise DataError(
            f"{', '.join(subjects)}: a page is about one experiment, or about evaluations. Give one name of an "
            f"experiment, or '{ALL_EXPERIMENTS}', or only folders that `basereward eval` wrote"
        )
    return experiments[0]


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


def _experiment_report(
    name: str, *, profile: str, overrides: Sequence[str], sweep: str | None, out: str | None
) -> dict[str, Any]:
    from basereward.evaluation.reports.experiment.index import make_index, report_sweep

    _check_sweep(name, overrides, sweep)
    if name == ALL_EXPERIMENTS:
        folder = Path(out or FOLDER)
        if folder.suffix == ".html" or folder.is_file():
            raise DataError(f"--out '{out}': the pages of all experiments are written to a folder; give a folder")
        check_outside_runs(folder / "index.html", name="--out")
        return make_index(folder, profile=profile, overrides=overrides)
    target = Path(out) if out else None
    if target is not None:
        _check_page(target)
    root = Path(FOLDER)
    report = report_sweep(name, root=root, profile=profile, overrides=overrides, sweep=sweep, out=target)
    return report.as_dict()


def _check_sweep(name: str, overrides: Sequence[str], sweep: str | None) -> None:
    if sweep is None:
        return
    if overrides:
        raise DataError(f"--sweep '{sweep}' and {', '.join(overrides)}: each of them chooses a sweep; give one of them")
    if name == ALL_EXPERIMENTS:
        raise DataError(f"--sweep '{sweep}' is of one experiment; give its name in place of '{ALL_EXPERIMENTS}'")


def _check_page(target: Path) -> None:
    if target.suffix != ".html" or target.is_dir():
        raise DataError(f"the page cannot be written to '{target}': give the name of a file that ends in .html")
    # The default folder is made; one that was typed may be a typing error.
    check_folder_of(target, what="the page")
    check_outside_runs(target, name="--out")
