"""Prompts of judges: text files with fields in braces."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from basereward.data.schema.group import Group, Part, Turn
from basereward.errors import DataError, unknown
from basereward.io.limits import read_text

FIELD = re.compile(r"\{(\w+)\}")
# The fields of each kind of prompt, in the order in which they must stand.
PAIRWISE = ("question", "answer_1", "answer_2")
POINTWISE = ("question", "answer")
# Of a model that answers.
QUESTION = ("question",)
# A request for a critique has no fields: it follows the answer in a turn of its own.
REQUEST = ()
# How a role is written in a question of several turns.
ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt with fields; each field occurs once, in a fixed order.

    >>> Prompt("p", "{question} A: {answer} Good?").after("answer")
    ' Good?'
    """

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Hash of the text; runs record it, so that two wordings under one name can be distinguished."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields, in the order of the text.

        >>> Prompt("p", "{question} A: {answer}").fields
        ('question', 'answer')
        """
        return tuple(FIELD.findall(self.text))

    def before(self, field: str) -> str:
        """The text between the previous field and this one."""
        # A split by a pattern with one group gives texts and names in turn: text, field, text, field, text.
        return FIELD.split(self.text)[2 * self.fields.index(field)]

    def after(self, field: str) -> str:
        """The text between this field and the next one, or the end."""
        return FIELD.split(self.text)[2 * self.fields.index(field) + 2]

    def turns(self, group: Group, **answers: str | Sequence[Part]) -> tuple[Turn, ...]:
        """The prompt as one user turn about a group, with the group's images in place.

        Args:
            group: its prompt is the question.
            answers: the fields after the question, by name: texts, or texts and places of images. The turn ends at the
                first field that is missing.

        >>> group = Group("a", "made", (Turn("user", (Part("2 + 2?"),)),), ("4",))
        >>> Prompt("p", "Q: {question} A: {answer}").turns(group)[0].parts[0].text
        'Q: 2 + 2? A: '
        """
        parts = [Part(self.before("question")), *question_parts(group.prompt)]
        for field in self.fields[1:]:
            parts.append(Part(self.before(field)))
            if field not in answers:
                return (Turn("user", _joined(parts)),)
            answer = answers[field]
            parts += [Part(answer)] if isinstance(answer, str) else answer
        return (Turn("user", _joined([*parts, Part(self.after(self.fields[-1]))])),)


def question_parts(prompt: Sequence[Turn]) -> list[Part]:
    """A prompt as the parts of a question: a single user turn as it is; of several turns each after its role.

    >>> [part.text for part in question_parts([Turn("system", (Part("Be brief."),)), Turn("user", (Part("2 + 2?"),))])]
    ['System: ', 'Be brief.', '\\nUser: ', '2 + 2?']
    """
    if [turn.role for turn in prompt] == ["user"]:
        return list(prompt[0].parts)
    parts: list[Part] = []
    for turn in prompt:
        separator = "\n" if parts else ""
        parts += [Part(f"{separator}{ROLES[turn.role]}: "), *turn.parts]
    return parts


def _joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts with adjacent texts joined; empty texts are dropped.

    >>> [part.text for part in _joined([Part("a"), Part(""), Part("b")])]
    ['ab']
    """
    # Chat templates may write something between two text parts, which would split the tokens of a sentence.
    joined: list[Part] = []
    for part in parts:
        if joined and part.text is not None and joined[-1].text is not None:
            joined[-1] = Part(joined[-1].text + part.text)
        elif part.text != "":
            joined.append(part)
    return tuple(joined)


def load_prompt(name: str, file: str | Path | None = None, *, fields: Sequence[str]) -> Prompt:
    """Loads a prompt of the package, or a prompt of the user.

    Args:
        name: of a file in `basereward/model/prompts`.
        file: a text file that is read instead.
        fields: the fields that it must have, in this order: `PAIRWISE`, `POINTWISE` or `REQUEST`.

    Raises:
        ValueError: there is no such prompt, it cannot be read, it is empty, or it has other fields.

    >>> load_prompt("critique", fields=REQUEST).fields
    ()
    """
    try:
        # Bounded: the file of a user may be a pipe or a device without an end.
        content = _package_file(name, fields).read_text(encoding="utf-8") if file is None else read_text(file)
    except DataError as error:
        raise ValueError(f"prompt_file cannot be read: {error}") from error
    text = content.strip()
    prompt = Prompt(name if file is None else Path(file).stem, text)
    if prompt.fields != tuple(fields):
        raise ValueError(
            f"the prompt '{file or name}' has the fields {_listed(prompt.fields, ', ') or 'none'}; needed: "
            f"{_listed(fields, ' then ') or 'no fields'}, once each"
        )
    if not text:
        raise ValueError(f"the prompt '{file or name}' is empty; write the text of the prompt into it")
    return prompt


def _package_file(name: str, fields: Sequence[str]) -> Traversable:
    """The file of a prompt of the package.

    Raises:
        ValueError: there is none; the message lists the prompts that have these fields.
    """
    prompts: dict[str, Traversable] = {}
    for path in (files("basereward.model") / "prompts").iterdir():
        prompts[Path(path.name).stem] = path
    if name in prompts:
        return prompts[name]
    suitable: list[str] = []
    for known_name, path in prompts.items():
        if tuple(FIELD.findall(path.read_text())) == tuple(fields):
            suitable.append(known_name)
    raise ValueError(unknown("prompt", name, suitable))


def _listed(fields: Sequence[str], separator: str) -> str:
    """Fields as they stand in a prompt.

    >>> _listed(POINTWISE, " then ")
    '{question} then {answer}'
    """
    return separator.join("{" + field + "}" for field in fields)
