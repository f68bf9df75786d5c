"""A saved view of MLflow's page of runs: the cells of a sweep side by side, with their axes and accuracies.

By default that page hides the cells below their sweep, and shows neither parameters nor metrics. A saved view is a tag
of the experiment; it is in the menu `Views` of the page, and its address opens it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

VIEW = "cells"
"""The id of the view, and its name in the menu."""
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
TRAINING_PAGES = "workflowType=machine_learning"
"""Without this part of an address, MLflow 3 shows its pages for traces until the person has chosen otherwise."""
COLUMNS = ("attributes.`Dataset`", "attributes.`Models`")
METRICS = ("val/pair_accuracy", "test/pair_accuracy", "train/loss")


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
        # Without the sweep itself, its cells are not hidden below it.
        "searchFilter": "tags.`basereward.kind` != 'sweep'",
        "orderByKey": "attributes.start_time",
        # The order of the grid.
        "orderByAsc": True,
        "selectedColumns": [*columns, *COLUMNS],
        "runsHiddenMode": "FIRST_20_RUNS",
        "hideEmptyCharts": True,
    }
    return json.dumps({"name": VIEW, "createdAt": time_ms, "updatedAt": time_ms, "state": json.dumps(state)})
