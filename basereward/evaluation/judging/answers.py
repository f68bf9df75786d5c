"""Store the answers of a judge as they arrive, so that a call that is stopped anywhere can resume."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from basereward.errors import DataError, SilentError
from basereward.inference.judges.engine import Completion, Engine, Failed, Request
from basereward.io.journal import Journal
from basereward.io.progress import Phase, begin
from basereward.model.generation.generate import SamplingParams

logger = logging.getLogger(__name__)
# Failures that are logged one by one. If all of the first requests fail, the call stops at this number.
MAX_LOGGED_FAILURES = 20


class Answers:
    """A JSON Lines file of answers: a header, then one line per answer.

    Only one process at a time can open the file.

    Args:
        file: made if it does not exist. An incomplete last line is removed.
        header: identifies the requests and the judge. A file with another header is refused.

    Raises:
        DataError: the file has another header, is damaged, or is open in another process.
    """

    def __init__(self, file: Path, *, header: Mapping[str, Any]) -> None:
        self.file = file
        self.known: dict[str, dict[str, Any]] = {}
        self.failed: list[Failed] = []
        self.fresh = 0
        self.seconds = 0.0
        self._lock = Lock()
        self._journal = Journal(file)
        try:
            if self._journal.head is None:
                self._journal.restart(header)
            else:
                self._read(dict(header))
        except BaseException:
            # The caller gets no object that it could close, and the lock would last as long as the process.
            self.close()
            raise
        if self.known:
            logger.warning("%d answers are stored from an earlier call; only the others are requested", len(self.known))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, so that other processes can open it."""
        self._journal.close()

    def ask(
        self, engine: Engine, requests: Iterable[Request], how: SamplingParams, *, total: int | None = None
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Send the requests that have no answer yet, and yield each answer once it is on the disk.

        Requests that fail are added to `failed`. An answer is written to the disk when it arrives, in the thread of the
        engine, so that an interruption loses only the requests that are under way.

        Args:
            engine: the judge.
            requests: in any number; they are read as the engine needs them.
            how: sampling parameters.
            total: number of requests, for the time that is left; None: unknown.

        Yields:
            The id of the request, and the line of the file.

        Raises:
            SilentError: the first requests all failed, and no answer was ever received.
            ModelError: as `Engine.generate`.
        """
        asking = begin("asking the judge", total=total, unit="answers")
        unanswered = self._unanswered(requests, asking)
        start = time.monotonic()
        stream = engine.generate(unanswered, how, on_completion=self._keep)
        try:
            for answer in stream:
                asking.advance()
                if isinstance(answer, Failed):
                    self._fail(answer)
                    continue
                yield answer.id, self.known[answer.id]
        except KeyboardInterrupt:
            # Closing the generator makes the engine cancel its requests.
            if isinstance(stream, Generator):
                stream.close()
            self._log_interruption()
            raise
        finally:
            asking.end()
        self.seconds += time.monotonic() - start

    def _unanswered(self, requests: Iterable[Request], asking: Phase) -> Iterator[Request]:
        """The requests without an answer; the others count as done."""
        for request in requests:
            if request.id in self.known:
                asking.advance()
            else:
                yield request

    def add(self, lines: Iterable[dict[str, Any]]) -> None:
        """Add answers that another process has received, as lines of such a file; known ones are left out."""
        new = [line for line in lines if line["id"] not in self.known]
        self._journal.append(new)
        self.known |= {line["id"]: line for line in new}
        self.fresh += len(new)

    def cost(self, ids: Iterable[str]) -> dict[str, float]:
        """Count the answers and tokens of requests.

        Args:
            ids: of the requests.

        Returns:
            `answers`, `prompt_tokens` and `tokens` of these requests; `fresh` answers, `failed` requests and `seconds`
            of asking of this call.
        """
        lines = [self.known[request_id] for request_id in ids if request_id in self.known]
        tokens: Counter[str] = Counter()
        for line in lines:
            tokens.update(prompt_tokens=line["prompt_tokens"], tokens=line["tokens"])
        return {
            "answers": len(lines),
            "fresh": self.fresh,
            "failed": len(self.failed),
            "seconds": self.seconds,
            "prompt_tokens": tokens["prompt_tokens"],
            "tokens": tokens["tokens"],
        }

    def failure_reasons(self) -> str:
        """The first three distinct reasons of failures, for a message."""
        return "; ".join(sorted({failure.reason for failure in self.failed})[:3])

    def _read(self, header: dict[str, Any]) -> None:
        try:
            stored = json.loads(self._journal.head or "")
            lines = [json.loads(line) for line in self._journal.lines]
            self.known = {line["id"]: line for line in lines}
            differences = [name for name in header if stored.get(name) != header[name]] or ["its header"]
            malformed = not all(map(_is_answer, lines))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"'{self.file}' is damaged ({error}); move it away to request all answers again") from error
        if malformed:
            raise DataError(
                f"'{self.file}' is damaged (a line is no answer); move it away to request all answers again"
            )
        if stored != header:
            raise DataError(
                f"'{self.file}' holds answers to other requests: {', '.join(differences)} changed. Move it away, or "
                "write to another path"
            )

    def _keep(self, answer: Completion) -> None:
        line = {
            "id": answer.id,
            "text": answer.text,
            "prompt_tokens": answer.prompt_tokens,
            "tokens": answer.tokens,
        }
        # On the disk first: what is in `known` may be used and reported.
        self._journal.append([line])
        with self._lock:
            self.known[answer.id] = line
            self.fresh += 1

    def _log_interruption(self) -> None:
        logger.warning(
            "interrupted: %d answers are kept in '%s'. Run the same command again to request the others",
            len(self.known),
            self.file,
        )

    def _fail(self, failure: Failed) -> None:
        self.failed.append(failure)
        if len(self.failed) <= MAX_LOGGED_FAILURES:
            logger.warning("%s: no answer after %d attempts: %s", failure.id, failure.attempts, failure.reason)
        if len(self.failed) == MAX_LOGGED_FAILURES and not self.known:
            raise SilentError(f"the first {MAX_LOGGED_FAILURES} requests all failed; the last: {failure.reason}")


def _is_answer(line: Mapping[str, Any]) -> bool:
    if not isinstance(line.get("text"), str):
        return False
    return isinstance(line.get("prompt_tokens"), int) and isinstance(line.get("tokens"), int)
