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

    For linear heads on one frozen backbone, the score of the averaged head is the mean of the scores. The two factors
    of an adapter are averaged separately, so the product of the means is not the mean of the products.

    Args:
        members: of the same kind, with equal heads, trained from the same checkpoint.
        folder: where the model is written.

    Raises:
        ModelError: a member does not fit the first; the message names it.
    """
    reference, *others = members
    first = load_scorer(reference.folder)
    # float64: the mean of many members would lose digits of float32 weights.
    mean = {name: weight.detach().double() for name, weight in _weights(first.model).items()}
    # A running mean: at most two members are in memory.
    for count, member in enumerate(others, start=2):
        _check_cards(member, reference)
        model = load_scorer(member.folder).model
        if model.pooling != first.model.pooling:
            raise ModelError(
                f"member '{member.name}' was trained with model.pooling={model.pooling.name}, "
                f"'{reference.name}' with {first.model.pooling.name}; their heads have no mean. Leave the member out"
            )
        weights = _weights(model)
        if _shapes(weights) != _shapes(mean):
            raise ModelError(
                f"the weights of member '{member.name}' have other shapes than those of '{reference.name}'. Leave the "
                "member out"
            )
        for name, weight in weights.items():
            mean[name] += (weight.detach().double() - mean[name]) / count
    with torch.no_grad():
        for name, weight in _weights(first.model).items():
            weight.copy_(mean[name])
    # The mean and spread on validation data are those of the first member, and wrong for the new model.
    first.scores = {}
    first.save(folder)


def _check_cards(member: Member, reference: Member) -> None:
    """Checks that two members have the same kind and head, and were trained from the same checkpoint.

    Raises:
        ModelError: they differ.
    """
    card, other = read_card(reference.folder), read_card(member.folder)
    for key in ("kind", "head"):
        if card[key] != other[key]:
            raise ModelError(
                f"member '{member.name}' has another {key} than '{reference.name}' ({other[key]}, not {card[key]}); "
                "such weights have no mean. Leave the member out"
            )
    if differences := backbone_differences(card, other):
        raise ModelError(
            f"member '{member.name}' was trained on another backbone than '{reference.name}': "
            f"{'; '.join(differences)}. Leave the member out"
        )


def _weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """All floating-point weights; frozen ones are equal in all members, and so is their mean."""
    return {name: weight for name, weight in model.named_parameters() if weight.is_floating_point()}


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in weights.items()}
