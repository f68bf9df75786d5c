"""The stage in which a judge writes reasoning for pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Interval

from basereward.errors import DataError
from basereward.evaluation.annotation.annotate import annotate, pair_rows
from basereward.evaluation.annotation.rows import reasoning
from basereward.inference.judges.open_engine import judge_content
from basereward.pipelines.stages.contracts import PREVIEWED, StageResult, definition, write_rows
from basereward.pipelines.stages.inputs import source_files
from basereward.pipelines.stages.row_files import read_rows
from basereward.recipe.fragment import load_source


class Annotate:
    """A judge writes reasoning for the pairs of a source, until its verdict agrees with the label.

    The number of attempts that a pair took is its difficulty. Outputs: `rows`, the pairs with reasoning; `unsolved`,
    those without an agreeing text, whose attempts are one more than allowed.

    Args:
        source: a name in `experiments/sources`, a file of rows, or a source with its arguments.
        model: the judge: its name at the endpoint, a hub id or folder, or a trained judge's run.
        endpoint: the address of a server, or `local` or `vllm`.
        split: of the source.
        attempts: the most texts for a pair.
        temperature: of the first text.
        retry_temperature: of the others; at 0 a local judge would write the same text again.
        unsolved: `drop`, or `keep_last`: `rows` also has the unsolved pairs that have reasoning, with that of the last
            text.
        limit: the most pairs, drawn by `seed`; null: all.
        seed: of the draw, of the order of the answers and of the first text.
        max_tokens: of one text.
        prompt, prompt_file, pattern: as of the head `generative`.
        concurrency: the most requests in flight.
        timeout_s: of one request, in seconds.
    """

    outputs: ClassVar[tuple[str, ...]] = ("rows", "unsolved")
    uncounted: ClassVar[tuple[str, ...]] = ("concurrency", "timeout_s")

    def __init__(
        self,
        *,
        source: str | dict[str, Any],
        model: str,
        endpoint: str,
        split: Literal["train", "val", "test"] = "train",
        attempts: Annotated[int, Interval(ge=1, le=100)] = 3,
        temperature: Annotated[float, Ge(0)] = 0.0,
        retry_temperature: Annotated[float, Ge(0)] = 1.0,
        unsolved: Literal["drop", "keep_last"] = "drop",
        limit: Annotated[int, Ge(1)] | None = None,
        seed: int = 0,
        max_tokens: Annotated[int, Ge(1)] = 2048,
        prompt: str = "pairwise_thinking",
        prompt_file: str | None = None,
        pattern: str | None = None,
        concurrency: Annotated[int, Ge(1)] = 8,
        timeout_s: float = 120.0,
    ) -> None:
        if attempts > 1 and not retry_temperature:
            raise ValueError(
                f"attempts={attempts} at retry_temperature=0 would be the same text again; raise it, or set attempts=1"
            )
        self.source = source
        self.split: Literal["train", "val", "test"] = split
        self.unsolved = unsolved
        self.options: dict[str, Any] = {"model": model, "endpoint": endpoint, "attempts": attempts, "limit": limit}
        self.options |= {"temperature": temperature, "retry_temperature": retry_temperature, "max_tokens": max_tokens}
        self.options |= {"prompt": prompt, "prompt_file": prompt_file, "pattern": pattern, "seed": seed}
        self.options |= {"concurrency": concurrency, "timeout_s": timeout_s}

    def definitions(self) -> Mapping[str, Any]:
        """As `Stage.definitions`: the content of the judge, and the source if it is named."""
        source, model, endpoint = self.source, self.options["model"], self.options["endpoint"]
        defined = {"model": definition(partial(judge_content, model, endpoint=endpoint))}
        return defined | ({"source": definition(partial(load_source, source))} if isinstance(source, str) else {})

    def inputs(self) -> Sequence[Path]:
        """As `Stage.inputs`: those of the source, and the file of the prompt."""
        prompt = self.options["prompt_file"]
        return [*source_files(self.source), *([Path(prompt)] if prompt is not None else [])]

    def preview(self, folder: Path) -> Mapping[str, str]:
        """As `Stage.preview`: the first pairs, with a sentence as reasoning."""
        rows = pair_rows(self.source, split=self.split, folder=folder, groups=PREVIEWED)
        rows = [row | {"reasoning": "One answer is right.", "attempts": 1} for row in rows]
        return {name: write_rows(folder / f"{name}.jsonl", rows) for name in self.outputs}

    def run(self, folder: Path) -> StageResult:
        """As `Stage.run`; answers are kept as they arrive, and none is asked for again."""
        rows, unsolved = folder / "rows.jsonl", folder / "rows.disagreed.jsonl"
        result = annotate(self.source, out=str(rows), split=self.split, **self.options)
        outputs = {"rows": str(rows), "unsolved": str(unsolved)}
        if self.unsolved == "keep_last":
            kept = [row | {"reasoning": reasoning(row["texts"][-1])} for row in read_rows(unsolved)]
            kept = [row for row in kept if row["reasoning"]]
            outputs["rows"] = write_rows(folder / "all.jsonl", [*read_rows(rows), *kept])
        elif not result["agreed"]:
            raise DataError(
                f"none of {result['pairs']} pairs has reasoning that agrees with its label ({result['unread']} texts "
                "had no verdict), so there is nothing to train on. Take another judge or prompt, or more attempts"
            )
        counts = ("pairs", "agreed", "disagreed", "unread", "bare", "answers", "prompt_tokens", "tokens")
        metrics = {f"annotate/{name}": float(result[name]) for name in counts}
        metrics |= {f"annotate/agreed_at_{attempt}": float(n) for attempt, n in result["by_attempts"].items()}
        facts = {name: result[name] for name in (*counts, "by_attempts", "lost", "prompt_sha256")}
        return StageResult(outputs, metrics, facts)
