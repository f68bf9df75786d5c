"""A saved view of MLflow's page of runs: the cells of a sweep side by side, with their axes and accuracies.

By default that page hides the cells below their sweep, and shows neither parameters nor metrics. A saved view is a tag
of the experiment; it is in the menu `Views` of the page, and its address opens it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

VIEW = "cells"
"""The id of the view, and its name in the menu."""
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
TRAINING_PAGES = "workflowType=machine_learning"
"""Without this part of an address, MLflow 3 shows its pages for traces until the person has chosen otherwise."""
COLUMNS = ("attributes.`Dataset`", "attributes.`Models`")
CHOSEN_BY = "test/pair_accuracy"
"""The metric by which the best cell is chosen, and the view is sorted."""
METRICS = (CHOSEN_BY, "val/pair_accuracy", "train/loss")


SYSTEM_SECTION = "System metrics"
SECTIONS = ("test", "val", "train", SYSTEM_SECTION)
CHARTS = (CHOSEN_BY, "val/pair_accuracy", "train/loss", "train/lr")
"""The first charts of their sections; MLflow adds those of the other metrics."""


def _section(name: str, *, shown: bool) -> dict[str, Any]:
    section: dict[str, Any] = {"uuid": f"section-{name}", "name": name, "display": shown, "deleted": False}
    return section | {"isReordered": True, "isGenerated": True}


def _chart(metric: str) -> dict[str, Any]:
    """A chart of one metric: bars for the test, which has one value, and lines for the others."""
    section, _, name = metric.rpartition("/")
    chart: dict[str, Any] = {"uuid": f"chart-{metric}", "metricSectionId": f"section-{section}", "metricKey": metric}
    chart |= {"deleted": False, "isGenerated": True, "displayName": name, "runsCountToCompare": 20}
    if section == "test":
        # MLflow replaces generated charts of metrics that have a step by lines.
        return chart | {"type": "BAR", "isGenerated": False}
    chart |= {"type": "LINE", "selectedMetricKeys": [metric], "scaleType": "linear", "xAxisScaleType": "linear"}
    axis: dict[str, Any] = {"xAxisKey": "step", "selectedXAxisMetricKey": "", "useGlobalXaxisKey": True}
    return chart | axis | {"lineSmoothness": 0, "useGlobalLineSmoothing": True}


def view_address(experiment_id: str) -> str:
    """The address of the view, without that of the server.

    >>> view_address("1")
    '#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=cells&compareRunsMode=CHART'
    """
    return f"#/experiments/{experiment_id}/runs?{TRAINING_PAGES}&viewStateShareKey={VIEW}&compareRunsMode=CHART"


def saved_view(params: Sequence[str], *, time_ms: int) -> str:
    """The value of the tag `VIEW_TAG`.

    Args:
        params: names of the parameters that are columns: the axes of a sweep.
        time_ms: milliseconds since 1970, by which the menu sorts.

    >>> state = json.loads(json.loads(saved_view(["axis.head"], time_ms=0))["state"])
    >>> state["searchFilter"], state["selectedColumns"][0]
    ("tags.`basereward.kind` != 'sweep'", 'params.`axis.head`')
    """
    columns = [f"params.`{name}`" for name in params] + [f"metrics.`{name}`" for name in METRICS]
    state = {
        "searchFilter": "tags.`basereward.kind` != 'sweep'",
        # Sorted by its default, the page fetches the sweep in spite of the filter, and hides the cells below it.
        "orderByKey": f"metrics.`{CHOSEN_BY}`",
        "orderByAsc": False,
        "selectedColumns": [*columns, *COLUMNS],
        "runsHiddenMode": "FIRST_20_RUNS",
        "hideEmptyCharts": True,
        # By default MLflow sorts the sections by their names.
        "isAccordionReordered": True,
        "compareRunSections": [_section(name, shown=name != SYSTEM_SECTION) for name in SECTIONS],
        "compareRunCharts": [_chart(metric) for metric in CHARTS],
    }
    return json.dumps({"name": VIEW, "createdAt": time_ms, "updatedAt": time_ms, "state": json.dumps(state)})
