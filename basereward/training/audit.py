"""What the sources of a recipe are like, and what curation would leave out of them; nothing is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

from basereward.data.curation.audit import audit as audit_source
from basereward.data.curation.contamination import OverlapReport
from basereward.data.curation.curate import Curated
from basereward.data.curation.duplicates import PlacedGroup
from basereward.data.module import PreferenceData
from basereward.data.schema.group import Group
from basereward.data.schema.rejections import RowRejected, summary
from basereward.errors import DataError
from basereward.inference.group_scores import ScoresGroups
from basereward.inference.score_file import load
from basereward.model.families.processing import recipe_encoder
from basereward.model.saving.made_checkpoint import backbone_path
from basereward.recipe.schema import CurationRecipe, Recipe
from basereward.training.build import build_curation, build_data
from basereward.training.data_summary import lost_file

TOGETHER = 64  # groups that are handed to a model at once


def audit(recipe: Recipe, *, model: str | None = None) -> dict[str, Any]:
    """Audits every source over its usable training groups, before anything is curated.

    Args:
        model: what `load` opens; its disagreement with the labels is counted as label noise.

    Returns:
        `sources`: for each the fields of `SourceAudit`, and `unscored`, the groups that the model cannot score; `lost`:
        for each the rows that cannot be used, by reason; `model`; `curation`: None where the recipe asks for none, else
        `left_out`, rows by source and reason, `overlaps`, a row for each source and benchmark, `unread`, the images of
        each source that could not be compared, and `relabelled`, what the recipe's judge does.

    Raises:
        BaseRewardError: anything that the recipe or the data have wrong, but for too many lost rows, which are told.
    """
    if recipe.data.streaming is not None:
        raise DataError("data.streaming knows nothing of its sources before they are read; leave it out to audit them")
    curation = build_curation(recipe.data.curation)
    scorer = load(model) if model else None
    data = _read(recipe)
    sources = {name: _audited(data, name, scorer=scorer) for name in data.sources}
    curated = curation(lambda: _placed(data)) if curation is not None else None
    told = None if curated is None else _curation(curated, benchmarks=recipe.data.curation.against)
    return {"sources": sources, "lost": summary(data.lost), "model": model, "curation": told}


def _read(recipe: Recipe) -> PreferenceData:
    plain = replace(recipe, data=replace(recipe.data, curation=CurationRecipe()))
    encoder = recipe_encoder(recipe, path=backbone_path(recipe.model.backbone))
    data = build_data(plain, encoder=encoder, lost_file=lost_file(plain.name), max_lost=1.0)
    data.setup()
    return data


def _groups(data: PreferenceData, name: str) -> Iterator[Group]:
    groups = data.sources[name].groups("train")
    return (groups[index] for index in data.lengths["train"][name].index.tolist())


def _placed(data: PreferenceData) -> Iterator[PlacedGroup]:
    for name in data.sources:
        indices = data.lengths["train"][name].index.tolist()
        yield from ((name, index, group) for index, group in zip(indices, _groups(data, name), strict=True))


def _audited(data: PreferenceData, name: str, *, scorer: ScoresGroups | None) -> dict[str, Any]:
    scores = None if scorer is None else list(_scores(_groups(data, name), scorer=scorer))
    told = _plain(asdict(audit_source(_groups(data, name), source=name, scores=scores)))
    return {**told, "unscored": sum(own is None for own in scores or ())}


def _scores(groups: Iterable[Group], *, scorer: ScoresGroups) -> Iterator[list[float] | None]:
    """The scores of every group; None for one that this model cannot read, as when it takes fewer tokens."""
    groups = iter(groups)
    while some := list(islice(groups, TOGETHER)):
        try:
            scored: list[list[float] | None] = list(scorer.score_groups(some))
        except DataError as error:
            if not isinstance(error.__cause__, RowRejected):
                raise
            scored = [_score_one(group, scorer=scorer) for group in some]
        yield from scored


def _score_one(group: Group, *, scorer: ScoresGroups) -> list[float] | None:
    try:
        return next(iter(scorer.score_groups([group])))
    except DataError as error:
        if isinstance(error.__cause__, RowRejected):
            return None
        raise


def _curation(curated: Curated, *, benchmarks: Iterable[str]) -> dict[str, Any]:
    report = curated.overlaps
    return {
        "left_out": summary(list(curated.lost.values())),
        "overlaps": [] if report is None else _overlaps(report, benchmarks=list(benchmarks)),
        "unread": {} if report is None else {name: count for name, count in report.unread.items() if count},
        "relabelled": None if curated.relabelled is None else asdict(curated.relabelled),
    }


def _overlaps(report: OverlapReport, *, benchmarks: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "source": source,
            "benchmark": name,
            "rows": rows,
            "contaminated": report.contaminated[source, name],
            "kinds": dict(report.kinds.get((source, name), Counter())),
        }
        for source, rows in report.rows.items()
        for name in benchmarks
    ]


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
