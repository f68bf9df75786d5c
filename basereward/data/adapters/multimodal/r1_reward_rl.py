"""R1-Reward-RL: two answers inside of a prompt to a judge, and the right verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from basereward.data.adapters.judge_prompts import judged_cells
from basereward.data.readers.json_lines import decode_json
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected


class R1RewardRL:
    """`message` is a JSON list of messages, `answer` a list with one text such as `<answer>2</answer>`, `image` the
    picture's bytes in base64, which may be written as a data URI."""

    columns = ("message", "answer", "image")

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            RowRejected: `unknown_template`, `unknown_verdict`, `malformed_json`, `wrong_type`.
        """
        message = row["message"]
        asked = "\n".join(_texts(decode_json(message) if isinstance(message, str) else message))
        answer = row["answer"]
        if isinstance(answer, list) and len(answer) != 1:
            raise RowRejected("unknown_verdict", f"`answer` is {shown(answer)}; one verdict is needed")
        cells = judged_cells(asked, answer[0] if isinstance(answer, list) else answer, ties="keep")
        image = row["image"]
        encoded = isinstance(image, str) and not image.startswith("data:")
        return cells | {"images": [{"bytes": image} if encoded else image]}


def _texts(messages: object) -> Iterator[str]:
    """The texts of the user's messages. The picture's part is passed over: how it is written differs."""
    if not isinstance(messages, list):
        raise RowRejected("wrong_type", f"`message` is {shown(messages)}; a JSON list of messages is needed")
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(message, Mapping) or message.get("role") != "user":
            continue
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            yield from (
                part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)
            )
