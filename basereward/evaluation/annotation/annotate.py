"""`basereward annotate`: a judge writes reasoning for preference pairs, until its verdict agrees with the label.

This is how R1-Reward makes the data of its first training stage (arXiv 2505.02835, section 3). The number of attempts
that a pair took is kept as its difficulty.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from basereward.cluster.options import ClusterOptions
from basereward.data.schema.group import Group, Split
from basereward.data.source_files import check_source_outputs
from basereward.data.sources import Source
from basereward.errors import DataError, ModelError
from basereward.evaluation.annotation.asking import AskingCluster, Opening, PairAsker, request_id
from basereward.evaluation.annotation.rows import Pair, digest, pair_row, reasoning
from basereward.evaluation.judging.answers import Answers
from basereward.io.files import write_atomic
from basereward.io.outputs import check_folder_of
from basereward.io.secrets import redact
from basereward.model.generation.generate import SamplingParams
from basereward.model.generation.prompts import PAIRWISE, Prompt, load_prompt
from basereward.model.generation.verdicts import compiled_pattern, parse_verdict
from basereward.recipe import make
from basereward.recipe.fragment import load_source
from basereward.recipe.schema import Node


def annotate(
    source: str | Node,
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
    retry_temperature: float | None = None,
    max_tokens: int = 2048,
    prompt: str = "pairwise_thinking",
    prompt_file: str | None = None,
    pattern: str | None = None,
    overrides: Iterable[str] = (),
    cluster: ClusterOptions | None = None,
) -> dict[str, Any]:
    """Have a judge write reasoning for the preferences of a source.

    Args:
        source: a name in `experiments/sources`, the path of a JSON Lines file, or the node of a source.
        model: the model's name at the endpoint; for a local model its hub id or folder.
        endpoint: an address, or `local` or `vllm`.
        out: a JSON Lines file that gets the pairs whose verdict agreed, ready for training. Beside it are written
            `.disagreed.jsonl` with the other pairs, `.answers.jsonl` with all texts, and `_images`.
        split: of the source.
        attempts: the maximum number of texts per pair.
        limit: the maximum number of pairs, drawn by `seed`; None: all.
        seed: of the draw, of the order of responses (every other pair shows the winner first), and of the first
            attempt.
        concurrency: the maximum number of requests in flight.
        timeout_s: of one request, in seconds.
        send: a JSON object that is merged into the body of every request.
        temperature: of sampling the first text.
        retry_temperature: of the other texts, which needs a value above 0; None: the same.
        max_tokens: of one text.
        prompt, prompt_file, pattern: as for the head `generative`.
        overrides: `key=value` for arguments of the source.
        cluster: let the workers of this cluster ask, each with its own engine and with `concurrency` requests; None:
            this process. Shards are kept in `<out>.shards` until all is written.

    Returns:
        `split`; `lost`, rows and preferences that are no pairs, by reason; `pairs`, `agreed`, `disagreed`; `unread`,
        texts without a verdict; `bare`, texts with the right verdict and no reasoning, which do not count as agreed;
        `by_attempts`, `prompt_sha256`, `answers`, `fresh`, `failed`, `prompt_tokens`, `tokens`, `seconds`, `out`.

    Raises:
        BaseRewardError: something cannot be opened, or requests were not answered. Answers that were received are kept,
            and another call resumes.
    """
    _check_options(attempts=attempts, limit=limit, temperature=temperature, retry_temperature=retry_temperature)
    template, compiled = _load_prompt(prompt, prompt_file, pattern)
    name, node = load_source(source, overrides=overrides) if isinstance(source, str) else ("rows", source)
    opened: Source = make(node, "sources", name)
    pairs, ties = _pairs(opened.groups(split), seed=seed, limit=limit)
    if not pairs:
        raise DataError(f"source '{name}' has no preferences in the split {split}; there is nothing to write about")
    outputs = _Outputs.at(out)
    given, read = (source if isinstance(source, str) else name), _user_files(prompt_file, model)
    check_source_outputs(outputs.named, given, node, (pair.group for pair in pairs), also=read)
    opening = Opening(model, endpoint=endpoint, concurrency=concurrency, timeout_s=timeout_s, send=send)
    writing = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
    engine = opening.engine(lazy=cluster is not None)
    asker = PairAsker(engine, template, compiled, writing, attempts, retry_temperature, opening.content())
    on_cluster = None if cluster is None else AskingCluster(cluster, opening)
    result = _Annotation(asker, on_cluster).run(pairs, outputs, send=send)
    lost = Counter(row.reason for row in opened.rejected(split)) + Counter(tie=ties)
    return {"split": split, "lost": dict(sorted(lost.items())), **result}


def pair_rows(
    source: str | Node,
    *,
    split: Split = "train",
    folder: Path,
    groups: int | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Rows of the preferences of a source that are not ties, as `annotate` draws and orders them.

    Args:
        source: as of `annotate`.
        split: of the source.
        folder: gets the images that are not files, in `images`; the rows name them relative to it.
        groups: only the first ones are read; None: all.
        limit: the most rows, drawn by `seed`; None: all.
        seed: of the draw and of the order of responses.

    Raises:
        BaseRewardError: the source cannot be read, or has no preferences.
    """
    name, node = load_source(source) if isinstance(source, str) else ("rows", source)
    opened: Source = make(node, "sources", name)
    pairs, _ = _pairs(islice(opened.groups(split), groups), seed=seed, limit=limit)
    if not pairs:
        raise DataError(f"source '{name}' has no preferences in the split {split}")
    return [pair_row(pair, folder / "images") for pair in pairs]


def _user_files(prompt_file: str | None, model: str) -> list[Path]:
    """The files that are read besides the source: the prompt, and the folder of a local judge."""
    files = [Path(prompt_file)] if prompt_file is not None else []
    return files + ([Path(model)] if Path(model).is_dir() else [])


@dataclass(frozen=True)
class _Outputs:
    """The files of an annotation."""

    agreed: Path
    disagreed: Path
    answers: Path
    images: Path
    """a folder"""

    @classmethod
    def at(cls, out: str) -> _Outputs:
        """Derive all paths from that of the agreed pairs, and check that it can be written.

        Raises:
            DataError: its folder does not exist, or it is a folder itself.
        """
        target = Path(out)
        check_folder_of(target, what="the pairs")
        if target.is_dir():
            raise DataError(f"the pairs cannot be written to '{target}': it is a folder. Give the name of a file.")
        return cls(
            target,
            disagreed=target.with_suffix(".disagreed.jsonl"),
            answers=target.with_suffix(".answers.jsonl"),
            images=target.with_name(f"{target.stem}_images"),
        )

    @property
    def named(self) -> dict[str, Path]:
        """What each file is called in messages -> its path."""
        return {"--out": self.agreed, "the pairs that disagreed": self.disagreed, "the answers": self.answers}


@dataclass(frozen=True)
class _Annotation:
    """How pairs are annotated, and on which cluster, if on one."""

    asker: PairAsker
    cluster: AskingCluster | None = None

    def run(self, pairs: Sequence[Pair], outputs: _Outputs, *, send: str | None) -> dict[str, Any]:
        """Ask about all pairs, and write the outputs.

        Args:
            pairs: what the judge compares.
            outputs: the files to write.
            send: what is merged into the body of every request; a part of the identity of the answers.

        Returns:
            What `annotate` returns, without the facts about the source.

        Raises:
            DataError: requests were not answered, or the file of answers belongs to other settings.
        """
        # The lock of this file covers the other outputs as well: two calls must not write them at once.
        asker = self.asker
        reported: dict[str, Any] = {}
        with Answers(outputs.answers, header=self._header(pairs, send=send)) as answers:
            if self.cluster is not None:
                reported = self.cluster.ask(asker, pairs, answers, folder=Path(f"{outputs.agreed}.shards"))
            # After a cluster, this asks for what was not answered there.
            texts = asker.ask(pairs, answers)
            result = self.write(pairs, texts, outputs)
        _check_answered(answers, agreed=result["agreed"], target=outputs.agreed)
        cost = answers.cost(_request_ids(pairs, asker.attempts))
        return {**result, "prompt_sha256": asker.prompt.sha256, **cost, "out": str(outputs.agreed), **reported}

    def _header(self, pairs: Sequence[Pair], *, send: str | None) -> dict[str, Any]:
        """What the stored answers depend on. With another header they are refused, since the judge would differ."""
        return {
            "judge": self.asker.engine.name,
            "content": self.asker.content,
            "prompt_sha256": self.asker.prompt.sha256,
            "seed": self.asker.writing.seed,
            "temperature": self.asker.writing.temperature,
            "top_p": self.asker.writing.top_p,
            "max_tokens": self.asker.writing.max_tokens,
            **self.asker.retrying,
            "pairs": digest(pairs),
            # Stored in a file, so that it must not show a key.
            "send": None if send is None else redact(send),
        }

    def write(self, pairs: Sequence[Pair], texts: dict[str, list[str]], outputs: _Outputs) -> dict[str, Any]:
        """Write the agreed and the disagreed pairs.

        Returns:
            The counts that `annotate` returns.
        """
        agreed: list[dict[str, Any]] = []
        disagreed: list[dict[str, Any]] = []
        unread = bare = 0
        by_attempts = {str(attempt): 0 for attempt in range(1, self.asker.attempts + 1)}
        for pair in pairs:
            pair_texts = texts[pair.id]
            verdicts = [parse_verdict(text, self.asker.pattern) for text in pair_texts]
            agreements = sum(self.asker.agrees(text, pair) for text in pair_texts)
            unread += verdicts.count(None)
            bare += verdicts.count(pair.verdict) - agreements
            if agreements:
                row = pair_row(pair, outputs.images)
                # Asking stops at the first text that agrees, so that it is the last.
                row |= {"reasoning": reasoning(pair_texts[-1]), "attempts": len(pair_texts)}
                agreed.append(row | {"prompt_sha256": self.asker.prompt.sha256})
                by_attempts[str(len(pair_texts))] += 1
            # A pair with fewer texts has a request that failed; it is neither, until another call asks again.
            elif len(pair_texts) == self.asker.attempts:
                row = pair_row(pair, outputs.images)
                disagreed.append(row | {"texts": pair_texts, "attempts": self.asker.attempts + 1})
        _write_rows(outputs.agreed, agreed)
        _write_rows(outputs.disagreed, disagreed)
        return {
            "pairs": len(pairs),
            "agreed": len(agreed),
            "disagreed": len(disagreed),
            "unread": unread,
            "bare": bare,
            "by_attempts": by_attempts,
        }


def _check_options(*, attempts: int, limit: int | None, temperature: float, retry_temperature: float | None) -> None:
    if attempts < 1 or (limit is not None and limit < 1):
        raise DataError(f"--attempts {attempts} and --limit {limit} are at least 1")
    if attempts > 1 and not (temperature if retry_temperature is None else retry_temperature):
        raise DataError(
            "a second attempt at temperature 0 would be the same text; raise --temperature or --retry-temperature, or "
            "give --attempts 1"
        )


def _load_prompt(prompt: str, prompt_file: str | None, pattern: str | None) -> tuple[Prompt, re.Pattern[str] | None]:
    try:
        template = load_prompt(prompt, prompt_file, fields=PAIRWISE)
        return template, None if pattern is None else compiled_pattern(pattern)
    except ValueError as error:
        raise ModelError(str(error)) from error


def _check_answered(answers: Answers, *, agreed: int, target: Path) -> None:
    if answers.failed:
        raise DataError(
            f"{len(answers.failed)} requests were not answered: {answers.failure_reasons()}. {agreed} pairs that "
            f"agreed are in '{target}', and all answers are kept: the same call asks only for what is missing"
        )


def _pairs(groups: Iterable[Group], *, seed: int, limit: int | None) -> tuple[list[Pair], int]:
    """Draw pairs from the preferences that are not ties.

    Half of the pairs, or one more than half, show the winner first, so that a judge that prefers a position is right on
    half of them.

    Returns:
        The pairs, and the number of ties.
    """
    preferences: list[tuple[str, Group, int, int]] = []
    ties = 0
    used: Counter[str] = Counter()
    for group in groups:
        for preference in group.preferences:
            if preference.tie:
                ties += 1
                continue
            name = f"{group.id}/{preference.winner}>{preference.loser}"
            used[name] += 1
            # Groups of a source may share an id; the ids of pairs must differ.
            if used[name] > 1:
                name = f"{name}~{used[name]}"
            preferences.append((name, group, preference.winner, preference.loser))
    random.Random(f"annotate/{seed}").shuffle(preferences)
    pairs: list[Pair] = []
    for place, (name, group, winner, loser) in enumerate(preferences[:limit]):
        pairs.append(Pair(name, group, winner, loser, winner_first=place % 2 == 0))
    return pairs, ties


def _request_ids(pairs: Sequence[Pair], attempts: int) -> list[str]:
    ids: list[str] = []
    for pair in pairs:
        ids += [request_id(pair, attempt) for attempt in range(1, attempts + 1)]
    return ids


def _write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_atomic(file, "".join(json.dumps(row) + "\n" for row in rows))
