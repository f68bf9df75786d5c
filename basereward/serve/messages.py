"""What the server and its workers send each other. No import of torch: the server itself needs none."""

from __future__ import annotations

from typing import Any, NamedTuple

from basereward.data.schema.group import Group
from basereward.errors import BaseRewardError


class WorkerSetup(NamedTuple):
    """What a worker needs to begin.

    Attributes:
        model, device, dtype: as in `basereward.load`.
        window_s, tokens, prefix_bytes: as in `ServerSettings`.
        trusted: whether code from outside this package may run.
        parent: process number of the server.
    """

    model: str
    device: str | None
    dtype: str | None
    window_s: float
    tokens: int | None
    prefix_bytes: int
    trusted: bool
    parent: int


class Ready(NamedTuple):
    """A worker has opened the model.

    Attributes:
        info: name and hashes of the model, and mean and spread of its scores on validation data.
    """

    info: dict[str, Any]


class Job(NamedTuple):
    """A request to score.

    Attributes:
        number: of the request, in this worker.
        key: equal for requests of the same prompt with the same images.
        group: the prompt and the responses.
    """

    number: int
    key: bytes
    group: Group


class Cancel(NamedTuple):
    """The client of a request has gone; the request is not scored if that has not begun."""

    number: int


class JobResult(NamedTuple):
    """The scores of a request, or its error."""

    number: int
    result: list[float] | BaseRewardError
