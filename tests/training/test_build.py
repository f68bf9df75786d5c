"""Test `build`: it returns three objects without starting a run, and its module trains under any Lightning trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.data import DataLoader

from basereward import build, load_recipe
from basereward.data.batching.plan import Plan
from basereward.errors import RecipeError
from basereward.model.attention.layout_check import BRANCHES, PREFIX
from basereward.runs.run_folder import RunFolder, list_runs, runs_root
from tests.helpers.support import SMALL

ONE_MICRO_BATCH = (
    *SMALL,
    "batch.groups_per_forward=8",
    "trainer.validations=1",
    "trainer.steps=3",
    "optimizer.lr=1e-2",
)


@contextmanager
def rows_seen() -> Iterator[list[int]]:
    """Record the lengths in tokens of the rows that an embedding gets."""
    lengths: list[int] = []

    def note(module: nn.Module, arguments: Any) -> None:
        if isinstance(module, nn.Embedding) and arguments:
            lengths.append(arguments[0].shape[-1])

    hook = register_module_forward_pre_hook(note)
    try:
        yield lengths
    finally:
        hook.remove()


@pytest.mark.usefixtures("ready_store")
@pytest.mark.parametrize("probe", [False, True], ids=["trained", "probe"])
def test_build_makes_no_run_and_reads_no_batch(probe: bool) -> None:
    """The folder of runs does not exist before `fit`, and the model only sees the few tokens of `layout_check`."""
    recipe = load_recipe("basereward", overrides=[*SMALL, f"probe={str(probe).lower()}"])
    with rows_seen() as lengths:
        module, data, trainer = build(recipe)
        check_tokens = PREFIX + sum(BRANCHES)
        assert max(lengths) <= check_tokens
        assert not runs_root().exists()
        trainer.fit(module, datamodule=data)
        assert max(lengths) > check_tokens
    (run,) = list_runs()
    assert (run.state, run.path) == ("finished", Path(trainer.default_root_dir))


def weights(module: LightningModule) -> dict[str, torch.Tensor]:
    """Return the trained weights by name."""
    return {name: weight.detach().clone() for name, weight in module.named_parameters() if weight.requires_grad}


@pytest.mark.usefixtures("ready_store")
def test_module_trains_under_a_plain_trainer_with_a_plain_loader() -> None:
    """A list of the same batches gives the same bits as the data module, so the result depends on neither our trainer
    nor our data module."""
    recipe = load_recipe("basereward", overrides=ONE_MICRO_BATCH)
    module, data, trainer = build(recipe)
    trainer.fit(module, datamodule=data)
    expected = weights(module)
    module, data, _ = build(recipe)
    assert isinstance(data.plan, Plan)
    batches = [data.collate([data.parts["train"][place] for place in data.plan.forward(step)]) for step in range(3)]
    assert all(batch.step is None for batch in batches)
    plain = Trainer(
        accelerator="cpu",
        max_steps=3,
        deterministic=True,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_val_batches=0,
    )
    torch.use_deterministic_algorithms(True)
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    plain.fit(module, loader)
    assert plain.global_step == 3
    actual = weights(module)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in actual)


class Steps(Callback):
    """Count batches like a caller's callback."""

    batches = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        self.batches += 1


@pytest.mark.usefixtures("ready_store")
def test_build_takes_callbacks_loggers_and_options(tmp_path: Path) -> None:
    """All of them are used, and the run is recorded as usual."""
    steps, logger = Steps(), CSVLogger(tmp_path)
    recipe = load_recipe("basereward", overrides=ONE_MICRO_BATCH)
    module, data, trainer = build(
        recipe, callbacks=[steps], logger=logger, strategy="auto", trainer_options={"gradient_clip_val": 0.5}
    )
    assert trainer.gradient_clip_val == 0.5
    trainer.fit(module, datamodule=data)
    assert steps.batches == 3
    assert "train/loss" in (Path(logger.log_dir) / "metrics.csv").read_text()
    run = RunFolder(Path(trainer.default_root_dir))
    losses = [record for record, _ in run.journal.read(0) if "train/loss" in record.get("values", {})]
    assert [record["step"] for record in losses] == [1, 2, 3]


@pytest.mark.parametrize("option", ["max_epochs", "callbacks", "accumulate_grad_batches"])
def test_option_that_follows_from_the_recipe_is_refused(option: str) -> None:
    """The error comes before the data are read."""
    with pytest.raises(RecipeError, match=option):
        build(load_recipe("basereward", overrides=SMALL), trainer_options={option: 1})
