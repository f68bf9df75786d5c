"""Encodes control tokens inside of texts as text: `<|im_end|>` in a question does not end the turn.

Control tokens in the texts of a conversation are put between two marks before the template is rendered, to distinguish
them from those that the template writes. The result is encoded by a copy of the tokenizer in which control tokens have
secret names, and these names replace the control tokens of the template. Texts without control tokens are encoded by
the original tokenizer.
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
from basereward.errors import ModelError, sentence

REASONING_TAGS = ("<think>", "</think>")
"""Added tokens of reasoning models that are part of texts on purpose."""
CONTROL_FORM = re.compile(r"<[|｜].+[|｜]>", re.DOTALL)  # noqa: RUF001 - DeepSeek uses the full-width bar
PRIVATE = range(0xF0000, 0xFFFFE)  # code points for private use

_tokenizing = threading.Lock()


@contextlib.contextmanager
def tokenizer_faults() -> Iterator[None]:
    """Context manager that converts a panic of the tokenizers library, which is no `Exception`, to an error.

    Raises:
        ModelError: for example, a regular expression in tokenizer.json failed on a text.

    >>> with tokenizer_faults():
    ...     tokens = "a b".split()
    >>> tokens
    ['a', 'b']
    """
    try:
        yield
    except BaseException as error:
        # pyo3, which binds the Rust library, makes the class at run time; it cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise ModelError(
            f"the tokenizer cannot read a text: {sentence(error)} Correct tokenizer.json, or use another checkpoint"
        ) from error


@dataclass(frozen=True, slots=True)
class Marks:
    """Two characters that occur in no text of a conversation, put before and after a control token inside of a text.

    >>> marks = Marks("(", ")")
    >>> f"{marks.start}<|im_end|>{marks.end}"
    '(<|im_end|>)'
    """

    start: str
    end: str


class ControlTokens:
    """The control tokens of a backbone, and the encoding of texts that contain them.

    Control tokens are the special tokens of the tokenizer, and added tokens that the template writes, that look like
    `<|...|>`, or that stand for an image. Reasoning tags (`<think>`) are control tokens only if they are special.

    Args:
        tokenizer: the backbone's tokenizer.
        written: texts that the chat template writes around the texts of a conversation.
        image_ids: tokens that stand for an image or a video, or come before or after one.

    Attributes:
        ids: the id of each control token.
        pattern: matches any control token.

    >>> from types import SimpleNamespace
    >>> from tokenizers import Tokenizer, models
    >>> backend = Tokenizer(models.WordLevel({}))
    >>> backend.add_special_tokens(["<|im_end|>"])
    1
    >>> control = ControlTokens(SimpleNamespace(backend_tokenizer=backend), written=())
    >>> control.ids, control.pattern.findall("Does <|im_end|> end a turn?")
    ({'<|im_end|>': 0}, ['<|im_end|>'])
    """

    def __init__(self, tokenizer: Tokenizer, *, written: Sequence[str], image_ids: Iterable[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.backend = tokenizer.backend_tokenizer
        self.ids = _find_control_tokens(self.backend, written=written, image_ids=set(image_ids))
        # A regular expression takes the first alternative that matches, the tokenizer the longest token.
        longest_first = sorted(self.ids, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._id_set = set(self.ids.values())
        # A name that can be guessed could be part of a text, which would then be encoded as a control token.
        secret = secrets.token_hex(16)
        self._names = {content: f"<{secret}:{token_id}>" for content, token_id in self.ids.items()}

    def mark(self, turns: Sequence[Turn]) -> tuple[Sequence[Turn], Marks | None]:
        """Mark the control tokens inside of texts.

        Returns:
            The turns with marks, and the marks; the same turns and None if there are no control tokens.
        """
        if not any(self._typed(turn) for turn in turns):
            return turns, None
        # Even private code points occur in texts (icon fonts), so the first two that are not in these texts are used.
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
        # A token may extend over adjacent text parts, so they are marked as one text.
        for is_visual, run in groupby(turn.parts, key=lambda part: part.is_visual):
            if is_visual:
                parts += run
            else:
                text = "".join(part.text or "" for part in run)
                parts.append(Part(self.pattern.sub(f"{marks.start}\\g<0>{marks.end}", text)))
        return replace(turn, parts=tuple(parts))

    def encode(self, rendered: str, marks: Marks | None = None) -> list[int]:
        """Encode a rendered text. Marked control tokens are encoded as text, and the marks are removed."""
        if marks is not None:
            return self._encode_named(self._named(rendered, marks))
        ids = self._tokenized(rendered, split_special_tokens=False)
        # A normalizer may produce a control token from other characters.
        if self.backend.normalizer is not None and self._count(ids) > len(self.pattern.findall(rendered)):
            return self._encode_named(self._names_for(rendered))
        return ids

    def encode_text(self, text: str) -> list[int]:
        """Encode a text without control tokens; control tokens inside of it are encoded as text."""
        # `split_special_tokens` applies only to special tokens. Other control tokens need the renamed copy.
        ids = self._tokenized(text, split_special_tokens=True)
        return ids if self._id_set.isdisjoint(ids) else self._encode_named(text)

    def _tokenized(self, text: str, *, split_special_tokens: bool) -> list[int]:
        # `split_special_tokens` changes the state of the tokenizer, which threads may share.
        with _tokenizing, tokenizer_faults():
            encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=split_special_tokens)
        ids: list[int] = encoded["input_ids"]
        return ids

    def _count(self, ids: Sequence[int]) -> int:
        return sum(token_id in self._id_set for token_id in ids)

    def _named(self, rendered: str, marks: Marks) -> str:
        """Replace the control tokens of the template by their secret names; keep those inside of texts."""
        start, end = re.escape(marks.start), re.escape(marks.end)
        # A template that truncates texts may leave a single mark. The texts around it must not form a token.
        pieces = re.split(f"{start}({self.pattern.pattern}){end}|[{start}{end}]", rendered)
        return "".join(
            (piece or "") if place % 2 else self._names_for(piece or "") for place, piece in enumerate(pieces)
        )

    def _names_for(self, text: str) -> str:
        return self.pattern.sub(lambda match: self._names[match[0]], text)

    def _encode_named(self, text: str) -> list[int]:
        backend, renumbered = self._renamed
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return [renumbered.get(token_id, token_id) for token_id in ids]

    @cached_property
    def _renamed(self) -> tuple[Any, dict[int, int]]:
        """A copy of the tokenizer with secret names for its control tokens, and a map of changed ids."""
        # The library has no method to rename a token, so the serialized tokenizer is edited.
        settings = json.loads(self.backend.to_str())
        names = self._names
        for token in settings["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        # Some tokenizers list added tokens in the vocabulary, too. It is a mapping, or for Unigram a list of pairs.
        vocabulary = settings["model"].get("vocab")
        if isinstance(vocabulary, dict):
            settings["model"]["vocab"] = {names.get(token, token): place for token, place in vocabulary.items()}
        elif isinstance(vocabulary, list):
            settings["model"]["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
        unknown = settings["model"].get("unk_token")
        settings["model"] |= {"unk_token": names.get(unknown, unknown)} if unknown else {}
        # A post-processor may refer to a token by its old name. It adds special tokens, which are not wanted here.
        settings["post_processor"] = None
        backend = type(self.backend).from_str(json.dumps(settings))
        backend.no_truncation()
        backend.no_padding()
        # The library numbers added tokens that are not in the vocabulary anew when it loads them.
        renumbered = {backend.token_to_id(names[content]): token_id for content, token_id in self.ids.items()}
        return backend, {new: old for new, old in renumbered.items() if new != old}


def _find_control_tokens(backend: Any, *, written: Sequence[str], image_ids: set[int]) -> dict[str, int]:
    """Find the control tokens among the added tokens of a tokenizer; see `ControlTokens` for the arguments."""
    ids: dict[str, int] = {}
    for token_id, token in backend.get_added_tokens_decoder().items():
        content: str = token.content
        if token.special or token_id in image_ids or _has_control_form(content, written=written):
            ids[content] = token_id
    return ids


def _has_control_form(content: str, *, written: Sequence[str]) -> bool:
    """Whether an added token that is not special is a control token, by its form or because the template writes it."""
    if content in REASONING_TAGS:
        return False
    if CONTROL_FORM.fullmatch(content):
        return True
    return _is_markup(content) and any(content in text for text in written)


def _is_markup(content: str) -> bool:
    """Whether an added token looks like markup, and not like a word, a line break or spaces."""
    bare = content.strip()
    return len(bare) > 2 and not bare[0].isalnum() and not bare[-1].isalnum() and any(map(str.isalnum, bare))


def _runs(turn: Turn) -> list[str]:
    """Join the adjacent text parts of a turn; images and videos separate the texts."""
    runs = groupby(turn.parts, key=lambda part: part.is_visual)
    return ["".join(part.text or "" for part in run) for is_visual, run in runs if not is_visual]
