"""From a group's words and pictures to tokens, in one way for training, scoring and serving.

Prompt and responses are encoded apart. The prefix is the prompt in the backbone's own chat template, with the
generation prompt at its end; a branch is one response as the template writes it (see `templates.answers`), with its
end-of-turn token at its end. Control tokens that somebody typed are text in both. Shapes: P tokens of the prefix, L of
a branch, N image patches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from basereward.data.encoding.answers import AnswerFormat, find_answer_format, mark_text
from basereward.data.encoding.chat import SENTINEL, Tokenizer, end_of_turn
from basereward.data.encoding.control_tokens import ControlTokens, Marks
from basereward.data.encoding.rendering import REJECTED, ChatTemplate, explained
from basereward.data.encoding.template_limits import characters_per_token
from basereward.data.images.image_features import CachedFeatures, PictureReader
from basereward.data.images.pixels import Pixels
from basereward.data.images.tiles import marked
from basereward.data.schema.group import Group, Part, Preference, Turn
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.text import check_text

VERSION = 2
"""Of the encoding: it changes when the same group gets other tokens, so that nothing kept from before is used."""
FREE_CHARACTERS = 16
"""Characters per allowed token up to which a text is encoded without asking whether it can fit."""

Positions = Callable[[Tensor, Tensor | None], Tensor]
"""`(input_ids (P,), image_grid_thw (n, 3) or None) -> positions (3, P) or (P,)`: as the backbone numbers a prefix."""


class EncodingError(RowRejected):
    """A group does not fit the backbone: `too_long`, `image_without_vision`, `image_token_in_text` or
    `template_rejects`."""


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
class BranchTarget:
    """One branch of a head that speaks."""

    written: int = 0  # its last tokens, which the head is taught to write; 0 where they are still to be written
    weight: float = 1.0  # what those count in the loss
    about: tuple[int, ...] = ()  # the responses it is about, in the order they are shown


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
    known: tuple[CachedFeatures, ...] = ()  # n where features are kept, else none
    lengths: tuple[int, ...] = ()  # K: tokens of every response, its end of turn left out; none: of branches, less one
    spoken: tuple[BranchTarget, ...] = ()  # of every branch where a head speaks, else none

    @property
    def longest(self) -> int:
        """Tokens of the prefix with the longest branch: what a plain sequence of this group needs."""
        return len(self.prefix) + max(len(branch) for branch in self.branches)

    @property
    def response_lengths(self) -> list[int]:
        """Tokens of every response, its end of turn left out."""
        return list(self.lengths) or [len(branch) - 1 for branch in self.branches]


class BranchTemplate(Protocol):
    """Lays out the branches of a group.

    Attributes:
        fingerprint: changes with anything that changes a branch.
        open: whether branches go on within the prompt's last turn, at the `SENTINEL` at its end.
        text: of its prompt.
    """

    open: bool
    text: str

    @property
    def fingerprint(self) -> str: ...

    def prompt(self, group: Group) -> tuple[Turn, ...]:
        """What all branches of a group begin with."""
        ...

    def __call__(self, encoder: Encoder, group: Group, *, with_targets: bool) -> Sequence[tuple[Tensor, BranchTarget]]:
        """The branches, `(L,)` tokens each, with their targets.

        Args:
            with_targets: whether a branch includes the text of the data that the head learns; otherwise it ends where
                the head starts to generate.

        Raises:
            RowRejected: the group has no text to learn from, or nothing can be said of it.
        """
        ...


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
        same_positions: a longer group raises it too, since the backbone would number what is beside it in another way;
            None: the backbone has no such limit.

    Attributes:
        fingerprint: a hash of all that decides how long a group becomes and whether it fits.
        pictures: how images are read.
        speech: what a head that speaks adds to the branches; None for scalar heads.

    Raises:
        ModelError: the tokenizer has no chat template, or one that refuses even a question and its answer.
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
        same_positions: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.positions = positions
        self.image_processor = image_processor
        self.pictures = PictureReader(image_processor)
        self.image_token_id = image_token_id
        self.merge_size = merge_size
        self.image_marks = image_marks
        self.max_tokens = max_tokens
        self.same_positions = same_positions
        self.speech: BranchTemplate | None = None
        self.template = ChatTemplate(tokenizer, in_parts=image_token_id is not None)
        images = (*(() if image_token_id is None else (image_token_id,)), *(image_marks or ()))
        self.control = ControlTokens(tokenizer, written=self.template.frame.written, image_ids=images)
        with explained():
            self._last_answer = find_answer_format(self.template, control=self.control)
        self.end_of_turn = end_of_turn(tokenizer, self._last_answer.after.removeprefix(self._last_answer.closing))
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end_of_turn

    def __call__(self, group: Group, *, with_targets: bool = False) -> EncodedGroup:
        """Encodes a group; `with_targets` with the text that a head which speaks learns to write.

        Raises:
            RowRejected: too long, refused by the chat template, or its images and their places in the text do not fit
                together.
            ImageError: an image cannot be opened.
        """
        check_text(group)
        self._check_images(group)
        pictures = self.pictures(group.images) if group.images else None
        images_thw = pictures.thw if pictures else None
        prefix = self._prefix(group, images_thw)
        branches, spoken = self._branches(group, with_targets=with_targets)
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

    def measure(self, group: Group, *, with_targets: bool = False) -> Size:
        """What `__call__` would give, in numbers: pictures are opened, but not cut into patches.

        Raises:
            RowRejected, ImageError: as `__call__`, for the same groups.
        """
        check_text(group)
        self._check_images(group)
        patches = self.pictures.measure(group.images)
        grids = torch.tensor([[1, 1, n] for n in patches]) if patches else None
        prefix = len(self._prefix(group, grids))
        branches = tuple(len(branch) for branch in self._branches(group, with_targets=with_targets)[0])
        self.check_length(prefix + max(branches))
        return Size(prefix, branches, len(patches))

    @cached_property
    def fingerprint(self) -> str:
        processor = self.image_processor.to_json_string() if self.image_processor is not None else ""
        backend = self.tokenizer.backend_tokenizer.to_str()
        parts = (VERSION, backend, self.tokenizer.chat_template or "", processor, self.image_token_id, self.max_tokens)
        marks = () if self.image_marks is None else (self.image_marks,)
        speech = () if self.speech is None else (self.speech.fingerprint,)
        limit = () if self.same_positions is None else (self.same_positions,)
        return hashlib.sha256(repr((*parts, *marks, *speech, *limit)).encode()).hexdigest()

    def check_length(self, longest: int) -> None:
        """Raises `EncodingError` when a prefix with its longest branch has more tokens than are allowed."""
        if longest > self.max_tokens:
            raise EncodingError("too_long", f"{longest} tokens; data.encoding.max_tokens allows {self.max_tokens}")
        if self.same_positions is not None and longest > self.same_positions:
            raise EncodingError(
                "too_long",
                f"{longest} tokens; beyond {self.same_positions} the backbone's rotary positions change for the whole "
                "batch, so that scores would depend on what is scored beside it",
            )

    def _check_images(self, group: Group) -> None:
        if group.images and self.image_processor is None:
            raise EncodingError("image_without_vision", "the row has an image and the backbone reads text only")

    def opening(self, group: Group) -> EncodedGroup:
        """A prompt that the model itself answers: with the whole generation prompt, as the template ends it. Its last
        token is the one branch, which the answer goes on from.

        Raises:
            RowRejected, ImageError: as `__call__`.
        """
        self._check_images(group)
        pictures = self.pictures(group.images) if group.images else None
        images_thw = pictures.thw if pictures else None
        rendered, marks = self._rendered(group.prompt)
        ids = self._expanded(self.control.encode(rendered, marks), images_thw)
        self.check_length(len(ids))
        return EncodedGroup(
            id=group.id,
            source=group.source,
            prefix=ids[:-1],
            positions=self.positions(ids, images_thw)[..., :-1],
            branches=(ids[-1:],),
            preferences=(),
            pixels=pictures.pixels if pictures else None,
            images_thw=images_thw,
            known=pictures.known if pictures else (),
        )

    def _prefix(self, group: Group, images_thw: Tensor | None) -> Tensor:
        rendered, marks = self._rendered(group.prompt if self.speech is None else self.speech.prompt(group))
        if self.speech is not None and self.speech.open:
            rendered = rendered.rpartition(SENTINEL)[0]
        else:
            rendered = self._answer.without_cut(rendered)
        return self._expanded(self.control.encode(rendered, marks), images_thw)

    def _expanded(self, prompt: list[int], images_thw: Tensor | None) -> Tensor:
        """A prompt with the tokens of every image in the place of its one, `(P,)`."""
        ids = torch.tensor(prompt, dtype=torch.int64)
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

    def _branches(self, group: Group, *, with_targets: bool) -> tuple[tuple[Tensor, ...], tuple[BranchTarget, ...]]:
        if self.speech is None:
            return tuple(self.branch(response) for response in group.responses), ()
        laid = self.speech(self, group, with_targets=with_targets)
        return tuple(branch for branch, _ in laid), tuple(spoken for _, spoken in laid)

    def _lengths(self, group: Group) -> tuple[int, ...]:
        return tuple(len(self.plain(response)) for response in group.responses)

    def _rendered(self, turns: Sequence[Turn]) -> tuple[str, Marks | None]:
        """Turns in the chat template with the generation prompt, and the marks around control tokens in their texts.

        Raises:
            RowRejected: `too_long` or `template_rejects`.
        """
        for turn in turns:
            self._check_characters("".join(part.text or "" for part in turn.parts))
        roles = {turn.role for turn in turns[:-1]} & self.template.frame.left_out
        if roles:
            raise EncodingError(REJECTED, f"the chat template leaves out turns of the role {', '.join(sorted(roles))}")
        marked_turns, marks = self.control.mark(turns)
        return self.template.render(marked_turns, generation_prompt=True), marks

    def _check_characters(self, text: str) -> None:
        """Raises `EncodingError` for a text that cannot fit before it is encoded, which takes minutes for 10 MB."""
        if len(text) <= FREE_CHARACTERS * self.max_tokens:
            return
        per_token, proved = self._characters_per_token
        if len(text) > self.max_tokens * per_token:
            least = -(-len(text) // per_token)
            said = f"at least {least} tokens" if proved else f"more than {per_token} characters per allowed token"
            raise EncodingError(
                "too_long", f"{len(text)} characters, {said}; data.encoding.max_tokens allows {self.max_tokens}"
            )

    @cached_property
    def _characters_per_token(self) -> tuple[int, bool]:
        return characters_per_token(self.tokenizer.backend_tokenizer)

    @property
    def _answer(self) -> AnswerFormat:
        """The form of a response: in the last turn, or before a request where a head asks for more."""
        if self.speech is None or self.speech.open:
            return self._last_answer
        return self._earlier_answer

    @cached_property
    def _earlier_answer(self) -> AnswerFormat:
        following = (Turn("user", (Part("basereward-request"),)),)
        with explained():
            return find_answer_format(self.template, following=following, control=self.control)

    @cached_property
    def closing(self) -> Tensor:
        """What stands between the end of a user's words and a plain answer, `(n,)`: the end of the turn, the
        generation prompt, and what the template writes before an answer without reasoning."""
        return self._special(self._closing_text + self._last_answer.lead)

    @cached_property
    def closing_before_reasoning(self) -> Tensor:
        """As `closing`, for an answer with its own reasoning, which begins with `<think>`: `(n,)`."""
        return self._special(self._closing_text)

    @cached_property
    def _closing_text(self) -> str:
        rendered = self.template.render([Turn("user", (Part(SENTINEL),))], generation_prompt=True)
        return self._last_answer.without_cut(rendered).rpartition(SENTINEL)[2]

    def asked(self, request: str) -> Tensor:
        """What stands between a response and what is then said at the user's request, `(n,)`: the response's end of
        turn, the request, the generation prompt, and what the template writes before an answer without reasoning."""
        turns = [Turn("user", (Part("?"),)), Turn("assistant", (Part(SENTINEL),)), Turn("user", (Part(request),))]
        marked_turns, marks = self.control.mark(turns)
        rendered = self.template.render(marked_turns, generation_prompt=True)
        after = self._last_answer.without_cut(rendered).rpartition(SENTINEL)[2]
        after = after.removeprefix(self._earlier_answer.closing).lstrip() + self._last_answer.lead
        return torch.tensor(self.control.encode(after, marks), dtype=torch.int64)

    def _special(self, text: str) -> Tensor:
        """Tokens of a piece of the chat template, `(n,)`."""
        return torch.tensor(self.control.encode(text), dtype=torch.int64)

    def plain(self, text: str) -> Tensor:
        """Tokens of a text, `(n,)`.

        Raises:
            EncodingError: `too_long`; it has more characters than could fit.
        """
        self._check_characters(text)
        # Control tokens written out in a text are its text: they must neither end the turn nor stand for an image.
        return torch.tensor(self.control.encode_text(text), dtype=torch.int64)

    def branch(self, response: str) -> Tensor:
        """Tokens of a response, as the chat template writes it after the prefix, with its end of turn: `(L,)`.

        Raises:
            RowRejected: `too_long`, or `template_rejects`.
        """
        return torch.cat([self._written(response, self._answer, plain=False), torch.tensor([self.end_of_turn])])

    def answer(self, text: str) -> Tensor:
        """Tokens of an answer without reasoning that stands after `closing` or `asked`, with its end of turn: `(L,)`.

        Raises:
            RowRejected: as `branch`.
        """
        return torch.cat([self._written(text, self._last_answer, plain=True), torch.tensor([self.end_of_turn])])

    def _written(self, text: str, form: AnswerFormat, *, plain: bool) -> Tensor:
        """A text as the template writes it, `(n,)`; `plain` without what it writes before an answer."""
        self._check_characters(text)
        marked_text, marks = mark_text(self.control, text)
        written = form.text(marked_text)
        context = form.context
        if plain and form.lead and written.startswith(form.lead):
            written, context = written[len(form.lead) :], context and context + form.lead
        if written == text and not context:
            return self.plain(text)
        ids = self.control.encode(context + written, marks)
        before = self.control.encode(context) if context else []
        kept = ids[len(before) :] if ids[: len(before)] == before else self.control.encode(written, marks)
        return torch.tensor(kept, dtype=torch.int64)
