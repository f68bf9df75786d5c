"""Time our own training on a workload, with `trainer.fit` as a notebook calls it.

python -m bench.ours --checkpoint FOLDER --rows pairs.jsonl --layout tree [--steps 8] [--responses 4] [--vision]
    [--gpu] [--full]
"""

from __future__ import annotations

import statistics
from importlib.metadata import version
from math import comb
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from basereward import build, load_recipe
from basereward.data.batching.tree_batch import TreeBatch
from basereward.model.cost.flops import Counter
from basereward.model.cost.sequence_shapes import batch_shapes
from basereward.training.callbacks.performance import product_dtype, product_rate
from basereward.training.module import RewardModule
from bench.timing import WARM_UP_STEPS, Clock, arguments, quiet_stdout, report
from bench.workloads import read_rows

HERE = Path(__file__).parent


class StepEnds(Callback):
    """Ticks a clock at the end of every batch, which here is an optimizer step, and counts its useful work.

    Attributes:
        flops: of every step; see `basereward.model.cost.flops`.
        rates: FLOP/s of the machine's own matrix product, before and after the steps.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.flops: list[int] = []
        self.rates: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the machine before the steps."""
        self._measure(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: TreeBatch, batch_idx: int
    ) -> None:
        """Notes the end of the step and its work."""
        self.clock.tick()
        assert isinstance(pl_module, RewardModule)
        self.flops.append(Counter(pl_module.model)(batch_shapes(batch)).total)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures the machine once more: it may be slower after minutes of load."""
        self._measure(trainer, pl_module)

    def _measure(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, RewardModule)
        self.rates.append(product_rate(module.device, dtype=product_dtype(trainer, module)))

    def work(self) -> dict[str, float]:
        """GFLOP of a step and GFLOP/s over the steps that are timed, the machine's own GFLOP/s, and the share."""
        # The same steps as those of the clock, which leaves out the first two.
        timed = self.flops[WARM_UP_STEPS:]
        achieved = sum(timed) / (self.clock.ends[-1] - self.clock.ends[WARM_UP_STEPS - 1])
        machine = statistics.mean(self.rates)
        flops = {"gflop_a_step": statistics.mean(timed), "gflop_s": achieved, "product_gflop_s": machine}
        return {name: value / 1e9 for name, value in flops.items()} | {"work_share": achieved / machine}


# Frozen weights and products in bfloat16; so many loader workers that the GPU does not wait for data.
ON_GPU = ("trainer.accelerator=gpu", "trainer.precision=bf16-mixed", "model.backbone.dtype=bfloat16", "data.workers=8")
IN_FULL = ("model.lora=null", "model.backbone.freeze=[vision]")


def overrides(
    checkpoint: Path,
    rows: Path,
    *,
    layout: str,
    groups: int,
    steps: int,
    vision: bool = False,
    gpu: bool = False,
    full: bool = False,
) -> list[str]:
    """The overrides of the bench's recipe for one workload.

    Args:
        checkpoint: folder of the backbone.
        rows: file of the workload.
        layout: of the batches.
        groups: groups per step.
        steps: optimizer steps.
        vision: adapters on the vision tower and its merger too.
        gpu: train on a GPU in bfloat16.
        full: train all weights of merger, language model and head instead of adapters.

    >>> settings = overrides(Path("model"), Path("pairs.jsonl"), layout="tree", groups=2, steps=8)
    >>> settings[-1]
    'model.lora.parts=[language]'
    """
    adapted = f"model.lora.parts=[{'vision, merger, language' if vision else 'language'}]"
    return [
        f"model.backbone.path={checkpoint}",
        f"data.sources.rows.path={rows}",
        f"batch.layout={layout}",
        f"batch.groups={groups}",
        f"batch.groups_per_forward={groups}",
        f"trainer.steps={steps}",
        *(IN_FULL if full else (adapted,)),
        *(ON_GPU if gpu else ()),
    ]


def main() -> None:
    """Train for a few steps; a group of K responses counts as K (K - 1) / 2 preferences."""
    args = arguments(__doc__, more=("layout",), flags=("gpu", "full"))
    group_size = len(read_rows(args.rows)[0]["responses"])
    groups = args.responses // group_size
    clock = Clock()
    settings = overrides(
        args.checkpoint,
        args.rows,
        layout=args.layout,
        groups=groups,
        steps=args.steps,
        vision=args.vision,
        gpu=args.gpu,
        full=args.full,
    )
    with quiet_stdout():
        module, data, trainer = build(
            load_recipe(str(HERE / "recipe.yaml"), profile=str(HERE / "profile.yaml"), overrides=settings)
        )
        steps = StepEnds(clock)
        trainer.callbacks.append(steps)  # type: ignore[attr-defined]
        trainer.fit(module, data)
    pairs = groups * comb(group_size, 2)
    report(
        f"ours, {args.layout}",
        clock,
        pairs=pairs,
        version=version("basereward"),
        torch=torch.__version__,
        **steps.work(),
    )


if __name__ == "__main__":
    main()
