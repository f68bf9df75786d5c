"""What groups hold, as bytes to hash: equal for equal content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import PIL.Image

from basereward.data.encoding.encoder import Encoder
from basereward.data.images.image_store import read_archived
from basereward.data.schema.group import ArchivedImage, Group, Image
from basereward.data.schema.rejections import RowRejected

ENDS = 32 * 1024
"""Bytes at the beginning and at the end of a picture file that `group_content` reads. A small file is read whole."""

PARTS = {
    "weights": "the weights",
    "config": "config.json",
    "precision": "dtype and quantization",
    "tokenizer": "the tokenizer",
    "chat_template": "the chat template",
    "processor": "the image processor",
}
"""The parts of a backbone that have a hash, and how messages call them."""


def encoded_content(group: Group) -> bytes:
    """A hash of all in a group that a scalar head's model reads: prompt, pictures and responses, in their order."""
    turns = [(turn.role, [part.text for part in turn.parts]) for turn in group.prompt]
    digest = hashlib.blake2b(repr((turns, group.responses)).encode("utf-8", "surrogatepass"), digest_size=32)
    for image in group.images:
        digest.update(hashlib.blake2b(image_content(image)).digest())
    return digest.digest()


def image_content(image: Image) -> bytes:
    """The picture itself where it is at hand; of a file its path, size and time, which reading it would not tell more
    cheaply."""
    if isinstance(image, bytes):
        return hashlib.blake2b(image).digest()
    if isinstance(image, PIL.Image.Image):
        return hashlib.blake2b(repr((image.mode, image.size)).encode() + image.tobytes()).digest()
    path = image.archive if isinstance(image, ArchivedImage) else str(image)
    try:
        found = Path(path).stat()
    except OSError as error:
        return f"{image} {error.errno}".encode("utf-8", "surrogateescape")
    return f"{image} {found.st_size} {found.st_mtime_ns}".encode("utf-8", "surrogateescape")


def group_content(group: Group) -> bytes:
    """A hash of all in a group that training depends on, 16 bytes: equal wherever the files of the data lie.

    Prompt, responses, preferences with weight and margin, what heads learn to write, and the pictures. A group has the
    same hash after its files were moved or copied, and under another id.
    """
    turns = [(turn.role, [part.text for part in turn.parts]) for turn in group.prompt]
    preferences = [(p.winner, p.loser, p.weight, p.margin, p.tie) for p in group.preferences]
    taught = (group.critiques, [(r.first, r.second, r.text) for r in group.reasonings], group.ratings)
    text = repr((turns, group.responses, preferences, taught))
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    for image in group.images:
        digest.update(_picture_content(image))
    return digest.digest()


def _picture_content(image: Image) -> bytes:
    """A hash of a picture. Of a file: its size and both ends. PNG has its checksum at the end, and an edit of a JPEG
    moves all that follows, so that the ends tell as much as the whole at a fraction of the reading."""
    if isinstance(image, bytes | PIL.Image.Image):
        return image_content(image)
    try:
        if isinstance(image, ArchivedImage):
            return hashlib.blake2b(read_archived(image)).digest()
        if not Path(image).is_file():  # one that is no file at all, a FIFO say, may never end
            return b"missing"
        with Path(image).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            ends = file.read(ENDS)
            if size > 2 * ENDS:
                file.seek(size - ENDS)
            ends += file.read(ENDS)
    except RowRejected as loss:
        return loss.reason.encode()
    except OSError as error:
        return str(error.errno).encode()
    return hashlib.blake2b(size.to_bytes(8, "big") + ends).digest()


def combined_content(contents: Iterable[bytes]) -> str:
    """One hash of the contents of groups, in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


def encoder_hashes(encoder: Encoder) -> dict[str, str]:
    """SHA-256 of what an encoder reads with: of `tokenizer`, `chat_template` and, where there is one, `processor`.

    They are of the state after loading, so that a setting counts wherever it was written.
    """
    tokenizer = encoder.tokenizer
    special = {name: str(token) for name, token in getattr(tokenizer, "special_tokens_map", {}).items()}
    parts = {
        "tokenizer": [tokenizer.backend_tokenizer.to_str(), special, encoder.end_of_turn, encoder.pad_id],
        "chat_template": [tokenizer.chat_template],
    }
    if encoder.image_processor is not None:
        known = (encoder.image_token_id, encoder.merge_size, encoder.image_marks)
        parts["processor"] = [encoder.image_processor.to_json_string(), *known]
    return {
        name: hashlib.sha256(json.dumps(part, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()
        for name, part in parts.items()
    }


def hash_differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """One line for each part that both know and that differs: its name, the old and the new hash.

    >>> hash_differences({"weights": "a" * 64, "config": "c" * 64}, {"weights": "b" * 64})
    ['the weights differ: aaaaaaaaaaaa before, bbbbbbbbbbbb now']
    """
    lines = []
    for part, name in PARTS.items():
        old, new = before.get(part), now.get(part)
        if old is not None and new is not None and old != new:
            verb = "differ" if name.startswith("the weights") or " and " in name else "differs"
            shown = (old, new) if part == "precision" else (old[:12], new[:12])
            lines.append(f"{name} {verb}: {shown[0]} before, {shown[1]} now")
    return lines


def content_differences(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> list[str]:
    """One line for each source whose groups are others: its name and the parts that differ.

    Args:
        before, now: hashes by source and part, as `PreferenceData.content` gives them; what only one of them has is
            not compared.

    >>> content_differences({"a": {"train": "1", "val": "2"}, "b": {}}, {"a": {"train": "3", "val": "2"}})
    ['the groups of a are not those that the run began with (train)']
    """
    lines = []
    for name, parts in before.items():
        changed = [part for part, content in parts.items() if now.get(name, {}).get(part, content) != content]
        if changed:
            lines.append(f"the groups of {name} are not those that the run began with ({', '.join(changed)})")
    return lines
