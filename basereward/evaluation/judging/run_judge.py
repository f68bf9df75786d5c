"""The judge that a command line names."""

from __future__ import annotations

from pathlib import Path

from basereward.errors import DataError, ModelError
from basereward.evaluation.judging.judge import Judge
from basereward.evaluation.outcome import AnswerOrder
from basereward.inference.judges.open_engine import open_engine
from basereward.io.secrets import redact
from basereward.model.generation.generate import Writing
from basereward.model.generation.prompts import PAIRWISE, load_prompt
from basereward.model.generation.round_robin import Order
from basereward.model.generation.verdicts import compiled_pattern

MOST_VOTES = 15
ORDERS: dict[AnswerOrder, Order] = {"fixed": "given", "random": "random", "both": "both"}


def open_judge(
    model: str,
    *,
    endpoint: str,
    order: AnswerOrder | None = None,
    votes: int = 1,
    prompt: str = "pairwise_thinking",
    prompt_file: str | None = None,
    pattern: str | None = None,
    temperature: float = 0.0,
    max_tokens: int = 2048,
    concurrency: int = 8,
    timeout_s: float = 120.0,
    send: str | None = None,
) -> Judge:
    """A pairwise judge.

    Args:
        model, endpoint, send: as `open_engine` takes them.
        order: `fixed`, `random` (by default) or `both`.
        votes: 1 to 15 on a pair in one order; more than one need a temperature above 0.
        prompt, prompt_file, pattern: as of the head `generative`.

    Raises:
        BaseRewardError: something is out of its range or cannot be opened.
    """
    if not 1 <= votes <= MOST_VOTES:
        raise DataError(f"--votes {votes}: 1 to {MOST_VOTES} are allowed")
    if votes > 1 and not temperature:
        raise DataError(f"--votes {votes} at --temperature 0 would be the same vote so many times; raise it")
    if max_tokens < 1 or temperature < 0:
        raise DataError(f"--max-tokens {max_tokens} is at least 1, --temperature {temperature:g} at least 0")
    try:
        asked = load_prompt(prompt, prompt_file, fields=PAIRWISE)
        form = None if pattern is None else compiled_pattern(pattern)
    except ValueError as error:
        raise ModelError(str(error)) from error
    engine = open_engine(model, endpoint=endpoint, concurrency=concurrency, timeout_s=timeout_s, send=send)
    how = Writing(max_tokens=max_tokens, temperature=temperature)
    return Judge(
        engine,
        asked,
        how,
        order=ORDERS[order or "random"],
        votes=votes,
        pattern=form,
        send=None if send is None else redact(send),  # it is recorded
        prompt_file=None if prompt_file is None else Path(prompt_file),
    )
