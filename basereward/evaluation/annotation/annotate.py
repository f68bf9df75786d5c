"""Reasoning for pairs that have none: a judge writes until its verdict agrees with the label (`basereward annotate`).

As R1-Reward makes its first training data (arXiv 2505.02835, section 3): the number of attempts that a pair took is
kept as its difficulty.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from basereward.data.schema.group import Group, Split
from basereward.data.sources import Source
from basereward.errors import DataError, ModelError
from basereward.evaluation.annotation.inputs import check_source_outputs
from basereward.evaluation.annotation.rows import Pair, digest, pair_row, reasoning
from basereward.evaluation.judging.answers import Answers
from basereward.evaluation.judging.judge import compared
from basereward.inference.judges.engine import Engine
from basereward.inference.judges.open_engine import open_engine
from basereward.io.files import write_atomic
from basereward.io.secrets import redact
from basereward.model.generation.generate import Writing
from basereward.model.generation.prompts import PAIRWISE, Prompt, load_prompt
from basereward.model.generation.verdicts import compiled_pattern, parse_verdict
from basereward.recipe import make
from basereward.recipe.fragment import load_source


def annotate(
    source: str,
    *,
    model: str,
    endpoint: str,
    out: str,
    split: Split = "train",
    attempts: int = 3,
    limit: int | None = None,
    seed: int = 0,
    concurrency: int = 8,
    timeout_s: float = 120.0,
    send: str | None = None,
    temperature: float = 1.0,
    max_tokens: int = 2048,
    prompt: str = "pairwise_thinking",
    prompt_file: str | None = None,
    pattern: str | None = None,
    overrides: Iterable[str] = (),
) -> dict[str, Any]:
    """Has a judge write reasoning for the preferences of a source.

    Args:
        source: a name in `experiments/sources`, or a path to a JSON Lines file.
        model: as the endpoint calls it; of a local one the hub id or folder.
        endpoint: an address, or `local` or `vllm`.
        send: a JSON object with more of every request's body.
        out: JSON Lines of the pairs whose verdict agreed at last, ready to be trained on; beside it lie
            `.disagreed.jsonl` with the others, `.answers.jsonl` with everything that was written, and `_images`.
        attempts: at most so many texts a pair.
        limit: at most so many pairs, drawn by `seed`.
        seed: of the draw and of the orders, in which every other pair has its winner first.
        temperature: of the writing; another attempt at 0 would be the same.
        prompt, prompt_file, pattern: as of the head `generative`.

    Returns:
        `split`; `lost`, rows and preferences that are no pair, by reason; `pairs`, `agreed`, `disagreed`; `unread`,
        texts without a verdict; `bare`, texts with the right one and no reasoning, which do not count as agreed;
        `by_attempts`, `prompt_sha256`, `answers`, `fresh`, `failed`, `prompt_tokens`, `tokens`, `seconds`, `out`.

    Raises:
        BaseRewardError: something cannot be opened, or requests were not answered; what was answered is kept, and
            another call goes on.
    """
    if attempts < 1 or (limit is not None and limit < 1):
        raise DataError(f"--attempts {attempts} and --limit {limit} are at least 1")
    if attempts > 1 and not temperature:
        raise DataError("a second attempt at --temperature 0 would be the same text; raise it, or give --attempts 1")
    try:
        asked = load_prompt(prompt, prompt_file, fields=PAIRWISE)
        form = None if pattern is None else compiled_pattern(pattern)
    except ValueError as error:
        raise ModelError(str(error)) from error
    name, node = load_source(source, overrides=overrides)
    made: Source = make(node, "sources", name)
    pairs, ties = _pairs(made.groups(split), seed=seed, limit=limit)
    if not pairs:
        raise DataError(f"source '{name}' has no preferences in the part {split}; there is nothing to write about")
    target = Path(out)
    if not target.parent.is_dir():
        raise DataError(f"nothing can be written to '{target}': there is no folder '{target.parent}'. Make it first.")
    if target.is_dir():
        raise DataError(f"nothing can be written to '{target}': it is a folder. Give the name of a file.")
    outputs = {"--out": target, "the pairs that disagreed": _disagreed(target), "the answers": _answers(target)}
    also = [Path(prompt_file)] if prompt_file is not None else []
    check_source_outputs(outputs, source, node, (pair.group for pair in pairs), also=also)
    engine = open_engine(model, endpoint=endpoint, concurrency=concurrency, timeout_s=timeout_s, send=send)
    of = {
        "judge": engine.name, "prompt_sha256": asked.sha256, "seed": seed, "temperature": temperature,
        "max_tokens": max_tokens, "pairs": digest(pairs), "send": None if send is None else redact(send),
    }  # fmt: skip
    how = Writing(max_tokens=max_tokens, temperature=temperature, seed=seed)
    with Answers(_answers(target), of=of) as answers:  # the lock of all that is written
        texts = _write_all(pairs, answers, engine=engine, prompt=asked, how=how, attempts=attempts, form=form)
        result = _settle(pairs, texts, target, prompt=asked, form=form, attempts=attempts)
    if answers.failed:
        reasons = "; ".join(sorted({each.reason for each in answers.failed})[:3])
        raise DataError(
            f"{len(answers.failed)} requests were not answered: {reasons}. {result['agreed']} pairs that agreed are in "
            f"'{target}', and all that was written is kept: the same call asks only for what is missing"
        )
    lost = Counter(each.reason for each in made.rejected(split)) + Counter(tie=ties)
    ids = [f"{pair.id}#{number}" for pair in pairs for number in range(1, attempts + 1)]
    told = {"split": split, "lost": dict(sorted(lost.items()))}
    return told | result | {"prompt_sha256": asked.sha256, **answers.cost(ids), "out": str(target)}


def _answers(target: Path) -> Path:
    return target.with_suffix(".answers.jsonl")


def _disagreed(target: Path) -> Path:
    return target.with_suffix(".disagreed.jsonl")


def _pairs(groups: Iterable[Group], *, seed: int, limit: int | None) -> tuple[list[Pair], int]:
    """The preferences that are no ties, of which half, or one more, show the winner first; and the number of ties."""
    found, ties = [], 0
    for group in groups:
        ties += sum(p.tie for p in group.preferences)
        found += [
            (f"{group.id}/{p.winner}>{p.loser}", group, p.winner, p.loser) for p in group.preferences if not p.tie
        ]
    names: Counter[str] = Counter()
    unique = []
    for name, group, winner, loser in found:
        names[name] += 1
        unique.append((name if names[name] == 1 else f"{name}~{names[name]}", group, winner, loser))
    rng = random.Random(f"annotate/{seed}")
    rng.shuffle(unique)
    kept = unique[:limit]
    pairs = [
        Pair(name, group, winner, loser, winner_first=place % 2 == 0)
        for place, (name, group, winner, loser) in enumerate(kept)
    ]
    return pairs, ties


def _write_all(
    pairs: Sequence[Pair],
    answers: Answers,
    *,
    engine: Engine,
    prompt: Prompt,
    how: Writing,
    attempts: int,
    form: Any,
) -> dict[str, list[str]]:
    """The texts of every pair up to the first that agrees: a round of requests an attempt, of those that still wait."""
    texts: dict[str, list[str]] = {pair.id: [] for pair in pairs}
    waiting = list(pairs)
    for number in range(1, attempts + 1):
        again = Writing(max_tokens=how.max_tokens, temperature=how.temperature, seed=how.seed + number - 1)
        requests = (_request(pair, prompt, number) for pair in waiting)
        for _ in answers.ask(engine, requests, again):
            pass
        left = []
        for pair in waiting:
            line = answers.known.get(f"{pair.id}#{number}")
            if line is None:
                continue  # failed: asked again by the next call
            texts[pair.id].append(line["text"])
            if not _agrees(line["text"], pair, form):
                left.append(pair)
        waiting = left
    return texts


def _request(pair: Pair, prompt: Prompt, number: int) -> Any:
    first, second = (pair.group.responses[index] for index in pair.shown)
    return compared(prompt, pair.group, first, second, f"{pair.id}#{number}")


def _agrees(text: str, pair: Pair, form: Any) -> bool:
    """Whether the verdict is the label, and something was written on the way to it: a bare one teaches no reasoning."""
    return parse_verdict(text, form) == pair.verdict and reasoning(text) != ""


def _settle(
    pairs: Sequence[Pair], texts: dict[str, list[str]], target: Path, *, prompt: Prompt, form: Any, attempts: int
) -> dict[str, Any]:
    """Writes the rows, and counts."""
    agreed, disagreed, unread, bare = [], [], 0, 0
    by_attempts = dict.fromkeys(map(str, range(1, attempts + 1)), 0)
    folder = target.with_name(f"{target.stem}_images")
    for pair in pairs:
        verdicts = [parse_verdict(text, form) for text in texts[pair.id]]
        unread += verdicts.count(None)
        agrees = [_agrees(text, pair, form) for text in texts[pair.id]]
        bare += verdicts.count(pair.verdict) - sum(agrees)
        if any(agrees):
            row = pair_row(pair, folder) | {"reasoning": reasoning(texts[pair.id][-1]), "attempts": len(verdicts)}
            agreed.append(row | {"prompt_sha256": prompt.sha256})
            by_attempts[str(len(verdicts))] += 1
        elif len(verdicts) == attempts:
            disagreed.append(pair_row(pair, folder) | {"texts": texts[pair.id], "attempts": attempts + 1})
    for file, rows in ((target, agreed), (_disagreed(target), disagreed)):
        write_atomic(file, "".join(json.dumps(row) + "\n" for row in rows))
    return {
        "pairs": len(pairs), "agreed": len(agreed), "disagreed": len(disagreed), "unread": unread,
        "bare": bare, "by_attempts": by_attempts,
    }  # fmt: skip
