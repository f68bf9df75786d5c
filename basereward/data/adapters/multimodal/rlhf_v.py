"""RLHF-V: question and answers in one column, as JSON in a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basereward.data.readers.json_lines import decode_json
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

INSIDE = ("question", "chosen", "rejected")


class RLHFV:
    """`text` is a JSON object with `question`, `chosen` and `rejected`; `image` holds the picture itself."""

    columns = ("text", "image")

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            RowRejected: `malformed_json`, or `missing_column` for a key that `text` lacks.
        """
        text = row["text"]
        inside = decode_json(text) if isinstance(text, str) else text
        if not isinstance(inside, Mapping):
            raise RowRejected("wrong_type", f"`text` is {shown(text)}; a JSON object is needed")
        if missing := [name for name in INSIDE if name not in inside]:
            found = ", ".join(map(str, inside)) or "none"
            raise RowRejected("missing_column", f"`text` has no {' and no '.join(missing)}. Keys found: {found}")
        pair = {"prompt": inside["question"], "chosen": inside["chosen"], "rejected": inside["rejected"]}
        return pair | {"id": row.get("idx"), "image": row["image"]}
