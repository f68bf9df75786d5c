"""Audits as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from basereward.data.curation.audit import CountShare, LabelNoise, SourceAudit
from basereward.data.curation.columns import columns


def table(audits: Sequence[SourceAudit]) -> str:
    """A line for each source; where scores were given, the margins of each below."""
    header = ["source", "groups", "responses", "decided", "ties", "with images", "longer wins", "repeated"]
    header += ["prompt chars", "winner chars", "loser chars", "languages"]
    text = columns([header, *(_line(audit) for audit in audits)])
    noise = [[audit.source, *_noise(audit.noise)] for audit in audits if audit.noise]
    if noise:
        first = next(audit.noise for audit in audits if audit.noise)
        edges = [f"{low:g} to {high:g}" for low, high, _ in first.bins]
        text += "\n\n" + columns([["source", "model disagrees", "strongly", *edges], *noise])
    return text


def _line(audit: SourceAudit) -> list[str]:
    total = sum(audit.languages.values())
    languages = [f"{code} {count / total:.0%}" for code, count in list(audit.languages.items())[:3]]
    return [
        audit.source,
        str(audit.num_groups),
        str(audit.num_responses),
        str(audit.num_decided),
        str(audit.num_ties),
        f"{audit.with_images.value:.1%}",
        _share(audit.longer_wins),
        f"{audit.repeated.value:.1%}",
        *(_middle(chars) for chars in (audit.prompt_chars, audit.winner_chars, audit.loser_chars)),
        ", ".join(languages),
    ]


def _noise(noise: LabelNoise) -> Iterable[str]:
    yield _share(noise.disagrees)
    yield f"{_share(noise.strongly)} below -{noise.threshold:g}"
    yield from (str(count) for _, _, count in noise.bins)


def _share(share: CountShare) -> str:
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})" if share.total else "-"


def _middle(chars: Sequence[float]) -> str:
    """The median, and the quantiles around it."""
    return "-" if math.isnan(chars[0]) else f"{chars[2]:.0f} ({chars[0]:.0f} to {chars[-1]:.0f})"
