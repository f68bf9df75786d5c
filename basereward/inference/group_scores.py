"""The common base of single models, ensembles and models on several devices: scores of prompts and groups."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, TypeAlias

from basereward.data.images.array_images import IMAGE_DIMENSIONS
from basereward.data.open_rows import Data
from basereward.data.schema.group import Group
from basereward.data.schema.image_references import ImageReference
from basereward.data.schema.rows import RowFormat
from basereward.data.sources.jsonl import read_rows
from basereward.errors import DataError, ModelError, check_several

GroupResult: TypeAlias = list[float] | DataError
"""The scores of a group, or why the model cannot score it."""
ChatPrompt: TypeAlias = str | Sequence[Mapping[str, Any]]
"""A text, or messages `{"role", "content"}`. The content is a text, or a list of parts in the form of transformers
(`{"type": "image", "image": ...}`) or of OpenAI (`{"type": "image_url", "image_url": {"url": ...}}`)."""
ChatResponse: TypeAlias = str | Mapping[str, Any]
"""A text, or a message of the assistant, in the forms of `ChatPrompt`."""


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
        self,
        prompt: ChatPrompt,
        responses: Sequence[ChatResponse],
        *,
        images: Sequence[ImageReference] = (),
        response_images: Sequence[Sequence[ImageReference]] = (),
        videos: Sequence[Any] = (),
    ) -> list[float]:
        """One score for each response to a prompt; higher is better. `score_rows` takes many prompts.

        Args:
            prompt: a text, or messages as for chat templates or in the form of OpenAI; see `ChatPrompt`.
            responses: at least one response to the prompt: a text, or a message of the assistant, which may have image
                parts. A response that is only an image is an empty text with an image in `response_images`.
            images: paths, bytes, data URIs, PIL images, NumPy arrays `(H, W, 3)` uint8, or tensors `(3, H, W)` that are
                uint8 or from 0 to 1, in the order of their places in the prompt. Addresses are not downloaded.
            response_images: for each response a list of its images, as in `images`. `<image>` in the text of a response
                with images is the place of one; without places they stand before the text.
            videos: of each video the path of a file or of a folder of frames, a list of frames, or
                `{"frames": ..., "fps": ...}`.

        Returns:
            K scores, in the order of `responses`.

        Raises:
            DataError: `responses`, `videos` or a list of images is not a list, the prompt is malformed, an image cannot
                be opened, prompt and response are too long, or the chat template rejects them. Nothing is truncated or
                skipped.
            ModelError: a score is NaN or infinite.
        """
        group = prompt_group(
            prompt, responses, images=images, response_images=response_images, videos=videos, where="score()"
        )
        return next(iter(self.score_groups([group])))

    def score_rows(
        self,
        rows: Data,
        *,
        columns: Mapping[str, str | None] | None = None,
        images_root: str | Path | None = None,
        tokens: int | None = None,
    ) -> list[list[float]]:
        """The scores of many prompts, each with its responses; forward passes are filled with several of them.

        Args:
            rows: an iterable of dicts, a `pandas.DataFrame`, a `datasets.Dataset`, or a path, pattern or hub id as
                `basereward score` takes it. A row has `prompt`, `responses` and, if there are images, `images` of the
                prompt and `response_images`; or it is in one of the formats that are recognised by their columns, such
                as `chosen` and `rejected`.
            columns: our column name -> the name in the rows; a name -> None leaves that column unread.
            images_root: the folder that relative image paths start from; None: that of the file, or the working folder.
            tokens: as in `score_groups`.

        Returns:
            For each row one score for each response, in their order; of a pair first that of the chosen response.

        Raises:
            DataError: rows are malformed, and the message lists them before anything is scored; or a row cannot be
                scored, and the message names it.
            ModelError: a score is NaN or infinite; the message names the row.
        """
        if isinstance(rows, Iterator):
            rows = list(rows)
        # A file without rows is a mistake; a batch of a program may be empty.
        if _is_empty(rows):
            return []
        groups = read_rows(rows, images_root=images_root, columns=columns)
        return list(self.score_groups(groups, tokens=tokens))

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


def _is_empty(rows: object) -> bool:
    """Whether rows in memory are none."""
    return isinstance(rows, Sized) and not isinstance(rows, str) and len(rows) == 0


def prompt_group(
    prompt: ChatPrompt,
    responses: Sequence[ChatResponse],
    *,
    images: Sequence[ImageReference] = (),
    response_images: Sequence[Sequence[ImageReference]] = (),
    videos: Sequence[Any] = (),
    where: str,
) -> Group:
    """A prompt with its responses as a group, from the arguments of `ScoresGroups.score`.

    Args:
        prompt, responses, images, response_images, videos: as in `ScoresGroups.score`.
        where: what was called, for messages.

    Raises:
        DataError: as `ScoresGroups.score`, for what can be found without a model.

    >>> group = prompt_group("What is it?", ["A cat."], images=["cat.png"], where="score()")
    >>> [part.text for part in group.prompt[0].parts], group.images
    ([None, 'What is it?'], (PosixPath('cat.png'),))
    """
    check_several(responses, name="responses", of="texts")
    check_several(images, name="images", of="images")
    check_several(response_images, name="response_images", of="lists of images")
    check_several(videos, name="videos", of="videos")
    if getattr(images, "ndim", None) == IMAGE_DIMENSIONS:
        raise DataError("images is one array; a list of images is needed: images=[array]")
    row = {
        "prompt": prompt if isinstance(prompt, str | Mapping) else list(prompt),
        "responses": list(responses),
        "images": list(images) or None,
        "response_images": [list(own) if isinstance(own, tuple) else own for own in response_images] or None,
        "videos": list(videos) or None,
    }
    return RowFormat(for_training=False).group(row, source="score", row_id="0", where=where)


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
