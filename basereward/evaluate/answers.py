"""A judge's answers, kept as they come: a call that is stopped at any place goes on where it was."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from basereward.errors import DataError, SilentError
from basereward.io.files import write_atomic
from basereward.model.generation import Writing
from basereward.model.speech.engine import Engine, Failed, Request

logger = logging.getLogger(__name__)
TELL_EVERY_S = 10.0
TOLD = 20  # failures that are told one by one; of endless ones more would hide everything else


class Answers:
    """A file of JSON Lines: what the answers are of, then one line an answer.

    Args:
        file: made with the first answer; a last line that was cut is taken off.
        of: what is asked of whom; the file of something else is refused.

    Raises:
        DataError: the file holds the answers to something else, or is damaged.
    """

    def __init__(self, file: Path, *, of: Mapping[str, Any]) -> None:
        self.file = file
        self.of = dict(of)
        self.known: dict[str, dict[str, Any]] = {}
        self.failed: list[Failed] = []
        self.fresh = 0
        self.seconds = 0.0
        if file.is_file():
            self._read()

    def _read(self) -> None:
        try:
            whole, cut, _ = self.file.read_text(encoding="utf-8").rpartition("\n")
            first, *lines = [json.loads(line) for line in whole.split("\n")] if cut else [self.of]
            self.known = {line["id"]: line for line in lines}
            changed = [name for name in self.of if first.get(name) != self.of[name]] or ["what they are of"]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise DataError(f"'{self.file}' is damaged ({error}); move it away to ask everything anew") from error
        if first != self.of:
            raise DataError(
                f"'{self.file}' holds answers to something else: {', '.join(changed)} changed. Move it away, or write "
                "elsewhere"
            )
        write_atomic(self.file, whole + cut)
        if self.known:
            logger.warning("%d answers were there before; going on with the others", len(self.known))

    def ask(self, engine: Engine, requests: Iterable[Request], how: Writing) -> Iterator[tuple[str, dict[str, Any]]]:
        """Asks those that have no answer yet, and gives each answer once it is on the disk; the failed ones are
        added to `failed`.

        Raises:
            SilentError: nothing was ever answered, and the first twenty requests failed.
            ModelError: as `Engine.write`.
        """
        waiting = (request for request in requests if request.id not in self.known)
        began = told = time.monotonic()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as out:
            if not out.tell():
                _append(out, self.of)
            for answer in engine.write(waiting, how):
                if isinstance(answer, Failed):
                    self._fail(answer)
                    continue
                line = {
                    "id": answer.id, "text": answer.text, "prompt_tokens": answer.prompt_tokens, "tokens": answer.tokens
                }  # fmt: skip
                _append(out, line)
                self.known[answer.id] = line
                self.fresh += 1
                if time.monotonic() - told > TELL_EVERY_S:
                    told = time.monotonic()
                    logger.warning("%d answers, %.2f a second", self.fresh, self.fresh / (self.seconds + told - began))
                yield answer.id, line
        self.seconds += time.monotonic() - began

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


def _append(file: Any, line: Mapping[str, Any]) -> None:
    file.write(json.dumps(line) + "\n")
    file.flush()
    os.fsync(file.fileno())
