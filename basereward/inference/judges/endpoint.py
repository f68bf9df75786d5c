"""A client of OpenAI's chat completions protocol: for vLLM, SGLang, llama.cpp servers and providers."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from basereward.data.schema.rejections import RowRejected
from basereward.errors import ModelError, SilentError
from basereward.inference.judges.engine import Answer, Completion, Failed, OnCompletion, Request
from basereward.inference.judges.messages import chat_messages
from basereward.io.http.client import HTTPClient, MalformedHeader, Reply, TooLarge, TooSlow
from basereward.io.limits import MIB, parse_json
from basereward.io.secrets import redact
from basereward.model.generation.generate import SamplingParams
from basereward.model.generation.seeded_sampling import text_seed

KEY = "OPENAI_API_KEY"
# Statuses of temporary faults, besides all from 500: the same request may succeed later.
TEMPORARY = {408, 409, 425, 429}
# Statuses of faults that every request would have: a wrong key, model or address.
PERMANENT = {401, 403, 404, 405}
# Fields of the body that a user must not change: they decide how the response is parsed.
RESERVED = ("model", "messages", "stream", "n")
# After this number of consecutive requests without an answer the server counts as unreachable.
MAX_CONSECUTIVE_FAILURES = 20
LONGEST_WAIT_S = 60.0
# Limit of one response after decoding. A long answer has about 100 KiB.
MAX_BYTES = 8 * MIB
# JSON numbers are exact up to here; a larger number of tokens is a fault of the server.
MAX_TOKEN_COUNT = 2**53


class _Unanswered(Exception):
    """An attempt without an answer.

    Args:
        reason: for the user.
        wait_s: delay that the server asks for, in seconds.
        retry: whether another attempt may succeed.
    """

    def __init__(self, reason: str, *, wait_s: float = 0.0, retry: bool = True) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.retry = retry


class _Refused(Exception):
    """The server rejects this request, and would reject it again."""


class Endpoint:
    """An engine at an address.

    Temporary faults are retried with exponential backoff and jitter: no connection, no answer in time, the statuses
    408, 409, 425, 429 and those from 500, a response that is truncated or not of the protocol, and an empty text. With
    another status the request fails; the whole call fails if no request could succeed.

    Args:
        url: the address up to `/v1`, such as `http://localhost:8000/v1`.
        model: the server's name of the model.
        key: name of the environment variable with the API key; the key itself is never written.
        concurrency: requests in flight.
        timeout_s: limit of one attempt in seconds, from the connection to the last byte of the response.
        attempts: largest number of attempts for one request.
        first_wait_s: seconds before the second attempt; the wait doubles with every further one.
        max_bytes: limit of one response after decoding; a request with a longer one fails.
        extra: further fields of the body of every request; None removes a field of ours, as in
            `{"max_tokens": None, "max_completion_tokens": 2048}`.

    Raises:
        ModelError: the address is not valid, or a number is out of range.

    >>> Endpoint("http://localhost:8000/v1", "Qwen2.5-VL-7B").name
    'Qwen2.5-VL-7B at localhost:8000'
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str = KEY,
        concurrency: int = 8,
        timeout_s: float = 120.0,
        attempts: int = 5,
        first_wait_s: float = 1.0,
        max_bytes: int = MAX_BYTES,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        host = _checked_host(url, key)
        if min(concurrency, attempts, max_bytes) < 1 or not 0 < timeout_s < float("inf"):
            raise ModelError(
                f"concurrency={concurrency}, attempts={attempts} and max_bytes={max_bytes} must be at least 1, and "
                f"timeout={timeout_s} must be above 0 and finite"
            )
        self.url = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.model = model
        self.name = f"{model} at {host}"
        self.key = key
        self.concurrency = concurrency
        self.timeout_s = timeout_s
        self.attempts = attempts
        self.first_wait_s = first_wait_s
        self.max_bytes = max_bytes
        self.extra = dict(extra or {})

    def generate(
        self, requests: Iterable[Request], sampling: SamplingParams, *, on_completion: OnCompletion | None = None
    ) -> Iterator[Answer]:
        """As `Engine.generate`, with up to `concurrency` requests in flight; their threads call `on_completion`.

        Requests in flight are completed before an error is raised, and aborted if the caller is interrupted or stops
        reading.

        Raises:
            ModelError: the server rejects the key or the model.
            SilentError: twenty consecutive requests have no answer.
        """
        call = _Call(self, sampling, on_completion)
        with ThreadPoolExecutor(self.concurrency) as pool, _stopped_after(call, pool):
            yield from call.answers(iter(requests), pool)
        if call.error is not None:
            raise call.error

    def request_body(self, request: Request, sampling: SamplingParams) -> dict[str, Any]:
        """The JSON object that is sent for a request.

        Raises:
            RowRejected: an image of the request cannot be opened.

        >>> endpoint = Endpoint("http://localhost:8000/v1", "qwen", extra={"max_tokens": None, "top_k": 1})
        >>> sorted(endpoint.request_body(Request("a", ()), SamplingParams()))
        ['messages', 'model', 'seed', 'temperature', 'top_k', 'top_p']
        """
        body = {
            "model": self.model,
            "messages": chat_messages(request.turns, request.images),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            # Servers draw the tokens of a request from its seed; with one seed for all, their draws would be equal.
            "seed": text_seed(sampling.seed, request.id),
        }
        return {key: value for key, value in {**body, **self.extra}.items() if value is not None}

    def attempt(self, request: Request, body: dict[str, Any], client: HTTPClient) -> Completion:
        """Sends a request once.

        Raises:
            ModelError: no request to this server can succeed.
        """
        # Read at every attempt, so that the key is in no attribute that a log or a traceback could show.
        key = os.environ.get(self.key, "")
        content = self._post(body, key, client)
        try:
            text, *counts = _parsed(content)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _Unanswered(f"the response is no chat completion: {_start(content, 80, key)}") from error
        if not text.strip():
            raise _Unanswered("the generated text is empty")
        # A server may send the key back, and texts are written to files.
        return Completion(request.id, redact(text, (key,)) if key and key in text else text, *counts)

    def _post(self, body: dict[str, Any], key: str, client: HTTPClient) -> bytes:
        """The content of a complete response with status 200."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # Before the request: the client raises the same error for a wrong header of the response.
        if not key.isascii() or not key.isprintable():
            raise ModelError(
                f"the API key in the environment variable {self.key} cannot be sent: it has characters that a header "
                "must not have. Set the variable to the key alone"
            )
        try:
            reply = client.post(self.url, body, headers)
        except MalformedHeader as error:
            raise _Unanswered(str(error)) from error
        except TooLarge as error:
            # The same request would have a response of the same length.
            raise _Unanswered(str(error), retry=False) from error
        except TooSlow as error:
            raise _Unanswered(str(error)) from error
        except OSError as error:
            # Only the type: messages of `requests` are long and repeat the address.
            raise _Unanswered(f"{type(error).__name__} after at most {self.timeout_s:g} s") from error
        self._check_status(reply, key)
        return reply.content

    def _check_status(self, reply: Reply, key: str) -> None:
        """Checks the status of a response.

        Raises:
            ModelError: no request to this server can succeed.
        """
        status = reply.status
        if status == 200:
            return
        detail = f"status {status}: {_start(reply.content, 200, key)}"
        if status in TEMPORARY or status >= 500:
            after = reply.retry_after
            # `Retry-After` may also be a date, which is ignored.
            raise _Unanswered(detail, wait_s=float(after) if after.isascii() and after.isdecimal() else 0.0)
        if status in (401, 403):
            state = "the server refused it" if key else "the variable is not set"
            raise ModelError(f"{self.name} needs an API key in the environment variable {self.key}; {state} ({detail})")
        if status in PERMANENT or 300 <= status < 400:
            raise ModelError(f"{self.url} has no model '{self.model}', or is not the address of an endpoint ({detail})")
        raise _Refused(detail)


class _Call:
    """One call of `Endpoint.generate`, whose requests run in the threads of a pool.

    Args:
        endpoint: sends the requests.
        sampling: settings of every text.
        on_completion: called with every text.

    Attributes:
        error: the first error that concerns all requests; no request is started after it.
    """

    def __init__(self, endpoint: Endpoint, sampling: SamplingParams, on_completion: OnCompletion | None) -> None:
        self.endpoint = endpoint
        self.sampling = sampling
        self.on_completion = on_completion
        self.client = HTTPClient(max_bytes=endpoint.max_bytes, timeout_s=endpoint.timeout_s)
        self.stop = Event()
        self.error: BaseException | None = None
        self._consecutive_failures = 0

    def answers(self, requests: Iterator[Request], pool: ThreadPoolExecutor) -> Iterator[Answer]:
        """Yields answers as they arrive, until all requests have one or an error concerns all of them."""
        running: set[Future[Answer]] = set()
        while True:
            # No more requests are read than can be sent at once: they may hold images, and there may be millions.
            free = 0 if self.stop.is_set() else self.endpoint.concurrency - len(running)
            running.update(pool.submit(self._answer, request) for request in islice(requests, free))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                if error := future.exception():
                    self._fail(error)
                else:
                    answer = future.result()
                    yield answer
                    self._count_failures(answer)

    def _fail(self, error: BaseException) -> None:
        self.error = self.error or error
        self.stop.set()

    def _count_failures(self, answer: Answer) -> None:
        """Stops the call if too many consecutive requests have failed."""
        # A request that is itself at fault says nothing about the server.
        if not isinstance(answer, Failed) or answer.refused:
            self._consecutive_failures = 0
            return
        self._consecutive_failures += 1
        if self._consecutive_failures >= MAX_CONSECUTIVE_FAILURES:
            self._fail(
                SilentError(
                    f"{self.endpoint.name} left {self._consecutive_failures} requests in a row without an answer; the "
                    f"last: {answer.reason}. Check that the server is up and repeat the command: answers that were "
                    "received are kept"
                )
            )

    def _answer(self, request: Request) -> Answer:
        """The answer to a request; it runs in a thread of the pool."""
        answer = self._last_attempt(request)
        if self.on_completion is not None and isinstance(answer, Completion):
            self.on_completion(answer)
        return answer

    def _last_attempt(self, request: Request) -> Answer:
        """The result of the last attempt. After `stop` there are no further attempts."""
        try:
            body = self.endpoint.request_body(request, self.sampling)
        except RowRejected as rejection:
            return Failed(request.id, f"{rejection.reason}: {rejection.detail}", 0, refused=True)
        attempt = 1
        while True:
            try:
                return self.endpoint.attempt(request, body, self.client)
            except _Refused as refusal:
                return Failed(request.id, str(refusal), attempt, refused=True)
            except _Unanswered as failure:
                # The jitter spreads requests that failed together, so that they do not return together.
                backoff_s = self.endpoint.first_wait_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                wait_s = min(max(backoff_s, failure.wait_s), LONGEST_WAIT_S)
                if attempt == self.endpoint.attempts or not failure.retry or self.stop.wait(wait_s):
                    return Failed(request.id, str(failure), attempt)
            attempt += 1


@contextlib.contextmanager
def _stopped_after(call: _Call, pool: ThreadPoolExecutor) -> Iterator[None]:
    """Starts no request after the block; aborts those in flight if the caller is interrupted or stops reading."""
    try:
        yield
    except BaseException as error:
        call.stop.set()
        # KeyboardInterrupt, or GeneratorExit when the caller closes the generator: the answers are not used.
        if not isinstance(error, Exception):
            call.client.abort()
        raise
    finally:
        call.stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _checked_host(url: str, key: str) -> str:
    """Host and port of the address of an endpoint. No message repeats a password in it.

    Raises:
        ModelError: it is not a valid address.

    >>> _checked_host("http://localhost:8000/v1", KEY)
    'localhost:8000'
    """
    if "@" in url:
        raise ModelError(
            f"the address of an endpoint must not hold a password; put the API key into the environment variable {key}"
        )
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:
        # A port above 65535, or half an IPv6 address.
        valid = False
    if not valid:
        raise ModelError(f"'{url}' is no address of an endpoint; an example is http://localhost:8000/v1")
    if parts.query or parts.fragment:
        # The rest of the address is not shown: it may hold a key.
        raise ModelError(
            f"'{parts.scheme}://{parts.netloc}{parts.path}' is followed by ? or #; an endpoint address ends with "
            f"its path. Put an API key into the environment variable {key}"
        )
    return parts.netloc


def _parsed(content: bytes) -> tuple[str, int, int]:
    """The text of the only choice, and the numbers of prompt tokens and generated tokens.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: the content is not a chat completion.

    >>> _parsed(b'{"choices": [{"message": {"content": "1"}}], "usage": {"completion_tokens": 2}}')
    ('1', 0, 2)
    """
    answer = parse_json(content.decode(), where="the response")
    # One choice was requested; a server that gives several does not follow the protocol.
    (choice,) = answer["choices"]
    text = choice["message"]["content"]
    if text is not None and not isinstance(text, str):
        raise TypeError("the content of the message is not text")
    usage = answer.get("usage") or {}
    counts = [usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")]
    if not all(isinstance(count, int | float) and 0 <= count <= MAX_TOKEN_COUNT for count in counts):
        raise ValueError("the numbers of tokens are not valid")
    return text or "", int(counts[0]), int(counts[1])


def read_extra(text: str | None) -> dict[str, Any]:
    """Parses the JSON object of `--send`; without it the object is empty.

    Raises:
        ModelError: it is not a JSON object, or has a field that must not be changed.

    >>> read_extra('{"reasoning_effort": "low"}')
    {'reasoning_effort': 'low'}
    """
    try:
        extra = json.loads(text or "{}")
    except ValueError as error:
        raise ModelError(
            f'--send {text!r} is not JSON ({error}); an example is \'{{"reasoning_effort": "low"}}\''
        ) from error
    if not isinstance(extra, dict) or any(key in extra for key in RESERVED):
        raise ModelError(f"--send {text!r}: an object is needed, without the keys {', '.join(RESERVED)}")
    return extra


def _start(content: bytes, characters: int, key: str) -> str:
    """The first characters of a response, without the API key, which a server may send back."""
    # The key is replaced in a longer part first: a cut through the key would leave its beginning.
    beginning = content[: 4 * characters + 4096].decode("utf-8", "replace")
    return repr(redact(beginning, (key,) if key else ())[:characters])
