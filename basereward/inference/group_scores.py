"""The common base of single models, ensembles and models on several devices: scores of prompts and groups."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

from basereward.data.schema.group import Group, Image
from basereward.data.schema.rows import RowFormat
from basereward.errors import DataError, ModelError, check_several

GroupResult: TypeAlias = list[float] | DataError
"""The scores of a group, or why the model cannot score it."""


class ScoresGroups(ABC):
    """Scores prompts and responses.

    >>> class LengthScorer(ScoresGroups):
    ...     def score_batches(self, groups, *, tokens=None, latencies=None):
    ...         for group in groups:
    ...             yield [[float(len(response)) for response in group.responses]]
    >>> LengthScorer().score("2 + 2?", ["4", "four"])
    [1.0, 4.0]
    """

    @abstractmethod
    def score_batches(
        self, groups: Iterable[Group], *, tokens: int | None = None, latencies: list[float] | None = None
    ) -> Iterator[list[GroupResult]]:
        """As `score_or_reject`, but scores may be NaN or infinite; yields the results of several groups at a time."""

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
        results = self.score_or_reject(groups, tokens=tokens, latencies=latencies)
        return map(_scores_or_error, results)

    def score_or_reject(
        self, groups: Iterable[Group], *, tokens: int | None = None, latencies: list[float] | None = None
    ) -> Iterator[GroupResult]:
        """As `score_groups`, but a group that cannot be scored has its error in the place of its scores.

        Raises:
            DataError: `groups` is not iterable.
            ModelError: a score is NaN or infinite; the message names the group.
        """
        check_several(groups, name="groups", of="groups")
        return self._results(groups, tokens=tokens, latencies=latencies)

    def _results(
        self, groups: Iterable[Group], *, tokens: int | None, latencies: list[float] | None
    ) -> Iterator[GroupResult]:
        # Groups are read ahead of their scores, so the names wait here for the scores.
        names: deque[str] = deque()

        def named() -> Iterator[Group]:
            for group in groups:
                names.append(group.id)
                yield group

        for results in self.score_batches(named(), tokens=tokens, latencies=latencies):
            for result in results:
                name = names.popleft()
                if not isinstance(result, DataError):
                    self.check_finite(result, name=name)
                yield result

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


def _scores_or_error(result: GroupResult) -> list[float]:
    """
    Raises:
        DataError: the group could not be scored.
    """
    if isinstance(result, DataError):
        raise result
    return result


class ScoresEncodedGroups(ScoresGroups):
    """Scores groups in this process; subclasses encode groups and score encoded ones.

    >>> class WordScorer(ScoresEncodedGroups):
    ...     def encode(self, group):
    ...         return [response.split() for response in group.responses]
    ...
    ...     def score_encoded(self, groups, *, tokens=None, latencies=None):
    ...         for words_of_responses in groups:
    ...             yield [[float(len(words)) for words in words_of_responses]]
    >>> WordScorer().score("2 + 2?", ["4", "It is four."])
    [1.0, 3.0]
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

    def score_batches(
        self, groups: Iterable[Group], *, tokens: int | None = None, latencies: list[float] | None = None
    ) -> Iterator[list[GroupResult]]:
        """As the base."""
        # One entry for each group that was read and not yielded: its error, or None while its scores are computed.
        errors: deque[DataError | None] = deque()

        def encoded() -> Iterator[Any]:
            for group in groups:
                try:
                    encoded_group = self.encode(group)
                except DataError as error:
                    errors.append(error)
                else:
                    errors.append(None)
                    yield encoded_group

        for scores_of_groups in self.score_encoded(encoded(), tokens=tokens, latencies=latencies):
            results: list[GroupResult] = []
            for scores in scores_of_groups:
                while (error := errors.popleft()) is not None:
                    results.append(error)
                results.append(scores)
            yield results
        rest = [error for error in errors if error is not None]
        if rest:
            yield [*rest]
