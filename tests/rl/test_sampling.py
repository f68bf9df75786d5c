"""Test the responses of best-of-N: whose they are, which are right, and that nothing but the arguments limits them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from trl.data_utils import prepare_multimodal_messages

from basereward.data.encoding.chat import messages
from basereward.data.schema.group import Group, Preference
from basereward.model.policy import Policy, load_policy
from basereward.rl.exact_match import exact_match
from basereward.rl.sampling import sample_responses
from tests.helpers.support import checkpoint, group


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    """A tiny one whose checkpoint asks for the most likely token alone, as those for chats may."""
    made = load_policy(checkpoint("qwen2_5_vl", tmp_path / "policy"))
    made.model.eval()
    settings: Any = made.model.generation_config
    settings.top_k, settings.repetition_penalty = 1, 5.0
    return made


def asked(count: int) -> list[Group]:
    """Groups with pictures, whose reference answer is `4`."""
    groups: list[Group] = []
    for number in range(count):
        made = group(f"Which digit is {number}?", ("4", "5"), images=number % 2, name=f"g{number}")
        groups.append(Group(made.id, "s", made.prompt, made.responses, (Preference(0, 1),), images=made.images))
    return groups


def test_responses_of_every_prompt(policy: Policy) -> None:
    """In their order and with their truth; each differs, although the checkpoint's own settings allow one alone."""
    groups = asked(3)
    rows = list(sample_responses(policy, groups, number=4, max_tokens=3, batch=2))
    assert [row["id"] for row in rows] == ["g0", "g1", "g2"]
    assert all(len(set(row["responses"])) == 4 for row in rows)
    for row in rows:
        assert row["right"] == [exact_match(response, ["4"]) for response in row["responses"]]
    # The second batch alone, and the state of torch's generator before the call, change nothing.
    torch.manual_seed(9)
    state = torch.get_rng_state()
    assert [row["responses"] for row in sample_responses(policy, groups, number=4, max_tokens=3, batch=2)] == [
        row["responses"] for row in rows
    ]
    assert torch.equal(torch.get_rng_state(), state)


def test_low_temperature_is_greedy(policy: Policy) -> None:
    """Each response is what transformers' own `generate` writes after the prompt alone."""
    groups = asked(2)
    rows = sample_responses(policy, groups, number=2, max_tokens=6, temperature=1e-4)
    model, processor = policy.model, cast(Any, policy.processor)
    for row, item in zip(rows, groups, strict=True):
        turns = prepare_multimodal_messages(messages(item.prompt, in_parts=True), images=list(item.images))
        inputs = processor.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        options: dict[str, Any] = {"do_sample": False, "repetition_penalty": 1.0, "pad_token_id": 0}
        written = cast(Any, model).generate(**inputs, max_new_tokens=6, **options)
        text = processor.tokenizer.decode(written[0, inputs["input_ids"].size(1) :], skip_special_tokens=True)
        assert row["responses"] == [text, text]
