"""The identity of judges on this machine: answers of other weights, templates or settings are not used again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from basereward.errors import DataError
from basereward.evaluation.annotation.annotate import annotate
from basereward.evaluation.judging.run_judge import open_judge
from basereward.inference.judges.open_engine import judge_content
from tests.helpers.checkpoint_fixtures import change_a_weight
from tests.helpers.served_model import save_scored_model
from tests.helpers.support import checkpoint, write_rows


def test_content_of_a_checkpoint_is_that_of_its_files(tmp_path: Path) -> None:
    """Other weights and another chat template are another judge; the text of a README is not."""
    model = checkpoint("qwen3", tmp_path / "model")
    before = judge_content(str(model), endpoint="local")
    (model / "README.md").write_text("A judge.")
    assert judge_content(str(model), endpoint="local") == before == judge_content(str(model), endpoint="vllm")
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").write_text(template + " ")
    other = judge_content(str(model), endpoint="local")
    change_a_weight(model / "model.safetensors")
    assert len({before, other, judge_content(str(model), endpoint="local")}) == 3


def test_content_of_a_saved_model_has_its_backbone(tmp_path: Path) -> None:
    """The backbone of a trained judge lies outside of its folder, and counts."""
    model = save_scored_model(tmp_path, head="linear", frozen=True)
    before = judge_content(str(model), endpoint="local")
    change_a_weight(tmp_path / "backbone" / "model.safetensors")
    assert judge_content(str(model), endpoint="local") != before


def test_facts_have_all_that_an_answer_depends_on(tmp_path: Path) -> None:
    """Another content, seed, top_p, temperature or limit gives other facts, by which answers are found again."""
    model = checkpoint("qwen3", tmp_path / "model")
    judge = open_judge(str(model), endpoint="local")
    changes = ({"seed": 1}, {"top_p": 0.5}, {"temperature": 1.0}, {"max_tokens": 7})
    facts = [json.dumps(judge.facts)]
    for change in changes:
        facts.append(json.dumps(replace(judge, writing=replace(judge.writing, **change)).facts))
    change_a_weight(model / "model.safetensors")
    facts.append(json.dumps(open_judge(str(model), endpoint="local").facts))
    assert len(set(facts)) == 6


def test_annotations_of_a_judge_that_was_trained_again_are_refused(tmp_path: Path) -> None:
    """The answers stay those of the folder as it was: the same command with other weights in it is an error."""
    model = checkpoint("qwen3", tmp_path / "model")
    rows = [{"id": f"{i}", "prompt": f"{i}?", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(2)]
    source = write_rows(tmp_path / "pairs.jsonl", rows)
    out = str(tmp_path / "out.jsonl")

    def annotated() -> None:
        annotate(str(source), model=str(model), endpoint="local", out=out, attempts=1, max_tokens=2)

    annotated()
    annotated()
    change_a_weight(model / "model.safetensors")
    with pytest.raises(DataError):
        annotated()
