"""Control tokens that somebody typed stay text: `<|im_end|>` in a question ends no turn.

Typed control tokens are put between two marks before the template is rendered, so that they can be told from those
that the template writes. The text is then encoded by a copy of the tokenizer whose control tokens have private names,
which stand only where the template wrote one. Texts without any are encoded as they always were.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any

from basereward.data.encoding.chat import Tokenizer
from basereward.data.schema.group import Part, Turn
from basereward.errors import ModelError

REASONING_TAGS = ("<think>", "</think>")
"""Added tokens of reasoning models that people, and models, write in texts on purpose."""
CONTROL_FORM = re.compile(r"<[|｜].+[|｜]>", re.DOTALL)  # noqa: RUF001 - DeepSeek writes the wide one
PRIVATE = range(0xF0000, 0xFFFFE)  # code points for private use

_tokenizing = threading.Lock()


@contextlib.contextmanager
def tokenizer_faults() -> Iterator[None]:
    """Turns a panic of the tokenizers library, which is no `Exception`, into an error that a command can tell.

    Raises:
        ModelError: an expression in tokenizer.json gave up on a text, for example.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ModelError(
            f"the tokenizer cannot read a text: {error}. Mend tokenizer.json, or use another checkpoint"
        ) from error


@dataclass(frozen=True, slots=True)
class Marks:
    """Two characters that no text of a conversation holds: one before and one after a typed control token."""

    start: str
    end: str


class ControlTokens:
    """Which tokens control a conversation, and the encoding of texts that hold them.

    A token is one that the tokenizer calls special; or an added token that the template writes itself, that has the
    form `<|...|>`, or that stands for an image. Reasoning tags (`<think>`) that are not special are none.

    Args:
        tokenizer: the backbone's own.
        written: texts that the chat template wrote, without anybody's words.
        image_ids: tokens that stand for an image or are around one.
    """

    def __init__(self, tokenizer: Tokenizer, *, written: Sequence[str], image_ids: Iterable[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.backend = tokenizer.backend_tokenizer
        images = set(image_ids)
        self.ids: dict[str, int] = {}
        for token_id, token in self.backend.get_added_tokens_decoder().items():
            content: str = token.content
            by_template = _is_markup(content) and any(content in text for text in written)
            formed = by_template or CONTROL_FORM.fullmatch(content) is not None
            if token.special or token_id in images or (formed and content not in REASONING_TAGS):
                self.ids[content] = token_id
        # Longest first, as the tokenizer matches them.
        longest_first = sorted(self.ids, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._id_set = set(self.ids.values())
        secret = secrets.token_hex(16)  # a name that could be guessed could be typed
        self._names = {content: f"<{secret}:{token_id}>" for content, token_id in self.ids.items()}

    def mark(self, turns: Sequence[Turn]) -> tuple[Sequence[Turn], Marks | None]:
        """Turns with marks around what somebody typed, and the marks; the same turns and None where nobody did."""
        if not any(self._typed(turn) for turn in turns):
            return turns, None
        joined = "".join(part.text or "" for turn in turns for part in turn.parts)
        free = (chr(point) for point in PRIVATE if chr(point) not in joined)
        marks = Marks(next(free), next(free))
        return [self._marked(turn, marks) for turn in turns], marks

    def _typed(self, turn: Turn) -> bool:
        return any(self.pattern.search(text) for text in _runs(turn))

    def _marked(self, turn: Turn, marks: Marks) -> Turn:
        if not self._typed(turn):
            return turn
        parts: list[Part] = []
        # Parts that stand beside each other can hold one token together, so they are marked as one text.
        for is_image, run in groupby(turn.parts, key=lambda part: part.is_image):
            if is_image:
                parts += run
            else:
                text = "".join(part.text or "" for part in run)
                parts.append(Part(self.pattern.sub(f"{marks.start}\\g<0>{marks.end}", text)))
        return replace(turn, parts=tuple(parts))

    def encode(self, rendered: str, marks: Marks | None = None) -> list[int]:
        """Token ids of a rendered text. Marked control tokens are text, all others control; marks leave no trace."""
        if marks is not None:
            return self._encode_named(self._named(rendered, marks))
        ids = self._tokenized(rendered, split_special_tokens=False)
        # A normalizer can make a control token of letters that looked like none.
        if self.backend.normalizer is not None and self._count(ids) > len(self.pattern.findall(rendered)):
            return self._encode_named(self._names_for(rendered))
        return ids

    def encode_text(self, text: str) -> list[int]:
        """Token ids of somebody's words, of which none is a control token."""
        ids = self._tokenized(text, split_special_tokens=True)
        return ids if self._id_set.isdisjoint(ids) else self._encode_named(text)

    def _tokenized(self, text: str, *, split_special_tokens: bool) -> list[int]:
        # The option is set on the tokenizer, which threads may share.
        with _tokenizing, tokenizer_faults():
            encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=split_special_tokens)
        ids: list[int] = encoded["input_ids"]
        return ids

    def _count(self, ids: Sequence[int]) -> int:
        return sum(each in self._id_set for each in ids)

    def _named(self, rendered: str, marks: Marks) -> str:
        """The text with private names for the control tokens of the template, and typed ones as they are."""
        start, end = re.escape(marks.start), re.escape(marks.end)
        # A template that cuts texts can leave a mark alone. What stands on both sides must not become a token.
        pieces = re.split(f"{start}({self.pattern.pattern}){end}|[{start}{end}]", rendered)
        return "".join(
            (piece or "") if place % 2 else self._names_for(piece or "") for place, piece in enumerate(pieces)
        )

    def _names_for(self, text: str) -> str:
        return self.pattern.sub(lambda match: self._names[match[0]], text)

    def _encode_named(self, text: str) -> list[int]:
        backend, renumbered = self._renamed
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return [renumbered.get(each, each) for each in ids]

    @cached_property
    def _renamed(self) -> tuple[Any, dict[int, int]]:
        """The tokenizer with private names for its control tokens, and the ids that it numbers otherwise."""
        settings = json.loads(self.backend.to_str())
        names = self._names
        for token in settings["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        vocabulary = settings["model"].get("vocab")
        if isinstance(vocabulary, dict):
            settings["model"]["vocab"] = {names.get(token, token): place for token, place in vocabulary.items()}
        elif isinstance(vocabulary, list):
            settings["model"]["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
        unknown = settings["model"].get("unk_token")
        settings["model"] |= {"unk_token": names.get(unknown, unknown)} if unknown else {}
        settings["post_processor"] = None  # it may name a token; no special tokens are added anyway
        backend = type(self.backend).from_str(json.dumps(settings))
        backend.no_truncation()
        backend.no_padding()
        found = {backend.token_to_id(names[content]): token_id for content, token_id in self.ids.items()}
        return backend, {new: old for new, old in found.items() if new != old}


def _is_markup(content: str) -> bool:
    """Whether an added token looks like a mark, and not like a word, a line break or a run of spaces."""
    bare = content.strip()
    return len(bare) > 2 and not bare[0].isalnum() and not bare[-1].isalnum() and any(map(str.isalnum, bare))


def _runs(turn: Turn) -> list[str]:
    """Texts of a turn, with no image between the parts of one."""
    runs = groupby(turn.parts, key=lambda part: part.is_image)
    return ["".join(part.text or "" for part in run) for is_image, run in runs if not is_image]
