"""Turns `{"from": ..., "value": ...}`, as the LLaVA family writes them -> messages."""

from __future__ import annotations

from collections.abc import Mapping

from basereward.data.messages import shown
from basereward.data.screening import RowLost
from basereward.errors import unknown

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "assistant": "assistant",
}


def read_turns(value: object, *, column: str) -> list[dict[str, str]]:
    """The messages of a list of turns.

    >>> read_turns([{"from": "human", "value": "Hi"}], column="conversations")
    [{'role': 'user', 'content': 'Hi'}]

    Raises:
        RowLost: `wrong_type`, `bad_message` or `unknown_role`.
    """
    if not isinstance(value, list) or not value:
        raise RowLost("wrong_type", f"`{column}` is {shown(value)}; a list of turns is needed")
    return [read_turn(turn, where=f"`{column}[{i}]`") for i, turn in enumerate(value)]


def read_turn(turn: object, *, where: str) -> dict[str, str]:
    """The message of one turn. Raises: as `read_turns`."""
    if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
        raise RowLost("bad_message", f'{where} is {shown(turn)}; a turn is {{"from": ..., "value": text}}')
    speaker = str(turn.get("from"))
    if speaker not in ROLES:
        raise RowLost("unknown_role", f"{where}: {unknown('speaker', speaker, ROLES)}")
    return {"role": ROLES[speaker], "content": turn["value"]}
