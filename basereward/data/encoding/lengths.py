"""How many tokens every group has, and which cannot be used: found once, in parallel, and kept on the disk.

What is kept belongs to the content of the groups and to the encoder, so every run, cell and resume that reads the same
rows with the same tokenizer finds it again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from basereward.data import loading
from basereward.data.encoding.content_hash import combined_content, group_content, image_content
from basereward.data.encoding.encoder import Encoder
from basereward.data.schema.group import Group, RejectedRow, Split
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.validation import check_usable
from basereward.data.sources import Source
from basereward.io.leftovers import remove_leftovers

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FORM = 2  # of what is kept; another number makes everything anew
MANY = 2000  # groups from which worth starting processes for


@dataclass(frozen=True)
class Lengths:
    """The usable groups of one part of a source, by ascending index. Arrays of shape `(N,)`."""

    index: NDArray[np.int64]  # among `source.groups(split)`
    tokens: NDArray[np.int32]  # of the group in a tree row: its prefix once and every response
    images: NDArray[np.int32]
    content: str = ""  # a hash of all groups of the part, those that cannot be used too; see `group_content`

    def __len__(self) -> int:
        return len(self.index)

    @property
    def mark(self) -> str:
        """A hash that changes with the groups' number and with the length of any. Checkpoints hold it beside `content`,
        which earlier versions did not know."""
        return hashlib.blake2b(self.index.tobytes() + self.tokens.tobytes(), digest_size=16).hexdigest()

    def only(self, kept: NDArray[np.bool_]) -> Lengths:
        """Some of the groups: `kept` has shape `(N,)`."""
        return Lengths(self.index[kept], self.tokens[kept], self.images[kept], self.content)


def measure(
    source: Source, split: Split, *, encoder: Encoder, workers: int = 0, cache: Path | None = None
) -> tuple[Lengths, list[RejectedRow]]:
    """Tries every group of a part.

    Args:
        workers: processes that share the work when there is much of it; 0 works here.
        cache: the folder where results are kept; None keeps none.

    Returns:
        The groups that can be used, and the lost rows: those that the source itself lost first, then the others in
        order.

    Raises:
        DataError: the source is malformed.
    """
    groups = source.groups(split)
    with_targets = split == "train"
    kind = "" if with_targets or encoder.speech is None else "-asked"
    file = cache / f"{_content(groups)}-{encoder.fingerprint[:32]}{kind}.npz" if cache else None
    found = _load(file) if file else None
    if found is None:
        found = _try_all(_Tried(groups, encoder, with_targets), workers=workers)
        if file:
            _save(file, *found)
    lengths, losses = found
    rows = [RejectedRow(source.name, split, each["id"], each["reason"], each["detail"]) for each in losses]
    return lengths, [*source.lost(split), *rows]


class _Tried(Dataset[tuple[Any, ...]]):
    """Groups as their content with their tokens and images, or with what is wrong with them."""

    def __init__(self, groups: Sequence[Group], encoder: Encoder, with_targets: bool) -> None:
        self.groups = groups
        self.encoder = encoder
        self.with_targets = with_targets

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        group = self.groups[index]
        content = group_content(group)
        try:
            check_usable(group)
            size = self.encoder.measure(group, with_targets=self.with_targets)
        except RowRejected as loss:
            return content, group.id, loss.reason, loss.detail
        return content, size.tokens, size.images


def _try_all(tried: _Tried, *, workers: int) -> tuple[Lengths, list[dict[str, str]]]:
    index, tokens, images = [], [], []
    lost: list[dict[str, str]] = []
    contents: list[bytes] = []
    for place, (content, *found) in enumerate(_results(tried, workers=workers)):
        contents.append(content)
        if len(found) == 3:
            lost.append(dict(zip(("id", "reason", "detail"), found, strict=True)))
        else:
            index.append(place)
            tokens.append(found[0])
            images.append(found[1])
    arrays = np.array(index, np.int64), np.array(tokens, np.int32), np.array(images, np.int32)
    return Lengths(*arrays, combined_content(contents)), lost


def _results(tried: _Tried, *, workers: int) -> Iterator[tuple[Any, ...]]:
    if workers == 0 or len(tried) < MANY:
        return (tried[i] for i in range(len(tried)))
    loader = DataLoader(
        tried,
        batch_size=64,
        num_workers=workers,
        collate_fn=list,
        timeout=loading.TIMEOUT_S,
        worker_init_fn=loading.end_with_parent,
    )
    return (result for batch in loader for result in batch)


def _content(groups: Iterable[Group]) -> str:
    """A hash of everything in the groups that is encoded or told of a lost one."""
    digest = hashlib.blake2b(str(FORM).encode(), digest_size=16)
    for group in groups:
        turns = [(turn.role, [part.text for part in turn.parts]) for turn in group.prompt]
        preferences = [(p.winner, p.loser, p.tie, p.weight, p.margin) for p in group.preferences]
        digest.update(repr((group.id, turns, group.responses, preferences)).encode("utf-8", "surrogatepass"))
        if told := (*group.critiques, *group.reasonings, *group.ratings):
            digest.update(repr(told).encode("utf-8", "surrogatepass"))
        for image in group.images:
            digest.update(image_content(image))
    return digest.hexdigest()


def _load(file: Path) -> tuple[Lengths, list[dict[str, str]]] | None:
    """What was kept; None when there is nothing, or nothing whole."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            lost = json.loads(str(kept["lost"]))
            return Lengths(kept["index"], kept["tokens"], kept["images"], str(kept["content"])), lost
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        logger.warning("the lengths kept in %s cannot be read (%s) and are found anew", file, error)
        return None


def _save(file: Path, lengths: Lengths, lost: list[dict[str, str]]) -> None:
    """Keeps it for the next run; a disk that takes nothing costs time, not the run."""
    part = file.with_name(f"{file.stem}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(file.parent, "*.part")
        with part.open("wb") as out:
            np.savez(
                out,
                index=lengths.index,
                tokens=lengths.tokens,
                images=lengths.images,
                content=np.array(lengths.content),
                lost=np.array(json.dumps(lost)),
            )
        os.replace(part, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        logger.warning("the lengths of the groups cannot be kept in %s: %s", file, error)
