"""A benchmark that `basereward verify --publish` wrote: pairs with their source and the kinds of errors in the worse
response."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from basereward.evaluation.benchmarks.annotated import count_faults
from basereward.evaluation.benchmarks.pairs import Pairs
from basereward.evaluation.items import JudgedItem, by_label
from basereward.evaluation.statistics.measures import (
    Measures,
    Variant,
    accuracy,
    length_controlled,
    mean_accuracy,
    per_vote,
)
from basereward.evaluation.statistics.votes import accuracy_over_votes

SOURCE, TAGS, UNTAGGED = "source", "tags", "untagged"
SEPARATOR = ", "


class VerifiedPairs(Pairs):
    """One item per row, counted by source and by kind of error. An undecided item counts as wrong.

    Args:
        name: of the benchmark.
        path: of the rows; relative to the YAML file, or to the working folder.
        images: the folder from which relative paths of images start; null: that of the rows.
        version: of the benchmark; a change that moves a number raises it.
        expected_items: the number of rows; null: unknown.
        expected_counts: `source` -> its values -> the number of rows that have each; null: unknown.

    >>> import json, tempfile
    >>> from pathlib import Path
    >>> file = Path(tempfile.mkdtemp()) / "mine.jsonl"
    >>> row = {"id": "a", "prompt": "2 + 2?", "responses": ["4", "5"], "preferences": [[0, 1]], "source": "sums"}
    >>> _ = file.write_text(json.dumps({**row, "tags": ["counting"]}))
    >>> benchmark = VerifiedPairs("mine", path=str(file), expected_items=1)
    >>> dict(benchmark.items[0].labels), benchmark.partial
    ({'source': 'sums', 'tags': 'counting'}, None)
    """

    known_columns = (SOURCE, TAGS, "verified", "annotators", "adjudicated")

    def __init__(
        self,
        name: str,
        *,
        path: str,
        images: str | None = None,
        version: str = "1",
        expected_items: int | None = None,
        expected_counts: dict[str, dict[str, int | None]] | None = None,
    ) -> None:
        super().__init__(name, path=path, images=images)
        self.version = version
        self.expected_items = expected_items
        self._expected_counts = expected_counts or {}

    @property
    def variants(self) -> Mapping[str, Variant]:
        """`pairs`, by source; `by_tag`; `over_votes` and `per_vote`, for judges; `length_controlled`."""
        return {
            "pairs": _by_source,
            "by_tag": _by_tag,
            "over_votes": _over_votes,
            "per_vote": lambda judged: {"overall": per_vote(judged)},
            "length_controlled": lambda judged: {"overall": length_controlled(judged)},
        }

    @cached_property
    def partial(self) -> str | None:  # type: ignore[override]
        """How the rows differ in number from those that were published; None if they do not."""
        faults: list[str] = []
        if self.expected_items not in (None, len(self.items)):
            faults.append(f"items: {self.expected_items:,} expected, {len(self.items):,} found")
        for label, expected in self._expected_counts.items():
            faults += count_faults(label, expected, Counter(item.labels.get(label, "") for item in self.items))
        return "; ".join(faults) or None

    def _labels(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
        labels: list[dict[str, str]] = []
        for row in rows:
            given = row.get(TAGS)
            # Text, because labels are compared between evaluations; no tag holds the separator.
            tags = SEPARATOR.join(map(str, given)) if isinstance(given, list) and given else UNTAGGED
            labels.append({SOURCE: str(row.get(SOURCE) or self.name), TAGS: tags})
        return labels


def tags_of(judged_item: JudgedItem) -> list[str]:
    """The kinds of errors of an item; `untagged` if it has none.

    >>> from basereward.evaluation.items import Item, Outcome
    >>> item = Item(0, "a", "?", ("4", "5"), (0,), (1,), "a", labels={"tags": "existence, counting"})
    >>> tags_of(JudgedItem(item, Outcome(correct=True)))
    ['existence', 'counting']
    """
    return judged_item.item.labels[TAGS].split(SEPARATOR)


def _by_source(judged: Sequence[JudgedItem]) -> Measures:
    """Accuracy on all items, the mean over the sources, and each source."""
    sources = by_label(judged, SOURCE)
    measures = {"overall": accuracy(judged)}
    if len(sources) > 1:
        measures["macro"] = mean_accuracy(sources)
    return measures | {f"source: {source}": accuracy(members) for source, members in sources.items()}


def _by_tag(judged: Sequence[JudgedItem]) -> Measures:
    """Accuracy on all items, and on those of each tag; an item with several tags is in each of them."""
    members: dict[str, list[JudgedItem]] = {}
    for judged_item in judged:
        for tag in tags_of(judged_item):
            members.setdefault(tag, []).append(judged_item)
    return {"overall": accuracy(judged)} | {f"tag: {tag}": accuracy(items) for tag, items in members.items()}


def _over_votes(judged: Sequence[JudgedItem]) -> Measures:
    sources = by_label(judged, SOURCE)
    return accuracy_over_votes(judged, categories=sources if len(sources) > 1 else None)
