"""Test the responses of best-of-N: whose they are, which are right, and that nothing but the arguments limits them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BatchEncoding

from basereward.data.schema.group import Group, Part, Preference, Turn
from basereward.model.policy import Policy
from basereward.rl.sampling import sample_responses


class Tokenizer:
    """Reads every text as one token, and writes `4` for the token 4."""

    eos_token_id, pad_token_id = 1, 0

    def apply_chat_template(self, turns: Any, **options: Any) -> str:
        """The text of the last turn."""
        return str(turns[-1]["content"])

    def __call__(self, *, text: list[str], **options: Any) -> BatchEncoding:
        """One token for each text."""
        return BatchEncoding({"input_ids": torch.full((len(text), 1), 9)})

    def batch_decode(self, ids: torch.Tensor, **options: Any) -> list[str]:
        """The numbers of the tokens."""
        return [str(row[0]) for row in ids.tolist()]


class Writer:
    """Writes the tokens 4, 5, 4, 5, ..., and keeps what it is asked for."""

    device = torch.device("cpu")

    def generate(self, *, input_ids: torch.Tensor, num_return_sequences: int, **options: Any) -> torch.Tensor:
        """A token after each prompt."""
        self.options = options
        rows = input_ids.repeat_interleave(num_return_sequences, 0)
        return torch.cat([rows, 4 + torch.arange(len(rows))[:, None] % 2], 1)


def test_responses_of_every_prompt() -> None:
    """In their order and with their truth. Settings of the checkpoint for chats do not count."""
    prompt = (Turn("user", (Part("2 + 2?"),)),)
    groups = [Group(name, "sums", prompt, ("4", "5"), (Preference(0, 1),)) for name in "abc"]
    writer: Any = Writer()
    tokenizer: Any = Tokenizer()
    rows = list(sample_responses(Policy(writer, tokenizer), groups, number=4, temperature=0.7, top_p=0.9, batch=2))
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert all(row["responses"] == ["4", "5", "4", "5"] for row in rows)
    assert all(row["right"] == [True, False, True, False] for row in rows)
    asked = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "repetition_penalty": 1.0}
    assert writer.options.items() >= asked.items()
