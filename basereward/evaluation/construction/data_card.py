"""The data card of a published benchmark: what it is, how it was made, who checked it, and how hard it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from basereward.errors import format_count


def data_card(facts: Mapping[str, Any], *, has_control: bool) -> str:
    """Write the card as Markdown, from the counts that `publish` has collected.

    Args:
        facts: the content of `construction.json`.
        has_control: whether there is a control sample.
    """
    lines = [
        *_head(facts, has_control=has_control),
        *_selection(facts["selection"]),
        *_verification(facts["verification"]),
        *_contents(facts),
        *_hardness(facts["hardness"]),
        *_limits(facts),
    ]
    return "\n".join(lines) + "\n"


def card_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table in Markdown.

    >>> list(card_table(["tag", "pairs"], [["a|b", "3"]]))
    ['| tag | pairs |', '|---|---|', '| a\\\\|b | 3 |']
    """
    yield f"| {' | '.join(map(_cell, head))} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(map(_cell, row))} |"


def percent_interval(value: float | None, low: float | None, high: float | None) -> str:
    """A share in percent with its interval.

    >>> percent_interval(0.25, 0.125, 0.5), percent_interval(None, None, None)
    ('25.0 % (12.5 to 50.0)', 'not defined')
    """
    if value is None:
        return "not defined"
    interval = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
    return f"{100 * value:.1f} %{interval}"


def _cell(text: str) -> str:
    # A bar would end the cell, and an angle bracket would begin markup.
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _head(facts: Mapping[str, Any], *, has_control: bool) -> Iterator[str]:
    name = facts["name"]
    yield from (f"# {_cell(name)}", "")
    yield f"{facts['pairs']:,} pairs of responses. Judges selected them: all preferred the worse response. People"
    yield "have then verified which response is better."
    yield ""
    yield from ("```bash", f"basereward eval MODEL --benchmark {name}.yaml")
    if has_control:
        yield f"basereward eval MODEL --benchmark {name}-control.yaml   # a random sample of the same sources"
    yield from ("```", "")
    yield f"Rows are in `{name}.jsonl`: `prompt`, two `responses`, `preferences` (index of the better, then of the"
    yield "worse), `images`, `source`, and `tags`, the kinds of errors in the worse response. Every decision is"
    yield "in `annotations.jsonl`, and every count of this card in `construction.json`."
    yield ""


def _selection(selection: Mapping[str, Any]) -> Iterator[str]:
    settings = selection["settings"]
    options, rule = settings["options"], settings["rule"]
    yield from ("## Selection", "")
    yield f"- {selection['read']:,} preferences and rows were read, and {selection['candidates']:,} pairs were judged."
    for reason, number in selection["left_out"].items():
        yield f"- Not judged: {number:,} ({reason})."
    if options["length_control"] is not None:
        yield f"- The lengths in characters of both responses differ by less than {options['length_control']:g} of the"
        yield "  shorter one."
    wrong = "all of its votes are" if rule["wrong_by"] == "unanimous" else "more than half of its votes are"
    yield f"- A judge is wrong if {wrong}. A vote that cannot be read is not wrong."
    yield f"- {selection['kept']:,} pairs were kept, on which all judges are wrong:"
    counts = ", ".join(f"{reason} {number:,}" for reason, number in selection["decisions"].items())
    yield f"  {counts}."
    yield ""
    head = ("judge", "kind", "votes", "accuracy on all pairs (95 %)", "undecided", "votes not read")
    rows: list[list[str]] = []
    for judge, described in zip(selection["judges"], settings["judges"], strict=True):
        accuracy = judge["accuracy"]
        shown = percent_interval(accuracy["value"], accuracy["low"], accuracy["high"])
        votes = str(described.get("votes", 1))
        rows.append(
            [judge["name"], described["kind"], votes, shown, str(judge["undecided"]), str(judge["unread_votes"])]
        )
    yield from (*card_table(head, rows), "")
    rows = [[source, f"{row['candidates']:,}", f"{row['kept']:,}"] for source, row in selection["by_source"].items()]
    yield from (*card_table(("source", "judged", "kept"), rows), "")


def _verification(summary: Mapping[str, Any]) -> Iterator[str]:
    plan, dropped, seconds = summary["plan"], summary["dropped"], summary["seconds"]
    yield from ("## Verification", "")
    yield f"- {summary['verified']:,} of {summary['pairs']:,} pairs were verified, and {summary['kept']:,} are good."
    yield f"- Dropped: {dropped['label_wrong']:,} with a wrong label, {dropped['ambiguous']:,} that are ambiguous."
    # Counted, and not the planned share: that of a few pairs is rounded, and pairs may be left unverified.
    several = summary["agreement"]["label"]["items"]
    planned = f"planned: {plan['overlap']:.0%} of all pairs, by {plan['raters']} people each"
    yield f"- {several:,} of the pairs were annotated by several people ({planned})."
    yield f"- An adjudicator decided {format_count(summary['adjudicated'], 'disagreement')}."
    if seconds["median"] is not None:
        yield f"- Median time of a decision: {seconds['median']:.1f} s; sum: {seconds['sum'] / 3600:.2f} h."
    yield ""
    rows: list[list[str]] = []
    for aspect, agreement in summary["agreement"].items():
        numbers = [_kappa(agreement["cohen"]), _kappa(agreement["fleiss"])]
        exact = agreement["exact"]
        shown = percent_interval(exact["value"], exact["low"], exact["high"])
        rows.append([aspect, str(agreement["items"]), shown, *numbers])
    head = ("agreement on", "pairs", "exact (95 %)", "Cohen's kappa, mean of annotator pairs", "Fleiss' kappa")
    yield from (*card_table(head, rows), "")
    rows = [[name, str(row["pairs"]), f"{row['seconds']:.1f}"] for name, row in summary["annotators"].items()]
    yield from (*card_table(("annotator", "pairs", "median seconds"), rows), "")


def _kappa(estimate: Mapping[str, float | None]) -> str:
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    if value is None:
        return "not defined"
    return f"{value:.2f}" + ("" if low is None or high is None else f" ({low:.2f} to {high:.2f})")


def _contents(facts: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## Contents", "")
    for kind in ("source", "tag"):
        counts = facts[f"{kind}s"]
        rows = [[name, f"{number:,}", f"{number / facts['pairs']:.1%}"] for name, number in counts.items()]
        yield from (*card_table((kind, "pairs", "share"), rows), "")


def _hardness(hardness: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not hardness:
        return
    yield from ("## Hardness", "")
    yield "Accuracies of judges that did not select, here and on the control sample:"
    yield ""
    rows: list[list[str]] = []
    for judge in hardness:
        accuracies = [percent_interval(judge[part], None, None) for part in ("pairs", "control")]
        rows.append([judge["name"], *accuracies, percent_interval(judge["difference"], judge["low"], judge["high"])])
    yield from (*card_table(("judge", "here", "control sample", "difference (95 %)"), rows), "")


def _limits(facts: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## Limits", "")
    yield "- The licence is that of the sources; it is not repeated here, and must be added before this is shared."
    yield "- The judges that selected are wrong on all pairs by construction. Models of their families may be too."
    yield "- Pairs on which a judge is right are left out, so accuracies here say nothing about such pairs."
    if facts["left_out"]:
        yield f"- {facts['left_out']:,} selected pairs were not verified, and are left out."
