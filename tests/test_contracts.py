"""Test that every head, loss, objective, source and family in its folder meets its contract."""

from __future__ import annotations

import inspect
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from torch import nn

from basereward.data.schema.group import SPLITS
from basereward.data.sources import Source
from basereward.model.families.backbone_family import BackboneFamily, VisionFamily
from basereward.model.families.registry import TEXT_ONLY, vision_families
from basereward.model.heads.contracts import GenerativeHead, head_scores, is_generative
from basereward.model.losses.contracts import _made_pairs, build_loss
from basereward.recipe import make
from basereward.recipe.checks.rollouts import learns_from_rollouts
from basereward.recipe.checks.targets import short_names
from basereward.training.objectives.contracts import Objective, build_objective, objective_of

HIDDEN = 16


@pytest.mark.parametrize("name", short_names("heads"))
def test_head_scores_or_generates(name: str) -> None:
    """A scalar head gives one float32 score per state, also for bfloat16 states. A generative head has every member of
    its contract and names an existing objective."""
    head = make({"_target_": name}, "heads", HIDDEN)
    assert isinstance(head, nn.Module)
    if is_generative(head):
        assert isinstance(head, GenerativeHead)
        assert head.branch_template.text
        assert objective_of(head) in short_names("objectives")
        return
    scores = head_scores(head, torch.randn(3, HIDDEN, dtype=torch.bfloat16))
    assert (scores.shape, scores.dtype) == ((3,), torch.float32)


@pytest.mark.parametrize("name", short_names("losses"))
def test_loss_is_a_module_that_falls_with_the_margin(name: str) -> None:
    """`build_loss` checks shapes and finiteness; a larger margin gives a smaller loss."""
    loss = build_loss({"_target_": name})
    assert isinstance(loss, nn.Module)
    behind, ahead = (loss(torch.tensor([lead, 0.0, lead, 0.0]), _made_pairs(2))[0] for lead in (-1.0, 2.0))
    assert ahead < behind


@pytest.mark.parametrize(
    "name", [name for name in short_names("objectives") if not learns_from_rollouts({"_target_": name})]
)
def test_objective_is_built_from_its_name(name: str) -> None:
    """The objective has the unit of its loss, and the loss is a submodule, so that the optimizer finds its
    parameters."""
    loss = build_loss({"_target_": "plackett_luce"})
    head_name = {"critique_ranking": "critic", "language_modeling": "generative"}.get(name, "linear")
    objective = build_objective({"_target_": name}, loss=loss, head=make({"_target_": head_name}, "heads", HIDDEN))
    assert isinstance(objective, Objective)
    assert objective.unit == "decided_group"
    assert loss in list(objective.modules())


@pytest.mark.parametrize("name", ["digits", "digit_pairs", "numbers"])
def test_source_is_the_same_at_every_call_and_in_every_process(name: str) -> None:
    """The sources here need no file; the next test checks the members of all sources."""
    options: dict[str, Any] = {"_target_": name}
    source: Source = make(options, "sources", "mine")
    assert source.name == "mine"
    for split in SPLITS:
        groups = source.groups(split)
        assert groups[0].source == "mine"
        assert [group.id for group in groups[:3]] == [group.id for group in source.groups(split)[:3]]
        copied: Source = ForkingPickler.loads(ForkingPickler.dumps(source))  # loader workers get the source in this way
        assert [group.id for group in copied.groups(split)[:3]] == [group.id for group in groups[:3]]
        assert source.rejected(split) == []


@pytest.mark.parametrize("name", short_names("sources"))
def test_source_has_the_members_of_its_contract(name: str) -> None:
    """This holds for every file of the folder."""
    definition = short_names("sources")[name]
    module = __import__(f"basereward.data.sources.{name}", fromlist=[definition.name])
    source = getattr(module, definition.name)
    for member in ("groups", "rejected"):
        assert list(inspect.signature(getattr(source, member)).parameters) == ["self", "split"]


@pytest.mark.parametrize("family", [TEXT_ONLY, *vision_families()], ids=lambda family: type(family).__name__)
def test_family_implements_its_contract(family: BackboneFamily) -> None:
    """A vision family implements every abstract member and shares no model type with another family."""
    assert not inspect.isabstract(type(family))
    if family.reads_images:
        assert isinstance(family, VisionFamily)
        assert family.model_types
        others = [other for other in vision_families() if other is not family]
        assert not any(set(family.model_types) & set(other.model_types) for other in others)
