"""Score the items of a benchmark with a model. Scores are stored as they come, so that a stopped call can resume."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.group import Group
from basereward.data.schema.messages import PLACE
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.rows import RowFormat
from basereward.errors import DataError, sentence
from basereward.evaluation.item_identity import prompt_images
from basereward.evaluation.items import Item, Outcome
from basereward.io.journal import Journal
from basereward.io.progress import phase

if TYPE_CHECKING:
    # These imports take seconds, and reading a file of outcomes does not need them.
    from basereward.inference.group_scores import ScoresGroups

logger = logging.getLogger(__name__)


@dataclass
class Bundle:
    """All items of one prompt with its images: one group to score.

    Benchmarks repeat a prompt in several items. A bundle holds each distinct response once, so that it is scored once.

    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> bundle = Bundle(item)
    >>> bundle.add(item)
    >>> dict(bundle.outcomes([1.0, 0.0]))[0].scores
    (1.0, 0.0)
    """

    item: Item
    """the first item"""
    responses: list[str] = field(default_factory=list)
    """distinct responses of all items"""
    places: dict[int, list[int]] = field(default_factory=dict)
    """row of an item -> where its responses are in `responses`"""
    response_images: list[tuple[Any, ...]] = field(default_factory=list)
    """the images of each of `responses`"""
    known: dict[tuple[str, str], int] = field(default_factory=dict)
    """text and images of a response -> where it is in `responses`"""

    def add(self, item: Item) -> None:
        """Add an item of the same prompt and images."""
        shown = item.response_images or ((),) * len(item.responses)
        places: list[int] = []
        for text, images in zip(item.responses, shown, strict=True):
            # The representation, since images may be objects without a hash.
            key = (text, repr(images))
            if key not in self.known:
                self.known[key] = len(self.responses)
                self.responses.append(text)
                self.response_images.append(images)
            places.append(self.known[key])
        self.places[item.row] = places

    def group(self, images: ImageStore) -> Group:
        """Convert to a group.

        Raises:
            RowRejected: the prompt and its images, or a response and its images, do not fit together.
        """
        item = self.item
        in_responses = tuple(self.response_images) if any(self.response_images) else ()
        # Turns come from rows that were read as groups already, with their images resolved.
        if isinstance(item.prompt, tuple):
            return Group(
                *(item.id, "benchmark", item.prompt, tuple(self.responses)),
                images=item.images,
                response_images=in_responses,
            )
        row = self._row()
        # The benchmark states which items have images, so that "<image>" in the text of another item is a word.
        has_images = row["images"] is not None or bool(in_responses)
        form = RowFormat(images=images, for_training=False, image_mark=PLACE if has_images else None)
        return form.group(row, source="benchmark", row_id=item.id, where=f"row {item.row} ('{item.id}')")

    def _row(self) -> dict[str, Any]:
        """The item as a row; None for what it does not have."""
        item = self.item
        pictures = [image for image in item.images if image is not None]
        response_images = [list(images) for images in self.response_images] if any(self.response_images) else None
        return {
            # In the text of a prompt without images, "<image>" is a word, as in a part of a message.
            "prompt": item.prompt if pictures or item.videos else _in_parts(item.prompt),
            "responses": self.responses,
            "images": pictures or None,
            "videos": list(item.videos) or None,
            "response_images": response_images,
        }

    def outcomes(self, scores: Sequence[float]) -> Iterator[tuple[int, Outcome]]:
        """Distribute the scores of the distinct responses to the rows."""
        for row, places in self.places.items():
            yield row, Outcome(scores=tuple(scores[place] for place in places))


def _in_parts(prompt: Any) -> Any:
    """A prompt that is text as a message with one part; messages stay as they are."""
    if not isinstance(prompt, str):
        return prompt
    return [{"role": "user", "content": [{"type": "text", "text": prompt}]}]


def bundles(items: Sequence[Item]) -> list[Bundle]:
    """Bundle items by prompt and images, in order of first appearance.

    >>> item = Item(0, "a", "2 + 2?", ("4", "5"), (0,), (1,), "a")
    >>> other = Item(1, "b", "2 + 2?", ("4", "6"), (0,), (1,), "a")
    >>> [bundle.responses for bundle in bundles([item, other])]
    [['4', '5', '6']]
    """
    by_key: dict[str, Bundle] = {}
    for item in items:
        # The hash of the text, since an image may be a value of megabytes.
        key = hashlib.sha256(repr((item.prompt, prompt_images(item), *item.videos)).encode()).hexdigest()
        by_key.setdefault(key, Bundle(item)).add(item)
    return list(by_key.values())


def prompt_groups(items: Sequence[Item], images: ImageStore) -> list[Group]:
    """The prompts of a benchmark as groups without preferences, each with its distinct responses.

    They are compared with training rows. So a prompt is without what a protocol adds to it.

    Args:
        items: of the benchmark.
        images: where the images are. Missing ones are not noticed.

    Raises:
        RowRejected: a prompt and its images, or a response and its images, do not fit together.

    >>> item = Item(0, "a", "2 + 2? Be brief.", ("4", "5"), (0,), (1,), "a", question="2 + 2?")
    >>> [(group.prompt[0].parts[0].text, group.responses) for group in prompt_groups([item], ImageStore())]
    [('2 + 2?', ('4', '5'))]
    """
    asked = [item if item.question is None else replace(item, prompt=item.question) for item in items]
    return [bundle.group(images) for bundle in bundles(asked)]


def score_items(
    scorer: ScoresGroups,
    items: Sequence[Item],
    *,
    images: ImageStore,
    journal: Path,
    header: dict[str, str],
    allow_partial: bool = False,
) -> dict[int, Outcome]:
    """Score all items, resuming where an earlier call was stopped.

    Args:
        scorer: the model.
        items: what is scored.
        images: where the images are.
        journal: a file that gets the scores of every forward pass at once. Prompts whose scores it holds are not scored
            again. An incomplete last line is discarded.
        header: identifies model and benchmark. A journal with another header is discarded.
        allow_partial: leave out items that cannot be scored, with a warning each.

    Returns:
        The outcomes by row.

    Raises:
        DataError: an item cannot be scored, and `allow_partial` is not given; or a score is not finite.
    """
    prompts = bundles(items)
    with Journal(journal) as file, ExitStack() as stack:
        scores_by_place = _stored_scores(file, header=header, prompts=prompts)
        if scores_by_place:
            logger.warning(
                "%d of %d prompts are scored already; only the others are scored now",
                len(scores_by_place),
                len(prompts),
            )
        else:
            file.restart(header)
        pending = [place for place in range(len(prompts)) if place not in scores_by_place]
        # The scorer returns results in the order of the groups that it got; this queue holds their places.
        places: deque[int] = deque()
        groups = _read(prompts, pending, images=images, allow_partial=allow_partial, places=places)
        scoring = stack.enter_context(phase("scoring", total=len(pending), unit="prompts"))
        for results in scorer.score_batches(groups):
            scoring.advance(len(results))
            new = _scores_of(results, prompts, places, allow_partial=allow_partial)
            # Before they are stored: a resumed call would take them for scored.
            _check_finite(prompts, new)
            file.append([{"prompt": place, "scores": scores} for place, scores in new.items()])
            scores_by_place |= new
    outcomes: dict[int, Outcome] = {}
    for place, scores in scores_by_place.items():
        outcomes |= dict(prompts[place].outcomes(scores))
    return outcomes


def _read(
    prompts: Sequence[Bundle],
    pending: Sequence[int],
    *,
    images: ImageStore,
    allow_partial: bool,
    places: deque[int],
) -> Iterator[Group]:
    """Read the groups of the pending prompts, and append the places of those that could be read to `places`."""
    for place in pending:
        try:
            group = prompts[place].group(images)
        except DataError as error:
            _leave_out(prompts[place], error, allow_partial=allow_partial)
        else:
            places.append(place)
            yield group


def _scores_of(
    results: Iterable[list[float] | DataError], prompts: Sequence[Bundle], places: deque[int], *, allow_partial: bool
) -> dict[int, list[float]]:
    """The scores of a batch by place of the prompt; the places of the batch are taken from the left of `places`."""
    scores: dict[int, list[float]] = {}
    for result in results:
        place = places.popleft()
        if isinstance(result, DataError):
            _leave_out(prompts[place], result, allow_partial=allow_partial)
        else:
            scores[place] = result
    return scores


def _leave_out(bundle: Bundle, error: DataError, *, allow_partial: bool) -> None:
    """Warn of a prompt that cannot be scored.

    Raises:
        DataError: `allow_partial` is not given.
    """
    detail = f"{error.reason}: {error.detail}" if isinstance(error, RowRejected) else str(error)
    if not allow_partial:
        raise DataError(f"{sentence(detail)} --allow-partial counts without what cannot be scored") from error
    logger.warning("row %d ('%s') cannot be scored: %s", bundle.item.row, bundle.item.id, detail)


def _check_finite(prompts: Sequence[Bundle], scores_by_place: Mapping[int, Sequence[float]]) -> None:
    rows: list[str] = []
    for place, scores in scores_by_place.items():
        if not all(map(math.isfinite, scores)):
            rows += [f"row {row} ('{prompts[place].item.id}')" for row in prompts[place].places]
    if rows:
        raise DataError(f"the model gives scores that are not finite: {', '.join(rows)}. Nothing is counted.")


def _stored_scores(journal: Journal, *, header: dict[str, str], prompts: Sequence[Bundle]) -> dict[int, list[float]]:
    """The scores in a journal, by place of the prompt.

    Empty, with a warning that names the difference, if the journal is damaged or has another header.
    """
    if journal.head is None:
        return {}
    try:
        stored_header = json.loads(journal.head)
        differences = [name for name in {**stored_header, **header} if stored_header.get(name) != header.get(name)]
        scores_by_place = dict(_parse_line(line) for line in journal.lines)
        fits = all(len(scores) == len(prompts[place].responses) for place, scores in scores_by_place.items())
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        logger.warning("%s is damaged; all prompts are scored again", journal.file)
        return {}
    if differences or not fits:
        names = ", ".join(differences) or "its prompts"
        logger.warning(
            "%s belongs to another evaluation (%s changed); all prompts are scored again", journal.file, names
        )
        return {}
    return scores_by_place


def _parse_line(text: str) -> tuple[int, list[float]]:
    line = json.loads(text)
    return line["prompt"], [float(score) for score in line["scores"]]
