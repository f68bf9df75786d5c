"""Best-of-N (as VL-RewardBench, arXiv 2411.17451, measures judges): choose among sampled responses of a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError
from basereward.evaluation.items import Item, JudgedItem
from basereward.evaluation.protocols import Protocol
from basereward.evaluation.protocols._rows import prompt_key, text, texts
from basereward.evaluation.statistics.best_of_n import ScoredResponses, any_right, chosen_right, powers
from basereward.evaluation.statistics.measures import Measures, Variant
from basereward.evaluation.statistics.shares import Added, check_kinds, share


class BestOfNProtocol(Protocol):
    """Rows of `prompt`, sampled `responses` of a policy, equally many for each prompt, and which of them are `right`.

    The variant `best_of_all` is the share of prompts whose response with the highest score is right. `over_n` has the
    curve: `best_of_N` for N = 1, 2, 4, ..., as the mean over all choices of N of the responses, and `any_right_N`,
    which a perfect choice would reach. Equal highest scores share the choice.

    >>> row = {"prompt": "2 + 2?", "responses": ["4", "5"], "right": [True, False]}
    >>> BestOfNProtocol().item(row, number=0, images=ImageStore()).right
    (0,)
    """

    columns = ("prompt", "responses", "right")
    optional_columns: ClassVar[Mapping[str, str]] = {
        "id": "the number of the row by default",
        "image": "the path of the image",
    }

    @property
    def variants(self) -> Mapping[str, Variant]:
        """`best_of_all` and `over_n`."""
        return {"best_of_all": _best_of_all, "over_n": _over_n}

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        """Convert a row to an item. If all responses are right, or all are wrong, there is none to choose.

        Raises:
            RowRejected: there are not a list of texts and a truth value for each.
        """
        responses, prompt, image = texts(row, "responses"), text(row, "prompt"), row.get("image")
        truths = _truths(row, number=len(responses))
        right = tuple(place for place, value in enumerate(truths) if value)
        wrong = tuple(place for place, value in enumerate(truths) if not value)
        is_mixed = bool(right and wrong)
        return Item(
            row=number,
            id=_identity(row, number),
            prompt=prompt,
            responses=responses,
            right=right if is_mixed else (),
            wrong=wrong if is_mixed else (),
            prompt_id=prompt_key((prompt, image if isinstance(image, str) else number)),
            labels={"right": f"{len(right)} of {len(responses)}"},
            images=() if image is None else (image,),
            any_right=True,
            ties=not is_mixed,
        )


def _identity(row: Mapping[str, Any], number: int) -> str:
    return str(number if row.get("id") is None else row["id"])


def _truths(row: Mapping[str, Any], *, number: int) -> list[bool]:
    """Whether each response is right."""
    truths = row["right"]
    if not isinstance(truths, list) or not all(isinstance(value, bool) for value in truths):
        raise RowRejected("wrong_type", f"`right` is {shown(truths)}; a list of true and false is needed")
    if len(truths) != number:
        raise RowRejected("wrong_count", f"`right` has {len(truths)} values for {number} answers")
    return truths


def scored_responses(judged: Sequence[JudgedItem]) -> list[ScoredResponses]:
    """The scores of the responses of each prompt, and which are right.

    Args:
        judged: items of this protocol.

    Raises:
        DataError: an outcome has no scores, or the numbers of responses differ.

    >>> from basereward.evaluation.items import Outcome
    >>> row = {"prompt": "2 + 2?", "responses": ["4", "5"], "right": [True, False]}
    >>> item = BestOfNProtocol().item(row, number=0, images=ImageStore())
    >>> scored_responses([JudgedItem(item, Outcome(scores=(1.0, 0.0)))])
    [ScoredResponses(scores=(1.0, 0.0), right=[True, False])]
    """
    check_kinds(judged, ("scores",), what="best-of-N", why="the response with the highest score is chosen.")
    numbers = sorted({len(judged_item.item.responses) for judged_item in judged})
    if len(numbers) > 1:
        raise DataError(
            f"prompts have from {numbers[0]} to {numbers[-1]} responses; best-of-N needs equally many for each prompt"
        )
    prompts: list[ScoredResponses] = []
    for judged_item in judged:
        item = judged_item.item
        truths = truths_of(item.labels, item.right, len(item.responses))
        prompts.append(ScoredResponses(judged_item.outcome.scores or (), truths))
    return prompts


def truths_of(labels: Mapping[str, Any], right: Sequence[int], number: int) -> list[bool]:
    """Which responses of an item are right; the label tells "all" from "none", which both have no `right`.

    >>> truths_of({"right": "2 of 2"}, (), 2), truths_of({"right": "0 of 2"}, (), 2)
    ([True, True], [False, False])
    """
    if labels["right"] == f"{number} of {number}":
        return [True] * number
    return [place in right for place in range(number)]


def _best_of_all(judged: Sequence[JudgedItem]) -> Measures:
    prompts = scored_responses(judged)
    shares = [chosen_right(prompt, len(prompt.scores)) for prompt in prompts]
    return {"overall": share(_added(judged, shares))}


def _over_n(judged: Sequence[JudgedItem]) -> Measures:
    prompts = scored_responses(judged)
    measures = _best_of_all(judged)
    for n in powers(len(prompts[0].scores)) if prompts else ():
        measures[f"best_of_{n}"] = share(_added(judged, [chosen_right(prompt, n) for prompt in prompts]))
        reachable = [any_right(sum(prompt.right), len(prompt.right), n) for prompt in prompts]
        measures[f"any_right_{n}"] = share(_added(judged, reachable))
    return measures


def _added(judged: Sequence[JudgedItem], shares: Sequence[float]) -> list[Added]:
    return [Added(entry.item.prompt_id, value) for entry, value in zip(judged, shares, strict=True)]
