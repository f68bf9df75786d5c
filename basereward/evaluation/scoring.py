"""A model's scores of a benchmark: every distinct answer to a prompt once, kept as they come."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.group import Group
from basereward.data.schema.messages import PLACE
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.rows import RowFormat
from basereward.errors import DataError
from basereward.evaluation.items import Item, Outcome
from basereward.io.journal import Journal

if TYPE_CHECKING:
    from basereward.data.encoding.encoder import EncodedGroup
    from basereward.inference.scorer import Scorer  # takes seconds; not needed for outcomes that are there already

logger = logging.getLogger(__name__)


@dataclass
class Bundle:
    """All items of one prompt and its pictures: one group to score.

    `places[row]` says where the responses of that item stand among the distinct ones.
    """

    item: Item
    responses: list[str] = field(default_factory=list)
    places: dict[int, list[int]] = field(default_factory=dict)

    def add(self, item: Item) -> None:
        known = {text: place for place, text in enumerate(self.responses)}
        for text in item.responses:
            if text not in known:
                known[text] = len(self.responses)
                self.responses.append(text)
        self.places[item.row] = [known[text] for text in item.responses]

    def group(self, images: ImageStore) -> Group:
        """
        Raises:
            RowRejected: the prompt and its pictures do not fit together.
        """
        if isinstance(self.item.prompt, tuple):  # turns, whose pictures are found already
            item = self.item
            return Group(item.id, "benchmark", item.prompt, tuple(self.responses), images=item.images)
        row = {"prompt": self.item.prompt, "responses": self.responses}
        pictures = [image for image in self.item.images if image is not None]
        row |= {"images": pictures} if pictures else {}
        # A benchmark says which items have pictures: in the others "<image>" is a word.
        form = RowFormat(images=images, for_training=False, image_mark=PLACE if pictures else None)
        return form.group(row, source="benchmark", row_id=self.item.id, where=f"row {self.item.row} ('{self.item.id}')")

    def outcomes(self, scores: Sequence[float]) -> Iterator[tuple[int, Outcome]]:
        for row, places in self.places.items():
            yield row, Outcome(scores=tuple(scores[place] for place in places))


def bundles(items: Sequence[Item]) -> list[Bundle]:
    """Items by prompt and pictures, in the order of their first appearance."""
    found: dict[str, Bundle] = {}
    for item in items:
        asked = hashlib.sha256(repr((item.prompt, item.images)).encode()).hexdigest()
        found.setdefault(asked, Bundle(item)).add(item)
    return list(found.values())


def score_items(
    scorer: Scorer,
    items: Sequence[Item],
    *,
    images: ImageStore,
    journal: Path,
    of: dict[str, str],
    allow_partial: bool = False,
) -> dict[int, Outcome]:
    """The outcome of every row, going on where an earlier call was stopped.

    Args:
        images: where the pictures lie.
        journal: takes the scores of every forward pass as soon as they are there. What it holds already is not scored
            again; a last line that was cut is.
        of: what is scored by what; a journal of something else is begun anew.
        allow_partial: items that cannot be scored are left out, with a warning each.

    Raises:
        DataError: an item cannot be scored, and `allow_partial` is not given.
    """
    asked = bundles(items)
    with Journal(journal) as file:
        kept = _kept(file, of=of, bundles=asked)
        if not kept:
            file.restart(of)
        else:
            logger.warning("%d of %d prompts were scored before; going on with the others", len(kept), len(asked))
        waiting = [place for place in range(len(asked)) if place not in kept]
        readable: deque[int] = deque()
        groups = _encoded(scorer, asked, waiting, images=images, allow_partial=allow_partial, readable=readable)
        for scores in scorer.score_encoded(groups):
            fresh = {readable.popleft(): found for found in scores}
            _check_finite(asked, fresh)
            file.append([{"prompt": place, "scores": found} for place, found in fresh.items()])
            kept |= fresh
    return {row: outcome for place, scores in kept.items() for row, outcome in asked[place].outcomes(scores)}


def _encoded(
    scorer: Scorer,
    asked: Sequence[Bundle],
    waiting: Sequence[int],
    *,
    images: ImageStore,
    allow_partial: bool,
    readable: deque[int],
) -> Iterator[EncodedGroup]:
    """The prompts that wait, as the scorer takes them; the places of those that it can read go to `readable`."""
    for place in waiting:
        try:
            group = scorer.encode(asked[place].group(images))
        except DataError as error:
            detail = f"{error.reason}: {error.detail}" if isinstance(error, RowRejected) else str(error)
            if not allow_partial:
                raise DataError(f"{detail}. --allow-partial counts without what cannot be scored") from error
            item = asked[place].item
            logger.warning("row %d ('%s') cannot be scored: %s", item.row, item.id, detail)
        else:
            readable.append(place)
            yield group


def _check_finite(asked: Sequence[Bundle], scores: Mapping[int, Sequence[float]]) -> None:
    wrong = [place for place, found in scores.items() if not all(map(math.isfinite, found))]
    if wrong:
        rows = ", ".join(f"row {row} ('{asked[place].item.id}')" for place in wrong for row in asked[place].places)
        raise DataError(f"the model gives scores that are not finite: {rows}. Nothing is counted.")


def _kept(journal: Journal, *, of: dict[str, str], bundles: Sequence[Bundle]) -> dict[int, list[float]]:
    """The scores that a journal holds by place of the prompt; none of a journal that is of something else, which is
    said with what changed."""
    if journal.head is None:
        return {}
    try:
        head = json.loads(journal.head)
        changed = [name for name in {**head, **of} if head.get(name) != of.get(name)]
        lines = [json.loads(line) for line in journal.lines]
        found = {line["prompt"]: [float(score) for score in line["scores"]] for line in lines}
        fits = all(len(scores) == len(bundles[place].responses) for place, scores in found.items())
    except (ValueError, TypeError, LookupError, RecursionError):
        logger.warning("%s is damaged; everything is scored anew", journal.file)
        return {}
    if changed or not fits:
        what = ", ".join(changed) or "its prompts"
        logger.warning("%s was begun with something else (%s changed); all is scored anew", journal.file, what)
        return {}
    return found
