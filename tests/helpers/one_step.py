"""The first optimizer step of a training, from rows to gradients, with Lightning's gradient accumulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from basereward.data.module import PreferenceData
from basereward.data.sources.jsonl import Jsonl
from basereward.data.streaming.streamed_module import StreamedData
from basereward.model.backbone import load_backbone, load_config
from basereward.model.families.lm_head import load_language_head
from basereward.model.families.processing import load_encoder
from basereward.model.heads.contracts import is_generative
from basereward.model.losses.contracts import PreferenceLoss
from basereward.model.reward_model import RewardModel
from basereward.recipe import make
from basereward.training.module import RewardModule
from basereward.training.objectives.contracts import build_objective
from tests.helpers.support import write_rows


def uneven_rows() -> list[dict[str, Any]]:
    """Return eight rankings of two to four answers, with and without ties, and one that is only a tie. Every row has
    the columns for all heads."""
    rankings = ([0, 1], [0, 0, 1], [0, 1, 1, 2], [0, 0], [1, 0, 2], [0, 1, 2, 3], [0, 1], [2, 0, 0])
    rows = []
    for index, ranking in enumerate(rankings):
        answers = [f"{'very ' * (index % 3)}answer {place} of {index}" for place in range(len(ranking))]
        rows.append(
            {
                "id": f"row-{index}",
                "prompt": f"Question {index}: {'which one ' * (index % 4)}is right?",
                "responses": answers,
                "ranking": ranking,
                "critiques": [f"It is number {place}." for place in ranking],
                "ratings": [1 - place / 4 for place in ranking],
            }
        )
    return rows


class FirstStep:
    """A module and its first optimizer step, with the step's groups divided into micro-batches.

    Attributes:
        largest: tokens of the largest group, after a step.
    """

    def __init__(self, path: Path, rows: Path, *, head: dict[str, Any], loss: PreferenceLoss) -> None:
        self.rows = rows
        self.encoder = load_encoder(path)
        backbone = load_backbone(path)
        torch.manual_seed(1)
        built_head: Any = make(head, "heads", backbone.hidden_size)
        language = load_language_head(path, load_config(path)) if is_generative(built_head) else None
        if is_generative(built_head):
            self.encoder = self.encoder.with_branch_template(built_head.branch_template)
        model = RewardModel(backbone, built_head, language=language, encoder=self.encoder)
        self.unit = loss.unit
        self.module = RewardModule(
            model,
            objective=build_objective(None, loss=loss, head=built_head),
            sources=["rows"],
            optimizer={"lr": 0.0},
            schedule={"shape": "constant", "warmup": 0.0},
        )

    def __call__(self, folder: Path, *, streamed: bool = False, **cut: Any) -> tuple[float, Tensor]:
        """Return the logged loss of the step and all gradients as one vector.

        Args:
            cut: `groups_per_forward` or `budget`.
        """
        source = Jsonl("rows", path=str(self.rows), val=0, test=0)
        common: dict[str, Any] = {
            "encoder": self.encoder,
            "rejections_file": folder / "lost.jsonl",
            "max_lost": 0.5,
            "unit": self.unit,
        }
        common |= {"groups": 6, "steps": 1, **cut}
        kind = StreamedData if streamed else PreferenceData
        data: PreferenceData = kind({"rows": source}, **common)
        data.setup()
        assert data.plan is not None
        recorder = GradientRecorder()
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            accumulate_grad_batches=data.plan.forwards_per_step,
            limit_val_batches=0,
            logger=False,
            callbacks=[recorder],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            use_distributed_sampler=False,
        )
        if not streamed:
            self.largest = int(data.lengths["train"]["rows"].tokens.max())
        trainer.fit(self.module, datamodule=data)
        assert trainer.global_step == 1
        return float(trainer.callback_metrics["train/loss"]), torch.cat(recorder.gradients)


class GradientRecorder(Callback):
    """Record the gradients of a step."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.gradients = [p.grad.flatten().clone() for p in pl_module.parameters() if p.grad is not None]


def row_file(folder: Path) -> Path:
    """Write the uneven rows to a file."""
    return write_rows(folder / "rows.jsonl", uneven_rows())
