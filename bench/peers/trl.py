"""Time TRL's RewardTrainer on a text workload, in an environment that has trl and peft.

PYTHON -m bench.peers.trl --checkpoint FOLDER --rows text.jsonl [--steps 8] [--responses 4]
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback

from bench.timing import Clock, arguments, quiet_stdout, report
from bench.workloads import for_trl


class StepEnds(TrainerCallback):
    """Ticks a clock at the end of every optimizer step."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Notes the end of an optimizer step."""
        self.clock.tick()


def main() -> None:
    """LoRA of rank 8 on the language model and a trained score head, float32, rows in the order of the file."""
    args = arguments(__doc__)
    pairs = args.responses // 2
    clock = Clock()
    with quiet_stdout(), tempfile.TemporaryDirectory() as folder:
        settings = trl.RewardConfig(
            output_dir=folder,
            per_device_train_batch_size=pairs,
            max_steps=args.steps,
            max_length=4096,
            learning_rate=1e-5,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            train_sampling_strategy="sequential",
            report_to=[],
            save_strategy="no",
        )
        trainer = trl.RewardTrainer(
            model=str(args.checkpoint),
            args=settings,
            train_dataset=Dataset.from_list(list(for_trl(args.rows))),
            peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", modules_to_save=["score"]),
            callbacks=[StepEnds(clock)],
        )
        trainer.train()
    report("TRL", clock, pairs=pairs, version=trl.__version__, torch=torch.__version__)


if __name__ == "__main__":
    main()
