"""`basereward verify`: annotators check the labels of a selection in a local web page; counts and their agreement.

This is the second stage of VL-RewardBench (arXiv 2411.17451, section 3). `publish` is the third.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from basereward.errors import DataError
from basereward.evaluation.construction.annotations import (
    Annotation,
    AnnotationFile,
    FinalDecision,
    Role,
    VerificationPlan,
    parse_annotation,
    parse_person,
    shows_preferred_first,
    stored_plan,
)
from basereward.evaluation.construction.pictures import IMAGES, check_pictures
from basereward.evaluation.construction.selected_rows import (
    ANNOTATIONS,
    ROWS,
    SelectedRow,
    read_rows,
    read_selection,
)
from basereward.evaluation.construction.server import Action, PageServer
from basereward.evaluation.reports.page import render_data_page
from basereward.evaluation.statistics.kappa import annotator_agreement
from basereward.io.hashing import file_sha256
from basereward.io.progress import announce

MAX_CHARACTERS = 100_000
"""Characters of one text that the page shows; of a longer text it says how many more there are."""
ASPECTS = ("label", "ambiguous", "kept")
"""Properties of an annotation on which agreement is measured."""


@dataclass(frozen=True)
class PlanChanges:
    """Options of the command line; None leaves what the file of annotations has, or the default of a new one."""

    overlap: float | None = None
    raters: int | None = None
    tags: tuple[str, ...] | None = None
    control: bool | None = None
    seed: int | None = None

    def apply(self, plan: VerificationPlan) -> VerificationPlan:
        """The plan with these options.

        Raises:
            DataError: a value is out of its range.

        >>> PlanChanges(overlap=1.0).apply(VerificationPlan()).overlap
        1.0
        """
        given = {name: value for name, value in vars(self).items() if value is not None}
        changed = replace(plan, **given)
        changed.check()
        return changed


class Verification:
    """The verification of a selection: its rows, and the file of what annotators decided. A context manager.

    Args:
        folder: of the selection.
        changes: of the plan, for the first call.

    Attributes:
        rows: the pairs that are verified, by id.
        control: the other rows of the control sample.
        annotations: the file.

    Raises:
        DataError: the selection is not complete, nothing is in it, an image is missing or has changed, or its
            annotations do not belong to it.
    """

    def __init__(self, folder: Path, changes: PlanChanges | None = None) -> None:
        self.folder = folder
        self.selection = read_selection(folder)
        file = folder / ANNOTATIONS
        plan = (changes or PlanChanges()).apply(stored_plan(file) or VerificationPlan())
        rows = read_rows(folder)
        self.rows = {row.id: row for row in rows if row.selected or (plan.control and row.control)}
        self.all_rows = rows
        if not self.rows:
            counts = ", ".join(f"{reason} {number}" for reason, number in self.selection["decisions"].items())
            raise DataError(
                f"no pair is selected in '{folder}', because on none are all judges wrong: {counts}. Judge more pairs, "
                "or with fewer judges"
            )
        # Before anybody decides about other images than those that the judges saw.
        check_pictures(folder, chain.from_iterable(row.images for row in rows))
        selection = file_sha256(folder / ROWS)
        self.annotations = AnnotationFile(file, items=list(self.rows), plan=plan, selection=selection)

    def __enter__(self) -> Verification:
        return self

    def __exit__(self, *_: object) -> None:
        self.annotations.close()

    @property
    def decisions(self) -> dict[str, FinalDecision]:
        """What is decided about each pair so far."""
        return {item: self.annotations.decision(item) for item in self.rows}

    def summary(self) -> dict[str, Any]:
        """Counts, times, tags and agreement so far.

        Returns:
            `pairs`; of them `pending`, `disputed`, `verified`, `kept`, and `dropped` by reason; `annotators`, with the
            number of `pairs` and the median of `seconds` of each; `adjudicated`; `seconds` of an annotation, the
            median and the sum; `tags` of kept pairs; `agreement`, see `agreement_facts`.
        """
        given = [annotation for item in self.rows for annotation in self.annotations.of_item(item)]
        return {
            "folder": str(self.folder),
            **_counts(list(self.decisions.values()), self.annotations.plan.tags),
            "annotators": _annotator_facts(given),
            "seconds": _seconds(given),
            "agreement": agreement_facts(_by_item(given)),
            "plan": self.annotations.plan.as_dict(),
        }

    def actions(self) -> dict[str, Action]:
        """What the page may call: `next`, `save` and `back`.

        Each takes the person (`annotator`, `role`). `save` also takes an annotation, and `corrects`, true if the page
        has shown an earlier one of this person that is to be replaced.
        """
        return {"next": self._next, "save": self._save, "back": self._back}

    def _person(self, content: Mapping[str, Any]) -> tuple[str, Role]:
        annotator, role = parse_person(content)
        return self.annotations.known(annotator), role

    def _next(self, content: Mapping[str, Any]) -> dict[str, Any]:
        annotator, role = self._person(content)
        return self._view(self.annotations.next_item(annotator=annotator, role=role), annotator, role)

    def _save(self, content: Mapping[str, Any]) -> dict[str, Any]:
        annotation = parse_annotation(content, items=self.rows, tags=self.annotations.plan.tags)
        annotator, role = self._person(content)
        own = self.annotations.own(annotation.item, annotator=annotator, role=role)
        # The same decision again is an answer that was lost on its way to the page.
        if own is not None and content.get("corrects") is not True and _decision(own) != _decision(annotation):
            raise DataError(
                f"{annotator} has decided this pair on another page, and that decision stays. Load the page again. If "
                f"another person works as {annotator}, choose another name"
            )
        self.annotations.add(annotation)
        return self._next(content)

    def _back(self, content: Mapping[str, Any]) -> dict[str, Any]:
        annotator, role = self._person(content)
        before = content.get("before")
        earlier = self.annotations.previous_item(
            before if isinstance(before, str) else None, annotator=annotator, role=role
        )
        return self._view(earlier, annotator, role)

    def _view(self, item: str | None, annotator: str, role: Role) -> dict[str, Any]:
        """What the page shows: a pair, the person's own annotation of it, and the progress."""
        states = Counter(decision.state for decision in self.decisions.values())
        progress = {
            "done": self.annotations.done(annotator=annotator, role=role),
            "pairs": len(self.rows),
            "verified": states["verified"],
            "disputed": states["disputed"] if role == "adjudicator" else 0,
        }
        if item is None:
            return {"pair": None, "own": None, "progress": progress}
        own = self.annotations.own(item, annotator=annotator, role=role)
        earlier: list[dict[str, Any]] = []
        if role == "adjudicator":
            for annotation in self.annotations.of_item(item):
                if annotation.role == "annotator":
                    earlier.append(_decision(annotation))
        pair = shown_pair(self.rows[item], annotator=annotator)
        shown = None if own is None else _decision(own)
        return {"pair": {**pair, "decisions": earlier}, "own": shown, "progress": progress}


def verify(folder: str, *, port: int = 8010, changes: PlanChanges | None = None) -> dict[str, Any]:
    """Serve the page of annotators on this machine until it is interrupted.

    Args:
        folder: of the selection.
        port: of 127.0.0.1; 0 takes a free one.
        changes: of the plan of verification, for the first call.

    Returns:
        The summary of what was decided, see `Verification.summary`.

    Raises:
        DataError: the selection is not complete, or the port is in use.
    """
    with Verification(Path(folder), changes) as verification:
        with page_server(verification, port=port) as server:
            announce(f"open {server.address} in a browser on this machine; Ctrl-C ends, and nothing is lost")
            # Ctrl-C is how a person ends the server; the summary follows.
            with suppress(KeyboardInterrupt):
                server.serve_forever(poll_interval=0.2)
        return verification.summary()


def page_server(verification: Verification, *, port: int) -> PageServer:
    """The server of the page of a verification; it does not serve yet.

    Args:
        verification: open.
        port: 0 takes a free one.

    Raises:
        DataError: the port is in use.
    """
    data = {"name": verification.folder.resolve().name, "tags": list(verification.annotations.plan.tags)}
    page = render_data_page("verification", data, title="Verification of pairs", styles=["articles"], has_server=True)
    images = verification.folder / IMAGES
    return PageServer(port, page=page, images=images, actions=verification.actions())


def summarize(folder: str) -> dict[str, Any]:
    """The summary of a verification, without serving it.

    Raises:
        DataError: the selection is not complete, or another process serves it.
    """
    with Verification(Path(folder)) as verification:
        return verification.summary()


def shown_pair(row: SelectedRow, *, annotator: str) -> dict[str, Any]:
    """A pair as the page shows it to an annotator.

    >>> prompt = [{"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]}]
    >>> facts = {"images": (), "selected": True, "control": False, "judges": {}, "probe": {}}
    >>> pair = shown_pair(SelectedRow("a", "sums", prompt, ("4", "5"), preferred=0, **facts), annotator="ann")
    >>> pair["responses"][pair["preferred"]]
    {'text': '4', 'length': 1}
    """
    images = iter(row.images)
    turns: list[dict[str, Any]] = []
    for message in row.prompt:
        parts: list[dict[str, Any]] = []
        for part in message["content"]:
            parts.append({"image": f"/{next(images)}"} if part["type"] == "image" else _cut(part["text"]))
        turns.append({"role": message["role"], "parts": parts})
    order = [row.preferred, 1 - row.preferred]
    if not shows_preferred_first(row.id, annotator):
        order.reverse()
    return {
        "id": row.id,
        "turns": turns,
        "responses": [_cut(row.responses[place]) for place in order],
        "preferred": order.index(row.preferred),
    }


def agreement_facts(by_item: Mapping[str, Sequence[Annotation]]) -> dict[str, Any]:
    """The agreement of annotators on the label, on ambiguity, and on whether a pair is kept; see `annotator_agreement`.

    Args:
        by_item: the annotations of each pair; those of adjudicators, who have seen the others, do not count.

    >>> ann, bob = (Annotation("a", name, "annotator", "right", ambiguous=False) for name in ("ann", "bob"))
    >>> agreement_facts({"a": [ann, bob]})["label"]["exact"]["value"]
    1.0
    """
    facts: dict[str, Any] = {}
    for aspect in ASPECTS:
        ratings: list[dict[str, str]] = []
        for members in by_item.values():
            people = [annotation for annotation in members if annotation.role == "annotator"]
            ratings.append({annotation.annotator: str(getattr(annotation, aspect)) for annotation in people})
        facts[aspect] = annotator_agreement(ratings).as_dict()
    return facts


def _counts(decisions: Sequence[FinalDecision], tags: Sequence[str]) -> dict[str, Any]:
    """Numbers of pairs by state and by decision, and of good pairs by tag."""
    states = Counter(decision.state for decision in decisions)
    kept = [decision for decision in decisions if decision.kept]
    wrong = sum(decision.state == "verified" and decision.label == "wrong" for decision in decisions)
    given: Counter[str] = Counter()
    for decision in kept:
        given.update(decision.tags)
    return {
        "pairs": len(decisions),
        **{state: states[state] for state in ("pending", "disputed", "verified")},
        "kept": len(kept),
        # A wrong label counts before ambiguity, so that the numbers sum to those that were verified.
        "dropped": {"label_wrong": wrong, "ambiguous": states["verified"] - len(kept) - wrong},
        "adjudicated": sum(decision.adjudicated for decision in decisions),
        "tags": {tag: given[tag] for tag in tags},
    }


def _by_item(annotations: Sequence[Annotation]) -> dict[str, list[Annotation]]:
    grouped: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        grouped.setdefault(annotation.item, []).append(annotation)
    return grouped


def _annotator_facts(annotations: Sequence[Annotation]) -> dict[str, dict[str, Any]]:
    """The number of pairs and the median of the seconds of each annotator, and of each adjudicator."""
    seconds: dict[str, list[float]] = {}
    for annotation in annotations:
        suffix = "" if annotation.role == "annotator" else " (adjudicator)"
        seconds.setdefault(annotation.annotator + suffix, []).append(annotation.seconds)
    facts = {name: {"pairs": len(times), "seconds": statistics.median(times)} for name, times in seconds.items()}
    return dict(sorted(facts.items()))


def _seconds(annotations: Sequence[Annotation]) -> dict[str, float | None]:
    times = [annotation.seconds for annotation in annotations]
    return {"median": statistics.median(times) if times else None, "sum": round(sum(times), 3)}


def _decision(annotation: Annotation) -> dict[str, Any]:
    return {"label": annotation.label, "ambiguous": annotation.ambiguous, "tags": list(annotation.tags)}


def _cut(text: str) -> dict[str, Any]:
    return {"text": text[:MAX_CHARACTERS], "length": len(text)}
