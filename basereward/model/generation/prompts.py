"""Prompts of judges, as text files with fields in braces."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from pathlib import Path

from basereward.data.schema.group import Group, Part, Turn
from basereward.errors import unknown

FIELD = re.compile(r"\{(\w+)\}")
PAIRWISE = ("question", "answer_1", "answer_2")
POINTWISE = ("question", "answer")
REQUEST = ()  # said after the answer, in a turn of its own
ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt with its fields, each of which comes once and in its order.

    >>> Prompt("p", "{question} A: {answer} Good?").after("answer")
    ' Good?'
    """

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Of the text, which tells two wordings apart."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(FIELD.findall(self.text))

    def before(self, field: str) -> str:
        """The text between the field before and this one."""
        return FIELD.split(self.text)[2 * self.fields.index(field)]

    def after(self, field: str) -> str:
        """The text between this field and the next, or the end."""
        return FIELD.split(self.text)[2 * self.fields.index(field) + 2]

    def turns(self, group: Group, **answers: str) -> tuple[Turn, ...]:
        """One turn of a user that asks about a group's prompt, its pictures in their places.

        Args:
            answers: text of the fields after the question, by their names; up to the first that is not given.
        """
        parts = [Part(self.before("question")), *asked(group.prompt)]
        for field in self.fields[1:]:
            parts.append(Part(self.before(field)))
            if field not in answers:
                return (Turn("user", _joined(parts)),)
            parts.append(Part(answers[field]))
        return (Turn("user", _joined([*parts, Part(self.after(self.fields[-1]))])),)


def asked(prompt: Sequence[Turn]) -> list[Part]:
    """A prompt as the text of a question: one turn of a user as it is, of several every one with its role before it."""
    if [turn.role for turn in prompt] == ["user"]:
        return list(prompt[0].parts)
    told = [[Part(f"{'' if i == 0 else chr(10)}{ROLES[t.role]}: "), *t.parts] for i, t in enumerate(prompt)]
    return list(chain.from_iterable(told))


def _joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Texts in a row as one."""
    joined: list[Part] = []
    for part in parts:
        if joined and part.text is not None and joined[-1].text is not None:
            joined[-1] = Part(joined[-1].text + part.text)
        elif part.text != "":
            joined.append(part)
    return tuple(joined)


def load_prompt(name: str, file: str | Path | None = None, *, fields: Sequence[str]) -> Prompt:
    """A prompt of the package, or a user's own.

    Args:
        name: of a file in `basereward/model/prompts`.
        file: a text file to be read in its place.
        fields: those it must have, in this order: `PAIRWISE`, `POINTWISE` or `REQUEST`.

    Raises:
        ValueError: there is no such prompt, or its fields are others.
    """
    known = {Path(each.name).stem: each for each in (files("basereward.model") / "prompts").iterdir()}
    if file is None and name not in known:
        fitting = [each for each, path in known.items() if tuple(FIELD.findall(path.read_text())) == tuple(fields)]
        raise ValueError(unknown("prompt", name, fitting))
    try:
        text = (known[name] if file is None else Path(file)).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"prompt_file cannot be read: {error}") from error
    prompt = Prompt(name if file is None else Path(file).stem, text)
    if prompt.fields != tuple(fields):
        listed = " then ".join("{" + field + "}" for field in fields) or "no fields"
        found = ", ".join("{" + field + "}" for field in prompt.fields) or "none"
        raise ValueError(f"the prompt '{file or name}' has the fields {found}; needed: {listed}, once each")
    if not text:
        raise ValueError(f"the prompt '{file or name}' is empty")
    return prompt
