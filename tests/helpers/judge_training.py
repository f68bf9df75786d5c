"""A trainer of a tiny judge, whose rollouts a test writes itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from basereward.data.lazy_table import lazy_table
from basereward.data.schema.group import Group, Preference
from basereward.model.policy import Policy, load_policy
from basereward.rl.objectives import PolicyObjective, TrainingConstants
from tests.helpers.support import checkpoint, group

CONSTANTS = TrainingConstants(learning_rate=1e-3, beta=0.0, epochs=1, rollouts=8, batch=4, max_tokens=6)


def judge_policy(folder: Path) -> Policy:
    """A tiny Qwen2.5-VL with random weights; the same at every call for a folder."""
    return load_policy(folder if (folder / "config.json").exists() else checkpoint("qwen2_5_vl", folder))


def pair_groups(count: int, *, images: Sequence[int] = (1,)) -> list[Group]:
    """Groups with one preference each; the numbers of their images repeat `images`."""
    groups: list[Group] = []
    for number in range(count):
        made = group(f"Digit {number}?", ("3", "It is 5."), images=images[number % len(images)], name=f"g{number}")
        groups.append(Group(made.id, "test", made.prompt, made.responses, (Preference(0, 1),), images=made.images))
    return groups


def rows_of(*columns: dict[str, Any]) -> Any:
    """A table of given rows."""
    return lazy_table(lambda index: columns[index], len(columns))


def row(text: str, picture: PIL.Image.Image | None = None, **columns: Any) -> dict[str, Any]:
    """A row with one picture or none."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    images = [] if picture is None else [picture]
    return {
        "prompt": [{"role": "user", "content": [{"type": "image"}] * len(images) + parts}],
        "images": images,
        "label": 1,
        **columns,
    }


def judge_trainer(
    folder: Path, objective: PolicyObjective, *, reward: Callable[..., Any], rows: Any, **options: Any
) -> Any:
    """A trainer with the constants above, two rollouts in a micro-batch and for each prompt.

    Arguments of the trainer itself are `shares_prefixes` and `peft_config`; the other options are its settings.
    """
    from basereward.rl.trainer import JudgeTrainer, trainer_settings

    own = {name: options.pop(name) for name in ("shares_prefixes", "peft_config") if name in options}
    settings = trainer_settings(
        folder / "out",
        objective,
        constants=CONSTANTS,
        **{"per_device": 2, "save_strategy": "no", "disable_tqdm": True, "seed": 0, **options},
    )
    return JudgeTrainer(judge_policy(folder / "policy"), reward, rows, objective, settings, **own)


def write_rollouts(trainer: Any, texts: Sequence[str]) -> None:
    """Make the trainer's policy write given texts, each with its end of turn."""
    tokenizer = trainer.processing_class.tokenizer
    ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]

    def generate(prompt_ids: Sequence[Any], *arguments: Any, **options: Any) -> tuple[list[list[int]], None]:
        return [list(ids[place % len(ids)]) for place in range(len(prompt_ids))], None

    trainer._generate_single_turn = generate


def batch_of(trainer: Any, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the trainer makes of rows: rollouts, log-probabilities and advantages."""
    trainer.model.train()
    torch.manual_seed(0)
    made: dict[str, Any] = trainer._generate_and_score_completions([dict(columns) for columns in rows])
    return made


def metric(trainer: Any, name: str) -> float:
    """The last value that the trainer has measured and not yet logged."""
    return float(trainer._metrics["train"][name][-1])


def gradients(trainer: Any) -> dict[str, Tensor]:
    """The gradients of all weights that have one."""
    return {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
