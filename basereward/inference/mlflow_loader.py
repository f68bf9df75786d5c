"""Opens a saved model for MLflow's flavour `pyfunc`; the file `MLmodel` of a model names this module."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.image_references import DATA_URI
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.rows import RowFormat
from basereward.errors import DataError
from basereward.inference.group_scores import ScoresGroups
from basereward.inference.load_model import load


class MlflowScorer:
    """A scorer with the method that MLflow calls.

    Args:
        scorer: a model or an ensemble.
    """

    def __init__(self, scorer: ScoresGroups) -> None:
        self.scorer = scorer

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[dict[str, list[float]]]:
        """Score the responses of every row.

        Args:
            model_input: a pandas DataFrame, or a list of mappings, with `prompt` (a text, or messages), `responses`
                (texts) and, if there are images, `images` of the prompt and `response_images`, a list for each response
                (each image as base64 or as a data URI).
            params: not used.

        Returns:
            For each row its `scores`, one for each response; higher is better.

        Raises:
            DataError: a row cannot be scored, or has a column of videos; the message names it.
        """
        rows = model_input.to_dict("records") if hasattr(model_input, "to_dict") else list(model_input)
        # The rows may come over the network, so no string of them is opened as a file: nothing is below this root.
        row_format = RowFormat(for_training=False, images=ImageStore(os.devnull, closed=True))
        groups = []
        for index, row in enumerate(rows):
            _check_no_videos(row, index)
            images = _images(row.get("images"))
            try:
                plain = {
                    "prompt": _plain(row["prompt"]),
                    "responses": _plain(row["responses"]),
                    "images": images,
                    "response_images": _response_images(row.get("response_images")),
                }
                groups.append(row_format.group(plain, source="predict", row_id=str(index), where=f"row {index}"))
            except RowRejected as rejection:
                raise DataError(f"row {index} cannot be scored: {rejection.reason}: {rejection.detail}") from rejection
        return [{"scores": scores} for scores in self.scorer.score_groups(groups)]


def _check_no_videos(row: Mapping[str, Any], index: int) -> None:
    """Refuse a column of videos: the score would be that of the prompt without them.

    Raises:
        DataError: the row has one.
    """
    for name in ("videos", "video"):
        # pandas fills an empty cell with NaN.
        if hasattr(row.get(name), "__len__") and len(row[name]):
            raise DataError(
                f"row {index} has `{name}`, a column that is not read here; put each video into the prompt, as a part "
                '{"type": "video", "video": [FRAME, ...]} of a message'
            )


def _images(values: Any) -> list[Any] | None:
    """The images of a row; None for an empty cell, which pandas fills with NaN.

    >>> _images(float("nan")), _images("iVBORw0K")
    (None, [{'bytes': 'iVBORw0K'}])
    """
    if isinstance(values, str | bytes | Mapping):
        values = [values]
    if not hasattr(values, "__len__"):
        return None
    images = [image if not isinstance(image, str) or DATA_URI.match(image) else {"bytes": image} for image in values]
    return images or None


def _response_images(values: Any) -> list[list[Any]] | None:
    """The images of the responses of a row; None for an empty cell.

    >>> _response_images(None), _response_images([["iVBORw0K"], []])
    (None, [[{'bytes': 'iVBORw0K'}], []])
    """
    if not hasattr(values, "__len__"):
        return None
    return [_images(own) or [] for own in values] or None


def _plain(value: Any) -> Any:
    """Turn the arrays of numpy and pandas, in which MLflow passes lists, into lists.

    >>> import numpy as np
    >>> _plain(np.array(["4", "5"], dtype=object))
    ['4', '5']
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value


def _load_pyfunc(path: str) -> MlflowScorer:
    """Open the model in a folder. MLflow calls this; code of the folder does not run.

    Args:
        path: of the folder.
    """
    return MlflowScorer(load(path))
