"""Test runs whose head writes critiques: training, saving, loading and ensembles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from basereward.data.batching.collate import collate
from basereward.inference.load_model import load
from basereward.inference.scorer import Scorer, load_scorer
from basereward.model.generation.generate import SamplingParams, TextGenerator
from basereward.model.saving.saved_model import LANGUAGE
from basereward.recipe import load_recipe
from basereward.runs.run_folder import find
from basereward.training.ensembles.make import ensemble
from basereward.training.fit import train
from tests.helpers.support import SMALL, group

CRITIC = "model.head={_target_: critic, max_tokens: 8, prompt: critique_brief}"


@pytest.fixture(autouse=True)
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the project's experiments from any working folder."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(Path(__file__).parents[2] / "experiments"))


def written(scorer: Scorer) -> list[list[int]]:
    """Return the tokens that the model writes about three responses with a picture."""
    model, encoder = scorer.model, scorer.encoder
    assert model.language is not None
    batch = collate([scorer.encode(group(images=1))], layout="tree", pad_id=encoder.pad_id)
    generator = TextGenerator(model.backbone, model.language, end=encoder.end_of_turn, pad=encoder.pad_id)
    return [generated[0].tolist() for generated in generator(batch, SamplingParams(max_tokens=8))]


@pytest.mark.usefixtures("ready_store")
def test_ensemble_of_critics_on_one_frozen_backbone() -> None:
    """Each critic writes for its own prompt, so they share no forward pass, and the ensemble has the mean of their
    scores."""
    small = [override for override in SMALL if not override.startswith("data.sources.digits")]
    changes = [*small, "data.sources.digits=null", "model.backbone.freeze=[vision,merger,language]", "trainer.steps=2"]
    runs = []
    for prompt in ("critique_brief", "critique"):
        head = CRITIC.replace("critique_brief", prompt)
        result: Any = train(load_recipe("basereward", overrides=[*changes, head, "trainer.validations=1"]))
        runs.append(result["run_id"])
    question = ("Which is larger, 4 or 7?", ["7", "4"])
    member_scores = [load(run).score(*question) for run in runs]
    ensemble_scores = load(ensemble(runs)["model"]).score(*question)
    assert ensemble_scores == pytest.approx([sum(scores) / 2 for scores in zip(*member_scores, strict=True)])


@pytest.mark.usefixtures("ready_store")
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_saved_critic_writes_and_scores_the_same(lora: bool, tmp_path: Path) -> None:
    """Law 4 holds with the language head, and the run has all metrics."""
    small = [override for override in SMALL if not override.startswith("data.sources.numbers")]
    changes = [*small, "data.sources.numbers=null", CRITIC, "trainer.validations=1"]
    changes += ["model.lora.rank=4"] if lora else []
    result: Any = train(load_recipe("basereward", overrides=changes))
    assert 0 <= result["metrics"]["test/digits/pair_accuracy"] <= 1
    folder = find(result["run_id"]).model
    scorer = load_scorer(folder)
    scorer.save(tmp_path / "again")
    reloaded = load_scorer(tmp_path / "again")
    assert written(reloaded) == written(scorer)
    question = ("Which digit?", ["It is a seven.", "4"])
    assert reloaded.score(*question) == scorer.score(*question)
    assert (folder / LANGUAGE).is_file() is not lora
    if not lora:
        assert scorer.model.language is not None
        (weight,) = load_file(folder / LANGUAGE).values()
        assert torch.equal(weight, scorer.model.language.of(scorer.model.backbone.transformer))
