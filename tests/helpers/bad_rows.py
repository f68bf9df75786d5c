"""Seventy kinds of invalid rows with their rejection reasons, and data that are read as in a run."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image

from basereward.data.encoding.encoder import EncodedGroup, Encoder
from basereward.data.module import PreferenceData
from basereward.data.sources import Source
from basereward.data.sources.jsonl import Jsonl
from tests.helpers.support import picture

MEGABYTE = "word " * 200_000
GOOD_IDS = ["row-0", "row-1", "row-2", "row-3"]


def row_with(**changes: Any) -> dict[str, Any]:
    """Return a valid row with the id `bad` and these changes; `...` removes a cell."""
    valid = {"id": "bad", "prompt": "Which digit?", "chosen": "a seven", "rejected": "a four", "images": ["0.png"]}
    return {name: cell for name, cell in (valid | changes).items() if cell is not ...}


def ranked(responses: list[Any], **cells: Any) -> dict[str, Any]:
    """Return the row in the general form with ranked responses."""
    return row_with(chosen=..., rejected=..., responses=responses, **cells)


def says(role: str, content: object) -> dict[str, object]:
    """Return a chat message."""
    return {"role": role, "content": content}


def as_line(row: object) -> bytes:
    """Return a row as a JSON line; bytes are returned unchanged."""
    return row if isinstance(row, bytes) else json.dumps(row).encode()


# The rejection reason and the invalid row, or a whole line as bytes.
ROWS: dict[str, tuple[str, object]] = {
    "a line that was cut": ("malformed_json", as_line(row_with())[:-20]),
    "a comma too many": ("malformed_json", as_line(row_with())[:-1] + b",}"),
    "a line of zero bytes": ("malformed_json", bytes(100)),
    "JSON nested too deeply": ("malformed_json", b'{"prompt": ' + b"[" * 100_000),
    "a number of five thousand digits": ("malformed_json", b'{"prompt": ' + b"9" * 5000 + b"}"),
    "Latin-1": ("not_utf8", '{"prompt": "caf\u00e9"}'.encode("latin-1")),
    "half of an emoji": ("half_surrogate", row_with(chosen="good \ud83d")),
    "a list": ("not_an_object", ["prompt", "chosen"]),
    "a string": ("not_an_object", "Which digit?"),
    "null": ("not_an_object", None),
    "a missing column": ("missing_column", row_with(rejected=...)),
    "a column with another name": ("missing_column", row_with(rejected=..., reject="a four")),
    "nothing but a long column": ("missing_column", {"x" * 1_000_000: 1}),
    "a null response": ("null_response", row_with(rejected=None)),
    "a null among the responses": ("null_response", ranked(["a", None], ranking=[0, 1])),
    "no prompt": ("no_prompt", row_with(prompt=..., images=...)),
    "an empty prompt": ("empty_prompt", row_with(prompt=" \n", images=...)),
    "a prompt that is a number": ("wrong_type", row_with(prompt=7)),
    "a response that is an object": ("wrong_type", row_with(chosen={"text": "a seven"})),
    "a message without content": ("bad_message", row_with(prompt=[{"role": "user"}])),
    "an unknown role": ("unknown_role", row_with(prompt=[says("human", "Which?")])),
    "an unknown kind of part": ("unknown_part", row_with(prompt=[says("user", [{"type": "audio"}])])),
    "a prompt that ends with an answer": ("bad_turns", row_with(prompt=[says("user", "Q"), says("assistant", "A")])),
    "two prompts": (
        "prompts_differ",
        row_with(chosen=[says("user", "P"), says("assistant", "a")], rejected=[says("assistant", "b")]),
    ),
    "two forms at once": ("conflicting_columns", row_with(responses=["a", "b"])),
    "one response": ("single_response", ranked(["a"], ranking=[0])),
    "no preference": ("no_preference", ranked(["a", "b"])),
    "too few ranks": ("bad_ranking", ranked(["a", "b", "c"], ranking=[0, 1])),
    "ranks in words": ("wrong_type", ranked(["a", "b"], ranking=["first", "second"])),
    "a preference of three": ("bad_preference", ranked(["a", "b", "c"], preferences=[[0, 1, 2]])),
    "a preference out of range": ("preference_out_of_range", ranked(["a", "b"], preferences=[[0, 2]])),
    "a response preferred to itself": ("preference_to_itself", ranked(["a", "b"], preferences=[[1, 1]])),
    "preferences that contradict": ("contradictory_preferences", ranked(["a", "b"], preferences=[[0, 1], [1, 0]])),
    "preferences in a circle": (
        "contradictory_preferences",
        ranked([str(i) for i in range(2000)], preferences=[[i, (i + 1) % 2000] for i in range(2000)]),
    ),
    "a margin that is no number": ("bad_margin", row_with(margin=float("nan"))),
    "an infinite margin": ("bad_margin", row_with(margin=float("inf"))),
    "a margin of four hundred digits": ("bad_margin", row_with(margin=10**400)),
    "a blank response": ("empty_response", row_with(chosen=" \u3000\n")),
    "an answer equal to its rival": ("identical_responses", row_with(chosen="a four")),
    "an image mark in one response": ("image_mark_in_response", row_with(rejected="<image> a four")),
    "a vision token in one response": ("image_mark_in_response", row_with(chosen="<|image_pad|> a seven")),
    "pictures of one response of a pair": ("image_in_response", row_with(rejected_images=["0.png"])),
    "a place of a picture in a response": ("image_count", row_with(chosen=[says("assistant", [{"type": "image"}])])),
    "a call of a tool in an answer": (
        "unknown_key",
        row_with(chosen=[{**says("assistant", "a seven"), "tool_calls": [{"name": "look"}]}]),
    ),
    "a response of a megabyte": ("too_long", row_with(rejected=MEGABYTE)),
    "a response of a megabyte without a space": ("too_long", row_with(rejected="x" * 1_000_000)),
    "a prompt of a megabyte": ("too_long", row_with(prompt=MEGABYTE)),
    "more places than pictures": ("image_count", row_with(prompt="<image> or <image>?")),
    "more pictures than places": ("image_count", row_with(prompt="<image>?", images=["0.png", "1.png"])),
    "a picture without its file": ("image_missing", row_with(images=["gone.png"])),
    "a path of a megabyte": ("image_unreadable", row_with(images=["x" * 1_000_000])),
    "a path with a zero byte": ("image_unreadable", row_with(images=["0\0.png"])),
    "a null picture": ("image_unreadable", row_with(images=[None])),
    "a number for a picture": ("bad_image_reference", row_with(images=[7])),
    "an address": ("image_is_address", row_with(images=["https://example.org/0.png"])),
    "broken base64": ("bad_base64", row_with(images=["data:image/png;base64,iVB###"])),
    "base64 with an accent": ("bad_base64", row_with(images=[{"bytes": "caf\u00e9"}])),
    "base64 of noise": (
        "image_unreadable",
        row_with(images=["data:image/png;base64," + base64.b64encode(bytes(range(256)) * 40).decode()]),
    ),
    "pictures in an unknown column": ("image_column_not_mapped", row_with(images=..., img="0.png")),
    "a video": ("video", row_with(images=..., clip="clip.mp4")),
    "an id that is a list": ("bad_id", row_with(id=["bad"])),
}


def _cut_jpeg(path: Path) -> None:
    picture(0, side=280).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-1500])


def _noise_png(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))


# The rejection reason and the function that writes the picture; its name always ends with .png.
PICTURES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "zero bytes": ("image_unreadable", Path.touch),
    "a truncated JPEG": ("image_unreadable", _cut_jpeg),
    "a PNG of noise": ("image_unreadable", _noise_png),
    "a page of text": ("image_unreadable", lambda path: path.write_text("<html>404</html>")),
    "PostScript": ("image_unreadable", lambda path: picture(0).save(path, "EPS")),
    "a folder": ("image_unreadable", Path.mkdir),
    "a pipe": ("image_unreadable", os.mkfifo),
    "floating-point samples": ("image_unreadable", lambda path: PIL.Image.new("F", (56, 56)).save(path, "TIFF")),
    "20,000 x 20,000": ("image_too_large", lambda path: PIL.Image.new("1", (20_000, 20_000)).save(path, "PNG")),
    "1 x 300": ("image_aspect_ratio", lambda path: PIL.Image.new("L", (1, 300)).save(path, "PNG")),
}
REASONS = {**{name: reason for name, (reason, _) in ROWS.items()}, **{n: reason for n, (reason, _) in PICTURES.items()}}


def bad_row(name: str, folder: Path) -> object:
    """Return the row or line of a kind, and write its picture into the folder if the picture is invalid."""
    if name in ROWS:
        return ROWS[name][1]
    path = folder / f"{name}.png"
    PICTURES[name][1](path)
    return row_with(images=[path.name])


def write_lines(folder: Path, lines: list[bytes]) -> Path:
    """Write a JSON Lines file into the folder."""
    path = folder / "rows.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def read_data(source: Source, encoder: Encoder, *, max_lost: float = 0.5) -> PreferenceData:
    """Read a source as a run reads it before training."""
    rejections_file = Path(os.environ["BASEREWARD_CACHE"]).with_name("lost.jsonl")
    data = PreferenceData(
        {"s": source},
        encoder=encoder,
        groups=1,
        groups_per_forward=1,
        max_lost=max_lost,
        rejections_file=rejections_file,
    )
    data.setup()
    return data


def local(path: Path) -> Jsonl:
    """Return the source of a file whose rows are all for training."""
    return Jsonl("s", path=str(path), val=0, test=0)


def used_groups(data: PreferenceData) -> dict[str, EncodedGroup]:
    """Return every encoded training group by its id."""
    split = data.parts["train"]
    groups = [split[index] for index in split.places]
    assert len({group.id for group in groups}) == len(groups)
    return {group.id: group for group in groups}
