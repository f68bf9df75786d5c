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
from basereward.runs.tracking.mlflow_model import OPTIONAL


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
                (texts) and, where there are some, `images` of the prompt (or `image`), `response_images`, a list for
                each response, `videos` (or `video`), and `system`. An image is base64 or a data URI; a video is a list
                of images, `{"frames": [...], "fps": 2}`, or the data URI of a file.
            params: not used.

        Returns:
            For each row its `scores`, one for each response; higher is better.

        Raises:
            DataError: a row cannot be scored; the message names it.
        """
        rows = model_input.to_dict("records") if hasattr(model_input, "to_dict") else list(model_input)
        # The rows may come over the network, so no string of them is opened as a file: nothing is below this root.
        row_format = RowFormat(for_training=False, images=ImageStore(os.devnull, closed=True))
        groups = []
        for index, row in enumerate(rows):
            try:
                plain = _columns(row)
                groups.append(row_format.group(plain, source="predict", row_id=str(index), where=f"row {index}"))
            except RowRejected as rejection:
                raise DataError(f"row {index} cannot be scored: {rejection.reason}: {rejection.detail}") from rejection
        return [{"scores": scores} for scores in self.scorer.score_groups(groups)]


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row in the form of files of rows.

    >>> _columns({"prompt": "Q", "responses": ["a"], "video": ["iVBORw0K"], "images": None})["videos"]
    [[{'bytes': 'iVBORw0K'}]]
    """
    # pandas fills an empty cell with NaN.
    cells = {
        name: _plain(row[name]) for name in OPTIONAL if isinstance(row.get(name), str) or _has_items(row.get(name))
    }
    for one, several in (("image", "images"), ("video", "videos")):
        if one in cells and several in cells:
            raise RowRejected("conflicting_columns", f"`{one}` and `{several}` are given; give one")
    images = cells.get("images", cells.get("image"))
    videos = cells.get("videos", [cells["video"]] if "video" in cells else None)
    return {
        "prompt": _plain(row["prompt"]),
        "responses": _plain(row["responses"]),
        "images": _images(images),
        "response_images": _response_images(cells.get("response_images")),
        "videos": None if videos is None else [_video(video) for video in videos],
        "system": cells.get("system"),
    }


def _has_items(value: Any) -> bool:
    return hasattr(value, "__len__") and len(value) > 0


def _video(video: Any) -> Any:
    """A video, whose frames may be base64.

    >>> _video({"frames": ["iVBORw0K"], "fps": 2}), _video("clips/a.mp4")
    ({'frames': [{'bytes': 'iVBORw0K'}], 'fps': 2}, 'clips/a.mp4')
    """
    if isinstance(video, Mapping):
        return {name: _images(value) if name == "frames" else value for name, value in video.items()}
    return _images(video) if isinstance(video, list) else video


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
