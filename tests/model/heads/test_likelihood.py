"""Test the head that learns to answer: its tokens are those of the chat template, its scores those of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from basereward.data.batching.collate import collate
from basereward.data.schema.group import Group, Part, Turn
from basereward.data.schema.rejections import RowRejected
from basereward.model.backbone import load_backbone, load_config
from basereward.model.families.lm_head import load_language_head
from basereward.model.families.processing import load_encoder
from basereward.model.policy import load_policy
from basereward.model.reward_model import RewardModel
from basereward.recipe import make
from tests.helpers.support import checkpoint, group

SYSTEM = Turn("system", (Part("Be short."),))


def built(path: Path) -> tuple[RewardModel, Any]:
    """A reward model with the head on a checkpoint, and its encoder."""
    backbone = load_backbone(path)
    head = make({"_target_": "likelihood"}, "heads", backbone.hidden_size)
    encoder = load_encoder(path).with_branch_template(head.branch_template)
    model = RewardModel(backbone, head, language=load_language_head(path, load_config(path)), encoder=encoder)
    return model.eval(), encoder


def log_probs(path: Path, one: Group, response: str) -> torch.Tensor:
    """Those of the tokens of a response and of the end of its turn, by transformers, as a policy is asked."""
    policy: Any = load_policy(path)
    text = {"type": "text", "text": one.prompt[-1].parts[-1].text}
    turns = [{"role": "system", "content": "Be short."}] if len(one.prompt) > 1 else []
    prompt = [*turns, {"role": "user", "content": [*[{"type": "image"}] * len(one.images), text]}]
    rendered = policy.processor.tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    inputs = policy.processor(text=[f"{rendered}{response}<|im_end|>"], images=[list(one.images)], return_tensors="pt")
    number = len(policy.processor.tokenizer(f"{response}<|im_end|>")["input_ids"])
    with torch.no_grad():
        logits = policy.model(**inputs).logits[0]
    ids = inputs["input_ids"][0]
    values: torch.Tensor = logits.log_softmax(-1)[:-1].gather(-1, ids[1:, None])[:, 0][-number:]
    return values


@pytest.mark.parametrize("images", [0, 1])
def test_scores_and_loss_are_those_of_transformers(tmp_path: Path, images: int) -> None:
    """The score is the mean log-probability of a response; the loss is minus that of the best response of each group,
    whose tokens count equally."""
    path = checkpoint("qwen2_5_vl", tmp_path / "model")
    model, encoder = built(path)
    groups = [
        group("Which digit?", ("7", "It is a four."), images=images, turns=(SYSTEM,)),
        group("What is it?", ("A cat.", "5", "no"), images=images, name="h"),
    ]
    batch = collate([encoder(one) for one in groups], layout="tree", pad_id=encoder.pad_id)
    expected = [log_probs(path, one, response).mean().item() for one in groups for response in one.responses]
    with torch.no_grad():
        assert model.response_scores(batch).tolist() == pytest.approx(expected, abs=1e-4)
        learned = collate([encoder(one, with_targets=True) for one in groups], layout="tree", pad_id=encoder.pad_id)
        loss = model.language_loss(model.backbone.hidden_states(learned), learned)
    assert len(learned.rows.ends) == 2
    assert loss.item() == pytest.approx(-(expected[0] + expected[2]) / 2, abs=1e-4)


def test_a_group_without_a_preferred_response_is_rejected_in_training_alone(tmp_path: Path) -> None:
    """Nothing says which of two responses should be learned; both are scored."""
    model, encoder = built(checkpoint("qwen2_5_vl", tmp_path / "model"))
    undecided = Group("a", "test", (Turn("user", (Part("2 + 2?"),)),), ("4", "5"))
    with pytest.raises(RowRejected, match="preferred") as caught:
        encoder(undecided, with_targets=True)
    assert caught.value.reason == "no_answer"
    batch = collate([encoder(undecided)], layout="tree", pad_id=encoder.pad_id)
    with torch.no_grad():
        assert len(model.response_scores(batch)) == 2


def test_weights_are_those_of_a_chat_model(tmp_path: Path) -> None:
    """The head has none of its own, so that what is learned is what a policy needs."""
    path = checkpoint("qwen2_5_vl", tmp_path / "model")
    model, _ = built(path)
    chat = AutoModelForImageTextToText.from_pretrained(path)
    assert sum(weight.numel() for weight in model.parameters()) == sum(weight.numel() for weight in chat.parameters())
