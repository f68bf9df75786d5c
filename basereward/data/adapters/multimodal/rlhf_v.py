"""RLHF-V (arXiv 2312.00849): the question and the answers as JSON in one text column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basereward.data.readers.json_lines import decode_json
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

KEYS = ("question", "chosen", "rejected")


class RLHFV:
    """Reads `text`, a JSON object with `question`, `chosen` and `rejected`, and `image`, the image itself.

    >>> pair = RLHFV()({"text": '{"question": "Q", "chosen": "yes", "rejected": "no"}', "image": b"png", "idx": 3})
    >>> pair["id"], pair["prompt"], pair["chosen"], pair["rejected"]
    (3, 'Q', 'yes', 'no')
    """

    columns = ("text", "image")

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a row to our pair form.

        Raises:
            RowRejected: `malformed_json`, `wrong_type`, or `missing_column` for a key that `text` lacks.
        """
        text = row["text"]
        fields = decode_json(text) if isinstance(text, str) else text
        if not isinstance(fields, Mapping):
            raise RowRejected("wrong_type", f"`text` is {shown(text)}; a JSON object is needed")
        if missing := [name for name in KEYS if name not in fields]:
            keys = ", ".join(map(str, fields)) or "none"
            raise RowRejected("missing_column", f"`text` has no {' and no '.join(missing)}. Keys found: {keys}")
        return {
            "id": row.get("idx"),
            "prompt": fields["question"],
            "chosen": fields["chosen"],
            "rejected": fields["rejected"],
            "image": row["image"],
        }
