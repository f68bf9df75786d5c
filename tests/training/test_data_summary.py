"""`basereward data`: what would be trained on, counted; and how little of it is padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from basereward.cli import main
from basereward.data.batching.tree_batch import PADDING
from basereward.data.encoding.encoder import Encoder
from basereward.data.module import PreferenceData
from basereward.data.sources.hub import Hub
from basereward.model.families.processing import load_encoder
from basereward.recipe import load_recipe
from basereward.training.build import build_data
from basereward.training.data_summary import preview
from tests.helpers.support import SMALL, checkpoint, only, pair_rows, write_rows

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The experiments of the project, wherever the tests are run from."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))


def summary_of(capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, Any]:
    """What the command prints for a program."""
    assert main(["data", "basereward", "--json", *SMALL, *overrides]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_the_counts_are_those_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """24 digits of several answers and 40 questions; shares add up, and nothing is padded or lost."""
    result = summary_of(capsys)
    assert set(result) == {
        "sources", "modality", "epoch_groups", "epoch_tokens", "steps", "groups_per_step", "forwards_per_step",
        "padding", "faults",
    }  # fmt: skip
    digits, numbers = result["sources"]["digits"], result["sources"]["numbers"]
    assert numbers["groups"] == {"train": 40, "val": 12, "test": 12}
    assert digits["images"] == digits["groups"]["train"]
    assert numbers["images"] == 0
    assert result["epoch_groups"] == digits["groups"]["train"] + 40
    assert result["epoch_tokens"] == digits["tokens"] + numbers["tokens"]
    for share in ("share_of_groups", "share_of_tokens"):
        assert digits[share] + numbers[share] == pytest.approx(1)
    assert result["modality"]["image"] == pytest.approx(digits["share_of_groups"])
    assert (result["steps"], result["groups_per_step"], result["forwards_per_step"]) == (6, 8, 2)
    assert result["padding"] == 0
    assert digits["lost"] == numbers["lost"] == {}
    assert result["faults"] == []


def test_a_budget_of_tokens_shows_in_the_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """Half the budget takes about twice the passes."""
    wide, narrow = (summary_of(capsys, f"batch.tokens={tokens}")["forwards_per_step"] for tokens in (1200, 300))
    assert wide < narrow <= 8


def test_lost_rows_are_counted_and_stop_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also more than a training would allow, which is counted; a person reads them in the table."""
    rows: list[Any] = pair_rows(40)
    rows[3] = rows[4] = "not JSON"
    mine = only(write_rows(tmp_path / "pairs.jsonl", rows))
    assert main(["data", "basereward", "--json", *mine]) == 0
    result = json.loads(capsys.readouterr().out)
    source = result["sources"]["mine"]
    assert [fault["key"] for fault in result["faults"]] == ["data.max_lost"]
    assert source["lost"] == {"malformed_json": 2}
    assert sum(source["groups"].values()) == 38
    assert main(["data", "basereward", *mine]) == 0
    printed = capsys.readouterr().out
    assert "malformed_json 2" in printed
    assert "6 steps of 8 groups in 2 forward passes; padding 0.00%" in printed


def test_the_first_row_is_shown_as_it_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its turns, pictures by size and place, answers and label; the columns that are read, by both names, and those
    that are not. A source that is made and not read shows its first row too."""
    PIL.Image.new("RGB", (60, 40)).save(tmp_path / "0.png")
    long = "long " * 60
    rows = [
        {
            "id": f"row-{i}",
            "system": "Be brief.",
            "question": f"<image>Is {i}\neven?",
            "img": ["0.png"],
            "chosen": [{"role": "assistant", "content": "yes", "language": "en"}],
            "rejected": long,
            "margin": 2,
            "chosen_rating": 5,
            "rejected_rating": 1,
            "note": "n",
        }
        for i in range(40)
    ]
    mine = [*only(write_rows(tmp_path / "pairs.jsonl", rows)), "data.sources.mine.val=0", "data.sources.mine.test=0"]
    mine += ["data.sources.mine.columns={prompt: question, images: img}", "data.sources.mine.rating_range=[1, 5]"]
    assert main(["data", "basereward", "--json", *mine]) == 0
    reading = json.loads(capsys.readouterr().out)["sources"]["mine"]["reading"]
    assert reading["columns"] == {
        "id": "id", "prompt": "question", "chosen": "chosen", "rejected": "rejected", "margin": "margin",
        "images": "img", "system": "system", "chosen_rating": "chosen_rating", "rejected_rating": "rejected_rating",
    }  # fmt: skip
    assert reading["not_read"] == ["note", "chosen[].language"]
    first = reading["first"]
    assert first["id"] == "row-0"
    assert first["turns"] == [
        {"role": "system", "text": "Be brief."}, {"role": "user", "text": "[image 1]Is 0\neven?"}
    ]  # fmt: skip
    assert first["images"] == [{"name": str(tmp_path / "0.png"), "width": 60, "height": 40, "turn": 1}]
    assert first["responses"][0] == "yes"
    assert first["responses"][1].startswith("long long")
    assert len(first["responses"][1]) < len(long)
    assert first["preferences"] == [{"winner": 0, "loser": 1, "tie": False, "margin": 2.0}]
    assert first["ratings"] == [1.0, 0.0]
    assert main(["data", "basereward", *mine]) == 0
    printed = capsys.readouterr().out
    for said in ("prompt <- question", "images <- img", "note, chosen[].language", "60x40", "Is 0\\neven?", "margin 2"):
        assert said in printed


def test_rows_that_are_made_are_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    """They have no columns."""
    reading = summary_of(capsys)["sources"]["digits"]["reading"]
    assert (reading["columns"], reading["not_read"], reading["notes"]) == ({}, [], [])
    assert [(image["width"], image["turn"]) for image in reading["first"]["images"]] == [(56, 0)]
    assert reading["first"]["num_responses"] == len(reading["first"]["ratings"]) == 5


def test_responses_ranked_by_ratings_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ties among them too."""
    rows = [{"prompt": f"Q{i}", "responses": ["a", "b", "c"], "ratings": [1, 0, 0]} for i in range(40)]
    mine = [*only(write_rows(tmp_path / "pairs.jsonl", rows)), "data.sources.mine.val=0", "data.sources.mine.test=0"]
    assert main(["data", "basereward", *mine]) == 0
    printed = capsys.readouterr().out
    assert "mine: responses are ranked by their ratings" in printed
    assert "0 is better than 1, 0 is better than 2, 1 ties with 2" in printed


def test_a_stream_cannot_be_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and what to leave out."""
    mine = only(write_rows(tmp_path / "pairs.jsonl", pair_rows(40)))
    assert main(["data", "basereward", *mine, "data.streaming={buffer: 5, held_out: 5}"]) == 2
    assert "remove data.streaming" in capsys.readouterr().err


def padded(data: PreferenceData) -> float:
    """The share of padding in all tokens of the first stage, counted in its batches."""
    data.setup()
    batches = list(data.stage_loader(0))
    total: int = sum(b.branch.numel() for b in batches)
    return sum(int((b.branch == PADDING).sum()) for b in batches) / total


def test_the_default_mixture_is_not_padded(tmp_path: Path) -> None:
    """At most one token of twenty, in real batches of pictures and text; in fact none."""
    encoder = load_encoder(checkpoint("qwen2_5_vl", tmp_path / "model"), max_tokens=512)
    recipe = load_recipe("basereward", overrides=SMALL)
    assert padded(build_data(recipe, encoder=encoder, rejections_file=tmp_path / "lost.jsonl")) == 0


def test_real_dialogues_are_not_padded(real_rows: Path, tmp_path: Path) -> None:
    """300 of very unequal lengths; as plain rows they would be, which shows that the count can tell."""
    encoder: Encoder = load_encoder(checkpoint("qwen2_5_vl", tmp_path / "model"), max_tokens=8192)
    path = str(real_rows / "preferences" / "dpo_en_demo.json")
    source = Hub("dpo", path=path, shape={"_target_": "sharegpt_pairs"}, val=0, test=0)
    shares = {
        layout: padded(
            PreferenceData(
                {"dpo": source},
                encoder=encoder,
                groups=16,
                groups_per_forward=8,
                steps=4,
                layout=layout,
                max_lost=0.1,
                rejections_file=tmp_path / "lost.jsonl",
            )
        )
        for layout in ("tree", "plain")
    }
    assert shares["tree"] == 0
    assert shares["plain"] > 0.2


def test_lost_rows_are_listed_where_the_cache_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a folder of temporary files, which is named."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("BASEREWARD_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = [*pair_rows(3), {"prompt": "Q", "chosen": 7, "rejected": "b"}]
    model = checkpoint("llama", tmp_path / "model")
    recipe = load_recipe("basereward", overrides=[*only(write_rows(tmp_path / "pairs.jsonl", rows)), *_backbone(model)])
    assert preview(recipe)["sources"]["mine"]["lost"] == {"wrong_type": 1}
    [listed] = tmp_path.glob("basereward-lost-*/basereward.jsonl")
    assert json.loads(listed.read_text())["reason"] == "wrong_type"
    assert str(listed.parent) in caplog.text


def _backbone(path: Path) -> list[str]:
    """Overrides that take a checkpoint in place of one that is made in the cache."""
    return ["model.backbone.make=null", f"model.backbone.path={path}"]
