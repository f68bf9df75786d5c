"""HelpSteer3 (nvidia/HelpSteer3), subset `preference`: a conversation, two responses and a graded preference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

# The absolute value of the rating "much better".
LARGEST = 3


class HelpSteer3:
    """Reads `overall_preference`: -3 (response 1 is much better) to 3 (response 2 is much better); 0 is undecided.

    Args:
        margin: whether to use the absolute value, 1 to 3, as the margin of the preference.

    >>> row = {"context": "Q", "response1": "no", "response2": "yes", "overall_preference": 2}
    >>> HelpSteer3(margin=True)(row)
    {'prompt': 'Q', 'chosen': 'yes', 'rejected': 'no', 'margin': 2}
    """

    columns: tuple[str, ...] = ("context", "response1", "response2", "overall_preference")

    def __init__(self, *, margin: bool = False) -> None:
        self.margin = margin

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a row to our pair form.

        Raises:
            RowRejected: `undecided` (0); `not_rated` (no whole number from -3 to 3).
        """
        preference = row["overall_preference"]
        # `type(...) is int`, because `isinstance(True, int)` is true.
        if type(preference) is not int or abs(preference) > LARGEST:
            raise RowRejected(
                "not_rated",
                f"`overall_preference` is {shown(preference)}; a whole number from -{LARGEST} to {LARGEST} is needed",
            )
        if preference == 0:
            raise RowRejected("undecided", "`overall_preference` is 0: neither response is better")
        better, worse = ("response1", "response2") if preference < 0 else ("response2", "response1")
        pair = {"prompt": row["context"], "chosen": row[better], "rejected": row[worse]}
        if self.margin:
            pair["margin"] = abs(preference)
        return pair
