"""A served model behind OpenAI's chat completions protocol: vLLM, SGLang, llama.cpp, or a provider's own."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import requests

from basereward.data.screening import RowLost
from basereward.errors import ModelError
from basereward.model.generation import Writing
from basereward.model.speech.engine import Answer, Failed, Request, Written
from basereward.model.speech.messages import chat_messages

KEY = "OPENAI_API_KEY"
PASSING = {408, 409, 425, 429}  # and all from 500: the same request may do later
HOPELESS = {401, 403, 404, 405}  # no request will do
IN_A_ROW = 20  # requests that fail one after the other before anything was answered
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

    def write(self, asked: Iterable[Request], how: Writing) -> Iterator[Answer]:
        """As `Engine.write`. No more than `concurrency` requests are read ahead.

        Raises:
            ModelError: the key or the model is refused, or the first twenty requests all fail.
        """
        waiting = iter(asked)
        answered, failed = 0, 0
        with ThreadPoolExecutor(self.concurrency) as pool:
            working: set[Future[Answer]] = set()
            try:
                while True:
                    for request in islice(waiting, self.concurrency - len(working)):
                        working.add(pool.submit(self._ask, request, how))
                    if not working:
                        return
                    done, working = wait(working, return_when=FIRST_COMPLETED)
                    for answer in [future.result() for future in done]:
                        answered += isinstance(answer, Written)
                        failed += isinstance(answer, Failed)
                        yield answer
                        if isinstance(answer, Failed) and not answered and failed >= IN_A_ROW:
                            raise ModelError(
                                f"{self.name}: the first {failed} requests all failed; the last: {answer.reason}"
                            )
            finally:
                for future in working:
                    future.cancel()

    def _ask(self, request: Request, how: Writing) -> Answer:
        try:
            body = self._body(request, how)
        except RowLost as loss:
            return Failed(request.id, f"{loss.reason}: {loss.detail}", 0)
        reason = ""
        for attempt in range(1, self.attempts + 1):
            try:
                return self._answer(request, body)
            except _Refused as refused:
                return Failed(request.id, str(refused), attempt)
            except _Unanswered as nothing:
                reason = str(nothing)
                if attempt < self.attempts:
                    doubled = self.first_wait_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
                    time.sleep(min(max(doubled, nothing.wait_s), LONGEST_WAIT_S))
        return Failed(request.id, reason, self.attempts)

    def _body(self, request: Request, how: Writing) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": chat_messages(request.turns, request.images),
            "max_tokens": how.max_tokens,
            "temperature": how.temperature,
            "top_p": how.top_p,
            "seed": how.seed,
        }

    def _answer(self, request: Request, body: dict[str, Any]) -> Written:
        key = os.environ.get(self.key)
        try:
            response = requests.post(
                self.url,
                json=body,
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=self.timeout_s,
                allow_redirects=False,
            )
        except (requests.exceptions.InvalidHeader, UnicodeError) as error:
            raise ModelError(f"the key in the variable {self.key} cannot be sent: it has letters no key has") from error
        except requests.exceptions.RequestException as error:
            raise _Unanswered(f"{type(error).__name__} after at most {self.timeout_s:g} s") from error
        self._check_status(response)
        try:
            answer = response.json()
            text = answer["choices"][0]["message"]["content"]
            usage = answer.get("usage") or {}
            counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _Unanswered(f"not an answer of the protocol: {response.text[:80]!r}") from error
        if not isinstance(text, str) or not text.strip():
            raise _Unanswered("an empty text")
        return Written(request.id, text, *counts)

    def _check_status(self, response: requests.Response) -> None:
        status = response.status_code
        if status == 200:
            return
        said = f"status {status}: {response.text[:200]!r}"
        if status in PASSING or status >= 500:
            after = response.headers.get("Retry-After", "")
            raise _Unanswered(said, wait_s=float(after) if after.isdecimal() else 0.0)
        if status in (401, 403):
            state = "the key there is refused" if os.environ.get(self.key) else "there is none"
            raise ModelError(f"{self.name} wants an API key in the environment variable {self.key}; {state} ({said})")
        if status in HOPELESS or 300 <= status < 400:
            raise ModelError(f"{self.url} has no model '{self.model}', or is not an endpoint's address ({said})")
        raise _Refused(said)


class _Refused(Exception):
    """The server will not take this one request, however often it comes."""
