"""OmniAlign-V-DPO with the columns that its authors' trainer reads: six files, and the pictures in a tar."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import picture, write_jsonl

FILES = ("knowledge", "ins_follow", "creation", "chart", "diagram", "poster")


def write(folder: Path) -> Expected:
    """A pair in each file, and a row without its rejected answer in the last."""
    for i, name in enumerate(FILES):
        row = {
            "id": i,
            "image": f"images/{name}/{i}.png",
            "prompt": f"<image>\nTell me of the {name}.",
            "chosen": "At length.",
        }
        rows = [row | {"rejected": "Of something else."}]
        write_jsonl(folder / f"{name}.jsonl", [*rows, row | {"rejected": None}] if name == "poster" else rows)
    with tarfile.open(folder / "images.tar", "w") as tar:
        for i, name in enumerate(FILES):
            content = picture(i)
            info = tarfile.TarInfo(f"images/{name}/{i}.png")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return Expected(
        groups=6,
        prompt=(("user", "<image>\nTell me of the knowledge."),),
        responses=("At length.", "Of something else."),
        preferences=(Preference(0, 1),),
        images=1,
        lost={"null_response": 1},
    )
