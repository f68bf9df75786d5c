"""Published numbers, each under the protocol variant by which it was computed."""

from __future__ import annotations

from pathlib import Path

from basereward.errors import DataError, unknown
from basereward.evaluation.published.published_file import read_table
from basereward.evaluation.published.published_value import METRICS, UNKNOWN, VARIANTS, PublishedValue
from basereward.recipe.yaml.files import experiments_folders, yaml_files

__all__ = ["PublishedValue", "every_value", "published"]


def published(
    benchmark: str, variant: str, metric: str | None = None, *, folder: Path | None = None
) -> list[PublishedValue]:
    """The published values of a benchmark under one variant, with known errors of the tables corrected.

    Args:
        benchmark: such as `vl_rewardbench`.
        variant: of its protocol. `unknown` gives the values whose tables do not state how they were computed; they must
            not be compared with other values.
        metric: such as `overall`; None: all metrics.
        folder: of the tables; None: `published` of the folders of experiments.

    Raises:
        DataError: there is no such benchmark, variant, metric or folder, or a file in the folder is wrong.

    >>> {value.printed for value in published("vl_rewardbench", "official", "overall") if value.model == "GPT-4o"}
    {65.8}
    """
    if benchmark not in VARIANTS:
        raise DataError(unknown("benchmark", benchmark, VARIANTS))
    if variant not in (allowed := (*VARIANTS[benchmark], UNKNOWN)):
        raise DataError(unknown(f"variant of {benchmark}", variant, allowed))
    if metric is not None and metric not in METRICS[benchmark]:
        raise DataError(unknown(f"metric of {benchmark}", metric, METRICS[benchmark]))
    return [
        value
        for value in every_value(folder)
        if (value.benchmark, value.variant) == (benchmark, variant) and metric in (None, value.metric)
    ]


def every_value(folder: Path | None = None) -> list[PublishedValue]:
    """The values of all tables of a folder, in the order of the file names.

    Args:
        folder: of the tables; None: `published` of the folders of experiments.

    Raises:
        DataError: there is no such folder, or files in it are wrong; the message lists the faults of all files.
        RecipeError: `$BASEREWARD_EXPERIMENTS` names no folder.

    >>> len({value.paper for value in every_value()}) > 1
    True
    """
    if folder is not None and not folder.is_dir():
        raise DataError(f"there is no folder '{folder}' of published tables")
    values: list[PublishedValue] = []
    # Collected, so that a person who edits several tables sees all faults at once.
    faults: list[str] = []
    for file in yaml_files(experiments_folders("published") if folder is None else [folder]):
        try:
            values += read_table(file)
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    return values
