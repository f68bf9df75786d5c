"""The held-out rows of a run, which the policy answers greedily in validations and in the test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from basereward.data.lazy_table import LazyTable
from basereward.data.schema.group import Group, Split
from basereward.model.generation.round_robin import scores
from basereward.model.generation.verdicts import parse_verdict
from basereward.rl.rewards.contracts import RolloutReward
from basereward.rl.running.rollout_rows import RolloutRows, evenly_spread
from basereward.runs.score_files import ScoredGroup

AnswerRows = Callable[[Sequence[Mapping[str, Any]]], list[str]]
"""Gives a text for each row; on several processes it is called on all of them with the same rows."""
UNREAD = ("prompt", "images")
"""Columns of rows that only the policy reads; images of many rows would fill the memory."""


class HeldOutRows:
    """The held-out rows of all sources that have some.

    Args:
        reward: makes the rows, and measures their answers.
        rows: of the run.
        most: groups of a split of each source; None: all.
        plain: whether the content of messages must be text, for a model that reads no images.

    Attributes:
        answered: the rows and texts of each source at the last call.
    """

    def __init__(self, reward: RolloutReward, rows: RolloutRows, *, most: int | None, plain: bool) -> None:
        self.reward = reward
        self.groups: dict[Split, dict[str, Sequence[Group]]] = {"val": {}, "test": {}}
        self._tables: dict[Split, dict[str, LazyTable]] = {"val": {}, "test": {}}
        self.answered: dict[str, tuple[list[dict[str, Any]], list[str]]] = {}
        for split, of_split in self._tables.items():
            for name in rows.sources:
                groups = evenly_spread(rows.groups(split, name), most)
                if len(groups):
                    table = reward.held_out_rows(groups)
                    of_split[name] = plain_rows(table) if plain else table
                    self.groups[split][name] = groups

    def has(self, split: Split) -> bool:
        """Whether a split has rows."""
        return bool(self._tables[split])

    def __call__(self, split: Split, answer: AnswerRows, *, chunk: int) -> dict[str, float]:
        """Answer all rows of a split, and measure the answers.

        Args:
            split: `val` or `test`.
            answer: writes the texts.
            chunk: rows that are read at once.

        Returns:
            The measures of the reward by `SPLIT/NAME`, the mean over the sources, and by `SPLIT/SOURCE/NAME`.
        """
        self.answered = {}
        metrics: dict[str, float] = {}
        for name, table in self._tables[split].items():
            rows: list[dict[str, Any]] = []
            texts: list[str] = []
            for start in range(0, len(table), chunk):
                read = [table[place] for place in range(start, min(start + chunk, len(table)))]
                texts += answer(read)
                rows += [{key: value for key, value in row.items() if key not in UNREAD} for row in read]
            self.answered[name] = rows, texts
            metrics |= {f"{split}/{name}/{key}": value for key, value in self.reward.measures(rows, texts).items()}
        return means_over_sources(metrics, split) | metrics


def means_over_sources(metrics: Mapping[str, float], split: Split) -> dict[str, float]:
    """The mean of each measure over the sources that have it.

    >>> means_over_sources({"val/a/accuracy": 0.5, "val/b/accuracy": 1.0}, "val")
    {'val/accuracy': 0.75}
    """
    values: dict[str, list[float]] = {}
    for name, value in metrics.items():
        values.setdefault(f"{split}/{name.rpartition('/')[2]}", []).append(value)
    return {name: sum(of_sources) / len(of_sources) for name, of_sources in values.items()}


def judged_groups(
    groups: Sequence[Group], rows: Sequence[Mapping[str, Any]], texts: Sequence[str], *, source: str
) -> list[ScoredGroup]:
    """Scores of responses by a judge's verdicts on their pairs, as a generative head gives them.

    Args:
        groups: that the rows are of.
        rows: of `RolloutReward.held_out_rows` of a judge: `pair` is `GROUP/RESPONSE/RESPONSE`, and `id` ends with the
            responses in the order in which they are shown.
        texts: the answer to each row.
        source: of the groups.

    >>> groups = [Group("a", "sums", (), ("4", "5"))]
    >>> rows = [{"id": "a/0/1", "pair": "0/0/1"}, {"id": "a/1/0", "pair": "0/0/1"}]
    >>> texts = ["<answer>1</answer>", "<answer>2</answer>"]
    >>> judged_groups(groups, rows, texts, source="sums")[0].scores
    [0.5, -0.5]
    """
    leads: dict[int, dict[tuple[int, int], list[float | None]]] = {}
    for row, text in zip(rows, texts, strict=True):
        place = int(str(row["pair"]).partition("/")[0])
        _, first, second = str(row["id"]).rsplit("/", 2)
        verdict = parse_verdict(text)
        # Verdict 1 is a lead of 1 for the answer that is shown first, verdict 2 a lead of -1.
        lead = None if verdict is None else 3.0 - 2.0 * verdict
        leads.setdefault(place, {}).setdefault((int(first), int(second)), []).append(lead)
    judged: list[ScoredGroup] = []
    for place, of_group in leads.items():
        group = groups[place]
        # The score of a response without a verdict must not be NaN, which would give it a rank.
        values = [0.0 if score != score else score for score in scores(len(group.responses), of_group)]
        pairs = [(p.winner, p.loser, p.tie) for p in group.preferences]
        lengths = [len(response) for response in group.responses]
        judged.append(ScoredGroup(group.id, source, scores=values, lengths=lengths, preferences=pairs))
    return judged


def plain_rows(table: LazyTable) -> LazyTable:
    """Rows whose messages have text as content, for chat templates of models that read no images.

    >>> from basereward.data.lazy_table import lazy_table
    >>> parts = [{"type": "text", "text": "Hi"}]
    >>> plain_rows(lazy_table(lambda index: {"prompt": [{"role": "user", "content": parts}]}, 1))[0]["prompt"]
    [{'role': 'user', 'content': 'Hi'}]
    """
    return table.with_transform(_Plain(table.format["format_kwargs"]["transform"]))


class _Plain:
    """Joins the parts of messages after another transform.

    Args:
        inner: makes the rows.
    """

    def __init__(self, inner: Callable[[Any], dict[str, list[Any]]]) -> None:
        self._inner = inner

    def __call__(self, batch: Any) -> dict[str, list[Any]]:
        made = self._inner(batch)
        prompts = [[{**message, "content": _text(message["content"])} for message in rows] for rows in made["prompt"]]
        return {**made, "prompt": prompts}


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
