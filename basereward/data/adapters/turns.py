"""Reads turns of the form `{"from": ..., "value": ...}`, the format of the LLaVA and ShareGPT data sets."""

from __future__ import annotations

from collections.abc import Mapping

from basereward.data.schema.messages import MessageReader, shown
from basereward.data.schema.rejections import RowRejected


def read_turns(value: object, *, column: str) -> list[dict[str, str]]:
    """Convert a list of turns to chat messages.

    Args:
        value: the content of the column, expected to be a list of turns.
        column: the name of the column, for error messages.

    Returns:
        One `{"role": ..., "content": ...}` per turn.

    Raises:
        RowRejected: `wrong_type`, `bad_message`, `unknown_role`; `unknown_key` if a turn contains images.

    >>> read_turns([{"from": "human", "value": "Hi"}], column="conversations")
    [{'role': 'user', 'content': 'Hi'}]
    """
    if not isinstance(value, list) or not value:
        raise RowRejected("wrong_type", f"`{column}` is {shown(value)}; a list of turns is needed")
    return [read_turn(turn, where=f"`{column}[{i}]`") for i, turn in enumerate(value)]


def read_turn(turn: object, *, where: str) -> dict[str, str]:
    """Convert one turn to a chat message.

    Args:
        turn: the turn, expected to be a mapping with `value` or `content`.
        where: the column and index of the turn, for error messages.

    Raises:
        RowRejected: as `read_turns`.

    >>> read_turn({"from": "gpt", "value": "Hello"}, where="`chosen`")
    {'role': 'assistant', 'content': 'Hello'}
    """
    # `MessageReader` reads both forms of a message, `from` with `value` and `role` with `content`.
    text = None
    if isinstance(turn, Mapping):
        text = turn["value"] if "value" in turn else turn.get("content")
    if not isinstance(text, str):
        raise RowRejected("bad_message", f'{where} is {shown(turn)}; a turn is {{"from": ..., "value": text}}')
    # mark=None: `<image>` stays part of the text here. The row format replaces it when it reads the finished row.
    [message] = MessageReader(mark=None).read([turn], column=where.strip("`"))
    if message.image_parts or message.video_parts:
        raise RowRejected("unknown_key", f"{where} contains images or videos, which this adapter does not read")
    return {"role": message.role, "content": message.text}
