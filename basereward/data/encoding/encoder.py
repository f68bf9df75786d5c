"""Encodes groups as tokens, in the same way for training, scoring and serving.

The prompt and the responses are encoded separately. The prefix is the prompt in the backbone's own chat template and
ends with the generation prompt. A branch is one response as the template writes it (see `encoding.answers`) and ends
with the end-of-turn token. Control tokens inside of texts are encoded as text. An image of a response stands in its
branch as the template writes it in a turn; the vision tower reads it together with those of the prompt.

Shapes: P tokens of a prefix, L tokens of a branch, K responses, n images, N image patches.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from basereward.data.encoding.answers import AnswerFormat, find_answer_format, mark_text
from basereward.data.encoding.branch_images import (
    BranchImages,
    images_of_branches,
    images_of_responses,
    response_content,
)
from basereward.data.encoding.chat import SENTINEL, Tokenizer, end_of_turn
from basereward.data.encoding.control_tokens import ControlTokens, Marks
from basereward.data.encoding.rendering import REJECTED, ChatTemplate, explained
from basereward.data.encoding.template_limits import characters_per_token
from basereward.data.images.feature_store import FeatureStore
from basereward.data.images.image_features import CachedFeatures, ImageReader
from basereward.data.images.pixels import Pixels
from basereward.data.images.tiles import marked
from basereward.data.schema.group import Group, Part, Preference, Turn, Video
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.text import check_text, check_texts
from basereward.data.videos.clips import Clip, VideoProcessor

VERSION = 2
"""The version of the encoding. It is raised when a change gives a group other tokens, which invalidates all caches."""
FREE_CHARACTERS = 16
"""Texts with at most this number of characters per allowed token are encoded without checking first if they can fit."""

NO_VIDEOS = "give frames as images, or train a scalar head or a judge on a Qwen2-VL, Qwen2.5-VL or Qwen3-VL"
"""What to do about a video that a backbone, or reinforcement learning, does not read."""

Positions = Callable[..., Tensor]
"""Numbers the tokens of a prefix as the backbone does: `(input_ids (P,), image_grid_thw (n, 3) or None) -> positions
(3, P) or (P,)`. For a prompt with videos there is a third argument: n entries, the `Clip` of each video and None for
images."""


class EncodingError(RowRejected):
    """A group does not fit the backbone.

    The reason is `too_long`, `image_without_vision`, `video_without_model`, `image_token_in_text` or
    `template_rejects`.

    >>> EncodingError("too_long", "5000 tokens; data.encoding.max_tokens allows 4096").reason
    'too_long'
    """


@dataclass(frozen=True, slots=True)
class Size:
    """The size of an encoded group.

    >>> Size(prefix=10, branches=(3, 4), images=1).tokens
    17
    """

    prefix: int  # tokens of the prompt, including those of its images
    branches: tuple[int, ...]  # tokens of each branch, including its end-of-turn token
    images: int  # and videos

    @property
    def tokens(self) -> int:
        """The number of tokens of the group in a tree row."""
        return self.prefix + sum(self.branches)


@dataclass(frozen=True, slots=True)
class BranchTarget:
    """What a generative head learns at one branch.

    Attributes:
        num_target_tokens: target tokens at the end of the branch; 0 if the head generates them.
        weight: the weight of the branch in the language-model loss.
        compared_responses: the indices of the responses that the branch shows, in this order; empty if the branch shows
            only its own response.

    >>> BranchTarget(num_target_tokens=12, compared_responses=(1, 0)).weight
    1.0
    """

    num_target_tokens: int = 0
    weight: float = 1.0
    compared_responses: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class EncodedGroup:
    """A group as tokens.

    Attributes:
        id, source: of the group.
        prefix: `(P,)` int64, the tokens of the prompt.
        positions: `(3, P)` or `(P,)` int64, the positions of these tokens.
        branches: tokens of each branch, `(L,)` int64; one per response, or as the branch template makes them.
        preferences: of the group.
        pixels: N patches of the images and videos without cached features; None if there are none.
        images_thw: `(n, 3)` int64, patches of each image or video in time, height and width; None without any.
        cached_features: for each of the n images, its key and cached features; empty without a feature store.
        lengths: tokens of each of the K responses without the end-of-turn token; empty: one less than its branch.
        branch_targets: the target of each branch for a generative head; empty for scalar heads.
        visual_tokens: `(V,)` int64, the places in the prefix of the tokens that images and videos take; None without
            any.
        branch_images: the images in each branch; empty if no branch has any.
        num_response_images: how many of the n images, the last ones, are of responses; the others are of the prompt.

    >>> prefix, branches = torch.tensor([5, 6]), (torch.tensor([7, 2]), torch.tensor([8, 9, 2]))
    >>> group = EncodedGroup("a", "s", prefix, torch.arange(2), branches, (Preference(0, 1),))
    >>> group.longest, group.response_lengths
    (5, [1, 2])
    """

    id: str
    source: str
    prefix: Tensor
    positions: Tensor
    branches: tuple[Tensor, ...]
    preferences: tuple[Preference, ...]
    pixels: Pixels | None = None
    images_thw: Tensor | None = None
    cached_features: tuple[CachedFeatures, ...] = ()
    lengths: tuple[int, ...] = ()
    branch_targets: tuple[BranchTarget, ...] = ()
    visual_tokens: Tensor | None = None
    branch_images: tuple[BranchImages, ...] = ()
    num_response_images: int = 0

    @property
    def prefix_images(self) -> range:
        """The indices of the images of the prompt among the n images."""
        return range(0 if self.images_thw is None else len(self.images_thw) - self.num_response_images)

    @property
    def longest(self) -> int:
        """The number of tokens of the prefix with the longest branch, which is the longest plain row."""
        return len(self.prefix) + max(len(branch) for branch in self.branches)

    @property
    def response_lengths(self) -> list[int]:
        """The tokens of each of the K responses, without the end-of-turn token."""
        return list(self.lengths) or [len(branch) - 1 for branch in self.branches]


class BranchTemplate(Protocol):
    """Lays out the prompt and the branches of a group for a generative head.

    Attributes:
        open: whether branches continue the last turn of the prompt, at the `SENTINEL` at its end.
        text: the template's own text.
    """

    open: bool
    text: str

    @property
    def fingerprint(self) -> str:
        """A hash of everything that the branches depend on, apart from the group."""
        ...

    def prompt(self, group: Group) -> tuple[Turn, ...]:
        """Return the turns that all branches of a group begin with."""
        ...

    def __call__(self, encoder: Encoder, group: Group, *, with_targets: bool) -> Sequence[tuple[Tensor, BranchTarget]]:
        """Lay out the branches of a group.

        Args:
            encoder: encodes texts.
            group: the group.
            with_targets: whether to append the target text of the data; if not, branches end where the head generates.

        Returns:
            The tokens `(L,)` and the target of each branch.

        Raises:
            RowRejected: the group has no target text, or no branch.
        """
        ...


class Encoder:
    """Encodes groups for one backbone.

    Args:
        tokenizer: the backbone's tokenizer, with its chat template.
        positions: numbers the tokens of a prefix.
        image_processor: the backbone's image processor; None for a text-only backbone.
        image_token_id: the id of the token that stands for one visual token; None for a text-only backbone.
        merge_size: the side of the square of patches that becomes one visual token.
        videos: the backbone's video processor; None: it reads no videos.
        image_marks: ids of the tokens before and after an image, if the chat template does not write them.
        max_tokens: the longest prefix with a branch; longer groups raise `EncodingError("too_long", ...)`. Nothing is
            truncated.
        same_positions: the length from which the backbone's rotary positions change for the whole batch; longer groups
            also raise `EncodingError`. None: the backbone has no such length.
        branch_template: the branch template of a generative head; None for scalar heads.
        feature_store: a cache of image features, which is searched before an image is opened; None: no cache.
        whole_turn: whether a branch of a scalar head also has what the chat template writes after the end-of-turn
            token, such as a line break.

    Attributes:
        images: reads images.
        end_of_turn: the token that ends a turn.
        turn_end: `(n,)` int64, the tokens that end a branch of a scalar head; without `whole_turn` the end-of-turn
            token alone.
        pad_id: the token for padding.

    Raises:
        ModelError: the tokenizer has no chat template, or the template fails on a question with an answer.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        positions: Positions,
        image_processor: Any = None,
        image_token_id: int | None = None,
        merge_size: int = 1,
        videos: VideoProcessor | None = None,
        image_marks: tuple[int, int] | None = None,
        max_tokens: int = 4096,
        same_positions: int | None = None,
        branch_template: BranchTemplate | None = None,
        feature_store: FeatureStore | None = None,
        whole_turn: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.positions = positions
        self.image_processor = image_processor
        self.videos = videos
        self.images = ImageReader(image_processor, store=feature_store, videos=videos, max_tokens=max_tokens)
        self.image_token_id = image_token_id
        self.merge_size = merge_size
        self.image_marks = image_marks
        self.max_tokens = max_tokens
        self.same_positions = same_positions
        self.branch_template = branch_template
        self.template = ChatTemplate(tokenizer, in_parts=image_token_id is not None)
        image_ids = (*(() if image_token_id is None else (image_token_id,)), *(image_marks or ()))
        image_ids += () if videos is None else (videos.token_id,)
        self.control = ControlTokens(tokenizer, written=self.template.frame.written, image_ids=image_ids)
        with explained():
            self._last_answer = find_answer_format(self.template, control=self.control)
        self.end_of_turn = end_of_turn(tokenizer, self._last_answer.after.removeprefix(self._last_answer.closing))
        self.turn_end = torch.tensor([self.end_of_turn])
        if whole_turn:
            after = self._last_answer.after.removeprefix(self._last_answer.closing)
            self.turn_end = torch.tensor(self.control.encode(after.lstrip()) or [self.end_of_turn], dtype=torch.int64)
        # Llama's tokenizers have no padding token. No token attends to padding, so any token can take its place.
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end_of_turn

    def with_branch_template(self, branch_template: BranchTemplate | None) -> Encoder:
        """Return an encoder that lays branches out for another head. The tokenizer and image processor are shared.

        Args:
            branch_template: the branch template of a generative head; None for scalar heads.
        """
        encoder = copy.copy(self)
        encoder.branch_template = branch_template
        # The only cached value that depends on the branch template.
        vars(encoder).pop("fingerprint", None)
        return encoder

    def without_videos(self) -> Encoder:
        """Return an encoder that rejects groups with videos. The tokenizer and image processor are shared."""
        encoder = copy.copy(self)
        encoder.videos = None
        vars(encoder).pop("fingerprint", None)
        return encoder

    def with_feature_store(self, feature_store: FeatureStore) -> Encoder:
        """Return an encoder that searches a cache of image features. The tokenizer and image processor are shared.

        Args:
            feature_store: the cache.
        """
        encoder = copy.copy(self)
        encoder.images = self.images.with_store(feature_store)
        return encoder

    def __call__(self, group: Group, *, with_targets: bool = False) -> EncodedGroup:
        """Encode a group.

        Args:
            group: the group.
            with_targets: whether to append the target text of a generative head.

        Raises:
            RowRejected: the group is too long, the chat template rejects it, or the number of its images differs from
                that of the image tokens.
            ImageError: an image cannot be opened.
        """
        check_text(group)
        self._check_images(group)
        images = self.images(group.all_images) if group.has_images else None
        images_thw = images.thw if images else None
        clips = images.clips if images else ()
        # Those of the prompt come first.
        prefix_thw = images_thw[: len(group.images)] if images_thw is not None and group.images else None
        prefix_clips = clips[: len(group.images)]
        prefix = self._prefix(group, prefix_thw, prefix_clips)
        branches, branch_targets = self._branches(group, images_thw, with_targets=with_targets)
        encoded = EncodedGroup(
            id=group.id,
            source=group.source,
            prefix=prefix,
            positions=self._positions(prefix, prefix_thw, prefix_clips),
            branches=branches,
            preferences=group.preferences,
            pixels=images.pixels if images else None,
            images_thw=images_thw,
            cached_features=images.cached_features if images else (),
            lengths=self._lengths(group, images_thw, branches, branch_targets),
            branch_targets=branch_targets,
            visual_tokens=self._visual_tokens(prefix) if group.images else None,
            branch_images=self._branch_images(group, branches, branch_targets, images_thw),
            num_response_images=len(group.all_images) - len(group.images),
        )
        self.check_length(encoded.longest)
        return encoded

    def measure(self, group: Group, *, with_targets: bool = False) -> Size:
        """Compute the size that `__call__` would give. Images are opened but not converted to patches.

        Raises:
            RowRejected, ImageError: as `__call__`, for the same groups.
        """
        check_text(group)
        self._check_images(group)
        layout = self.images.layout(group.all_images)
        grids = torch.tensor([grid for grid, _ in layout]) if layout else None
        prefix_grids = None if grids is None else grids[: len(group.images)]
        prefix = len(self._prefix(group, prefix_grids, [clip for _, clip in layout[: len(group.images)]]))
        branches = tuple(len(branch) for branch in self._branches(group, grids, with_targets=with_targets)[0])
        self.check_length(prefix + max(branches))
        return Size(prefix, branches, len(layout))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that determines the length of a group and whether it fits."""
        processor = self.image_processor.to_json_string() if self.image_processor is not None else ""
        backend = self.tokenizer.backend_tokenizer.to_str()
        parts = (VERSION, backend, self.tokenizer.chat_template or "", processor, self.image_token_id, self.max_tokens)
        # Optional parts are left out rather than None, so that fingerprints of earlier versions stay valid.
        marks = () if self.image_marks is None else (self.image_marks,)
        branch_template = () if self.branch_template is None else (self.branch_template.fingerprint,)
        limit = () if self.same_positions is None else (self.same_positions,)
        ending = () if len(self.turn_end) == 1 else (("turn_end", *self.turn_end.tolist()),)
        videos = () if self.videos is None else (("videos", self.videos.to_json_string()),)
        return hashlib.sha256(repr((*parts, *marks, *branch_template, *limit, *ending, *videos)).encode()).hexdigest()

    def check_length(self, longest: int) -> None:
        """Check the number of tokens of a prefix with its longest branch.

        Raises:
            EncodingError: `too_long`.
        """
        if longest > self.max_tokens:
            raise EncodingError("too_long", f"{longest} tokens; data.encoding.max_tokens allows {self.max_tokens}")
        if self.same_positions is not None and longest > self.same_positions:
            raise EncodingError(
                "too_long",
                f"{longest} tokens; beyond {self.same_positions} the backbone's rotary positions change for the whole "
                "batch, so that scores would depend on the other groups in it",
            )

    def _check_images(self, group: Group) -> None:
        # A text-only backbone would answer about an image that it does not see.
        if group.has_images and self.image_processor is None:
            raise EncodingError("image_without_vision", "the row has an image, but the backbone is text-only")
        if self.videos is None and any(isinstance(image, Video) for image in group.images):
            # Before a video is opened, which may take long.
            raise EncodingError("video_without_model", f"the row has a video, which is not read here; {NO_VIDEOS}")

    def with_responses(self, prompt: EncodedGroup, group: Group) -> EncodedGroup:
        """Return an encoded prompt with the responses of a group, whose own prompt and its images are not read.

        The pixels and grids are those of the responses' images alone, for a prompt whose keys and values are cached.

        Args:
            prompt: for a scalar head.
            group: the responses.

        Raises:
            RowRejected, ImageError: as `__call__`, apart from the prompt.
        """
        assert self.branch_template is None
        # Of a group without images of its prompt, all images are those of responses.
        own = replace(group, images=())
        check_texts(own.responses)
        self._check_images(own)
        images = self.images(own.all_images) if own.response_images else None
        images_thw = images.thw if images else None
        branches, targets = self._branches(own, images_thw, with_targets=False)
        encoded = replace(
            prompt,
            branches=branches,
            lengths=self._lengths(own, images_thw, branches, targets),
            pixels=images.pixels if images else None,
            images_thw=images_thw,
            cached_features=images.cached_features if images else (),
            visual_tokens=None,
            branch_images=self._branch_images(own, branches, targets, images_thw),
            num_response_images=len(own.all_images),
        )
        self.check_length(encoded.longest)
        return encoded

    def opening(self, group: Group) -> EncodedGroup:
        """Encode a prompt that the model answers itself, with the complete generation prompt.

        The last token of the prompt becomes the only branch, because generation continues from a branch.

        Raises:
            RowRejected, ImageError: as `__call__`.
        """
        check_text(group)
        self._check_images(group)
        images = self.images(group.images) if group.images else None
        images_thw = images.thw if images else None
        clips = images.clips if images else ()
        rendered, marks = self._rendered(group.prompt)
        ids = self._encoded(rendered, marks, images_thw, clips)
        self.check_length(len(ids))
        return EncodedGroup(
            id=group.id,
            source=group.source,
            prefix=ids[:-1],
            positions=self._positions(ids, images_thw, clips)[..., :-1],
            branches=(ids[-1:],),
            preferences=(),
            pixels=images.pixels if images else None,
            images_thw=images_thw,
            cached_features=images.cached_features if images else (),
            visual_tokens=self._visual_tokens(ids) if images else None,
        )

    def _visual_tokens(self, prefix: Tensor) -> Tensor:
        """`(V,)`, the places of the tokens of images and videos."""
        return self._is_visual(prefix).nonzero().flatten()

    def _is_visual(self, ids: Tensor) -> Tensor:
        """Which tokens stand for a visual token of an image or a video, `(P,)` bool."""
        assert self.image_token_id is not None
        is_image = torch.eq(ids, self.image_token_id)
        return is_image if self.videos is None else is_image | torch.eq(ids, self.videos.token_id)

    def _positions(self, ids: Tensor, images_thw: Tensor | None, clips: Sequence[Clip | None]) -> Tensor:
        # Families that read no videos have positions with two arguments.
        return self.positions(ids, images_thw, clips) if any(clips) else self.positions(ids, images_thw)

    def _prefix(self, group: Group, images_thw: Tensor | None, clips: Sequence[Clip | None]) -> Tensor:
        template = self.branch_template
        rendered, marks = self._rendered(group.prompt if template is None else template.prompt(group))
        if template is not None and template.open:
            # The branches continue the last user turn, so the text that closes the turn is part of every branch.
            rendered = rendered.rpartition(SENTINEL)[0]
        else:
            rendered = self._answer.without_cut(rendered)
        return self._encoded(rendered, marks, images_thw, clips)

    def _encoded(
        self, rendered: str, marks: Marks | None, images_thw: Tensor | None, clips: Sequence[Clip | None]
    ) -> Tensor:
        """Encode a rendered prompt, in which videos are written out and visual tokens are repeated; `(P,)`.

        Args:
            rendered, marks: the text, and the marks in it.
            images_thw: `(n, 3)` patches of each image or video.
            clips: n entries, of the videos, and None for images; empty without videos.
        """
        videos = [clip for clip in clips if clip is not None]
        if self.videos is not None and videos:
            rendered = self.videos.written(rendered, videos)
        return self._expanded(self.control.encode(rendered, marks), self._token_counts(images_thw, clips))

    def _token_counts(self, images_thw: Tensor | None, clips: Sequence[Clip | None]) -> list[tuple[int, int]]:
        """The token of each place in a rendered prompt, and how many visual tokens belong there."""
        if images_thw is None or self.image_token_id is None:
            return []
        sizes = (images_thw.prod(-1) // self.merge_size**2).tolist()
        counts: list[tuple[int, int]] = []
        for size, clip in zip(sizes, clips or [None] * len(sizes), strict=True):
            if clip is None or self.videos is None:
                counts.append((self.image_token_id, size))
            else:
                # A video may have several places, one for each patch in time.
                counts += [(self.videos.token_id, number) for number in self.videos.token_counts(clip)]
        return counts

    def _expanded(self, rendered: list[int], counts: Sequence[tuple[int, int]], *, name: str = "prompt") -> Tensor:
        """Repeat the one token of each image, or of a part of a video, to its number of visual tokens.

        Args:
            rendered: the tokens of a prompt or of a branch.
            counts: of `_token_counts`.
            name: of what is expanded, for messages.
        """
        ids = torch.tensor(rendered, dtype=torch.int64)
        if self.image_token_id is None:
            return ids
        places = self._is_visual(ids)
        # Different if the chat template drops, repeats or exchanges images. Their features would be assigned to the
        # wrong tokens, or transformers would fail in the middle of training.
        if ids[places].tolist() != [token for token, _ in counts]:
            detail = f"{int(places.sum())} image tokens in the rendered {name}, {len(counts)} images"
            raise EncodingError("image_token_in_text", detail)
        repeats = torch.ones_like(ids)
        repeats[places] = torch.tensor([number for _, number in counts], dtype=torch.int64)
        if self.image_marks is not None:
            ids, repeats = marked(ids, repeats, places, self.image_marks)
        return ids.repeat_interleave(repeats)

    def _branches(
        self, group: Group, images_thw: Tensor | None, *, with_targets: bool
    ) -> tuple[tuple[Tensor, ...], tuple[BranchTarget, ...]]:
        """Tokens and targets of the branches; `images_thw` are the grids of all images of the group."""
        if self.branch_template is None:
            branches = [self.branch(response_content(group, index)) for index in range(len(group.responses))]
            targets: list[BranchTarget] = []
        else:
            pairs = self.branch_template(self, group, with_targets=with_targets)
            branches, targets = [tokens for tokens, _ in pairs], [target for _, target in pairs]
        if images_thw is not None and group.response_images:
            shown = images_of_branches(group, _shown(len(branches), targets))
            for number, indices in enumerate(shown):
                counts = self._token_counts(images_thw[list(indices)], ())
                branches[number] = self._expanded(branches[number].tolist(), counts, name="response")
        return tuple(branches), tuple(targets)

    def _branch_images(
        self,
        group: Group,
        branches: Sequence[Tensor],
        targets: Sequence[BranchTarget],
        images_thw: Tensor | None,
    ) -> tuple[BranchImages, ...]:
        """The images of each branch with their places; none if no response has an image."""
        if images_thw is None or not group.response_images:
            return ()
        found: list[BranchImages] = []
        of_branches = images_of_branches(group, _shown(len(branches), targets))
        for branch, indices in zip(branches, of_branches, strict=True):
            # A family numbers the tokens of a text and of an image from the largest position before them, so that the
            # positions of a branch alone are those after any prompt, apart from where they start.
            positions = self.positions(branch, images_thw[list(indices)] if indices else None)
            found.append(BranchImages(indices, self._visual_tokens(branch), positions))
        return tuple(found)

    def _lengths(
        self,
        group: Group,
        images_thw: Tensor | None,
        branches: Sequence[Tensor],
        targets: Sequence[BranchTarget],
    ) -> tuple[int, ...]:
        """The tokens of each response, with those of its images."""
        if not targets:
            return tuple(len(branch) - len(self.turn_end) for branch in branches)
        # The branches of a generative head also contain its request and its target.
        lengths: list[int] = []
        for index, indices in enumerate(images_of_responses(group)):
            tokens = self.plain(response_content(group, index))
            if images_thw is not None and indices:
                counts = self._token_counts(images_thw[list(indices)], ())
                tokens = self._expanded(tokens.tolist(), counts, name="response")
            lengths.append(len(tokens))
        return tuple(lengths)

    def _rendered(self, turns: Sequence[Turn]) -> tuple[str, Marks | None]:
        """Render turns with the generation prompt.

        Returns:
            The text, and the marks around control tokens that are part of the turns' texts.

        Raises:
            RowRejected: `too_long` or `template_rejects`.
        """
        # Before rendering, because a text of many megabytes would be rendered and encoded first, which takes minutes.
        for turn in turns:
            self._check_characters("".join(part.text or "" for part in turn.parts))
        roles = {turn.role for turn in turns[:-1]} & self.template.frame.left_out
        if roles:
            # A dropped system turn would change the meaning of the row unnoticed.
            raise EncodingError(REJECTED, f"the chat template drops turns with the role {', '.join(sorted(roles))}")
        marked_turns, marks = self.control.mark(turns)
        return self.template.render(marked_turns, generation_prompt=True), marks

    def _check_characters(self, text: str) -> None:
        """Reject a text that is too long before it is encoded; encoding 10 MB takes minutes.

        Raises:
            EncodingError: `too_long`.
        """
        if len(text) <= FREE_CHARACTERS * self.max_tokens:
            return
        # Only for long texts, because computing the bound reads the whole vocabulary.
        per_token, proved = self._characters_per_token
        if len(text) > self.max_tokens * per_token:
            least = -(-len(text) // per_token)
            bound = f"at least {least} tokens" if proved else f"more than {per_token} characters per allowed token"
            raise EncodingError(
                "too_long", f"{len(text)} characters, {bound}; data.encoding.max_tokens allows {self.max_tokens}"
            )

    @cached_property
    def _characters_per_token(self) -> tuple[int, bool]:
        return characters_per_token(self.tokenizer.backend_tokenizer)

    @property
    def _answer(self) -> AnswerFormat:
        """The form of a response: in the last turn, or before a further request of a generative head."""
        if self.branch_template is None or self.branch_template.open:
            return self._last_answer
        return self._earlier_answer

    @cached_property
    def _earlier_answer(self) -> AnswerFormat:
        """The form of an answer that is not in the last turn; templates of reasoning models drop its reasoning."""
        following = (Turn("user", (Part("basereward-request"),)),)
        with explained():
            return find_answer_format(self.template, following=following, control=self.control)

    @cached_property
    def closing(self) -> Tensor:
        """Tokens between the text of a user's turn and an answer without reasoning, `(n,)`.

        They are the end of the turn, the generation prompt, and what the template writes before such an answer.
        """
        return self._special(self._closing_text + self._last_answer.lead)

    @cached_property
    def closing_before_reasoning(self) -> Tensor:
        """Tokens between the text of a user's turn and an answer that begins with `<think>`, `(n,)`."""
        return self._special(self._closing_text)

    @cached_property
    def _closing_text(self) -> str:
        rendered = self.template.render([Turn("user", (Part(SENTINEL),))], generation_prompt=True)
        return self._last_answer.without_cut(rendered).rpartition(SENTINEL)[2]

    def asked(self, request: str) -> Tensor:
        """Tokens between a response and the answer to a further request, `(n,)`.

        They are the end of the response's turn, the request, the generation prompt, and what the template writes before
        an answer without reasoning.

        Args:
            request: the text of the request.
        """
        turns = [Turn("user", (Part("?"),)), Turn("assistant", (Part(SENTINEL),)), Turn("user", (Part(request),))]
        marked_turns, marks = self.control.mark(turns)
        rendered = self.template.render(marked_turns, generation_prompt=True)
        after = self._last_answer.without_cut(rendered).rpartition(SENTINEL)[2]
        # The response before the request already ends with this closing text.
        after = after.removeprefix(self._earlier_answer.closing).lstrip() + self._last_answer.lead
        return torch.tensor(self.control.encode(after, marks), dtype=torch.int64)

    def _special(self, text: str) -> Tensor:
        """Encode a part of the chat template, `(n,)`."""
        return torch.tensor(self.control.encode(text), dtype=torch.int64)

    @cached_property
    def image_text(self) -> str:
        """What the chat template writes for an image between two texts of a user's turn, with one image token.

        Templates that number images or move them before the text cannot show an image inside of a response.

        Raises:
            EncodingError: `template_rejects` (the template writes nothing there, or not one image token).
        """
        ends = Part(SENTINEL), Part(f"{SENTINEL}-end")
        rendered = self.template.render([Turn("user", (ends[0], Part(None), ends[1]))])
        text = rendered.partition(ends[0].text or "")[2].rpartition(ends[1].text or "")[0]
        if self.image_token_id is None or self.control.encode(text).count(self.image_token_id) != 1:
            detail = f"the chat template writes {text[:80]!r} for an image between two texts; one image token is needed"
            raise EncodingError(REJECTED, f"{detail} for images in responses")
        return text

    def plain(self, text: str | Sequence[Part]) -> Tensor:
        """Encode a text without any template, `(n,)`.

        Args:
            text: a text; or texts and places of images, each of which becomes one image token with its marks.

        Raises:
            EncodingError: `too_long` (the text has more characters than can fit).
        """
        if not isinstance(text, str):
            marked_text, marks = self._marked(text)
            return torch.tensor(self.control.encode(marked_text, marks), dtype=torch.int64)
        self._check_characters(text)
        # Control tokens inside of a text must neither end the turn nor stand for an image, so they are encoded as text.
        return torch.tensor(self.control.encode_text(text), dtype=torch.int64)

    def branch(self, response: str | Sequence[Part]) -> Tensor:
        """Encode a response as the chat template writes it after the prefix, with its end-of-turn token; `(L,)`.

        Args:
            response: a text; or texts and places of images, each of which becomes one image token with its marks.

        Raises:
            RowRejected: `too_long`, or `template_rejects`.
        """
        ending = self.turn_end if self.branch_template is None else self.turn_end[:1]
        return torch.cat([self._written(response, self._answer, plain=False), ending])

    def answer(self, text: str) -> Tensor:
        """Encode an answer without reasoning that follows `closing` or `asked`, with its end-of-turn token; `(L,)`.

        Raises:
            RowRejected: as `branch`.
        """
        return torch.cat([self._written(text, self._last_answer, plain=True), torch.tensor([self.end_of_turn])])

    def _marked(self, response: str | Sequence[Part]) -> tuple[str, Marks | None]:
        """A response as one text, with images as the template writes them, and marks around its control tokens."""
        if isinstance(response, str):
            self._check_characters(response)
            return mark_text(self.control, response)
        self._check_characters("".join(part.text or "" for part in response))
        (turn,), marks = self.control.mark([Turn("assistant", tuple(response))])
        return "".join(self.image_text if part.text is None else part.text for part in turn.parts), marks

    def _written(self, text: str | Sequence[Part], form: AnswerFormat, *, plain: bool) -> Tensor:
        """Encode a text as the template writes it, `(n,)`.

        Args:
            text: the text, or texts and places of images.
            form: how the template writes an answer.
            plain: whether to leave out what the template writes before an answer.
        """
        marked_text, marks = self._marked(text)
        written = form.text(marked_text)
        context = form.context
        if plain and form.lead and written.startswith(form.lead):
            # `closing` and `asked` already end with the lead.
            written, context = written[len(form.lead) :], context and context + form.lead
        if written == text and not context:
            return self.plain(text)
        # Some tokenizers encode a text differently at the start of a sequence, so it is encoded after its context.
        ids = self.control.encode(context + written, marks)
        context_ids = self.control.encode(context) if context else []
        if ids[: len(context_ids)] == context_ids:
            return torch.tensor(ids[len(context_ids) :], dtype=torch.int64)
        # A token extends over the border between the context and the answer, so the answer is encoded alone.
        return torch.tensor(self.control.encode(written, marks), dtype=torch.int64)


def _shown(branches: int, targets: Sequence[BranchTarget]) -> list[tuple[int, ...]]:
    """For each branch the indices of the responses that it shows, in their order."""
    if not targets:
        return [(branch,) for branch in range(branches)]
    return [target.compared_responses or (branch,) for branch, target in enumerate(targets)]
