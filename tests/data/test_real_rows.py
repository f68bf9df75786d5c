"""Real rows and pictures, where the folder is there: each file maps onto our rows, and each picture opens."""

from __future__ import annotations

import json
from collections import Counter
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from basereward.data.encoding.encoder import Encoder
from basereward.data.encoding.lengths import measure
from basereward.data.images.open_images import ImageError, open_image
from basereward.data.schema.group import SPLITS, Preference
from basereward.data.schema.rejections import summary
from basereward.data.sources.hub import Hub
from basereward.data.sources.jsonl import Jsonl, read_rows
from basereward.errors import DataError


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_receipt_opens_and_makes_a_pair(real_rows: Path, tmp_path: Path, small_encoder: Encoder) -> None:
    """A photo of 864 x 1296 pixels and two long answers, from `from`/`value` to our columns; screening keeps it."""
    [row] = json.loads((real_rows / "preferences" / "receipt.json").read_text())
    question, good = (turn["value"] for turn in row["conversations_a"])
    bad = row["conversations_b"][1]["value"]
    path = _write(
        tmp_path / "a.jsonl", [{"prompt": question, "chosen": good, "rejected": bad, "images": ["receipt.png"]}]
    )
    source = Jsonl("r", path=str(path), val=0, test=0, images_root=str(real_rows / "preferences"))
    roomy = copy(small_encoder)
    roomy.max_tokens = 8192
    lengths, lost = measure(source, "train", encoder=roomy)
    assert (lengths.index.tolist(), lengths.images.tolist(), lost) == ([0], [1], [])
    picture = open_image(source.groups("train")[0].images[0])
    assert picture.mode == "RGB"
    assert picture.size == (864, 1296)


def test_every_picture_opens(real_rows: Path) -> None:
    """32 PNG and 12 JPG, with pixels that are not all alike."""
    paths = sorted((real_rows / "images").rglob("*.png")) + sorted((real_rows / "images").rglob("*.jpg"))
    assert len(paths) == 44
    for path in paths:
        picture = open_image(path)
        assert picture.mode == "RGB"
        assert any(low < high for low, high in picture.getextrema())


def test_vl_rewardbench_maps_by_its_column_names(real_rows: Path, tmp_path: Path) -> None:
    """1,250 pairs; 1,245 have the first answer before the second and 5 the other way round."""
    rows = json.loads((real_rows / "benchmarks" / "vl_rewardbench.json").read_text())
    path = _write(tmp_path / "vl.jsonl", rows)
    columns = {"prompt": "query", "responses": "response", "ranking": "human_ranking"}
    source = Jsonl("vl", path=str(path), columns=columns, images_root="/pictures")
    groups = [group for split in SPLITS for group in source.groups(split)]
    assert len(groups) == 1250
    assert Counter(group.preferences for group in groups) == {(Preference(0, 1),): 1245, (Preference(1, 0),): 5}
    by_id = {group.id: group for group in groups}
    row = rows[7]
    assert by_id[row["id"]].responses == tuple(row["response"])
    assert by_id[row["id"]].images == (Path("/pictures") / row["image"],)
    assert sum(part.is_image for turn in by_id[row["id"]].prompt for part in turn.parts) == 1


def test_pictures_that_are_not_there_are_lost_under_their_reason(
    real_rows: Path, tmp_path: Path, small_encoder: Encoder
) -> None:
    """All of VL-RewardBench's, whose pictures are not in the folder."""
    rows = json.loads((real_rows / "benchmarks" / "vl_rewardbench.json").read_text())[:50]
    columns = {"prompt": "query", "responses": "response", "ranking": "human_ranking"}
    source = Jsonl("vl", path=str(_write(tmp_path / "vl.jsonl", rows)), columns=columns, val=0, test=0)
    lengths, lost = measure(source, "train", encoder=small_encoder)
    assert len(lengths) == 0
    assert summary(lost) == {"vl": {"image_missing": 50}}


def test_mm_rlhf_rewardbench_is_read_as_it_is(real_rows: Path) -> None:
    """Its pairs have our column names; a row of a video is refused by its line, in place of being read without it."""
    path = real_rows / "benchmarks" / "mm_rlhf_rewardbench.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    videos = [i for i, row in enumerate(rows, start=1) if row.get("video")]
    assert videos
    with pytest.raises(DataError, match=rf"mm_rlhf_rewardbench\.jsonl:{videos[0]}: the row has a `video`"):
        read_rows(path)


def test_mm_rlhf_pairs_of_pictures_keep_their_answers(real_rows: Path, tmp_path: Path) -> None:
    """The 170 rows without those of videos, answer by answer."""
    path = real_rows / "benchmarks" / "mm_rlhf_rewardbench.jsonl"
    rows = [row for row in map(json.loads, path.read_text().splitlines()) if not row.get("video")]
    groups = read_rows(_write(tmp_path / "mm.jsonl", rows))
    assert [group.responses for group in groups] == [(row["chosen"], row["rejected"]) for row in rows]
    assert all(len(group.images) == 1 for group in groups)
    with pytest.raises(ImageError, match="there is no file") as caught:
        open_image(groups[0].images[0])
    assert caught.value.reason == "image_missing"


def test_text_preferences_of_several_turns(real_rows: Path, tmp_path: Path) -> None:
    """300 dialogues: their turns, renamed, become prompts with as many turns."""
    rows = json.loads((real_rows / "preferences" / "dpo_en_demo.json").read_text())
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    ours = [
        {"prompt": [{"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"]],
         "chosen": row["chosen"]["value"], "rejected": row["rejected"]["value"]}
        for row in rows
    ]  # fmt: skip
    source = Jsonl("dpo", path=str(_write(tmp_path / "dpo.jsonl", ours)))
    groups = {group.id: group for split in SPLITS for group in source.groups(split)}
    lost = [row for split in SPLITS for row in source.rejected(split)]
    assert len(groups) + len(lost) == 300
    assert len(groups["dpo.jsonl:1"].prompt) == len(rows[0]["conversations"])


def test_mm_rlhf_rows_are_read_in_their_shape(real_rows: Path, tmp_path: Path) -> None:
    """145 pairs about pictures; the 25 about films are lost under `video`, each with the folder that it names."""
    lines = (real_rows / "benchmarks" / "mm_rlhf_rewardbench.jsonl").read_text().splitlines()
    (tmp_path / "dpo_pairs.jsonl").write_text("\n".join(lines))
    source = Hub("mm", path=str(tmp_path), files=["dpo_pairs.jsonl"], shape={"_target_": "mm_rlhf"}, val=0, test=0)
    rows = list(map(json.loads, lines))
    pictured = [row for row in rows if "image" in row]
    assert [group.responses for group in source.groups("train")] == [(r["chosen"], r["rejected"]) for r in pictured]
    assert [str(group.images[0]) for group in source.groups("train")] == [str(tmp_path / r["image"]) for r in pictured]
    lost = source.rejected("train")
    assert summary(lost) == {"mm": {"video": 25}}
    assert all(row["video"] in one.detail for row, one in zip([r for r in rows if "video" in r], lost, strict=True))


def test_preferences_in_the_manner_of_sharegpt(real_rows: Path) -> None:
    """300 dialogues as they lie there: every turn, and the answers; the lost ones are counted."""
    path = real_rows / "preferences" / "dpo_en_demo.json"
    source = Hub("dpo", path=str(path), shape={"_target_": "sharegpt_pairs"}, val=0, test=0)
    groups, lost = source.groups("train"), source.rejected("train")
    rows = {f"dpo_en_demo.json:{i}": row for i, row in enumerate(json.loads(path.read_text()))}
    assert len(groups) + len(lost) == 300
    assert len(groups) > 290
    for group in groups:
        row = rows[group.id]
        assert [turn.parts[0].text for turn in group.prompt] == [turn["value"] for turn in row["conversations"]]
        assert group.responses == (row["chosen"]["value"], row["rejected"]["value"])


def test_two_conversations_about_the_receipt(real_rows: Path) -> None:
    """The shape of two conversations, as POVID has it, on a pair of another set with other names, and its photo."""
    folder = real_rows / "preferences"
    columns = {"conversations": "conversations_a", "rejected_conversations": "conversations_b"}
    source = Hub(
        "r", path=str(folder), files=["receipt.json"], shape={"_target_": "povid"}, columns=columns, val=0, test=0
    )
    [group] = source.groups("train")
    [row] = json.loads((folder / "receipt.json").read_text())
    assert group.responses == (row["conversations_a"][1]["value"], row["conversations_b"][1]["value"])
    assert [part.is_image for part in group.prompt[0].parts] == [True, False]
    assert group.images == (folder / row["image"],)
