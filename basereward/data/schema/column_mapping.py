"""Writes mappings of columns for messages, so that a user can copy them into a recipe or a command."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import yaml  # type: ignore[import-untyped]


def columns_text(columns: Mapping[str, str | None]) -> str:
    """Write the key `columns` of a recipe in YAML, on one line.

    Args:
        columns: our column name -> the name in the data; a name -> None leaves that column unread.

    >>> print(columns_text({"prompt": "question", "score": None}), columns_text({"chosen": "answer: good"}))
    columns: {prompt: question, score: null} columns: {chosen: 'answer: good'}
    """
    # The library quotes names that YAML would read as something else: with blanks around them, `yes`, `7`, `a: b`.
    text = yaml.safe_dump(dict(columns), default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False)
    return f"columns: {text.strip()}"


@dataclass(frozen=True)
class ColumnNames:
    """The names that our columns have in the data, for messages.

    Attributes:
        in_data: our column name -> the name in the data; a column that is not in it has our name.
        mapped: our columns that the user's `columns` maps.
        present: the columns of the row, as in the data.
    """

    in_data: Mapping[str, str] = field(default_factory=dict)
    mapped: Collection[str] = ()
    present: Collection[str] = ()

    def after(self, made: ColumnNames) -> ColumnNames:
        """Return the names in the data of the columns of a row that was made of a row of the data.

        Args:
            made: the names in the row that was made.

        >>> names = ColumnNames({"chosen_rating": "chosen_avg_rating"}, present=["chosen_avg_rating"])
        >>> names.after(ColumnNames({"rejected_rating": "score_rejected"})).in_data
        {'rejected_rating': 'score_rejected', 'chosen_rating': 'chosen_avg_rating'}
        """
        in_data = {ours: self.in_data.get(name, name) for ours, name in made.in_data.items()}
        in_data.update({ours: name for ours, name in self.in_data.items() if made.in_data.get(ours, ours) == ours})
        return ColumnNames(in_data, mapped=self.mapped, present=self.present)

    def leave_unread(self, ours: Sequence[str]) -> str:
        """Say what leaves columns of ours unread; empty if the row has none of them.

        Args:
            ours: our names of the columns.

        >>> names = ColumnNames({"chosen_rating": "score_chosen"}, present=["score_chosen"])
        >>> names.leave_unread(["chosen_rating", "rejected_rating"])
        'columns: {score_chosen: null}'
        >>> ColumnNames({"margin": "gap"}, mapped=["margin"], present=["gap"]).leave_unread(["margin"])
        'remove margin from `columns`'
        """
        names = {name: self.in_data.get(name, name) for name in ours}
        mapped = [name for name in names if name in self.mapped]
        others = {own: None for name, own in names.items() if name not in self.mapped and own in self.present}
        ways = [f"remove {' and '.join(mapped)} from `columns`"] if mapped else []
        if others:
            ways.append(columns_text(others))
        return ", and ".join(ways)
