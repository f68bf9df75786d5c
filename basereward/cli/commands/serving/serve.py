"""`basereward serve`: a model behind an address, by our own protocol and those of RL trainers."""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from basereward.cli.command import LOADING_LIBRARIES, SUCCESS, Command, CommandResult, UsageError
from basereward.cli.options import (
    MODEL_FORMS,
    add_scoring_arguments,
    check_at_least_one,
    check_scoring_arguments,
    parse_devices,
)
from basereward.io.limits import MIB
from basereward.io.progress import phase

KEY_VARIABLE = "BASEREWARD_SERVER_KEY"
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
MAX_PORT = 65_535
MAX_SECONDS = 86_400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the model, the address, and what clients may ask.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["runs/my_run/model"]).port
    8008
    """
    parser.add_argument("model", metavar="MODEL", help=MODEL_FORMS)
    parser.add_argument("--host", metavar="HOST", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", metavar="PORT", type=int, default=8008, help="port to listen on (default: 8008)")
    add_scoring_arguments(parser)
    parser.add_argument(
        "--window", metavar="MS", type=float, default=5.0, help="milliseconds a request waits for others (default: 5)"
    )
    parser.add_argument(
        "--max-waiting",
        metavar="N",
        type=int,
        default=1024,
        help="requests of a worker without an answer; more are answered with status 429 (default: 1024)",
    )
    parser.add_argument(
        "--prefix-cache",
        metavar="MIB",
        type=int,
        default=1024,
        help="memory for keys and values of prompts that come again, in MiB; 0 keeps none (default: 1024)",
    )
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=float,
        default=120.0,
        help="seconds after which a request is answered with status 504 (default: 120)",
    )
    parser.add_argument(
        "--arrival",
        metavar="S",
        type=float,
        default=30.0,
        help="seconds in which a request must arrive, for its header and for its body (default: 30)",
    )
    parser.add_argument(
        "--images", metavar="FOLDER", help="folder that paths of images and videos are read from (default: none)"
    )
    parser.add_argument(
        "--allow-hosts",
        metavar="HOSTS",
        help="host names that images and videos are downloaded from, separated by commas (default: none)",
    )
    parser.add_argument(
        "--max-media",
        metavar="MIB",
        type=int,
        default=256,
        help="largest total size of the files and downloads that a request names, in MiB (default: 256)",
    )


def check_arguments(arguments: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: a number out of its range, an unknown dtype or device, no such folder, or an open address without a
            key.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> check_arguments(parser.parse_args(["model", "--host", "0.0.0.0"]))
    Traceback (most recent call last):
        ...
    basereward.cli.command.UsageError: --host 0.0.0.0 is open to other machines; set a key in BASEREWARD_SERVER_KEY, ...
    """
    _check_packages()
    check_scoring_arguments(arguments)
    check_at_least_one("--max-waiting", arguments.max_waiting)
    check_at_least_one("--max-media", arguments.max_media)
    for name, value in (("--window", arguments.window), ("--prefix-cache", arguments.prefix_cache)):
        if not value >= 0:
            raise UsageError(f"{name} {value:g}: at least 0 is needed")
    for name, value in (("--timeout", arguments.timeout), ("--arrival", arguments.arrival)):
        if not 0 < value <= MAX_SECONDS:
            raise UsageError(f"{name} {value:g}: above 0 and at most {MAX_SECONDS:,} seconds are allowed")
    if not 0 <= arguments.port <= MAX_PORT:
        raise UsageError(f"--port {arguments.port}: 0 to {MAX_PORT} are allowed")
    if arguments.images is not None and not os.path.isdir(arguments.images):
        raise UsageError(f"--images {arguments.images}: there is no such folder")
    if arguments.host not in LOCAL_HOSTS and not os.environ.get(KEY_VARIABLE):
        raise UsageError(
            f"--host {arguments.host} is open to other machines; set a key in {KEY_VARIABLE}, which clients send as "
            "`Authorization: Bearer KEY`"
        )


def _check_packages() -> None:
    """
    Raises:
        UsageError: a package of the extra `serve` is not installed.
    """
    missing = [name for name in ("fastapi", "prometheus_client", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"serve needs {', '.join(missing)}; install it with: pip install 'basereward[serve]'")


def run(arguments: argparse.Namespace) -> CommandResult:
    """Serves until the process is stopped."""
    with phase(LOADING_LIBRARIES):
        from basereward.inference.parallel_scorer import available_devices
        from basereward.serve.run_server import serve
        from basereward.serve.settings import ServerSettings

    settings = ServerSettings(
        window_s=arguments.window / 1000,
        tokens=arguments.tokens,
        max_waiting=arguments.max_waiting,
        timeout_s=arguments.timeout,
        arrival_s=arguments.arrival,
        prefix_bytes=arguments.prefix_cache * MIB,
        max_media_bytes=arguments.max_media * MIB,
        images=Path(arguments.images) if arguments.images else None,
        hosts=tuple(filter(None, (arguments.allow_hosts or "").split(","))),
        key=os.environ.get(KEY_VARIABLE) or None,
    )
    devices = available_devices(parse_devices(arguments.devices))
    serve(
        arguments.model,
        settings=settings,
        host=arguments.host,
        port=arguments.port,
        devices=devices,
        dtype=arguments.dtype,
    )
    return {"stopped": True}, SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """Says that the server has stopped.

    >>> list(format_text({"stopped": True}))
    ['the server has stopped']
    """
    yield "the server has stopped"


COMMAND = Command(
    summary="serve a model over HTTP, by our own protocol and those of RL trainers",
    activity="serve: {model} at http://{host}:{port}",
    examples=(
        "basereward serve runs/my_run/model",
        "basereward serve runs/my_run/model --port 9000 --devices cuda:0,cuda:1 --dtype bfloat16",
    ),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    run=run,
    format_text=format_text,
)
