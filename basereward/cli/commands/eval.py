"""`basereward eval`: measure a model, a judge or a file of scores on benchmarks."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from basereward.cli.command import LOADING_LIBRARIES, SUCCESS, Command, CommandResult, UsageError
from basereward.cli.options import (
    MODEL_FORMS,
    add_devices,
    add_judge_arguments,
    add_overrides,
    check_choice,
    parse_devices,
)
from basereward.cli.tables import format_lost, format_percent, format_table
from basereward.errors import DataError
from basereward.evaluation.outcome import BASELINES, ORDERS
from basereward.io.progress import phase

MAX_VOTES = 15
"""As `open_judge` allows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what is measured, on which benchmarks, and how.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["longer", "--benchmark", "rm_bench"]).benchmark
    ['rm_bench']
    """
    _add_inputs(parser)
    parser.add_argument(
        "--name", metavar="NAME", help="name in tables (default: the name of the run, the folder or the file)"
    )
    parser.add_argument(
        "--order",
        metavar="ORDER",
        help=f"order in which a judge sees the answers: {', '.join(ORDERS)} (default: random)",
    )
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="measure without the rows that are missing or cannot be scored (default: they are an error)",
    )
    add_devices(parser)
    parser.add_argument(
        "--judge", metavar="NAME", help="generative model that compares answers, instead of MODEL; needs --endpoint"
    )
    parser.add_argument(
        "--votes",
        metavar="K",
        type=int,
        default=1,
        help=f"verdicts of the judge on a pair in one order, 1 to {MAX_VOTES} (default: 1)",
    )
    add_judge_arguments(parser, temperature=0.0)
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help="folder to write the evaluation to (default: evaluations in the run's folder, or evaluations/NAME)",
    )
    add_overrides(parser, example="data=rows.jsonl")


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    """Adds what is read: the model or its scores, and the benchmarks or pairs."""
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help=f"{MODEL_FORMS}, or a simple rule: {', '.join(BASELINES)}"
    )
    parser.add_argument(
        "--benchmark",
        metavar="NAME",
        action="append",
        default=[],
        help="name in experiments/benchmarks/, or path to a YAML file; repeat the option for several benchmarks",
    )
    parser.add_argument(
        "--data", metavar="FILE", help="your own pairs instead of a benchmark: a file, a folder, a pattern or a hub id"
    )
    parser.add_argument(
        "--scores",
        metavar="FILE",
        help="JSON Lines file of scores, verdicts or 0/1 from another program, instead of MODEL",
    )


def check_arguments(arguments: argparse.Namespace) -> None:
    """Checks combinations of options, and moves an override that was parsed as the model.

    Raises:
        UsageError: not exactly one of `--benchmark` and `--data`, an unknown order or device, or half of a judge.
        DataError: a number of the judge is out of its range.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> check_arguments(parser.parse_args(["longer"]))
    Traceback (most recent call last):
    basereward.cli.command.UsageError: give --benchmark with the name of a benchmark ...
    """
    # MODEL is optional, so argparse takes the first KEY=VALUE for it when --scores or --judge replaces the model.
    if arguments.model is not None and "=" in arguments.model:
        arguments.overrides.insert(0, arguments.model)
        arguments.model = None
    if bool(arguments.benchmark) == (arguments.data is not None):
        raise UsageError(
            "give --benchmark with the name of a benchmark (`basereward ls benchmarks` lists them), or --data with "
            "your own file of pairs"
        )
    check_choice("order", arguments.order, ORDERS)
    parse_devices(arguments.devices)
    if (arguments.endpoint is None) != (arguments.judge is None):
        raise UsageError("a judge needs both options: --endpoint for its address and --judge for its name there")
    if arguments.judge is not None:
        _check_judge(arguments)


def _check_judge(arguments: argparse.Namespace) -> None:
    """Checks the numbers here, because the library that also checks them takes seconds to import."""
    votes, max_tokens, temperature = arguments.votes, arguments.max_tokens, arguments.temperature
    if not 1 <= votes <= MAX_VOTES:
        raise DataError(f"--votes {votes}: 1 to {MAX_VOTES} are allowed")
    if votes > 1 and not temperature:
        raise DataError(
            f"--votes {votes} at --temperature 0: all would be the same vote; raise the temperature, or give --votes 1"
        )
    if max_tokens < 1 or temperature < 0:
        raise DataError(f"--max-tokens {max_tokens} must be at least 1, --temperature {temperature:g} at least 0")


def run(arguments: argparse.Namespace) -> CommandResult:
    """Measures on every benchmark."""
    with phase(LOADING_LIBRARIES):
        from basereward.evaluation.run_benchmark import evaluate

    result = evaluate(
        arguments.model,
        arguments.benchmark,
        data=arguments.data,
        scores=arguments.scores,
        out=arguments.out,
        name=arguments.name,
        order=arguments.order,
        allow_partial=arguments.allow_partial,
        judge=_open_judge(arguments),
        devices=parse_devices(arguments.devices),
        overrides=arguments.overrides,
    )
    return result, SUCCESS


def _open_judge(arguments: argparse.Namespace) -> Any:
    if arguments.judge is None:
        return None
    from basereward.evaluation.judging.run_judge import open_judge

    return open_judge(
        arguments.judge,
        endpoint=arguments.endpoint,
        order=arguments.order,
        votes=arguments.votes,
        prompt=arguments.prompt,
        prompt_file=arguments.prompt_file,
        pattern=arguments.pattern,
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
        concurrency=arguments.concurrency,
        timeout_s=arguments.timeout,
        send=arguments.send,
    )


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """For every benchmark a table for each protocol variant: value, counts, 95 % interval, and baselines."""
    for evaluation in result["evaluations"]:
        yield from _format_head(evaluation)
        # The size of the published benchmark is unknown for pairs of the user's own.
        expected = evaluation.get("expected") or evaluation["items"]
        part = f" ({evaluation['scored']} of {expected} items)" if evaluation.get("partial") else ""
        if part:
            yield (
                f"PARTIAL: {evaluation['partial']}. Published values are of the whole benchmark and cannot be compared."
            )
        for variant, metrics in result[evaluation["benchmark"]].items():
            yield ""
            yield from _format_variant(f"{variant}{part}", metrics)
        yield from ("", f"written to {evaluation['out']}")


def _format_head(evaluation: Mapping[str, Any]) -> Iterator[str]:
    votes = f"; {evaluation['votes']} votes an item" if evaluation["votes"] else ""
    order = f"; answers shown in the order: {evaluation['order']}" if evaluation["order"] else ""
    if cost := evaluation.get("cost"):
        template = (
            "{requests} requests, {unread} verdicts not readable, {prompt_tokens:,} tokens read, {tokens:,} written"
        )
        yield template.format(**cost)
    yield "{benchmark}, {name}: {scored} of {items} items, {kind}".format(**evaluation) + votes + order
    yield from format_lost(evaluation.get("lost", {}))


def _format_variant(title: str, metrics: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    # A dictionary keeps the order of first appearance: metrics of one variant may have different baselines.
    baselines: dict[str, None] = {}
    for metric in metrics.values():
        baselines.update(dict.fromkeys(metric["baselines"]))
    head = (title, "%", "of", "95 %", "ties", "undecided", *baselines)
    rows = []
    for name, metric in metrics.items():
        shares = [format_percent(metric["baselines"].get(baseline)) for baseline in baselines]
        rows.append((name, *_metric_columns(metric), *shares))
    yield from format_table(head, rows)


def _metric_columns(metric: Mapping[str, Any]) -> tuple[str, ...]:
    numerator, denominator = (f"{metric[name]:.6g}" for name in ("numerator", "denominator"))
    interval = f"{format_percent(metric['low'])}-{format_percent(metric['high'])}" if metric["interval"] else "-"
    return (
        format_percent(metric["value"]),
        f"{numerator}/{denominator}",
        interval,
        f"{metric['ties']}",
        f"{metric['undecided']}",
    )


COMMAND = Command(
    summary="measure a model, a judge, or a file of scores on benchmarks",
    activity="eval: reading {benchmark}{data}",
    examples=(
        "basereward eval runs/my_run/model --benchmark vl_rewardbench",
        "basereward eval --judge my-model --endpoint http://localhost:8000/v1 --data pairs.jsonl --order both",
    ),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    continues=True,
    run=run,
    format_text=format_text,
)
