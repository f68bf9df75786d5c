"""Finds how a chat template writes an assistant's answer, by rendering sample answers and comparing the results.

A prompt ends with the generation prompt, and a branch is an answer as the template writes it. Most templates write the
unchanged answer directly after the generation prompt. Others strip it, insert a space or an empty reasoning block
before it, or write `<think>` only in the generation prompt. So that every branch continues its prompt as the template
would, the generation prompt is shortened to the text that the template writes before every answer, and the branch
starts there:

- If the template writes answers unchanged, the branch is the text of the answer.
- If it strips or wraps them, the branch is the text that the template writes.
- If it would drop a part of the answer, as templates of reasoning models do with the reasoning, the branch is the
  complete answer, because everything that is scored must be encoded. If the answer has a closing reasoning tag without
  an opening one, the opening tag is added.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
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
"""Sample answers that start with different characters, so that their renderings share only text of the template."""
EDGES = ("  two spaces", "\nnew line", "spaces  ", "line\n\n", REASONED, f"reasoning{CLOSE}verdict")
"""Sample answers that some templates change: they strip white space, or drop the reasoning."""
IGNORED = re.compile(rf"\s|{OPEN}|{CLOSE}")


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """How a template writes an assistant's turn.

    Attributes:
        template: the chat template.
        following: the turns after the answer.
        before: the text at the start of a question rendered with any answer.
        after: the text at the end of this rendering.
        cut: the end of the generation prompt that the template does not write before every answer. It is removed from
            prompts.
        lead: the text that the template writes instead of `cut` before an answer without reasoning.
        closing: the text between an answer and the token that ends the turn.
        exact: whether the template writes every answer unchanged between `lead` and `closing`.
        context: a prompt to encode answers after, for tokenizers that encode a text differently depending on the text
            before it; empty for other tokenizers.
    """

    template: ChatTemplate
    following: tuple[Turn, ...]
    before: str
    after: str
    cut: str
    lead: str
    closing: str
    exact: bool
    context: str = ""

    def without_cut(self, rendered: str) -> str:
        """Shorten the generation prompt at the end of a rendered prompt to where branches start.

        Raises:
            RowRejected: `template_rejects`; the template writes another generation prompt here than after a single
                question, so that the start of an answer is unknown.
        """
        if rendered.endswith(self.cut):
            return rendered[: len(rendered) - len(self.cut)]
        if self.lead:
            detail = f"the generation prompt does not end with {self.cut!r}, as it does after a single question"
            raise RowRejected(REJECTED, detail)
        return rendered

    def text(self, answer: str) -> str:
        """Return the text that the template writes for an answer, from the end of the prompt to the end-of-turn token.

        Raises:
            RowRejected: `template_rejects`; the template raises an error for the answer.
        """
        if self.exact:
            return f"{self.lead}{answer}{self.closing}"
        turns = (Turn("user", (Part(QUESTION),)), Turn("assistant", (Part(answer),)), *self.following)
        rendered = self.template.render(turns)
        if rendered.startswith(self.before) and rendered.endswith(self.after):
            written = rendered[len(self.before) : len(rendered) - len(self.after)]
            if _words(written.removeprefix(self.lead)) == _words(answer):
                return written + self.closing
        return self._complete(answer)

    def _complete(self, answer: str) -> str:
        """Return the complete text of an answer that the template would shorten."""
        if OPEN in answer:
            lead = ""
        elif CLOSE in answer:
            # The answer starts inside of the reasoning, so the tag that the generation prompt opens belongs before it.
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
    """Find the format by rendering a question with several sample answers.

    Args:
        template: the chat template.
        following: turns after the answer, if the conversation continues after it.
        control: encodes rendered text, to check where it can be split.

    Raises:
        RowRejected: `template_rejects`; the template raises an error for a question with an answer.
        ModelError: the template drops the answer, or writes it more than once.
    """
    question = Turn("user", (Part(QUESTION),))

    def render(answer: str) -> str:
        return template.render([question, Turn("assistant", (Part(answer),)), *following])

    generation = template.render([question], generation_prompt=True)
    sample = render(SENTINEL)
    _check_written_once(sample)
    head, _, after = sample.rpartition(SENTINEL)
    # The empty answer is not a sample, because some templates write no turn at all for it.
    renderings = {answer: render(answer) for answer in (*PLAIN, *EDGES)}
    common = os.path.commonprefix([generation, head, *renderings.values()])  # noqa: RUF071 - by character, not by path
    closing = _closing(after, control)
    exact = _is_exact(renderings, head=head, after=after)
    if QUESTION not in common:
        # The template writes the question itself differently when it has an answer. The rendering with a generation
        # prompt is what a policy sees, so prompts keep all of it and answers follow unchanged.
        return AnswerFormat(template, following, head, after, "", "", closing, exact=True)
    # The generation prompt may end inside of a token of the whole conversation (a space that belongs to the next word).
    # Separate encoding would then give other tokens than the policy saw, so the split moves back to a token border.
    common, separable = _split_at_token(common, [renderings[SENTINEL], renderings[REASONED]], control.encode)
    cut, lead = generation[len(common) :], head[len(common) :]
    context = "" if separable else common
    return AnswerFormat(template, following, common, after, cut, lead, closing, exact, context)


def _check_written_once(sample: str) -> None:
    """Check that a rendering contains the sample answer exactly once.

    Raises:
        ModelError: it is dropped or repeated.
    """
    count = sample.count(SENTINEL)
    if count != 1:
        problem = "drops the text of assistant turns" if count == 0 else f"writes an assistant's text {count} times"
        raise ModelError(
            f"the backbone's chat template {problem}; it must write it once, or responses cannot be scored. Correct "
            "chat_template.jinja (or chat_template in tokenizer_config.json), or use another checkpoint."
        )


def _is_exact(renderings: Mapping[str, str], *, head: str, after: str) -> bool:
    """Whether the template writes every sample answer unchanged between the same two texts."""
    return all(text == f"{head}{answer}{after}" for answer, text in renderings.items())


def _closing(after: str, control: ControlTokens) -> str:
    """Return the text before the first control token after an answer; empty if there is no control token."""
    match = control.pattern.search(after)
    return after[: match.start()] if match else ""


def _split_at_token(common: str, renderings: Sequence[str], encode: Callable[[str], list[int]]) -> tuple[str, bool]:
    """Find the longest beginning of `common` at which every rendering can be split without changing its tokens.

    Returns:
        The beginning and True; `common` and False if there is none.
    """
    # Only the ends of tags and of lines are tried, since tokenizers split there. A test at every character would
    # encode each rendering hundreds of times.
    ends = [len(common), *(match.end() for match in reversed(list(re.finditer(r">|\]|\n+", common))))]
    for end in ends:
        if QUESTION not in common[:end]:
            break
        if all(encode(text[:end]) + encode(text[end:]) == encode(text) for text in renderings):
            return common[:end], True
    return common, False


def _words(text: str) -> str:
    """Remove white space and reasoning tags. The results of two texts are equal if neither lacks a word of the other.

    >>> _words("<think>a</think>\\nb c")
    'abc'
    """
    return IGNORED.sub("", text)


def mark_text(control: ControlTokens, text: str) -> tuple[str, Marks | None]:
    """Put marks around the control tokens inside of a text; see `ControlTokens.mark`.

    Returns:
        The text, and the marks; None if the text has no control tokens.

    >>> from types import SimpleNamespace
    >>> from tokenizers import Tokenizer, models
    >>> backend = Tokenizer(models.WordLevel({}))
    >>> backend.add_special_tokens(["<|im_end|>"])
    1
    >>> control = ControlTokens(SimpleNamespace(backend_tokenizer=backend), written=())
    >>> marked, marks = mark_text(control, "Write <|im_end|> here.")
    >>> marked == f"Write {marks.start}<|im_end|>{marks.end} here."
    True
    """
    (turn,), marks = control.mark([Turn("assistant", (Part(text),))])
    return "".join(part.text or "" for part in turn.parts), marks
