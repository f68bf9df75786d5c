"""Recipe values of the right type that are out of range or contradict each other."""

from __future__ import annotations

from typing import Any

import pytest

from basereward.recipe.checks.ranges import range_problems
from basereward.recipe.text import build_recipe

VALID: dict[str, Any] = {
    "model.backbone.path": "some/model",
    "model.head": {"_target_": "linear"},
    "loss": {"_target_": "bradley_terry"},
    "data.sources": {"digits": {"_target_": "digits"}, "words": {"_target_": "words"}},
}


def problems(**changes: Any) -> dict[str, str]:
    """Return key and message of every problem of a valid recipe with changes; `__` stands for a dot."""
    values: dict[str, Any] = {}
    for key, value in {**VALID, **{key.replace("__", "."): value for key, value in changes.items()}}.items():
        *sections, last = key.split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return dict(range_problems(build_recipe(values)))


def test_valid_recipe_has_no_problem() -> None:
    """The defaults of the schema are in range."""
    assert problems() == {}


@pytest.mark.parametrize(("name", "other_name"), [("a=b", "a?b"), ("a/b", "a//b")])
def test_source_names_with_the_same_metric_name_are_a_problem(name: str, other_name: str) -> None:
    """MLflow replaces some characters in names, so two sources would be one line in every chart."""
    node = {"_target_": "digits"}
    found_problems = problems(data__sources={name: node, other_name: node, "a_c": node, "a-c": node})
    assert list(found_problems) == [f"data.sources.{other_name}"]
    assert name in found_problems[f"data.sources.{other_name}"]


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        ({"optimizer__lr": 0.0}, "optimizer.lr", "must be above 0; 0.0 given"),
        ({"optimizer__lr": float("nan")}, "optimizer.lr", "must be above 0; nan given"),
        ({"optimizer__lr": float("inf")}, "optimizer.lr", "must be above 0; inf given"),
        ({"optimizer__weight_decay": -0.1}, "optimizer.weight_decay", "must be at least 0"),
        ({"optimizer__lr_by_part": {"head": 0.0}}, "optimizer.lr_by_part.head", "must be above 0"),
        ({"optimizer__lr_by_part": {"haed": 1.0}}, "optimizer.lr_by_part", "did you mean 'head'?"),
        ({"optimizer__betas": [0.9]}, "optimizer.betas", "two numbers are needed; 1 given"),
        ({"optimizer__betas": [0.9, 1.0]}, "optimizer.betas", "from 0 to below 1; 1.0 given"),
        ({"schedule__warmup": 1.5}, "schedule.warmup", "from 0 to 1; 1.5 given"),
        ({"data__max_lost": -0.1}, "data.max_lost", "from 0 to 1"),
        ({"data__sources": {}}, "data.sources", "at least one source is needed"),
        ({"data__mixture__weights": {"digits": 1.0}}, "data.mixture.weights", "missing: words"),
        ({"data__mixture__limits": {"digit": 3}}, "data.mixture.limits", "did you mean 'digits'?"),
        ({"data__mixture__limits": {"digits": 0}}, "data.mixture.limits.digits", "must be above 0"),
        (
            {"data__encoding__min_pixels": 9, "data__encoding__max_pixels": 8},
            "data.encoding.min_pixels",
            "above max_pixels",
        ),
        (
            {"model__head": {"_target_": "critic", "samples": 3, "temperature": 0.0}},
            "model.head.samples",
            "at temperature 0 all 3 would be the same",
        ),
        (
            {"model__head": {"_target_": "generative", "thinking": True, "votes": 5, "temperature": 0.0}},
            "model.head.votes",
            "at temperature 0 all 5 would be the same",
        ),
        (
            {"model__head": {"_target_": "generative", "thinking": False, "votes": 5, "temperature": 1.0}},
            "model.head.votes",
            "5 votes need thinking: true",
        ),
        ({"model__backbone__path": None}, "model.backbone", "neither is given"),
        ({"model__backbone__path": ""}, "model.backbone", "neither is given"),
        (
            {"model__backbone__make": {"_target_": "x"}},
            "model.backbone",
            "only one of `path` ('some/model') and `make`",
        ),
        ({"model__backbone__freeze": ["visoin"]}, "model.backbone.freeze", "did you mean 'vision'?"),
        ({"model__lora": {"parts": []}}, "model.lora.parts", "at least one of vision, merger, language is needed"),
        ({"model__lora": {"parts": ["languagex"]}}, "model.lora.parts", "did you mean 'language'?"),
        ({"model__lora": {"rank": 0}}, "model.lora.rank", "must be above 0"),
        ({"model__lora": {"dropout": 1.0}}, "model.lora.dropout", "from 0 to below 1"),
        ({"batch__groups": 12}, "batch.groups", "12 is no multiple of groups_per_forward = 8"),
        ({"trainer__epochs": 0.0}, "trainer.epochs", "must be above 0"),
        ({"trainer__steps": 0}, "trainer.steps", "must be above 0"),
        ({"trainer__early_stopping": {"patience": 0}}, "trainer.early_stopping.patience", "must be above 0"),
        ({"trainer__monitor": "val/pair_acuracy"}, "trainer.monitor", "did you mean 'val/pair_accuracy'?"),
        ({"trainer__monitor": "val/digts/pair_accuracy"}, "trainer.monitor", "did you mean 'digits'?"),
        ({"seeds__init": -1}, "seeds.init", "a seed is from 0"),
        ({"batch__tokens": 0}, "batch.tokens", "must be above 0"),
        ({"data__mixture__passes": {"digits": 0.0}}, "data.mixture.passes.digits", "must be above 0"),
        ({"data__mixture__passes": {"digit": 2.0}}, "data.mixture.passes", "did you mean 'digits'?"),
        (
            {"data__mixture__passes": {"digits": 2.0}, "data__mixture__weights": {"digits": 1.0, "words": 1.0}},
            "data.mixture.passes",
            "give one of the two",
        ),
        ({"data__curation__near": 0.5}, "data.curation.near", "must be from 0.7 to 1; 0.5 given"),
        ({"data__curation__near": float("nan")}, "data.curation.near", "must be from 0.7 to 1"),
        ({"data__curation__drop": -1.0}, "data.curation.drop", "must be at least 0"),
        ({"data__curation__drop": float("nan")}, "data.curation.drop", "must be at least 0"),
        ({"name": ".."}, "name", "'..' given"),
        ({"name": ""}, "name", "a name is needed"),
        ({"tracking__experiment": ".."}, "tracking.experiment", "'..' given"),
        ({"tracking__experiment": "a/../../b"}, "tracking.experiment", "'a/../../b' given"),
        ({"tracking__experiment": " "}, "tracking.experiment", "a name is needed"),
        ({"data__sources": {"..": {"_target_": "x"}}}, "data.sources...", "'..' given"),
        ({"data__sources": {"": {"_target_": "x"}}}, "data.sources.", "a name is needed"),
        ({"tracking__uri": "http://me:pass@word/x@host"}, "tracking.uri", "MLFLOW_TRACKING_URI"),
        ({"seeds__data": 2**32}, "seeds.data", "a seed is from 0 to 4294967295"),
        (
            {"model__backbone__checkpoint_layers": 2},
            "model.backbone.checkpoint_layers",
            "gradient_checkpointing=true",
        ),
        (
            {"model__backbone__gradient_checkpointing": True, "model__backbone__checkpoint_layers": 0},
            "model.backbone.checkpoint_layers",
            "must be above 0; 0 given",
        ),
        (
            {"data__encoding__feature_cache": 2.0, "model__backbone__freeze": ["vision"]},
            "data.encoding.feature_cache",
            "2 given, and merger would be trained. Allowed where neither is: name both in model.backbone.freeze",
        ),
        (
            {"data__encoding__feature_cache": 2.0, "model__lora": {"parts": ["vision", "merger", "language"]}},
            "data.encoding.feature_cache",
            "vision and merger would be trained",
        ),
        (
            {"data__encoding__feature_cache": 0.0, "model__lora": {"rank": 8}},
            "data.encoding.feature_cache",
            "must be above 0; 0.0 given",
        ),
        ({"data__prefetch": 4}, "data.prefetch", "set data.workers above 0"),
        ({"data__prefetch": 0, "data__workers": 1}, "data.prefetch", "must be above 0; 0 given"),
        (
            {"optimizer__kind": "paged_adamw", "trainer__accelerator": "cpu"},
            "optimizer.kind",
            "'paged_adamw' needs an NVIDIA GPU, and trainer.accelerator is cpu. Allowed there: adamw, adamw_8bit.",
        ),
        (
            {"model__backbone__kernels": "liger", "trainer__accelerator": "mps"},
            "model.backbone.kernels",
            "'liger' needs an NVIDIA GPU, and trainer.accelerator is mps. Allowed there: auto, none.",
        ),
    ],
)
def test_value_out_of_range_is_a_problem(changes: dict[str, Any], key: str, message: str) -> None:
    """The only problem is at its key, and the message says what is allowed."""
    found_problems = problems(**changes)
    assert list(found_problems) == [key]
    assert message in found_problems[key]


STREAMED: dict[str, Any] = {
    "data__streaming": {"buffer": 10, "held_out": 5},
    "data__sources": {name: {"_target_": "jsonl", "path": f"{name}.jsonl"} for name in ("digits", "words")},
    "trainer__steps": 3,
    "data__mixture__weights": {"digits": 1.0, "words": 3.0},
}


@pytest.mark.parametrize(
    "changes",
    [
        {"model__backbone__gradient_checkpointing": True, "model__backbone__checkpoint_layers": 2},
        {"data__prefetch": 4, "data__workers": 1},
        {"optimizer__kind": "adamw_8bit", "trainer__accelerator": "cpu"},
        {"optimizer__kind": "paged_adamw_8bit", "trainer__accelerator": "cuda"},
        {"model__backbone__kernels": "liger"},
        {"data__encoding__feature_cache": 2.0, "model__lora": {"rank": 8}},
        {"data__encoding__feature_cache": 2.0, "model__backbone__freeze": ["vision", "merger"]},
        {"data__encoding__feature_cache": 2.0, "model__backbone__quantization": "nf4"},
    ],
)
def test_performance_options_are_valid_with_their_requirement(changes: dict[str, Any]) -> None:
    """Each key together with the key that it needs."""
    assert problems(**changes) == {}


def test_stream_of_two_weighted_sources_is_valid() -> None:
    """The number of steps is given."""
    assert problems(**STREAMED) == {}


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        ({"trainer__steps": None}, "trainer.steps", "number of steps"),
        ({"data__streaming": {"buffer": 0}}, "data.streaming.buffer", "must be above 0"),
        ({"data__streaming": {"held_out": 0}}, "data.streaming.held_out", "must be above 0"),
        ({"batch__tokens": 4096}, "batch", "leave out batch.tokens"),
        ({"batch__modality": "separate"}, "batch", "leave out batch.tokens and batch.modality"),
        ({"data__curation__duplicates": True}, "data.curation", "reads every group once"),
        ({"data__mixture__limits": {"digits": 3}}, "data.mixture", "leave out limits and passes"),
        ({"data__mixture__weights": {}}, "data.mixture.weights", "give one to each"),
    ],
)
def test_option_that_a_stream_does_not_support_is_a_problem(changes: dict[str, Any], key: str, message: str) -> None:
    """The only problem is at its key."""
    found_problems = problems(**(STREAMED | changes))
    assert list(found_problems) == [key]
    assert message in found_problems[key]


def test_token_budget_replaces_groups_per_forward() -> None:
    """With `batch.tokens`, `batch.groups` need not be a multiple of `groups_per_forward`."""
    assert problems(batch__groups=12, batch__tokens=4096) == {}


def test_all_problems_are_reported() -> None:
    """Not only the first."""
    assert set(problems(optimizer__lr=-1.0, schedule__final=2.0, seeds__init=-5)) == {
        "optimizer.lr",
        "schedule.final",
        "seeds.init",
    }


def test_learning_rate_of_frozen_weights_is_a_problem() -> None:
    """A learning rate of a frozen part, or of one without LoRA, has no effect."""
    frozen = problems(model__backbone__freeze=["vision"], optimizer__lr_by_part={"vision": 1.0, "merger": 1.0})
    assert list(frozen) == ["optimizer.lr_by_part.vision"]
    adapted = problems(model__lora={"parts": ["vision"]}, optimizer__lr_by_part={"vision": 1.0, "language": 1.0})
    assert list(adapted) == ["optimizer.lr_by_part.language"]
