"""Test the bar of a training: in a cell of a notebook, and what its total is made of."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from basereward.recipe import load_recipe
from basereward.training.build import prepare_run
from basereward.training.callbacks.progress import RunWork

ROOT = Path(__file__).resolve().parents[3]
PROFILE = str(ROOT / "tests" / "small.yaml")
CELL = f"""\
from basereward import build, load_recipe
module, data, trainer = build(load_recipe("basereward", profile={PROFILE!r}))
trainer.fit(module, data)
"""


@pytest.mark.usefixtures("ready_store")
def test_work_is_that_of_the_plan() -> None:
    """6 steps of two micro-batches, two validations of 12 groups in passes of four, and a test of as many."""
    data = prepare_run(load_recipe("basereward", profile=PROFILE)).data
    assert RunWork.of(data, tested=True) == RunWork(steps=6, micro_batches=2, stages=2, val_batches=3, test_batches=3)
    assert RunWork.of(data, tested=False).test_batches == 0
    # A micro-batch that is trained on counts three times: the backward pass takes twice as long as the forward pass.
    assert RunWork.of(data, tested=True).total == 6 * 2 * 3 + 2 * 3 + 3


@pytest.mark.slow
def test_cell_of_a_notebook_shows_the_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook has no terminal and no logging, and its cell shows phases, steps and the metrics of validations."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(ROOT)}}).execute()
    (cell,) = notebook.cells
    shown = json.dumps([output.get("text", output.get("data")) for output in cell.outputs])
    for phase in ("loading the model", "encoding numbers"):
        assert phase in shown
    assert re.search(r"training: step [1-6] of 6", shown)
    assert re.search(r"step 3 of 6, \d+ s: .*val/pair_accuracy 0\.\d{4}", shown)
