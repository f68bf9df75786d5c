"""Test the import of published layouts: scores equal those of transformers' own classes on the same checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Model,
)

from basereward.errors import ModelError
from basereward.inference.export.export_model import export_model
from basereward.inference.load_model import load
from basereward.inference.published.import_model import import_model
from tests.helpers.exported_scores import inputs_of
from tests.helpers.support import checkpoint, picture

TURNS = [{"role": "user", "content": "2 + 2?"}]
ANSWERS = ["4", "It is five, I think."]
WIDTH = 64
Reference = Callable[[list[dict[str, Any]]], float]


def inputs(folder: Path, turns: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Render and encode turns as the cards of these models say: all that the chat template writes."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    rendered = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, return_tensors="pt")
    assert tokenizer.decode(rendered["input_ids"][0]).endswith("<|im_end|>\n"), "more than the end-of-turn token"
    return dict(rendered)


def conversation(answer: str) -> list[dict[str, Any]]:
    """Return the turns of an answer."""
    return [*TURNS, {"role": "assistant", "content": answer}]


def classifier(family: str, folder: Path) -> Reference:
    """Write a checkpoint of a class for sequence classification, and return its forward pass."""
    base = checkpoint(family, folder / "base")
    torch.manual_seed(2)
    model: Any = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1).eval()
    model.save_pretrained(folder / "published")
    AutoTokenizer.from_pretrained(base).save_pretrained(folder / "published")
    opened: Any = AutoModelForSequenceClassification.from_pretrained(folder / "published").eval()
    return lambda turns: opened(**inputs(folder / "published", turns)).logits[0, 0].item()


def two_layers(folder: Path) -> Reference:
    """Write a checkpoint in the layout of Qwen2.5-Math-RM, with code that fails if it runs."""
    base, published = checkpoint("qwen2", folder / "base"), folder / "published"
    published.mkdir()
    torch.manual_seed(2)
    score = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))
    weights = {name: weight for name, weight in load_file(base / "model.safetensors").items() if "lm_head" not in name}
    weights |= {f"score.{name}": weight for name, weight in score.state_dict().items()}
    save_file(weights, published / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    config |= {
        "architectures": ["Qwen2ForRewardModel"],
        "auto_map": {"AutoModel": "modeling_qwen2_rm.Qwen2ForRewardModel"},
    }
    (published / "config.json").write_text(json.dumps(config))
    (published / "modeling_qwen2_rm.py").write_text("raise SystemExit('the code of the checkpoint ran')")
    AutoTokenizer.from_pretrained(base).save_pretrained(published)
    model = Qwen2Model.from_pretrained(base).eval()

    def reference(turns: list[dict[str, Any]]) -> float:
        state = model(**inputs(base, turns)).last_hidden_state[0, -1]
        return float(score(state))

    return reference


@pytest.mark.parametrize("layout", ["llama", "qwen2", "two layers"])
@torch.no_grad()
def test_text_models_score_as_published(layout: str, tmp_path: Path) -> None:
    """The score is read at the last token of the template, a line break after the end of the turn."""
    reference = two_layers(tmp_path) if layout == "two layers" else classifier(layout, tmp_path)
    facts = import_model(tmp_path / "published", tmp_path / "model")
    assert facts["layout"] == ("two layers" if layout == "two layers" else "linear")
    expected = [reference(conversation(answer)) for answer in ANSWERS]
    scorer = load(tmp_path / "model", device="cpu")
    assert scorer.score(TURNS, ANSWERS) == pytest.approx(expected, rel=0, abs=1e-5)
    assert abs(expected[0] - expected[1]) > 1e-3
    export_model(scorer, tmp_path / "exported", source=tmp_path / "model")
    if layout == "two layers":
        import_model(tmp_path / "exported", tmp_path / "again")
        # The template of the export ends where the score is read, whatever is written there.
        assert load(tmp_path / "again", device="cpu").score(TURNS, ANSWERS) == pytest.approx(expected, rel=0, abs=1e-5)


@torch.no_grad()
def test_side_file_scores_as_published(tmp_path: Path) -> None:
    """A value head beside a Qwen2.5-VL with its language-model head, on a prompt with a picture."""
    published = checkpoint("qwen2_5_vl", tmp_path / "published")
    torch.manual_seed(2)
    head = nn.Linear(WIDTH, 1)
    weights = {"v_head.summary.weight": head.weight.detach(), "v_head.summary.bias": head.bias.detach() + 0.5}
    save_file(weights, published / "value_head.safetensors")
    import_model(published, tmp_path / "model")
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(published).eval()
    picture(0).save(tmp_path / "0.png")
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which digit?"}]}]
    expected = []
    for answer in ANSWERS:
        turns = [*prompt, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        encoded = inputs_of(str(published), [{"messages": turns, "images": [str(tmp_path / "0.png")]}])
        encoded["mm_token_type_ids"] = (encoded["input_ids"] == model.config.image_token_id).int()
        state = model(**encoded, output_hidden_states=True).hidden_states[-1][0, -1]
        expected.append((state @ weights["v_head.summary.weight"][0] + weights["v_head.summary.bias"]).item())
    scores = load(tmp_path / "model", device="cpu").score(prompt, ANSWERS, images=[tmp_path / "0.png"])
    assert scores == pytest.approx(expected, rel=0, abs=1e-5)
    assert AutoImageProcessor.from_pretrained(tmp_path / "model" / "backbone", backend="pil") is not None


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    """Without a head, with several labels, and over the checkpoint itself."""
    plain = checkpoint("qwen3", tmp_path / "plain")
    with pytest.raises(ModelError, match="no head of a known layout"):
        import_model(plain, tmp_path / "model")
    labels: Any = AutoModelForSequenceClassification.from_pretrained(plain, num_labels=3)
    labels.save_pretrained(tmp_path / "labels")
    with pytest.raises(ModelError, match="gives 3 numbers"):
        import_model(tmp_path / "labels", tmp_path / "model")
    with pytest.raises(ModelError):
        import_model(plain, plain)
    assert not (tmp_path / "model").exists()
