"""Rows of a source as plain data: what a page about them shows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from basereward.data.schema.group import Group, RejectedRow, Preference, Split, Turn
from basereward.data.images.open_images import open_image
from basereward.data.schema.rejections import RowRejected
from basereward.data.sources import Source
from basereward.evaluation.reports.thumbnails import Album, side_for

MAX_CHARACTERS = 20_000  # of one text; the page says how many more there are
MAX_LISTED = 1_000  # lost rows; all are counted

Score: TypeAlias = Callable[[Group], Sequence[float]]
ResponseScores: TypeAlias = Sequence[float | None] | None


def collect(source: Source, splits: Sequence[Split], *, rows: int, score: Score | None = None) -> dict[str, Any]:
    """What there is to show of a source: counts, rows, pictures, lost rows; only what JSON knows.

    Args:
        rows: at most so many are shown, spread evenly over the parts.
        score: the scores of a group's responses; raises `RowRejected` for one that is then shown without them.

    Raises:
        DataError: the source is malformed.
    """
    groups = {split: source.groups(split) for split in splits}
    lost = [row for split in splits for row in source.lost(split)]
    known = {split: len(part) + sum(row.split == split for row in lost) for split, part in groups.items()}
    number = min(rows, sum(map(len, groups.values())))  # of rows whose pictures are opened
    album, shown = Album(), []
    for split, index in spread({split: len(part) for split, part in groups.items()}, at_most=rows):
        group = groups[split][index]
        try:
            side = side_for(number * len(group.images))
            pictures = [album.add(open_image(image), side=side) for image in group.images]
        except RowRejected as loss:
            lost.append(RejectedRow(source.name, split, group.id, loss.reason, loss.detail))
            continue
        scores, unscored = _scored(group, score)
        row = {"split": split, **plain(group, pictures=pictures, scores=scores), "unscored": unscored}
        if unscored:
            row["margin"] = None  # that of the data would be sorted among those of the model
        shown.append(row)
    return {
        "source": source.name,
        "splits": {split: size for split, size in known.items() if size},
        "facts": {
            "rows": sum(known.values()),
            "groups": sum(known.values()) - len(lost),
            "read": number,
            "shown": len(shown),
            "images": sum(len(row["images"]) for row in shown),
            "unscored": sum(row["unscored"] is not None for row in shown),
            **_shares(shown),
            "lost": dict(Counter(row.reason for row in lost).most_common()),
        },
        "rows": shown,
        "pictures": album.pictures,
        "lost": [
            {"split": row.split, "id": row.id, "reason": row.reason, "detail": row.detail} for row in lost[:MAX_LISTED]
        ],
    }


def spread(sizes: dict[Split, int], *, at_most: int) -> Iterator[tuple[Split, int]]:
    """Places of rows, in order and evenly spaced over the parts taken as one.

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


def plain(group: Group, *, pictures: list[int], scores: ResponseScores) -> dict[str, Any]:
    """One row. `pictures` are the places of its images in the album; `margin` is its worst: the model's where there are
    scores, else what the data say."""
    ranks = rank(len(group.responses), group.preferences)
    waiting = iter(pictures)
    pairs = [_pair(preference, scores) for preference in group.preferences]
    margins = [pair["model" if scores else "margin"] for pair in pairs if not pair["tie"]]
    return {
        "id": group.id,
        "source": group.source,
        "turns": [_turn(turn, waiting) for turn in group.prompt],
        "images": pictures,
        "responses": [
            {**_text(text), "rank": ranks[i], "score": scores[i] if scores else None}
            for i, text in enumerate(group.responses)
        ],
        "pairs": pairs,
        "scored": scores is not None,
        "margin": min((margin for margin in margins if margin is not None), default=None),
    }


def rank(responses: int, preferences: Iterable[Preference]) -> list[int | None]:
    """The place of every response, 0 the best: below all that are preferred to it, beside all it is tied with. None: no
    preference says anything of it.

    >>> rank(4, [Preference(2, 0), Preference(0, 1), Preference(1, 0, tie=True)])
    [1, 1, 0, None]
    """
    preferences = list(preferences)
    places: list[int | None] = [None] * responses
    for preference in preferences:
        places[preference.winner] = places[preference.loser] = 0
    # As often as there are responses: then the longest chain is through, and one that bites its tail has an end too.
    for _ in range(responses):
        for preference in preferences:
            above, below = places[preference.winner] or 0, places[preference.loser] or 0
            if preference.tie:
                places[preference.winner] = places[preference.loser] = max(above, below)
            else:
                places[preference.loser] = max(below, above + 1)
    found = sorted({place for place in places if place is not None})
    return [None if place is None else found.index(place) for place in places]


def _scored(group: Group, score: Score | None) -> tuple[ResponseScores, str | None]:
    """The scores, or why there are none."""
    if score is None:
        return None, None
    try:
        return [_finite(value) for value in score(group)], None
    except RowRejected as loss:
        return None, f"{loss.reason}: {loss.detail}"


def _turn(turn: Turn, pictures: Iterator[int]) -> dict[str, Any]:
    parts = [{"image": next(pictures)} if part.text is None else _text(part.text) for part in turn.parts]
    return {"role": turn.role, "parts": parts}


def _text(text: str) -> dict[str, Any]:
    return {"text": text[:MAX_CHARACTERS], "length": len(text)}


def _pair(preference: Preference, scores: ResponseScores) -> dict[str, Any]:
    better, worse = (scores[preference.winner], scores[preference.loser]) if scores else (None, None)
    return {
        "winner": preference.winner,
        "loser": preference.loser,
        "tie": preference.tie,
        "weight": _finite(preference.weight),
        "margin": _finite(preference.margin),
        "model": None if better is None or worse is None else better - worse,
    }


def _shares(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What holds of the pairs that are no ties: how often the longer response (in characters) wins, among those whose
    lengths differ; and of those that were scored, how often the model follows length, and how often it is right."""
    pairs = [(row, pair) for row in rows for pair in row["pairs"] if not pair["tie"]]
    excess = [
        row["responses"][pair["winner"]]["length"] - row["responses"][pair["loser"]]["length"] for row, pair in pairs
    ]
    scored = [(pair["model"] or 0.0, more) for (row, pair), more in zip(pairs, excess, strict=True) if row["scored"]]
    return {
        "pairs": len(pairs),
        "longer_wins": _share([more > 0 for more in excess if more]),
        "follows_length": _share([margin * more > 0 for margin, more in scored if more]),
        "accuracy": _share([margin > 0 for margin, _ in scored]),
    }


def _share(held: Sequence[bool]) -> float | None:
    return sum(held) / len(held) if held else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
