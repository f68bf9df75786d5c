"""From a group's words and pictures to tokens, in one way for training, scoring and serving.

Prompt and responses are encoded apart. The prefix is the prompt in the backbone's own chat template, with the
generation prompt at its end; a branch is one response with the template's end-of-turn token at its end. Shapes: P
tokens of the prefix, L of a branch, N image patches.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from basereward.data.chat import SENTINEL, Tokenizer, end_of_turn, messages
from basereward.data.group import Group, Part, Preference, Turn
from basereward.data.pictures import Known, PictureReader
from basereward.data.pixels import Pixels
from basereward.data.screening import RowLost
from basereward.data.speech import Speech, Spoken
from basereward.data.tiles import marked

Positions = Callable[[Tensor, Tensor | None], Tensor]
"""`(input_ids (P,), image_grid_thw (n, 3) or None) -> positions (3, P) or (P,)`: as the backbone numbers a prefix."""


_tokenizing = threading.Lock()


class EncodingError(RowLost):
    """A group does not fit the backbone: `too_long`, `image_without_vision` or `image_token_in_text`."""


@dataclass(frozen=True, slots=True)
class Size:
    """How long a group is once it is encoded."""

    prefix: int  # tokens of the prompt, those of its images included
    branches: tuple[int, ...]  # tokens of every response with its end of turn
    images: int

    @property
    def tokens(self) -> int:
        """Of the group in a tree row."""
        return self.prefix + sum(self.branches)


@dataclass(frozen=True, slots=True)
class EncodedGroup:
    """A group as tokens. `images_thw` counts patches of each image in time, height and width."""

    id: str
    source: str
    prefix: Tensor  # (P,) int64
    positions: Tensor  # (3, P) or (P,) int64
    branches: tuple[Tensor, ...]  # of (L,) int64; K, or where a head speaks as many as it has to say something at
    preferences: tuple[Preference, ...]
    pixels: Pixels | None = None  # N patches, of the images whose features are not at hand
    images_thw: Tensor | None = None  # (n, 3) int64
    known: tuple[Known, ...] = ()  # n where features are kept, else none
    lengths: tuple[int, ...] = ()  # K: tokens of every response, its end of turn left out; none: of branches, less one
    spoken: tuple[Spoken, ...] = ()  # of every branch where a head speaks, else none

    @property
    def longest(self) -> int:
        """Tokens of the prefix with the longest branch: what a plain sequence of this group needs."""
        return len(self.prefix) + max(len(branch) for branch in self.branches)

    @property
    def response_lengths(self) -> list[int]:
        """Tokens of every response, its end of turn left out."""
        return list(self.lengths) or [len(branch) - 1 for branch in self.branches]


class Encoder:
    """Encodes groups for one backbone.

    Args:
        tokenizer: the backbone's own, with its chat template.
        positions: how the backbone numbers the tokens of a prefix.
        image_processor: the backbone's own; None for a text-only backbone.
        image_token_id: the id that stands for one visual token; None for a text-only backbone.
        merge_size: side of the square of patches that becomes one visual token.
        image_marks: ids that go before and after the tokens of an image, where the chat template does not put them.
        max_tokens: a longer group raises `EncodingError("too_long", ...)`; nothing is ever cut.

    Attributes:
        fingerprint: a hash of all that decides how long a group becomes and whether it fits.
        pictures: how images are read.
        speech: what a head that speaks adds to the branches; None for scalar heads.

    Raises:
        ModelError: the tokenizer has no chat template.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        positions: Positions,
        image_processor: Any = None,
        image_token_id: int | None = None,
        merge_size: int = 1,
        image_marks: tuple[int, int] | None = None,
        max_tokens: int = 4096,
    ) -> None:
        self.tokenizer = tokenizer
        self.positions = positions
        self.image_processor = image_processor
        self.pictures = PictureReader(image_processor)
        self.image_token_id = image_token_id
        self.merge_size = merge_size
        self.image_marks = image_marks
        self.max_tokens = max_tokens
        self.speech: Speech | None = None
        self.end_of_turn = end_of_turn(tokenizer)
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end_of_turn

    def __call__(self, group: Group, *, taught: bool = False) -> EncodedGroup:
        """Encodes a group; `taught` with the text that a head which speaks learns to write.

        Raises:
            EncodingError: too long, or its images and their places in the text do not fit together.
            ImageError: an image cannot be opened.
        """
        self._check_images(group)
        pictures = self.pictures(group.images) if group.images else None
        images_thw = pictures.thw if pictures else None
        prefix = self._prefix(group, images_thw)
        branches, spoken = self._branches(group, taught=taught)
        encoded = EncodedGroup(
            id=group.id,
            source=group.source,
            prefix=prefix,
            positions=self.positions(prefix, images_thw),
            branches=branches,
            preferences=group.preferences,
            pixels=pictures.pixels if pictures else None,
            images_thw=images_thw,
            known=pictures.known if pictures else (),
            lengths=tuple(len(branch) - 1 for branch in branches) if not spoken else self._lengths(group),
            spoken=spoken,
        )
        self.check_length(encoded.longest)
        return encoded

    def measure(self, group: Group, *, taught: bool = False) -> Size:
        """What `__call__` would give, in numbers: pictures are opened, but not cut into patches.

        Raises:
            EncodingError, ImageError: as `__call__`, for the same groups.
        """
        self._check_images(group)
        patches = self.pictures.measure(group.images)
        grids = torch.tensor([[1, 1, n] for n in patches]) if patches else None
        prefix = len(self._prefix(group, grids))
        branches = tuple(len(branch) for branch in self._branches(group, taught=taught)[0])
        self.check_length(prefix + max(branches))
        return Size(prefix, branches, len(patches))

    @cached_property
    def fingerprint(self) -> str:
        processor = self.image_processor.to_json_string() if self.image_processor is not None else ""
        backend = self.tokenizer.backend_tokenizer.to_str()
        parts = (backend, self.tokenizer.chat_template or "", processor, self.image_token_id, self.max_tokens)
        marks = () if self.image_marks is None else (self.image_marks,)
        speech = () if self.speech is None else (self.speech.fingerprint,)
        return hashlib.sha256(repr((*parts, *marks, *speech)).encode()).hexdigest()

    def check_length(self, longest: int) -> None:
        """Raises `EncodingError` when a prefix with its longest branch has more tokens than are allowed."""
        if longest > self.max_tokens:
            raise EncodingError("too_long", f"{longest} tokens; data.encoding.max_tokens allows {self.max_tokens}")

    def _check_images(self, group: Group) -> None:
        if group.images and self.image_processor is None:
            raise EncodingError("image_without_vision", "the row has an image and the backbone reads text only")

    def _prefix(self, group: Group, images_thw: Tensor | None) -> Tensor:
        text = self._rendered(group.prompt if self.speech is None else self.speech.prompt(group))
        if self.speech is not None and self.speech.open:
            text = text.rpartition(SENTINEL)[0]
        ids = self._special(text)
        if self.image_token_id is None:
            return ids
        sizes = [] if images_thw is None else (images_thw.prod(-1) // self.merge_size**2).tolist()
        places = ids == self.image_token_id
        if int(places.sum()) != len(sizes):
            detail = f"{int(places.sum())} image tokens in the rendered prompt, {len(sizes)} images"
            raise EncodingError("image_token_in_text", detail)
        repeats = torch.ones_like(ids)
        repeats[places] = torch.tensor(sizes, dtype=torch.int64)
        if self.image_marks is not None:
            ids, repeats = marked(ids, repeats, places, self.image_marks)
        return ids.repeat_interleave(repeats)

    def _branches(self, group: Group, *, taught: bool) -> tuple[tuple[Tensor, ...], tuple[Spoken, ...]]:
        if self.speech is None:
            return tuple(self.branch(response) for response in group.responses), ()
        laid = self.speech(self, group, taught=taught)
        return tuple(branch for branch, _ in laid), tuple(spoken for _, spoken in laid)

    def _lengths(self, group: Group) -> tuple[int, ...]:
        return tuple(len(self.plain(response)) for response in group.responses)

    def _rendered(self, turns: Sequence[Turn]) -> str:
        """Turns in the chat template, with the generation prompt."""
        told = messages(turns, in_parts=self.image_token_id is not None)
        text: str = self.tokenizer.apply_chat_template(told, tokenize=False, add_generation_prompt=True)
        return text

    @cached_property
    def closing(self) -> Tensor:
        """What stands between the end of a user's words and what is then said, `(n,)`: the end of the turn and the
        generation prompt."""
        return self._special(self._rendered([Turn("user", (Part(SENTINEL),))]).rpartition(SENTINEL)[2])

    def asked(self, request: str) -> Tensor:
        """What stands between a response and what is then said at the user's request, `(n,)`: the response's end of
        turn, the request, and the generation prompt."""
        turns = [("user", "?"), ("assistant", SENTINEL), ("user", request)]
        text = self._rendered([Turn(role, (Part(words),)) for role, words in turns])  # type: ignore[arg-type]
        return self._special(text.rpartition(SENTINEL)[2].lstrip())

    def _special(self, text: str) -> Tensor:
        """Tokens of a piece of the chat template, `(n,)`."""
        return self._tokens(text, split_special_tokens=False)

    def plain(self, text: str) -> Tensor:
        """Tokens of a text, `(n,)`."""
        # Special tokens written out in a response are its text: they must neither end the turn nor stand for an image.
        return self._tokens(text, split_special_tokens=True)

    def _tokens(self, text: str, *, split_special_tokens: bool) -> Tensor:
        with _tokenizing:  # the option is set on the tokenizer, which threads may share
            ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=split_special_tokens)["input_ids"]
        return torch.tensor(ids, dtype=torch.int64)

    def branch(self, response: str) -> Tensor:
        """Tokens of a response with its end of turn, `(L,)`."""
        return torch.cat([self.plain(response), torch.tensor([self.end_of_turn])])
