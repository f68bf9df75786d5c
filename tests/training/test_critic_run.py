"""A run whose head writes: trained, saved, opened, and used like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from basereward.data.batching.collate import collate
from basereward.inference.score_file import load
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
    """The experiments of the project, wherever the tests are run from."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(Path(__file__).parents[2] / "experiments"))


def written(scorer: Scorer) -> list[list[int]]:
    """What it writes of three responses about a picture."""
    model, encoder = scorer.model, scorer.encoder
    assert model.language is not None
    batch = collate([scorer.encode(group(images=1))], layout="tree", pad_id=encoder.pad_id)
    writer = TextGenerator(model.backbone, model.language, end=encoder.end_of_turn, pad=encoder.pad_id)
    return [some[0].tolist() for some in writer(batch, SamplingParams(max_tokens=8))]


def test_critics_on_one_frozen_backbone_are_an_ensemble() -> None:
    """Each writes what its own request asks for, so that they share no pass: the mean of their scores."""
    small = [override for override in SMALL if not override.startswith("data.sources.digits")]
    changes = [*small, "data.sources.digits=null", "model.backbone.freeze=[vision,merger,language]", "trainer.steps=2"]
    runs = []
    for prompt in ("critique_brief", "critique"):
        head = CRITIC.replace("critique_brief", prompt)
        done: Any = train(load_recipe("basereward", overrides=[*changes, head, "trainer.validations=1"]))
        runs.append(done["run_id"])
    question = ("Which is larger, 4 or 7?", ["7", "4"])
    member_scores = [load(run).score(*question) for run in runs]
    together = load(ensemble(runs)["model"]).score(*question)
    assert together == pytest.approx([sum(scores) / 2 for scores in zip(*member_scores, strict=True)])


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_it_writes_and_scores_the_same_when_it_is_opened_again(lora: bool, tmp_path: Path) -> None:
    """Law 4, with the language head; all metrics of a run are there."""
    small = [override for override in SMALL if not override.startswith("data.sources.numbers")]
    changes = [*small, "data.sources.numbers=null", CRITIC, "trainer.validations=1"]
    changes += ["model.lora.rank=4"] if lora else []
    done: Any = train(load_recipe("basereward", overrides=changes))
    assert 0 <= done["metrics"]["test/digits/pair_accuracy"] <= 1
    folder = find(done["run_id"]).model
    scorer = load_scorer(folder)
    scorer.save(tmp_path / "again")
    again = load_scorer(tmp_path / "again")
    assert written(again) == written(scorer)
    question = ("Which digit?", ["It is a seven.", "4"])
    assert again.score(*question) == scorer.score(*question)
    assert (folder / LANGUAGE).is_file() is not lora
    if not lora:
        assert scorer.model.language is not None
        (weight,) = load_file(folder / LANGUAGE).values()
        assert torch.equal(weight, scorer.model.language.of(scorer.model.backbone.transformer))
