"""OmniRewardBench (arXiv 2510.23451): pairs of texts, images, videos, sounds and 3D objects, each under a criterion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import PIL.Image

from basereward.data.images.image_store import ImageStore
from basereward.data.schema.messages import shown
from basereward.data.schema.rejections import RowRejected
from basereward.errors import unknown
from basereward.evaluation.items import Decision, Item, JudgedItem, by_label
from basereward.evaluation.protocols import Protocol
from basereward.evaluation.protocols._rows import one_of, prompt_key, text
from basereward.evaluation.statistics.measures import Measure, Measures, Variant, accuracy
from basereward.evaluation.statistics.shares import CountedPart, count, right, weighted

# Task -> (what the prompt holds beside text, what the responses are).
TASKS: dict[str, tuple[str | None, str]] = {
    "text_to_text": (None, "text"),
    "text_image_to_text": ("image", "text"),
    "text_video_to_text": ("video", "text"),
    "text_audio_to_text": ("audio", "text"),
    "text_to_image": (None, "image"),
    "text_image_to_image": ("image", "image"),
    "text_to_video": (None, "video"),
    "text_to_audio": (None, "audio"),
    "text_to_3D": (None, "3D"),
}
RESPONSES = ("response1", "response2")
TIE = "tie"


class OmniRewardBench(Protocol):
    """Rows of `prompt`, two responses, a `criteria` and which response is preferred by it: `criteria_preference`.

    The criterion follows the prompt in a paragraph of its own. A response that is neither text nor an image is named by
    its file.

    The variant `with_ties` counts all rows: a labelled tie is right if both responses get the same score, or by the
    verdict "tie". A scorer hardly ever gives two equal scores, so that this is a lower bound for it. `without_ties`
    leaves the rows that are labelled as ties out. `overall` is the mean of the tasks, as in the published table.

    Args:
        task: of rows without the column `part`.

    >>> row = {"prompt": "Name a colour.", "response1": "Red.", "response2": "I will not.", "criteria": "It is short."}
    >>> item = OmniRewardBench(task="text_to_text").item(row | {"criteria_preference": "tie"}, number=0,
    ...     images=ImageStore())
    >>> item.is_tie, item.prompt
    (True, 'Name a colour.\\n\\nCriterion: It is short.')
    """

    columns = ("prompt", "criteria", "criteria_preference", *RESPONSES)
    optional_columns: ClassVar[Mapping[str, str]] = {
        "id": "the number of the row by default",
        "part": "the task, if `protocol.task` does not name it",
        "image": "the image of the prompt, or its path; and `image_path`",
        "video": "the path of the video of the prompt, which is not opened; or `video_path`",
        "audio_path": "the path of the sound of the prompt, which is not opened",
        "response1_path": "the path of a response that is not text, if `response1` is no image; also of `response2`",
    }

    def __init__(self, *, task: str | None = None) -> None:
        self._task = task

    @property
    def variants(self) -> Mapping[str, Variant]:
        """`with_ties` and `without_ties`."""
        return {"with_ties": _measures, "without_ties": _without_ties}

    def item(self, row: Mapping[str, Any], *, number: int, images: ImageStore) -> Item:
        """Convert a row to an item.

        Raises:
            RowRejected: the task or the preference is unknown, or a cell is not text.
        """
        task = self._task_of(row)
        medium, kind = TASKS[task]
        preferred = one_of(row, "criteria_preference", (*RESPONSES, TIE))
        best = () if preferred == TIE else (RESPONSES.index(preferred),)
        prompt = text(row, "prompt")
        return Item(
            row=number,
            id=str(number if row.get("id") is None else row["id"]),
            prompt=f"{prompt}\n\nCriterion: {text(row, 'criteria')}",
            responses=_responses(row, kind),
            right=best,
            wrong=tuple(1 - place for place in best),
            prompt_id=prompt_key((task, prompt, _path(row, str(medium)))),
            labels={"task": task},
            images=(_drawn(row, "image"),) if medium == "image" else (),
            ties=True,
            videos=(_file(row, "video"),) if medium == "video" else (),
            response_images=_drawn_responses(row) if kind == "image" else (),
            question=prompt,
        )

    def _task_of(self, row: Mapping[str, Any]) -> str:
        task = self._task if row.get("part") is None else row["part"]
        if task is None:
            raise RowRejected(
                "missing_column",
                f"`part`, the task of a row, is missing. For a file of one task set protocol.task={next(iter(TASKS))}",
            )
        if task not in TASKS:
            raise RowRejected("unknown_category", f"`part`: {unknown('task', str(task), TASKS)}")
        return str(task)


def _path(row: Mapping[str, Any], name: str) -> str | None:
    """The path of a file that a row names; None if it names none."""
    for column in (f"{name}_path", name):
        value = row.get(column)
        # The form of the `datasets` library: {"bytes": ..., "path": ...}.
        value = value.get("path") if isinstance(value, Mapping) else value
        if isinstance(value, str) and value:
            return value
    return None


def _drawn(row: Mapping[str, Any], name: str) -> Any:
    """An image: the one in the row, or its path."""
    value = row.get(name)
    content = value.get("bytes") if isinstance(value, Mapping) else value
    return value if isinstance(content, bytes | PIL.Image.Image) else _file(row, name)


def _drawn_responses(row: Mapping[str, Any]) -> tuple[tuple[Any, ...], ...]:
    return tuple((_drawn(row, name),) for name in RESPONSES)


def _responses(row: Mapping[str, Any], kind: str) -> tuple[str, ...]:
    """The texts of the responses, empty for images; other media are named by their files."""
    if kind == "image":
        return ("",) * len(RESPONSES)
    return tuple(text(row, name) if kind == "text" else f"<{_file(row, name)}>" for name in RESPONSES)


def _file(row: Mapping[str, Any], name: str) -> str:
    """The path of a file that is not text."""
    path = _path(row, name)
    if path is None:
        raise RowRejected("wrong_type", f"`{name}` is {shown(row.get(name))}; a path, or `{name}_path`, is needed")
    return path


def _measures(judged: Sequence[JudgedItem]) -> Measures:
    by_task = by_label(judged, "task")
    parts = [CountedPart(1.0, right(members)) for members in by_task.values()]
    ties, undecided = count(judged, Decision.TIE), count(judged, Decision.UNDECIDED)
    tasks: dict[str, Measure] = {task: accuracy(members) for task, members in by_task.items()}
    return {"overall": weighted(parts, ties=ties, undecided=undecided), **tasks}


def _without_ties(judged: Sequence[JudgedItem]) -> Measures:
    return _measures([judged_item for judged_item in judged if not judged_item.item.is_tie])
