"""What the server and its workers send each other. No import of torch: the server itself needs none."""

from __future__ import annotations

from typing import Any, NamedTuple

from basereward.data.schema.group import Group
from basereward.errors import BaseRewardError


class WorkerSetup(NamedTuple):
    """What a worker needs to begin.

    Attributes:
        model, device, dtype: as in `basereward.load`.
        threads: of torch; None: as many as it chooses.
        window_s, tokens, prefix_bytes: as in `ServerSettings`.
        trusted: whether code from outside this package may run.
        parent: process number of the server.
    """

    model: str
    device: str | None
    dtype: str | None
    threads: int | None
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


class TextSettings(NamedTuple):
    """How a text is written.

    Attributes:
        max_tokens, temperature, top_p, seed: as in `SamplingParams`, which is not used here because it needs torch.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


class WrittenText(NamedTuple):
    """A text that a judge has written; the attributes are those of `GeneratedText`."""

    text: str
    prompt_tokens: int
    tokens: int
    is_complete: bool


class Job(NamedTuple):
    """A request to score responses, or to write a text.

    Attributes:
        number: of the request, in this worker.
        key: equal for requests of the same prompt with the same images.
        group: the prompt and the responses; without responses where a text is written.
        text: how the text is written that follows the prompt; None: the responses are scored.
    """

    number: int
    key: bytes
    group: Group
    text: TextSettings | None = None


class Cancel(NamedTuple):
    """The client of a request has gone; the request is not scored if that has not begun."""

    number: int


class JobResult(NamedTuple):
    """The answer to a request.

    Attributes:
        number: of the request.
        result: scores, a text, or an error.
        computed: responses that this process has scored and texts that it has written so far, for all requests.
    """

    number: int
    result: list[float] | WrittenText | BaseRewardError
    computed: int
