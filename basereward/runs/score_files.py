"""The scores of held-out groups, stored with a run so that later comparisons need no model."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path

from torch import Tensor

from basereward.data.batching.tree_batch import TreeBatch
from basereward.errors import RunError, sentence
from basereward.io.files import json_text, write_state
from basereward.io.limits import check_regular_file
from basereward.runs.tracking.journal import warn_once


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """One held-out group with K responses.

    Attributes:
        id: of the group; a source may use one id for several groups.
        source: name of its source.
        scores: K scores.
        lengths: K lengths in tokens.
        preferences: (winner, loser, tie) with indices of responses.

    >>> ScoredGroup("1", "digits", scores=[1.0, 3.0], lengths=[5, 7], preferences=[(1, 0, False)]).margins
    [2.0]
    """

    id: str
    source: str
    scores: list[float]
    lengths: list[int]
    preferences: list[tuple[int, int, bool]]

    @property
    def margins(self) -> list[float]:
        """Score of the winner minus score of the loser, for every preference that is not a tie."""
        return [self.scores[w] - self.scores[loser] for w, loser, tie in self.preferences if not tie]


def scored_groups(batch: TreeBatch, scores: Tensor) -> list[ScoredGroup]:
    """Split a batch into its groups.

    Args:
        batch: of several groups with B responses together.
        scores: `(B,)`, in the order of the responses.
    """
    values, lengths = scores.tolist(), batch.lengths.tolist()
    preferences: list[list[tuple[int, int, bool]]] = [[] for _ in batch.ids]
    pairs = batch.preferences
    columns = (pairs.winner, pairs.loser, pairs.tie, pairs.group)
    for winner, loser, tie, group_index in zip(*(column.tolist() for column in columns), strict=True):
        preferences[group_index].append((winner, loser, tie))
    groups, first = [], 0
    for index, (group_id, source) in enumerate(zip(batch.ids, batch.sources, strict=True)):
        last = first + batch.responses[index]
        # A batch numbers its responses from 0, a group its own.
        own_preferences = [(winner - first, loser - first, tie) for winner, loser, tie in preferences[index]]
        groups.append(ScoredGroup(group_id, source, values[first:last], lengths[first:last], own_preferences))
        first = last
    return groups


def in_file_order(of_ranks: Sequence[Sequence[ScoredGroup]]) -> list[ScoredGroup]:
    """Merge the groups that several processes have scored, each of which took every N-th group of the file.

    Args:
        of_ranks: the groups of each of the N processes, in their order.

    >>> groups = [ScoredGroup(str(i), "a", scores=[], lengths=[], preferences=[]) for i in range(3)]
    >>> [group.id for group in in_file_order([[groups[0], groups[2]], [groups[1]]])]
    ['0', '1', '2']
    """
    merged: list[ScoredGroup] = []
    for turn in zip_longest(*of_ranks):
        merged += [group for group in turn if group is not None]
    return merged


def write_scores(path: Path, groups: Iterable[ScoredGroup]) -> None:
    """Write groups as JSON Lines; the file appears whole or not at all.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "val.jsonl"
    >>> group = ScoredGroup("1", "digits", scores=[1.0, 3.0], lengths=[5, 7], preferences=[(1, 0, False)])
    >>> write_scores(file, [group])
    >>> read_scores(file) == [group]
    True
    """
    write_state(path, scores_text(groups))


def scores_text(groups: Iterable[ScoredGroup]) -> str:
    """The content of a file of `write_scores`.

    >>> scores_text([])
    ''
    """
    return "".join(json_text(asdict(group)) + "\n" for group in groups)


def read_scores(path: Path) -> list[ScoredGroup]:
    """Read a file of `write_scores`.

    Raises:
        RunError: the file is missing, damaged, or no regular file.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "val.jsonl"
    >>> _ = file.write_text("not JSON")
    >>> read_scores(file)
    Traceback (most recent call last):
    basereward.errors.RunError: the scores in '...' are damaged: ...
    """
    groups = []
    # Opening a pipe would wait for a writer.
    check_regular_file(path, error=RunError)
    try:
        for line in path.read_text().splitlines():
            group = ScoredGroup(**json.loads(line))
            # JSON has no NaN, so `write_scores` writes null for it.
            scores = [math.nan if score is None else score for score in group.scores]
            preferences = [(winner, loser, tie) for winner, loser, tie in group.preferences]
            groups.append(replace(group, scores=scores, preferences=preferences))
    except (ValueError, TypeError) as error:
        raise RunError(f"the scores in '{path}' are damaged: {error}") from error
    return groups


def known_scores(path: Path) -> list[ScoredGroup]:
    """Read the scores of a run; [] when there is no file, or, with a warning, a damaged one.

    >>> known_scores(Path("/not/there.jsonl"))
    []
    """
    if not path.is_file():
        return []
    try:
        return read_scores(path)
    except RunError as error:
        warn_once(f"{sentence(error)} They are left out.")
        return []


def spread(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Mean and standard deviation of the scores of all responses; {} for no scores.

    They let reinforcement learning normalise rewards, and an ensemble standardise its members.

    >>> spread([ScoredGroup("1", "digits", scores=[1.0, 3.0], lengths=[5, 7], preferences=[(1, 0, False)])])
    {'mean': 2.0, 'std': 1.0}
    """
    scores: list[float] = []
    for group in groups:
        scores += group.scores
    # The population's deviation: these are all scores, not a sample of them.
    return {"mean": statistics.fmean(scores), "std": statistics.pstdev(scores)} if scores else {}
