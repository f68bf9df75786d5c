"""Formats of ms-swift: the conversation with the better response, and the worse response or conversation beside it.

https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html
"""

from __future__ import annotations

from typing import Any

from basereward.data.formats import Cells, Format
from basereward.data.schema.image_references import reference_list
from basereward.data.schema.messages import is_empty, shown
from basereward.data.schema.rejections import RowRejected


def _same_images(row: Cells) -> None:
    """Check that the worse response has the images of the better one.

    Raises:
        RowRejected: `rejected_images`.
    """
    # `in` does not count as an access, so that a row without the column is not reported to read it.
    if "rejected_images" not in row or is_empty(row["rejected_images"]):
        return
    images = reference_list(row.get("images", row.get("image")))
    if reference_list(row["rejected_images"]) != images:
        raise RowRejected(
            "rejected_images",
            "`rejected_images` differs from `images`: the two responses are about other images, so a preference "
            "between them says nothing about the responses. If both saw `images`, columns: {rejected_images: null}",
        )


def _last_turn(messages: object, *, column: str) -> tuple[list[Any], Any]:
    """Split a conversation into the messages before the response and the response."""
    if not isinstance(messages, list) or len(messages) < 2:
        raise RowRejected(
            "wrong_type", f"`{column}` is {shown(messages)}; a list of messages with a response is needed"
        )
    return messages[:-1], messages[-1]


def _rejected_response(row: Cells) -> dict[str, Any]:
    _same_images(row)
    before, response = _last_turn(row["messages"], column="messages")
    return {"prompt": before, **_pair(response, row["rejected_response"])}


def _rejected_messages(row: Cells) -> dict[str, Any]:
    _same_images(row)
    # Whether the turns before the responses are the same is checked where a row is read.
    return {"chosen": row["messages"], "rejected": row["rejected_messages"]}


def _query(row: Cells) -> dict[str, Any]:
    _same_images(row)
    pair = _pair(row["response"], row["rejected_response"])
    return {"prompt": row["query"], "history": row.get("history"), **pair}


def _pair(better: object, worse: object) -> dict[str, Any]:
    """Return the cells of a better response and of one worse response, or a list of several."""
    if isinstance(worse, list) and all(isinstance(response, str) for response in worse) and worse:
        preferences = [[0, i + 1] for i in range(len(worse))]
        return {"responses": [_as_list(better), *worse], "preferences": preferences}
    return {"chosen": _as_list(better), "rejected": worse}


def _as_list(response: object) -> object:
    return [response] if isinstance(response, dict) else response


REJECTED_RESPONSE = Format(
    "ms_swift",
    "ms-swift",
    ("messages", "rejected_response"),
    convert=_rejected_response,
    note="the last message is the better response; other `rejected_images` than `images` are refused",
    example={
        "messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
        "rejected_response": "5",
    },
)
REJECTED_MESSAGES = Format(
    "ms_swift_messages",
    "ms-swift, two conversations",
    ("messages", "rejected_messages"),
    absent=("rejected_response",),
    convert=_rejected_messages,
    note="other `rejected_images` than `images` are refused",
    example={
        "messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
        "rejected_messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "5"}],
    },
)
QUERY = Format(
    "ms_swift_query",
    "ms-swift, query and response",
    ("query", "response", "rejected_response"),
    convert=_query,
    note="`system` and `history` are read too",
    example={"query": "2 + 2?", "response": "4", "rejected_response": "5"},
)
