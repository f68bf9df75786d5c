"""Builds the module, the data and the trainer of a recipe.

`trainer.fit(module, data)` then trains, writes checkpoints, records the run and saves the model.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, EarlyStopping

from basereward.data.curation.curate import Curation
from basereward.data.encoding.encoder import Encoder
from basereward.data.module import PreferenceData
from basereward.data.schema.group import Group
from basereward.data.streaming.streamed_module import StreamedData
from basereward.inference.score_file import load
from basereward.io.files import cache_folder
from basereward.model.attention.compiled import compile_layers
from basereward.model.attention.kernels import check_liger
from basereward.model.families.processing import recipe_encoder
from basereward.model.families.vision import keep_features
from basereward.model.reward_model import RewardModel, build_model
from basereward.model.saving.identity import BackboneIdentity
from basereward.model.saving.made_checkpoint import backbone_path
from basereward.recipe import make, recipe_sha256, recipe_yaml
from basereward.recipe.checks.probing import trained_model
from basereward.recipe.schema import CurationRecipe, Recipe
from basereward.recipe.trust import trusting
from basereward.runs.run_folder import RunFolder
from basereward.training.callbacks.checkpoints import AtomicCheckpointIO, Checkpoints
from basereward.training.callbacks.performance import Performance
from basereward.training.callbacks.progress import Progress, StageBar
from basereward.training.callbacks.recorder import Recorder
from basereward.training.callbacks.step_timer import StepTimer
from basereward.training.module import RewardModule
from basereward.training.optimizer import check_kind
from basereward.training.preflight import check_ready, check_validation, rejections_file
from basereward.training.probe import pooled_datasets
from basereward.training.probe_cache import ProbeCache
from basereward.training.run_identity import IdentityInCheckpoint, check_encoder, identity_tags, record_identity


class PreparedRun(NamedTuple):
    """A run that is ready to train: its three objects, and its folder."""

    module: RewardModule
    data: PreferenceData
    trainer: Trainer
    folder: RunFolder


def build(
    recipe: Recipe,
    *,
    run: RunFolder | None = None,
    parent: str | None = None,
    title: str | None = None,
    axes: Mapping[str, str] | None = None,
    shared: ProbeCache | None = None,
    trust: bool = False,
) -> tuple[RewardModule, PreferenceData, Trainer]:
    """Build the module, the data and the trainer of a recipe. The data are read and checked before the model is loaded.

    Args:
        recipe: from `load_recipe`.
        run: folder of an earlier run to resume; by default a new one is created after data and model passed all checks.
        parent: id of the sweep that a new run belongs to.
        title: display name of a new run; by default the name of the recipe.
        axes: label of each axis of a sweep's cell, by the name of the axis.
        shared: data and backbone of earlier probes of this process; it receives those of this one.
        trust: allow classes from outside this package, and the Python files of a checkpoint, to run.

    Raises:
        BaseRewardError: the recipe or the data have an error.

    Example:
        module, data, trainer = build(load_recipe("basereward", profile="tiny"))
        trainer.fit(module, data)
    """
    with trusting(trust):
        prepared = prepare_run(recipe, run=run, parent=parent, title=title, axes=axes, probe_cache=shared)
    return prepared.module, prepared.data, prepared.trainer


def prepare_run(
    recipe: Recipe,
    *,
    run: RunFolder | None = None,
    parent: str | None = None,
    title: str | None = None,
    axes: Mapping[str, str] | None = None,
    probe_cache: ProbeCache | None = None,
    keep_open: bool = False,
) -> PreparedRun:
    """Build the objects of a recipe, and create its run folder; see `build` for the other arguments.

    Args:
        keep_open: leave the record of the run open after training, because a test follows.
    """
    quiet_lightning()
    check_machine(recipe)
    probe_cache = probe_cache or ProbeCache()
    module, data = build_module(recipe, run=run, probe_cache=probe_cache)
    if run is None:  # only here, so that an error in the recipe or in the data leaves no folder
        run = create_run(recipe, parent=parent, title=title, axes=axes)
        data.list_lost_in(run.lost)
    model = module.model
    identity = record_identity(run, recipe, backbone=model.backbone, data=data)
    trainer = build_trainer(recipe, data=data, run=run, identity=identity, keep_open=keep_open)
    # The device is known only to the trainer's strategy.
    _use_frozen_backbone(recipe, model=model, data=data, device=trainer.strategy.root_device)
    if recipe.probe:
        probe_cache.keep(recipe, data=data, backbone=model.backbone)
    return PreparedRun(module, data, trainer, run)


def build_module(
    recipe: Recipe, *, run: RunFolder | None, probe_cache: ProbeCache
) -> tuple[RewardModule, PreferenceData]:
    """Build the module and the data of a recipe. Nothing is written but the list of rejected rows.

    Args:
        recipe: of the run.
        run: the run to resume; None for a new one.
        probe_cache: data and backbone of earlier probes of this process.

    Raises:
        BaseRewardError: the recipe or the data have an error.
    """
    path = backbone_path(recipe.model.backbone)
    rejected_file = rejections_file(recipe, remove_earlier=True) if run is None else run.lost
    cached = probe_cache.find(recipe, lost_file=rejected_file)
    data, backbone = cached or (_read_data(recipe, path, rejected_file=rejected_file, run=run), None)
    check_validation(recipe, {name: len(lengths) for name, lengths in data.lengths["val"].items()})
    model = build_model(
        trained_model(recipe), path=path, seed=recipe.seeds.init, backbone=backbone, encoder=data.encoder
    )
    model.backbone.check_layout(recipe.batch.layout)
    if recipe.trainer.compile:
        compile_layers(model.backbone.transformer)
    module = RewardModule(
        model,
        loss=make(recipe.loss, "losses"),
        sources=list(recipe.data.sources),
        optimizer=dataclasses.asdict(recipe.optimizer),
        schedule=dataclasses.asdict(recipe.schedule),
        clip=recipe.trainer.clip,
        dropout_seed=recipe.seeds.dropout,
        log_every=recipe.trainer.log_every if recipe.probe else 1,
    )
    return module, data


def create_run(
    recipe: Recipe, *, parent: str | None = None, title: str | None = None, axes: Mapping[str, str] | None = None
) -> RunFolder:
    """Create the folder of a new run of a recipe; see `build` for the arguments."""
    return RunFolder.create(
        recipe_yaml(recipe),
        recipe_sha256=recipe_sha256(recipe),
        name=title or recipe.name,
        parent=parent,
        axes=axes,
    )


def _use_frozen_backbone(recipe: Recipe, *, model: RewardModel, data: PreferenceData, device: torch.device) -> None:
    """Cache what a frozen backbone computes more than once: features of images, pooled states of a probe."""
    if recipe.data.encoding.feature_cache is not None:
        keep_features(
            model.backbone.vision,
            transformer=model.backbone.transformer,
            encoder=data.encoder,
            gib=recipe.data.encoding.feature_cache,
            device=device,
            precision=recipe.trainer.precision,
        )
    if recipe.probe:
        data.pooled.update(pooled_datasets(recipe, model=model, data=data, device=device))


def _read_data(recipe: Recipe, path: str, *, rejected_file: Path, run: RunFolder | None) -> PreferenceData:
    encoder = recipe_encoder(recipe, path=path)
    if run is not None:
        check_encoder(run, encoder)  # before the rows are read, which may take hours
    data = build_data(recipe, encoder=encoder, lost_file=rejected_file)
    data.setup()
    return data


def check_machine(recipe: Recipe) -> None:
    """Check that this machine can run the recipe, before anything is read.

    Raises:
        RecipeError: the accelerator or the precision is missing, or the folder of the runs cannot be used.
        ModelError: the optimizer or the kernels need an NVIDIA GPU, and there is none.
    """
    check_ready(recipe)
    on_gpu = recipe.trainer.accelerator != "cpu" and torch.cuda.is_available()
    check_kind(recipe.optimizer.kind, devices=["cuda" if on_gpu else "cpu"])
    if recipe.model.backbone.kernels == "liger":
        check_liger()


def build_data(recipe: Recipe, *, encoder: Encoder, lost_file: Path, max_lost: float | None = None) -> PreferenceData:
    """Build the data of a recipe; nothing is read before `setup`.

    Args:
        recipe: of the run.
        encoder: of the recipe's backbone.
        lost_file: where rejected rows are listed.
        max_lost: largest share of rejected rows; by default that of the recipe.
    """
    mixture, trainer, batch = recipe.data.mixture, recipe.trainer, recipe.batch
    sources = {name: make(node, "sources", name) for name, node in recipe.data.sources.items()}
    common: dict[str, Any] = {
        "encoder": encoder,
        "weights": mixture.weights or None,
        "seed": recipe.seeds.data,
        "groups": batch.groups,
        "groups_per_forward": batch.groups_per_forward,
        "steps": trainer.steps,
        "stages": trainer.validations,
        "layout": batch.layout,
        "workers": recipe.data.workers,
        "prefetch": recipe.data.prefetch,
        "max_lost": recipe.data.max_lost if max_lost is None else max_lost,
        "lost_file": lost_file,
        "cache": cache_folder() / "lengths",
    }
    if recipe.data.streaming is not None:
        streaming = recipe.data.streaming
        return StreamedData(sources, **common, buffer=streaming.buffer, held_out=streaming.held_out)
    return PreferenceData(
        sources,
        **common,
        limits=mixture.limits or None,
        passes=mixture.passes or None,
        stop=mixture.stop,
        budget=batch.tokens,
        modality=batch.modality,
        epochs=trainer.epochs,
        curation=build_curation(recipe.data.curation),
    )


def build_curation(recipe: CurationRecipe) -> Curation | None:
    """Build the filter of training groups; None when the recipe filters nothing."""
    if recipe == CurationRecipe():
        return None
    against = {name: make(node, "sources", name) for name, node in recipe.against.items()}

    # The judge is loaded at its first use, after the cheaper filters have run.
    def judge(groups: Iterable[Group]) -> Iterator[list[float]]:
        assert recipe.judge is not None
        yield from load(recipe.judge).score_groups(groups)

    return Curation(
        duplicates=recipe.duplicates,
        near=recipe.near,
        against=against,
        judge=judge if recipe.judge is not None else None,
        drop=recipe.drop,
    )


def build_trainer(
    recipe: Recipe, *, data: PreferenceData, run: RunFolder, identity: BackboneIdentity, keep_open: bool = False
) -> Trainer:
    """Build Lightning's trainer with our checkpoints and our record.

    A stage of the plan, which ends with a validation, is an epoch of Lightning.

    Args:
        recipe: of the run.
        data: after `setup`.
        run: its folder.
        identity: of the backbone, for checkpoints and tags.
        keep_open: leave the record open after training, because a test follows.
    """
    assert data.plan is not None
    settings = recipe.trainer
    recorder, callbacks = _callbacks(recipe, run=run, identity=identity, keep_open=keep_open)
    step_timer = next(callback for callback in callbacks if isinstance(callback, StepTimer))
    return Trainer(
        accelerator=settings.accelerator,
        devices=1,
        precision=settings.precision,
        max_epochs=data.plan.stages,
        accumulate_grad_batches=data.plan.forwards_per_step,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every,
        deterministic=deterministic(settings.accelerator) if settings.deterministic else False,
        logger=recorder.logger,
        callbacks=callbacks,
        profiler=step_timer.clock,
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(callback, StageBar) for callback in callbacks),
        limit_val_batches=1.0 if len(data.parts["val"]) else 0,  # Lightning warns about an empty loader
        default_root_dir=run.path,
    )


def _callbacks(
    recipe: Recipe, *, run: RunFolder, identity: BackboneIdentity, keep_open: bool
) -> tuple[Recorder, list[Callback]]:
    """The callbacks of a run, and the recorder among them."""
    settings = recipe.trainer
    checkpoints = Checkpoints(
        run.checkpoints, scores_file=run.scores / "val.jsonl", monitor=settings.monitor, every=settings.checkpoint_every
    )
    tags = identity_tags(identity)
    recorder = Recorder(recipe, run=run, checkpoints=checkpoints, tags=tags, keep_open=keep_open)
    bar: Callback = StageBar() if sys.stderr.isatty() else Progress()
    performance = [] if recipe.probe else [Performance()]  # a probe multiplies next to nothing
    # The order matters: the recorder comes after all callbacks that log, and before the checkpoint, so that a run that
    # resumes after a step has the record of that step.
    callbacks: list[Callback] = [StepTimer(), *performance, recorder, checkpoints, IdentityInCheckpoint(identity), bar]
    if settings.early_stopping is not None:
        early_stopping = EarlyStopping(
            settings.monitor,
            mode="max",
            patience=settings.early_stopping.patience,
            min_delta=settings.early_stopping.min_delta,
            # At the end of the validation, before the checkpoint of the stage, which stores the decision.
            check_on_train_epoch_end=False,
        )
        callbacks.append(early_stopping)
    return recorder, callbacks


def deterministic(accelerator: str) -> bool | Literal["warn"]:
    """The value of Lightning's `deterministic`: exact on the CPU.

    On a GPU some operations have no deterministic form; they run and log a warning.
    """
    # By default, deterministic mode also fills all memory that torch allocates with NaN, at every step, to expose reads
    # of uninitialised memory. That costs time and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch replaces the class of this module
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    return True if on_cpu else "warn"


def quiet_lightning() -> None:
    """Silence Lightning's messages about choices that are made here: devices, loader workers, logging intervals."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", module="pytorch_lightning", message=".*number of training batches.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
    # The batches of a stream do not depend on the number of loader workers; see `StreamedMicroBatches`.
    warnings.filterwarnings("ignore", module="pytorch_lightning", message=".*IterableDataset` has `__len__` defined.*")
    # The data module stores the position itself; see `PreferenceData.state_dict`.
    warnings.filterwarnings("ignore", module="pytorch_lightning", message=".*your dataloader is not resumable.*")
