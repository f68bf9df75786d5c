"""swe-arena (BigCodeArena): conversations of two models about a programming task, and a human vote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

# The data set's tools write both forms. Model A is on the left of the arena's page.
VOTES = {
    "vote_left": "model_A",
    "vote_model_A": "model_A",
    "vote_right": "model_B",
    "vote_model_B": "model_B",
}
UNDECIDED = ("vote_tie", "vote_both_bad")
OTHER = {"model_A": "model_B", "model_B": "model_A"}


class SweArena:
    """Reads the vote `feedback.vote_type` on `states.model_A.messages` and `states.model_B.messages`.

    A conversation is a list of [speaker, text] in which the user and the model alternate and the user begins.

    Args:
        rounds: `one` uses only conversations of one question and one answer, because only in these both models answer
            the same prompt. `last` uses the last answers of longer conversations as answers to `instruction`, as
            BigCodeReward does.

    >>> states = {model: {"messages": [["user", "Q"], [model, f"by {model}"]]} for model in ("model_A", "model_B")}
    >>> SweArena()({"instruction": "Q", "states": states, "feedback": {"vote_type": "vote_left"}})
    {'prompt': 'Q', 'chosen': 'by model_A', 'rejected': 'by model_B'}
    """

    columns: tuple[str, ...] = ("instruction", "states", "feedback")

    def __init__(self, *, rounds: Literal["one", "last"] = "one") -> None:
        self.rounds = rounds

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a row to our pair form.

        Raises:
            RowRejected: `not_rated` (no vote, or an unknown one); `undecided`; `several_rounds`; `prompts_differ`;
                `bad_states`.
        """
        winner = _vote(row["feedback"])
        texts = {model: _texts(row["states"], model) for model in OTHER}
        if self.rounds == "one":
            longest = max(map(len, texts.values()))
            if longest > 2:
                raise RowRejected(
                    "several_rounds", f"a conversation has {longest} messages; `rounds: one` uses only those with two"
                )
            if texts["model_A"][0] != texts["model_B"][0]:
                raise RowRejected("prompts_differ", "the two models have different prompts")
        prompt = texts[winner][0] if self.rounds == "one" else row["instruction"]
        return {"prompt": prompt, "chosen": texts[winner][-1], "rejected": texts[OTHER[winner]][-1]}


def _vote(feedback: object) -> str:
    """Return the model that the vote prefers."""
    vote = feedback.get("vote_type") if isinstance(feedback, Mapping) else None
    if vote in UNDECIDED:
        raise RowRejected("undecided", f"`feedback.vote_type` is {vote}")
    if vote not in VOTES:
        raise RowRejected(
            "not_rated", f"`feedback.vote_type` is {shown(vote)}; allowed: {', '.join((*VOTES, *UNDECIDED))}"
        )
    return VOTES[vote]


def _texts(states: object, model: str) -> list[str]:
    """List the texts of one model's conversation; the first is the user's and the last is an answer."""
    state = states.get(model) if isinstance(states, Mapping) else None
    messages = state.get("messages") if isinstance(state, Mapping) else None
    where = f"`states.{model}.messages`"
    if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        raise RowRejected("bad_states", f"{where} is {shown(messages)}; a list of [speaker, text] is needed")
    if not messages or len(messages) % 2:
        raise RowRejected(
            "bad_states", f"{where} has {len(messages)} messages; each round needs a question and an answer"
        )
    return [message[1] for message in messages]


def _is_message(message: object) -> bool:
    return isinstance(message, list) and len(message) == 2 and all(isinstance(part, str) for part in message)
