"""Videos over HTTP: a server process gives the scores of the model in this process."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from basereward.inference.scorer import Scorer, load_scorer
from tests.helpers.http_requests import image_uri
from tests.helpers.served_model import ServedModel, save_scored_model, served_model
from tests.helpers.support import checkpoint, clip
from tests.helpers.video_files import needs_decoder, video_file

ANSWERS = ["A seven.", "4", "It is an eight."]
FRAMES = 6


@dataclass(frozen=True)
class Served:
    """A model behind an address and in this process, and the folder that the server reads."""

    server: ServedModel
    scorer: Scorer
    folder: Path

    def check(self, expected: list[float], **body: Any) -> None:
        """Compare the answers to a request that comes three times, so that its prompt is kept and found again."""
        assert max(expected) - min(expected) > 1e-3
        for _ in range(3):
            answer = self.server.post("/score", {"responses": ANSWERS, **body})
            assert answer.status_code == 200, answer.text
            assert answer.json()["scores"] == pytest.approx(expected, abs=1e-5)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Start a server that may read a folder with a folder of frames."""
    folder = tmp_path_factory.mktemp("served")
    model = save_scored_model(folder, head="mlp", backbone=checkpoint(request.param, folder / "backbone"))
    (folder / "media" / "clip").mkdir(parents=True)
    for number, frame in enumerate(clip(FRAMES).frames):
        frame.save(folder / "media" / "clip" / f"{number}.png")  # type: ignore[union-attr]
    with served_model(model, "--images", str(folder / "media"), "--max-media", "1") as server:
        yield Served(server, load_scorer(model), folder / "media")


def test_folder_of_frames(served: Served) -> None:
    """A path below the folder of the server, in the column and in a part of a message."""
    question = "<video>Which digit comes last?"
    expected = served.scorer.score(question, ANSWERS, videos=[served.folder / "clip"])
    served.check(expected, prompt=question, videos=["clip"])
    part = {"type": "video", "video": "clip"}
    content = [part, {"type": "text", "text": "Which digit comes last?"}]
    served.check(expected, prompt=[{"role": "user", "content": content}])


def test_frames_as_data(served: Served) -> None:
    """A list of data URIs with frames per second, and all frames in one address, as vLLM's clients send them."""
    files = [served.folder / "clip" / f"{number}.png" for number in range(FRAMES)]
    addresses = [image_uri(file.read_bytes()) for file in files]
    question = "First <video> and then?"
    fast = served.scorer.score(question, ANSWERS, videos=[{"frames": files, "fps": 8}])
    slow = served.scorer.score(question, ANSWERS, videos=[files])
    assert fast != pytest.approx(slow, abs=1e-5)
    served.check(fast, prompt=question, videos=[{"frames": addresses, "fps": 8}])
    served.check(slow, prompt=question, videos=[addresses])
    joined = "data:video/jpeg;base64," + ",".join(address.partition(",")[2] for address in addresses)
    parts = [{"type": "text", "text": "First "}, {"type": "video_url", "video_url": {"url": joined}}]
    content = [*parts, {"type": "text", "text": " and then?"}]
    served.check(slow, prompt=[{"role": "user", "content": content}])


def test_video_beside_images_in_responses(served: Served) -> None:
    """Images of the prompt and of responses keep their places beside a video."""
    first, second = (served.folder / "clip" / f"{number}.png" for number in (0, 3))
    question, texts = "<image> or <video>?", ["See <image>", "No", ""]
    videos = [served.folder / "clip"]
    images = {"images": [first], "response_images": [[second], [], [first]]}
    expected = served.scorer.score(question, texts, videos=videos, **images)  # type: ignore[arg-type]
    uris = {file: image_uri(file.read_bytes()) for file in (first, second)}
    own = [[uris[second]], [], [uris[first]]]
    served.check(expected, prompt=question, responses=texts, videos=["clip"], images=[uris[first]], response_images=own)


@needs_decoder
def test_video_file(served: Served) -> None:
    """A path below the folder of the server, and a data URI."""
    content = video_file(size=(112, 84))
    file = served.folder / "grey.mp4"
    file.write_bytes(content)
    expected = served.scorer.score("<video>What?", ANSWERS, videos=[file])
    served.check(expected, prompt="<video>What?", videos=["grey.mp4"])
    address = f"data:video/mp4;base64,{base64.b64encode(content).decode()}"
    served.check(expected, prompt="<video>What?", videos=[address])


def test_limits(served: Served) -> None:
    """Too many frames, files with more bytes than the server allows, and paths out of the folder get status 422."""
    (served.folder / "large.mp4").write_bytes(bytes(2 * 2**20))
    for videos, detail in (
        (["clip"] * 11, "66 images and frames"),
        (["large.mp4"], "--max-media"),
        (["../media/clip"], ""),
        (["https://example.org/a.mp4"], "allowed hosts: none"),
    ):
        answer = served.server.post("/score", {"prompt": "What?", "responses": ["a"], "videos": videos})
        assert answer.status_code == 422, answer.text
        assert detail in answer.json()["detail"]
