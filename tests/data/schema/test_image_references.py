"""Every form of image reference gives the image, or is rejected under its reason before anything is decoded."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from basereward.data.images.image_store import ImageStore
from basereward.data.images.open_images import open_image, read_image
from basereward.data.schema import image_references as image_reference
from basereward.data.schema.group import Group
from basereward.data.schema.image_references import find_image
from basereward.data.schema.rejections import RowRejected
from basereward.data.schema.rows import RowFormat
from tests.helpers.support import picture

KINDS = ("PNG", "JPEG", "GIF", "WEBP")


def _bytes(kind: str = "PNG") -> bytes:
    """Return an image as bytes of a file format."""
    out = io.BytesIO()
    picture(3).save(out, kind)
    return out.getvalue()


def _group(image: object, *, folder: Path, closed: bool = True, column: str = "images") -> Group:
    """Return the group of a row with this image cell."""
    row = {"prompt": "Which digit?", "chosen": "a", "rejected": "b", column: image}
    return RowFormat(images=ImageStore(folder, closed=closed)).group(row, source="s", row_id="1", where="row 1")


PNG = base64.b64encode(_bytes()).decode()
REFERENCES: dict[str, Any] = {
    "a data URI": f"data:image/png;base64,{PNG}",
    "a data URI with parameters": f"data:image/png;charset=utf-8;name=a.png;base64,{PNG}",
    "a data URI in capitals": f"DATA:IMAGE/PNG;BASE64,{PNG}",
    "base64 alone": PNG,
    "base64 in lines": base64.encodebytes(_bytes()).decode(),
    "an object with an address that is a data URI": {"url": f"data:image/png;base64,{PNG}"},
    "an object with bytes": {"bytes": _bytes(), "path": "x.png"},
    "an object with base64": {"bytes": PNG, "path": None},
    "an object with a path": {"bytes": None, "path": "0.png"},
    "a path": "0.png",
    "an absolute path": "{folder}/0.png",
    "an address of a file": "file://{folder}/0.png",
    "an address of a file with spaces": "file://localhost{folder}/a%20name.png",
    "an object with an address of a file": {"url": "file://{folder}/0.png"},
}


@pytest.mark.parametrize("name", REFERENCES)
def test_every_reference_gives_the_image(name: str, tmp_path: Path) -> None:
    """Every form of reference to an image gives the same pixels."""
    for file in ("0.png", "a name.png"):
        (tmp_path / file).write_bytes(_bytes())

    def with_folder(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: with_folder(inner) for key, inner in value.items()}
        return value.replace("{folder}", str(tmp_path)) if isinstance(value, str) else value

    reference = with_folder(REFERENCES[name])
    for cell in (reference, [reference]):
        [image] = _group(cell, folder=tmp_path).images
        assert open_image(image).tobytes() == picture(3).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_base64_is_recognized_by_its_beginning(kind: str, tmp_path: Path) -> None:
    """Base64 of PNG, JPEG, GIF and WebP needs no prefix."""
    [image] = _group(base64.b64encode(_bytes(kind)).decode(), folder=tmp_path).images
    assert open_image(image).size == picture(3).size


def test_json_list_of_images_is_read(tmp_path: Path) -> None:
    """CSV files contain lists as JSON text; a file name that begins with a bracket stays a name."""
    group = _group(json.dumps(["0.png", f"data:image/png;base64,{PNG}"]), folder=tmp_path)
    assert group.images == (tmp_path / "0.png", _bytes())
    assert _group("[1].png", folder=tmp_path, column="image").images == (tmp_path / "[1].png",)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
@pytest.mark.parametrize("length", [28, 31])
def test_base64_that_is_cut_off_is_no_path(kind: str, length: int, tmp_path: Path) -> None:
    """Whole groups of four characters are bytes of an image that does not open; others are broken base64."""
    text = base64.b64encode(_bytes(kind)).decode()[:length]
    with pytest.raises(RowRejected) as caught:
        open_image(_group(text, folder=tmp_path).images[0])
    assert caught.value.reason == ("bad_base64" if length % 4 else "image_unreadable")
    # A name of a file that begins in the same way.
    assert _group(f"{text[:8]}.png", folder=tmp_path, closed=False).images == (tmp_path / f"{text[:8]}.png",)


def test_null_image_is_named_when_it_is_opened(tmp_path: Path) -> None:
    """The row may be one of a data set in which other rows have their images."""
    [image] = _group([{"bytes": None, "path": None}], folder=tmp_path).images
    for read in (open_image, read_image):
        with pytest.raises(RowRejected, match="null") as caught:
            read(image)
        assert caught.value.reason == "image_unreadable"


def test_path_that_begins_like_base64_is_a_path(tmp_path: Path) -> None:
    """`/9j/` begins every JPEG in base64, and may begin a path."""
    path = "/9j/" + "folder/" * 10 + "0.png"
    assert _group(path, folder=tmp_path, closed=False).images == (Path(path),)


REFUSED: dict[str, tuple[Any, str, str]] = {
    "s3": ("s3://bucket/0.png", "image_is_address", "s3://"),
    "gs": ({"url": "gs://bucket/0.png"}, "image_is_address", "gs://"),
    "http": ({"url": "https://example.org/0.png"}, "image_is_address", "https://"),
    "a file elsewhere": ("file:///etc/hostname", "image_outside_root", "/etc/hostname"),
    "a file of another machine": ("file://server/0.png", "bad_image_reference", "file:///"),
    "a data URI without base64": ("data:image/svg+xml;utf8,<svg/>", "bad_image_reference", "base64"),
    "an object with other keys": ({"src": "0.png"}, "bad_image_reference", "src"),
    "an object in an object": ({"url": {"url": "0.png"}}, "bad_image_reference", "url"),
    "an absolute path elsewhere": ("/etc/hostname", "image_outside_root", "/etc/hostname"),
    "a way out": ("a/../../0.png", "image_outside_root", ".."),
    "base64 with a letter that is none": (f"{PNG[:-3]}!!!", "bad_base64", "images[0]"),
    "base64 for addresses": (f"{PNG[:-8]}_-{PNG[-6:]}", "bad_base64", "images[0]"),
    "broken base64 of a PNG": ("data:image/png;base64,iVB###", "bad_base64", "images[0]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_reference_rejects_the_row(name: str, tmp_path: Path) -> None:
    """Each invalid reference has its reason, and the message has the given value."""
    reference, reason, message = REFUSED[name]
    with pytest.raises(RowRejected) as caught:
        _group([reference], folder=tmp_path)
    assert caught.value.reason == reason
    assert message in caught.value.detail


@pytest.mark.parametrize("form", ["data:image/png;base64,{}", "{}"])
def test_too_large_base64_is_not_decoded(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The length of the base64 text is enough to reject it; the largest allowed image passes."""
    monkeypatch.setattr(image_reference, "MAX_INLINE_BYTES", len(_bytes()))
    assert find_image(form.format(PNG), place=0, images=ImageStore()) == _bytes()
    decoded: list[object] = []
    monkeypatch.setattr(base64, "b64decode", lambda *args, **_: decoded.append(args) or b"")
    with pytest.raises(RowRejected) as caught:
        find_image(form.format(PNG[:8] + "A" * 8 + PNG[8:]), place=0, images=ImageStore())
    assert (caught.value.reason, decoded) == ("image_too_large", [])


def test_too_large_bytes_reject_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is the same as that of files."""
    monkeypatch.setattr(image_reference, "MAX_BYTES", 10)
    with pytest.raises(RowRejected) as caught:
        find_image(bytes(11), place=0, images=ImageStore())
    assert caught.value.reason == "image_too_large"


def test_decoded_image_is_passed_through() -> None:
    """PIL images pass unchanged; null becomes empty bytes, which fail when they are opened."""
    image = PIL.Image.new("RGB", (2, 2))
    assert find_image(image, place=0, images=ImageStore()) is image
    assert find_image({"bytes": None, "path": None}, place=0, images=ImageStore()) == b""
