"""Test the stage that scores rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from basereward.data.sources.jsonl import read_rows
from basereward.errors import DataError
from basereward.inference.load_model import load
from basereward.pipelines.stages.score import Score
from tests.helpers.served_model import save_scored_model
from tests.helpers.support import picture, write_rows


def test_scored_rows_have_the_preferences_of_before(tmp_path: Path) -> None:
    """The margin of the scores is no margin of the annotators, which rows with `preferences` may not have at all."""
    rows = [
        {"id": "0", "prompt": "2 + 2?", "responses": ["4", "5"], "preferences": [[0, 1]]},
        {"id": "1", "prompt": "2 + 3?", "chosen": "5", "rejected": "4"},
    ]
    source = write_rows(tmp_path / "rows.jsonl", rows)
    scored = Score(rows=str(source), model="unused").preview(tmp_path)["rows"]
    assert [group.preferences for group in read_rows(scored)] == [group.preferences for group in read_rows(source)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a saved model with random weights, which reads pictures."""
    return str(save_scored_model(tmp_path_factory.mktemp("models"), head="linear"))


def scored_by(stage: Score, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, float]]:
    """Return the rows, the facts and the metrics of a stage."""
    folder.mkdir(exist_ok=True)
    result = stage.run(folder)
    lines = Path(result.outputs["rows"]).read_text().splitlines()
    return [json.loads(line) for line in lines], dict(result.facts), dict(result.metrics)


def test_margin_is_the_least_of_the_preferences(model: str, tmp_path: Path) -> None:
    """Two files, of which one is in another folder and has a picture there. The scores are those of `Scorer.score`. A
    margin is the score of the winner minus that of the loser, whichever is stored first; of a ranking it is the least
    one. Tied responses have none, and the row of a tie is left out and counted."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    picture(3).save(pictures / "3.png")
    files = [
        write_rows(
            pictures / "rows.jsonl",
            [{"id": "pair", "prompt": "Which digit?", "images": ["3.png"], "chosen": "3", "rejected": "It is an 8."}],
        ),
        write_rows(
            tmp_path / "rows.jsonl",
            [
                {"id": "second", "prompt": "2 + 2?", "responses": ["five", "4"], "preferences": [[1, 0]]},
                {"id": "tie", "prompt": "2 + 2?", "responses": ["4", "four"], "ranking": [0, 0]},
                {"id": "best", "prompt": "2 + 3?", "responses": ["4", "5", "six", "6"], "ranking": [1, 0, 1, 1]},
            ],
        ),
    ]
    rows, facts, metrics = scored_by(Score(rows=[str(file) for file in files], model=model), tmp_path / "stage")
    assert [row["id"] for row in rows] == ["pair", "second", "best"]
    scorer = load(model)
    pair = scorer.score("Which digit?", ["3", "It is an 8."], images=[pictures / "3.png"])
    assert pair != pytest.approx(scorer.score("Which digit?", ["3", "It is an 8."]), abs=1e-3)
    second = scorer.score("2 + 2?", ["five", "4"])
    best = scorer.score("2 + 3?", ["4", "5", "six", "6"])
    assert rows[0]["scores"] == pytest.approx(pair, abs=1e-5)
    assert rows[0]["score_margin"] == pytest.approx(pair[0] - pair[1], abs=2e-5)
    assert rows[1]["score_margin"] == pytest.approx(second[1] - second[0], abs=2e-5)
    assert rows[2]["score_margin"] == pytest.approx(best[1] - max(best[0], best[2], best[3]), abs=2e-5)
    right = sum(row["score_margin"] > 0 for row in rows)
    assert facts == {"rows": 3, "without_preference": 1, "right": right}
    assert metrics == {"score/rows": 3.0, "score/without_preference": 1.0, "score/right": float(right)}


def test_scores_are_computed_once(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a stop behind the scoring the stage ends with the scores that are there, and the same rows."""
    rows = [{"id": "1", "prompt": "2 + 3?", "chosen": "5", "rejected": "4"}]
    stage = Score(rows=str(write_rows(tmp_path / "rows.jsonl", rows)), model=model)
    first = scored_by(stage, tmp_path / "stage")
    (tmp_path / "stage" / "rows.jsonl").unlink()

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr("basereward.pipelines.stages.score.score", again)
    assert scored_by(stage, tmp_path / "stage") == first


def test_rows_without_a_preference_are_refused(model: str, tmp_path: Path) -> None:
    """A margin of every row would be missing, so that nothing could be selected."""
    rows = [{"id": "tie", "prompt": "2 + 2?", "responses": ["4", "four"], "ranking": [0, 0]}]
    stage = Score(rows=str(write_rows(tmp_path / "rows.jsonl", rows)), model=model)
    with pytest.raises(DataError, match=r"1 rows? .*rows\.jsonl have no preferences"):
        scored_by(stage, tmp_path / "stage")


def test_another_model_or_other_rows_make_another_stage(model: str, tmp_path: Path) -> None:
    """Otherwise a continued pipeline would hand on scores of a model that was replaced."""
    other = str(save_scored_model(tmp_path, head="mlp", layers=2))
    file = write_rows(tmp_path / "rows.jsonl", [{"id": "1", "prompt": "2 + 3?", "chosen": "5", "rejected": "4"}])
    definitions = [Score(rows=str(file), model=name).definitions() for name in (model, model, other)]
    assert definitions[0] == definitions[1] != definitions[2]
    assert None not in definitions[0].values()
    assert Score(rows=[str(file), "more.jsonl"], model=model).inputs() == [file, Path("more.jsonl")]
