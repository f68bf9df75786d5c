"""Renders chat templates with limits: they are untrusted code, and may fail or run forever."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from basereward.data.encoding.chat import Tokenizer, messages
from basereward.data.encoding.template_limits import TemplateStopped, limited_memory, limited_steps, limited_time
from basereward.data.schema.group import Part, Turn
from basereward.data.schema.rejections import RowRejected
from basereward.errors import ModelError, sentence

REJECTED = "template_rejects"


class TemplateEndless(RowRejected):
    """A rendering exceeded a limit; the reason is `template_rejects`.

    >>> TemplateEndless(REJECTED, "the chat template needs too much memory").reason
    'template_rejects'
    """


@dataclass(frozen=True, slots=True)
class Frame:
    """The text that a template writes around the texts of a conversation.

    Attributes:
        written: renderings of several conversations, without the texts of their turns.
        left_out: the roles whose turns the template drops if they are not the last turn.

    >>> Frame(written=("<|user|>",), left_out=frozenset({"system"})).left_out
    frozenset({'system'})
    """

    written: tuple[str, ...]
    left_out: frozenset[str]


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Context manager for renderings while a model is loaded: limits the time, and explains errors.

    Raises:
        ModelError: the template fails on a conversation, or exceeds a limit.

    >>> with explained():
    ...     raise RowRejected(REJECTED, "the chat template refuses the turns user")
    Traceback (most recent call last):
    basereward.errors.ModelError: the backbone's chat template cannot render a question and an answer: ...
    """
    try:
        with limited_time():
            yield
    except (RowRejected, TemplateStopped) as error:
        raise ModelError(
            f"the backbone's chat template cannot render a question and an answer: {sentence(error)} Correct "
            "chat_template.jinja (or chat_template in tokenizer_config.json), or use another checkpoint."
        ) from None


class ChatTemplate:
    """A chat template, which converts turns to text.

    Args:
        tokenizer: the tokenizer with the template.
        in_parts: whether the content of a turn is a list of parts, as for vision models, or a string.

    Attributes:
        frame: the text that the template writes around the texts of a conversation.

    Raises:
        ModelError: the tokenizer has no chat template, or the template fails on a question with an answer.
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
        # The memory limit applies to the whole process, and a tokenizer's threads need address space, so it is set only
        # here, where nothing but the template runs.
        with explained(), limited_memory():
            self.render([question, Turn("assistant", (Part("!"),))])
            self.frame = self._find_frame()

    def render(self, turns: Sequence[Turn], *, generation_prompt: bool = False) -> str:
        """Render a conversation as text.

        Args:
            turns: the conversation.
            generation_prompt: whether to append the generation prompt.

        Raises:
            RowRejected: `template_rejects` (the template raises an error or exceeds a limit).
        """
        conversation = messages(turns, in_parts=self.in_parts)
        options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": generation_prompt}
        try:
            with limited_steps():
                text: str = self.tokenizer.apply_chat_template(conversation, **options)
        except TemplateStopped as stopped:
            raise TemplateEndless(REJECTED, f"the chat template does not finish: {stopped}") from None
        except MemoryError:
            raise TemplateEndless(REJECTED, "the chat template needs too much memory") from None
        except Exception as error:  # noqa: BLE001 - an untrusted template can raise anything
            # A conversation may have thousands of turns; the message must stay readable.
            roles = ", ".join(turn.role for turn in turns[:8]) + (", ..." if len(turns) > 8 else "")
            message = str(error) or type(error).__name__
            raise RowRejected(REJECTED, f"the chat template refuses the turns {roles}: {message}") from None
        return text

    def _find_frame(self) -> Frame:
        """Find the text around a conversation by rendering conversations of known words.

        Raises:
            RowRejected: `template_rejects` (the template fails on a single question).
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
                # Every row would run into the limit, so the model cannot be used at all.
                raise
            except RowRejected:
                if not earlier:
                    raise
                # Some templates refuse system turns. Rows with such turns are rejected one by one.
                continue
            left_out |= {turn.role for turn in earlier if words[turn.role] not in text}
            # A character that no template writes keeps the texts before and after a removed word apart.
            for word in (*words.values(), "basereward-question"):
                text = text.replace(word, "\0")
            written.append(text)
        return Frame(tuple(written), frozenset(left_out))
