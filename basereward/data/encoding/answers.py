"""The form that a chat template gives an answer, found by rendering answers and comparing them.

A prompt ends with the generation prompt, and a branch is an answer as the template writes it. Most templates write an
answer as it is, right after the generation prompt. Others trim it, write a space or an empty block of reasoning before
it, or open `<think>` in the generation prompt alone. Here the generation prompt is cut back to what the template
writes before every answer, and a branch begins there:

- The template writes answers as they are: the branch is the text.
- It trims or wraps them: the branch is what it writes.
- It would leave out a part of an answer, as templates of reasoning models do with the reasoning: nothing that is
  scored is left out, so the branch is the whole text, with one opening tag if it holds only the closing one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from basereward.data.encoding.chat import SENTINEL
from basereward.data.encoding.control_tokens import ControlTokens, Marks
from basereward.data.encoding.rendering import REJECTED, ChatTemplate
from basereward.data.schema.group import Part, Turn
from basereward.data.schema.rejections import RowRejected
from basereward.errors import ModelError

QUESTION = "basereward-question"
OPEN, CLOSE = "<think>", "</think>"
REASONED = f"{OPEN}basereward-reasoning{CLOSE}basereward-verdict"
PLAIN = (SENTINEL, "?", "7 apples")
"""Answers that begin with different letters, so that what they have in common is the template's."""
EDGES = ("  two spaces", "\nnew line", "spaces  ", "line\n\n", REASONED, f"reasoning{CLOSE}verdict")
IGNORED = re.compile(rf"\s|{OPEN}|{CLOSE}")


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """How a template writes an assistant's turn.

    Attributes:
        cut: the end of the generation prompt that is not before every answer; prompts go without it.
        lead: what the template writes there before a plain answer.
        closing: what it writes between an answer and the token that ends the turn.
        exact: whether every answer is written as it is, between `lead` and `closing`.
        context: a prompt that answers are encoded after, for tokenizers whose tokens of a text depend on what is
            before it; else empty.
    """

    template: ChatTemplate
    following: tuple[Turn, ...]
    before: str  # what the rendering of a question with any answer begins with
    after: str  # and ends with
    cut: str
    lead: str
    closing: str
    exact: bool
    context: str = ""

    def without_cut(self, rendered: str) -> str:
        """A prompt with its generation prompt cut back to where branches begin.

        Raises:
            RowRejected: `template_rejects`; the generation prompt of this prompt is another than that of a question
                alone, so it is not known where an answer begins.
        """
        if rendered.endswith(self.cut):
            return rendered[: len(rendered) - len(self.cut)]
        if self.lead:
            detail = f"the generation prompt does not end with {self.cut!r}, as it does after a question alone"
            raise RowRejected(REJECTED, detail)
        return rendered

    def text(self, answer: str) -> str:
        """What the template writes for an answer, from where the prompt ends to before the token that ends the turn.

        Raises:
            RowRejected: `template_rejects`; the template refuses the answer.
        """
        if self.exact:
            return f"{self.lead}{answer}{self.closing}"
        turns = (Turn("user", (Part(QUESTION),)), Turn("assistant", (Part(answer),)), *self.following)
        rendered = self.template.render(turns)
        if rendered.startswith(self.before) and rendered.endswith(self.after):
            written = rendered[len(self.before) : len(rendered) - len(self.after)]
            if _words(written.removeprefix(self.lead)) == _words(answer):
                return written + self.closing
        return self._whole(answer)

    def _whole(self, answer: str) -> str:
        """An answer of which the template would leave out a part."""
        if OPEN in answer:
            lead = ""
        elif CLOSE in answer:
            lead = self.cut if OPEN in self.cut else f"{OPEN}\n"
        else:
            lead = self.lead
        return f"{lead}{answer}{self.closing}"


def find_answer_format(
    template: ChatTemplate,
    *,
    following: tuple[Turn, ...] = (),
    control: ControlTokens,
) -> AnswerFormat:
    """Finds the form by rendering a question with several answers.

    Args:
        following: turns after the answer, for an answer that a conversation goes on from.
        control: tells where pieces of the template's text can be encoded apart.

    Raises:
        RowRejected: `template_rejects`; the template refuses a question and its answer.
        ModelError: it leaves the answer out, or writes it more than once.
    """
    question = Turn("user", (Part(QUESTION),))

    def render(answer: str) -> str:
        return template.render([question, Turn("assistant", (Part(answer),)), *following])

    generation = template.render([question], generation_prompt=True)
    sample = render(SENTINEL)
    if SENTINEL not in sample:
        raise ModelError("the backbone's chat template leaves out the words of the assistant, so no answer can be read")
    if sample.count(SENTINEL) > 1:
        raise ModelError("the backbone's chat template writes the words of the assistant more than once")
    head, _, after = sample.rpartition(SENTINEL)
    answers = {answer: render(answer) for answer in (*PLAIN, *EDGES)}  # not "", of which some write no turn at all
    common = os.path.commonprefix([generation, head, *answers.values()])  # noqa: RUF071 - letters are meant
    exact = all(text == f"{head}{answer}{after}" for answer, text in answers.items())
    closing = _closing(after, control)
    if QUESTION not in common:
        # The question itself is written otherwise once it is answered. The prompt of generation is what a policy sees.
        return AnswerFormat(template, following, head, after, "", "", closing, exact=True)
    common, apart = _encoded_apart(common, [answers[answer] for answer in (SENTINEL, REASONED)], control.encode)
    cut, lead = generation[len(common) :], head[len(common) :]
    context = "" if apart else common
    return AnswerFormat(template, following, common, after, cut, lead, closing, exact, context)


def _closing(after: str, control: ControlTokens) -> str:
    """What stands before the first control token after an answer; nothing where there is no such token."""
    found = control.pattern.search(after)
    return after[: found.start()] if found else ""


def _encoded_apart(common: str, renderings: Sequence[str], encode: Callable[[str], list[int]]) -> tuple[str, bool]:
    """The longest beginning of the common text whose tokens, with those of the rest, are the tokens of the whole; the
    common text and False where there is none."""
    ends = [len(common), *(match.end() for match in reversed(list(re.finditer(r">|\]|\n+", common))))]
    for end in ends:
        if QUESTION not in common[:end]:
            break
        if all(encode(text[:end]) + encode(text[end:]) == encode(text) for text in renderings):
            return common[:end], True
    return common, False


def _words(text: str) -> str:
    """A text without white space and reasoning tags: equal for two texts of which none lacks a word."""
    return IGNORED.sub("", text)


def mark_text(control: ControlTokens, text: str) -> tuple[str, Marks | None]:
    """A text with marks around control tokens that somebody typed; see `ControlTokens.mark`."""
    (turn,), marks = control.mark([Turn("assistant", (Part(text),))])
    return "".join(part.text or "" for part in turn.parts), marks
