"""Test that an experiment's page reproduces the paper's tables from outcomes of the paper's models."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from basereward.evaluation.reports.experiment.make import make_page
from basereward.recipe import load_experiment
from tests.helpers.experiment_runs import finished_run, write_measures, written_recipe
from tests.helpers.paper_outcomes import PROTOCOLS, digits_of, evaluations

ROOT = Path(__file__).parents[3]
# Rows whose numbers all follow from counts or are known misprints. Averaged votes of judges do not follow from
# counts.
OURS = ("BaseReward (Qwen2-VL)", "BaseReward (Qwen2.5-VL)", "BaseReward (Ensemble)")
ROWS: dict[int, tuple[str, ...] | None] = {
    2: None,
    8: None,
    9: ("Gemini-1.5-Pro", "MM-RLHF-Reward 7B", "IXC-2.5-Reward 7B", "R1-Reward 7B", *OURS),
    10: ("Gemini 1.5 Pro", "Claude 3.5 Sonnet", "InternVL3 8B", "MM-RLHF-Reward 7B", "R1-Reward 7B", *OURS),
}
MISPRINTS = {
    2: {("1 layer", "acc_plus"), ("2 layers, Tanh", "vl_hallucination"), ("2 layers, Tanh", "acc")}
    | {("3 layers, SiLU", "vl_overall"), ("3 layers, SiLU", "vl_macro")},
    8: {("BaseReward (Qwen2.5-VL)", name) for name in ("mcq", "long", "short")}
    | {("GPT-4o (2024-08-06)", "acc_plus"), ("Claude-3.5-Sonnet", "acc_plus")},
    9: {("MM-RLHF-Reward 7B", "overall")},
    10: {("BaseReward (Qwen2-VL)", "overall"), ("BaseReward (Ensemble)", "overall")},
}


@pytest.fixture
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the project's experiments, so that a test can add to them."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(tmp_path / "experiments"))
    return tmp_path / "experiments"


def paper_rows(document: str) -> dict[str, dict[str, dict[str, str]]]:
    """Return the HTML cells by printed row, by `paper` and `ours`, and by column."""
    section = re.search(r'<section id="paper">.*?</section>', document, flags=re.DOTALL)
    assert section
    cells: dict[str, dict[str, dict[str, str]]] = {}
    for body in re.findall(r"<tbody>(.*?)</tbody>", section[0], flags=re.DOTALL):
        title = html.unescape(re.sub(r"<sup.*?</sup>|<[^>]*>", "", re.findall(r"<th[^>]*>.*?</th>", body)[0]))
        lines = re.findall(r'<tr class="(paper|ours)">(.*?)</tr>', body, flags=re.DOTALL)
        cells[title] = {
            kind: {name: cell for cell, name in re.findall(r'(<td[^>]*data-column="(\w+)".*?</td>)', line)}
            for kind, line in lines
        }
    return cells


def reproduces(our_cell: str, printed: float, *, digits: int) -> bool:
    """Return whether our cell shows the printed number, rounded or truncated."""
    text = re.search(r">([\d.]+)<", our_cell)
    value = re.search(r'data-value="([\d.]+)"', our_cell)
    assert text
    assert value
    assert text[1] == f"{100 * float(value[1]):.{digits}f}"
    truncated = int(100 * float(value[1]) * 10**digits + 1e-4) / 10**digits
    return printed in (float(text[1]), truncated)


@pytest.mark.parametrize("number", ROWS)
def test_tables_are_reproduced_and_misprints_marked(number: int, experiments: Path, tmp_path: Path) -> None:
    """Every measured number equals the printed one to its last digit, except the known misprints, and exactly these
    cells have the misprint mark."""
    file = experiments / "published" / f"basereward_table_{number}.yaml"
    table = yaml.safe_load(file.read_text())
    rows = ROWS[number] or list(table["rows"])
    names = {row: f"row_{index}" for index, row in enumerate(rows)}
    grid = {"optimizer.lr": {name: 0.001 * (1 + index) for index, name in enumerate(names.values())}}
    written_recipe(experiments, "paper_rows", {"include": "basereward", "grid": grid})
    joined_table = table | {"experiment": "paper_rows", "cells": {row: f"lr={name}" for row, name in names.items()}}
    file.write_text(yaml.safe_dump(joined_table, sort_keys=False))
    cells = {cell.name: cell for cell in load_experiment("paper_rows").cells}
    for row, name in names.items():
        run = finished_run(cells[f"lr={name}"])
        for benchmark, judged in evaluations(table, row).items():
            write_measures(run, benchmark, PROTOCOLS[benchmark].variants, judged)
    out = tmp_path / "page.html"
    make_page("paper_rows", profile="tiny", overrides=(), out=out)

    cells_by_row = paper_rows(out.read_text(encoding="utf-8"))
    differing, marked = set(), set()
    for row in rows:
        digits = digits_of(table["rows"][row])
        for column, printed in zip(table["columns"], table["rows"][row], strict=True):
            printed_cell, measured_cell = cells_by_row[row]["paper"][column], cells_by_row[row]["ours"][column]
            assert f">{printed:.{digits}f}<" in printed_cell
            if not reproduces(measured_cell, printed, digits=digits):
                differing.add((row, column))
            if 'class="mark misprint"' in printed_cell:
                marked.add((row, column))
    assert differing == marked == MISPRINTS[number]
