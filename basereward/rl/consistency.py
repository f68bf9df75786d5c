"""The judge of consistency: whether a verdict follows from the reasoning before it."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from basereward.data.schema.group import Part, Turn
from basereward.errors import SilentError
from basereward.inference.judges.engine import Engine, Failed, Request, content_name
from basereward.model.generation.generate import SamplingParams
from basereward.model.generation.prompts import Prompt, load_prompt
from basereward.model.generation.verdicts import THINK_CLOSE, THINK_OPEN
from basereward.rl.judge_reward import Consistency, Label

logger = logging.getLogger(__name__)

FIELDS = ("reasoning", "verdict")
ANSWER = re.compile(r"(?<![\w.])[01](?![\w]|\.\d)")
TEMPERATURE = 0.1
MAX_TOKENS = 16


class Verdict(NamedTuple):
    """A judge's text and the number of the answer that it prefers.

    >>> Verdict("<think>1 is false.</think><answer>2</answer>", 2).answer
    2
    """

    text: str
    answer: Label


class ConsistencyJudge:
    """Asks a model whether verdicts follow from their reasoning.

    It sees the last lines of the reasoning and the verdict in words. A text without a readable answer is asked again;
    a verdict stays at 0, which changes no reward, if it is never readable or its request fails.

    Args:
        engine: an endpoint, which sends requests at once and repeats those that fail, or a local model.
        attempts: for an answer that cannot be read.
        lines: of the reasoning, from its end, that the model sees.
        inconsistent: the value of a verdict that does not follow: -1, or 0.
        patience: after this many calls in which the engine answers nothing, it counts as dead.
        prompt: name of a file in `basereward/model/prompts`.
        prompt_file: a text file with the prompt, instead of `prompt`.

    Raises:
        ValueError: there is no such prompt, or it has other fields.

    Attributes:
        counts: of verdicts `asked`, `consistent`, `inconsistent`, `unread` and `failed`, and of `requests`; since the
            start.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        attempts: int = 3,
        lines: int = 3,
        inconsistent: Literal[-1, 0] = -1,
        patience: int = 3,
        prompt: str = "consistency",
        prompt_file: str | None = None,
    ) -> None:
        self.engine = engine
        self.attempts = attempts
        self.lines = lines
        self.inconsistent = inconsistent
        self.patience = patience
        self.prompt: Prompt = load_prompt(prompt, prompt_file, fields=FIELDS)
        self.counts: Counter[str] = Counter()
        self._silent_calls = 0

    def judge(self, verdicts: Sequence[Verdict]) -> list[Consistency]:
        """The consistency of each verdict; equal verdicts are asked about once.

        Raises:
            ModelError: no request can be answered, because the key, the model or the address is wrong.
            SilentError: the engine has answered nothing in `patience` calls.
        """
        distinct = list(dict.fromkeys(verdicts))
        values: dict[Verdict, Consistency] = dict.fromkeys(distinct, 0)
        open_verdicts = distinct
        for attempt in range(self.attempts):
            if not open_verdicts:
                break
            open_verdicts = self._ask(open_verdicts, values, attempt)
        self.counts["asked"] += len(distinct)
        self.counts["unread"] += len(open_verdicts)
        return [values[verdict] for verdict in verdicts]

    def _ask(self, verdicts: list[Verdict], values: dict[Verdict, Consistency], attempt: int) -> list[Verdict]:
        """Asks about verdicts once, and returns those whose answers cannot be read."""
        # Named by the verdict: an engine draws a text from the name, and it must not depend on the rest of the batch.
        by_name = {content_name(verdict.text, str(verdict.answer)): verdict for verdict in verdicts}
        requests = [Request(name, self._turns(verdict)) for name, verdict in by_name.items()]
        # Some engines answer the same request with the same seed by the same text.
        sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=TEMPERATURE, seed=attempt)
        waiting = set(by_name)
        unread: list[Verdict] = []
        try:
            for answer in self.engine.generate(requests, sampling):
                verdict = by_name[answer.id]
                waiting.discard(answer.id)
                self.counts["requests"] += 1
                if isinstance(answer, Failed):
                    self.counts["failed"] += 1
                    logger.warning("the consistency judge does not answer: %s", answer.reason)
                    continue
                self._silent_calls = 0
                read = read_consistency(answer.text)
                if read is None:
                    unread.append(verdict)
                else:
                    values[verdict] = 1 if read else self.inconsistent
                    self.counts["consistent" if read else "inconsistent"] += 1
        except SilentError as error:
            self._silent_calls += 1
            self.counts["failed"] += len(waiting)
            if self._silent_calls >= self.patience:
                raise
            logger.warning("verdicts of this batch have no consistency, so that C is 0 for them: %s", error)
            return []
        return unread

    def _turns(self, verdict: Verdict) -> tuple[Turn, ...]:
        reasoning = last_lines(verdict.text, self.lines)
        parts = [self.prompt.before("reasoning"), reasoning, self.prompt.before("verdict")]
        text = "".join([*parts, f"Answer {verdict.answer} is better.", self.prompt.after("verdict")])
        return (Turn("user", (Part(text),)),)


def last_lines(text: str, count: int) -> str:
    """The last lines of the reasoning in a judge's text, without tags and empty lines.

    >>> last_lines("<think>1 counts two.\\n\\nThere are three.</think><answer>2</answer>", 1)
    'There are three.'
    """
    reasoning = text.partition("<answer>")[0].replace(THINK_OPEN, "").replace(THINK_CLOSE, "")
    lines = [line.strip() for line in reasoning.splitlines() if line.strip()]
    return "\n".join(lines[-count:])


def read_consistency(text: str) -> bool | None:
    """Whether a judge of consistency says 1 (True) or 0 (False); None if it does not say exactly one of them.

    >>> read_consistency("1"), read_consistency("The answer is 0."), read_consistency("1 or 0?"), read_consistency("10")
    (True, False, None, None)
    """
    said = set(ANSWER.findall(text.rpartition(THINK_CLOSE)[2]))
    return said == {"1"} if len(said) == 1 else None
