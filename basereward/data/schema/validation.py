"""Whether a well-formed group says anything that a model can learn from."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

from basereward.data.schema.group import Group, Preference
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.text import is_blank

# What stands for a picture in prompts of the field; in a response it stands for one that was lost or never was.
IMAGE_MARKS = ("<image>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>")


def check_usable(group: Group) -> None:
    """Passes a group that says something, and no nonsense.

    Raises:
        RowRejected: `empty_response`, `image_mark_in_response`, `identical_responses` (of a winner and its loser) or
            `contradictory_preferences` (a response is, around some corners, better than itself).
    """
    blank = [str(i) for i, response in enumerate(group.responses) if is_blank(response)]
    if blank:
        detail = f"response {', '.join(blank)} of {len(group.responses)} is blank"
        raise RowRejected("empty_response", detail)
    for i, response in enumerate(group.responses if group.images else ()):
        mark = next((mark for mark in IMAGE_MARKS if mark in response), None)
        if mark:
            raise RowRejected("image_mark_in_response", f"response {i} holds {mark}")
    decided = [preference for preference in group.preferences if not preference.tie]
    for preference in decided:
        if group.responses[preference.winner] == group.responses[preference.loser]:
            detail = f"responses {preference.winner} and {preference.loser} are the same text, and one is preferred"
            raise RowRejected("identical_responses", detail)
    if circle := _circle(decided):
        detail = f"response {circle[0]} is better than {' than '.join(map(str, circle[1:]))}"
        raise RowRejected("contradictory_preferences", detail)


def _circle(preferences: list[Preference]) -> list[int]:
    """Responses each of which is preferred to the next, the last being the first again; empty when there are none."""
    if len(preferences) < 2:
        return []
    better: TopologicalSorter[int] = TopologicalSorter()
    for preference in preferences:
        better.add(preference.loser, preference.winner)
    try:
        better.prepare()
    except CycleError as error:
        circle: list[int] = error.args[1]
        return circle
    return []
