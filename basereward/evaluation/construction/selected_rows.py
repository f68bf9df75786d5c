"""Rows of a selection: pairs in our general form, with the outcomes of the judges and the source of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basereward.data.encoding.chat import messages
from basereward.errors import DataError
from basereward.evaluation.construction.pictures import IMAGES, NAME, PictureFolder
from basereward.evaluation.items import Item, Outcome
from basereward.io.files import write_atomic
from basereward.io.limits import MIB, check_format, parse_json, read_json_object, read_text

ROWS, DECISIONS, SELECTION = "rows.jsonl", "decisions.jsonl", "selection.json"
ANNOTATIONS = "annotations.jsonl"
FORMAT = 1
"""Version of the format of `selection.json`."""
MAX_ROWS_BYTES = 1024 * MIB


@dataclass(frozen=True)
class SelectedRow:
    """A pair that is verified, or a part of the control sample, or both.

    Attributes:
        id: unique in the selection.
        source: that it is from.
        prompt: messages, in which `{"type": "image"}` is the place of the next image.
        responses: two, in an order that says nothing about which is preferred.
        preferred: index of the preferred response, 0 or 1.
        images: paths relative to the folder of the rows.
        selected: whether all judges are wrong.
        control: whether it is in the control sample.
        judges: name of a judge -> its votes for or against the preferred response; see `vote_list`.
        probe: the same for the judge that took no part in the selection.
    """

    id: str
    source: str
    prompt: Sequence[Mapping[str, Any]]
    responses: tuple[str, str]
    preferred: int
    images: tuple[str, ...]
    selected: bool
    control: bool
    judges: Mapping[str, Sequence[str]]
    probe: Mapping[str, Sequence[str]]

    @property
    def pair_columns(self) -> dict[str, Any]:
        """The columns that training and benchmarks read."""
        columns: dict[str, Any] = {
            "id": self.id,
            "prompt": list(self.prompt),
            "responses": list(self.responses),
            "preferences": [[self.preferred, 1 - self.preferred]],
        }
        if self.images:
            columns["images"] = list(self.images)
        return columns | {"source": self.source}

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON.

        >>> facts = {"images": (), "selected": True, "control": False, "judges": {}, "probe": {}}
        >>> row = SelectedRow("a", "sums", [], ("4", "5"), preferred=0, **facts)
        >>> row.as_dict()["preferences"]
        [[0, 1]]
        """
        facts = {"selected": self.selected, "control": self.control}
        return {**self.pair_columns, **facts, "judges": dict(self.judges), "probe": dict(self.probe)}


def make_row(
    item: Item,
    pictures: PictureFolder,
    *,
    selected: bool,
    control: bool,
    judges: Mapping[str, Outcome],
    probe: Mapping[str, Outcome],
) -> SelectedRow:
    """Make the row of an item, and copy its images to the folder of the rows.

    Args:
        item: whose first response is the preferred one.
        pictures: gets the images.
        selected, control: what it is a part of.
        judges, probe: the outcomes by judge.

    Raises:
        ImageError: an image cannot be opened any more.
    """
    # Half of the rows have the preferred response first, so that a judge that sees the stored order learns nothing.
    preferred = hashlib.sha256(f"order/{item.id}".encode("utf-8", "surrogatepass")).digest()[0] & 1
    winner, loser = item.responses
    return SelectedRow(
        id=item.id,
        source=item.labels["source"],
        prompt=messages(item.prompt, in_parts=True),
        responses=(loser, winner) if preferred else (winner, loser),
        preferred=preferred,
        images=tuple(pictures.copy(image) for image in item.images),
        selected=selected,
        control=control,
        judges={name: vote_list(outcome) for name, outcome in judges.items()},
        probe={name: vote_list(outcome) for name, outcome in probe.items()},
    )


def vote_list(outcome: Outcome) -> list[str]:
    """The votes of an outcome on an item whose first response is preferred; scores are one vote.

    >>> vote_list(Outcome(votes=(0, 1, None))), vote_list(Outcome(scores=(1.0, 1.0)))
    (['right', 'wrong', 'unread'], ['tie'])
    """
    if outcome.votes is not None:
        return [{0: "right", 1: "wrong"}.get(-1 if vote is None else vote, "unread") for vote in outcome.votes]
    if outcome.scores is not None:
        margin = outcome.scores[0] - outcome.scores[1]
        return ["tie" if margin == 0 else "right" if margin > 0 else "wrong"]
    return ["right" if outcome.correct else "wrong"]


def outcome_of(votes: Sequence[str]) -> Outcome:
    """The outcome of votes that `vote_list` wrote.

    >>> outcome_of(["right", "unread"]).votes, outcome_of(["tie"]).scores
    ((0, None), (0.0, 0.0))
    """
    if list(votes) == ["tie"]:
        return Outcome(scores=(0.0, 0.0))
    return Outcome(votes=tuple({"right": 0, "wrong": 1}.get(vote) for vote in votes))


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON Lines, atomically.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "rows.jsonl"
    >>> write_rows(file, [{"id": "a"}])
    >>> file.read_text()
    '{"id": "a"}\\n'
    """
    write_atomic(file, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read_rows(folder: Path) -> list[SelectedRow]:
    """Read the rows of a selection.

    Raises:
        DataError: they are missing or damaged; the message names the line.
    """
    file = folder / ROWS
    rows: list[SelectedRow] = []
    for number, line in enumerate(read_text(file, limit=MAX_ROWS_BYTES).splitlines(), start=1):
        where = f"{file}:{number}"
        row = parse_json(line, where=where)
        try:
            rows.append(_parsed(row))
        except (LookupError, TypeError, ValueError) as error:
            raise DataError(f"{where} is damaged ({error}); run `basereward select` again") from error
    return rows


def read_selection(folder: Path) -> dict[str, Any]:
    """Read `selection.json`, which says that a selection is complete.

    Raises:
        DataError: there is none, or it is damaged.

    >>> read_selection(Path("/not/there"))
    Traceback (most recent call last):
    basereward.errors.DataError: '/not/there' holds no complete selection; `basereward select` writes one
    """
    file = folder / SELECTION
    if not file.is_file():
        raise DataError(f"'{folder}' holds no complete selection; `basereward select` writes one")
    content = read_json_object(file)
    settings = content.get("settings")
    check_format(settings if isinstance(settings, dict) else {}, newest=FORMAT, where=f"'{file}'")
    return content


def _parsed(row: Any) -> SelectedRow:
    """The row of a line.

    Raises:
        LookupError, TypeError, ValueError: it has another form.
    """
    images = tuple(map(str, row.get("images", ())))
    for image in images:
        # The page of annotators serves these files, so a row must not name any other path.
        if not NAME.fullmatch(image.removeprefix(f"{IMAGES}/")):
            raise ValueError(f"{image!r} is not an image of a selection")
    first, second = row["responses"]
    preferred = int(row["preferences"][0][0])
    if preferred not in (0, 1) or not isinstance(first, str) or not isinstance(second, str):
        raise ValueError("two responses are needed")
    return SelectedRow(
        id=str(row["id"]),
        source=str(row["source"]),
        prompt=row["prompt"],
        responses=(first, second),
        preferred=preferred,
        images=images,
        selected=bool(row["selected"]),
        control=bool(row["control"]),
        judges=row["judges"],
        probe=row["probe"],
    )
