"""Audits the sources of a recipe, and counts what curation would remove from them; nothing is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from basereward.cluster.options import ClusterOptions
from basereward.cluster.shards import ShardedRows
from basereward.data.curation.audit import SourceAudit, audit_sharded
from basereward.data.curation.audit import audit as audit_source
from basereward.data.curation.contamination import OverlapReport
from basereward.data.curation.curate import Curated
from basereward.data.curation.duplicates import PlacedGroup
from basereward.data.curation.sharded import PlacedGroups, ShardedCuration
from basereward.data.module import PreferenceData
from basereward.data.schema.group import Group
from basereward.data.schema.rejections import summary
from basereward.errors import DataError
from basereward.inference.group_scores import ScoresGroups
from basereward.inference.load_model import load
from basereward.inference.sharded_scores import Scores, scores_of, scores_on_cluster
from basereward.io.progress import phase, track
from basereward.model.families.processing import recipe_encoder
from basereward.model.saving.made_checkpoint import backbone_path
from basereward.recipe.schema import CurationRecipe, Recipe
from basereward.runs.resolve_model import resolve_model
from basereward.training.build import build_curation, build_data
from basereward.training.data_summary import preview_rejections_file, recipe_shards


def audit(recipe: Recipe, *, model: str | None = None, cluster: ClusterOptions | None = None) -> dict[str, Any]:
    """Audit every source over its usable training groups, before curation.

    Args:
        recipe: whose sources are audited.
        model: a model that `load` opens; its disagreement with the labels is counted as label noise.
        cluster: read and score the sources in shards on this cluster; None: on this machine. The result is the same.
            Only the judge of the recipe scores on this machine.

    Returns:
        `sources`: of each the fields of `SourceAudit`, and `unscored`, the number of groups that the model cannot
        score. `lost`: of each the rejected rows by reason. `model`. `curation`: None when the recipe has none, else
        `left_out`, rows by source and reason; `overlaps`, one row per source and benchmark; `unread`, the number of
        images of each source that could not be compared; `relabelled`, the changes by the judge of the recipe.

    Raises:
        BaseRewardError: the recipe or the data have an error. Too many rejected rows are no error here; they are in
            the result.
    """
    if recipe.data.streaming is not None:
        raise DataError("streamed sources cannot be audited before they are read; remove data.streaming to audit them")
    curation = build_curation(recipe.data.curation)
    scorer = None
    if model is not None and cluster is not None:
        # The workers load the model. A missing model is an error here, before any row is read.
        resolve_model(model)
    elif model is not None:
        with phase("loading the model"):
            scorer = load(model)
    with recipe_shards(recipe, cluster) as rows:
        data = _read_uncurated(recipe, rows)
        sources = {}
        for name in data.sources:
            if rows is None:
                sources[name] = _audit_source(data, name, scorer=scorer)
            else:
                sources[name] = _audit_sharded(data, name, rows, model=model)
        curation_result = None
        if curation is not None:
            # A function, because curation reads the groups several times, and they do not fit in memory.
            num_groups = sum(map(len, data.lengths["train"].values()))
            sharded = None if rows is None else ShardedCuration(data.placed(), rows)
            curated = curation(lambda: track(_placed_groups(data), "comparing rows", total=num_groups), sharded=sharded)
            curation_result = _curation_result(curated, benchmarks=recipe.data.curation.against)
    return {"sources": sources, "lost": summary(data.rejected), "model": model, "curation": curation_result}


def _read_uncurated(recipe: Recipe, rows: ShardedRows | None) -> PreferenceData:
    """Read the data of a recipe without its curation, whatever the share of rejected rows."""
    uncurated = replace(recipe, data=replace(recipe.data, curation=CurationRecipe()))
    encoder = recipe_encoder(recipe, path=backbone_path(recipe.model.backbone))
    listed_in = preview_rejections_file(uncurated.name)
    data = build_data(uncurated, encoder=encoder, rejections_file=listed_in, max_lost=1.0, rows=rows)
    data.setup()
    return data


def _groups(data: PreferenceData, name: str) -> Iterator[Group]:
    """Read the usable training groups of a source one by one."""
    groups = data.sources[name].groups("train")
    return (groups[index] for index in data.lengths["train"][name].index.tolist())


def _placed_groups(data: PreferenceData) -> Iterator[PlacedGroup]:
    for name in data.sources:
        indices = data.lengths["train"][name].index.tolist()
        yield from ((name, index, group) for index, group in zip(indices, _groups(data, name), strict=True))


def _audit_source(data: PreferenceData, name: str, *, scorer: ScoresGroups | None) -> dict[str, Any]:
    num_groups = len(data.lengths["train"][name])
    scores: list[Scores] | None = None
    if scorer is not None:
        scores = list(track(scores_of(_groups(data, name), scorer=scorer), f"scoring {name}", total=num_groups))
    audited = track(_groups(data, name), f"auditing {name}", total=num_groups)
    return _fields(audit_source(audited, source=name, scores=scores), scores)


def _audit_sharded(data: PreferenceData, name: str, rows: ShardedRows, *, model: str | None) -> dict[str, Any]:
    placed = PlacedGroups([(name, data.sources[name].groups("train"), data.lengths["train"][name].index)])
    scores: list[Scores] | None = None
    if model is not None:
        scores = list(scores_on_cluster(placed, rows, model=model, what=f"scoring {name}"))
    return _fields(audit_sharded(placed, rows, source=name, scores=scores), scores)


def _fields(statistics: SourceAudit, scores: Sequence[Scores] | None) -> dict[str, Any]:
    """The audit of a source as JSON values, with the number of groups that the model cannot read."""
    fields = _tuples_to_lists(asdict(statistics))
    return {**fields, "unscored": sum(group_scores is None for group_scores in scores or ())}


def _curation_result(curated: Curated, *, benchmarks: Iterable[str]) -> dict[str, Any]:
    report = curated.overlaps
    overlaps: list[dict[str, Any]] = []
    unread: dict[str, int] = {}
    if report is not None:
        overlaps = _overlaps(report, benchmarks=list(benchmarks))
        unread = {name: count for name, count in report.unread.items() if count}
    return {
        "left_out": summary(list(curated.rejected.values())),
        "overlaps": overlaps,
        "unread": unread,
        "relabelled": None if curated.relabelled is None else asdict(curated.relabelled),
    }


def _overlaps(report: OverlapReport, *, benchmarks: list[str]) -> list[dict[str, Any]]:
    """One row per source and benchmark."""
    table = []
    for source, num_rows in report.rows.items():
        for benchmark in benchmarks:
            table.append(
                {
                    "source": source,
                    "benchmark": benchmark,
                    "rows": num_rows,
                    "contaminated": report.contaminated[source, benchmark],
                    "kinds": dict(report.kinds.get((source, benchmark), Counter())),
                }
            )
    return table


def _tuples_to_lists(value: Any) -> Any:
    """Replace tuples by lists, as JSON has them."""
    if isinstance(value, dict):
        return {key: _tuples_to_lists(inner) for key, inner in value.items()}
    return [_tuples_to_lists(inner) for inner in value] if isinstance(value, list | tuple) else value
