"""A backbone's chat template at work, with limits: it is from outside, and may refuse a conversation or never end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from basereward.data.encoding.chat import Tokenizer, messages
from basereward.data.encoding.template_limits import TemplateStopped, limited_memory, limited_steps, limited_time
from basereward.data.schema.group import Part, Turn
from basereward.data.schema.rejections import RowRejected
from basereward.errors import ModelError

REJECTED = "template_rejects"


class TemplateEndless(RowRejected):
    """A rendering went over a limit: `template_rejects`."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a template writes around everybody's words, and whose words it leaves out."""

    written: tuple[str, ...]
    left_out: frozenset[str]  # roles of turns before the last


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """For renderings while a model is opened: time is limited too, and a refusal is the model's fault.

    Raises:
        ModelError: the template refuses a conversation, or goes over a limit.
    """
    try:
        with limited_time():
            yield
    except (RowRejected, TemplateStopped) as error:
        raise ModelError(
            f"the backbone's chat template cannot render a question and an answer: {error}. Mend "
            "chat_template.jinja (or chat_template in tokenizer_config.json), or use another checkpoint."
        ) from None


class ChatTemplate:
    """Turns to text.

    Args:
        tokenizer: with its chat template.
        in_parts: whether the content of a turn is a list of parts, as vision models want it, or a string.

    Attributes:
        frame: what it writes around the words of any conversation.

    Raises:
        ModelError: the tokenizer has no chat template, or the template refuses even a question and its answer.
    """

    def __init__(self, tokenizer: Tokenizer, *, in_parts: bool) -> None:
        if not tokenizer.chat_template:
            raise ModelError(
                "the backbone's tokenizer has no chat template, so a prompt cannot be encoded. "
                "Use an instruct or chat checkpoint, or add a chat_template.jinja to the folder."
            )
        self.tokenizer = tokenizer
        self.in_parts = in_parts
        question = Turn("user", (Part("?"),))
        # Only while nothing but the template is at work: a tokenizer's threads need address space of their own.
        with explained(), limited_memory():
            self.render([question, Turn("assistant", (Part("!"),))])
            self.frame = self._find_frame()

    def render(self, turns: Sequence[Turn], *, generation_prompt: bool = False) -> str:
        """The conversation as text.

        Raises:
            RowRejected: `template_rejects`; the template raised an error or went over a limit.
        """
        conversation = messages(turns, in_parts=self.in_parts)
        options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": generation_prompt}
        try:
            with limited_steps():
                text: str = self.tokenizer.apply_chat_template(conversation, **options)
        except TemplateStopped as stopped:
            raise TemplateEndless(REJECTED, f"the chat template does not come to an end: {stopped}") from None
        except MemoryError:
            raise TemplateEndless(REJECTED, "the chat template needs too much memory") from None
        except Exception as error:  # noqa: BLE001 - a template from outside can raise anything
            roles = ", ".join(turn.role for turn in turns[:8]) + (", ..." if len(turns) > 8 else "")
            said = str(error) or type(error).__name__
            raise RowRejected(REJECTED, f"the chat template refuses the turns {roles}: {said}") from None
        return text

    def _find_frame(self) -> Frame:
        """Renders conversations of made words, with a system turn where the template takes one.

        Raises:
            RowRejected: `template_rejects`; it refuses even a question.
        """
        words = {role: f"basereward-{role}" for role in ("system", "user", "assistant")}
        turns = [Turn(role, (Part(words[role]),)) for role in ("system", "user", "assistant")]
        question = Turn("user", (Part("basereward-question"),))
        left_out: set[str] = set()
        written: list[str] = []
        for earlier in ([], turns[:1], turns[1:]):
            try:
                text = self.render([*earlier, question], generation_prompt=True)
            except TemplateEndless:
                raise
            except RowRejected:
                if not earlier:
                    raise
                continue  # rows with such turns are lost one by one, with what the template says
            left_out |= {turn.role for turn in earlier if words[turn.role] not in text}
            for word in (*words.values(), "basereward-question"):
                text = text.replace(word, "\0")
            written.append(text)
        return Frame(tuple(written), frozenset(left_out))
