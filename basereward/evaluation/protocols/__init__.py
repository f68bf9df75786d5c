"""How benchmarks are read and counted: one class a file.

A protocol of your own is a file here, or any class that a benchmark names by its dotted path, with the members of
`Protocol`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from typing import Protocol as Contract

from basereward.data.images.image_store import ImageStore
from basereward.evaluation.items import Item
from basereward.evaluation.statistics.measures import Variant


class Protocol(Contract):
    """Made as `Class(**arguments of the benchmark's YAML)`."""

    columns: tuple[str, ...]
    """The columns that a row must have; those it lacks are named before anything else is looked at. A protocol may have
    two more members: `also`, the columns that it reads where they are there, with what they are for, and `missing`, for
    a column what to do about rows that lack it."""

    @property
    def variants(self) -> Mapping[str, Variant]:
        """Ways of counting by name, the published one first. Each takes all judged items and gives named measures,
        the one that stands for all first."""
        ...

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        """A row as an item; `number` counts rows from 0.

        Raises:
            RowRejected: the row is malformed. A benchmark is never counted in part, so this stops the evaluation.
        """
        ...
