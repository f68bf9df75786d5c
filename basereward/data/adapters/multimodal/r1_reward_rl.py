"""R1-Reward-RL (arXiv 2505.02835): a judge's prompt with two answers, and the correct verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from basereward.data.adapters.judge_prompts import judged_cells
from basereward.data.readers.json_lines import decode_json
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected


class R1RewardRL:
    """Reads `message`, `answer` and `image`.

    `message` is a JSON list of messages, `answer` a list with one text such as `<answer>2</answer>`, and `image` the
    bytes of the image in base64 or as a data URI.

    >>> prompt = "## [Question]: 1 + 1? ## [Response 1]: 3 ## [Response 2]: 2 ## **Output Format**"
    >>> row = {"message": [{"role": "user", "content": prompt}], "answer": ["<answer>2</answer>"], "image": "iVBORw0K"}
    >>> R1RewardRL()(row)
    {'prompt': '1 + 1?', 'responses': ['3', '2'], 'ranking': [1, 0], 'images': [{'bytes': 'iVBORw0K'}]}
    """

    columns = ("message", "answer", "image")

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a row to our general form.

        Raises:
            RowRejected: `unknown_template`, `unknown_verdict`, `malformed_json`, `wrong_type`.
        """
        messages = row["message"]
        if isinstance(messages, str):
            messages = decode_json(messages)
        prompt = "\n".join(_user_texts(messages))
        answer = row["answer"]
        if isinstance(answer, list):
            if len(answer) != 1:
                raise RowRejected("unknown_verdict", f"`answer` is {shown(answer)}; one verdict is needed")
            [answer] = answer
        cells = judged_cells(prompt, answer, ties="keep")
        image = row["image"]
        # A text without a scheme would be read as a path; `bytes` marks it as base64.
        is_base64 = isinstance(image, str) and not image.startswith("data:")
        return cells | {"images": [{"bytes": image} if is_base64 else image]}


def _user_texts(messages: object) -> Iterator[str]:
    """Yield the texts of the user's messages. Image parts are skipped, since their format varies."""
    if not isinstance(messages, list):
        raise RowRejected("wrong_type", f"`message` is {shown(messages)}; a JSON list of messages is needed")
    for message in messages:
        if not isinstance(message, Mapping) or message.get("role") != "user":
            continue
        content = message.get("content")
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            for part in content:
                if isinstance(part, Mapping) and isinstance(part.get("text"), str):
                    yield part["text"]
