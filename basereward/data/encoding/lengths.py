"""Measures the lengths of all groups and finds unusable ones, once, in parallel, with a cache on disk.

The cache is keyed by the content of the groups and the encoder, so that every run, cell and resumed run with the same
rows and tokenizer uses it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from basereward.cluster.shards import FEW_ROWS, ShardedRows
from basereward.data import loading
from basereward.data.encoding.content_hash import (
    combined_content,
    group_content,
    image_content,
    response_places,
    rows_hash,
)
from basereward.data.encoding.encoder import Encoder
from basereward.data.schema.group import Group, RejectedRow, Split, role_texts, visual_content
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.validation import check_usable
from basereward.data.sources import Source
from basereward.io.progress import track
from basereward.io.tensor_cache import TensorCache

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Version of the cache files; another number invalidates them.
FORM = 2
# With fewer groups, starting worker processes takes longer than the work.
MANY = 2000


@dataclass(frozen=True)
class Lengths:
    """The usable groups of a split of a source, by ascending index. All arrays have the shape `(N,)`.

    Attributes:
        index: indices of `source.groups(split)`.
        tokens: the tokens of each group in a tree row, which are those of its prefix and of all branches.
        images: the number of images of each group.
        content: a hash of all groups of the split, including unusable ones; see `group_content`.

    >>> lengths = Lengths(np.array([0, 2]), np.array([30, 50]), np.array([0, 1]))
    >>> lengths.only(lengths.tokens < 40).index.tolist()
    [0]
    """

    index: NDArray[np.int64]
    tokens: NDArray[np.int32]
    images: NDArray[np.int32]
    content: str = ""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def mark(self) -> str:
        """A hash of the indices and lengths.

        Checkpoints contain it and `content`; those of earlier versions contain only this hash.
        """
        return hashlib.blake2b(self.index.tobytes() + self.tokens.tobytes(), digest_size=16).hexdigest()

    def only(self, kept: NDArray[np.bool_]) -> Lengths:
        """Select groups by a mask of shape `(N,)`."""
        return Lengths(self.index[kept], self.tokens[kept], self.images[kept], self.content)


def measure(
    source: Source,
    split: Split,
    *,
    encoder: Encoder,
    workers: int = 0,
    cache: Path | None = None,
    rows: ShardedRows | None = None,
    with_targets: bool | None = None,
) -> tuple[Lengths, list[RejectedRow]]:
    """Measure every group of a split.

    Args:
        source: the source.
        split: the split.
        encoder: encodes groups.
        workers: worker processes, used if there are many groups; 0: this process.
        cache: the folder of the cache; None: no cache.
        rows: a cluster that measures in shards, in place of workers and cache; None: this machine.
        with_targets: whether groups need the target texts of a generative head; None: those of training do.

    Returns:
        The usable groups, and the rejected rows: first those that the source itself rejects.

    Raises:
        DataError: the source is malformed.
    """
    groups = source.groups(split)
    # Rows for validation and test need no target texts: a generative head writes the texts itself. Its branches are
    # shorter there, so the lengths have a cache file of their own.
    with_targets = split == "train" if with_targets is None else with_targets
    store = None if cache is None or rows is not None else _LengthStore(cache, encoder, with_targets=with_targets)
    # Hashing reads every image, so it is done for a cache only.
    key = "" if store is None else store.key(groups)
    measured = None if store is None else store.find(key)
    if measured is None:
        name = f"{source.name}, {split}"
        to_measure = _MeasuredGroups(groups, encoder, with_targets)
        if rows is None:
            results = track(_results(to_measure, workers=workers), f"encoding {name}", total=len(to_measure))
        else:
            results = _sharded_results(to_measure, rows, name=name)
        measured = _combined(results)
        if store is not None:
            store.keep(key, *measured)
    lengths, rejections = measured
    rejected = [RejectedRow(source.name, split, row["id"], row["reason"], row["detail"]) for row in rejections]
    return lengths, [*source.rejected(split), *rejected]


class _MeasuredGroups(Dataset[tuple[Any, ...]]):
    """For each group (content, tokens, images) if it is usable, else (content, id, reason, detail)."""

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
            # The same checks as in training, so that a row that passes here cannot fail in the middle of a run.
            check_usable(group)
            size = self.encoder.measure(group, with_targets=self.with_targets)
        except RowRejected as rejection:
            return content, group.id, rejection.reason, rejection.detail
        return content, size.tokens, size.images


def _combined(results: Iterable[Sequence[Any]]) -> tuple[Lengths, list[dict[str, str]]]:
    index, tokens, images = [], [], []
    rejections: list[dict[str, str]] = []
    contents: list[bytes] = []
    for place, (content, *values) in enumerate(results):
        contents.append(content)
        # Three values describe a rejection and two a size; see `_MeasuredGroups`.
        if len(values) == 3:
            rejections.append(dict(zip(("id", "reason", "detail"), values, strict=True)))
        else:
            index.append(place)
            tokens.append(values[0])
            images.append(values[1])
    arrays = np.array(index, np.int64), np.array(tokens, np.int32), np.array(images, np.int32)
    return Lengths(*arrays, combined_content(contents)), rejections


def _results(groups: _MeasuredGroups, *, workers: int) -> Iterator[tuple[Any, ...]]:
    if workers == 0 or len(groups) < MANY:
        return (groups[i] for i in range(len(groups)))
    # Batches of 64, because sending every group alone between processes takes longer than measuring it.
    loader = DataLoader(
        groups,
        batch_size=64,
        num_workers=workers,
        collate_fn=list,
        timeout=loading.TIMEOUT_S,
        worker_init_fn=loading.end_with_training,
    )
    return chain.from_iterable(loader)


@dataclass(frozen=True)
class _MeasuringWork:
    """Measures shards of groups; itself the worker."""

    groups: _MeasuredGroups

    def __call__(self) -> _MeasuringWork:
        return self

    def key(self, rows: range) -> str:
        """As in `ShardWorker`."""
        parts = [("lengths", f"{FORM} {self.groups.encoder.fingerprint} {self.groups.with_targets}")]
        return rows_hash(self.groups.groups, rows, parts)

    def write(self, rows: range, target: Path) -> dict[str, Any]:
        """As in `ShardWorker`; a line for each group."""
        with target.open("w", encoding="utf-8") as output:
            for number in rows:
                content, *values = self.groups[number]
                output.write(json.dumps([content.hex(), *values]) + "\n")
        return {}


def _sharded_results(groups: _MeasuredGroups, rows: ShardedRows, *, name: str) -> Iterator[tuple[Any, ...]]:
    for shard in rows.run(_MeasuringWork(groups), num_rows=len(groups), what=f"encoding {name}", few=FEW_ROWS):
        with shard.file.open(encoding="utf-8") as lines:
            for line in lines:
                content, *values = json.loads(line)
                yield bytes.fromhex(content), *values


def _content(groups: Iterable[Group]) -> str:
    """Hash everything in the groups that is encoded, or listed for a rejected one."""
    digest = hashlib.blake2b(str(FORM).encode(), digest_size=16)
    for group in groups:
        turns = role_texts(group.prompt)
        preferences = [(p.winner, p.loser, p.tie, p.weight, p.margin) for p in group.preferences]
        digest.update(repr((group.id, turns, group.responses, preferences)).encode("utf-8", "surrogatepass"))
        # Added only if there are any, so that caches of groups without annotations from earlier versions stay valid.
        if annotations := (*group.critiques, *group.reasonings, *group.ratings):
            digest.update(repr(annotations).encode("utf-8", "surrogatepass"))
        if group.response_images:
            digest.update(repr(response_places(group)).encode())
        for image in group.all_images:
            digest.update(visual_content(image, image_content))
    return digest.hexdigest()


class _LengthStore:
    """Lengths and rejected rows of splits on disk, by the content of their groups.

    Args:
        folder: the folder of the cache.
        encoder: measured the groups.
        with_targets: as of `Encoder.measure`; without targets a generative head has other lengths.
    """

    def __init__(self, folder: Path, encoder: Encoder, *, with_targets: bool) -> None:
        kind = "prompts only" if encoder.branch_template is not None and not with_targets else "with targets"
        self._identity = f"lengths {FORM}, {encoder.fingerprint}, {kind}"
        # Earlier versions wrote NumPy archives.
        earlier = ("*.npz",)
        self._cache = TensorCache(folder, identity=self._identity, contents="lengths", earlier_files=earlier)

    def key(self, groups: Iterable[Group]) -> str:
        """Hash the groups, with everything else that their lengths depend on."""
        return hashlib.sha256(f"{self._identity}, {_content(groups)}".encode()).hexdigest()

    def find(self, key: str) -> tuple[Lengths, list[dict[str, str]]] | None:
        """Read lengths and rejected rows; None if there are none or the file is damaged."""
        tensors = self._cache.find(key)
        if tensors is None:
            return None
        rows = json.loads(tensors["rows"].numpy().tobytes())
        index, tokens, images = (tensors[name].numpy() for name in ("index", "tokens", "images"))
        return Lengths(index, tokens, images, rows["content"]), rows["rejected"]

    def keep(self, key: str, lengths: Lengths, rejected: list[dict[str, str]]) -> None:
        """Write lengths and rejected rows; if writing fails, a warning is logged and the run continues."""
        # As a tensor, because safetensors allows 100 MB of metadata, and a source may reject a million rows.
        rows = json.dumps({"content": lengths.content, "rejected": rejected}).encode()
        tensors = {
            "index": torch.from_numpy(lengths.index),
            "tokens": torch.from_numpy(lengths.tokens),
            "images": torch.from_numpy(lengths.images),
            "rows": torch.frombuffer(bytearray(rows), dtype=torch.uint8),
        }
        self._cache.keep(key, tensors)
