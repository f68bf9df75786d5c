"""Results as a person reads them, line by line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from basereward.cli.text.numbers import number

if TYPE_CHECKING:
    from basereward.data.curation.audit import SourceAudit

ACCURACY_AND_COST = ("/pair_accuracy", "test/tokens_per_pair")


def check(result: dict[str, Any]) -> Iterator[str]:
    """The cells, and below them the faults; then what each cell costs, where that was counted."""
    from basereward.recipe import Fault
    from basereward.recipe.table import check_table

    cells = [(cell["name"], cell["overrides"]) for cell in result["cells"]]
    yield from check_table(cells, [Fault(**fault) for fault in result["faults"]])
    for each in result["ensembles"]:
        text = f"; for text {', '.join(each['text'])}" if each["text"] else ""
        yield f"  ensemble {each['name']}: {each['how']} of {', '.join(each['members'])}{text}"
    if any("cost" in cell for cell in result["cells"]):
        from basereward.cli.text.cost import cost

        yield ""
        yield from cost(result["cells"])


def data(result: dict[str, Any]) -> Iterator[str]:
    """A row a source, then the whole, then how the rows of each source are read."""
    from basereward.cli.text.reading import reading
    from basereward.recipe.table import table

    head = ("source", "train", "val", "test", "images", "tokens", "of groups", "of tokens", "lost")
    rows = []
    for name, source in result["sources"].items():
        lost = _counts(source["lost"])
        numbers = [*source["groups"].values(), source["images"], source["tokens"]]
        shares = [f"{source[key]:.2%}" for key in ("share_of_groups", "share_of_tokens")]
        rows.append((name, *(f"{each:,}" for each in numbers), *shares, lost or "-"))
    yield from (*table(head, rows), "")
    modality = ", ".join(f"{kind} {share:.2%}" for kind, share in result["modality"].items())
    yield "an epoch: {epoch_groups:,} groups, {epoch_tokens:,} tokens; ".format(**result) + modality
    passes = "{steps:,} steps of {groups_per_step} groups in {forwards_per_step} forward passes".format(**result)
    yield f"{passes}; padding {result['padding']:.2%}"
    for fault in result["faults"]:
        yield f"train refuses: {fault['key']}: {fault['message']}"
    for name, source in result["sources"].items():
        yield ""
        yield from reading(name, source["reading"])


def audit(result: dict[str, Any]) -> Iterator[str]:
    """A row a source; what cannot be used or scored; then what curation would leave out, and the overlaps."""
    from basereward.data.curation.audit_table import table as audit_table
    from basereward.recipe.table import table

    yield audit_table([_source_audit(told) for told in result["sources"].values()])
    yield from (f"lost in {source}: {_counts(reasons)}" for source, reasons in result["lost"].items())
    for name, told in result["sources"].items():
        if told["unscored"]:
            yield f"{told['unscored']} groups of {name} cannot be scored by {result['model']}"
    curation = result["curation"]
    if curation is None:
        return
    yield ""
    left_out = curation["left_out"].items()
    yield from (f"curation leaves out of {name}: {_counts(reasons)}" for name, reasons in left_out)
    if not left_out:
        yield "curation leaves nothing out"
    if curation["relabelled"] is not None:
        told = "the judge drops {num_dropped} of {num_preferences} preferences and weighs {num_down_weighted} down"
        yield told.format(**curation["relabelled"])
    if curation["overlaps"]:
        head = ("source", "benchmark", "rows", "in it", "by")
        cells = ("source", "benchmark", "rows", "contaminated")
        rows = [(*(str(row[cell]) for cell in cells), _counts(row["kinds"]) or "-") for row in curation["overlaps"]]
        yield from ("", *table(head, rows))
    yield from (f"{count} images of {name} could not be compared" for name, count in curation["unread"].items())


def _source_audit(told: dict[str, Any]) -> SourceAudit:
    from basereward.data.curation.audit import CountShare, LabelNoise, SourceAudit

    shares = {name: CountShare(**told[name]) for name in ("longer_wins", "repeated")}
    noise = told["noise"]
    if noise is not None:
        noise = LabelNoise(
            threshold=noise["threshold"],
            disagrees=CountShare(**noise["disagrees"]),
            strongly=CountShare(**noise["strongly"]),
            bins=tuple((low, high, count) for low, high, count in noise["bins"]),
        )
    rest = {name: value for name, value in told.items() if name != "unscored"}
    return SourceAudit(**{**rest, **shares, "noise": noise})


def _counts(counts: dict[str, int]) -> str:
    """
    >>> _counts({"duplicate": 3, "contaminated": 1})
    'duplicate 3, contaminated 1'
    """
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def train(result: dict[str, Any]) -> Iterator[str]:
    """The measures on the held-out rows, what was left out, and where the model is."""
    from basereward.recipe.table import table

    if result["metrics"]:
        yield from table(("metric", "value"), [(name, number(value)) for name, value in result["metrics"].items()])
    else:
        yield "no rows were held out for the test, so nothing was measured"
    for source, reasons in result["skipped"].items():
        for reason, count in reasons.items():
            yield f"skipped in {source}: {count} ({reason})"
    yield f"run {result['run_id']} took {result['seconds']:.0f} s; its model: {result['model']}"


def sweep(result: dict[str, Any]) -> Iterator[str]:
    """A row a cell, a column a measure of accuracy, and what a pair's scores cost."""
    from basereward.recipe.table import table

    cells = [*result["cells"], *result.get("ensembles", [])]
    measures = dict.fromkeys(name for cell in cells for name in cell["metrics"] if name.endswith(ACCURACY_AND_COST))
    timed = ["seconds_per_pair"] if any(cell.get("pair_s") for cell in cells) else []
    rows = [
        (
            cell["name"],
            cell["status"],
            *(number(cell["metrics"].get(name)) for name in measures),
            *(number(cell.get("pair_s")) for _ in timed),
            cell["run_id"] or "-",
        )
        for cell in cells
    ]
    yield from (*table(("cell", "status", *measures, *timed, "run"), rows), "")
    if result["differences"] and sum(name.endswith("/pair_accuracy") for name in measures) > 2:
        yield "test/pair_accuracy is the mean over the sources."
    yield from result["differences"]
    yield from (f"{cell['name']} failed: {cell.get('error')}" for cell in cells if cell["status"] == "failed")
    yield ", ".join(f"{count} {status}" for status, count in Counter(row[1] for row in rows).items())


def score(result: dict[str, Any]) -> Iterator[str]:
    """How many, how fast, and where they are."""
    yield "{responses} responses of {rows} rows scored in {seconds:.1f} s: {out}".format(**result)
    took = "{responses_per_s:.1f} responses a second; {forwards} forward passes of {forward_ms:.0f} ms"
    yield (took + " (median; 95 % took at most {forward_ms_95:.0f} ms)").format(**result)


def evaluate(result: dict[str, Any]) -> Iterator[str]:
    """Of every benchmark a table a variant: the measure, what it counted, how sure it is, and what rules would get."""
    from basereward.recipe.table import table

    for told in result["evaluations"]:
        votes = f"; {told['votes']} votes an item" if told["votes"] else ""
        order = f"; answers shown in the order: {told['order']}" if told["order"] else ""
        if cost := told.get("cost"):
            yield (
                "{requests} requests, {unread} verdicts unread, {prompt_tokens:,} tokens read, {tokens:,} written"
            ).format(**cost)
        yield "{benchmark}, {name}: {scored} of {items} items, {kind}".format(**told) + votes + order
        yield from (f"lost: {count} ({reason})" for reason, count in told.get("lost", {}).items())
        whole = told.get("expected") or told["items"]
        part = f" ({told['scored']} of {whole} items)" if told.get("partial") else ""
        if part:
            yield f"PARTIAL: {told['partial']}. Published values are of the whole benchmark and do not compare."
        for variant, measures in result[told["benchmark"]].items():
            rules = list(dict.fromkeys(rule for measure in measures.values() for rule in measure["baselines"]))
            rows = [
                (metric, *_measure(measure), *(percent(measure["baselines"].get(rule)) for rule in rules))
                for metric, measure in measures.items()
            ]
            head = (f"{variant}{part}", "%", "of", "95 %", "ties", "undecided", *rules)
            yield from ("", *table(head, rows))
        yield from ("", f"kept in {told['out']}")


def _measure(measure: dict[str, Any]) -> tuple[str, ...]:
    numerator, denominator = (f"{measure[name]:.6g}" for name in ("numerator", "denominator"))
    interval = f"{percent(measure['low'])}-{percent(measure['high'])}" if measure["interval"] else "-"
    return (
        percent(measure["value"]),
        f"{numerator}/{denominator}",
        interval,
        f"{measure['ties']}",
        f"{measure['undecided']}",
    )


def percent(share: float | None) -> str:
    """
    >>> percent(0.82160), percent(None)
    ('82.16', '-')
    """
    return "-" if share is None else f"{100 * share:.2f}"


def report(result: dict[str, Any]) -> Iterator[str]:
    """Where the page and what lies beside it are."""
    for page in result.get("pages", [result]):
        if "experiment" in page:
            kept = " (as it was)" if page.get("kept") else ""
            yield "{experiment}: {finished} of {cells} finished; page: {out}{0}; numbers: {csv}".format(kept, **page)
            if others := page.get("others"):
                yield f"{page['experiment']} has {'; '.join(others)}: give the same to report them"
    yield from (f"no page of {name}: {reason}" for name, reason in result.get("refused", {}).items())
    if "pages" in result:
        yield f"index: {result['out']}"
    if "evaluations" in result:
        yield "evaluations: {evaluations}; page: {out}; numbers: {csv}".format(**result)


def annotate(result: dict[str, Any]) -> Iterator[str]:
    """How many pairs, how hard they were, and what it cost."""
    yield (
        "{agreed} of {pairs} pairs of the part {split} agreed, {disagreed} did not; {unread} texts had no verdict, "
        "{bare} no reasoning"
    ).format(**result)
    yield from (f"lost: {count} ({reason})" for reason, count in result["lost"].items())
    yield "agreed by attempt: " + ", ".join(f"{number}: {count}" for number, count in result["by_attempts"].items())
    rate = f"{result['fresh'] / result['seconds']:.2f} a second" if result["seconds"] > 1 else "at once"
    yield "{answers} texts, {prompt_tokens:,} tokens read and {tokens:,} written, ".format(**result) + rate
    yield "kept in {out}".format(**result)


def look(result: dict[str, Any]) -> Iterator[str]:
    """How many rows, what was left out, and where the page is."""
    yield from (f"lost: {count} ({reason})" for reason, count in result["lost"].items())
    yield "{rows} rows are shown in {out}; {read} of {total} were read".format(**result)


def ls(result: dict[str, Any]) -> Iterator[str]:
    """Names and summaries."""
    from basereward.recipe.table import table

    ((kind, entries),) = result.items()
    rows = [tuple(entry.values()) for entry in entries]
    return table((), rows) if rows else iter([f"there are no {kind}"])
