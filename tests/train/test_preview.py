"""`basereward data`: what would be trained on, counted; and how little of it is padding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from basereward.cli import main
from basereward.data.encoding import Encoder
from basereward.data.module import PreferenceData
from basereward.data.sources.hub import Hub
from basereward.data.tree import PADDING
from basereward.model.processing import load_encoder
from basereward.recipe import load_recipe
from basereward.train.build import build_data
from tests.support import SMALL, checkpoint, only, pair_rows, write_rows

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The experiments of the project, wherever the tests are run from."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))


def told(capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, Any]:
    """What the command prints for a program."""
    assert main(["data", "basereward", "--json", *SMALL, *overrides]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_the_counts_are_those_of_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    """24 digits of several answers and 40 questions; shares add up, and nothing is padded or lost."""
    result = told(capsys)
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
    wide, narrow = (told(capsys, f"batch.tokens={tokens}")["forwards_per_step"] for tokens in (1200, 300))
    assert wide < narrow <= 8


def test_lost_rows_are_counted_and_stop_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also more than a training would allow, which is told; a person reads them in the table."""
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


def test_a_stream_cannot_be_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and what to leave out."""
    mine = only(write_rows(tmp_path / "pairs.jsonl", pair_rows(40)))
    assert main(["data", "basereward", *mine, "data.streaming={buffer: 5, held_out: 5}"]) == 2
    assert "data.streaming knows nothing of its sources" in capsys.readouterr().err


def padded(data: PreferenceData) -> float:
    """The share of padding in all tokens of the first stage, counted in its batches."""
    data.setup()
    batches = list(data.passes(0))
    total: int = sum(b.branch.numel() for b in batches)
    return sum(int((b.branch == PADDING).sum()) for b in batches) / total


def test_the_default_mixture_is_not_padded(tmp_path: Path) -> None:
    """At most one token of twenty, in real batches of pictures and text; in fact none."""
    encoder = load_encoder(checkpoint("qwen2_5_vl", tmp_path / "model"), max_tokens=512)
    recipe = load_recipe("basereward", overrides=SMALL)
    assert padded(build_data(recipe, encoder=encoder, lost_file=tmp_path / "lost.jsonl")) == 0


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
                lost_file=tmp_path / "lost.jsonl",
            )
        )
        for layout in ("tree", "plain")
    }
    assert shares["tree"] == 0
    assert shares["plain"] > 0.2
