"""Turns `{"from": ..., "value": ...}`, as the LLaVA family writes them -> messages."""

from __future__ import annotations

from collections.abc import Mapping

from basereward.data.schema.messages import MessageReader, shown
from basereward.data.schema.rejections import RowRejected


def read_turns(value: object, *, column: str) -> list[dict[str, str]]:
    """The messages of a list of turns; pictures that a turn holds itself are refused.

    >>> read_turns([{"from": "human", "value": "Hi"}], column="conversations")
    [{'role': 'user', 'content': 'Hi'}]

    Raises:
        RowRejected: `wrong_type`, `bad_message`, `unknown_role`, `unknown_key`.
    """
    if not isinstance(value, list) or not value:
        raise RowRejected("wrong_type", f"`{column}` is {shown(value)}; a list of turns is needed")
    return [read_turn(turn, where=f"`{column}[{i}]`") for i, turn in enumerate(value)]


def read_turn(turn: object, *, where: str) -> dict[str, str]:
    """The message of one turn. Raises: as `read_turns`."""
    text = next((turn[key] for key in ("value", "content") if key in turn), None) if isinstance(turn, Mapping) else None
    if not isinstance(text, str):
        raise RowRejected("bad_message", f'{where} is {shown(turn)}; a turn is {{"from": ..., "value": text}}')
    [message] = MessageReader(mark=None).read([turn], column=where.strip("`"))
    if message.image_parts:
        raise RowRejected("unknown_key", f"{where} holds pictures of its own, which this shape does not read")
    return {"role": message.role, "content": message.text}
