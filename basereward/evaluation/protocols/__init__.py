"""Protocols: how the rows of a benchmark are read and its outcomes counted. One class per file.

To add a protocol, add a file with a class that has the members of `Protocol`, here or anywhere on the Python path, and
name it in the benchmark's YAML file: `protocol: {_target_: my_protocol}` or `{_target_: my_package.MyProtocol}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar
from typing import Protocol as Contract

from basereward.data.images.image_store import ImageStore
from basereward.errors import RecipeError
from basereward.evaluation.items import Item
from basereward.evaluation.statistics.measures import Variant

NO_COLUMNS: Mapping[str, str] = MappingProxyType({})
REQUIRED_MEMBERS = ("columns", "variants", "item")


class Protocol(Contract):
    """The contract of a protocol. It is made as `Class(**arguments of the benchmark's YAML file)`.

    A class that derives from this one inherits the defaults of the optional members. Any other class may leave them
    out as well; `check_protocol` checks the required ones.

    >>> dict(Protocol.optional_columns)
    {}
    """

    columns: tuple[str, ...]
    """The columns that every row must have. A row without one of them is rejected before `item` is called."""

    optional_columns: ClassVar[Mapping[str, str]] = NO_COLUMNS
    """Further columns that `item` reads if a row has them -> what they are for."""

    missing_column_advice: ClassVar[Mapping[str, str]] = NO_COLUMNS
    """Required column -> what to do about rows that lack it."""

    @property
    def variants(self) -> Mapping[str, Variant]:
        """Ways of counting by name, the published one first.

        Each takes all judged items and gives measures by name. The first measure is the one that covers all items.
        """
        ...

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        """Convert a row to an item.

        Args:
            row: its cells by the protocol's names of the columns.
            number: position of the row, from 0.
            images: where relative paths of images start.

        Raises:
            RowRejected: the row is malformed. This stops the evaluation: a benchmark is never counted in part.
        """
        ...


def check_protocol(protocol: Any) -> Protocol:
    """Check that an object has the required members of `Protocol`.

    Raises:
        RecipeError: members are missing.

    >>> check_protocol(object())  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    basereward.errors.RecipeError: protocol 'object' lacks: columns, variants, item. See `Protocol` in ...
    """
    missing = [name for name in REQUIRED_MEMBERS if not hasattr(protocol, name)]
    if missing:
        raise RecipeError(
            f"protocol '{type(protocol).__name__}' lacks: {', '.join(missing)}. See `Protocol` in "
            "basereward/evaluation/protocols/__init__.py for the members that it needs"
        )
    checked: Protocol = protocol
    return checked
