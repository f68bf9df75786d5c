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
from basereward.cli.suite_text import format_interval, format_suite
from basereward.cli.tables import format_lost, format_percent, format_table
from basereward.errors import DataError
from basereward.evaluation.outcome import BASELINES, ORDERS
from basereward.io.progress import phase
from basereward.recipe.suites import suite_names

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
        help=f"verdicts on a pair in one order, of --judge or of MODEL if it is a judge, 1 to {MAX_VOTES} (default: 1)",
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
        "--suite",
        metavar="NAME",
        help="all benchmarks of a suite, in one table with macro averages: multimodal, text, all, or a suite of your "
        "own",
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
        UsageError: not exactly one of `--benchmark`, `--suite` and `--data`, an unknown suite, order or device, or
            half of a judge.
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
    _check_benchmarks(arguments)
    check_choice("order", arguments.order, ORDERS)
    parse_devices(arguments.devices)
    if (arguments.endpoint is None) != (arguments.judge is None):
        raise UsageError("a judge needs both options: --endpoint for its address and --judge for its name there")
    if arguments.judge is not None or _asks_model(arguments):
        _check_judge(arguments)
    elif arguments.votes != 1:
        raise UsageError(
            f"--votes {arguments.votes} counts verdicts of a judge; give --judge, or a trained judge as MODEL"
        )


def _asks_model(arguments: argparse.Namespace) -> bool:
    """Whether MODEL is asked as a judge: for votes, or in an order."""
    if arguments.model is None or arguments.model in BASELINES or arguments.judge is not None:
        return False
    return arguments.votes != 1 or arguments.order is not None


def _check_benchmarks(arguments: argparse.Namespace) -> None:
    """Checks that exactly one of the benchmarks, a suite and pairs is given."""
    given = [bool(arguments.benchmark), arguments.suite is not None, arguments.data is not None]
    if sum(given) != 1:
        raise UsageError(
            "give --benchmark with the name of a benchmark (`basereward ls benchmarks` lists them), --suite with the "
            "name of a suite, or --data with your own file of pairs"
        )
    if arguments.suite is None:
        return
    check_choice("suite", arguments.suite, suite_names())
    if arguments.scores is not None:
        raise UsageError("--scores holds the outcomes of one benchmark; give --benchmark in place of --suite")


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
    options = {name: getattr(arguments, name) for name in ("out", "name", "order", "allow_partial", "overrides")}
    options["devices"] = parse_devices(arguments.devices)
    with phase(LOADING_LIBRARIES):
        from basereward.evaluation.run_benchmark import evaluate
        from basereward.evaluation.suite import evaluate_suite

    options["judge"] = _open_judge(arguments)
    if arguments.suite is not None:
        return evaluate_suite(arguments.model, arguments.suite, **options), SUCCESS
    data, scores = arguments.data, arguments.scores
    return evaluate(arguments.model, arguments.benchmark, data=data, scores=scores, **options), SUCCESS


def _open_judge(arguments: argparse.Namespace) -> Any:
    from basereward.evaluation.judging.run_judge import open_judge, open_trained_judge

    if _asks_model(arguments):
        asked = {"order": arguments.order, "votes": arguments.votes, "temperature": arguments.temperature}
        return open_trained_judge(arguments.model, **asked)
    if arguments.judge is None:
        return None
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
    """For every benchmark a table for each protocol variant: value, counts, 95 % interval, and baselines.

    A suite has one table with a line for each benchmark.
    """
    if "suite" in result:
        yield from _format_suite(result)
        return
    for evaluation in result["evaluations"]:
        yield from _format_head(evaluation)
        part = _format_part(evaluation)
        if part:
            yield (
                f"PARTIAL: {evaluation['partial']}. Published values are of the whole benchmark and cannot be compared."
            )
        for variant, metrics in result[evaluation["benchmark"]].items():
            yield ""
            yield from _format_variant(f"{variant}{part}", metrics)
        yield from ("", f"written to {evaluation['out']}")


def _format_suite(result: Mapping[str, Any]) -> Iterator[str]:
    suite, evaluations = result["suite"], result["evaluations"]
    yield f"suite {suite['name']}, {evaluations[0]['name']}: {len(suite['rows'])} benchmarks"
    for evaluation in evaluations:
        if part := _format_part(evaluation):
            yield f"PARTIAL: {evaluation['benchmark']}{part}: {evaluation['partial']}"
    yield ""
    yield from format_suite(suite)
    yield from ("", f"written to {suite['out']}")


def _format_part(evaluation: Mapping[str, Any]) -> str:
    """What follows the name of a partial evaluation."""
    if not evaluation.get("partial"):
        return ""
    # The size of the published benchmark is unknown for pairs of the user's own.
    expected = evaluation.get("expected") or evaluation["items"]
    return f" ({evaluation['scored']} of {expected} items)"


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
    if evaluation.get("unscored"):
        yield f"its rows have {evaluation['unscored']}, which models and judges cannot read here yet"


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
    return (
        format_percent(metric["value"]),
        f"{numerator}/{denominator}",
        format_interval(metric),
        f"{metric['ties']}",
        f"{metric['undecided']}",
    )


COMMAND = Command(
    summary="measure a model, a judge, or a file of scores on benchmarks",
    activity="eval: reading {benchmark}{suite}{data}",
    examples=(
        "basereward eval runs/my_run/model --benchmark vl_rewardbench",
        "basereward eval runs/my_run/model --suite multimodal vl_rewardbench.data=rows.json",
        "basereward eval --judge my-model --endpoint http://localhost:8000/v1 --data pairs.jsonl --order both",
        "basereward eval 20260314-153012-9f2c41 --data pairs.jsonl --votes 5 --temperature 1",
    ),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    continues=True,
    run=run,
    format_text=format_text,
)
