"""The command line, taken apart."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NoReturn

from basereward.cli.checks import DTYPES, LISTED, ORDERS, UsageError, check_values
from basereward.cli.commands import COMMANDS
from basereward.data.schema.group import SPLITS
from basereward.errors import unknown
from basereward.recipe.schema import WAYS
from basereward.training.cost.gpu_specs import GPUS, UTILISATION

OPTIONS = (
    "trust",
    "profile",
    "resume",
    "model",
    "rows",
    "split",
    "out",
    "benchmark",
    "data",
    "scores",
    "name",
    "order",
    "allow_partial",
    "tokens",
    "dtype",
    "cost",
    "gpu",
    "utilisation",
    *("endpoint", "judge", "votes", "prompt", "prompt_file", "pattern", "temperature", "max_tokens", "concurrency"),
    *("timeout", "send", "attempts", "limit", "seed", "how", "text", "pairs", "k"),
)
RULES = ("random", "longer", "shorter", "first")


class Parser(argparse.ArgumentParser):
    """Raises what argparse would print, so that every mistake leaves by the same door."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage().strip()}")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line as a namespace; `KEY=VALUE` may stand before, between and after the options.

    Raises:
        UsageError: an unknown command, option or kind, or a missing argument.
    """
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        raise UsageError(unknown("command", argv[0], COMMANDS))
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    for word in rest:
        if word.startswith("-") or "=" not in word or "overrides" not in arguments:
            raise UsageError(_unexpected(word, arguments))
        arguments.overrides.append(word)
    check_values(arguments)
    return arguments


def build_parser() -> Parser:
    """The commands and their options."""
    parser = Parser(prog="basereward", description="Train, check and use multimodal reward models.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, _, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        command.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
        if name != "ls":
            command.add_argument(
                "--trust", action="store_true", help="run classes and checkpoint code from outside of this package"
            )
        if name in ADDERS:
            ADDERS[name](command)
    return parser


def _add_look(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", metavar="SOURCE", help="a name in experiments/sources/, or a .jsonl file")
    command.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="a change, as in path=pairs.jsonl")
    command.add_argument("--model", metavar="MODEL", help="show its scores: a run id, runs:/..., or a folder")
    command.add_argument("--rows", metavar="N", type=int, default=200, help="rows to show, evenly spread (200)")
    command.add_argument("--split", metavar="PART", help=f"one part only: {', '.join(SPLITS)}")
    command.add_argument("--out", metavar="FILE", help="where the page goes")


def _add_ls(command: argparse.ArgumentParser) -> None:
    command.add_argument("kind", metavar="KIND", help=", ".join(LISTED))


def _add_check(command: argparse.ArgumentParser) -> None:
    _add_recipe(command)
    _add_cost(command)


def _add_train(command: argparse.ArgumentParser) -> None:
    _add_recipe(command)
    command.add_argument("--resume", metavar="RUN", help="go on with a run that was stopped")


def _add_audit(command: argparse.ArgumentParser) -> None:
    _add_recipe(command)
    command.add_argument("--model", metavar="MODEL", help="count where it disagrees: a run id, runs:/..., or a folder")


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("experiment", metavar="EXPERIMENT", help="a name in experiments/, or a YAML file")
    command.add_argument("--profile", default="tiny", help="a name in experiments/profiles/, or a YAML file (tiny)")
    command.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="a change, as in optimizer.lr=1e-4")


def _add_report(command: argparse.ArgumentParser) -> None:
    told = "an experiment, `all`, or folders that `eval` wrote; KEY=VALUE changes the experiment"
    command.add_argument("words", metavar="EXPERIMENT|EVALUATION", nargs="+", help=told)
    command.add_argument("--profile", default="tiny", help="what the experiment runs on (tiny)")
    command.add_argument("--out", metavar="PLACE", help="where the page goes; the folder, of all")
    command.set_defaults(overrides=[])


def _add_score(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="MODEL", help="a run id, runs:/..., or a folder that was saved")
    command.add_argument("file", metavar="FILE", help="JSON Lines of prompts and responses")
    command.add_argument("--out", metavar="FILE", help="where the scores go")
    command.add_argument("--tokens", metavar="N", type=int, help="at most so many in a forward pass")
    command.add_argument("--dtype", metavar="DTYPE", help=f"of the weights: {', '.join(DTYPES)} (as trained)")


def _add_cost(command: argparse.ArgumentParser) -> None:
    command.add_argument("--cost", action="store_true", help="count tokens, work and memory, and expect hours")
    command.add_argument("--gpu", metavar="NAME", help=f"of one GPU only: {', '.join(GPUS)}")
    command.add_argument(
        "--utilisation", metavar="SHARE", type=float, help=f"of the GPU's peak, to expect ({UTILISATION})"
    )


def _add_eval(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "model", metavar="MODEL", nargs="?", help=f"a run id, runs:/..., a folder, or a rule: {', '.join(RULES)}"
    )
    command.add_argument(
        "--benchmark",
        metavar="NAME",
        action="append",
        default=[],
        help="a name in experiments/benchmarks/; again for more",
    )
    command.add_argument("--data", metavar="FILE", help="pairs of your own, in place of a benchmark")
    command.add_argument("--scores", metavar="FILE", help="JSON Lines of scores, verdicts or 0/1 in place of a MODEL")
    command.add_argument("--name", metavar="NAME", help="what tables call it")
    command.add_argument("--order", metavar="ORDER", help=f"in which a judge sees answers: {', '.join(ORDERS)}")
    command.add_argument("--allow-partial", action="store_true", help="count without rows that are missing")
    command.add_argument("--judge", metavar="NAME", help="a model that compares answers, in place of a MODEL")
    command.add_argument("--votes", metavar="K", type=int, default=1, help="of the judge on a pair in one order (1)")
    _add_judge(command, temperature=0.0)
    command.add_argument("--out", metavar="FOLDER", help="where the evaluation goes")
    command.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="a change, as in data=rows.jsonl")


def _add_judge(command: argparse.ArgumentParser, *, temperature: float) -> None:
    command.add_argument("--endpoint", metavar="URL", help="where the judge is: an address, or local, or vllm")
    command.add_argument("--prompt", metavar="NAME", default="pairwise_thinking", help="of a judge (pairwise_thinking)")
    command.add_argument("--prompt-file", metavar="FILE", help="the prompt of a judge, in place of a named one")
    command.add_argument("--pattern", metavar="REGEX", help="that finds its verdict, if not <answer>1</answer>")
    command.add_argument("--temperature", metavar="T", type=float, default=temperature, help=f"({temperature:g})")
    command.add_argument("--max-tokens", metavar="N", type=int, default=2048, help="of one text (2048)")
    command.add_argument("--concurrency", metavar="N", type=int, default=8, help="requests under way at once (8)")
    command.add_argument("--send", metavar="JSON", help="more of a request's body; null leaves a key out")
    command.add_argument("--timeout", metavar="S", type=float, default=120.0, help="of one request, in seconds (120)")


def _add_ensemble(command: argparse.ArgumentParser) -> None:
    command.add_argument("models", metavar="MODEL", nargs="+", help="a run id, runs:/..., or a folder that was saved")
    command.add_argument("--how", metavar="HOW", default="mean", help=f"{', '.join(WAYS)} (mean)")
    command.add_argument("--text", metavar="MODEL", action="append", default=[], help="for prompts without pictures")
    command.add_argument("--name", metavar="NAME", help="of the ensemble")
    command.add_argument(
        "--pairs",
        metavar="N",
        type=int,
        default=1000,
        help="validation pairs for weights, at least one a source (1000)",
    )
    command.add_argument("--k", metavar="K", type=float, default=1.0, help="spreads that `pessimistic` takes off (1)")
    command.add_argument("--seed", metavar="N", type=int, default=0, help="of the draw of pairs (0)")


def _add_annotate(command: argparse.ArgumentParser) -> None:
    command.add_argument("source", metavar="SOURCE", help="a name in experiments/sources/, or a .jsonl file")
    command.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="a change, as in path=pairs.jsonl")
    command.add_argument("--model", metavar="NAME", required=True, help="of the judge")
    _add_judge(command, temperature=1.0)
    command.add_argument("--out", metavar="FILE", required=True, help="JSON Lines to train on")
    command.add_argument("--split", metavar="PART", default="train", help=f"one of {', '.join(SPLITS)} (train)")
    command.add_argument("--attempts", metavar="N", type=int, default=3, help="texts a pair at most (3)")
    command.add_argument("--limit", metavar="N", type=int, help="pairs at most")
    command.add_argument("--seed", metavar="N", type=int, default=0, help="of the orders and the draw (0)")


def _unexpected(word: str, arguments: argparse.Namespace) -> str:
    if not word.startswith("-"):
        return f"unexpected argument '{word}'" + ("; a change is KEY=VALUE" if "overrides" in arguments else "")
    names = ["json", "help", *(name for name in OPTIONS if name in arguments)]
    return unknown("option", word.partition("=")[0], [f"--{name.replace('_', '-')}" for name in names])


ADDERS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "check": _add_check,
    "data": _add_recipe,
    "audit": _add_audit,
    "train": _add_train,
    "sweep": _add_recipe,
    "score": _add_score,
    "eval": _add_eval,
    "ensemble": _add_ensemble,
    "annotate": _add_annotate,
    "report": _add_report,
    "look": _add_look,
    "ls": _add_ls,
}
"""What each command takes besides the options of all."""
