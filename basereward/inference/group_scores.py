"""What everything that scores does alike, a single model or an ensemble."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from basereward.data.schema.group import Group, Image
from basereward.data.schema.rows import RowFormat
from basereward.errors import ModelError, check_several


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
            ModelError: a score is NaN or infinite; the message names the group.
        """
        check_several(groups, name="groups", of="groups")
        return self._scores_of(groups, tokens=tokens, latencies=latencies)

    def _scores_of(
        self, groups: Iterable[Group], *, tokens: int | None, latencies: list[float] | None
    ) -> Iterator[list[float]]:
        names: deque[str] = deque()

        def encoded() -> Iterator[Any]:
            for group in groups:
                found = self.encode(group)
                names.append(group.id)
                yield found

        for some in self.score_encoded(encoded(), tokens=tokens, latencies=latencies):
            for scores in some:
                self.check_finite(scores, name=names.popleft())
                yield scores

    def check_finite(self, scores: Sequence[float], *, name: str) -> None:
        """Refuses scores that no comparison means anything of.

        Args:
            scores: of a group's responses.
            name: of the group.

        Raises:
            ModelError: one is NaN or infinite.
        """
        if not all(map(math.isfinite, scores)):
            raise ModelError(f"'{name}' has scores that are NaN or infinite: {list(scores)}. {self._not_finite()}")

    def _not_finite(self) -> str:
        """Why scores may be NaN or infinite, and what to do."""
        return "Train again with a lower optimizer.lr, or load the model with dtype=float32"
