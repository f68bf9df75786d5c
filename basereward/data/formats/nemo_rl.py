"""The format of NeMo RL: a context, and completions with ranks, 0 for the best.

https://github.com/NVIDIA-NeMo/RL/blob/main/docs/guides/rm.md
"""

from __future__ import annotations

from typing import Any

from basereward.data.formats import Cells, Format
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected


def _are_ranked(row: Cells) -> bool:
    completions = row["completions"]
    return isinstance(completions, list) and bool(completions) and all(map(_is_ranked, completions))


def _is_ranked(completion: object) -> bool:
    return isinstance(completion, dict) and {"rank", "completion"} <= completion.keys()


def _ranked(row: Cells) -> dict[str, Any]:
    completions = row["completions"]
    ranks = [completion["rank"] for completion in completions]
    if any(isinstance(rank, bool) or not isinstance(rank, int) for rank in ranks):
        raise RowRejected("bad_ranking", f"the ranks of `completions` are {shown(ranks)}; integers are needed")
    return {
        "prompt": row["context"],
        "responses": [completion["completion"] for completion in completions],
        "ranking": ranks,
    }


RANKED = Format(
    "nemo_rl",
    "NeMo RL",
    ("context", "completions"),
    matches=_are_ranked,
    convert=_ranked,
    nested={"completions": ("rank", "completion")},
    note="completions with `rank`, 0 for the best; more than two are used too",
    example={
        "context": [{"role": "user", "content": "2 + 2?"}],
        "completions": [
            {"rank": 0, "completion": [{"role": "assistant", "content": "4"}]},
            {"rank": 1, "completion": [{"role": "assistant", "content": "5"}]},
        ],
    },
)
