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

import requests

from basereward.data.schema.rejections import RowRejected
from basereward.errors import ModelError, SilentError
from basereward.inference.judges.engine import Answer, Arrived, Failed, Request, Written
from basereward.inference.judges.http import Calls, Reply, TooLarge, TooSlow
from basereward.inference.judges.messages import chat_messages
from basereward.io.limits import MIB, parse_json
from basereward.io.secrets import redact
from basereward.model.generation.generate import Writing

KEY = "OPENAI_API_KEY"
PASSING = {408, 409, 425, 429}  # temporary faults, like all from 500: the same request may succeed later
OURS = ("model", "messages", "stream", "n")  # fields that a user must not change: they decide how answers are read
HOPELESS = {401, 403, 404, 405}  # faults of every request
IN_A_ROW = 20  # consecutive requests without an answer, after which the endpoint counts as unreachable
LONGEST_WAIT_S = 60.0
MAX_BYTES = 8 * MIB  # of one response, unpacked; a long answer has about 100 KiB
MOST_TOKENS = 2**53  # larger counts are not exact in JSON numbers, so they are no counts


class _Unanswered(Exception):
    """An attempt without an answer.

    Args:
        wait_s: delay that the server asks for.
        again: whether another attempt may succeed.
    """

    def __init__(self, reason: str, *, wait_s: float = 0.0, again: bool = True) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.again = again


class Endpoint:
    """An engine at an address.

    Temporary faults are retried with exponential backoff and jitter: no connection, no answer in time, the statuses
    408, 409, 425, 429 and those from 500, an answer that is truncated or breaks the protocol, and an empty text. Other
    statuses fail the request, or all requests if none could succeed.

    Args:
        url: up to `/v1`, such as `http://localhost:8000/v1`.
        model: the server's name of the model.
        key: name of the environment variable with the API key; the key itself is never written.
        concurrency: requests in flight.
        timeout_s: of one attempt, from the connection to the last byte of the response.
        attempts: of one request.
        first_wait_s: before the second attempt.
        max_bytes: of one response, after unpacking; a longer one fails the request.
        extra: further fields of the body of every request; None removes one of our fields, as in
            `{"max_tokens": None, "max_completion_tokens": 2048}`.

    Raises:
        ModelError: the address is not valid, or a number is out of range.
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
                f"concurrency={concurrency}, attempts={attempts} and max_bytes={max_bytes} are at least 1, "
                f"timeout={timeout_s} is above 0 and finite"
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

    def write(self, asked: Iterable[Request], how: Writing, *, arrived: Arrived | None = None) -> Iterator[Answer]:
        """As `Engine.write`. At most `concurrency` requests are read ahead; `arrived` is called in their threads.

        Requests in flight are completed before an error is raised, and aborted if the caller is interrupted or stops
        reading.

        Raises:
            ModelError: the server rejects the key or the model.
            SilentError: twenty consecutive requests have no answer.
        """
        waiting, stop, calls = iter(asked), Event(), Calls(max_bytes=self.max_bytes, timeout_s=self.timeout_s)
        error: BaseException | None = None
        unanswered = 0
        with ThreadPoolExecutor(self.concurrency) as pool, _ended(stop, calls, pool):
            working: set[Future[Answer]] = set()
            while True:
                for request in islice(waiting, 0 if stop.is_set() else self.concurrency - len(working)):
                    working.add(pool.submit(self._ask, request, how, stop, calls, arrived))
                if not working:
                    break
                done, working = wait(working, return_when=FIRST_COMPLETED)
                for future in done:
                    if found := future.exception():
                        error = error or found
                        stop.set()
                        continue
                    answer = future.result()
                    passing = isinstance(answer, Failed) and not answer.refused
                    unanswered = unanswered + 1 if passing else 0
                    yield answer
                    if isinstance(answer, Failed) and unanswered >= IN_A_ROW:
                        error = error or SilentError(self._silence(unanswered, answer))
                        stop.set()
        if error is not None:
            raise error

    def _silence(self, count: int, last: Failed) -> str:
        return (
            f"{self.name} left {count} requests in a row without an answer; the last: {last.reason}. See that it is "
            "up, then call again: what was answered is kept"
        )

    def _ask(self, request: Request, how: Writing, stop: Event, calls: Calls, arrived: Arrived | None) -> Answer:
        answer = self._attempted(request, how, stop, calls)
        if arrived is not None and isinstance(answer, Written):
            arrived(answer)
        return answer

    def _attempted(self, request: Request, how: Writing, stop: Event, calls: Calls) -> Answer:
        """The answer of the last attempt. After `stop` there are no further attempts."""
        try:
            body = self._body(request, how)
        except RowRejected as loss:
            return Failed(request.id, f"{loss.reason}: {loss.detail}", 0, refused=True)
        attempt = 1
        while True:
            try:
                return self._answer(request, body, calls)
            except _Refused as refused:
                return Failed(request.id, str(refused), attempt, refused=True)
            except _Unanswered as nothing:
                doubled = self.first_wait_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                wait_s = min(max(doubled, nothing.wait_s), LONGEST_WAIT_S)
                if attempt == self.attempts or not nothing.again or stop.wait(wait_s):
                    return Failed(request.id, str(nothing), attempt)
            attempt += 1

    def _body(self, request: Request, how: Writing) -> dict[str, Any]:
        body = {
            "model": self.model,
            "messages": chat_messages(request.turns, request.images),
            "max_tokens": how.max_tokens,
            "temperature": how.temperature,
            "top_p": how.top_p,
            "seed": how.seed,
        }
        return {key: value for key, value in {**body, **self.extra}.items() if value is not None}

    def _answer(self, request: Request, body: dict[str, Any], calls: Calls) -> Written:
        key = os.environ.get(self.key, "")
        content = self._posted(body, key, calls)
        try:
            text, *counts = _said(content)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _Unanswered(f"not an answer of the protocol: {_start(content, 80, key)}") from error
        if not text.strip():
            raise _Unanswered("an empty text")
        return Written(request.id, redact(text, (key,)) if key and key in text else text, *counts)

    def _posted(self, body: dict[str, Any], key: str, calls: Calls) -> bytes:
        """The content of a complete response with status 200."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            reply = calls.post(self.url, body, headers)
        except (requests.exceptions.InvalidHeader, UnicodeError) as error:
            raise ModelError(f"the key in the variable {self.key} cannot be sent: it has letters no key has") from error
        except TooLarge as error:  # the same request would be answered at the same length
            raise _Unanswered(str(error), again=False) from error
        except TooSlow as error:
            raise _Unanswered(str(error)) from error
        except OSError as error:  # what `requests` raises is one
            raise _Unanswered(f"{type(error).__name__} after at most {self.timeout_s:g} s") from error
        self._check_status(reply, key)
        return reply.content

    def _check_status(self, reply: Reply, key: str) -> None:
        status = reply.status
        if status == 200:
            return
        said = f"status {status}: {_start(reply.content, 200, key)}"
        if status in PASSING or status >= 500:
            after = reply.retry_after
            raise _Unanswered(said, wait_s=float(after) if after.isascii() and after.isdecimal() else 0.0)
        if status in (401, 403):
            state = "the key there is refused" if key else "there is none"
            raise ModelError(f"{self.name} wants an API key in the environment variable {self.key}; {state} ({said})")
        if status in HOPELESS or 300 <= status < 400:
            raise ModelError(f"{self.url} has no model '{self.model}', or is not an endpoint's address ({said})")
        raise _Refused(said)


@contextlib.contextmanager
def _ended(stop: Event, calls: Calls, pool: ThreadPoolExecutor) -> Iterator[None]:
    """Starts no request after the block; aborts those in flight if the caller is interrupted or stops reading."""
    try:
        yield
    except BaseException as error:
        stop.set()
        if not isinstance(error, Exception):
            calls.abort()
        raise
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _checked_host(url: str, key: str) -> str:
    """Host and port of an endpoint's address. No message shows a password in it.

    Raises:
        ModelError: it is not a valid address.
    """
    if "@" in url:
        raise ModelError(f"an endpoint's address holds no password; put the key into the variable {key}")
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:  # a port above 65535, or half an IPv6 address
        fits = False
    if not fits:
        raise ModelError(f"'{url}' is no address of an endpoint; one looks like http://localhost:8000/v1")
    if parts.query or parts.fragment:
        raise ModelError(
            f"'{parts.scheme}://{parts.netloc}{parts.path}' is followed by ? or #; an endpoint's address ends with its "
            f"path, and a key belongs into the variable {key}"
        )
    return parts.netloc


def _said(content: bytes) -> tuple[str, int, int]:
    """The text of the only choice, and the numbers of prompt tokens and generated tokens.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: the content is not an answer of the protocol.
    """
    answer = parse_json(content.decode(), where="the response")
    (choice,) = answer["choices"]  # one was asked for
    text = choice["message"]["content"]
    if text is not None and not isinstance(text, str):
        raise TypeError("the content is no text")
    usage = answer.get("usage") or {}
    counts = [usage.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")]
    if not all(isinstance(count, int | float) and 0 <= count <= MOST_TOKENS for count in counts):
        raise ValueError("the counts of tokens are none")
    return text or "", int(counts[0]), int(counts[1])


def read_extra(text: str | None) -> dict[str, Any]:
    """Parses the JSON object of `--send`; an empty one without it.

    Raises:
        ModelError: it is not a JSON object, or has a field that must not be changed.
    """
    try:
        extra = json.loads(text or "{}")
    except ValueError as error:
        raise ModelError(f'--send {text!r} is not JSON ({error}); one is \'{{"reasoning_effort": "low"}}\'') from error
    if not isinstance(extra, dict) or any(key in extra for key in OURS):
        raise ModelError(f"--send {text!r}: an object is needed, without the keys {', '.join(OURS)}")
    return extra


def _start(content: bytes, letters: int, key: str) -> str:
    """The first characters of a response, without the API key, which a server may send back."""
    # A key that the cut would halve is replaced as a whole first.
    return repr(redact(content[: 4 * letters + 4096].decode("utf-8", "replace"), (key,) if key else ())[:letters])


class _Refused(Exception):
    """The server rejects this request, and would reject it again."""
