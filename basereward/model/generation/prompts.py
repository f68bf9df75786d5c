"""Prompts of judges: text files with fields in braces."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from basereward.data.schema.group import Group, Part, Turn
from basereward.errors import unknown

FIELD = re.compile(r"\{(\w+)\}")
PAIRWISE = ("question", "answer_1", "answer_2")
POINTWISE = ("question", "answer")
REQUEST = ()  # a request for a critique has no fields: it follows the answer in a turn of its own
ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt with fields, each of which occurs once, in a fixed order.

    >>> Prompt("p", "{question} A: {answer} Good?").after("answer")
    ' Good?'
    """

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Hash of the text; runs record it, so that two wordings under one name can be told apart."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(FIELD.findall(self.text))

    def before(self, field: str) -> str:
        """The text between the previous field and this one."""
        return FIELD.split(self.text)[2 * self.fields.index(field)]

    def after(self, field: str) -> str:
        """The text between this field and the next one, or the end."""
        return FIELD.split(self.text)[2 * self.fields.index(field) + 2]

    def turns(self, group: Group, **answers: str) -> tuple[Turn, ...]:
        """The prompt as one user turn about a group, with the group's images in place.

        Args:
            group: its prompt is the question.
            answers: text of the fields after the question, by name; the turn ends at the first field that is missing.
        """
        parts = [Part(self.before("question")), *question_parts(group.prompt)]
        for field in self.fields[1:]:
            parts.append(Part(self.before(field)))
            if field not in answers:
                return (Turn("user", _joined(parts)),)
            parts.append(Part(answers[field]))
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
    """The parts with adjacent texts joined; empty texts are dropped."""
    joined: list[Part] = []
    for part in parts:
        if joined and part.text is not None and joined[-1].text is not None:
            joined[-1] = Part(joined[-1].text + part.text)
        elif part.text != "":
            joined.append(part)
    return tuple(joined)


def load_prompt(name: str, file: str | Path | None = None, *, fields: Sequence[str]) -> Prompt:
    """Loads a prompt of the package, or a user's own.

    Args:
        name: of a file in `basereward/model/prompts`.
        file: a text file that is read instead.
        fields: the fields that it must have, in this order: `PAIRWISE`, `POINTWISE` or `REQUEST`.

    Raises:
        ValueError: there is no such prompt, it cannot be read, it is empty, or it has other fields.

    >>> load_prompt("critique", fields=REQUEST).fields
    ()
    """
    known = {Path(prompt.name).stem: prompt for prompt in (files("basereward.model") / "prompts").iterdir()}
    if file is None and name not in known:
        fitting = []
        for known_name, path in known.items():
            if tuple(FIELD.findall(path.read_text())) == tuple(fields):
                fitting.append(known_name)
        raise ValueError(unknown("prompt", name, fitting))
    try:
        text = (known[name] if file is None else Path(file)).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompt_file cannot be read: {error}") from error
    prompt = Prompt(name if file is None else Path(file).stem, text)
    if prompt.fields != tuple(fields):
        listed = " then ".join("{" + field + "}" for field in fields) or "no fields"
        given = ", ".join("{" + field + "}" for field in prompt.fields) or "none"
        raise ValueError(f"the prompt '{file or name}' has the fields {given}; needed: {listed}, once each")
    if not text:
        raise ValueError(f"the prompt '{file or name}' is empty")
    return prompt
