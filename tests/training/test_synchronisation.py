"""A step of training reads numbers from the device once: each read would let a GPU wait for the host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pytorch_lightning import Callback
from torch import Tensor

from basereward import build, load_recipe
from tests.helpers.sync_counter import SyncCounter

# Methods that copy numbers to the host, without an operator when the tensor is there already. `numpy` is none: it fails
# on a GPU.
READS = ("tolist", "item", "cpu", "__bool__", "__int__", "__float__", "__index__")
STEPS = 3
MICRO_BATCHES = 4


class CountSteps(Callback):
    """Counts within the micro-batches of training, and not while batches are loaded."""

    def __init__(self) -> None:
        self.mode = SyncCounter()
        self.float_reads = 0
        self.inside = False

    def on_train_batch_start(self, *args: Any) -> None:
        """Begin to count."""
        self.inside = True
        self.mode.__enter__()

    def on_train_batch_end(self, *args: Any) -> None:
        """Stop counting."""
        self.mode.__exit__(None, None, None)
        self.inside = False


@contextmanager
def float_reads_counted(counter: CountSteps) -> Iterator[None]:
    """Count reads of float tensors; integers such as sizes are kept on the host."""
    originals = {name: getattr(Tensor, name) for name in READS}

    def counted(original: Any) -> Any:
        def read(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            counter.float_reads += counter.inside and self.is_floating_point() and self.requires_grad is False
            return original(self, *args, **kwargs)

        return read

    for name, original in originals.items():
        setattr(Tensor, name, counted(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(Tensor, name, original)


@pytest.mark.usefixtures("ready_store")
@pytest.mark.parametrize("loss", ["bradley_terry", "plackett_luce"])
@pytest.mark.parametrize("log_every", [1, 100])
def test_step_reads_the_device_once(loss: str, log_every: int) -> None:
    """Pictures and text, a frozen tower, several micro-batches: one read a step, for the check of finite numbers."""
    recipe = load_recipe(
        "basereward",
        overrides=[
            *("model.backbone.make.layers=2", "model.backbone.freeze=[vision]", f"loss._target_={loss}"),
            *("batch.groups=8", f"batch.groups_per_forward={8 // MICRO_BATCHES}", f"trainer.steps={STEPS}"),
            *("trainer.validations=1", f"trainer.log_every={log_every}", "trainer.accelerator=cpu"),
            *("data.sources.digits.size=24", "data.sources.digits.copies=1", "data.sources.digits.val_size=5"),
            *("data.sources.digits.test_size=5", "data.sources.numbers.size=24", "data.sources.numbers.val_size=5"),
            "data.sources.numbers.test_size=5",
        ],
    )
    counter = CountSteps()
    module, data, trainer = build(recipe, callbacks=[counter])
    with float_reads_counted(counter):
        trainer.fit(module, datamodule=data)
    assert dict(counter.mode.counts) == {}
    assert counter.float_reads <= STEPS
