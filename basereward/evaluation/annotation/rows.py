"""A preference that is written about, and the row that it becomes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basereward.data.images.open_images import open_image
from basereward.data.schema.group import Group, Image
from basereward.io.files import write_atomic


@dataclass(frozen=True)
class Pair:
    """A preference, and whether its winner is shown first."""

    id: str
    group: Group
    winner: int
    loser: int
    winner_first: bool

    @property
    def shown(self) -> tuple[int, int]:
        return (self.winner, self.loser) if self.winner_first else (self.loser, self.winner)

    @property
    def verdict(self) -> int:
        return 1 if self.winner_first else 2


def digest(pairs: Iterable[Pair]) -> str:
    """A hash of what is asked about pairs, their pictures left out."""
    hashed = hashlib.sha256()
    for pair in pairs:
        shown = tuple(pair.group.responses[index] for index in pair.shown)
        hashed.update(repr((pair.id, pair.verdict, pair.group.prompt, shown)).encode("utf-8", "surrogatepass"))
    return hashed.hexdigest()[:16]


def reasoning(text: str) -> str:
    """What a judge wrote before its verdict, without the marks around it.

    >>> reasoning("<think>2 is false.</think><answer>1</answer>")
    '2 is false.'
    """
    before = text.rpartition("</think>")[0] if "</think>" in text else text.partition("<answer>")[0]
    return before.replace("<think>", "", 1).strip()


def pair_row(pair: Pair, folder: Path) -> dict[str, Any]:
    """In the general form, the responses as they were shown; pictures without a file of their own go to `folder`."""
    group = pair.group
    row: dict[str, Any] = {
        "id": pair.id,
        "prompt": [
            {
                "role": turn.role,
                "content": [{"type": "image"} if p.is_image else {"type": "text", "text": p.text} for p in turn.parts],
            }
            for turn in group.prompt
        ],
        "responses": [group.responses[index] for index in pair.shown],
        "preferences": [[0, 1] if pair.winner_first else [1, 0]],
        "verdict": pair.verdict,
    }
    return row | ({"images": list(_references(group.images, folder))} if group.images else {})


def _references(images: Sequence[Image], folder: Path) -> Iterator[str]:
    """Paths: of files their own, of other pictures those of copies in `folder`, from where the rows lie."""
    for image in images:
        if isinstance(image, str | Path):
            yield str(Path(image).absolute())
            continue
        out = io.BytesIO()
        open_image(image).save(out, "PNG")
        content = out.getvalue()
        file = folder / f"{hashlib.sha256(content).hexdigest()[:32]}.png"
        if not file.is_file():
            folder.mkdir(exist_ok=True)
            write_atomic(file, content)
        yield f"{folder.name}/{file.name}"
