"""The format of AlpacaFarm and AlpacaEval: two outputs, and the number of the preferred one.

https://github.com/tatsu-lab/alpaca_farm
"""

from __future__ import annotations

from typing import Any

from basereward.data.formats import Cells, Format
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected


def _preference(row: Cells) -> dict[str, Any]:
    preference = _number(row["preference"])
    if preference is None or not (preference == 0 or 1 <= preference <= 2):
        raise RowRejected(
            "not_rated",
            f"`preference` is {shown(row['preference'])}; 1 (output_1 is better) to 2 (output_2 is) is needed; "
            "0 and 1.5 are ties",
        )
    # AlpacaEval gives the probability of output_2 plus 1; AlpacaFarm writes 0 for a tie.
    is_tie = preference in (0, 1.5)
    ranking = [0, 0] if is_tie else [int(preference > 1.5), int(preference < 1.5)]
    return {
        "instruction": row["instruction"],
        "input": row.get("input"),
        "responses": [row["output_1"], row["output_2"]],
        "ranking": ranking,
    }


def _number(value: object) -> float | None:
    """Return a number; CSV files have it as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


PREFERENCE = Format(
    "alpaca_farm",
    "AlpacaFarm, AlpacaEval",
    ("instruction", "output_1", "output_2", "preference"),
    convert=_preference,
    note="`preference` is 1 or 2; 0 and 1.5 are ties",
    example={"instruction": "Add.", "input": "2 and 2", "output_1": "5", "output_2": "4", "preference": 2},
)
