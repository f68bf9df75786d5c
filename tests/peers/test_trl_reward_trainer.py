"""Test that our training takes the same steps as TRL's RewardTrainer with the same token ids, head, order and
optimizer.

The daily tests do without it:

    BASEREWARD_PEERS=1 .venv/bin/python -m pytest tests/peers
"""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pytorch_lightning import Callback, Trainer

from basereward import build, load_recipe
from tests.helpers.support import checkpoint, pair_rows, write_rows

pytestmark = pytest.mark.peers
STEPS, PAIRS = 8, 4
LR, BETAS, EPS, WEIGHT_DECAY = 1e-4, (0.9, 0.999), 1e-8, 0.01


class StepRecorder(Callback):
    """Record loss and gradient norm of every optimizer step."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float]] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        logged = trainer.callback_metrics
        if len(self.steps) < trainer.global_step:
            self.steps.append((float(logged["train/loss"]), float(logged["train/grad_norm"])))


def random_pairs(folder: Path) -> Path:
    """Write pairs of random words, so that a few steps learn nothing and every loss differs."""
    rng = random.Random(0)
    words = "red green blue one two three cat dog tree house".split()
    rows = pair_rows(STEPS * PAIRS)
    for row in rows:
        for side in ("chosen", "rejected"):
            row[side][0]["content"] = " ".join(rng.choices(words, k=rng.randint(1, 12)))
    return write_rows(folder / "pairs.jsonl", rows)


def our_steps(
    backbone: Path, rows: Path, *, layout: Literal["tree", "plain"], accumulate: int, experiments: Path
) -> tuple[list[tuple[float, float]], list[dict[str, list[int]]], torch.Tensor]:
    """Return loss and gradient norm of our steps, the pairs in their order as token ids, and the head's initial
    weight."""
    recipe = load_recipe(
        str(experiments / "basereward.yaml"),
        profile=None,
        overrides=[
            f"model.backbone.path={backbone}",
            "model.head={_target_: linear, bias: false}",
            "loss={_target_: bradley_terry}",
            f"data.sources.pairs={{_target_: jsonl, path: {rows}, val: 0, test: 0}}",
            f"batch={{groups: {PAIRS}, groups_per_forward: {PAIRS // accumulate}, layout: {layout}}}",
            f"optimizer={{lr: {LR}, betas: {list(BETAS)}, eps: {EPS}, weight_decay: {WEIGHT_DECAY}}}",
            "schedule={shape: constant, warmup: 0}",
            f"trainer={{steps: {STEPS}, clip: 0, log_every: 1, validations: 1, accelerator: cpu}}",
        ],
    )
    module, data, trainer = build(recipe)
    recorder = StepRecorder()
    trainer.callbacks.append(recorder)
    head = {name: weight.detach().clone() for name, weight in module.model.head.named_parameters()}
    pairs = []
    for index in range(STEPS * accumulate):
        for place in data.plan.forward(index):
            group = data.parts["train"][place]
            prefix = group.prefix.tolist()
            (preference,) = group.preferences
            chosen, rejected = group.branches[preference.winner], group.branches[preference.loser]
            pairs.append({"chosen_ids": prefix + chosen.tolist(), "rejected_ids": prefix + rejected.tolist()})
    trainer.fit(module, data)
    (weight,) = head.values()
    return recorder.steps, pairs, weight


def their_steps(
    backbone: Path, pairs: list[dict[str, list[int]]], head: torch.Tensor, *, accumulate: int, folder: Path
) -> list[tuple[float, float]]:
    """Return loss and gradient norm of the steps of TRL's RewardTrainer."""
    import trl
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(backbone)
    model = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        model.score.weight.copy_(head.reshape(model.score.weight.shape))
    settings = trl.RewardConfig(
        output_dir=str(folder),
        per_device_train_batch_size=PAIRS // accumulate,
        gradient_accumulation_steps=accumulate,
        max_steps=STEPS,
        max_length=None,
        learning_rate=LR,
        lr_scheduler_type="constant",
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        adam_epsilon=EPS,
        weight_decay=WEIGHT_DECAY,
        max_grad_norm=1e9,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        train_sampling_strategy="sequential",
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = trl.RewardTrainer(
        model=model, args=settings, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer
    )
    with contextlib.redirect_stdout(None):
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
    return [(float(entry["loss"]), float(entry["grad_norm"])) for entry in logged]


@pytest.mark.parametrize("family", ["qwen2", "llama", "qwen3"])
@pytest.mark.parametrize("layout", ["tree", "plain"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_and_gradient_norms_equal_those_of_trl(
    family: str, layout: Literal["tree", "plain"], accumulate: int, tmp_path: Path
) -> None:
    """The relative difference is at most 1e-5 in every step, with AdamW and all weights trained."""
    backbone = checkpoint(family, tmp_path / "backbone")
    (tmp_path / "basereward.yaml").write_text("# Pairs.\n")
    ours, pairs, head = our_steps(
        backbone, random_pairs(tmp_path), layout=layout, accumulate=accumulate, experiments=tmp_path
    )
    theirs = their_steps(backbone, pairs, head, accumulate=accumulate, folder=tmp_path / "trl")
    assert len(ours) == len(theirs) == STEPS
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-5, atol=0)
    assert len({round(loss, 4) for loss, _ in ours}) == STEPS, "the loss must move, or the steps prove nothing"
