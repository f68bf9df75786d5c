"""Collect the rows of a source as plain data for the viewer page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from basereward.data.schema.group import Group, Part, Preference, RejectedRow, Split, flat_images
from basereward.data.schema.rejections import RowRejected
from basereward.data.sources import Source
from basereward.data.videos.clips import VideoProcessor
from basereward.data.videos.shown_frames import with_shown_frames
from basereward.evaluation.reports.thumbnails import side_for
from basereward.evaluation.reports.viewer_files import Picture, ViewerFiles
from basereward.io.progress import track

# Of one text. The page says how many more characters the text has.
MAX_CHARACTERS = 20_000
# Rejected rows that the page lists; the counts include all of them.
MAX_LISTED = 1_000

ScoreGroup: TypeAlias = Callable[[Group], Sequence[float]]
ResponseScores: TypeAlias = Sequence[float | None] | None


def collect(
    source: Source,
    splits: Sequence[Split],
    *,
    rows: int,
    score: ScoreGroup | None = None,
    videos: VideoProcessor | None = None,
    files: ViewerFiles | None = None,
) -> dict[str, Any]:
    """Collect what the viewer shows of a source: counts, rows, images and rejected rows.

    Args:
        source: whose rows are shown.
        splits: of the source, in the order in which they are shown.
        rows: the maximum number of rows, evenly spaced over the splits.
        score: gives one score per response of a group. A group for which it raises `RowRejected` is shown unscored.
        videos: of the model; the page shows the frames of videos that it reads. None: some of each video.
        files: where rows and pictures go that the page does not hold; None: it holds all of them.

    Returns:
        Plain data that JSON can hold.

    Raises:
        DataError: the source is malformed.
    """
    groups = {split: source.groups(split) for split in splits}
    rejected = _rejected_rows(source, splits)
    usable = {split: len(members) for split, members in groups.items()}
    # Counted before the images are opened: a row whose image fails is in `usable` already.
    total = _total_rows(usable, rejected)
    # Images of these rows are opened, so this number decides how large each may be on the page.
    selected = min(rows, sum(usable.values()))
    files, index, tally = files or ViewerFiles(None), _Index(), _Tally()
    for split, place in track(spread(usable, at_most=rows), "opening rows and images", total=selected):
        group = groups[split][place]
        try:
            shown = with_shown_frames(group, processor=videos)
            images = list(flat_images(shown.all_images))
            pictures = files.pictures(images, side=side_for(selected * len(images)))
        except RowRejected as rejection:
            rejected.append(RejectedRow(source.name, split, group.id, rejection.reason, rejection.detail))
        else:
            row = _shown_row(split, shown, pictures, *_scores(group, score))  # scored with its videos
            files.add(row)
            index.add(row)
            tally.add(row)
    return {
        "source": source.name,
        "splits": {split: size for split, size in total.items() if size},
        "facts": _facts(tally, rejected, total=sum(total.values()), selected=selected),
        "index": index.as_dict(),
        "rows": files.rows,
        "pictures": files.album.pictures,
        "files": files.finish(),
        "lost": [_rejection(row) for row in rejected[:MAX_LISTED]],
    }


class _Index:
    """What the page filters and sorts all rows by, one number of each row in a list of each kind."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, int]] = {"source": {}, "split": {}}
        kinds = ("source", "split", "images", "margin", "longest", "disagrees")
        self._columns: dict[str, list[float | None]] = {kind: [] for kind in kinds}

    def add(self, row: Mapping[str, Any]) -> None:
        values: dict[str, float | None] = {
            "images": len(row["images"]),
            # Six digits sort as well as sixteen and take a third of the space.
            "margin": None if row["margin"] is None else float(f"{row['margin']:.6g}"),
            "longest": max((response["length"] for response in row["responses"]), default=0),
            "disagrees": int(row["scored"] and any(map(_is_wrong, row["pairs"]))),
        }
        for kind, names in self._names.items():
            values[kind] = names.setdefault(row[kind], len(names))
        for kind, value in values.items():
            self._columns[kind].append(value)

    def as_dict(self) -> dict[str, Any]:
        return {**self._columns, "names": {kind: list(names) for kind, names in self._names.items()}}


def _is_wrong(pair: Mapping[str, Any]) -> bool:
    """Whether a model disagrees with a preference; a score that is not finite disagrees."""
    return not pair["tie"] and not (pair["model"] is not None and pair["model"] > 0)


def _total_rows(usable: Mapping[Split, int], rejected: Iterable[RejectedRow]) -> dict[Split, int]:
    """The number of rows of each split, usable or rejected."""
    rejected_by_split = Counter(row.split for row in rejected)
    return {split: size + rejected_by_split[split] for split, size in usable.items()}


def spread(sizes: dict[Split, int], *, at_most: int) -> Iterator[tuple[Split, int]]:
    """Select row positions that are evenly spaced over all splits, taken as one sequence.

    Args:
        sizes: the number of rows of each split.
        at_most: the maximum number of positions.

    Yields:
        Split and index in it, in order.

    >>> list(spread({"train": 6, "val": 2}, at_most=4))
    [('train', 0), ('train', 2), ('train', 4), ('val', 0)]
    """
    total = sum(sizes.values())
    number = min(at_most, total)
    chosen = [place * total // number for place in range(number)]
    start = 0
    for split, size in sizes.items():
        yield from ((split, place - start) for place in chosen if start <= place < start + size)
        start += size


def plain(group: Group, *, pictures: Sequence[Picture], scores: ResponseScores) -> dict[str, Any]:
    """Convert a group to the plain data of one row.

    Args:
        group: the row.
        pictures: all its images, as `ViewerFiles.pictures` returns them.
        scores: one per response; None: the row is not scored.

    Returns:
        The row. A response with images has `parts`, as turns have. `margin` is the smallest of the pairs: of the
        model's margins if there are scores, otherwise of the margins in the data.

    >>> group = Group("a", "text", (), ("4", "5"), preferences=(Preference(0, 1),))
    >>> row = plain(group, pictures=[], scores=[1.0, -0.5])
    >>> row["margin"], [response["rank"] for response in row["responses"]]
    (1.5, [0, 1])
    """
    ranks = rank(len(group.responses), group.preferences)
    unplaced = iter(pictures)
    pairs = [_pair(preference, scores) for preference in group.preferences]
    margins = [pair["model" if scores else "margin"] for pair in pairs if not pair["tie"]]
    turns = [{"role": turn.role, "parts": _parts(turn.parts, unplaced)} for turn in group.prompt]
    responses: list[dict[str, Any]] = []
    for index, rank_of_response in enumerate(ranks):
        score = scores[index] if scores else None
        responses.append(_response(group, index, unplaced) | {"rank": rank_of_response, "score": score})
    return {
        "id": group.id,
        "source": group.source,
        "turns": turns,
        "images": list(pictures),
        "responses": responses,
        "pairs": pairs,
        "scored": scores is not None,
        "margin": min((margin for margin in margins if margin is not None), default=None),
    }


def rank(responses: int, preferences: Iterable[Preference]) -> list[int | None]:
    """Rank responses by preferences.

    A response ranks below every response that is preferred to it, and equal to those it is tied with.

    Args:
        responses: their number.
        preferences: among them, by index.

    Returns:
        The rank of every response, 0 the best; None for a response without any preference.

    >>> rank(4, [Preference(2, 0), Preference(0, 1), Preference(1, 0, tie=True)])
    [1, 1, 0, None]
    """
    preferences = list(preferences)
    levels: dict[int, int] = {}
    for preference in preferences:
        levels[preference.winner] = levels[preference.loser] = 0
    # The longest chain has as many links as there are responses. The bound also ends a cycle (A > B > A), whose levels
    # would rise for ever.
    for _ in range(responses):
        for preference in preferences:
            _push_down(levels, preference)
    # Ties raise levels by more than one; ranks have no gaps.
    distinct = sorted(set(levels.values()))
    return [distinct.index(levels[index]) if index in levels else None for index in range(responses)]


def _push_down(levels: dict[int, int], preference: Preference) -> None:
    """Raise the levels of the responses of one preference until they obey it; 0 is the best level."""
    above, below = levels[preference.winner], levels[preference.loser]
    if preference.tie:
        levels[preference.winner] = levels[preference.loser] = max(above, below)
    else:
        levels[preference.loser] = max(below, above + 1)


def _facts(tally: _Tally, rejected: Sequence[RejectedRow], *, total: int, selected: int) -> dict[str, Any]:
    return {
        "rows": total,
        # Rows that were rejected just now, because an image cannot be opened, are no usable groups either.
        "groups": total - len(rejected),
        "read": selected,
        "shown": tally.rows,
        "images": tally.images,
        "unscored": tally.unscored,
        **tally.pair_shares(),
        "lost": dict(Counter(row.reason for row in rejected).most_common()),
    }


def _rejected_rows(source: Source, splits: Sequence[Split]) -> list[RejectedRow]:
    rejected: list[RejectedRow] = []
    for split in splits:
        rejected += source.rejected(split)
    return rejected


def _rejection(row: RejectedRow) -> dict[str, Any]:
    return {"split": row.split, "id": row.id, "reason": row.reason, "detail": row.detail}


def _shown_row(
    split: Split, group: Group, pictures: Sequence[Picture], scores: ResponseScores, reason: str | None
) -> dict[str, Any]:
    row = {"split": split, **plain(group, pictures=pictures, scores=scores), "unscored": reason}
    if reason:
        # The margin in the data has another scale; the page would sort it among the margins of the model.
        row["margin"] = None
    return row


def _scores(group: Group, score: ScoreGroup | None) -> tuple[ResponseScores, str | None]:
    """The scores, or the reason why the group has none."""
    if score is None:
        return None, None
    try:
        return [_finite(value) for value in score(group)], None
    except RowRejected as rejection:
        return None, f"{rejection.reason}: {rejection.detail}"


def _response(group: Group, index: int, pictures: Iterator[Picture]) -> dict[str, Any]:
    text = _text(group.responses[index])
    return text | {"parts": _parts(group.response_parts(index), pictures)} if group.images_of(index) else text


def _parts(parts: Iterable[Part], pictures: Iterator[Picture]) -> list[dict[str, Any]]:
    return [{"image": next(pictures)} if part.text is None else _text(part.text) for part in parts]


def _text(text: str) -> dict[str, Any]:
    return {"text": text[:MAX_CHARACTERS], "length": len(text)}


def _pair(preference: Preference, scores: ResponseScores) -> dict[str, Any]:
    margin = None
    if scores is not None:
        better, worse = scores[preference.winner], scores[preference.loser]
        margin = None if better is None or worse is None else better - worse
    return {
        "winner": preference.winner,
        "loser": preference.loser,
        "tie": preference.tie,
        "weight": _finite(preference.weight),
        "margin": _finite(preference.margin),
        "model": margin,
    }


@dataclass(frozen=True, slots=True)
class _ComparedPair:
    """A pair that is no tie. Lengths are in characters."""

    extra_length: int
    """of the winner, compared with the loser"""
    margin: float | None
    """of the model; None: the row is not scored"""


class _Tally:
    """The counts of the rows that are shown, without keeping the rows."""

    def __init__(self) -> None:
        self.rows = self.images = self.unscored = 0
        self._pairs = 0
        # Name of a share -> how often it is true, and in how many pairs.
        self._shares: dict[str, list[int]] = {name: [0, 0] for name in ("longer_wins", "follows_length", "accuracy")}

    def add(self, row: dict[str, Any]) -> None:
        self.rows += 1
        self.images += len(row["images"])
        self.unscored += row["unscored"] is not None
        for pair in _compared_pairs(row):
            self._pairs += 1
            if pair.extra_length:
                self._count("longer_wins", pair.extra_length > 0)
                if pair.margin is not None:
                    self._count("follows_length", pair.margin * pair.extra_length > 0)
            if pair.margin is not None:
                self._count("accuracy", pair.margin > 0)

    def pair_shares(self) -> dict[str, Any]:
        """Statistics of all pairs that are no ties.

        `longer_wins` and `follows_length` are over pairs whose responses differ in length: how often the longer
        response is preferred by the data, and by the model. `accuracy` is over all scored pairs.
        """
        shares = {name: true / pairs if pairs else None for name, (true, pairs) in self._shares.items()}
        return {"pairs": self._pairs, **shares}

    def _count(self, name: str, is_true: bool) -> None:
        self._shares[name][0] += is_true
        self._shares[name][1] += 1


def _compared_pairs(row: dict[str, Any]) -> Iterator[_ComparedPair]:
    """The pairs of a row that are no ties."""
    for pair in row["pairs"]:
        if pair["tie"]:
            continue
        winner, loser = row["responses"][pair["winner"]], row["responses"][pair["loser"]]
        # A score that is not finite has no margin. It counts as a margin of 0, which is wrong for the model.
        margin = (pair["model"] or 0.0) if row["scored"] else None
        yield _ComparedPair(winner["length"] - loser["length"], margin)


def _finite(value: float | None) -> float | None:
    # JSON has no NaN and no infinity.
    return value if value is not None and math.isfinite(value) else None
