"""Test exported models: a process without this package gives the same scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from basereward.errors import ModelError
from basereward.inference.export.export_model import export_model
from basereward.inference.export.model_card import BenchmarkResult
from basereward.inference.load_model import load
from basereward.inference.scorer import Scorer
from basereward.model.families.processing import recipe_encoder
from basereward.model.reward_model import build_model
from basereward.recipe.schema import BackboneRecipe, DataRecipe, LoraRecipe, ModelRecipe, Recipe
from tests.helpers.exported_process import scores_elsewhere
from tests.helpers.support import checkpoint, picture

TURNS = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hello! What do you need?"},
    {"role": "user", "content": "2 + 2?"},
]
ANSWERS = ["4", "It is five, I think."]


def saved(family: str, folder: Path, *, head: dict[str, Any], lora: bool = False, pooling: str = "last") -> Path:
    """Save a model of a small checkpoint with random weights."""
    path = checkpoint(family, folder / "backbone")
    recipe = Recipe(
        name="exported",
        model=ModelRecipe(
            backbone=BackboneRecipe(path=str(path)),
            head=head,
            lora=LoraRecipe() if lora else None,
            pooling=pooling,  # type: ignore[arg-type]
        ),
        data=DataRecipe(sources={"pairs": {"_target_": "hub", "path": "some/pairs"}}),
    )
    encoder = recipe_encoder(recipe, path=str(path))
    model = build_model(recipe.model, path=str(path), seed=0, encoder=encoder).eval()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        # Both would be zero, and their loss would not be noticed.
        if "lora_B" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    Scorer(model, encoder=encoder, recipe=recipe).save(folder / "model")
    return folder / "model"


def export(model: Path, out: Path, **options: Any) -> dict[str, Any]:
    """Export a saved model."""
    return export_model(load(model, device="cpu"), out, source=model, **options)


def rows_of(folder: Path, *, images: bool) -> tuple[list[Any], list[tuple[list[dict[str, Any]], list[Path]]]]:
    """Return batches of messages as in `exported_scores`, and the calls of `score` for the same rows."""
    calls: list[tuple[list[dict[str, Any]], list[Path]]] = [
        (TURNS, []),
        ([{"role": "user", "content": "Name a digit."}], []),
    ]
    if images:
        files = [folder / f"{index}.png" for index in range(2)]
        for index, file in enumerate(files):
            picture(index).save(file)
        shown = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which is larger?"}]
        calls.append(([{"role": "user", "content": shown}], files))
    batches = []
    for prompt, files in calls:
        batch = []
        for answer in ANSWERS:
            turns = [*prompt, {"role": "assistant", "content": answer}]
            batch.append({"messages": _in_parts(turns) if images else turns, "images": list(map(str, files))})
        batches.append(batch)
    return batches, calls


def _in_parts(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write every content as a list of parts, as templates of image models expect it."""
    return [
        turn if isinstance(turn["content"], list) else turn | {"content": [{"type": "text", "text": turn["content"]}]}
        for turn in turns
    ]


@pytest.mark.slow
def test_scores_are_those_of_the_saved_model(tmp_path: Path) -> None:
    """Texts, several turns and images, with linear and mlp heads, merged adapters and one that is not merged."""
    linear, biased = {"_target_": "linear", "bias": False}, {"_target_": "linear"}
    mlp = {"_target_": "mlp", "layers": 3, "activation": "tanh", "width": 16, "dropout": 0.1}
    cases: list[tuple[str, dict[str, Any], bool, bool, str]] = [
        ("qwen3", linear, False, False, "AutoModelForSequenceClassification"),
        ("llama", linear, True, False, "AutoModelForSequenceClassification"),
        ("llama", linear, True, True, "peft"),
        ("qwen2", biased, True, False, "AutoModel"),
        ("qwen2_5_vl", mlp, False, False, "AutoModel"),
        ("qwen2_5_vl", biased, True, False, "AutoModel"),
    ]
    asked, expected = [], []
    for index, (family, head, lora, adapter, opener) in enumerate(cases):
        folder = tmp_path / str(index)
        model = saved(family, folder, head=head, lora=lora)
        export(model, folder / "out", adapter=adapter)
        assert not [file for file in (folder / "out").rglob("*") if file.suffix in (".bin", ".pt", ".pkl", ".pth")]
        batches, calls = rows_of(folder, images="vl" in family)
        scorer = load(model, device="cpu")
        expected.append([scorer.score(prompt, ANSWERS, images=files) for prompt, files in calls])
        asked.append(
            {"folder": str(folder / "out"), "opener": opener, "base": str(folder / "backbone"), "rows": batches}
        )
    for case, actual, wanted in zip(cases, scores_elsewhere(asked, tmp_path), expected, strict=True):
        for scores, wanted_scores in zip(actual, wanted, strict=True):
            assert scores == pytest.approx(wanted_scores, rel=0, abs=1e-5), case
            assert abs(scores[0] - scores[1]) > 1e-3, "the answers differ, or nothing is compared"


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    """The reason is told, and nothing is written."""
    out = tmp_path / "out"
    judge = saved("qwen3", tmp_path / "judge", head={"_target_": "generative", "prompt": "pairwise_brief"})
    with pytest.raises(ModelError, match="generates text"):
        export(judge, out)
    mean = saved("qwen3", tmp_path / "mean", head={"_target_": "linear"}, pooling="mean")
    with pytest.raises(ModelError, match=r"model\.pooling=mean"):
        export(mean, out)
    mlp = saved("qwen3", tmp_path / "mlp", head={"_target_": "mlp"}, lora=True)
    with pytest.raises(ModelError, match="only a linear head without bias"):
        export(mlp, out, adapter=True)
    plain = saved("qwen3", tmp_path / "plain", head={"_target_": "linear", "bias": False})
    with pytest.raises(ModelError, match="has no adapter"):
        export(plain, out, adapter=True)
    assert not out.exists()
    for taken in (plain, tmp_path / "plain" / "backbone", plain / "inside"):
        before = sorted(path.name for path in plain.rglob("*"))
        with pytest.raises(ModelError):
            export(plain, taken)
        assert sorted(path.name for path in plain.rglob("*")) == before


def test_export_replaces_only_an_export(tmp_path: Path) -> None:
    """A checkpoint from elsewhere has files of the same names, and is not touched."""
    model = saved("qwen3", tmp_path, head={"_target_": "linear", "bias": False})
    foreign = checkpoint("qwen3", tmp_path / "foreign")
    before = {path.name: path.read_bytes() for path in foreign.iterdir()}
    with pytest.raises(ModelError, match="did not write"):
        export(model, foreign)
    assert {path.name: path.read_bytes() for path in foreign.iterdir()} == before
    first = export(model, tmp_path / "out")
    assert export(model, tmp_path / "out") == first
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(ModelError, match=r"notes\.txt"):
        export(model, tmp_path / "out")


def test_card_has_metadata_and_evaluations(tmp_path: Path) -> None:
    """The hub's own reader finds the data sets, the tag, the licence and the results with their intervals."""
    model = saved("qwen3", tmp_path, head={"_target_": "mlp"})
    (tmp_path / "backbone" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    result = BenchmarkResult(
        benchmark="vl_rewardbench",
        title="vl_rewardbench",
        variant="paper",
        metric="overall",
        value=0.75,
        low=0.7,
        high=0.8,
        interval="wilson",
        items=400,
    )
    export(model, tmp_path / "out", results=[result])
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert (data.license, data.datasets, data.pipeline_tag) == ("apache-2.0", ["some/pairs"], "text-classification")
    assert data.base_model is None, "a folder of this machine is no base model on the hub"
    (found,) = data.eval_results
    assert (found.metric_value, found.metric_args["low"], found.metric_args["high"]) == (0.75, 0.7, 0.8)
    text = (tmp_path / "out" / "README.md").read_text()
    assert str(tmp_path) not in text
