"""Checks whether a model can learn from a well-formed group."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

from basereward.data.schema.group import Group, Preference
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.text import is_blank

# Texts that stand for an image in prompts. In a response they are left over from an image that is not in the row.
IMAGE_MARKS = ("<image>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")


def check_usable(group: Group) -> None:
    """Check that the responses and preferences of a group are usable for training.

    Raises:
        RowRejected: `empty_response`, `image_mark_in_response`, `identical_responses` (a winner equals its loser) or
            `contradictory_preferences` (the preferences form a cycle).

    >>> check_usable(Group("0", "s", prompt=(), responses=("yes", " "), preferences=(Preference(0, 1),)))
    Traceback (most recent call last):
    basereward.data.schema.rejections.RowRejected: response 1 of 2 is blank
    """
    _check_responses(group)
    _check_preferences(group)


def _check_responses(group: Group) -> None:
    """Check that all responses have an image or visible text, and no mark of an image."""
    blank = [str(i) for i, text in enumerate(group.responses) if is_blank(text) and not group.images_of(i)]
    if blank:
        detail = f"response {', '.join(blank)} of {len(group.responses)} is blank"
        raise RowRejected("empty_response", detail)
    if not group.has_images:
        # In a row without images, a response may be about such a mark, as in a question about chat templates.
        return
    for i, response in enumerate(group.responses):
        mark = next((mark for mark in IMAGE_MARKS if mark in response), None)
        if mark:
            raise RowRejected("image_mark_in_response", f"response {i} contains {mark}")


def _check_preferences(group: Group) -> None:
    """Check that no winner equals its loser, and that the preferences form no cycle."""
    decided = [preference for preference in group.preferences if not preference.tie]
    for preference in decided:
        if group.response_key(preference.winner) == group.response_key(preference.loser):
            detail = f"responses {preference.winner} and {preference.loser} are the same, but one is preferred"
            raise RowRejected("identical_responses", detail)
    if cycle := _cycle(decided):
        detail = f"the preferences form a cycle, best first: {' > '.join(map(str, cycle))}"
        raise RowRejected("contradictory_preferences", detail)


def _cycle(preferences: list[Preference]) -> list[int]:
    """Find responses that are each preferred to the next one, the first and the last being the same; else empty."""
    # Most rows are pairs, which need no search.
    if len(preferences) < 2:
        return []
    better: TopologicalSorter[int] = TopologicalSorter()
    for preference in preferences:
        better.add(preference.loser, preference.winner)
    try:
        better.prepare()
    except CycleError as error:
        cycle: list[int] = error.args[1]
        return cycle
    return []
