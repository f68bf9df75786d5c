"""Model soups: one model with the mean of several models' weights (arXiv 2203.05482)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from basereward.errors import ModelError
from basereward.inference.ensemble import Member
from basereward.inference.scorer import load_scorer
from basereward.model.saving.card import backbone_differences, read_card


def soup(members: Sequence[Member], folder: Path) -> None:
    """Saves the mean of the members' heads, and of their adapters or backbones if those were trained.

    For linear heads on one frozen backbone, the score of the mean is the mean of the scores. The two factors of
    adapters are averaged separately, so their product is not the mean of the products.

    Args:
        members: of the same kind, with equal heads, trained from the same checkpoint.
        folder: where the model is written.

    Raises:
        ModelError: a member does not fit the first; the message names it.
    """
    first = load_scorer(members[0].folder)
    mean = {name: weight.detach().double() for name, weight in _trained(first.model).items()}
    card = read_card(members[0].folder)
    # A running mean: at most two members are in memory.
    for count, member in enumerate(members[1:], start=2):
        other = read_card(member.folder)
        if fault := next((key for key in ("kind", "head") if card[key] != other[key]), None):
            raise ModelError(
                f"member '{member.name}' has another {fault} than '{members[0].name}' ({other[fault]}, not "
                f"{card[fault]}); weights of different kinds have no mean"
            )
        if faults := backbone_differences(card, other):
            raise ModelError(
                f"member '{member.name}' was trained on another backbone than '{members[0].name}': {'; '.join(faults)}"
            )
        model = load_scorer(member.folder).model
        if model.pooling != first.model.pooling:
            raise ModelError(
                f"member '{member.name}' was trained with model.pooling={model.pooling.name}, "
                f"'{members[0].name}' with {first.model.pooling.name}; their heads have no mean"
            )
        weights = _trained(model)
        if _shapes(weights) != _shapes(mean):
            raise ModelError(
                f"the weights of member '{member.name}' have other shapes than those of '{members[0].name}'"
            )
        for name, weight in weights.items():
            mean[name] += (weight.detach().double() - mean[name]) / count
    with torch.no_grad():
        for name, weight in _trained(first.model).items():
            weight.copy_(mean[name])
    first.scores = {}  # mean and spread on validation data are those of the first member
    first.save(folder)


def _trained(model: torch.nn.Module) -> dict[str, Tensor]:
    """All floating-point weights; frozen ones are equal in all members, and so is their mean."""
    return {name: weight for name, weight in model.named_parameters() if weight.is_floating_point()}


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in weights.items()}
