"""Builds the module, the data and the trainer of a recipe.

`trainer.fit(module, data)` then trains, writes checkpoints, records the run and saves the model.
"""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import Strategy

from basereward.cluster.shards import ShardedRows
from basereward.data.batching.loss_units import Unit
from basereward.data.curation.curate import Curation
from basereward.data.encoding.encoder import Encoder
from basereward.data.module import PreferenceData
from basereward.data.schema.group import Group
from basereward.data.streaming.streamed_module import StreamedData
from basereward.data.summary import log_reading
from basereward.errors import RecipeError
from basereward.inference.load_model import load
from basereward.io.files import cache_folder
from basereward.io.progress import phase
from basereward.model.attention.compiled import compile_layers
from basereward.model.families.processing import recipe_encoder
from basereward.model.families.vision import keep_features
from basereward.model.losses.contracts import build_loss
from basereward.model.reward_model import RewardModel, build_model
from basereward.model.saving.made_checkpoint import backbone_path
from basereward.recipe import make
from basereward.recipe.checks.parallel import micro_batch_groups, num_devices, num_ranks
from basereward.recipe.checks.probing import trained_model
from basereward.recipe.checks.rollouts import learns_from_rollouts
from basereward.recipe.schema import CurationRecipe, Recipe
from basereward.recipe.trust import trusting
from basereward.runs.run_folder import RunFolder
from basereward.training.callbacks.checkpoints import AtomicCheckpointIO, Checkpoints
from basereward.training.callbacks.performance import Performance
from basereward.training.callbacks.progress import RunProgress, RunWork
from basereward.training.callbacks.recorder import Recorder
from basereward.training.callbacks.step_timer import StepTimer
from basereward.training.checks.rows import rejections_file
from basereward.training.cost.checkpointing import checkpoint_automatically
from basereward.training.cost.run_memory import device_memory
from basereward.training.module import RewardModule
from basereward.training.objectives.contracts import build_objective, objective_unit
from basereward.training.parallel.automatic_strategy import with_strategy
from basereward.training.parallel.collectives import first_on_machine, is_first
from basereward.training.parallel.launch import cluster_environment
from basereward.training.parallel.strategies import build_strategy
from basereward.training.preflight import check_ready, check_validation
from basereward.training.probe import ProbeStates
from basereward.training.probe_cache import ProbeCache
from basereward.training.recording.run_record import RunDetails
from basereward.training.run_identity import IdentityInCheckpoint, RunIdentity, check_encoder

log = logging.getLogger(__name__)


class PreparedRun(NamedTuple):
    """A run that is ready to train.

    Attributes:
        module: the Lightning module.
        data: the data module, after `setup`.
        trainer: with the callbacks of the run.
        folder: of the run; a new one does not exist before the run begins.
        recorder: the callback that begins and records the run.
    """

    module: RewardModule
    data: PreferenceData
    trainer: Trainer
    folder: RunFolder
    recorder: Recorder


HIDDEN_WARNINGS = (
    ("pytorch_lightning", r"The '\w+' does not have many workers which may be a bottleneck\."),
    ("pytorch_lightning", r"The number of training batches \(\d+\) is smaller than the logging interval"),
    ("", r"`isinstance\(treespec, LeafSpec\)` is deprecated, "),
    # The batches of a stream do not depend on the number of loader workers; see `StreamedMicroBatches`.
    ("pytorch_lightning", "Your `IterableDataset` has `__len__` defined"),
    # Metrics are the same on all processes before they are logged, and times are those of the first one.
    ("pytorch_lightning", r"It is recommended to use `self\.log\(.*, \.\.\., sync_dist=True\)`"),
    # Nothing here changes scores in place.
    ("", r"FSDP2-wrapped module \(.*\) returned a view tensor"),
    # The data module stores the position itself; see `PreferenceData.state_dict`.
    ("pytorch_lightning", r"You're resuming from a checkpoint .* and your dataloader is not resumable\."),
)
"""Modules and beginnings of warnings, as regular expressions, about choices that are made here."""
OWN_OPTIONS = (
    "max_epochs", "accumulate_grad_batches", "reload_dataloaders_every_n_epochs", "use_distributed_sampler",
    "num_sanity_val_steps", "devices", "num_nodes", "profiler", "plugins", "enable_checkpointing", "default_root_dir",
)  # fmt: skip
"""Options of Lightning's Trainer that follow from the recipe, the plan of the data and the checkpoints."""


def build(
    recipe: Recipe,
    *,
    callbacks: Sequence[Callback] = (),
    logger: Logger | Sequence[Logger] = (),
    strategy: str | Strategy = "auto",
    trainer_options: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> tuple[RewardModule, PreferenceData, Trainer]:
    """Build the module, the data and the trainer of a recipe.

    The data are read and checked before the model is loaded. No run exists before `trainer.fit`, which creates the run
    folder and the record in MLflow; and no batch passes through the model.

    Args:
        recipe: from `load_recipe`.
        callbacks: callbacks of your own; they come before those that record the run and write its checkpoints.
        logger: loggers of your own, besides the record of the run.
        strategy: Lightning's strategy.
        trainer_options: further arguments of Lightning's Trainer; they take precedence over the recipe's.
        trust: allow classes from outside this package, and the Python files of a checkpoint, to run.

    Raises:
        RecipeError: the recipe has an error, or `trainer_options` has an option that follows from the recipe.
        BaseRewardError: the data or the model have an error.

    Example:
        module, data, trainer = build(load_recipe("basereward", profile="tiny"))
        trainer.fit(module, data)
    """
    own = TrainerSettings(
        callbacks=tuple(callbacks),
        loggers=(logger,) if isinstance(logger, Logger) else tuple(logger),
        strategy=strategy,
        options=dict(trainer_options or {}),
    )
    with trusting(trust):
        prepared = prepare_run(recipe, own=own)
    return prepared.module, prepared.data, prepared.trainer


@dataclass(frozen=True, slots=True)
class TrainerSettings:
    """What a caller adds to the trainer of a recipe; see `build`.

    Args:
        callbacks: of the caller.
        loggers: of the caller.
        strategy: Lightning's strategy.
        options: further arguments of Lightning's Trainer.

    >>> TrainerSettings(options={"gradient_clip_val": 1.0, "devices": 2})
    Traceback (most recent call last):
    basereward.errors.RecipeError: trainer_options has devices. ...
    """

    callbacks: tuple[Callback, ...] = ()
    loggers: tuple[Logger, ...] = ()
    strategy: str | Strategy = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """
        Raises:
            RecipeError: an option is one of `OWN_OPTIONS`, or has an argument of its own in `build`.
        """
        refused = sorted(set(self.options) & {*OWN_OPTIONS, "callbacks", "logger", "strategy"})
        if refused:
            raise RecipeError(
                f"trainer_options has {', '.join(refused)}. The recipe, or an argument of `build`, sets: "
                f"{', '.join(OWN_OPTIONS)}, callbacks, logger, strategy. Remove the option, and change the recipe "
                "instead."
            )


def prepare_run(
    recipe: Recipe,
    *,
    run: RunFolder | None = None,
    details: RunDetails | None = None,
    probe_cache: ProbeCache | None = None,
    own: TrainerSettings | None = None,
    keep_open: bool = False,
) -> PreparedRun:
    """Build the objects of a recipe for a run. A new run begins when its recorder begins it.

    Args:
        recipe: of the run.
        run: folder of an earlier run to resume.
        details: names of a new run and of the sweep that it belongs to.
        probe_cache: data and backbone of earlier probes of this process; it receives those of this one.
        own: what the caller adds to the trainer.
        keep_open: leave the record of the run open after training, because a test follows.

    Raises:
        BaseRewardError: the recipe or the data have an error, or an earlier run had another backbone or other data.
    """
    quiet_lightning()
    _check_objective(recipe)
    check_ready(recipe)
    # Without a cache of the caller the probe gets an empty one, which ends with this call.
    probe_cache = probe_cache or ProbeCache()
    module, data = build_module(recipe, run=run, probe_cache=probe_cache)
    identity = RunIdentity.of(recipe, backbone=module.model.backbone, data=data)
    if run is not None:
        identity.check(run)
    # Only a name: a failure up to the begin of the run leaves no folder behind.
    folder = run or RunFolder.reserve()
    recorder, callbacks = _callbacks(
        recipe, run=folder, data=data, identity=identity, details=details or RunDetails(), keep_open=keep_open
    )
    trainer = build_trainer(
        with_strategy(recipe, module.model, data),
        data=data,
        run=folder,
        recorder=recorder,
        callbacks=callbacks,
        own=own or TrainerSettings(),
    )
    # After the trainer is built, because only the trainer knows the device.
    _fit_to_device(recipe, module.model, data, device=trainer.strategy.root_device)
    if recipe.probe:
        probe_cache.keep(recipe, data=data, backbone=module.model.backbone)
    return PreparedRun(module, data, trainer, folder, recorder)


def _check_objective(recipe: Recipe) -> None:
    """
    Raises:
        RecipeError: the objective has a loop of its own.
    """
    if learns_from_rollouts(recipe.objective):
        raise RecipeError(
            f"objective '{(recipe.objective or {})['_target_']}' learns from texts that the model writes, and the "
            "trainer of Lightning writes none. Call basereward.rl.run.train_policy(recipe), or `basereward train`"
        )


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
    list_file = rejections_file(recipe, remove_earlier=is_first()) if run is None else run.rejections
    loss = build_loss(recipe.loss)
    unit = objective_unit(recipe.objective, loss=loss)
    cached = probe_cache.find(recipe, rejections_file=list_file, unit=unit)
    data, backbone = cached or (_read_data(recipe, path, list_file=list_file, run=run, unit=unit), None)
    # Before the model is loaded, which may take minutes.
    check_validation(recipe, {name: len(lengths) for name, lengths in data.lengths["val"].items()})
    with phase("loading the model"):
        model = build_model(
            trained_model(recipe), path=path, seed=recipe.seeds.init, backbone=backbone, encoder=data.encoder
        )
    # A family without an attention mask for trees supports only the plain layout.
    model.backbone.check_layout(recipe.batch.layout)
    if recipe.trainer.compile:
        compile_layers(model.backbone.transformer)
    if recipe.probe:
        data = data.with_pooled_states(ProbeStates(recipe, model=model))
    assert data.plan is not None
    module = RewardModule(
        model,
        objective=build_objective(recipe.objective, loss=loss, head=model.head),
        sources=list(recipe.data.sources),
        optimizer=dataclasses.asdict(recipe.optimizer),
        schedule=dataclasses.asdict(recipe.schedule),
        steps=data.plan.steps,
        clip=recipe.trainer.clip,
        dropout_seed=recipe.seeds.dropout,
        log_every=recipe.trainer.log_every if recipe.probe else 1,
    )
    return module, data


def _fit_to_device(recipe: Recipe, model: RewardModel, data: PreferenceData, *, device: torch.device) -> None:
    """Apply the settings of a recipe that depend on the device of the run."""
    if recipe.data.encoding.feature_cache is not None:
        _use_feature_cache(recipe, model=model, data=data, device=device)
    if recipe.model.backbone.checkpoint_layers == "auto":
        log.info("%s", checkpoint_automatically(recipe, model, data, available=device_memory(device)))


def _use_feature_cache(recipe: Recipe, *, model: RewardModel, data: PreferenceData, device: torch.device) -> None:
    """Keep the features of a frozen vision tower on the disk; their bits depend on the trainer's device."""
    gib = recipe.data.encoding.feature_cache
    assert gib is not None
    with phase("opening the cache of image features"):
        encoder = keep_features(
            model.backbone.vision,
            transformer=model.backbone.transformer,
            encoder=data.encoder,
            gib=gib,
            device=device,
            precision=recipe.trainer.precision,
        )
    data.replace_encoder(encoder)


def _read_data(recipe: Recipe, path: str, *, list_file: Path, run: RunFolder | None, unit: Unit) -> PreferenceData:
    encoder = recipe_encoder(recipe, path=path)
    # Before the rows are read, which may take hours.
    if run is not None:
        check_encoder(run, encoder)
    data = build_data(recipe, encoder=encoder, rejections_file=list_file, unit=unit)
    # The others find the lengths of the groups in the cache.
    with first_on_machine():
        data.setup()
    if is_first():
        log_reading(data)
    return data


def build_data(
    recipe: Recipe,
    *,
    encoder: Encoder,
    rejections_file: Path,
    max_lost: float | None = None,
    unit: Unit = "group",
    rows: ShardedRows | None = None,
) -> PreferenceData:
    """Build the data of a recipe; nothing is read before `setup`.

    Args:
        recipe: of the run.
        encoder: of the recipe's backbone.
        rejections_file: where rejected rows are listed.
        max_lost: largest share of rejected rows; by default that of the recipe.
        unit: of the objective, whose number training batches get with their optimizer step.
        rows: a cluster that reads the data in shards; None: this machine.
    """
    mixture, trainer, batch = recipe.data.mixture, recipe.trainer, recipe.batch
    sources = {name: make(node, "sources", name) for name, node in recipe.data.sources.items()}
    common: dict[str, Any] = {
        "encoder": encoder,
        "weights": mixture.weights or None,
        "seed": recipe.seeds.data,
        "groups": batch.groups,
        "groups_per_forward": micro_batch_groups(recipe),
        "steps": trainer.steps,
        "stages": trainer.validations,
        "layout": batch.layout,
        "ranks": num_ranks(recipe),
        "unit": unit,
        "workers": recipe.data.workers,
        "prefetch": recipe.data.prefetch,
        "max_lost": recipe.data.max_lost if max_lost is None else max_lost,
        "rejections_file": rejections_file,
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
        rows=rows,
    )


def build_curation(recipe: CurationRecipe) -> Curation | None:
    """Build the filter of training groups; None when the recipe filters nothing.

    Args:
        recipe: section `data.curation`.

    Raises:
        RecipeError: a benchmark of `against` has a fault.

    >>> build_curation(CurationRecipe()) is None, build_curation(CurationRecipe(duplicates=True)).duplicates
    (True, True)
    """
    if recipe == CurationRecipe():
        return None
    against = {name: make(node, "references", name) for name, node in recipe.against.items()}

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
    recipe: Recipe,
    *,
    data: PreferenceData,
    run: RunFolder,
    recorder: Recorder,
    callbacks: Sequence[Callback],
    own: TrainerSettings,
) -> Trainer:
    """Build Lightning's trainer with our checkpoints and our record.

    A stage of the plan, which ends with a validation, is an epoch of Lightning.

    Args:
        recipe: of the run.
        data: after `setup`.
        run: its folder; nothing is written.
        recorder: of the run; it is one of the callbacks.
        callbacks: of the run, from `_callbacks`.
        own: what the caller adds.
    """
    assert data.plan is not None
    settings = recipe.trainer
    step_timer = next(callback for callback in callbacks if isinstance(callback, StepTimer))
    options: dict[str, Any] = {
        "accelerator": settings.accelerator,
        "devices": num_devices(recipe),
        "num_nodes": settings.nodes,
        "precision": settings.precision,
        "max_epochs": data.plan.stages,
        "accumulate_grad_batches": data.plan.forwards_per_step,
        # Each stage has a loader of its own, which begins where the last one ended.
        "reload_dataloaders_every_n_epochs": 1,
        # The plan divides the groups among the ranks; a sampler of Lightning's would divide them again.
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": settings.log_every,
        "deterministic": deterministic(settings.accelerator) if settings.deterministic else False,
        "logger": [recorder.logger, *own.loggers],
        # The caller's come first, so that the recorder has what they log.
        "callbacks": [step_timer, *own.callbacks, *(callback for callback in callbacks if callback is not step_timer)],
        "strategy": own.strategy if own.strategy != "auto" else build_strategy(recipe),
        "profiler": step_timer.clock,
        "plugins": [AtomicCheckpointIO(), *_environments()],
        # `Checkpoints` writes them; Lightning's own callback would add files under names of its own.
        "enable_checkpointing": False,
        "enable_model_summary": False,
        # `RunProgress` shows the whole run; Lightning's bar begins again in every epoch.
        "enable_progress_bar": False,
        # Lightning warns about an empty loader.
        "limit_val_batches": 1.0 if len(data.parts["val"]) else 0,
        "default_root_dir": run.path,
    }
    return Trainer(**options | dict(own.options))


def _environments() -> list[ClusterEnvironment]:
    """The description of processes that Lightning has not started; without them, it finds its own."""
    environment = cluster_environment()
    return [] if environment is None else [environment]


def _callbacks(
    recipe: Recipe,
    *,
    run: RunFolder,
    data: PreferenceData,
    identity: RunIdentity,
    details: RunDetails,
    keep_open: bool,
) -> tuple[Recorder, list[Callback]]:
    """The callbacks of a run, and the recorder among them."""
    settings = recipe.trainer
    checkpoints = Checkpoints(
        run.checkpoints, scores_file=run.scores / "val.jsonl", monitor=settings.monitor, every=settings.checkpoint_every
    )
    recorder = Recorder(
        recipe, run=run, data=data, identity=identity, details=details, checkpoints=checkpoints, keep_open=keep_open
    )
    progress = RunProgress(RunWork.of(data, tested=keep_open), monitor=settings.monitor)
    # A probe multiplies next to nothing, and measuring the device takes longer than its training.
    performance = [] if recipe.probe else [Performance()]
    # The order matters: the recorder comes after all callbacks that log, and before the checkpoint, so that a run that
    # resumes after a step has the record of that step.
    callbacks: list[Callback] = [
        *(StepTimer(), *performance, recorder, checkpoints),
        *(IdentityInCheckpoint(identity.backbone), progress),
    ]
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
    """Return the value of Lightning's `deterministic`: exact on the CPU.

    On a GPU some operations have no deterministic form, and flash attention has a faster one that torch takes unless it
    may raise errors; they run and log a warning. So a run on a GPU does not promise equal bits.

    Args:
        accelerator: of the recipe.

    >>> deterministic("cpu"), deterministic("cuda")
    (True, 'warn')
    """
    # By default, deterministic mode also fills all memory that torch allocates with NaN, at every step, to expose reads
    # of uninitialised memory. That costs time and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch replaces the class of this module
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    return True if on_cpu else "warn"


def quiet_lightning() -> None:
    """Silence Lightning's messages about choices that are made here: devices, loader workers, logging intervals.

    >>> quiet_lightning()
    >>> logging.getLogger("pytorch_lightning").isEnabledFor(logging.WARNING)
    False
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for module, message in HIDDEN_WARNINGS:
        warnings.filterwarnings("ignore", message=message, module=module)
