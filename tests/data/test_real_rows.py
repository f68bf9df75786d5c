"""Real rows and images, where they are available: each file is read, and each image opens."""

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
    """Write rows as JSON Lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_receipt_is_read_as_a_pair(real_rows: Path, tmp_path: Path, small_encoder: Encoder) -> None:
    """A photo of 864 x 1296 pixels and two long answers, converted to our columns, are within the limits."""
    [row] = json.loads((real_rows / "preferences" / "receipt.json").read_text())
    question, chosen = (turn["value"] for turn in row["conversations_a"])
    rejected = row["conversations_b"][1]["value"]
    path = _write(
        tmp_path / "a.jsonl", [{"prompt": question, "chosen": chosen, "rejected": rejected, "images": ["receipt.png"]}]
    )
    source = Jsonl("r", path=str(path), val=0, test=0, images_root=str(real_rows / "preferences"))
    encoder = copy(small_encoder)
    encoder.max_tokens = 8192
    lengths, rejected_rows = measure(source, "train", encoder=encoder)
    assert (lengths.index.tolist(), lengths.images.tolist(), rejected_rows) == ([0], [1], [])
    image = open_image(source.groups("train")[0].images[0])
    assert image.mode == "RGB"
    assert image.size == (864, 1296)


def test_every_image_opens(real_rows: Path) -> None:
    """32 PNG and 12 JPEG files, none of one colour."""
    paths = sorted((real_rows / "images").rglob("*.png")) + sorted((real_rows / "images").rglob("*.jpg"))
    assert len(paths) == 44
    for path in paths:
        image = open_image(path)
        assert image.mode == "RGB"
        assert any(low < high for low, high in image.getextrema())


def test_vl_rewardbench_is_read_by_column_names(real_rows: Path, tmp_path: Path) -> None:
    """Of 1,250 pairs, 1,245 prefer the first answer and 5 the second."""
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
    assert sum(part.is_visual for turn in by_id[row["id"]].prompt for part in turn.parts) == 1


def test_missing_images_are_rejected(real_rows: Path, tmp_path: Path, small_encoder: Encoder) -> None:
    """The images of VL-RewardBench are not in the folder."""
    rows = json.loads((real_rows / "benchmarks" / "vl_rewardbench.json").read_text())[:50]
    columns = {"prompt": "query", "responses": "response", "ranking": "human_ranking"}
    source = Jsonl("vl", path=str(_write(tmp_path / "vl.jsonl", rows)), columns=columns, val=0, test=0)
    lengths, rejected = measure(source, "train", encoder=small_encoder)
    assert len(lengths) == 0
    assert summary(rejected) == {"vl": {"image_missing": 50}}


def test_mm_rlhf_rewardbench_names_a_missing_video(real_rows: Path) -> None:
    """The column names are ours. A row whose folder of frames is missing is an error with its line."""
    path = real_rows / "benchmarks" / "mm_rlhf_rewardbench.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    videos = [i for i, row in enumerate(rows, start=1) if row.get("video")]
    assert videos
    with pytest.raises(DataError, match=rf"mm_rlhf_rewardbench\.jsonl:{videos[0]}: videos\[0\]: there is no folder"):
        read_rows(path)


def test_mm_rlhf_image_pairs_keep_their_answers(real_rows: Path, tmp_path: Path) -> None:
    """All rows without videos, answer by answer."""
    path = real_rows / "benchmarks" / "mm_rlhf_rewardbench.jsonl"
    rows = [row for row in map(json.loads, path.read_text().splitlines()) if not row.get("video")]
    groups = read_rows(_write(tmp_path / "mm.jsonl", rows))
    assert [group.responses for group in groups] == [(row["chosen"], row["rejected"]) for row in rows]
    assert all(len(group.images) == 1 for group in groups)
    with pytest.raises(ImageError, match="there is no file") as caught:
        open_image(groups[0].images[0])
    assert caught.value.reason == "image_missing"


def test_text_preferences_of_several_turns(real_rows: Path, tmp_path: Path) -> None:
    """300 dialogues: their turns become prompts with as many turns."""
    rows = json.loads((real_rows / "preferences" / "dpo_en_demo.json").read_text())
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    converted = [
        {"prompt": [{"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"]],
         "chosen": row["chosen"]["value"], "rejected": row["rejected"]["value"]}
        for row in rows
    ]  # fmt: skip
    source = Jsonl("dpo", path=str(_write(tmp_path / "dpo.jsonl", converted)))
    groups = {group.id: group for split in SPLITS for group in source.groups(split)}
    rejected = [row for split in SPLITS for row in source.rejected(split)]
    assert len(groups) + len(rejected) == 300
    assert len(groups["dpo.jsonl:1"].prompt) == len(rows[0]["conversations"])


def test_mm_rlhf_adapter_reads_the_rows(real_rows: Path, tmp_path: Path) -> None:
    """145 pairs about images; 25 about videos are rejected as `video`, each with the folder that it names."""
    lines = (real_rows / "benchmarks" / "mm_rlhf_rewardbench.jsonl").read_text().splitlines()
    (tmp_path / "dpo_pairs.jsonl").write_text("\n".join(lines))
    source = Hub("mm", path=str(tmp_path), files=["dpo_pairs.jsonl"], shape={"_target_": "mm_rlhf"}, val=0, test=0)
    rows = list(map(json.loads, lines))
    image_rows = [row for row in rows if "image" in row]
    assert [group.responses for group in source.groups("train")] == [(r["chosen"], r["rejected"]) for r in image_rows]
    assert [str(group.images[0]) for group in source.groups("train")] == [
        str(tmp_path / r["image"]) for r in image_rows
    ]
    rejected = source.rejected("train")
    assert summary(rejected) == {"mm": {"video": 25}}
    assert all(
        row["video"] in rejected_row.detail
        for row, rejected_row in zip([r for r in rows if "video" in r], rejected, strict=True)
    )


def test_sharegpt_adapter_reads_the_rows(real_rows: Path) -> None:
    """300 dialogues: every turn and both answers; rejected rows are counted."""
    path = real_rows / "preferences" / "dpo_en_demo.json"
    source = Hub("dpo", path=str(path), shape={"_target_": "sharegpt_pairs"}, val=0, test=0)
    groups, rejected = source.groups("train"), source.rejected("train")
    rows = {f"dpo_en_demo.json:{i}": row for i, row in enumerate(json.loads(path.read_text()))}
    assert len(groups) + len(rejected) == 300
    assert len(groups) > 290
    for group in groups:
        row = rows[group.id]
        assert [turn.parts[0].text for turn in group.prompt] == [turn["value"] for turn in row["conversations"]]
        assert group.responses == (row["chosen"]["value"], row["rejected"]["value"])


def test_povid_adapter_reads_the_receipt(real_rows: Path) -> None:
    """POVID's shape of two conversations, with mapped column names and the photo."""
    folder = real_rows / "preferences"
    columns = {"conversations": "conversations_a", "rejected_conversations": "conversations_b"}
    source = Hub(
        "r", path=str(folder), files=["receipt.json"], shape={"_target_": "povid"}, columns=columns, val=0, test=0
    )
    [group] = source.groups("train")
    [row] = json.loads((folder / "receipt.json").read_text())
    assert group.responses == (row["conversations_a"][1]["value"], row["conversations_b"][1]["value"])
    assert [part.is_visual for part in group.prompt[0].parts] == [True, False]
    assert group.images == (folder / row["image"],)
