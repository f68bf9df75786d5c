"""Test `basereward data`: the counts of the training data and their share of padding."""

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
    """Use the project's experiments from any working folder."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))


def summary_of(capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, Any]:
    """Return the JSON output of the command."""
    assert main(["data", "basereward", "--json", *SMALL, *overrides]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_counts_follow_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe has 24 digits with several answers and 40 questions. The shares add up to 1, and nothing is padded or
    lost."""
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


def test_smaller_token_budget_needs_more_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """A quarter of the budget takes more forward passes per step."""
    wide, narrow = (summary_of(capsys, f"batch.tokens={tokens}")["forwards_per_step"] for tokens in (1200, 300))
    assert wide < narrow <= 8


def test_lost_rows_are_counted_without_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More lost rows than a training allows are reported as a fault, and the text output lists them."""
    rows: list[Any] = pair_rows(40)
    rows[3] = rows[4] = "not JSON"
    overrides = only(write_rows(tmp_path / "pairs.jsonl", rows))
    assert main(["data", "basereward", "--json", *overrides]) == 0
    result = json.loads(capsys.readouterr().out)
    source = result["sources"]["mine"]
    assert [fault["key"] for fault in result["faults"]] == ["data.max_lost"]
    assert source["lost"] == {"malformed_json": 2}
    assert sum(source["groups"].values()) == 38
    assert main(["data", "basereward", *overrides]) == 0
    printed = capsys.readouterr().out
    assert "malformed_json 2" in printed
    assert "6 steps of 8 groups in 2 forward passes; padding 0.00%" in printed


def test_first_row_is_shown_as_parsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The output has the first row's turns, pictures with size and position, answers and label, the mapping of the
    columns, and the columns that are not read."""
    PIL.Image.new("RGB", (60, 40)).save(tmp_path / "0.png")
    long_answer = "long " * 60
    rows = [
        {
            "id": f"row-{index}",
            "system": "Be brief.",
            "question": f"<image>Is {index}\neven?",
            "img": ["0.png"],
            "chosen": [{"role": "assistant", "content": "yes", "language": "en"}],
            "rejected": long_answer,
            "margin": 2,
            "chosen_rating": 5,
            "rejected_rating": 1,
            "note": "n",
        }
        for index in range(40)
    ]
    overrides = [
        *only(write_rows(tmp_path / "pairs.jsonl", rows)),
        "data.sources.mine.val=0",
        "data.sources.mine.test=0",
    ]
    overrides += ["data.sources.mine.columns={prompt: question, images: img}", "data.sources.mine.rating_range=[1, 5]"]
    assert main(["data", "basereward", "--json", *overrides]) == 0
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
    assert len(first["responses"][1]) < len(long_answer)
    assert first["preferences"] == [{"winner": 0, "loser": 1, "tie": False, "margin": 2.0}]
    assert first["ratings"] == [1.0, 0.0]
    assert main(["data", "basereward", *overrides]) == 0
    printed = capsys.readouterr().out
    for text in ("prompt <- question", "images <- img", "note, chosen[].language", "60x40", "Is 0\\neven?", "margin 2"):
        assert text in printed


def test_generated_rows_are_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Generated rows have no columns."""
    reading = summary_of(capsys)["sources"]["digits"]["reading"]
    assert (reading["columns"], reading["not_read"], reading["notes"]) == ({}, [], [])
    assert [(image["width"], image["turn"]) for image in reading["first"]["images"]] == [(56, 0)]
    assert reading["first"]["num_responses"] == len(reading["first"]["ratings"]) == 5


def test_ranking_by_ratings_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The output also has the ties."""
    rows = [{"prompt": f"Q{index}", "responses": ["a", "b", "c"], "ratings": [1, 0, 0]} for index in range(40)]
    overrides = [
        *only(write_rows(tmp_path / "pairs.jsonl", rows)),
        "data.sources.mine.val=0",
        "data.sources.mine.test=0",
    ]
    assert main(["data", "basereward", *overrides]) == 0
    printed = capsys.readouterr().out
    assert "mine: responses are ranked by their ratings" in printed
    assert "0 is better than 1, 0 is better than 2, 1 ties with 2" in printed


def test_stream_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and the message says which key to remove."""
    overrides = only(write_rows(tmp_path / "pairs.jsonl", pair_rows(40)))
    assert main(["data", "basereward", *overrides, "data.streaming={buffer: 5, held_out: 5}"]) == 2
    assert "remove data.streaming" in capsys.readouterr().err


def padded(data: PreferenceData) -> float:
    """Return the share of padding in the batches of the first stage."""
    data.setup()
    batches = list(data.stage_loader(0))
    total: int = sum(batch.rows.branch.numel() for batch in batches)
    return sum(int((batch.rows.branch == PADDING).sum()) for batch in batches) / total


def test_default_mixture_has_no_padding(tmp_path: Path) -> None:
    """Real batches of pictures and text contain no padding."""
    encoder = load_encoder(checkpoint("qwen2_5_vl", tmp_path / "model"), max_tokens=512)
    recipe = load_recipe("basereward", overrides=SMALL)
    assert padded(build_data(recipe, encoder=encoder, rejections_file=tmp_path / "lost.jsonl")) == 0


def test_real_dialogues_have_no_padding_in_tree_rows(real_rows: Path, tmp_path: Path) -> None:
    """300 dialogues have very different lengths; their plain rows have padding, so the count detects it."""
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


def test_lost_rows_are_listed_without_a_writable_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The list goes to a temporary folder, which the log names."""
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
    """Return overrides that use a checkpoint instead of building one in the cache."""
    return ["model.backbone.make=null", f"model.backbone.path={path}"]
