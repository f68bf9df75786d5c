"""Sampling in which every row has random numbers of its own, so that no text depends on the rest of its batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper


def text_seed(seed: int, *parts: str | int) -> int:
    """The seed of one text, from 0 to 2**31 - 1: servers take no larger ones.

    Args:
        seed: of all texts.
        parts: what distinguishes the text from the others, such as the id of its request.

    >>> text_seed(0, "a") == text_seed(0, "a"), text_seed(0, "a") == text_seed(0, "b"), text_seed(0, "a") < 2**31
    (True, False, True)
    """
    digest = hashlib.sha256(json.dumps([seed, *parts]).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


class RowSampling(LogitsProcessor):
    """Draws the next token of each row with the row's own random numbers, and leaves only this token possible.

    transformers' `generate` draws the tokens of all rows from one generator, so that a text depends on the rows before
    it. Here a row is drawn by inversion: the token is the first one whose cumulative probability is above a uniform
    number. `generate` then has to take the most likely token (`do_sample=False`).

    Args:
        seeds: one for each row.
        prompt_tokens: columns of the rows before the first generated token.
        max_tokens: the most tokens that are generated.

    >>> sampling = RowSampling([3, 3], prompt_tokens=1, max_tokens=2)
    >>> scores = sampling(torch.zeros(2, 1), torch.zeros(2, 50))
    >>> bool(scores[0].argmax() == scores[1].argmax()), scores.isfinite().sum(dim=1).tolist()
    (True, [1, 1])
    """

    def __init__(self, seeds: Sequence[int], *, prompt_tokens: int, max_tokens: int) -> None:
        self._prompt_tokens = prompt_tokens
        # On the CPU, whose numbers are those of every device.
        rows = [torch.rand(max_tokens, dtype=torch.float64, generator=_generator(seed)) for seed in seeds]
        self._uniform = torch.stack(rows)  # (rows, max_tokens)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `(rows, V)` of the next token: 0 for the drawn one, and minus infinity for the others."""
        self._uniform = self._uniform.to(scores.device)
        # In float64, because the rounding of a sum over a large vocabulary would give some tokens no chance.
        cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
        uniform = self._uniform[:, input_ids.shape[1] - self._prompt_tokens, None] * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, uniform, right=True)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens.clamp_max(scores.shape[1] - 1), 0.0)


def row_sampling(
    seeds: Sequence[int], *, temperature: float, top_p: float, prompt_tokens: int, max_tokens: int
) -> LogitsProcessorList:
    """What samples the tokens of each row by its own seed, in the form of transformers' `generate`.

    Args:
        seeds: one for each row.
        temperature: above 0.
        top_p: tokens are drawn from the smallest set that together has this probability.
        prompt_tokens, max_tokens: as of `RowSampling`.

    >>> [type(step).__name__ for step in row_sampling([0], temperature=0.5, top_p=1.0, prompt_tokens=1, max_tokens=1)]
    ['TemperatureLogitsWarper', 'RowSampling']
    """
    steps: list[LogitsProcessor] = [TemperatureLogitsWarper(float(temperature))]
    if top_p < 1:
        steps.append(TopPLogitsWarper(top_p))
    steps.append(RowSampling(seeds, prompt_tokens=prompt_tokens, max_tokens=max_tokens))
    return LogitsProcessorList(steps)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
