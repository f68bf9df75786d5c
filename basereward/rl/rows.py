"""Rows for a judge's reinforcement learning: comparisons from preferences, with the better answer first in half."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from basereward.data.encoding.branch_images import response_content
from basereward.data.encoding.chat import messages
from basereward.data.images.open_images import open_image
from basereward.data.lazy_table import LazyTable, lazy_table
from basereward.data.schema.group import Group
from basereward.errors import DataError
from basereward.model.generation.prompts import PAIRWISE, Prompt, load_prompt
from basereward.rl.judge_reward import Label, checked_label


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """Two responses of a group in the order in which a judge sees them.

    Attributes:
        group: index of the group.
        first, second: indices of the responses that are shown as answer 1 and answer 2.
        label: the number of the better answer.

    >>> LabelledPair(group=0, first=2, second=1, label=2).label
    2
    """

    group: int
    first: int
    second: int
    label: Label


def shuffled_pairs(groups: Sequence[Group], *, seed: int = 0) -> list[LabelledPair]:
    """Every preference of the groups once, with as many labels 1 as labels 2 (or one more), drawn by `seed`.

    A judge that learns from one order alone learns the place of the better answer. Ties have no label and are left out.

    Args:
        groups: with preferences.
        seed: of the draw.

    Raises:
        DataError: there is no preference that is not a tie.

    >>> from basereward.data.schema.group import Preference
    >>> groups = [Group(str(n), "sums", (), ("4", "5"), (Preference(0, 1),)) for n in range(4)]
    >>> sorted(pair.label for pair in shuffled_pairs(groups))
    [1, 1, 2, 2]
    """
    preferences = _decided(groups)
    rng = random.Random(f"judge_rows/{seed}")
    labels: list[Label] = [1 if number % 2 else 2 for number in range(len(preferences))]
    rng.shuffle(labels)
    pairs: list[LabelledPair] = []
    for (index, winner, loser), label in zip(preferences, labels, strict=True):
        first, second = (winner, loser) if label == 1 else (loser, winner)
        pairs.append(LabelledPair(index, first, second, label))
    return pairs


def both_orders(groups: Sequence[Group]) -> list[LabelledPair]:
    """Every preference of the groups twice, with each response first once; ties are left out.

    Args:
        groups: with preferences.

    Raises:
        DataError: there is no preference that is not a tie.

    >>> from basereward.data.schema.group import Preference
    >>> groups = [Group("a", "sums", (), ("4", "5"), (Preference(0, 1),))]
    >>> [(pair.first, pair.label) for pair in both_orders(groups)]
    [(0, 1), (1, 2)]
    """
    pairs: list[LabelledPair] = []
    for index, winner, loser in _decided(groups):
        pairs += [LabelledPair(index, winner, loser, 1), LabelledPair(index, loser, winner, 2)]
    return pairs


def _decided(groups: Sequence[Group]) -> list[tuple[int, int, int]]:
    """Group, winner and loser of every preference that is not a tie.

    Raises:
        DataError: there is none.
    """
    preferences: list[tuple[int, int, int]] = []
    for index, group in enumerate(groups):
        preferences += [(index, p.winner, p.loser) for p in group.preferences if not p.tie]
    if not preferences:
        raise DataError(
            f"the {len(groups)} groups have no preference that is not a tie; a judge learns which of two answers is "
            "better. Give rows with chosen and rejected answers"
        )
    return preferences


class JudgeRows:
    """Comparisons as rows of a trainer: `prompt`, `images`, `label`, `id`, and `pair`, equal in both orders of a pair.

    Args:
        groups: with preferences.
        prompt: of the judge; None: `pairwise_thinking`.
        seed: of the orders of the answers.
        pairs: of the groups; None: `shuffled_pairs`.

    Raises:
        DataError: there is no preference that is not a tie.

    >>> from basereward.data.sources.digits import Digits
    >>> row = JudgeRows(Digits("digits").groups("val")).row(0)
    >>> sorted(row), len(row["images"])
    (['id', 'images', 'label', 'pair', 'prompt'], 1)
    """

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        prompt: Prompt | None = None,
        seed: int = 0,
        pairs: Sequence[LabelledPair] | None = None,
    ) -> None:
        self.groups = groups
        self.prompt = prompt or load_prompt("pairwise_thinking", fields=PAIRWISE)
        self.pairs = shuffled_pairs(groups, seed=seed) if pairs is None else pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def row(self, index: int) -> dict[str, Any]:
        """The columns of a row.

        Raises:
            ImageError: an image cannot be opened.
        """
        pair = self.pairs[index]
        group = self.groups[pair.group]
        shown = group.select([pair.first, pair.second])
        turns = self.prompt.turns(shown, answer_1=response_content(shown, 0), answer_2=response_content(shown, 1))
        name = f"{group.id}/{pair.first}/{pair.second}"
        return {
            "prompt": messages(turns, in_parts=True),
            # TRL takes an empty list for a row without images; it fails on None, or without the column.
            "images": [open_image(image) for image in shown.all_images],
            "label": checked_label(pair.label, where=name),
            "id": name,
            "pair": f"{pair.group}/{min(pair.first, pair.second)}/{max(pair.first, pair.second)}",
        }

    def table(self) -> LazyTable:
        """The rows as a data set, made when they are read."""
        return lazy_table(self.row, len(self))
