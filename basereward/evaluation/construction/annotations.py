"""What annotators decided about pairs: an append-only file, the queue of pairs, and the final decisions."""

from __future__ import annotations

import calendar
import hashlib
import json
import math
import random
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, get_args

from basereward.errors import DataError
from basereward.io.journal import Journal

Role: TypeAlias = Literal["annotator", "adjudicator"]
ROLES: tuple[Role, ...] = get_args(Role)
LABELS = ("right", "wrong")
TAGS = ("existence", "recognition", "attribute", "counting", "other")
"""Kinds of errors in the worse response, as in VL-RewardBench."""
MAX_NAME = 64
"""Most characters in the name of an annotator or a tag."""
MAX_TAGS = 9
"""The page has the keys 1 to 9 for tags."""
MAX_SECONDS = 86_400.0
RESERVED_S = 1_800.0
"""Seconds for which a pair that an annotator has open is not given to another one."""
GIVEN = "given"
"""The key of a line of the file that says to whom a pair is given."""
MOMENT = "%Y-%m-%dT%H:%M:%SZ"
"""The form of a time in the file, in UTC."""


@dataclass(frozen=True)
class VerificationPlan:
    """How pairs are verified; fixed when the first pair is given to a person.

    Attributes:
        overlap: share of the pairs that several annotators see.
        raters: annotators of each of these pairs.
        tags: kinds of errors.
        control: whether the control sample is verified too, mixed with the selected pairs.
        seed: of the order.
    """

    overlap: float = 0.2
    raters: int = 2
    tags: tuple[str, ...] = TAGS
    control: bool = False
    seed: int = 0

    def check(self) -> None:
        """Check the ranges.

        Raises:
            DataError: a value is out of its range.

        >>> VerificationPlan(overlap=2.0).check()
        Traceback (most recent call last):
        basereward.errors.DataError: an overlap of 2: a share from 0 to 1 is needed
        """
        if not 0 <= self.overlap <= 1:
            raise DataError(f"an overlap of {self.overlap:g}: a share from 0 to 1 is needed")
        if not 2 <= self.raters <= 9:
            raise DataError(f"{self.raters} raters of a pair of the overlap: 2 to 9 are allowed")
        # A comma separates tags in labels and on the command line.
        wrong = [tag for tag in self.tags if not is_name(tag) or "," in tag]
        if wrong or len(set(self.tags)) < len(self.tags) or not 1 <= len(self.tags) <= MAX_TAGS:
            raise DataError(
                f"tags {', '.join(map(repr, self.tags)) or 'none'}: 1 to {MAX_TAGS} different names of at most "
                f"{MAX_NAME} printable characters without commas are needed"
            )

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON.

        >>> VerificationPlan(overlap=0.5).as_dict()["overlap"]
        0.5
        """
        facts: dict[str, Any] = {name: getattr(self, name) for name in ("overlap", "raters", "control", "seed")}
        return {**facts, "tags": list(self.tags)}


@dataclass(frozen=True)
class Annotation:
    """What one person decided about one pair.

    Attributes:
        item: the id of the pair.
        annotator: the name of the person.
        role: `adjudicator` for a decision after annotators disagreed.
        label: `right` if the preferred response is better, else `wrong`.
        ambiguous: whether the pair cannot be decided.
        tags: kinds of errors in the worse response.
        seconds: that the pair was in view.
    """

    item: str
    annotator: str
    role: Role
    label: str
    ambiguous: bool
    tags: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def kept(self) -> bool:
        """Whether the pair is good: its label is right and it is not ambiguous."""
        return self.label == "right" and not self.ambiguous

    def as_dict(self) -> dict[str, Any]:
        """The annotation as JSON.

        >>> Annotation("a", "ann", "annotator", "right", ambiguous=False).as_dict()["label"]
        'right'
        """
        names = ("item", "annotator", "role", "label", "ambiguous", "seconds")
        return {**{name: getattr(self, name) for name in names}, "tags": list(self.tags)}


def is_name(text: object) -> bool:
    """Whether a value may be the name of an annotator or a tag.

    >>> is_name("Ann"), is_name(" "), is_name("a\\nb"), is_name("a" * 65), is_name(None)
    (True, False, False, False, False)
    """
    return isinstance(text, str) and bool(text.strip()) and len(text) <= MAX_NAME and text.isprintable()


def parse_annotation(content: Mapping[str, Any], *, items: Mapping[str, Any], tags: Sequence[str]) -> Annotation:
    """Check what a page or a file gives.

    Args:
        content: the fields of an annotation; others are ignored.
        items: those that may be annotated, by their ids.
        tags: those that are allowed.

    Raises:
        DataError: a field is missing or has a wrong value; the message names it.

    >>> parse_annotation({"item": "b"}, items={"a": 0}, tags=TAGS)
    Traceback (most recent call last):
    basereward.errors.DataError: item "b" is not in this selection
    """
    item = content.get("item")
    if not isinstance(item, str) or item not in items:
        raise DataError(f"item {_shown(item)} is not in this selection")
    annotator, role = parse_person(content)
    label, ambiguous, given = content.get("label"), content.get("ambiguous"), content.get("tags")
    if label not in LABELS or not isinstance(ambiguous, bool):
        raise DataError(
            f"label {_shown(label)}, ambiguous {_shown(ambiguous)}: the label must be right or wrong, and ambiguous "
            "true or false"
        )
    if not isinstance(given, list) or any(tag not in tags for tag in given):
        raise DataError(f"tags {_shown(given)}: a list is needed, of {', '.join(tags)}")
    chosen = tuple(tag for tag in tags if tag in given)
    seconds = _parse_seconds(content.get("seconds"))
    return Annotation(item, annotator, role, str(label), ambiguous=ambiguous, tags=chosen, seconds=seconds)


def parse_person(content: Mapping[str, Any]) -> tuple[str, Role]:
    """The name and the role of a person.

    Raises:
        DataError: one of them is missing or not allowed.

    >>> parse_person({"annotator": "Ann", "role": "adjudicator"})
    ('Ann', 'adjudicator')
    """
    annotator = content.get("annotator")
    if not is_name(annotator):
        raise DataError(f"annotator {_shown(annotator)}: a name of at most {MAX_NAME} printable characters is needed")
    role = next((known for known in ROLES if known == content.get("role")), None)
    if role is None:
        raise DataError(f"role {_shown(content.get('role'))}: allowed are {', '.join(ROLES)}")
    return str(annotator), role


def _parse_seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SECONDS:
        raise DataError(f"seconds {_shown(value)}: a number from 0 to {MAX_SECONDS:g}")
    return round(float(value), 3)


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)[:80]


@dataclass(frozen=True)
class FinalDecision:
    """What is decided about a pair by all of its annotations.

    Attributes:
        state: `pending` until it has all of its annotators, `disputed` while they disagree and nobody has adjudicated,
            else `verified`.
        label, ambiguous: of a verified pair; None of any other.
        tags: those that at least half of its annotators gave, or its adjudicator.
        annotators: their number.
        adjudicated: whether an adjudicator decided.
    """

    state: Literal["pending", "disputed", "verified"]
    label: str | None = None
    ambiguous: bool | None = None
    tags: tuple[str, ...] = ()
    annotators: int = 0
    adjudicated: bool = False

    @property
    def kept(self) -> bool:
        """Whether the pair is verified as good."""
        return self.state == "verified" and self.label == "right" and not self.ambiguous


def decide(annotations: Sequence[Annotation], *, needed: int, tags: Sequence[str]) -> FinalDecision:
    """Decide about a pair.

    Args:
        annotations: the last one of each person and role.
        needed: number of annotators.
        tags: all tags, in their order.

    >>> ann, bob = (Annotation("a", name, "annotator", "right", False, ("counting",)) for name in ("ann", "bob"))
    >>> decide([ann], needed=2, tags=TAGS).state, decide([ann, bob], needed=2, tags=TAGS).tags
    ('pending', ('counting',))
    """
    by_annotators = [annotation for annotation in annotations if annotation.role == "annotator"]
    by_adjudicators = [annotation for annotation in annotations if annotation.role == "adjudicator"]
    count = len(by_annotators)
    if by_adjudicators:
        last = by_adjudicators[-1]
        return FinalDecision("verified", last.label, last.ambiguous, last.tags, count, adjudicated=True)
    if count < needed:
        return FinalDecision("pending", annotators=count)
    if len({(annotation.label, annotation.ambiguous) for annotation in by_annotators}) > 1:
        return FinalDecision("disputed", annotators=count)
    first = by_annotators[0]
    return FinalDecision("verified", first.label, first.ambiguous, _common_tags(by_annotators, tags), count)


def _common_tags(annotations: Sequence[Annotation], tags: Sequence[str]) -> tuple[str, ...]:
    """The tags that at least half of the annotations have."""
    given: Counter[str] = Counter()
    for annotation in annotations:
        given.update(annotation.tags)
    return tuple(tag for tag in tags if given[tag] >= len(annotations) / 2)


class AnnotationFile:
    """The file of all annotations, which one process at a time can write; every annotation is on the disk at once.

    A later annotation of the same pair by the same person in the same role replaces the earlier one, which stays in the
    file. Pairs that are given to people are kept there too, so that after a restart a person has the same pair, and
    saves no other one.

    Args:
        file: made if it does not exist. An incomplete last line, which a kill may leave, is removed.
        items: ids of the pairs that are verified.
        plan: None: that of the file, or the default of a new one.
        selection: a hash of the rows.

    Attributes:
        plan: of the file.

    Raises:
        DataError: the file is of other rows or another plan, is damaged, or is open in another process.
    """

    def __init__(self, file: Path, *, items: Sequence[str], plan: VerificationPlan, selection: str) -> None:
        self.file = file
        self.plan = plan
        self.order = queue_order(items, seed=plan.seed)
        self.needed = {item: plan.raters if in_overlap else 1 for item, in_overlap in overlapping(self.order, plan)}
        self._lock = threading.RLock()
        self._by_item: dict[str, dict[tuple[str, Role], Annotation]] = {item: {} for item in self.order}
        self._history: dict[tuple[str, Role], list[str]] = {}
        self._names: dict[str, str] = {}
        self._reserved: dict[tuple[str, Role], _Reservation] = {}
        advice = "end `basereward verify`, which serves it, by Ctrl-C; it continues when it is started again"
        self._journal = Journal(file, advice=advice)
        try:
            header = {"selection": selection, **plan.as_dict()}
            # The plan is fixed by the first pair that is given to a person, and not by a look at the page or a summary.
            if not self._journal.lines:
                self._journal.restart(header)
            else:
                self._read(header)
        except BaseException:
            # The caller gets no object that it could close, and the lock would last as long as the process.
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, so that other processes can open it."""
        self._journal.close()

    def _read(self, header: dict[str, Any]) -> None:
        head = json.loads(self._journal.head or "")
        changed = [name for name in header if head.get(name) != header[name]]
        if changed:
            raise DataError(
                f"'{self.file}' holds annotations of another selection or plan: {', '.join(changed)} changed. Repeat "
                "the options of the first call, or leave them out; or select into another folder"
            )
        for number, line in enumerate(self._journal.lines, start=2):
            try:
                content = json.loads(line)
                if GIVEN in content:
                    self._keep_reservation(content)
                else:
                    self._keep(parse_annotation(content, items=self._by_item, tags=self.plan.tags))
            except (DataError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
                raise DataError(f"{self.file}:{number} is damaged ({error}); restore the file from a copy") from error

    def known(self, annotator: str) -> str:
        """The first spelling of a name: `Ann` and `ann` are one person, who must not annotate a pair twice."""
        with self._lock:
            key = unicodedata.normalize("NFKC", annotator).strip().casefold()
            return self._names.setdefault(key, annotator)

    def _keep(self, annotation: Annotation) -> None:
        annotation = replace(annotation, annotator=self.known(annotation.annotator))
        person = (annotation.annotator, annotation.role)
        if person not in self._by_item[annotation.item]:
            self._history.setdefault(person, []).append(annotation.item)
        self._by_item[annotation.item][person] = annotation
        reservation = self._reserved.get(person)
        # A correction of another pair does not end the work on this one.
        if reservation is not None and reservation.item == annotation.item:
            del self._reserved[person]

    def _keep_reservation(self, content: Mapping[str, Any]) -> None:
        """Restore a reservation that an earlier process wrote, whose monotonic clock had another zero.

        Raises:
            DataError, LookupError, ValueError, TypeError: the line has another form.
        """
        item = content[GIVEN]
        if not isinstance(item, str) or item not in self._by_item:
            raise DataError(f"item {_shown(item)} is not in this selection")
        annotator, role = parse_person(content)
        age = time.time() - calendar.timegm(time.strptime(content["time"], MOMENT))
        # Below 0 if the clock of the machine was set back.
        since = time.monotonic() - max(0.0, age)
        self._reserved[self.known(annotator), role] = _Reservation(item, since)

    def add(self, annotation: Annotation) -> None:
        """Add an annotation, which is on the disk when this returns.

        Raises:
            DataError: the pair was not given to this person; or an adjudicator has annotated it before, or its
                annotators do not disagree.
        """
        with self._lock:
            annotation = replace(annotation, annotator=self.known(annotation.annotator))
            if (annotation.annotator, annotation.role) not in self._by_item[annotation.item]:
                self._check_new(annotation)
            self._journal.append([annotation.as_dict() | {"time": _moment()}])
            self._keep(annotation)

    def _check_new(self, annotation: Annotation) -> None:
        """
        Raises:
            DataError: as `add`.
        """
        item, person = annotation.item, (annotation.annotator, annotation.role)
        if annotation.role == "adjudicator":
            if (annotation.annotator, "annotator") in self._by_item[item]:
                raise DataError(f"{annotation.annotator} has annotated this pair; another person must adjudicate it")
            if self.decision(item).state != "disputed":
                raise DataError("the annotators of this pair do not disagree, so that there is nothing to adjudicate")
        reservation = self._reserved.get(person)
        if reservation is None or reservation.item != item:
            raise DataError(
                f"this pair was not given to {annotation.annotator}, and nothing was saved. Load the page again for "
                "the next pair"
            )

    def of_item(self, item: str) -> list[Annotation]:
        """The last annotation of each person and role, in the order of their first ones."""
        with self._lock:
            return list(self._by_item[item].values())

    def own(self, item: str, *, annotator: str, role: Role) -> Annotation | None:
        """The annotation of one person."""
        with self._lock:
            return self._by_item[item].get((annotator, role))

    def decision(self, item: str) -> FinalDecision:
        """What is decided about a pair."""
        return decide(self.of_item(item), needed=self.needed[item], tags=self.plan.tags)

    def next_item(self, *, annotator: str, role: Role) -> str | None:
        """The next pair of a person, which is reserved for that person; None: there is nothing to do now."""
        with self._lock:
            own = self._reserved.get((annotator, role))
            # First the pair that the person has, which another page of the person may show.
            for item in (*([] if own is None else [own.item]), *self.order):
                if self._needs(item, annotator, role):
                    self._reserve(item, annotator, role)
                    return item
            return None

    def _needs(self, item: str, annotator: str, role: Role) -> bool:
        """Whether a pair can be given to a person."""
        if annotator in {name for name, _ in self._by_item[item]}:
            return False
        return self._is_disputed(item, annotator) if role == "adjudicator" else self._is_open(item, annotator)

    def _reserve(self, item: str, annotator: str, role: Role) -> None:
        """Give a pair to a person; it is on the disk when this returns, unless it was there."""
        now, before = time.monotonic(), self._reserved.get((annotator, role))
        if before is None or before.item != item or now - before.since >= RESERVED_S:
            self._journal.append([{GIVEN: item, "annotator": annotator, "role": role, "time": _moment()}])
        self._reserved[annotator, role] = _Reservation(item, now)

    def previous_item(self, before: str | None, *, annotator: str, role: Role) -> str | None:
        """The pair that a person annotated before another one; None: there is none.

        Args:
            before: the pair in view; one without an annotation of this person comes after all others.
            annotator, role: the person.
        """
        with self._lock:
            history = self._history.get((annotator, role), [])
            place = history.index(before) if before in history else len(history)
            return history[place - 1] if place else None

    def done(self, *, annotator: str, role: Role) -> int:
        """The number of pairs that a person has annotated."""
        with self._lock:
            return len(self._history.get((annotator, role), []))

    def _is_open(self, item: str, annotator: str) -> bool:
        """Whether a pair needs another annotator. People who have it open count as annotators."""
        annotators = {name for name, role in self._by_item[item] if role == "annotator"}
        annotators |= self._holders(item, "annotator", annotator)
        return len(annotators) < self.needed[item] and not any(role == "adjudicator" for _, role in self._by_item[item])

    def _is_disputed(self, item: str, adjudicator: str) -> bool:
        return self.decision(item).state == "disputed" and not self._holders(item, "adjudicator", adjudicator)

    def _holders(self, item: str, role: Role, annotator: str) -> set[str]:
        """Other people who have a pair open."""
        now = time.monotonic()
        holders: set[str] = set()
        for (name, held_as), reservation in self._reserved.items():
            is_held = (reservation.item, held_as) == (item, role) and now - reservation.since < RESERVED_S
            if is_held and name != annotator:
                holders.add(name)
        return holders


@dataclass(frozen=True)
class _Reservation:
    item: str
    since: float
    """by the monotonic clock, in seconds"""


def _moment() -> str:
    return time.strftime(MOMENT, time.gmtime())


def queue_order(items: Sequence[str], *, seed: int) -> list[str]:
    """The order in which pairs are verified: a shuffle that depends on the ids and the seed alone.

    >>> sorted(queue_order(["a", "b", "c"], seed=0)), queue_order(["b", "a"], seed=0) == queue_order(["a", "b"], seed=0)
    (['a', 'b', 'c'], True)
    """
    order = sorted(items)
    random.Random(f"queue/{seed}").shuffle(order)
    return order


def overlapping(order: Sequence[str], plan: VerificationPlan) -> list[tuple[str, bool]]:
    """Which pairs several annotators see, evenly spread over the order.

    >>> overlapping(["a", "b", "c", "d"], VerificationPlan(overlap=0.5))
    [('a', False), ('b', True), ('c', False), ('d', True)]
    """
    marked: list[tuple[str, bool]] = []
    for place, item in enumerate(order):
        # Rounded, since 0.1 + 0.2 is a little more than 0.3.
        before, after = (math.floor(round(number * plan.overlap, 9)) for number in (place, place + 1))
        marked.append((item, after > before))
    return marked


def shows_preferred_first(item: str, annotator: str) -> bool:
    """Whether an annotator sees the preferred response first; it differs between pairs and between annotators.

    >>> shows_preferred_first("a", "ann") == shows_preferred_first("a", "ann")
    True
    """
    digest = hashlib.sha256(f"{annotator}/{item}".encode("utf-8", "surrogatepass")).digest()
    return bool(digest[0] & 1)


def has_begun(file: Path) -> bool:
    """Whether a pair was given to a person: whether a file of annotations has more than its first line.

    >>> has_begun(Path("/not/there"))
    False
    """
    if not file.is_file():
        return False
    with file.open("rb") as lines:
        lines.readline()
        return lines.readline().endswith(b"\n")


def stored_plan(file: Path) -> VerificationPlan | None:
    """The plan of a file of annotations; None if no pair was given to a person.

    Raises:
        DataError: the first line is damaged.

    >>> stored_plan(Path("/not/there")) is None
    True
    """
    if not has_begun(file):
        return None
    with file.open(encoding="utf-8", errors="replace") as lines:
        first = lines.readline(100_000)
    try:
        head = json.loads(first)
        plan = VerificationPlan(head["overlap"], head["raters"], tuple(head["tags"]), head["control"], head["seed"])
        plan.check()
    except (LookupError, TypeError, ValueError, RecursionError, DataError) as error:
        raise DataError(f"{file}:1 is damaged ({error}); restore the file from a copy") from error
    return plan
