"""PKU-SafeRLHF: a prompt, two responses, and the indices of the better and of the safer one (arXiv 2406.15513)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected


class PKUSafeRLHF:
    """Chooses the better (`better_response_id`) or the safer (`safer_response_id`) of `response_0` and `response_1`.

    Args:
        by: the criterion.

    >>> row = {"prompt": "Q", "response_0": "a", "response_1": "b", "better_response_id": 1, "safer_response_id": 0}
    >>> PKUSafeRLHF()(row)["chosen"], PKUSafeRLHF(by="safer")(row)["chosen"]
    ('b', 'a')
    """

    def __init__(self, *, by: Literal["better", "safer"] = "better") -> None:
        self.label = f"{by}_response_id"
        self.columns: tuple[str, ...] = ("prompt", "response_0", "response_1", self.label)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a row to our pair form.

        Raises:
            RowRejected: `undecided` (the index is neither 0 nor 1).
        """
        number = row[self.label]
        if type(number) is not int or number not in (0, 1):
            raise RowRejected("undecided", f"`{self.label}` is {shown(number)}; 0 or 1 is needed")
        return {"prompt": row["prompt"], "chosen": row[f"response_{number}"], "rejected": row[f"response_{1 - number}"]}
