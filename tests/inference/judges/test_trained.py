"""Test a trained judge as an engine: the texts of its scores, and votes of `basereward eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from basereward.cli import main
from basereward.data.batching.collate import collate
from basereward.errors import ModelError
from basereward.evaluation.judging.judge import compared
from basereward.evaluation.judging.run_judge import open_trained_judge
from basereward.inference.judges.open_engine import open_engine
from basereward.inference.scorer import load_scorer
from basereward.model.generation.generate import SamplingParams
from basereward.model.generation.prompts import PAIRWISE, load_prompt
from basereward.recipe import load_recipe
from basereward.runs.run_folder import find
from basereward.training.fit import train
from tests.helpers.support import SMALL, group

HEAD = "model.head={_target_: generative, thinking: true, max_tokens: 6, pairs: 1, prompt: pairwise_brief}"


@pytest.fixture
def judge(ready_store: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """The run of a tiny thinking judge."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(Path(__file__).parents[3] / "experiments"))
    changes = [*SMALL, HEAD, "trainer.validations=1", "data.sources.numbers.test_size=4"]
    run_id: str = train(load_recipe("basereward", overrides=changes))["run_id"]
    return run_id


def test_votes_of_a_trained_judge(judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The engine writes, for each order and a picture, the tokens that the judge writes when it scores. `eval` with
    votes has its own folder in the run, next to that of scores; another prompt and another head are refused."""
    folder = find(judge).model
    scorer = load_scorer(folder)
    asked = group(responses=("It is a seven.", "4"), images=1)
    model: Any = scorer.model
    batch = collate([scorer.encode(asked)], layout="tree", pad_id=scorer.encoder.pad_id)
    with torch.no_grad():
        texts = [model.generator.text(tokens[0]) for tokens in model.generator.generate(batch, model.head.sampling)]
    shown = batch.targets.compared.tolist()
    prompt = load_prompt("pairwise_brief", fields=PAIRWISE)
    engine = open_engine(judge, endpoint="local")
    requests = [compared(prompt, asked, i, j, f"{i}{j}") for i, j in shown]
    answers: Any = list(engine.generate(requests, SamplingParams(max_tokens=6)))
    assert [answer.text for answer in answers] == texts
    sampled = SamplingParams(max_tokens=6, temperature=1.0)
    together: Any = list(engine.generate(requests, sampled))
    votes = {answer.id: answer.text for answer in together}
    alone: Any = [next(iter(engine.generate([request], sampled))) for request in requests]
    assert {answer.id: answer.text for answer in alone} == votes
    other = load_prompt("pairwise_thinking", fields=PAIRWISE)
    with pytest.raises(ModelError):
        list(engine.generate([compared(other, asked, 0, 1, "a")], SamplingParams(max_tokens=6)))
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"id": f"p{i}", "prompt": f"{i} + {i}?", "chosen": f"{2 * i}", "rejected": f"{i}"} for i in range(1, 7)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["eval", judge, "--data", str(pairs), "--json"]
    assert main([*command, "--votes", "3", "--temperature", "1"]) == 0
    result = json.loads(capsys.readouterr().out)
    over_votes = result["pairs-pairs"]["over_votes"]
    assert set(over_votes) == {"overall", "votes_1", "votes_3"}
    assert over_votes["votes_3"]["denominator"] == 6
    assert Path(result["evaluations"][0]["out"]).parent.name == "random_3"
    assert result["evaluations"][0]["cost"]["requests"] == 18
    assert main([*command, "--order", "both"]) == 0
    assert "orders" in json.loads(capsys.readouterr().out)["pairs-pairs"]
    assert main([*command, "--votes", "3"]) == 2


def test_judge_without_reasoning_is_refused(tmp_path: Path, ready_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scalar head writes no text."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(Path(__file__).parents[3] / "experiments"))
    run_id = train(load_recipe("basereward", overrides=[*SMALL, "trainer.steps=1", "trainer.validations=1"]))["run_id"]
    with pytest.raises(ModelError, match="thinking"):
        open_trained_judge(run_id, votes=1)
