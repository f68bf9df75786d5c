"""What everything that scores does alike, a single model or an ensemble."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from basereward.data.group import Group, Image
from basereward.data.rows import RowFormat
from basereward.errors import check_several


class ScoresGroups(ABC):
    """Scores of prompts and answers, from the groups that it can encode."""

    @abstractmethod
    def encode(self, group: Group) -> Any:
        """
        Raises:
            DataError: it cannot be scored by this model; the message names it.
        """

    @abstractmethod
    def score_encoded(
        self, groups: Iterable[Any], *, tokens: int | None = None, latencies: list[float] | None = None
    ) -> Iterator[list[list[float]]]:
        """As `score_groups`, for groups of `encode`, some at a time."""

    def score(
        self, prompt: str | Sequence[dict[str, Any]], responses: Sequence[str], *, images: Sequence[Image] = ()
    ) -> list[float]:
        """One score a response; higher is better.

        Args:
            prompt: a text, or messages `{"role", "content"}` as chat templates take them.
            responses: answers to it, at least one.
            images: paths, bytes or PIL images, in the order of their places in the prompt.

        Raises:
            DataError: `responses` or `images` is no list, the prompt is malformed, an image cannot be opened, the
                whole is too long, or the chat template refuses it. Nothing is cut or left out.
        """
        check_several(responses, name="responses", of="texts")
        check_several(images, name="images", of="pictures")
        row = {"prompt": prompt, "responses": list(responses), "images": list(images) or None}
        group = RowFormat(for_training=False).group(row, source="score", row_id="0", where="score()")
        return next(iter(self.score_groups([group])))

    def score_groups(
        self, groups: Iterable[Group], *, tokens: int | None = None, latencies: list[float] | None = None
    ) -> Iterator[list[float]]:
        """The scores of every group's responses, in order.

        Args:
            tokens: the most in a forward pass, unless one group has more; by default `batch.tokens` of the recipe,
                else 16,384 on a GPU and 4,096 elsewhere. Scores do not depend on it.
            latencies: takes the milliseconds of every forward pass.

        Raises:
            DataError: `groups` is no list, or a group cannot be scored; the message names it.
        """
        check_several(groups, name="groups", of="groups")
        return self._scores_of(groups, tokens=tokens, latencies=latencies)

    def _scores_of(
        self, groups: Iterable[Group], *, tokens: int | None, latencies: list[float] | None
    ) -> Iterator[list[float]]:
        for scored in self.score_encoded(map(self.encode, groups), tokens=tokens, latencies=latencies):
            yield from scored
