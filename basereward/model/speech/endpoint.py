"""A served model behind OpenAI's chat completions protocol: vLLM, SGLang, llama.cpp, or a provider's own."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import requests

from basereward.data.screening import RowLost
from basereward.errors import ModelError, SilentError
from basereward.model.generation import Writing
from basereward.model.speech.engine import Answer, Failed, Request, Written
from basereward.model.speech.messages import chat_messages

KEY = "OPENAI_API_KEY"
PASSING = {408, 409, 425, 429}  # and all from 500: the same request may do later
OURS = ("model", "messages", "stream", "n")  # what an answer would not be read with otherwise
HOPELESS = {401, 403, 404, 405}  # no request will do
IN_A_ROW = 20  # requests without an answer, one after the other, and the endpoint is taken to be gone
LONGEST_WAIT_S = 60.0


class _Unanswered(Exception):
    """An attempt came to nothing; another may do better."""

    def __init__(self, reason: str, *, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s  # that the server asks for


class Endpoint:
    """An engine at an address.

    What passes is tried again, after waits that double and vary: no connection, no answer in time, the statuses 408,
    409, 425, 429 and those from 500, an answer that was cut or is not of the protocol, or an empty text. Other statuses
    fail the one request, or everything where no request could do better.

    Args:
        url: up to `/v1`, such as `http://localhost:8000/v1`.
        model: as the server calls it.
        key: the environment variable that holds the API key; the key itself is written nowhere.
        concurrency: requests under way at once.
        timeout_s: of one attempt.
        attempts: of one request.
        first_wait_s: before the second attempt.
        extra: more of the body of every request, for servers and models that want it; a key of ours that is None is
            not sent, as in `{"max_tokens": None, "max_completion_tokens": 2048}`.

    Raises:
        ModelError: the address is none, or a number is out of its range.
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
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ModelError(f"'{url}' is no address of an endpoint; one looks like http://localhost:8000/v1")
        if parts.username or parts.password:
            raise ModelError(f"an endpoint's address holds no password; put the key into the variable {key}")
        if min(concurrency, attempts) < 1 or timeout_s <= 0:
            raise ModelError(
                f"concurrency={concurrency} and attempts={attempts} are at least 1, timeout={timeout_s} is above 0"
            )
        self.url = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.model = model
        self.name = f"{model} at {parts.netloc}"
        self.key = key
        self.concurrency = concurrency
        self.timeout_s = timeout_s
        self.attempts = attempts
        self.first_wait_s = first_wait_s
        self.extra = dict(extra or {})

    def write(self, asked: Iterable[Request], how: Writing) -> Iterator[Answer]:
        """As `Engine.write`. No more than `concurrency` requests are read ahead.

        Raises:
            ModelError: the key or the model is refused.
            SilentError: twenty requests in a row are not answered. What is under way is waited for in both cases.
        """
        waiting, stop = iter(asked), Event()
        error: BaseException | None = None
        unanswered = 0
        with ThreadPoolExecutor(self.concurrency) as pool:
            working: set[Future[Answer]] = set()
            try:
                while True:
                    for request in islice(waiting, 0 if stop.is_set() else self.concurrency - len(working)):
                        working.add(pool.submit(self._ask, request, how, stop))
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
            finally:  # also when nobody asks for more
                stop.set()
                for future in working:
                    future.cancel()
        if error is not None:
            raise error

    def _silence(self, count: int, last: Failed) -> str:
        return (
            f"{self.name} left {count} requests in a row without an answer; the last: {last.reason}. See that it is "
            "up, then call again: what was answered is kept"
        )

    def _ask(self, request: Request, how: Writing, stop: Event) -> Answer:
        """After `stop` no further attempt is made."""
        try:
            body = self._body(request, how)
        except RowLost as loss:
            return Failed(request.id, f"{loss.reason}: {loss.detail}", 0, refused=True)
        attempt = 1
        while True:
            try:
                return self._answer(request, body)
            except _Refused as refused:
                return Failed(request.id, str(refused), attempt, refused=True)
            except _Unanswered as nothing:
                doubled = self.first_wait_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                wait_s = min(max(doubled, nothing.wait_s), LONGEST_WAIT_S)
                if attempt == self.attempts or stop.wait(wait_s):
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

    def _answer(self, request: Request, body: dict[str, Any]) -> Written:
        content = self._posted(body)
        try:
            answer = json.loads(content)
            text = answer["choices"][0]["message"]["content"]
            usage = answer.get("usage") or {}
            counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise _Unanswered(f"not an answer of the protocol: {_start(content, 80)}") from error
        if not isinstance(text, str) or not text.strip():
            raise _Unanswered("an empty text")
        return Written(request.id, text, *counts)

    def _posted(self, body: dict[str, Any]) -> bytes:
        """What comes back, whole and in time."""
        key = os.environ.get(self.key)
        last = time.monotonic() + self.timeout_s
        try:
            with requests.post(
                self.url,
                json=body,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=self.timeout_s,  # of every wait for bytes; a server may send a few before each runs out
                allow_redirects=False,
                stream=True,
            ) as response:
                pieces = []
                for piece in response.iter_content(None):
                    pieces.append(piece)
                    if time.monotonic() > last:
                        raise _Unanswered(f"no whole answer after {self.timeout_s:g} s")
        except (requests.exceptions.InvalidHeader, UnicodeError) as error:
            raise ModelError(f"the key in the variable {self.key} cannot be sent: it has letters no key has") from error
        except requests.exceptions.RequestException as error:
            raise _Unanswered(f"{type(error).__name__} after at most {self.timeout_s:g} s") from error
        content = b"".join(pieces)
        self._check_status(response, content)
        return content

    def _check_status(self, response: requests.Response, content: bytes) -> None:
        status = response.status_code
        if status == 200:
            return
        said = f"status {status}: {_start(content, 200)}"
        if status in PASSING or status >= 500:
            after = response.headers.get("Retry-After", "")
            raise _Unanswered(said, wait_s=float(after) if after.isdecimal() else 0.0)
        if status in (401, 403):
            state = "the key there is refused" if os.environ.get(self.key) else "there is none"
            raise ModelError(f"{self.name} wants an API key in the environment variable {self.key}; {state} ({said})")
        if status in HOPELESS or 300 <= status < 400:
            raise ModelError(f"{self.url} has no model '{self.model}', or is not an endpoint's address ({said})")
        raise _Refused(said)


def read_extra(text: str | None) -> dict[str, Any]:
    """The JSON object that `--send` is, or nothing.

    Raises:
        ModelError: it is none, or has a key that is not to be changed.
    """
    try:
        extra = json.loads(text or "{}")
    except ValueError as error:
        raise ModelError(f'--send {text!r} is not JSON ({error}); one is \'{{"reasoning_effort": "low"}}\'') from error
    if not isinstance(extra, dict) or any(key in extra for key in OURS):
        raise ModelError(f"--send {text!r}: an object is needed, without the keys {', '.join(OURS)}")
    return extra


def _start(content: bytes, letters: int) -> str:
    return repr(content[: 4 * letters].decode("utf-8", "replace")[:letters])


class _Refused(Exception):
    """The server will not take this one request, however often it comes."""
