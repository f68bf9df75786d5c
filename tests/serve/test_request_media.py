"""Files and addresses that requests name: one rule for images and videos, and one limit for all of a request."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from basereward.data.schema.group import Video
from basereward.errors import DataError
from basereward.io.http.client import TooLarge
from basereward.serve.reading import request_media
from basereward.serve.reading.request_reader import RequestReader, prompt_key
from basereward.serve.settings import ServerSettings
from tests.helpers.http_requests import image_uri, png
from tests.helpers.video_files import needs_decoder, video_file

HOST = "media.example.org"
IMAGE, CLIP = f"https://{HOST}/red.png", f"https://{HOST}/clip.mp4"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Return the files at addresses, which a download gives as long as they are within its limit."""
    files = {IMAGE: png("red")}

    def download(address: str, *, max_bytes: int) -> bytes:
        if len(files[address]) > max_bytes:
            raise TooLarge("the response is too long")
        return files[address]

    monkeypatch.setattr(request_media, "download", download)
    return files


def asked(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a prompt of one message with these parts and a text."""
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": IMAGE}},
        {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}},
        {"type": "image_url", "image_url": IMAGE},
        {"type": "image", "image": IMAGE},
        {"type": "image", "url": IMAGE},
    ],
)
def test_image_of_a_part_is_downloaded(part: dict[str, Any], site: dict[str, bytes]) -> None:
    """Every form of an address has the content of the same image in the request."""
    reader = RequestReader(ServerSettings(hosts=(HOST,)))
    sent = reader.group(asked({"type": "image", "image": image_uri(site[IMAGE])}), ["a"])
    assert prompt_key(reader.group(asked(part), ["a"])) == prompt_key(sent)
    with pytest.raises(DataError):
        RequestReader(ServerSettings()).group(asked(part), ["a"])


VIDEOS: list[dict[str, Any]] = [
    {"prompt": asked({"type": "video_url", "video_url": {"url": CLIP}})},
    {"prompt": asked({"type": "video_url", "video_url": CLIP})},
    {"prompt": asked({"type": "video", "video": CLIP})},
    {"prompt": asked({"type": "video", "url": CLIP})},
    {"prompt": "<video>What?", "videos": [CLIP]},
    {"prompt": "<video>What?", "videos": [{"url": CLIP}]},
]


@needs_decoder
@pytest.mark.parametrize("request_body", VIDEOS)
def test_video_file_is_downloaded(request_body: dict[str, Any], site: dict[str, bytes]) -> None:
    """Every form of an address has the content of the file, and is refused where the host is not allowed."""
    site[CLIP] = video_file()
    [video] = RequestReader(ServerSettings(hosts=(HOST,))).group(responses=["a"], **request_body).images
    assert isinstance(video, Video)
    assert video.file == site[CLIP]
    with pytest.raises(DataError, match="allowed hosts: none"):
        RequestReader(ServerSettings()).group(responses=["a"], **request_body)


@pytest.mark.parametrize("frames", [[IMAGE], [{"url": IMAGE}], {"frames": [IMAGE], "fps": 2}])
def test_frames_are_downloaded(frames: Any, site: dict[str, bytes]) -> None:
    """In a list or in an object, in `videos` or in a part."""
    reader = RequestReader(ServerSettings(hosts=(HOST,)))
    of_row = reader.group("<video>What?", ["a"], videos=[frames])
    of_part = reader.group(asked({"type": "video", "video": frames}), ["a"])
    for group in (of_row, of_part):
        [video] = group.images
        assert isinstance(video, Video)
        assert video.frames == (site[IMAGE],)
    with pytest.raises(DataError, match="allowed hosts: none"):
        RequestReader(ServerSettings()).group("<video>What?", ["a"], videos=[frames])


def test_files_and_addresses_have_one_limit_together(tmp_path: Path, site: dict[str, bytes]) -> None:
    """Two of three images of one size are within the limit, however they are named; what is sent does not count."""
    content = site[IMAGE]
    (tmp_path / "a.png").write_bytes(content)
    settings = ServerSettings(images=tmp_path, hosts=(HOST,), max_media_bytes=2 * len(content))
    reader = RequestReader(settings)
    for images in (["a.png", "a.png"], [IMAGE, "a.png"], [IMAGE, IMAGE]):
        assert len(reader.group("What?", ["a"], images=[*images, image_uri(content)]).images) == 3
        for further in ("a.png", IMAGE):
            with pytest.raises(DataError, match="--max-media"):
                reader.group("What?", ["a"], images=[*images, further])
    with pytest.raises(DataError, match="--max-media"):
        reader.group("What?", ["a"], images=["a.png"], videos=[["a.png", "a.png"]])
    with pytest.raises(DataError, match="--max-media"):
        reader.group("What?", ["a"], images=["a.png"], response_images=[["a.png", "a.png"]])


@needs_decoder
def test_video_files_are_limited_before_they_are_read(tmp_path: Path) -> None:
    """A file that is sent in the body counts for the body; two files on the disk exceed a limit that one is within."""
    content = video_file()
    (tmp_path / "a.mp4").write_bytes(content)
    reader = RequestReader(ServerSettings(images=tmp_path, max_media_bytes=len(content)))
    sent = f"data:video/mp4;base64,{base64.b64encode(content).decode()}"
    assert len(reader.group("What?", ["a"], videos=["a.mp4", sent]).images) == 2
    with pytest.raises(DataError, match="--max-media"):
        reader.group("What?", ["a"], videos=["a.mp4", "a.mp4"])
