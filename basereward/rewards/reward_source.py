"""Where rewards come from: a model in this process, or a server."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image

from basereward.data.images.open_images import open_image, read_image
from basereward.data.schema.group import Group
from basereward.data.schema.rows import RowFormat
from basereward.errors import DataError, RunError
from basereward.inference.judges.http import HTTPClient, TooLarge, TooSlow
from basereward.inference.load_model import load
from basereward.serve.reward_scale import Scale, scaled

ANSWER_BYTES = 16 * 2**20
TIMEOUT_S = 600.0


class Rollout(NamedTuple):
    """One response of a policy.

    Attributes:
        prompt: a text or messages, as `basereward.load(...).score` takes them.
        response: a text.
        images: of the prompt, in the order of their places.
    """

    prompt: str | Sequence[Any]
    response: str
    images: Sequence[Any] = ()


class RewardSource(ABC):
    """Scores rollouts on a scale.

    Args:
        scale: of the rewards; see `basereward.serve.reward_scale.scaled`.
        clip: the largest absolute value of a reward; None: no limit.
    """

    def __init__(self, *, scale: Scale = "raw", clip: float | None = None) -> None:
        # Reports a wrong scale now, and not after the first rollouts.
        scaled([], scale, statistics={"mean": 0.0, "std": 1.0}, clip=clip)
        self._scale = scale
        self._clip = clip

    @abstractmethod
    def _scores(self, groups: Sequence[Group]) -> tuple[list[list[float]], Mapping[str, float]]:
        """The scores of groups, and mean and standard deviation of the model's scores on validation data."""

    def rewards(self, rollouts: Sequence[Rollout]) -> list[float]:
        """One reward for each rollout, in their order.

        Rollouts of equal prompts are scored together: the prompt and its images are read once.

        Raises:
            DataError: the model cannot score a rollout.
            RunError: the server does not answer.
        """
        groups: dict[Any, tuple[Group, list[int]]] = {}
        for place, rollout in enumerate(rollouts):
            group = _group(rollout)
            key = (repr(group.prompt), tuple(_image_key(image) for image in group.images))
            groups.setdefault(key, (group, []))[1].append(place)
        merged = [
            Group(group.id, group.source, group.prompt, tuple(dict.fromkeys(rollouts[i].response for i in places)),
                  images=group.images)
            for group, places in groups.values()
        ]  # fmt: skip
        scored, statistics = self._scores(merged)
        rewards = [0.0] * len(rollouts)
        for (_, places), group, scores in zip(groups.values(), merged, scored, strict=True):
            on_scale = scaled(scores, self._scale, statistics=statistics, clip=self._clip)
            by_response = dict(zip(group.responses, on_scale, strict=True))
            for place in places:
                rewards[place] = by_response[rollouts[place].response]
        return rewards


class LocalRewards(RewardSource):
    """A model in this process.

    Args:
        model: as in `basereward.load`.
        device, dtype, trust: as in `basereward.load`.
        scale, clip: as in `RewardSource`.

    Raises:
        BaseRewardError: the model cannot be opened.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        dtype: str | None = None,
        trust: bool = False,
        scale: Scale = "raw",
        clip: float | None = None,
    ) -> None:
        super().__init__(scale=scale, clip=clip)
        self._scorer = load(model, device=device, dtype=dtype, trust=trust)

    def _scores(self, groups: Sequence[Group]) -> tuple[list[list[float]], Mapping[str, float]]:
        return list(self._scorer.score_groups(groups)), self._scorer.scores


class ServedRewards(RewardSource):
    """A server of `basereward serve`.

    Args:
        address: such as `http://127.0.0.1:8008`.
        key: of the server; None: it asks for none.
        scale, clip: as in `RewardSource`.
    """

    def __init__(
        self, address: str, *, key: str | None = None, scale: Scale = "raw", clip: float | None = None
    ) -> None:
        super().__init__(scale=scale, clip=clip)
        self._address = address.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = HTTPClient(max_bytes=ANSWER_BYTES, timeout_s=TIMEOUT_S)

    def _scores(self, groups: Sequence[Group]) -> tuple[list[list[float]], Mapping[str, float]]:
        answers = [self._post(_body(group)) for group in groups]
        statistics: dict[str, float] = {}
        if answers and answers[0]["std"] is not None:
            statistics = {"mean": answers[0]["mean"], "std": answers[0]["std"]}
        return [answer["scores"] for answer in answers], statistics

    def _post(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """
        Raises:
            DataError: the server refuses the request.
            RunError: the server cannot be reached, or fails.
        """
        try:
            reply = self._client.post(f"{self._address}/score", body, self._headers)
        except (TooLarge, TooSlow, OSError) as error:
            raise RunError(f"the reward server {self._address} does not answer: {error}") from error
        if reply.status != HTTPStatus.OK:
            error_type = DataError if reply.status == HTTPStatus.UNPROCESSABLE_ENTITY else RunError
            text = reply.content[:500].decode("utf-8", "replace")
            raise error_type(f"the reward server {self._address} answers with status {reply.status}: {text}")
        answer: dict[str, Any] = json.loads(reply.content)
        return answer


def open_source(model: str, *, key: str | None = None, **options: Any) -> RewardSource:
    """A reward source by its name.

    Args:
        model: as in `basereward.load`, or the address of a server.
        key: of the server.
        options: of `LocalRewards` or `ServedRewards`.
    """
    if str(model).startswith(("http://", "https://")):
        return ServedRewards(str(model), key=key, **options)
    return LocalRewards(str(model), **options)


def _group(rollout: Rollout) -> Group:
    row = {"prompt": rollout.prompt, "responses": [rollout.response], "images": list(rollout.images) or None}
    return RowFormat(for_training=False).group(row, source="rollouts", row_id="rollout", where="rollout")


def _image_key(image: Any) -> Any:
    """Equal for equal images. TRL gives every rollout of a prompt a decoded image of its own."""
    if isinstance(image, PIL.Image.Image):
        return image.mode, image.size, hashlib.sha256(image.tobytes()).digest()
    return image


def _body(group: Group) -> dict[str, Any]:
    """The body of `POST /score` for a group."""
    messages: list[dict[str, Any]] = []
    for turn in group.prompt:
        parts = [{"type": "image"} if part.text is None else {"type": "text", "text": part.text} for part in turn.parts]
        messages.append({"role": turn.role, "content": parts})
    images = [_data_uri(image) for image in group.images]
    return {"prompt": messages, "responses": list(group.responses), "images": images}


def _data_uri(image: Any) -> str:
    """An image as it stands in a JSON body; a decoded one as PNG, which loses nothing."""
    content = read_image(image) if isinstance(image, str | Path | bytes) else image
    if not isinstance(content, bytes):
        file = io.BytesIO()
        open_image(content).save(file, "PNG")
        content = file.getvalue()
    return f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"
