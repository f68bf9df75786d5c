"""Numbers that papers print, each under the protocol variant by which it was computed."""

from __future__ import annotations

from pathlib import Path

from basereward.errors import DataError, unknown
from basereward.evaluation.published.published_file import read_table
from basereward.evaluation.published.published_value import METRICS, UNKNOWN, VARIANTS, PublishedValue
from basereward.recipe.yaml.files import experiments_folder

__all__ = ["PublishedValue", "every_value", "published"]


def published(
    benchmark: str, variant: str, metric: str | None = None, *, folder: Path | None = None
) -> list[PublishedValue]:
    """What papers print for a benchmark under one variant: corrected values, and never one of another variant.

    The variant `unknown` asks for the values whose tables do not say how they were computed; they compare with nothing.

    Args:
        metric: only this one, such as `overall`; all when None.
        folder: the tables; `experiments/published` when None.

    Raises:
        DataError: there is no such benchmark, variant or metric, no such folder, or a file in it is wrong.
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
    """The values of all tables of a folder, by file name.

    Raises:
        DataError: there is no such folder, or files in it are wrong; the message lists every fault of all of them.
    """
    folder = folder or experiments_folder() / "published"
    if not folder.is_dir():
        raise DataError(
            f"there is no folder '{folder}' of published tables; call this where the folder experiments is, "
            "or set BASEREWARD_EXPERIMENTS to it"
        )
    values: list[PublishedValue] = []
    faults: list[str] = []
    for file in sorted(folder.glob("*.yaml")):
        try:
            values += read_table(file)
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(faults))
    return values
