"""The critic: it writes a critique of a response, and scores at the critique's end."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from basereward.data.screening import RowLost
from basereward.data.speech import Spoken
from basereward.errors import unknown
from basereward.model.generation import Writing
from basereward.model.heads.mlp import MLP

if TYPE_CHECKING:
    from basereward.data.encoding import Encoder
    from basereward.data.group import Group


class Critic(MLP):
    """Critique, then score (MM-RLHF, arXiv 2502.10391; the Critic-RM of BaseReward, Table 1).

    A branch is the response, a request for a critique, and the critique. In training the critique is the data's: its
    tokens are learned as language, and the score is read at its end. In scoring the model writes it itself.

    Args:
        hidden_size: width D of the backbone's hidden states.
        layers, activation, width, dropout: of the score; see `MLP`.
        language_weight: what a token's mean cross-entropy over critiques counts beside the loss over scores.
        max_tokens: of a critique that the model writes; a longer one is cut, and scored where it was cut.
        temperature: of the writing; 0 takes the likeliest token.
        samples: critiques a response; its score is their mean.
        prompt: the request, by the name of a file in `basereward/model/prompts`.
        prompt_file: a text file with the request, in its place.

    Raises:
        ValueError: a number is out of its range, or there is no such file.
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        layers: int = 2,
        activation: Literal["none", "tanh", "relu", "silu"] = "silu",
        width: int | None = None,
        dropout: float = 0.0,
        language_weight: float = 1.0,
        max_tokens: int = 512,
        temperature: float = 0.0,
        samples: int = 1,
        prompt: str = "critique",
        prompt_file: str | None = None,
    ) -> None:
        super().__init__(hidden_size, layers=layers, activation=activation, width=width, dropout=dropout)
        if samples < 1 or max_tokens < 1 or temperature < 0 or language_weight < 0:
            raise ValueError("samples and max_tokens are at least 1, temperature and language_weight at least 0")
        if samples > 1 and not temperature:
            raise ValueError(f"samples={samples} at temperature 0 would be the same critique so many times")
        self.language_weight = language_weight
        self.writing = Writing(max_tokens=max_tokens, temperature=temperature, samples=samples)
        self.speech = Critiques(_request(prompt, prompt_file))


class Critiques:
    """Branches with a request for a critique, and the critique."""

    def __init__(self, request: str) -> None:
        self.request = request

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"critique {self.request}".encode()).hexdigest()

    def __call__(self, encoder: Encoder, group: Group, *, taught: bool) -> Sequence[tuple[Tensor, Spoken]]:
        if taught and len(group.critiques) != len(group.responses):
            raise RowLost(
                "no_critique",
                f"{len(group.critiques)} critiques of {len(group.responses)} responses; a critic learns from written "
                "ones, which digits and mm_rlhf have. Give `critiques`, or another head",
            )
        asked = encoder.asked(self.request)
        laid = []
        for index, response in enumerate(group.responses):
            said = encoder.branch(response)[:-1]
            told = encoder.branch(group.critiques[index]) if taught else said[:0]
            laid.append((torch.cat([said, asked, told]), Spoken(len(said), len(told))))
        return laid


def _request(name: str, file: str | None) -> str:
    known = {Path(each.name).stem: each for each in (files("basereward.model") / "prompts").iterdir()}
    if file is None and name not in known:
        raise ValueError(unknown("prompt", name, known))
    try:
        return (known[name] if file is None else Path(file)).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError(f"prompt_file cannot be read: {error}") from error
