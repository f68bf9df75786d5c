"""A recipe's three objects: module, data, trainer. `trainer.fit(module, data)` trains, checkpoints, tracks, saves."""

from __future__ import annotations

import dataclasses
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, EarlyStopping

from basereward.data.curation.curate import Curation
from basereward.data.encoding.encoder import Encoder
from basereward.data.module import PreferenceData
from basereward.data.schema.group import Group
from basereward.data.streaming.streamed_module import StreamedData
from basereward.inference.score_file import load
from basereward.io.cache import cache_folder
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
from basereward.training.preflight import check_ready, check_validation, lost_file
from basereward.training.probe import pool
from basereward.training.probe_cache import ProbeCache
from basereward.training.run_identity import IdentityInCheckpoint, check_encoder, identity_tags, record_identity


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
    """Builds what a recipe describes; the data are read and checked before the model is loaded.

    Args:
        recipe: from `load_recipe`.
        run: the folder of an earlier run that goes on; by default a new one is made, once data and model are found
            right.
        parent: id of the sweep that a new run belongs to.
        title: what a new run is called; by default the recipe's name.
        axes: of a sweep's cell the label of every axis by its name.
        shared: what earlier probes of this process stood on; takes what this one stands on.
        trust: whether classes from outside of this package, and the Python files of a checkpoint, may run.

    Raises:
        BaseRewardError: anything that the recipe or the data have wrong.

    Example:
        module, data, trainer = build(load_recipe("basereward", profile="tiny"))
        trainer.fit(module, data)
    """
    with trusting(trust):
        return _build(recipe, run=run, new=partial(_new, recipe, parent, title, axes), shared=shared)


def _new(recipe: Recipe, parent: str | None, title: str | None, axes: Mapping[str, str] | None) -> RunFolder:
    sha256, name = recipe_sha256(recipe), title or recipe.name
    return RunFolder.create(recipe_yaml(recipe), recipe_sha256=sha256, name=name, parent=parent, axes=axes)


def _build(
    recipe: Recipe, *, run: RunFolder | None, new: Callable[[], RunFolder], shared: ProbeCache | None
) -> tuple[RewardModule, PreferenceData, Trainer]:
    calm_lightning()
    check_machine(recipe)
    shared = shared or ProbeCache()
    path = backbone_path(recipe.model.backbone)
    listed = lost_file(recipe, anew=True) if run is None else run.lost
    data, backbone = shared.find(recipe, lost_file=listed) or (_read(recipe, path, lost_file=listed, run=run), None)
    check_validation(recipe, {name: len(lengths) for name, lengths in data.lengths["val"].items()})
    model = build_model(
        trained_model(recipe), path=path, seed=recipe.seeds.init, backbone=backbone, encoder=data.encoder
    )
    model.backbone.check_layout(recipe.batch.layout)
    if run is None:  # data and model are found right, so a mistake leaves no folder
        run = new()
        data.list_lost_in(run.lost)
    identity = record_identity(run, recipe, backbone=model.backbone, data=data)
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
    trainer = build_trainer(recipe, data=data, run=run, identity=identity)
    _keep(recipe, model=model, data=data, device=trainer.strategy.root_device)
    if recipe.probe:
        shared.keep(recipe, data=data, backbone=model.backbone)
    return module, data, trainer


def _keep(recipe: Recipe, *, model: RewardModel, data: PreferenceData, device: torch.device) -> None:
    """What the recipe wants kept of a frozen backbone: features of pictures, pooled states."""
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
        pool(recipe, model=model, data=data, device=device)


def _read(recipe: Recipe, path: str, *, lost_file: Path, run: RunFolder | None) -> PreferenceData:
    encoder = recipe_encoder(recipe, path=path)
    if run is not None:
        check_encoder(run, encoder)
    data = build_data(recipe, encoder=encoder, lost_file=lost_file)
    data.setup()
    return data


def check_machine(recipe: Recipe) -> None:
    """Refuses what this machine cannot do, before anything is read.

    Raises:
        RecipeError: the accelerator or the precision is not there, or the folder of the runs cannot be used.
        ModelError: an optimizer or kernels need an NVIDIA GPU, and there is none.
    """
    check_ready(recipe)
    on_gpu = recipe.trainer.accelerator != "cpu" and torch.cuda.is_available()
    check_kind(recipe.optimizer.kind, devices=["cuda" if on_gpu else "cpu"])
    if recipe.model.backbone.kernels == "liger":
        check_liger()


def build_data(recipe: Recipe, *, encoder: Encoder, lost_file: Path, max_lost: float | None = None) -> PreferenceData:
    """The data of a recipe, for one backbone's encoder; `max_lost` overrides the recipe's."""
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
    """What is left out of the training groups besides those that cannot be used; None: nothing."""
    if recipe == CurationRecipe():
        return None
    against = {name: make(node, "sources", name) for name, node in recipe.against.items()}

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


def build_trainer(recipe: Recipe, *, data: PreferenceData, run: RunFolder, identity: BackboneIdentity) -> Trainer:
    """Lightning's trainer with our checkpoints and tracking. A stage of the plan is an epoch of Lightning's."""
    assert data.plan is not None
    settings = recipe.trainer
    checkpoints = Checkpoints(
        run.checkpoints, scores_file=run.scores / "val.jsonl", monitor=settings.monitor, every=settings.checkpoint_every
    )
    recorder = Recorder(recipe, run=run, checkpoints=checkpoints, tags=identity_tags(identity))
    bar: Callback = StageBar() if sys.stderr.isatty() else Progress()
    waiting = StepTimer()
    performance = [] if recipe.probe else [Performance()]  # a probe multiplies next to nothing
    # What a step logs is recorded when all have logged, and before a checkpoint that goes on after that step.
    callbacks: list[Callback] = [waiting, *performance, recorder, checkpoints, IdentityInCheckpoint(identity), bar]
    if settings.early_stopping is not None:
        early = settings.early_stopping
        callbacks.append(
            EarlyStopping(
                settings.monitor,
                mode="max",
                patience=early.patience,
                min_delta=early.min_delta,
                check_on_train_epoch_end=False,  # but at the validation's end, before the stage's checkpoint is saved
            )
        )
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
        profiler=waiting.clock,
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=isinstance(bar, StageBar),
        limit_val_batches=1.0 if len(data.parts["val"]) else 0,  # of an empty loader Lightning warns
        default_root_dir=run.path,
    )


def deterministic(accelerator: str) -> bool | Literal["warn"]:
    """Bits repeat on the CPU. On a GPU some operations have no deterministic form: they run and say so."""
    # Deterministic mode would also write NaN into all memory that torch hands out, at every step, to show who reads it
    # too early.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch sets its class
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    return True if on_cpu else "warn"


def calm_lightning() -> None:
    """Leaves out what Lightning says about things that are decided here: devices, loader workers, logging intervals."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", module="pytorch_lightning", message=".*number of training batches.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
    # A stream's passes are the same whatever the number of processes; see `StreamedPasses`.
    warnings.filterwarnings("ignore", module="pytorch_lightning", message=".*IterableDataset` has `__len__` defined.*")
    # The data module itself knows where to go on; see `PreferenceData.state_dict`.
    warnings.filterwarnings("ignore", module="pytorch_lightning", message=".*your dataloader is not resumable.*")
