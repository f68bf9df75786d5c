"""Test that texts after a shared prefix are those that transformers writes after repeated prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from trl.data_utils import prepare_multimodal_messages

from basereward.model.generation.shared_prefix import shared_prefix_fault, sharing_prefixes
from basereward.model.policy import Policy, load_policy
from tests.helpers.judge_training import row
from tests.helpers.support import checkpoint, picture

PLACES = [0, 0, 0, 1, 1, 2, 2, 2, 2]
GREEDY: dict[str, Any] = {"do_sample": False}
SAMPLED: dict[str, Any] = {"do_sample": True, "temperature": 1.3, "top_k": 50, "top_p": 0.8}


def encoded(policy: Policy, numbers: list[int]) -> dict[str, Any]:
    """Inputs of prompts of different lengths; the second one has no picture."""
    rows = [
        row("Which digit is it?", picture(0)),
        row("Hm?"),
        row("What can be seen in this picture, and why?", picture(1)),
    ]
    turns: list[Any] = []
    for number in numbers:
        prompt = rows[number]["prompt"]
        if policy.reads_images:
            turns.append(prepare_multimodal_messages(prompt, images=rows[number]["images"]))
        else:
            turns.append([{"role": "user", "content": prompt[0]["content"][-1]["text"]}])
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    return dict(policy.processor.apply_chat_template(turns, padding=True, **options))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl", "qwen2"])
def test_texts_are_those_of_repeated_prompts(family: str, tmp_path: Path) -> None:
    """Greedy texts, and sampled ones from the same random numbers, token by token; the tower sees each picture once."""
    policy = load_policy(checkpoint(family, tmp_path / family))
    model: Any = policy.model
    patches: list[int] = []
    if policy.reads_images:
        model.model.visual.register_forward_hook(lambda module, inputs, output: patches.append(len(inputs[0])))
    repeated, distinct = encoded(policy, PLACES), encoded(policy, [0, 1, 2])
    for method in (GREEDY, SAMPLED):
        options = {"max_new_tokens": 12, "pad_token_id": 0, "eos_token_id": 7, **method}
        torch.manual_seed(5)
        expected = model.generate(**repeated, **options)
        patches.clear()
        torch.manual_seed(5)
        with sharing_prefixes(model, PLACES):
            written = model.generate(**distinct, **options)
        assert torch.equal(written, expected)
        assert sum(patches) == (len(distinct["pixel_values"]) if policy.reads_images else 0)
    # Every sampled text is another one, so that a row in another place would be seen.
    assert len({tuple(text) for text in expected.tolist()}) == len(PLACES)
    assert "generate" not in vars(model)


def tiny(family: str, **options: Any) -> Any:
    """A causal model with random weights."""
    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **sizes, **heads, **options)  # type: ignore[no-untyped-call]
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize(
    ("family", "options", "is_shared"),
    [
        ("mistral", {"sliding_window": 3}, True),
        ("qwen3", {}, True),
        # Its states are not those of a cache of keys and values.
        ("recurrent_gemma", {}, False),
    ],
)
def test_cache_that_cannot_be_copied_is_found(family: str, options: dict[str, Any], is_shared: bool) -> None:
    """The check also compares logits: it finds a cache whose rows are copied wrongly."""
    model = tiny(family, **options).train()
    assert (shared_prefix_fault(model) is None) is is_shared
    assert model.training


def test_wrong_copies_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that gives zeros in place of the keys."""
    from transformers.cache_utils import DynamicLayer

    model = tiny("qwen3")

    def zeros(self: DynamicLayer, indices: torch.Tensor) -> None:
        self.keys, self.values = self.keys[indices] * 0, self.values[indices] * 0

    monkeypatch.setattr(DynamicLayer, "batch_select_indices", zeros)
    assert "logits" in str(shared_prefix_fault(model))
