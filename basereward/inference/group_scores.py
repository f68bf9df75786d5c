"""The common base of single models and ensembles: scores of prompts and groups."""

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
    """Scores prompts and responses; subclasses encode groups and score encoded ones.

    >>> class LengthScorer(ScoresGroups):
    ...     def encode(self, group):
    ...         return group
    ...
    ...     def score_encoded(self, groups, *, tokens=None, latencies=None):
    ...         for group in groups:
    ...             yield [[float(len(response)) for response in group.responses]]
    >>> LengthScorer().score("2 + 2?", ["4", "four"])
    [1.0, 4.0]
    """

    @abstractmethod
    def encode(self, group: Group) -> Any:
        """Encodes a group for `score_encoded`.

        Raises:
            DataError: this model cannot score the group; the message names it.
        """

    @abstractmethod
    def score_encoded(
        self, groups: Iterable[Any], *, tokens: int | None = None, latencies: list[float] | None = None
    ) -> Iterator[list[list[float]]]:
        """As `score_groups`, for encoded groups; yields the scores of several groups at a time, in order."""

    def score(
        self, prompt: str | Sequence[dict[str, Any]], responses: Sequence[str], *, images: Sequence[Image] = ()
    ) -> list[float]:
        """One score for each response; higher is better.

        Args:
            prompt: a text, or messages `{"role", "content"}` as for chat templates.
            responses: at least one response to the prompt.
            images: paths, bytes or PIL images, in the order of their places in the prompt.

        Returns:
            K scores, in the order of `responses`.

        Raises:
            DataError: `responses` or `images` is not a list, the prompt is malformed, an image cannot be opened, prompt
                and response are too long, or the chat template rejects them. Nothing is truncated or skipped.
        """
        check_several(responses, name="responses", of="texts")
        check_several(images, name="images", of="images")
        row = {"prompt": prompt, "responses": list(responses), "images": list(images) or None}
        group = RowFormat(for_training=False).group(row, source="score", row_id="0", where="score()")
        return next(iter(self.score_groups([group])))

    def score_groups(
        self, groups: Iterable[Group], *, tokens: int | None = None, latencies: list[float] | None = None
    ) -> Iterator[list[float]]:
        """The scores of the responses of every group, in order.

        Args:
            groups: any iterable; it is read as scoring goes on.
            tokens: limit of a forward pass; a larger group has a pass of its own. None: `batch.tokens` of the recipe,
                otherwise 16,384 on a GPU and 4,096 on other devices. Scores do not depend on it.
            latencies: the duration of every forward pass is appended, in milliseconds.

        Raises:
            DataError: `groups` is not iterable, or a group cannot be scored; the message names it.
            ModelError: a score is NaN or infinite; the message names the group.
        """
        check_several(groups, name="groups", of="groups")
        return self._scores_of(groups, tokens=tokens, latencies=latencies)

    def _scores_of(
        self, groups: Iterable[Group], *, tokens: int | None, latencies: list[float] | None
    ) -> Iterator[list[float]]:
        # Groups are encoded ahead of their scores, so the names wait here for the scores.
        names: deque[str] = deque()

        def encoded() -> Iterator[Any]:
            for group in groups:
                encoded_group = self.encode(group)
                names.append(group.id)
                yield encoded_group

        for scores_of_groups in self.score_encoded(encoded(), tokens=tokens, latencies=latencies):
            for scores in scores_of_groups:
                self.check_finite(scores, name=names.popleft())
                yield scores

    def check_finite(self, scores: Sequence[float], *, name: str) -> None:
        """Checks that scores can be compared.

        Args:
            scores: of the responses of a group.
            name: of the group, for the error message.

        Raises:
            ModelError: a score is NaN or infinite.
        """
        if not all(map(math.isfinite, scores)):
            raise ModelError(f"'{name}' has scores that are NaN or infinite: {list(scores)}. {self._not_finite()}")

    def _not_finite(self) -> str:
        """The likely cause of scores that are NaN or infinite, and the remedy."""
        return "Train again with a lower optimizer.lr, or load the model with dtype=float32"
