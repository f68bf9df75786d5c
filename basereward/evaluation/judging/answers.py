"""A judge's answers, kept as they come: a call that is stopped at any place goes on where it was."""

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
from basereward.inference.judges.engine import Engine, Failed, Request, Written
from basereward.io.journal import Journal
from basereward.model.generation.generate import Writing

logger = logging.getLogger(__name__)
TELL_EVERY_S = 10.0
TOLD = 20  # failures that are told one by one; of endless ones more would hide everything else


class Answers:
    """A file of JSON Lines: what the answers are of, then one line an answer.

    Only one process at a time has the file, until it is closed.

    Args:
        file: made when it is not there; a last line that was cut is taken off.
        of: what is asked of whom; the file of something else is refused.

    Raises:
        DataError: the file holds the answers to something else, is damaged, or another process writes it.
    """

    def __init__(self, file: Path, *, of: Mapping[str, Any]) -> None:
        self.file = file
        self.known: dict[str, dict[str, Any]] = {}
        self.failed: list[Failed] = []
        self.fresh = 0
        self.seconds = 0.0
        self._lock = Lock()
        self._journal = Journal(file)
        try:
            if self._journal.head is None:
                self._journal.restart(of)
            else:
                self._read(dict(of))
        except BaseException:
            self.close()
            raise
        if self.known:
            logger.warning("%d answers were there before; going on with the others", len(self.known))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets other processes write the file."""
        self._journal.close()

    def _read(self, of: dict[str, Any]) -> None:
        try:
            first = json.loads(self._journal.head or "")
            lines = [json.loads(line) for line in self._journal.lines]
            self.known = {line["id"]: line for line in lines}
            changed = [name for name in of if first.get(name) != of[name]] or ["what they are of"]
            wrong = [line for line in lines if not _is_answer(line)]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"'{self.file}' is damaged ({error}); move it away to ask everything anew") from error
        if wrong:
            raise DataError(f"'{self.file}' is damaged (a line is no answer); move it away to ask everything anew")
        if first != of:
            raise DataError(
                f"'{self.file}' holds answers to something else: {', '.join(changed)} changed. Move it away, or write "
                "elsewhere"
            )

    def ask(self, engine: Engine, requests: Iterable[Request], how: Writing) -> Iterator[tuple[str, dict[str, Any]]]:
        """Asks those that have no answer yet, and gives each answer once it is on the disk; the failed ones are
        added to `failed`.

        An answer is written to the disk when it arrives, in the engine's thread, so that an interruption loses only
        what is under way.

        Raises:
            SilentError: nothing was ever answered, and the first twenty requests failed.
            ModelError: as `Engine.write`.
        """
        waiting = (request for request in requests if request.id not in self.known)
        began = told = time.monotonic()
        stream = engine.write(waiting, how, arrived=self._keep)
        try:
            for answer in stream:
                if isinstance(answer, Failed):
                    self._fail(answer)
                    continue
                if time.monotonic() - told > TELL_EVERY_S:
                    told = time.monotonic()
                    logger.warning("%d answers, %.2f a second", self.fresh, self.fresh / (self.seconds + told - began))
                yield answer.id, self.known[answer.id]
        except KeyboardInterrupt:
            if isinstance(stream, Generator):
                stream.close()
            logger.warning(
                "interrupted: the %d answers that arrived are kept in '%s'. The same command goes on with the others",
                len(self.known),
                self.file,
            )
            raise
        self.seconds += time.monotonic() - began

    def _keep(self, answer: Written) -> None:
        line = {
            "id": answer.id, "text": answer.text, "prompt_tokens": answer.prompt_tokens, "tokens": answer.tokens
        }  # fmt: skip
        self._journal.append([line])
        with self._lock:
            self.known[answer.id] = line
            self.fresh += 1

    def _fail(self, answer: Failed) -> None:
        self.failed.append(answer)
        if len(self.failed) <= TOLD:
            logger.warning("%s: no answer after %d attempts: %s", answer.id, answer.attempts, answer.reason)
        if len(self.failed) == TOLD and not self.known:
            raise SilentError(f"the first {TOLD} requests all failed; the last: {answer.reason}")

    def cost(self, ids: Iterable[str]) -> dict[str, float]:
        """Answers and tokens of some requests; of this call, the answers that are `fresh`, the requests that `failed`,
        and the `seconds` spent on asking."""
        kept = [self.known[each] for each in ids if each in self.known]
        totals: Counter[str] = Counter()
        for line in kept:
            totals.update({name: line[name] for name in ("prompt_tokens", "tokens")})
        now = {"fresh": self.fresh, "failed": len(self.failed), "seconds": self.seconds}
        return {"answers": len(kept), **now} | {name: totals[name] for name in ("prompt_tokens", "tokens")}


def _is_answer(line: Mapping[str, Any]) -> bool:
    counts = [line.get(name) for name in ("prompt_tokens", "tokens")]
    return isinstance(line.get("text"), str) and all(isinstance(count, int) for count in counts)
