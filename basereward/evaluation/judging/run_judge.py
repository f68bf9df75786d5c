"""Open the judge that the options of a command line describe, or a trained one."""

from __future__ import annotations

from pathlib import Path

from basereward.errors import DataError, ModelError
from basereward.evaluation.judging.judge import Judge
from basereward.evaluation.outcome import AnswerOrder
from basereward.inference.judges.engine import LOCAL
from basereward.inference.judges.open_engine import judge_content, open_engine
from basereward.io.secrets import redact
from basereward.model.generation.generate import SamplingParams
from basereward.model.generation.prompts import PAIRWISE, load_prompt
from basereward.model.generation.round_robin import Order
from basereward.model.generation.verdicts import compiled_pattern

# Majority voting gains little beyond this number, and its cost grows with it.
MAX_VOTES = 15
# The names of the command line -> those of `ordered_pairs`.
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
    """Open a pairwise judge.

    Args:
        model, endpoint, send, concurrency, timeout_s: as for `open_engine`.
        order: `fixed`, `random` (the default) or `both`.
        votes: 1 to 15 per pair and order. More than one need a temperature above 0.
        prompt, prompt_file, pattern: as for the head `generative`.
        temperature: of sampling; 0 is greedy.
        max_tokens: of one text.

    Raises:
        BaseRewardError: an option is out of range, or something cannot be opened.
    """
    _check_options(votes=votes, temperature=temperature, max_tokens=max_tokens)
    try:
        template = load_prompt(prompt, prompt_file, fields=PAIRWISE)
        compiled = None if pattern is None else compiled_pattern(pattern)
    except ValueError as error:
        raise ModelError(str(error)) from error
    engine = open_engine(model, endpoint=endpoint, concurrency=concurrency, timeout_s=timeout_s, send=send)
    return Judge(
        engine,
        template,
        SamplingParams(max_tokens=max_tokens, temperature=temperature),
        order=ORDERS[order or "random"],
        votes=votes,
        pattern=compiled,
        # This one goes to files and to MLflow, where no key may appear.
        send=None if send is None else redact(send),
        prompt_file=None if prompt_file is None else Path(prompt_file),
        content=judge_content(model, endpoint=endpoint),
    )


def open_trained_judge(
    model: str, *, order: AnswerOrder | None = None, votes: int = 1, temperature: float = 0.0
) -> Judge:
    """Open a trained judge as one that is asked: with votes, or in both orders.

    Its prompt, its pattern and the limit of its text are those that it was trained with.

    Args:
        model: what `load` opens, with the head `generative` and `thinking: true`.
        order, votes, temperature: as of `open_judge`.

    Raises:
        BaseRewardError: an option is out of range, or the model cannot be opened or writes no reasoning.
    """
    # Loading takes seconds, so it comes after the check.
    _check_options(votes=votes, temperature=temperature, max_tokens=1)
    from basereward.inference.judges.trained import TrainedJudge

    engine = TrainedJudge(model)
    head = engine.head
    return Judge(
        engine,
        head.branch_template.judge_prompt,
        SamplingParams(head.sampling.max_tokens, temperature=temperature, top_p=head.sampling.top_p),
        order=ORDERS[order or "random"],
        votes=votes,
        pattern=head.pattern,
        trained=True,
        content=judge_content(model, endpoint=LOCAL),
    )


def _check_options(*, votes: int, temperature: float, max_tokens: int) -> None:
    if not 1 <= votes <= MAX_VOTES:
        raise DataError(f"--votes {votes}: 1 to {MAX_VOTES} are allowed")
    if votes > 1 and not temperature:
        raise DataError(f"--votes {votes} at --temperature 0 would be equal votes; give a temperature above 0")
    if max_tokens < 1 or temperature < 0:
        raise DataError(f"--max-tokens {max_tokens} is at least 1, --temperature {temperature:g} at least 0")
