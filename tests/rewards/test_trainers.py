"""The reward functions of other trainers: each gives the scores of the model for rollouts in that trainer's form."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

import basereward.rewards
from basereward.errors import DataError
from basereward.inference.scorer import Scorer, load_scorer
from tests.helpers.served_model import save_scored_model

RED = PIL.Image.new("RGB", (56, 56), "red")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save a small Qwen2.5-VL with random weights, and return its folder."""
    return str(save_scored_model(tmp_path_factory.mktemp("rewards"), head="mlp"))


@pytest.fixture(scope="module")
def scorer(folder: str) -> Scorer:
    """Open the model."""
    return load_scorer(Path(folder))


def test_trl_conversations_with_pictures(folder: str, scorer: Scorer) -> None:
    """Two prompts with three rollouts each, the pictures in a column or in the messages; equal completions get equal
    rewards."""
    questions = ["Which colour?", "What is it?"]
    completions = ["Red.", "A square.", "Red.", "Blue.", "A cat.", "A dog."]
    in_column, in_messages = [], []
    for place in range(6):
        text = {"type": "text", "text": questions[place // 3]}
        in_column.append([{"role": "user", "content": [{"type": "image"}, text]}])
        in_messages.append([{"role": "user", "content": [{"type": "image", "image": RED}, text]}])
    expected = [scorer.score(in_column[place], [text], images=[RED])[0] for place, text in enumerate(completions)]
    answers = [[{"role": "assistant", "content": text}] for text in completions]
    reward = basereward.rewards.trl(folder)
    options = {"completion_ids": [[1]] * 6, "trainer_state": None}
    assert reward(in_column, answers, images=[[RED]] * 6, **options) == pytest.approx(expected, abs=1e-5)
    assert reward(in_column, answers, image=[RED] * 6, **options) == pytest.approx(expected, abs=1e-5)
    assert reward(in_messages, answers, images=[[RED]] * 6, **options) == pytest.approx(expected, abs=1e-5)


def test_trl_texts_and_scales(folder: str, scorer: Scorer) -> None:
    """Prompts and completions as plain texts, on each scale, by the saved mean 0.5 and standard deviation 2."""
    (score,) = scorer.score("2 + 2?", ["4"])
    assert basereward.rewards.trl(folder)(["2 + 2?"], ["4"]) == pytest.approx([score], abs=1e-5)
    standardised = basereward.rewards.trl(folder, scale="standardised")(["2 + 2?"], ["4"])
    assert standardised == pytest.approx([(score - 0.5) / 2], abs=1e-5)
    (sigmoid,) = basereward.rewards.trl(folder, scale="sigmoid")(["2 + 2?"], ["4"])
    assert 0 < sigmoid < 1
    with pytest.raises(DataError, match="unknown scale"):
        basereward.rewards.trl(folder, scale="log")


def test_ms_swift_rows(folder: str, scorer: Scorer) -> None:
    """The conversation may end with the completion; pictures are objects with bytes."""
    content = io.BytesIO()
    RED.save(content, "PNG")
    conversation = [{"role": "user", "content": "<image>Which colour?"}, {"role": "assistant", "content": "Red."}]
    rewards = basereward.rewards.ms_swift(folder)(
        ["Red.", "Blue."],
        messages=[conversation, conversation[:1]],
        images=[[{"bytes": content.getvalue(), "path": None}]] * 2,
        solution=["Red.", "Red."],
    )
    assert rewards == pytest.approx(scorer.score("<image>Which colour?", ["Red.", "Blue."], images=[RED]), abs=1e-5)


def test_verl_reads_the_prompt_of_extra_info(folder: str, scorer: Scorer) -> None:
    """The prompt and its pictures stand in `extra_info`; without them the error says what to add."""
    compute_score = basereward.rewards.verl(folder)
    extra: dict[str, Any] = {"prompt": [{"role": "user", "content": "<image>Which colour?"}], "images": [RED]}
    reward = compute_score("digits", "Red.", "Red.", extra, reward_router_address=None, reward_model_tokenizer=None)
    assert reward == pytest.approx(scorer.score(extra["prompt"], ["Red."], images=[RED])[0], abs=1e-5)
    with pytest.raises(DataError, match="extra_info"):
        compute_score("digits", "Red.", "Red.", {})


def test_openrlhf_splits_rendered_texts(folder: str, scorer: Scorer) -> None:
    """Queries begin with the rendered prompt and end with the token that ends a turn."""
    prompt = "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    answer = basereward.rewards.openrlhf(folder)([f"{prompt}4<|im_end|>"], [prompt], ["4"])
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "2 + 2?"}]
    assert answer["rewards"].tolist() == pytest.approx(scorer.score(messages, ["4"]), abs=1e-5)
    assert answer["extra_logs"] == {}


def test_unscorable_responses(folder: str, scorer: Scorer) -> None:
    """A response that is too long gets the reward of the caller, and the others theirs; without it, it is an error."""
    completions = ["4", "", "five " * 20_000, "5"]
    four, nothing, five = (scorer.score("2 + 2?", [text])[0] for text in ("4", "", "5"))
    reward = basereward.rewards.trl(folder, unscorable=-7.0)
    assert reward(["2 + 2?"] * 4, completions) == pytest.approx([four, nothing, -7.0, five], abs=1e-5)
    with pytest.raises(DataError, match="too_long"):
        basereward.rewards.trl(folder)(["2 + 2?"] * 4, completions)
