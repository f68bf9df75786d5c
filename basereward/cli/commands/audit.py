"""`basereward audit`: what the sources of a recipe are like, and what curation would leave out."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from basereward.cli.command import LOADING_LIBRARIES, SUCCESS, Command, CommandResult
from basereward.cli.options import MODEL_FORMS, add_cluster_arguments, add_recipe_arguments, parse_cluster
from basereward.cli.tables import format_counts, format_table
from basereward.io.progress import phase

if TYPE_CHECKING:
    from basereward.data.curation.audit import SourceAudit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the recipe and the model that is compared with the labels.

    >>> parser = argparse.ArgumentParser()
    >>> add_arguments(parser)
    >>> parser.parse_args(["basereward"]).model is None
    True
    """
    add_recipe_arguments(parser)
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help=f"count the preferences with which a trained model disagrees: {MODEL_FORMS} (default: none)",
    )
    add_cluster_arguments(parser)


def check_arguments(arguments: argparse.Namespace) -> None:
    """
    Raises:
        BaseRewardError: as `parse_cluster`.

    >>> check_arguments(argparse.Namespace(on="local", address=None, shards=None, workers=None))
    """
    parse_cluster(arguments)


def run(arguments: argparse.Namespace) -> CommandResult:
    """Reads every source and describes it."""
    from basereward.recipe import load_recipe

    recipe = load_recipe(arguments.experiment, profile=arguments.profile, overrides=arguments.overrides)
    # Only after the recipe is found right: this import takes seconds.
    with phase(LOADING_LIBRARIES):
        from basereward.training.audit import audit

    return audit(recipe, model=arguments.model, cluster=parse_cluster(arguments)), SUCCESS


def format_text(result: dict[str, Any]) -> Iterator[str]:
    """A table of the sources, what cannot be used or scored, and what curation would leave out."""
    from basereward.data.curation.audit_table import table as audit_table

    yield audit_table([_source_audit(values) for values in result["sources"].values()])
    for name, reasons in result["lost"].items():
        yield f"lost in {name}: {format_counts(reasons)}"
    for name, values in result["sources"].items():
        if values["unscored"]:
            yield f"{values['unscored']} groups of {name} cannot be scored by {result['model']}"
    if result["curation"] is not None:
        yield ""
        yield from _format_curation(result["curation"])


def _format_curation(curation: Mapping[str, Any]) -> Iterator[str]:
    for name, reasons in curation["left_out"].items():
        yield f"curation leaves out of {name}: {format_counts(reasons)}"
    if not curation["left_out"]:
        yield "curation leaves nothing out"
    if curation["relabelled"] is not None:
        template = "the judge drops {num_dropped} of {num_preferences} preferences and weighs {num_down_weighted} down"
        yield template.format(**curation["relabelled"])
    if curation["overlaps"]:
        head = ("source", "benchmark", "rows", "in it", "by")
        rows = [_overlap_row(overlap) for overlap in curation["overlaps"]]
        yield from ("", *format_table(head, rows))
    # An image that cannot be read may still be a duplicate, so its number is shown.
    for name, count in curation["unread"].items():
        yield f"{count} images of {name} could not be compared"


def _overlap_row(overlap: Mapping[str, Any]) -> tuple[str, ...]:
    columns = [str(overlap[key]) for key in ("source", "benchmark", "rows", "contaminated")]
    return (*columns, format_counts(overlap["kinds"]) or "-")


def _source_audit(values: Mapping[str, Any]) -> SourceAudit:
    """The object that `audit` has made into plain values for JSON."""
    from basereward.data.curation.audit import CountShare, LabelNoise, SourceAudit

    # `unscored` is a fact of the model and the source together, and no field of the audit of the source.
    fields = {name: value for name, value in values.items() if name != "unscored"}
    for name in ("longer_wins", "repeated"):
        fields[name] = CountShare(**values[name])
    noise = values["noise"]
    if noise is not None:
        fields["noise"] = LabelNoise(
            threshold=noise["threshold"],
            disagrees=CountShare(**noise["disagrees"]),
            strongly=CountShare(**noise["strongly"]),
            bins=tuple((low, high, count) for low, high, count in noise["bins"]),
        )
    return SourceAudit(**fields)


COMMAND = Command(
    summary="describe the sources: lengths, languages, doubtful labels, repeated rows, overlaps",
    activity="audit: reading the recipe of {experiment} on profile {profile}",
    examples=("basereward audit basereward", "basereward audit basereward --model runs/my_run/model"),
    add_arguments=add_arguments,
    check_arguments=check_arguments,
    run=run,
    format_text=format_text,
)
