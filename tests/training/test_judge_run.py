"""Test runs whose heads compare, rate or write: training, tracking, saving, loading and evaluation."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

from basereward.data.batching.collate import collate
from basereward.errors import DataError, ModelError
from basereward.evaluation.run_benchmark import evaluate
from basereward.inference.scorer import Scorer, load_scorer
from basereward.model.saving.saved_model import PROMPT
from basereward.recipe import load_recipe
from basereward.runs.run_folder import find
from basereward.training.fit import train
from tests.helpers.benchmark_rows import ANY_SIZE, small_benchmark
from tests.helpers.support import SMALL, group

HEADS = {
    "verdict": "{_target_: generative, pairs: 1, prompt_file: PROMPT}",
    "thinking": "{_target_: generative, thinking: true, max_tokens: 6, pairs: 1, prompt_file: PROMPT}",
    "rating": "{_target_: rating, prompt_file: PROMPT}",
    "critic": "{_target_: critic, max_tokens: 6, prompt_file: PROMPT}",
}
WORDS = {"rating": "{question} Rate: {answer}", "critic": "What of it?"}


@pytest.fixture(autouse=True)
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the project's experiments from any working folder."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(Path(__file__).parents[2] / "experiments"))


def written(scorer: Scorer) -> list[list[int]]:
    """Return the tokens that the model writes at temperature 0 about two responses with a picture."""
    model: Any = scorer.model
    encoded = scorer.encode(group(responses=("It is a seven.", "4"), images=1))
    batch = collate([encoded], layout="tree", pad_id=scorer.encoder.pad_id)
    with torch.no_grad():
        return [generated[0].tolist() for generated in model.generator.generate(batch, model.head.sampling)]


@pytest.mark.usefixtures("ready_store")
@pytest.mark.parametrize("head", HEADS)
def test_judge_trains_saves_and_evaluates(head: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The head trains on all embedded data with its target texts. The run has the usual metrics, the cost of the
    verdicts, and the prompt's hash. The model folder has the prompt, and without the original prompt file the loaded
    model writes and scores the same (law 4)."""
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(WORDS.get(head, "{question} 1: {answer_1} 2: {answer_2}"))
    changes = [*SMALL, f"model.head={HEADS[head]}".replace("PROMPT", str(prompt)), "trainer.validations=1"]
    result: Any = train(load_recipe("basereward", overrides=changes))
    metrics = result["metrics"]
    assert 0 <= metrics["test/digits/pair_accuracy"] <= 1
    assert metrics["test/tokens_per_pair"] > 20
    assert ("test/unread_verdicts" in metrics) is (head == "thinking")
    (run,) = mlflow.MlflowClient().search_runs(
        [experiment.experiment_id for experiment in mlflow.MlflowClient().search_experiments()],
        f"tags.`prompt.sha256` = '{hashlib.sha256(prompt.read_bytes()).hexdigest()}'",
    )
    assert "train/language" not in run.data.metrics or run.data.metrics["train/language"] > 0
    folder = find(result["run_id"]).model
    assert (folder / PROMPT).read_text() == prompt.read_text()
    prompt.unlink()
    scorer = load_scorer(folder)
    scorer.save(tmp_path / "again")
    reloaded = load_scorer(tmp_path / "again")
    question = ("Which digit?", ["It is a seven.", "4"])
    assert reloaded.score(*question) == scorer.score(*question)
    small_benchmark(tmp_path / "data", rows=6)
    evaluation = evaluate(
        result["run_id"], ["vl_rewardbench"], overrides=[f"data={tmp_path}/data/rows.json", *ANY_SIZE]
    )
    assert evaluation["evaluations"][0]["scored"] == 6
    if head == "thinking":
        assert written(reloaded) == written(scorer)
        assert "2 of 2 verdicts" in caplog.text
    if head == "verdict":
        with pytest.raises(DataError, match="single_response"):
            scorer.score("Which digit?", ["4"])


@pytest.mark.parametrize(
    ("head", "reason"), [("thinking", "no_reasoning"), ("rating", "no_rating"), ("critic", "no_critique")]
)
def test_data_without_the_targets_of_the_head_are_refused(head: str, reason: str, tmp_path: Path) -> None:
    """The error comes before training and names the reason and the sources that have the targets."""
    rows = tmp_path / "pairs.jsonl"
    rows.write_text("".join(f'{{"prompt": "Say {i}", "chosen": "{i}", "rejected": "no"}}\n' for i in range(40)))
    node = HEADS[head].replace(", prompt_file: PROMPT", "")
    changes = [*SMALL, f"model.head={node}", f"data.sources={{pairs: {{_target_: jsonl, path: {rows}}}}}"]
    with pytest.raises(DataError, match=reason) as caught:
        train(load_recipe("basereward", overrides=changes))
    assert "digits" in str(caught.value)


def test_judge_with_a_frozen_backbone_is_refused() -> None:
    """The head has no weights of its own, and the error says what to unfreeze."""
    frozen = "model.backbone.freeze=[vision,merger,language]"
    with pytest.raises(ModelError, match="nothing is trained"):
        train(load_recipe("basereward", overrides=[*SMALL, "model.head={_target_: generative}", frozen]))
