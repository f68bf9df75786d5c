"""A small pipeline: a served judge annotates, a tiny judge learns from its texts, and is measured."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from tests.helpers.chat_servers import words

ROOT = Path(__file__).parents[2]
PROFILE = str(ROOT / "tests" / "small.yaml")
STAGES = """
# A judge of tests.
include: basereward
model:
  head: {_target_: generative, thinking: true, max_tokens: 6, prompt: pairwise_brief}
data: {sources: {numbers: null}}
trainer: {steps: 2, validations: 1}
stages:
  annotate:
    _target_: annotate
    source: {_target_: jsonl, path: pairs.jsonl, val: 0.0, test: 0.0}
    model: judge
    endpoint: URL
    prompt: pairwise_brief
    concurrency: 2
  cold_start:
    _target_: train
    recipe:
      data: {sources: {annotated: {_target_: jsonl, path: "${annotate.rows}", val: 0.25, test: 0.25}}}
  hard: {_target_: select, rows: ["${annotate.rows}", "${annotate.unsolved}"], at_least: 2}
  again:
    _target_: train
    recipe:
      data: {sources: {hard: {_target_: jsonl, path: "${hard.rows}", val: 0.25, test: 0.25}}}
      model: {head: {_target_: generative, thinking: false, prompt: pairwise_brief}}
  evaluate: {_target_: evaluate, model: "${cold_start.run}", data: pairs.jsonl, votes: 3}
"""


def write_pipeline(folder: Path, url: str, *, pairs: int = 16) -> Path:
    """Write the experiment and the pairs that it reads; the chosen answer is the even number."""
    rows = [{"id": f"r{i}", "prompt": f"Row {i}: an even one.", "chosen": "4", "rejected": "7"} for i in range(pairs)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = folder / "pipeline.yaml"
    file.write_text(STAGES.strip().replace("URL", url))
    return file


class Judge:
    """Agrees with the label of even rows at once, of odd rows at the second attempt, and of every fourth row never."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[int, int]] = Counter()
        """How often each row was asked about at each attempt."""
        self._seeds: dict[int, list[int]] = {}

    def __call__(self, body: dict[str, Any], number: int) -> str:
        text = words(body)
        row = int(re.findall(r"Row (\d+)", text)[0])
        first = re.findall(r"1: (\d)", text)[0]
        right = 1 if first == "4" else 2
        # A request that is repeated after a kill has the seed that it had before; each attempt has another one.
        seeds = self._seeds.setdefault(row, [])
        if body["seed"] not in seeds:
            seeds.append(body["seed"])
        attempt = seeds.index(body["seed"]) + 1
        self.asked[row, attempt] += 1
        agrees = row % 4 != 3 and attempt > row % 2
        verdict = right if agrees else 3 - right
        return f"<think>It is {verdict}.</think><answer>{verdict}</answer>"
