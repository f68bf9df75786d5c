"""Saves a trained policy: a judge as a reward model with a generative head, another policy in the hub's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from basereward.data.encoding.encoder import Encoder
from basereward.model.backbone import Backbone
from basereward.model.families.lm_head import LanguageHead
from basereward.model.policy import Policy
from basereward.model.reward_model import RewardModel
from basereward.model.saving.identity import BackboneIdentity
from basereward.model.saving.saved_model import save_model
from basereward.model.saving.whole_folder import whole_folder
from basereward.recipe.schema import Recipe

POLICY_CARD = "policy.json"
"""File that marks the folder of a policy that was saved here; it says what the policy was trained by."""


def save_judge(policy: Policy, folder: Path, *, recipe: Recipe, head: nn.Module, encoder: Encoder) -> None:
    """Save a policy as the judge of a generative head, which `load`, `score`, `eval` and `serve` open.

    Args:
        policy: trained, with merged adapters.
        folder: where to write.
        recipe: of the run.
        head: whose prompt the policy was trained with.
        encoder: with the branch template of the head.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    chat: Any = policy.model
    weight, embedding = chat.get_output_embeddings().weight, chat.get_input_embeddings().weight
    transformer = getattr(chat, chat.base_model_prefix)
    backbone = Backbone(transformer, origin=BackboneIdentity(str(chat.config._name_or_path)))
    # Saves all weights, because no other checkpoint has them.
    backbone.merged = True
    language = LanguageHead() if weight is embedding else LanguageHead(weight.detach())
    save_model(RewardModel(backbone, head, language=language), folder, recipe=recipe, encoder=encoder)


def save_policy(policy: Policy, folder: Path, *, card: str) -> None:
    """Save a policy in the hub's format; the folder appears whole or not at all.

    Args:
        policy: trained, with merged adapters.
        folder: where to write; an older one is replaced.
        card: content of `policy.json`.

    Raises:
        CheckpointError: the folder cannot be written, for example because the disk is full.
    """
    with whole_folder(folder, content="policy", advice="Free disk space, and resume the run") as partial:
        policy.model.save_pretrained(partial)
        policy.processor.save_pretrained(partial)
        (partial / POLICY_CARD).write_text(card, encoding="utf-8")
