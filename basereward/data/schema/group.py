"""The unit of all data: a prompt, its responses, and the preferences among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    import PIL.Image


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """An image inside a zip or tar archive; `basereward.data.images.image_store.read_archived` reads it.

    Attributes:
        archive: the path of the archive.
        member: the name of the image in it.

    >>> str(ArchivedImage("images.zip", "a/cat.png"))
    'images.zip:a/cat.png'
    """

    archive: str
    member: str

    def __str__(self) -> str:
        return f"{self.archive}:{self.member}"


Image: TypeAlias = "str | Path | bytes | PIL.Image.Image | ArchivedImage"
"""An image: a path, the bytes of an image file, a decoded PIL image, or a member of an archive."""


@dataclass(frozen=True, slots=True)
class Video:
    """A video: images of its frames, or a file that `basereward.data.videos.open_videos` decodes.

    Attributes:
        frames: the frames in their order; empty if the video is a file.
        file: the path, the content or the place in an archive of a video file; None if the frames are images.
        fps: the frames per second of `frames`; None: unknown. A file states its own.
        name: for messages.

    >>> Video(frames=("1.png", "2.png"), fps=2.0, name="clip")
    Video(fps=2.0, name='clip')
    """

    # Not in the repr, because bytes of images would fill the log.
    frames: tuple[Image, ...] = field(default=(), repr=False)
    file: str | Path | bytes | ArchivedImage | None = field(default=None, repr=False)
    fps: float | None = None
    name: str = "video"


Visual: TypeAlias = "Image | Video"
"""What stands at a place of a prompt that is not text."""

Split: TypeAlias = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a turn: text, or the place of the next image or video (`text` is None).

    >>> Part("What is this?").is_visual, IMAGE.is_visual, VIDEO.is_visual, VIDEO.is_video
    (False, True, True, True)
    """

    text: str | None
    is_video: bool = field(default=False, repr=False)

    @property
    def is_visual(self) -> bool:
        """Whether the part is the place of an image or a video."""
        return self.text is None


IMAGE = Part(None)
VIDEO = Part(None, is_video=True)


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """An image in a response.

    Attributes:
        offset: the number of characters of the response's text before it.
        image: the image.

    >>> PlacedImage(0, "drawn.png").offset
    0
    """

    offset: int
    image: Image


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a prompt.

    >>> Turn("user", (IMAGE, Part("What is this?"))).parts[1].text
    'What is this?'
    """

    role: Literal["system", "user", "assistant"]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Preference:
    """The response `winner` is preferred to the response `loser`; both are indices of the group's responses.

    Attributes:
        winner, loser: the indices.
        weight: the factor of this preference in the loss.
        margin: how much better the winner is, in the unit of the data set; None: unknown.
        tie: neither response is better; `winner` and `loser` are then interchangeable.

    >>> Preference(winner=1, loser=0, margin=2.5).tie
    False
    """

    winner: int
    loser: int
    weight: float = 1.0
    margin: float | None = None
    tie: bool = False


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The reasoning that leads to a verdict on two responses, which the text calls 1 (`first`) and 2 (`second`).

    The verdict is not part of the text; the group's preference contains it.

    >>> Reasoning(first=2, second=0, text="1 reads the sign, 2 guesses.").first
    2
    """

    first: int
    second: int
    text: str


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt, its K >= 1 responses and the preferences among them.

    Attributes:
        id: the id of the row.
        source: the name of the source.
        prompt: the turns before the responses.
        responses: the texts of the K responses; empty for a response that is an image alone.
        preferences: the preferences among the responses.
        images: the images and videos of the prompt; the n-th one belongs to the n-th place in `prompt`, which is of the
            same kind.
        critiques: a target of generative heads: K texts, or none.
        reasonings: a target of generative heads: texts about two responses each.
        ratings: K numbers, or none; higher is better. Heads that learn ratings need the range 0 to 1.
        response_images: the images of each of the K responses, by ascending offset; empty if no response has one.

    >>> group = Group("0", "sums", (Turn("user", (Part("2 + 2?"),)),), ("4", "5"), (Preference(0, 1),))
    >>> group.responses[group.preferences[0].winner]
    '4'
    """

    id: str
    source: str
    prompt: tuple[Turn, ...]
    responses: tuple[str, ...]
    preferences: tuple[Preference, ...] = ()
    # Not in the repr, because bytes of images would fill the log.
    images: tuple[Visual, ...] = field(default=(), repr=False)
    critiques: tuple[str, ...] = ()
    reasonings: tuple[Reasoning, ...] = ()
    ratings: tuple[float, ...] = ()
    response_images: tuple[tuple[PlacedImage, ...], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        # A copy with other responses must not keep the images of these.
        assert len(self.response_images) in (0, len(self.responses)), "images of a response are missing"

    @property
    def has_images(self) -> bool:
        """Whether the prompt or a response has an image."""
        return bool(self.images or self.response_images)

    @property
    def all_images(self) -> tuple[Visual, ...]:
        """The images and videos of the prompt, then the images of each response.

        >>> Group("0", "s", (), ("",), images=("a.png",), response_images=((PlacedImage(0, "b.png"),),)).all_images
        ('a.png', 'b.png')
        """
        images: list[Visual] = list(self.images)
        for placed in self.response_images:
            images += [item.image for item in placed]
        return tuple(images)

    def images_of(self, index: int) -> tuple[PlacedImage, ...]:
        """The images of a response, by its index."""
        return self.response_images[index] if self.response_images else ()

    def response_parts(self, index: int) -> tuple[Part, ...]:
        """A response as texts and the places of its images, by its index.

        >>> placed = ((PlacedImage(6, "drawn.png"),),)
        >>> [part.text for part in Group("0", "s", (), ("Here: done.",), response_images=placed).response_parts(0)]
        ['Here: ', None, 'done.']
        """
        text = self.responses[index]
        parts: list[Part] = []
        start = 0
        for placed in self.images_of(index):
            parts += [Part(text[start : placed.offset]), IMAGE]
            start = placed.offset
        parts.append(Part(text[start:]))
        return tuple(part for part in parts if part.text != "")

    def select(self, indices: Sequence[int]) -> Group:
        """The group with some of its responses and their images, without preferences and annotations.

        >>> Group("0", "s", (), ("4", "5"), (Preference(0, 1),)).select([1]).responses
        ('5',)
        """
        return Group(
            *(self.id, self.source, self.prompt, tuple(self.responses[index] for index in indices)),
            images=self.images,
            response_images=tuple(self.images_of(index) for index in indices) if self.response_images else (),
        )

    def response_key(self, index: int) -> tuple[str, tuple[PlacedImage, ...]]:
        """The text of a response with its images; keys are hashable where the images are.

        Files are equal if their paths are.

        >>> group = Group("0", "s", (), ("4", "4"))
        >>> group.response_key(0) == group.response_key(1)
        True
        """
        return self.responses[index], self.images_of(index)


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that is not used. Rejected rows are counted by reason and listed in a file.

    Attributes:
        source, split, id: where the row comes from.
        reason: a short identifier, such as `too_long`.
        detail: a message with what is needed to correct the row.
        fault: False if the row is well-formed, and a rule of the recipe or of the data set excludes it.

    >>> RejectedRow("pairs", "train", "pairs.jsonl:3", "no_prompt", "there is no prompt").fault
    True
    """

    source: str
    split: Split
    id: str
    reason: str
    detail: str
    fault: bool = True


def part_text(part: Part) -> str:
    """The text of a part for people, with a mark for an image or a video.

    >>> part_text(Part("Hi")), part_text(IMAGE), part_text(VIDEO)
    ('Hi', '<image>', '<video>')
    """
    if part.text is not None:
        return part.text
    return "<video>" if part.is_video else "<image>"


def image_files(groups: Iterable[Group]) -> Iterator[Path]:
    """Yield the files of the images and videos of groups; those that are no files are left out.

    >>> list(image_files([Group("a", "text", (), ("4", "5"), images=("a.png", b"", Video(("1.png",))))]))
    [PosixPath('a.png'), PosixPath('1.png')]
    """
    for group in groups:
        for image in flat_images(group.all_images):
            if isinstance(image, str | Path):
                yield Path(image)


def flat_images(visuals: Iterable[Visual]) -> Iterator[Image]:
    """Yield images, the frames of videos, and the files of videos that are not images, in their order.

    >>> list(flat_images(["a.png", Video(("1.png", "2.png")), Video(file="b.mp4")]))
    ['a.png', '1.png', '2.png', 'b.mp4']
    """
    for visual in visuals:
        if not isinstance(visual, Video):
            yield visual
        elif visual.file is not None:
            yield visual.file
        else:
            yield from visual.frames


def split_visuals(visuals: Iterable[Visual]) -> tuple[list[Image], list[Video]]:
    """Separate images and videos, each in their order.

    >>> split_visuals([Video(("1.png",)), "a.png"])
    (['a.png'], [Video(fps=None, name='video')])
    """
    images: list[Image] = []
    videos: list[Video] = []
    for visual in visuals:
        if isinstance(visual, Video):
            videos.append(visual)
        else:
            images.append(visual)
    return images, videos


def visual_content(visual: Visual, of_image: Callable[[Image], bytes]) -> bytes:
    """Describe an image by a function; of a video, its frames or its file, in their order.

    >>> visual_content(Video(("a.png", "b.png"), fps=2.0), lambda image: str(image).encode())
    b"('video', 2.0, [b'a.png', b'b.png'])"
    """
    if not isinstance(visual, Video):
        return of_image(visual)
    # A GIF may be a frame, or a file with several.
    kind = "video" if visual.file is None else "video file"
    return repr((kind, visual.fps, [of_image(image) for image in flat_images([visual])])).encode()


def role_texts(turns: Sequence[Turn]) -> list[tuple[str, list[str | bool | None]]]:
    """List the role and the texts of each turn, with None at the places of images and True at those of videos.

    >>> role_texts([Turn("user", (IMAGE, VIDEO, Part("What is it?")))])
    [('user', [None, True, 'What is it?'])]
    """
    # Hashes of prompts are made of the repr of this list: another form would move rows between splits.
    listed: list[tuple[str, list[str | bool | None]]] = []
    for turn in turns:
        listed.append((turn.role, [True if part.is_video else part.text for part in turn.parts]))
    return listed


def rank_preferences(ranking: Sequence[int]) -> tuple[Preference, ...]:
    """Convert ranks to preferences between all pairs of responses.

    Args:
        ranking: the rank of each response; lower is better, and equal ranks are a tie.

    >>> rank_preferences([0, 2, 1])
    (Preference(winner=0, loser=1, weight=1.0, margin=None, tie=False), \
Preference(winner=0, loser=2, weight=1.0, margin=None, tie=False), \
Preference(winner=2, loser=1, weight=1.0, margin=None, tie=False))
    """
    pairs = []
    for i in range(len(ranking)):
        for j in range(i + 1, len(ranking)):
            better, worse = (i, j) if ranking[i] <= ranking[j] else (j, i)
            pairs.append(Preference(better, worse, tie=ranking[i] == ranking[j]))
    return tuple(pairs)
