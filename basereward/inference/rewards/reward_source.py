"""Where rewards come from: a model in this process, or a server."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image

from basereward.data.images.open_images import open_image, read_image
from basereward.data.schema.group import Group, Part
from basereward.data.schema.rows import RowFormat
from basereward.errors import DataError, RunError
from basereward.inference.group_scores import GroupResult
from basereward.inference.load_model import load
from basereward.inference.reward_scorer import RewardScorer
from basereward.inference.rewards.reward_scale import Scale, scaled
from basereward.io.http.client import HTTPClient, TooLarge, TooSlow

logger = logging.getLogger(__name__)
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
        scale: of the rewards; see `basereward.inference.rewards.reward_scale.scaled`.
        clip: the largest absolute value of a reward; None: no limit.
        unscorable: the reward of a response that the model cannot score, for example because it is too long with its
            prompt; None: an error, which stops the training.
    """

    def __init__(self, *, scale: Scale = "raw", clip: float | None = None, unscorable: float | None = None) -> None:
        # Reports a wrong scale now, and not after the first rollouts.
        scaled([], scale, statistics={"mean": 0.0, "std": 1.0}, clip=clip)
        self._scale = scale
        self._clip = clip
        self._unscorable = unscorable

    @abstractmethod
    def _results(self, groups: Sequence[Group]) -> list[GroupResult]:
        """The scores of each group, or why the model cannot score it."""

    @property
    @abstractmethod
    def statistics(self) -> Mapping[str, float]:
        """`mean` and `std` of the scores on validation data, known after the first scores; empty if there are none."""

    def rewards(self, rollouts: Sequence[Rollout]) -> list[float]:
        """One reward for each rollout, in their order.

        Rollouts of equal prompts are scored together: the prompt and its images are read once.

        Raises:
            DataError: the model cannot score a rollout, and `unscorable` is None.
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
        rewards = [0.0] * len(rollouts)
        for (_, places), group, values in zip(groups.values(), merged, self.group_rewards(merged), strict=True):
            by_response = dict(zip(group.responses, values, strict=True))
            for place in places:
                rewards[place] = by_response[rollouts[place].response]
        return rewards

    def group_rewards(self, groups: Sequence[Group]) -> list[list[float]]:
        """One reward for each response of every group; a group is one tree row.

        Raises:
            DataError: the model cannot score a response, and `unscorable` is None.
            RunError: the server does not answer.
        """
        rewards: list[list[float]] = []
        for group, result in zip(groups, self._results(groups), strict=True):
            rewards.append(self._rewards_of_group(group, result))
        return rewards

    def check(self, group: Group) -> None:
        """Scores the first response of a group, whatever `unscorable` is.

        Raises:
            DataError: the model cannot score such a group.
            RunError: the server does not answer.
        """
        (result,) = self._results([group.select([0])])
        if isinstance(result, DataError):
            raise result

    def _rewards_of_group(self, group: Group, result: GroupResult) -> list[float]:
        """The reward of each response of a group, from the result of the group.

        Raises:
            DataError: the model cannot score a response, and `unscorable` is None.
        """
        if not isinstance(result, DataError):
            return list(scaled(result, self._scale, statistics=self.statistics, clip=self._clip))
        if self._unscorable is None:
            raise result
        if len(group.responses) == 1:
            logger.warning("a response gets the reward %g: %s", self._unscorable, result)
            return [self._unscorable]
        # Each response alone, so that one which cannot be scored does not spoil the others.
        alone = [group.select([index]) for index in range(len(group.responses))]
        rewards: list[float] = []
        for single, single_result in zip(alone, self._results(alone), strict=True):
            rewards += self._rewards_of_group(single, single_result)
        return rewards


class LocalRewards(RewardSource):
    """A model in this process.

    Args:
        model: as in `basereward.load`, or what it returns.
        device, dtype, trust: as in `basereward.load`.
        options: of `RewardSource`.

    Raises:
        BaseRewardError: the model cannot be opened.
    """

    def __init__(
        self,
        model: str | RewardScorer,
        *,
        device: str | None = None,
        dtype: str | None = None,
        trust: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if isinstance(model, str):
            model = load(model, device=device, dtype=dtype, trust=trust)
        self._scorer = model

    def _results(self, groups: Sequence[Group]) -> list[GroupResult]:
        return list(self._scorer.score_or_reject(groups))

    @property
    def statistics(self) -> Mapping[str, float]:
        """As the base."""
        return self._scorer.scores


class ServedRewards(RewardSource):
    """A server of `basereward serve`.

    Args:
        address: such as `http://127.0.0.1:8008`.
        key: of the server; None: it asks for none.
        options: of `RewardSource`.
    """

    def __init__(self, address: str, *, key: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._address = address.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = HTTPClient(max_bytes=ANSWER_BYTES, timeout_s=TIMEOUT_S)
        self._answered_statistics: dict[str, float] = {}

    def _results(self, groups: Sequence[Group]) -> list[GroupResult]:
        results: list[GroupResult] = []
        for group in groups:
            try:
                answer = self._post(_body(group))
            except DataError as error:
                results.append(error)
                continue
            results.append(answer["scores"])
            if answer["std"] is not None:
                self._answered_statistics = {"mean": answer["mean"], "std": answer["std"]}
        return results

    @property
    def statistics(self) -> Mapping[str, float]:
        """As the base."""
        return self._answered_statistics

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
    messages = [{"role": turn.role, "content": _parts(turn.parts)} for turn in group.prompt]
    body = {"prompt": messages, "responses": list(group.responses), "images": list(map(_data_uri, group.images))}
    if not group.response_images:
        return body
    responses = [group.response_parts(index) for index in range(len(group.responses))]
    body["responses"] = [{"role": "assistant", "content": _parts(parts)} for parts in responses]
    body["response_images"] = [[_data_uri(item.image) for item in placed] for placed in group.response_images]
    return body


def _parts(parts: Iterable[Part]) -> list[dict[str, str]]:
    """The content of a message; images are in a list of their own."""
    return [{"type": "image"} if part.text is None else {"type": "text", "text": part.text} for part in parts]


def _data_uri(image: Any) -> str:
    """An image as it stands in a JSON body; a decoded one as PNG, which loses nothing."""
    content = read_image(image) if isinstance(image, str | Path | bytes) else image
    if not isinstance(content, bytes):
        file = io.BytesIO()
        open_image(content).save(file, "PNG")
        content = file.getvalue()
    return f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"
