"""Sampling by row: the distribution of the tokens, compared with transformers' warpers and a chi-square test."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.stats import chisquare
from torch import Tensor

from basereward.model.generation.seeded_sampling import row_sampling, text_seed

ROWS = 20_000
LOGITS = torch.tensor([2.0, -1.0, 0.5, -torch.inf, 1.0])


def drawn(seeds: list[int], *, temperature: float, top_p: float, step: int = 0) -> Tensor:
    """Return the tokens `(rows,)` that are drawn from `LOGITS` after `step` generated tokens."""
    steps: Any = row_sampling(seeds, temperature=temperature, top_p=top_p, prompt_tokens=3, max_tokens=2)
    ids = torch.zeros(len(seeds), 3 + step, dtype=torch.int64)
    scores: Tensor = steps(ids, LOGITS.repeat(len(seeds), 1))
    assert (scores.isfinite().sum(dim=1) == 1).all()
    return scores.argmax(dim=1)


def test_tokens_follow_the_softmax() -> None:
    """20,000 rows draw the tokens with the probabilities of the softmax at temperature 0.7 (p above 0.001), in the
    first step and in the second, independently of each other; an impossible token is never drawn."""
    seeds = [text_seed(0, str(row)) for row in range(ROWS)]
    first, second = (drawn(seeds, temperature=0.7, top_p=1.0, step=step) for step in (0, 1))
    weights = np.exp(LOGITS.double().numpy() / 0.7)
    expected = ROWS * weights / weights.sum()
    possible = expected > 0
    for tokens in (first, second):
        counts = np.bincount(tokens, minlength=5)
        assert counts[3] == 0
        assert chisquare(counts[possible], expected[possible]).pvalue > 0.001
    pairs = np.histogram2d(first, second, bins=(range(6), range(6)))[0][np.ix_(possible, possible)]
    together = np.outer(expected, expected)[np.ix_(possible, possible)] / ROWS
    assert chisquare(pairs.ravel(), together.ravel()).pvalue > 0.001


def test_top_p_leaves_the_smallest_set() -> None:
    """The probabilities are 0.61, 0.03, 0.14, 0 and 0.22: a top_p of 0.7 leaves tokens 0 and 4, in proportion."""
    tokens = drawn([text_seed(1, row) for row in range(ROWS)], temperature=1.0, top_p=0.7)
    counts = np.bincount(tokens, minlength=5)
    assert counts[[1, 2, 3]].sum() == 0
    share = np.e / (1 + np.e)  # of two tokens whose logits differ by 1
    assert chisquare(counts[[0, 4]], [ROWS * share, ROWS * (1 - share)]).pvalue > 0.001


def test_rows_do_not_depend_on_each_other() -> None:
    """A row draws the same token alone and among others, and rows of equal seeds the same one."""
    seeds = [7, 8, 7, 9]
    together = drawn(seeds, temperature=1.0, top_p=1.0).tolist()
    assert together == [int(drawn([seed], temperature=1.0, top_p=1.0)) for seed in seeds]
    assert together[0] == together[2]
