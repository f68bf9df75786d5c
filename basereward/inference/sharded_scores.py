"""Scores of groups for an audit: on this machine, or in shards on a cluster with the same bits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from basereward.cluster.shards import ShardedRows
from basereward.data.encoding.content_hash import rows_hash
from basereward.data.schema.group import Group
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError
from basereward.inference.group_scores import ScoresGroups
from basereward.inference.load_model import load
from basereward.inference.model_content import model_content
from basereward.inference.score_file import ROWS_OF_BLOCK
from basereward.io.files import json_text
from basereward.recipe.trust import is_trusted, trusting
from basereward.runs.resolve_model import resolve_model

Scores: TypeAlias = list[float] | None
"""The scores of a group; None for one that the model cannot read, for example because it is too long."""


def scores_of(groups: Iterable[Group], *, scorer: ScoresGroups) -> Iterator[Scores]:
    """The scores of every group, in blocks of `ROWS_OF_BLOCK`, so that the bits do not depend on the cut into shards.

    Args:
        groups: in order; the first one is the first of a block.
        scorer: an opened model.

    Raises:
        BaseRewardError: the model cannot score at all. A single group that it cannot read is not an error.
    """
    groups = iter(groups)
    while block := list(islice(groups, ROWS_OF_BLOCK)):
        for result in scorer.score_or_reject(block):
            if not isinstance(result, DataError):
                yield result
            # Any other error is a fault of the data or of the model, not of one group.
            elif isinstance(result.__cause__, RowRejected):
                yield None
            else:
                raise result


def scores_on_cluster(groups: Sequence[Group], rows: ShardedRows, *, model: str, what: str) -> Iterator[Scores]:
    """As `scores_of`, by workers that load the model; this process does not.

    Args:
        groups: read by workers.
        rows: the cluster.
        model: as in `load`.
        what: names the work, for the progress.

    Raises:
        BaseRewardError: the model cannot be opened, or cannot score at all.
    """
    folder = resolve_model(model).absolute()
    work = _GroupScoring(groups, str(folder), model_content(folder), is_trusted())
    for shard in rows.run(work, num_rows=len(groups), what=what, multiple=ROWS_OF_BLOCK):
        with shard.file.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


@dataclass(frozen=True)
class _GroupScoring:
    """The groups and the model of the workers. Calling it makes a worker."""

    groups: Sequence[Group]
    folder: str
    content: str
    trusted: bool

    def __call__(self) -> _GroupScorer:
        return _GroupScorer(self)


class _GroupScorer:
    """Scores shards in one process; see `ShardWorker`."""

    def __init__(self, work: _GroupScoring) -> None:
        self._work = work
        self._scorer: ScoresGroups | None = None

    def key(self, rows: range) -> str:
        """As in `ShardWorker`."""
        return rows_hash(self._work.groups, rows, [("model", self._work.content), ("scores of groups", "1")])

    def write(self, rows: range, target: Path) -> dict[str, Any]:
        """As in `ShardWorker`; a line for each group, null for one that cannot be read."""
        # Only here: when all shards are found from an earlier call, no model is needed.
        if self._scorer is None:
            with trusting(self._work.trusted):
                self._scorer = load(self._work.folder)
        with target.open("w", encoding="utf-8") as output:
            for scores in scores_of((self._work.groups[number] for number in rows), scorer=self._scorer):
                output.write(json_text(scores) + "\n")
        return {}
