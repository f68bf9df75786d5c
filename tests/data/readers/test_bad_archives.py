"""Images in archives and folders of a downloaded data set: a bad name or member rejects only its own row."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from basereward.data.encoding.encoder import Encoder
from basereward.data.images import image_store
from basereward.data.sources.hub import Hub
from tests.helpers.bad_rows import GOOD_IDS, as_line, read_data, row_with, used_groups, write_lines


def _zipped(folder: Path) -> Path:
    """Return a zip of the folder's images, two of them damaged, next to a file that must not be read."""
    path = folder / "pictures.zip"
    with zipfile.ZipFile(path, "w") as file:
        for i in range(4):
            (folder / f"{i}.png").rename(folder / "moved.png")
            file.write(folder / "moved.png", f"./{i}.png" if i else "0.png")
        for name in ("spoilt.png", "locked.png"):
            file.write(folder / "moved.png", name)
        file.writestr("../secret.png", (folder / "moved.png").read_bytes())
        file.writestr("large.png", bytes(100_000))
        file.writestr("folder/", b"")
        places = {name: file.getinfo(name).header_offset for name in ("spoilt.png", "locked.png")}
    content = bytearray(path.read_bytes())
    content[places["spoilt.png"] + 80] ^= 0xFF  # its checksum no longer fits
    central = content.rindex(b"PK\x01\x02", 0, content.rindex(b"locked.png"))
    for flags in (places["locked.png"] + 6, central + 8):
        content[flags] |= 1  # encrypted
    path.write_bytes(content)
    (folder / "secret.png").write_bytes((folder / "moved.png").read_bytes())
    return path


MEMBERS = {
    "../secret.png": "image_outside_root",
    "/etc/passwd": "image_outside_root",
    "folder/../../secret.png": "image_outside_root",
    "gone.png": "image_missing",
    "secret.png": "image_missing",
    "folder/": "image_missing",
    "spoilt.png": "image_unreadable",
    "locked.png": "image_unreadable",
    "large.png": "image_too_large",
}


@pytest.mark.parametrize("member", MEMBERS)
def test_bad_archive_member_rejects_only_its_row(
    member: str, small_encoder: Encoder, good: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No name leads out of the archive, and no member larger than the limit is unpacked; good members are used."""
    monkeypatch.setattr(image_store, "MAX_BYTES", 50_000)
    _zipped(tmp_path)
    path = write_lines(tmp_path, [*good[:2], as_line(row_with(images=[member])), *good[2:]])
    data = read_data(Hub("s", path=str(path), images="pictures.zip", val=0, test=0), small_encoder)
    assert [(row.id in ("bad", "rows.jsonl:3"), row.reason) for row in data.rejected] == [(True, MEMBERS[member])]
    assert list(used_groups(data)) == GOOD_IDS
    assert not list(tmp_path.glob("[0-9].png"))


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../secret.png"])
def test_path_outside_of_the_data_set_is_rejected(
    name: str, small_encoder: Encoder, good: list[bytes], tmp_path: Path
) -> None:
    """Rows of a published data set may only name images below its folder."""
    path = write_lines(tmp_path, [*good, as_line(row_with(images=[name]))])
    data = read_data(Hub("s", path=str(path), val=0, test=0), small_encoder)
    assert [row.reason for row in data.rejected] == ["image_outside_root"]
    assert list(used_groups(data)) == GOOD_IDS
