"""Hashes of the content of groups, images and encoders."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import PIL.Image

from basereward.data.encoding.encoder import Encoder
from basereward.data.images.image_store import archived_digest
from basereward.data.schema.group import ArchivedImage, Group, Image, role_texts, visual_content
from basereward.data.schema.rejections import RowRejected
from basereward.io.hashing import file_digest

ENDS = 32 * 1024
"""Bytes at the beginning and at the end of an image file that `group_content` reads. Small files are read whole."""
COMPRESSED = re.compile(rb"\x89PNG|\xff\xd8\xff|RIFF....WEBP|GIF8", re.DOTALL)
"""First bytes of PNG, JPEG, WebP and GIF, in which a change of the image changes the end of the file."""

PARTS = {
    "weights": "the files of the weights",
    "config": "config.json",
    "precision": "dtype and quantization",
    "tokenizer": "the tokenizer",
    "chat_template": "the chat template",
    "processor": "the image processor",
    "video_processor": "the video processor, or the settings of data.encoding.video,",
}
"""The parts of a backbone that have a hash, and their names in messages."""
WHOLE_FILES = (
    " (files are compared whole: the same weights with other metadata or in other shards differ too, though their "
    "scores are equal; put the first files back)"
)


def encoded_content(group: Group) -> bytes:
    """Hash the input of a model with a scalar head: prompt, images and responses, in their order; 32 bytes.

    >>> import dataclasses
    >>> from basereward.data.schema.group import Part, Turn
    >>> group = Group("a", "s", (Turn("user", (Part("Q"),)),), ("yes", "no"), ())
    >>> len(encoded_content(group)), encoded_content(group) == encoded_content(dataclasses.replace(group, id="b"))
    (32, True)
    """
    turns = role_texts(group.prompt)
    # Rows from the web contain lone surrogates, which strict UTF-8 refuses.
    digest = hashlib.blake2b(repr((turns, group.responses)).encode("utf-8", "surrogatepass"), digest_size=32)
    for image in group.all_images:
        digest.update(hashlib.blake2b(visual_content(image, image_content)).digest())
    _add_places(digest, group)
    return digest.digest()


def image_content(image: Image) -> bytes:
    """Hash an image in memory, or describe a file by path, size and modification time, which needs no reading.

    >>> image_content("missing.png")
    b'missing.png 2'
    """
    if isinstance(image, bytes):
        return hashlib.blake2b(image).digest()
    if isinstance(image, PIL.Image.Image):
        # The mode and the size are included, because images of different shapes may have equal bytes.
        return hashlib.blake2b(repr((image.mode, image.size)).encode() + image.tobytes()).digest()
    path = image.archive if isinstance(image, ArchivedImage) else str(image)
    try:
        status = Path(path).stat()
    except OSError as error:
        # The error is part of the description, so that a file that appears later changes the hash.
        return f"{image} {error.errno}".encode("utf-8", "surrogateescape")
    return f"{image} {status.st_size} {status.st_mtime_ns}".encode("utf-8", "surrogateescape")


def group_content(group: Group) -> bytes:
    """Hash everything in a group that training depends on, 16 bytes.

    This is the prompt, the responses, the preferences, the annotations and the images. The hash does not depend on the
    id of the group nor on the location of its files.

    >>> import dataclasses
    >>> from basereward.data.schema.group import Part, Preference, Turn
    >>> group = Group("a", "s", (Turn("user", (Part("Q"),)),), ("yes", "no"), (Preference(0, 1),))
    >>> swapped = dataclasses.replace(group, preferences=(Preference(1, 0),))
    >>> len(group_content(group)), group_content(group) == group_content(swapped)
    (16, False)
    """
    turns = role_texts(group.prompt)
    preferences = [(p.winner, p.loser, p.weight, p.margin, p.tie) for p in group.preferences]
    annotations = (group.critiques, [(r.first, r.second, r.text) for r in group.reasonings], group.ratings)
    text = repr((turns, group.responses, preferences, annotations))
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    for image in group.all_images:
        digest.update(visual_content(image, image_file_content))
    _add_places(digest, group)
    return digest.digest()


def _add_places(digest: hashlib.blake2b, group: Group) -> None:
    """Add the places of the images of responses; nothing without any, so that hashes of earlier versions stay valid."""
    if group.response_images:
        digest.update(repr(response_places(group)).encode())


def response_places(group: Group) -> list[list[int]]:
    """The offsets of the images in every response.

    >>> response_places(Group("a", "s", (), ("4",)))
    [[]]
    """
    places: list[list[int]] = []
    for index in range(len(group.responses)):
        places.append([placed.offset for placed in group.images_of(index)])
    return places


def rows_hash(groups: Sequence[Group], rows: range, parts: Sequence[tuple[str, str]]) -> str:
    """A hash of some of the groups with their ids, and of other parts: the name of a shard.

    >>> groups = [Group("a", "s", (), ("yes",)), Group("b", "s", (), ("yes",))]
    >>> rows_hash(groups, range(0, 1), []) == rows_hash(groups, range(1, 2), [])
    False
    """
    # Row by row, because a shard may have more rows than fit in memory.
    digest = hashlib.blake2b(repr(sorted(parts)).encode("utf-8", "surrogatepass"), digest_size=16)
    for place in rows:
        group = groups[place]
        digest.update(repr(group.id).encode("utf-8", "surrogatepass") + group_content(group))
    return digest.hexdigest()


def image_file_content(image: Image) -> bytes:
    """Hash an image; for a file of a compressed format, its size, beginning and end.

    PNG files end with checksums, and an edit of a JPEG file changes all bytes after it, so that the end detects almost
    every change at a fraction of the reading. Files of other formats, such as BMP, are read whole.
    """
    if isinstance(image, bytes | PIL.Image.Image):
        return image_content(image)
    try:
        if isinstance(image, ArchivedImage):
            return archived_digest(image, "blake2b")
        # Reading a FIFO might never end.
        if not Path(image).is_file():
            return b"missing"
        with Path(image).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            ends = file.read(ENDS)
            if not COMPRESSED.match(ends):
                return bytes.fromhex(file_digest(image, "blake2b"))
            if size > 2 * ENDS:
                file.seek(size - ENDS)
            ends += file.read(ENDS)
    except RowRejected as rejection:
        return rejection.reason.encode()
    except OSError as error:
        return str(error.errno).encode()
    return hashlib.blake2b(size.to_bytes(8, "big") + ends).digest()


def combined_content(contents: Iterable[bytes]) -> str:
    """Combine the hashes of groups, in their order, to 32 hexadecimal digits.

    >>> combined_content([b"1", b"2"]) == combined_content([b"2", b"1"])
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def encoder_hashes(encoder: Encoder) -> dict[str, str]:
    """Compute SHA-256 hashes of an encoder's `tokenizer`, `chat_template` and, if it has them, `processor` and
    `video_processor`.

    The hashes describe the objects after loading, so that a setting counts in whichever file it is written.
    """
    tokenizer = encoder.tokenizer
    special = {name: str(token) for name, token in getattr(tokenizer, "special_tokens_map", {}).items()}
    parts = {
        "tokenizer": [
            tokenizer.backend_tokenizer.to_str(),
            special,
            encoder.end_of_turn,
            encoder.pad_id,
            *_ending(encoder),
        ],
        "chat_template": [tokenizer.chat_template],
    }
    if encoder.image_processor is not None:
        layout = (encoder.image_token_id, encoder.merge_size, encoder.image_marks)
        parts["processor"] = [encoder.image_processor.to_json_string(), *layout]
    if encoder.videos is not None:
        parts["video_processor"] = [encoder.videos.to_json_string()]
    return {
        name: hashlib.sha256(json.dumps(part, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
        for name, part in parts.items()
    }


def hash_differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """List the parts that both dicts contain with different hashes, with the old and the new hash.

    >>> hash_differences({"weights": "a" * 64, "config": "c" * 64}, {"weights": "b" * 64})
    ['the files of the weights differ: aaaaaaaaaaaa before, bbbbbbbbbbbb now (files are compared whole: ...)']
    """
    lines = []
    for part, name in PARTS.items():
        old, new = before.get(part), now.get(part)
        # Models saved by earlier versions have fewer hashes; a part without a hash cannot be compared.
        if old is not None and new is not None and old != new:
            verb = "differ" if part == "weights" or " and " in name else "differs"
            shown = (old, new) if part == "precision" else (old[:12], new[:12])
            lines.append(
                f"{name} {verb}: {shown[0]} before, {shown[1]} now" + (WHOLE_FILES if part == "weights" else "")
            )
    return lines


def content_differences(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> list[str]:
    """List the sources whose groups have changed, with the splits that differ.

    Args:
        before, now: hashes by source and split, as in `PreferenceData.content`. Entries of only one dict are not
            compared.

    >>> content_differences({"a": {"train": "1", "val": "2"}, "b": {}}, {"a": {"train": "3", "val": "2"}})
    ['the groups of a are not those that the run began with (train)']
    """
    lines = []
    for name, parts in before.items():
        changed = [part for part, content in parts.items() if now.get(name, {}).get(part, content) != content]
        if changed:
            lines.append(f"the groups of {name} are not those that the run began with ({', '.join(changed)})")
    return lines


def _ending(encoder: Encoder) -> list[int]:
    """Tokens after the end-of-turn token; none in models of earlier versions, whose hashes stay valid."""
    return list(encoder.turn_end[1:].tolist())
