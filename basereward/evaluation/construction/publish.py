"""`basereward verify FOLDER --publish OUT`: write verified pairs as a benchmark with its data card.

This is the third stage of VL-RewardBench (arXiv 2411.17451, section 3).
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from basereward.errors import DataError
from basereward.evaluation.construction.annotations import FinalDecision
from basereward.evaluation.construction.data_card import data_card
from basereward.evaluation.construction.pictures import IMAGES, NAME
from basereward.evaluation.construction.selected_rows import SelectedRow, outcome_of, write_rows
from basereward.evaluation.construction.verify import Verification
from basereward.evaluation.items import Item, JudgedItem
from basereward.evaluation.statistics.votes import accuracy_difference
from basereward.io.files import write_atomic
from basereward.io.limits import read_json_object
from basereward.io.names import check_name
from basereward.io.outputs import check_outputs, check_replaceable, foreign_files, replace_folder
from basereward.io.processes import remove_leftovers, temporary_name

CARD, DECISIONS, FACTS = "README.md", "annotations.jsonl", "construction.json"
PARTIAL = ".partial"
UNTAGGED = "untagged"


def publish(folder: str, *, out: str, allow_partial: bool = False) -> dict[str, Any]:
    """Write the verified pairs of a selection as a benchmark.

    The folder gets `NAME.yaml` and `NAME.jsonl`, the benchmark; `NAME-control.yaml` and `NAME-control.jsonl`, the
    control sample; `images`; `annotations.jsonl`, all decisions with numbers in place of the names of people;
    `construction.json`, all counts; and `README.md`, the data card. NAME is the name of the folder, which is written as
    a whole or not at all. An older folder of this kind is replaced.

    Args:
        folder: of the selection.
        out: the folder of the benchmark.
        allow_partial: leave out pairs that are not verified yet.

    Returns:
        `out`, `benchmark` and `control_benchmark` (the YAML files, the second None without a sample), `pairs`,
        `control`, `left_out` (pairs that are not verified), and `hardness`.

    Raises:
        DataError: pairs are not verified and `allow_partial` is not given, none is kept, or the folder has files that
            `publish` did not write.
    """
    target = Path(os.path.abspath(out))
    check_name(target.name, what="--publish", error=DataError)
    check_outputs({"--publish": target}, [folder], read_whole=[folder])
    check_replaceable(target, foreign=_foreign)
    with Verification(Path(folder)) as verification:
        decisions = verification.decisions
        unverified = sum(decision.state != "verified" for decision in decisions.values())
        if unverified and not allow_partial:
            raise DataError(
                f"{unverified} of {len(decisions)} pairs are not verified yet: annotators have not seen them, or "
                "disagree and nobody has adjudicated. --allow-partial leaves them out"
            )
        pairs, control = published_rows(verification, decisions)
        if not pairs:
            raise DataError(f"no pair of '{folder}' is verified as good, so that there is no benchmark to publish")
        anonymous = _anonymous(verification)
        facts: dict[str, Any] = {
            "name": target.name,
            "pairs": len(pairs),
            "control": len(control),
            "left_out": unverified,
            "sources": dict(Counter(row["source"] for row in pairs)),
            "tags": _tag_counts(pairs),
            "hardness": published_hardness(verification, pairs, control),
            "verification": _renamed(verification.summary(), anonymous),
            "selection": _without_paths(verification.selection),
        }
        annotations = _annotation_lines(verification, anonymous)
        _write(target, Path(folder), pairs, control, annotations, facts)
    name = target.name
    return {
        "out": str(target),
        "benchmark": str(target / f"{name}.yaml"),
        "control_benchmark": str(target / f"{name}-control.yaml") if control else None,
        **{key: facts[key] for key in ("pairs", "control", "left_out", "hardness")},
    }


def published_rows(
    verification: Verification, decisions: Mapping[str, FinalDecision]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of the benchmark and of the control sample.

    A verified row of the control sample is included if it is good; a row that was not verified is included as it is.
    If the control sample was not verified, all of its rows are included.
    """
    pairs: list[dict[str, Any]] = []
    control: list[dict[str, Any]] = []
    # The sample must be treated as a whole, although those of its rows that are selected too are verified in any case.
    has_verified_control = verification.annotations.plan.control
    for row in verification.all_rows:
        decision = decisions.get(row.id)
        if row.selected and decision is not None and decision.kept:
            pairs.append(_published(row, decision))
        if row.control and not has_verified_control:
            control.append(_published(row, None))
        elif row.control and decision is not None and decision.kept:
            control.append(_published(row, decision))
    return pairs, control


def published_hardness(
    verification: Verification, pairs: Sequence[Mapping[str, Any]], control: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The accuracies of the judges that did not select, on the published pairs and the published control sample."""
    rows = {row.id: (number, row) for number, row in enumerate(verification.all_rows)}
    names: dict[str, None] = {}
    for _, row in rows.values():
        names |= dict.fromkeys(row.probe)
    facts: list[dict[str, Any]] = []
    for name in names:
        parts: list[list[JudgedItem]] = []
        for published in (pairs, control):
            members = [rows[str(entry["id"])] for entry in published]
            parts.append([_judged(number, row, name) for number, row in members if name in row.probe])
        difference = accuracy_difference(*parts)
        values = {"pairs": difference.first, "control": difference.second, "difference": difference.value}
        facts.append({"name": name, **values, "low": difference.low, "high": difference.high})
    return facts


def _judged(number: int, row: SelectedRow, judge: str) -> JudgedItem:
    winner, loser = row.responses[row.preferred], row.responses[1 - row.preferred]
    # Pairs of one prompt with its images are not independent.
    prompt = json.dumps([row.prompt, row.images])
    item = Item(number, row.id, "", (winner, loser), (0,), (1,), prompt_id=prompt)
    return JudgedItem(item, outcome_of(row.probe[judge]))


def _published(row: SelectedRow, decision: FinalDecision | None) -> dict[str, Any]:
    if decision is None:
        return row.pair_columns | {"tags": [], "verified": False}
    verified = {"verified": True, "annotators": decision.annotators, "adjudicated": decision.adjudicated}
    return row.pair_columns | {"tags": list(decision.tags)} | verified


def _without_paths(selection: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a selection without paths of this machine: the texts of its sources, and the folders of judges."""
    settings = {key: value for key, value in selection["settings"].items() if key != "sources"}
    for part in ("judges", "probe"):
        settings[part] = [{**judge, "judge": _without_folder(judge["judge"])} for judge in settings[part]]
    return {**selection, "settings": settings}


def _without_folder(judge: str) -> str:
    """The name of a judge; of a folder on this machine its last part.

    >>> _without_folder("/models/a"), _without_folder("Qwen/Qwen2.5-VL-7B-Instruct")
    ('a', 'Qwen/Qwen2.5-VL-7B-Instruct')
    """
    return Path(judge).name if Path(judge).is_absolute() or Path(judge).exists() else judge


def _tag_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update(row["tags"] or [UNTAGGED])
    return dict(counts.most_common())


def _anonymous(verification: Verification) -> dict[str, str]:
    """The name of each person -> a pseudonym, numbered by how many pairs they annotated."""
    counts: Counter[str] = Counter()
    for item in verification.annotations.order:
        counts.update(annotation.annotator for annotation in verification.annotations.of_item(item))
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    return {name: f"annotator_{place}" for place, name in enumerate(ranked, start=1)}


def _renamed(summary: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A summary with other names of people, and without the path of the selection."""
    summary = {key: value for key, value in summary.items() if key != "folder"}
    annotators: dict[str, Any] = {}
    for name, facts in summary["annotators"].items():
        person, mark, role = name.partition(" (adjudicator)") if name not in names else (name, "", "")
        annotators[f"{names[person]}{mark}{role}"] = facts
    agreement: dict[str, Any] = {}
    for aspect, facts in summary["agreement"].items():
        pairs = [pair | {"annotators": [names[name] for name in pair["annotators"]]} for pair in facts["pairs"]]
        agreement[aspect] = facts | {"pairs": pairs}
    return {**summary, "annotators": dict(sorted(annotators.items())), "agreement": agreement}


def _annotation_lines(verification: Verification, names: Mapping[str, str]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for item in sorted(verification.annotations.order):
        for annotation in verification.annotations.of_item(item):
            lines.append(annotation.as_dict() | {"annotator": names[annotation.annotator]})
    return lines


def _write(
    target: Path,
    selection: Path,
    pairs: Sequence[Mapping[str, Any]],
    control: Sequence[Mapping[str, Any]],
    annotations: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> None:
    """Write a temporary folder beside the target, and rename it when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent, f".{target.name}.*{PARTIAL}")
    partial = target.with_name(temporary_name(target.name, PARTIAL))
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / IMAGES).mkdir(parents=True)
        for row in (*pairs, *control):
            for image in row.get("images", ()):
                if not (partial / image).is_file():
                    shutil.copyfile(selection / image, partial / image)
        parts = {target.name: pairs} | ({f"{target.name}-control": control} if control else {})
        for name, rows in parts.items():
            write_rows(partial / f"{name}.jsonl", rows)
            write_atomic(partial / f"{name}.yaml", _benchmark_yaml(name, rows, facts))
        write_rows(partial / DECISIONS, annotations)
        write_atomic(partial / CARD, data_card(facts, has_control=bool(control)))
        write_atomic(partial / FACTS, json.dumps(facts, indent=2, allow_nan=False) + "\n")
        replace_folder(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _benchmark_yaml(name: str, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    is_control = name != facts["name"]
    what = f"a random sample of the sources of {facts['name']}" if is_control else "pairs that people have verified"
    content = {
        "_target_": "verified_pairs",
        "version": "1",
        "path": f"{name}.jsonl",
        "expected_items": len(rows),
        "expected_counts": {"source": dict(sorted(Counter(str(row["source"]) for row in rows).items()))},
    }
    lines = [
        f"# {name}: {what}; {len(rows):,} pairs.",
        f"# Run it: basereward eval MODEL --benchmark {name}.yaml",
        f"# Licence: that of the sources. How it was made: {CARD} beside this file.",
    ]
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return "\n".join([*lines, text])


def _foreign(folder: Path) -> list[str]:
    """The files in a folder that `publish` has not written; all of them if it is not the folder of a benchmark."""
    facts = folder / FACTS
    name = read_json_object(facts).get("name") if facts.is_file() else None
    own = {CARD, DECISIONS, FACTS}
    for stem in (f"{name}", f"{name}-control"):
        own |= {f"{stem}.yaml", f"{stem}.jsonl"}
    return foreign_files(folder, lambda path: name is not None and (path in own or _is_image(path)))


def _is_image(path: str) -> bool:
    folder, _, name = path.partition("/")
    return folder == IMAGES and NAME.fullmatch(name) is not None
