"""Arguments that several commands share, and checks of their values."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence

from basereward.cli.command import UsageError
from basereward.cluster.options import ClusterOptions
from basereward.errors import BaseRewardError, unknown

MODEL_FORMS = "a run id, runs:/..., or the folder of a saved model"


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the experiment, the profile and the overrides, which together define a recipe.

    >>> parser = argparse.ArgumentParser()
    >>> add_recipe_arguments(parser)
    >>> parser.parse_args(["head_depth", "optimizer.lr=1e-4"]).overrides
    ['optimizer.lr=1e-4']
    """
    parser.add_argument(
        "experiment",
        metavar="EXPERIMENT",
        help="name in experiments/ (`basereward ls experiments`), or path to a YAML file",
    )
    parser.add_argument(
        "--profile",
        metavar="NAME",
        default="tiny",
        help="what it runs on (backbone, data, batch, trainer): name in experiments/profiles/ (`basereward ls "
        "profiles`), or path to a YAML file (default: tiny)",
    )
    add_overrides(parser, example="optimizer.lr=1e-4")


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the name of a source and the overrides of its arguments.

    >>> parser = argparse.ArgumentParser()
    >>> add_source_arguments(parser)
    >>> parser.parse_args(["pairs.jsonl"]).source
    'pairs.jsonl'
    """
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="name in experiments/sources/ (`basereward ls sources`), or rows: a file, a folder, a pattern or a hub id",
    )
    add_overrides(parser, example="path=pairs.jsonl")


def add_overrides(parser: argparse.ArgumentParser, *, example: str) -> None:
    """Adds `KEY=VALUE`, which may be given any number of times.

    >>> parser = argparse.ArgumentParser()
    >>> add_overrides(parser, example="seeds.init=1")
    >>> parser.parse_args(["seeds.init=1"]).overrides
    ['seeds.init=1']
    """
    parser.add_argument(
        "overrides",
        metavar="KEY=VALUE",
        nargs="*",
        help=f"change of one key, such as {example}; a value with blanks or brackets needs quotes, 'KEY=[1, 2]'",
    )


def add_devices(parser: argparse.ArgumentParser) -> None:
    """Adds `--devices`; `parse_devices` reads its value.

    >>> parser = argparse.ArgumentParser()
    >>> add_devices(parser)
    >>> parser.parse_args(["--devices", "cuda:0,cuda:1"]).devices
    'cuda:0,cuda:1'
    """
    parser.add_argument(
        "--devices",
        metavar="DEVICES",
        help="what the model scores on, each in a process of its own: a number, such as 2, or names, such as "
        "cuda:0,cuda:2 (default: all GPUs, or the CPU)",
    )


DTYPES = ("float32", "bfloat16")


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds how a model scores: the limit of a forward pass, the precision and the devices.

    >>> parser = argparse.ArgumentParser()
    >>> add_scoring_arguments(parser)
    >>> parser.parse_args(["--dtype", "bfloat16"]).dtype
    'bfloat16'
    """
    parser.add_argument(
        "--tokens", metavar="N", type=int, help="most tokens in one forward pass (default: as the model was trained)"
    )
    parser.add_argument(
        "--dtype", metavar="DTYPE", help=f"precision of the weights: {', '.join(DTYPES)} (default: as trained)"
    )
    add_devices(parser)


def check_scoring_arguments(arguments: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: an unknown dtype or device, or a token limit below 1.

    >>> check_scoring_arguments(argparse.Namespace(dtype="float16", tokens=None, devices=None))
    Traceback (most recent call last):
        ...
    basereward.cli.command.UsageError: unknown dtype 'float16'; did you mean 'bfloat16'? Allowed: bfloat16, float32.
    """
    check_choice("dtype", arguments.dtype, DTYPES)
    check_at_least_one("--tokens", arguments.tokens)
    parse_devices(arguments.devices)


DEVICE = re.compile(r"cpu|cuda:\d+")


def parse_devices(text: str | None) -> Sequence[str] | int:
    """The number or the names of devices in the value of `--devices`; empty if it is not given.

    Raises:
        UsageError: a number below 1, or a name that is no device.

    >>> parse_devices("2"), parse_devices("cuda:0, cuda:2"), parse_devices(None)
    (2, ['cuda:0', 'cuda:2'], ())
    >>> parse_devices("gpu")
    Traceback (most recent call last):
        ...
    basereward.cli.command.UsageError: --devices gpu: a number of at least 1, ...
    """
    if text is None:
        return ()
    if text.strip().isdecimal() and int(text):
        return int(text)
    names = [name.strip() for name in text.split(",")]
    if not all(DEVICE.fullmatch(name) for name in names):
        raise UsageError(f"--devices {text}: a number of at least 1, or names such as cpu or cuda:0,cuda:1 are allowed")
    return names


def add_judge_arguments(parser: argparse.ArgumentParser, *, temperature: float | None, endpoint: bool = True) -> None:
    """Adds the options of a judge model, which `eval` and `annotate` ask for verdicts.

    Args:
        parser: the parser of the command.
        temperature: the default of `--temperature`. Evaluation is greedy; annotation samples, because a second attempt
            at temperature 0 would repeat the first. None: it depends on the number of votes.
        endpoint: whether there is one judge, whose address is an option.

    >>> parser = argparse.ArgumentParser()
    >>> add_judge_arguments(parser, temperature=0.0)
    >>> parser.parse_args(["--endpoint", "vllm"]).max_tokens
    2048
    """
    if endpoint:
        parser.add_argument(
            "--endpoint",
            metavar="URL",
            help="where the judge runs: the address of a server, or `local` (transformers) or `vllm` in this process",
        )
    shown = "1 for several votes, 0 for one" if temperature is None else f"{temperature:g}"
    # The order of these calls is the order of the options in the help.
    _add_prompt_arguments(parser)
    parser.add_argument(
        "--temperature",
        metavar="T",
        type=float,
        default=temperature,
        help=f"sampling temperature of the judge; 0 is greedy (default: {shown})",
    )
    parser.add_argument(
        "--max-tokens",
        metavar="N",
        type=int,
        default=2048,
        help="most tokens that the judge generates for one text (default: 2048)",
    )
    _add_request_arguments(parser)


def _add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the judge is asked, and how its verdict is found in its text."""
    parser.add_argument(
        "--prompt",
        metavar="NAME",
        default="pairwise_thinking",
        help="name of the prompt that the judge gets (default: pairwise_thinking)",
    )
    parser.add_argument("--prompt-file", metavar="FILE", help="file with a prompt of your own; replaces --prompt")
    parser.add_argument(
        "--pattern",
        metavar="REGEX",
        help="regular expression that finds the verdict in the judge's text (default: that of <answer>1</answer>)",
    )


def _add_request_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds how requests are sent to the server of the judge; they have no effect on a judge in this process."""
    parser.add_argument(
        "--concurrency",
        metavar="N",
        type=int,
        default=8,
        help="most requests in flight at the same time (default: 8)",
    )
    parser.add_argument(
        "--send",
        metavar="JSON",
        help="JSON object that is merged into the body of every request; null removes a key (default: nothing)",
    )
    parser.add_argument(
        "--timeout", metavar="S", type=float, default=120.0, help="seconds until a request times out (default: 120)"
    )


ON = ("local", "ray")


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds where rows are worked on; `parse_cluster` reads the values.

    >>> parser = argparse.ArgumentParser()
    >>> add_cluster_arguments(parser)
    >>> parser.parse_args(["--on", "ray", "--shards", "64"]).shards
    64
    """
    parser.add_argument(
        "--on",
        metavar="WHERE",
        default="local",
        help="local, or ray: in shards on a Ray cluster, with the same result; needs the extra `ray` (default: local)",
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="of the Ray cluster to join, or `auto` (default: $RAY_ADDRESS, or else a cluster of this machine alone)",
    )
    parser.add_argument(
        "--shards", metavar="N", type=int, help="how many parts the rows are cut into (default: four for each worker)"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=int,
        help="processes that work at the same time (default: one for each GPU, or each CPU of a cluster without GPUs)",
    )


def parse_cluster(arguments: argparse.Namespace) -> ClusterOptions | None:
    """The options of the cluster; None: this machine.

    Raises:
        UsageError: an unknown place, or options of a cluster without `--on ray`.
        ClusterError: a wrong address, or a number below 1.

    >>> given = {"on": "ray", "address": None, "shards": 8, "workers": None}
    >>> parse_cluster(argparse.Namespace(**given)).shards
    8
    """
    check_choice("place of --on", arguments.on, ON)
    if arguments.on == "ray":
        return ClusterOptions(arguments.address, shards=arguments.shards, workers=arguments.workers)
    for option in ("address", "shards", "workers"):
        value = getattr(arguments, option)
        if value is not None:
            raise UsageError(f"--{option} {value} is an option of a cluster; add --on ray, or leave it out")
    return None


def check_choice(
    kind: str, value: str | None, allowed: Iterable[str], *, error: type[BaseRewardError] = UsageError
) -> None:
    """Checks a value that names one of several things; None is an option that was not given.

    Args:
        kind: what the value names, for the message.
        value: as it was typed.
        allowed: the allowed values.
        error: the type of error to raise. Programs read its name in the JSON output, so an option that the library
            checks too has the library's type.

    Raises:
        BaseRewardError: of type `error`; the value is not allowed. The message names the nearest allowed value.

    >>> check_choice("dtype", "bfloat16", ["float32", "bfloat16"])
    >>> check_choice("dtype", "bfloat", ["float32", "bfloat16"])
    Traceback (most recent call last):
    basereward.cli.command.UsageError: unknown dtype 'bfloat'; did you mean 'bfloat16'? Allowed: bfloat16, float32.
    """
    names = tuple(allowed)
    if value is not None and value not in names:
        raise error(unknown(kind, value, names))


def check_at_least_one(option: str, value: int | None) -> None:
    """Checks a count; None is an option that was not given.

    Raises:
        UsageError: the value is 0 or negative.

    >>> check_at_least_one("--rows", 0)
    Traceback (most recent call last):
    basereward.cli.command.UsageError: --rows 0: at least 1 is needed
    """
    if value is not None and value < 1:
        raise UsageError(f"{option} {value}: at least 1 is needed")
