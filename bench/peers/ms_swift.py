"""Time ms-swift's reward-model training, in an environment that has ms-swift, torchvision and qwen-vl-utils.

PYTHON -m bench.peers.ms_swift --checkpoint FOLDER --rows pairs.jsonl [--steps 8] [--responses 4] [--vision]
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

# ms-swift's template reads this variable when it is imported.
os.environ["MAX_PIXELS"] = str(896 * 896)

import swift
import torch
from swift.callbacks import callbacks_map
from swift.pipelines import rlhf_main
from transformers import TrainerCallback

from bench.timing import Clock, arguments, quiet_stdout, report
from bench.workloads import for_ms_swift, write_rows

CLOCK = Clock()


class StepEnds(TrainerCallback):
    """Ticks the clock at the end of every optimizer step; ms-swift makes callbacks itself, by name."""

    def __init__(self, *_: Any) -> None:
        pass

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Notes the end of an optimizer step."""
        CLOCK.tick()


def settings(checkpoint: Path, rows: Path, out: Path, *, steps: int, pairs: int, vision: bool) -> list[str]:
    """LoRA of rank 8 on the language model, with `vision` on the rest too, and a trained score head, in float32.

    Rows come in the order of the file.
    """
    # The type of the model and its template are given, because ms-swift finds them by names of the hub.
    kind = json.loads((checkpoint / "config.json").read_text())["model_type"]
    template = {"qwen2_5_vl": "qwen2_5_vl", "qwen2": "qwen2_5"}[kind]
    named = {
        "rlhf_type": "rm",
        "model": checkpoint,
        "model_type": kind,
        "template": template,
        "dataset": rows,
        "dataset_shuffle": "false",
        "train_dataloader_shuffle": "false",
        "split_dataset_ratio": 0,
        "tuner_type": "lora",
        "lora_rank": 8,
        "lora_alpha": 16,
        "lora_dropout": 0,
        "freeze_vit": str(not vision).lower(),
        "freeze_aligner": str(not vision).lower(),
        "torch_dtype": "float32",
        "attn_impl": "sdpa",
        "per_device_train_batch_size": pairs,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": "false",
        "max_steps": steps,
        "learning_rate": 1e-5,
        "dataset_num_proc": 1,
        "dataloader_num_workers": 0,
        "use_cpu": "true",
        "callbacks": "step_ends",
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "output_dir": out,
    }
    words: list[str] = []
    for name, value in named.items():
        words += [f"--{name}", str(value)]
    return words


def main() -> None:
    """Writes the rows in ms-swift's format and trains on them."""
    args = arguments(__doc__)
    pairs = args.responses // 2
    callbacks_map["step_ends"] = StepEnds
    with quiet_stdout(), tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        write_rows(rows, for_ms_swift(args.rows))
        out = Path(folder) / "out"
        rlhf_main(settings(args.checkpoint, rows, out, steps=args.steps, pairs=pairs, vision=args.vision))
    report("ms-swift", CLOCK, pairs=pairs, version=swift.__version__, torch=torch.__version__)


if __name__ == "__main__":
    main()
