"""Test which engine writes rollouts: settings become those of TRL, and an engine that cannot is refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from basereward.errors import RecipeError, TrainingError
from basereward.model.losses.contracts import PreferenceLoss
from basereward.recipe import Recipe
from basereward.recipe.checks.rollouts import rollout_problems
from basereward.rl.objectives import grpo
from basereward.rl.running import engines
from basereward.rl.running.engines import shares_prefixes, vllm_faults, vllm_options
from basereward.rl.trainer import trainer_settings
from basereward.training.checks.machine import accelerator_problems, package_problems
from basereward.training.objectives.rollouts.contracts import RolloutEngine
from basereward.training.objectives.rollouts.grpo import GRPO
from tests.helpers.judge_training import CONSTANTS

CUDA = torch.device("cuda")


def settings(**options: Any) -> GRPO:
    """Those of an objective."""
    return GRPO(PreferenceLoss(), **options)


def recipe(accelerator: str = "auto", **objective: Any) -> Recipe:
    """A recipe with an objective and an accelerator."""
    made = Recipe(objective={"_target_": "grpo", **objective})
    return dataclasses.replace(made, trainer=dataclasses.replace(made.trainer, accelerator=accelerator))


def test_settings_of_vllm_are_those_of_trl(tmp_path: Path) -> None:
    """`GRPOConfig` takes each of them; without vLLM there is none."""
    server = {"vllm_mode": "server", "vllm_server_base_url": "http://host:8001"}
    colocate = {"vllm_gpu_memory_utilization": 0.4, "vllm_tensor_parallel_size": 2, "vllm_enable_sleep_mode": True}
    for options in (server, colocate):
        made = vllm_options(settings(rollouts="vllm", **options), device=CUDA, ranks=4)
        config = trainer_settings(tmp_path, grpo(), constants=CONSTANTS, per_device=2, **made)
        assert config.use_vllm
        assert {name: getattr(config, name) for name in options} == options
    assert vllm_options(settings(), device=CUDA, ranks=1) == {}


@pytest.mark.parametrize(
    ("options", "device", "named"),
    [
        ({}, "cpu", "objective.rollouts"),
        ({"vllm_tensor_parallel_size": 3}, "cuda", "objective.vllm_tensor_parallel_size"),
    ],
)
def test_vllm_is_refused_where_it_cannot_run(options: dict[str, Any], device: str, named: str) -> None:
    """Without a GPU, and with weights that are divided among other numbers of devices."""
    with pytest.raises(RecipeError, match=named):
        vllm_options(settings(rollouts="vllm", **options), device=torch.device(device), ranks=4)


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        (recipe(rollouts="vllm"), []),
        (recipe(rollouts="vllm", vllm_mode="server", vllm_server_base_url="http://host:8001"), []),
        (recipe("cpu", rollouts="vllm"), ["objective.rollouts"]),
        (recipe(rollouts="vllm", vllm_server_base_url="http://host:8001"), ["objective.vllm_server_base_url"]),
        (recipe(vllm_mode="server"), ["objective.vllm_mode"]),
    ],
)
def test_faults_of_the_recipe_are_found_without_imports(given: Recipe, keys: list[str]) -> None:
    """Settings that nothing uses, and a device without vLLM."""
    assert [key for key, _ in rollout_problems(given)] == keys


@pytest.mark.parametrize(("has_driver", "has_package"), [(False, False), (True, False), (False, True)])
def test_missing_gpu_and_missing_package_are_named(
    has_driver: bool, has_package: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by the key of the engine; the extra that brings vLLM is named."""
    find_spec = importlib.util.find_spec

    def found(name: str, *rest: Any) -> ModuleSpec | None:
        spec = ModuleSpec(name, None, origin="vllm/__init__.py") if has_package else None
        return spec if name == "vllm" else find_spec(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", found)
    monkeypatch.setattr(os.path, "exists", lambda path: has_driver)
    assert [key for key, _ in accelerator_problems(recipe(rollouts="vllm"))] == ["objective.rollouts"] * (
        not has_driver
    )
    problems = dict(package_problems(recipe(rollouts="vllm")))
    assert ("basereward[rl-vllm]" in problems.get("objective.rollouts", "")) is not has_package
    assert not list(accelerator_problems(recipe()))


def test_vllm_that_does_not_start_is_an_error_of_the_training() -> None:
    """The errors of other engines stay as they are, and so do ours, which say what to correct."""
    for mode in ("server", "colocate"):
        with pytest.raises(TrainingError, match="no route"), vllm_faults(settings(rollouts="vllm", vllm_mode=mode)):
            raise ConnectionError("no route to host")
    with pytest.raises(ConnectionError), vllm_faults(settings()):
        raise ConnectionError("no route to host")
    with pytest.raises(RecipeError), vllm_faults(settings(rollouts="vllm")):
        raise RecipeError("objective.rollouts is vllm, which needs a GPU")


@pytest.mark.parametrize(
    ("engine", "fault", "expected"),
    [
        ("auto", None, True),
        ("shared_prefix", None, True),
        ("auto", "its cache", False),
        ("transformers", None, False),
        ("vllm", None, False),
    ],
)
def test_prefixes_are_shared_where_the_model_can(
    engine: RolloutEngine, fault: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` repeats the prompts of a model that cannot, and `shared_prefix` refuses it."""
    monkeypatch.setattr(engines, "shared_prefix_fault", lambda model: fault)
    model = SimpleNamespace(config=SimpleNamespace(model_type="mamba"))
    assert shares_prefixes(settings(rollouts=engine), model) is expected
    if fault is not None:
        with pytest.raises(RecipeError, match="mamba"):
            shares_prefixes(settings(rollouts="shared_prefix"), model)
