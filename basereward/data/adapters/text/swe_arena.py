"""swe-arena (BigCodeArena): two models' conversations about a programming task, and a person's vote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected

# Model A stands on the left of the page; the set's own tools write both forms.
VOTES = {
    "vote_left": "model_A",
    "vote_model_A": "model_A",
    "vote_right": "model_B",
    "vote_model_B": "model_B",
}
UNDECIDED = ("vote_tie", "vote_both_bad")
OTHER = {"model_A": "model_B", "model_B": "model_A"}


class SweArena:
    """`feedback.vote_type` chooses between two conversations, `states.model_A.messages` and `states.model_B.messages`:
    lists of [speaker, text] that a user begins, with an answer after each of the user's turns.

    Args:
        rounds: `one` takes conversations of one question and one answer each, the only ones in which both models answer
            the same prompt; `last` takes of longer ones the last answers as answers to `instruction`, as BigCodeReward
            judges them.
    """

    columns: tuple[str, ...] = ("instruction", "states", "feedback")

    def __init__(self, *, rounds: Literal["one", "last"] = "one") -> None:
        self.rounds = rounds

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            RowRejected: `not_rated` (no vote, or an unknown one); `undecided`; `several_rounds`; `prompts_differ`;
                `bad_states`.
        """
        winner = _vote(row["feedback"])
        texts = {model: _texts(row["states"], model) for model in OTHER}
        if self.rounds == "one":
            long = max(len(said) for said in texts.values())
            if long > 2:
                raise RowRejected(
                    "several_rounds", f"a conversation of {long} messages; rounds: one takes those of two"
                )
            if texts["model_A"][0] != texts["model_B"][0]:
                raise RowRejected("prompts_differ", "the two models were asked different things")
        prompt = texts[winner][0] if self.rounds == "one" else row["instruction"]
        return {"prompt": prompt, "chosen": texts[winner][-1], "rejected": texts[OTHER[winner]][-1]}


def _vote(feedback: object) -> str:
    vote = feedback.get("vote_type") if isinstance(feedback, Mapping) else None
    if vote in UNDECIDED:
        raise RowRejected("undecided", f"`feedback.vote_type` is {vote}")
    if vote not in VOTES:
        raise RowRejected(
            "not_rated", f"`feedback.vote_type` is {shown(vote)}; known are {', '.join((*VOTES, *UNDECIDED))}"
        )
    return VOTES[vote]


def _texts(states: object, model: str) -> list[str]:
    """What was said, the user first, an answer last."""
    state = states.get(model) if isinstance(states, Mapping) else None
    messages = state.get("messages") if isinstance(state, Mapping) else None
    where = f"`states.{model}.messages`"
    if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        raise RowRejected("bad_states", f"{where} is {shown(messages)}; a list of [speaker, text] is needed")
    if not messages or len(messages) % 2:
        raise RowRejected(
            "bad_states", f"{where} has {len(messages)} messages; a question and an answer a round are needed"
        )
    return [message[1] for message in messages]


def _is_message(message: object) -> bool:
    return isinstance(message, list) and len(message) == 2 and all(isinstance(part, str) for part in message)
