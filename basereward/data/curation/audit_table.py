"""Formats audits for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from basereward.data.curation.audit import CountShare, LabelNoise, SourceAudit
from basereward.data.curation.columns import columns


def table(audits: Sequence[SourceAudit]) -> str:
    """Format a line for each source, and a second table with the margins of the sources that have scores.

    Args:
        audits: the statistics of each source.

    >>> from basereward.data.curation.audit import audit
    >>> print(table([audit([], source="empty")]))
    source  groups  responses  decided  ties  with images  longer wins  repeated  prompt chars ...
    empty   0       0          0        0     nan%         -            nan%      -            ...
    """
    header = ["source", "groups", "responses", "decided", "ties", "with images", "longer wins", "repeated"]
    header += ["prompt chars", "winner chars", "loser chars", "languages"]
    text = columns([header, *(_line(audit) for audit in audits)])
    with_scores = [(audit.source, audit.noise) for audit in audits if audit.noise]
    if with_scores:
        # All audits have the same bins.
        edges = [f"{low:g} to {high:g}" for low, high, _ in with_scores[0][1].bins]
        lines = [[source, *_noise(noise)] for source, noise in with_scores]
        text += "\n\n" + columns([["source", "model disagrees", "strongly", *edges], *lines])
    return text


def _line(audit: SourceAudit) -> list[str]:
    # Not the number of groups, because the language may be identified for some of them only.
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
    """Format the median and, in brackets, the lowest and the highest quantile."""
    return "-" if math.isnan(chars[0]) else f"{chars[2]:.0f} ({chars[0]:.0f} to {chars[-1]:.0f})"
