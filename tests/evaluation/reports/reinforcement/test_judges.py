"""Test the section about judges: the share of collapsed runs, and which runs count."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scipy.stats import binomtest

from basereward.errors import NotFiniteError
from basereward.evaluation.reports.experiment.gather import Contender, gather
from basereward.evaluation.reports.experiment.reinforcement.judges import Collapses, collapses, judges
from basereward.recipe import load_experiment, recipe_sha256, recipe_yaml
from basereward.runs.run_folder import RunFolder
from tests.helpers.experiment_runs import finished_run


def judge(*accuracies: float, consistency: tuple[float, float] = (0.6, 0.8)) -> Any:
    """A run of a judge with these validations."""
    curve = [(10 * place, value) for place, value in enumerate(accuracies)]
    return SimpleNamespace(curves={"val/accuracy": curve, "val/order_consistency": list(enumerate(consistency))})


def test_runs_below_chance_and_stopped_ones_have_collapsed() -> None:
    """Of six runs one ends at 40 %, one at exactly 50 %, and three stop, one of them for a full disk: no collapse."""
    runs = [judge(0.7, 0.8), judge(0.7, 0.4), judge(0.7, 0.3, 0.5)]
    unstable = Contender(
        "unstable", results=[], trained=runs, failed=["NotFiniteError", "NothingToLearnError", "OSError"]
    )
    assert collapses(unstable) == Collapses(3, runs=5)
    interval = binomtest(3, 5).proportion_ci(method="wilson")
    section = judges([unstable])
    assert section is not None
    text = re.sub(r"<[^>]*>", " ", section.html())
    assert f"3 of 5 ({100 * interval.low:.0f} to {100 * interval.high:.0f} %)" in text
    # Means of the three finished runs: the first validation, the best and the last one; then consistency.
    values = [float(value) for value in re.findall(r"\d+\.\d(?= )", text)]
    assert values[:5] == pytest.approx([70.0, 73.3, 56.7, 60.0, 80.0])
    assert [drawing.name for drawing in section.drawings] == ["verdicts", "order_consistency"]


def test_what_was_recorded_at_last_is_shown() -> None:
    """Texts without a verdict at the last validation, the length in the last tenth of the steps over that in the first,
    and the KL in the last tenth; of two runs the mean."""
    runs = [judge(0.6, 0.7), judge(0.6, 0.8)]
    for run, unread, length, kl in zip(runs, (0.25, 0.125), (30.0, 40.0), (0.5, 0.75), strict=True):
        run.curves |= {"val/no_verdict": [(0, 0.5), (10, unread)]}
        run.curves |= {"train/completions/mean_length": [(step, 20.0 if step < 10 else length) for step in range(20)]}
        run.curves |= {"train/kl/reference": [(step, 0.0 if step < 18 else kl) for step in range(20)]}
    section = judges([Contender("stable", results=[], trained=runs)])
    assert section is not None
    row = re.findall(r"<tbody>(.*?)</tbody>", section.html(), flags=re.DOTALL)[0]
    cells = [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td.*?</td>", row, flags=re.DOTALL)]
    # The means of 25 % and 12.5 %, of 1.5 and 2, and of 0.5 and 0.75.
    assert cells[5:8] == ["18.8", "1.75", "0.6250"]
    header = [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<th.*?</th>", section.html(), flags=re.DOTALL)]
    assert [header[place] for place in (6, 7, 8)] == ["no verdict, last, %", "length, ratio to the first", "KL"]


def test_runs_without_verdicts_have_no_section() -> None:
    """As those of policies."""
    assert judges([Contender("rule", results=[], trained=[SimpleNamespace(curves={})])]) is None


def test_failed_runs_are_counted_by_the_class_of_their_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that stopped at a loss that is not finite has collapsed, but not one that was trained again."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(Path(__file__).parents[4] / "experiments"))
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment("r1_unstable", profile="tiny", overrides=["model.start=judge", "seeds=[0,1]"])
    finished, stopped, *_ = experiment.cells
    for cell in (finished, stopped):
        run = RunFolder.create(
            recipe_yaml(cell.recipe), recipe_sha256=recipe_sha256(cell.recipe), name=cell.recipe.name
        )
        run.give_up("failed", NotFiniteError("the loss is nan"))
    again = finished_run(finished)
    again.journal.append([{"kind": "metrics", "step": 64, "time": 0, "values": {"val/accuracy": 0.75}}])
    unstable = next(contender for contender in gather(experiment) if contender.trained)
    assert unstable.failed == ["NotFiniteError"]
    assert collapses(unstable) == Collapses(1, runs=2)
