"""The keys of a recipe: one dataclass for each section, one comment for each key that needs one.

A value of type `Node` is a mapping with `_target_`: the name of a file in the extension folder of its key (`mlp` is
`basereward/model/heads/mlp.py`), or the dotted path of a class of your own. The other keys are its arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

Node = dict[str, Any]
Way: TypeAlias = Literal["mean", "accuracy", "confidence", "learned", "standardised", "worst", "pessimistic", "soup"]
WAYS: tuple[Way, ...] = get_args(Way)
"""How the scores of several models are combined; see `basereward.training.ensembles.make`."""
PoolingName: TypeAlias = Literal["last", "last_text", "mean"]


@dataclass(frozen=True)
class Seeds:
    """One seed for each source of randomness, so that a sweep can vary one of them.

    >>> Seeds(init=1)
    Seeds(data=0, init=1, dropout=0)
    """

    data: int = 0  # order of the training groups
    init: int = 0  # initial weights of the head and of LoRA
    dropout: int = 0  # dropout masks


@dataclass(frozen=True)
class BackboneRecipe:
    """The pretrained model that reads prompts, images and responses.

    >>> BackboneRecipe(path="Qwen/Qwen2.5-VL-7B-Instruct").dtype
    'float32'
    """

    path: str | None = None  # hub id or folder; null: the folder that `make` writes
    revision: str | None = None  # branch, tag or commit of the hub repository
    make: Node | None = None  # writes a checkpoint in the format of the hub, instead of loading one
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the backbone's weights; head and loss are always float32
    quantization: Literal["nf4", "int8"] | None = None  # 4-bit or 8-bit weights by bitsandbytes; they are frozen
    freeze: list[str] = field(default_factory=list)  # among vision, merger, language
    gradient_checkpointing: bool = False  # recompute activations in the backward pass instead of storing them
    checkpoint_layers: int | Literal["auto"] | None = (
        None  # first layers of the language model that do so; null: all; auto: as few as the memory allows, by count
    )
    kernels: Literal["auto", "none", "liger"] = (
        "auto"  # liger: fused norms, SwiGLU and rotary positions on NVIDIA GPUs; auto: if installed, else a faster norm
    )
    trust_remote_code: bool = False


@dataclass(frozen=True)
class LoraRecipe:
    """Low-rank adapters (arXiv 2106.09685); with `rslora`, scaled as in arXiv 2312.03732.

    >>> LoraRecipe().alpha / LoraRecipe().rank
    2.0
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    rslora: bool = False  # scale by alpha / sqrt(rank) instead of alpha / rank
    parts: list[str] = field(default_factory=lambda: ["language"])  # among vision, merger, language
    merge: bool = False  # save merged weights instead of the adapter


@dataclass(frozen=True)
class ModelRecipe:
    """Backbone, adapters, head and pooling.

    >>> ModelRecipe().pooling
    'last'
    """

    backbone: BackboneRecipe = field(default_factory=BackboneRecipe)
    lora: LoraRecipe | None = None
    head: Node = field(default_factory=dict)
    pooling: PoolingName = "last"  # of a response: its end-of-turn token, the token before, or the mean of all
    start: str | None = (
        None  # trained model that reinforcement learning starts from: a run, a folder or runs:/...; null: the backbone
    )


@dataclass(frozen=True)
class MixtureRecipe:
    """How often each source is used in an epoch.

    >>> MixtureRecipe(weights={"digits": 0.7, "numbers": 0.3}).stop
    'all_exhausted'
    """

    weights: dict[str, float] = field(default_factory=dict)  # share of each source; empty: every row once an epoch
    limits: dict[str, int] = field(default_factory=dict)  # most groups of a source, drawn by seeds.data
    passes: dict[str, float] = field(default_factory=dict)  # repeats of a source's groups in an epoch; absent: 1
    stop: Literal["first_exhausted", "all_exhausted"] = "all_exhausted"  # when an epoch of weighted sources ends


@dataclass(frozen=True)
class VideoRecipe:
    """Which frames of a video are used, and how large they are. null: as the checkpoint's video processor says.

    >>> VideoRecipe().frames_fps
    2.0
    """

    frames: int | None = None  # frames of every video that are used, evenly spaced; null: by fps
    fps: float | None = None  # frames per second that are used; 2 if neither the recipe nor the checkpoint says it
    min_frames: int | None = None  # fewest frames that fps gives
    max_frames: int | None = None  # most frames that fps gives
    frame_pixels: int | None = None  # largest width x height of a frame after resizing
    total_pixels: int | None = None  # largest sum over all frames of a video
    frames_fps: float = 2.0  # frames per second of folders and lists of frames, where a row does not say it


@dataclass(frozen=True)
class EncodingRecipe:
    """How prompts, images and responses become tokens and pixels.

    >>> EncodingRecipe().image_backend
    'pil'
    """

    image_backend: Literal["pil", "torchvision"] = "pil"  # the two resample differently
    min_pixels: int | None = None  # null: as the checkpoint's preprocessor_config.json says
    max_pixels: int | None = None
    max_tokens: int = 4096  # of a prompt with its images and one response; longer groups are rejected as `too_long`
    ending: Literal["end_of_turn", "template"] = (
        "end_of_turn"  # last tokens of a response; template: all that the chat template writes, as in published models
    )
    video: VideoRecipe = field(default_factory=VideoRecipe)  # frames of videos, and their size
    feature_cache: float | None = None  # GiB on disk for features of a frozen vision tower; null: no cache


@dataclass(frozen=True)
class CurationRecipe:
    """Which training groups are left out or count less. The defaults change nothing.

    >>> CurationRecipe(duplicates=True).near is None
    True
    """

    duplicates: bool = False  # keep one of equal groups, within and across sources
    near: float | None = None  # similarity, 0.7 to 1, from which groups count as equal; null: only equal ones do
    against: dict[str, Node] = field(
        default_factory=dict
    )  # benchmarks, or sources of their rows; groups that are in one are left out
    judge: str | None = (
        None  # a trained model: preferences that it strongly disagrees with are dropped, others weigh less
    )
    drop: float = 2.0  # the margin against a preference from which the judge drops it, in its scores


@dataclass(frozen=True)
class StreamingRecipe:
    """Reading of sources that are too large for an index of their rows.

    >>> StreamingRecipe().buffer
    1000
    """

    buffer: int = 1000  # groups of each source in the shuffle buffer
    held_out: int = 500  # groups of each source for validation, and as many for the test


@dataclass(frozen=True)
class DataRecipe:
    """Sources, their mixture, encoding and curation, and how rows are loaded.

    >>> DataRecipe().max_lost
    0.01
    """

    sources: dict[str, Node] = field(default_factory=dict)  # {digits: {include: sources/digits}}
    mixture: MixtureRecipe = field(default_factory=MixtureRecipe)
    encoding: EncodingRecipe = field(default_factory=EncodingRecipe)
    max_lost: float = 0.01  # largest share of rejected rows; above it the run stops before training
    workers: int = 0  # worker processes that load data; 0: the training process does
    prefetch: int | None = None  # batches that each worker loads in advance; null: 2
    curation: CurationRecipe = field(default_factory=CurationRecipe)
    streaming: StreamingRecipe | None = None  # read the sources in order without an index; needs trainer.steps


@dataclass(frozen=True)
class BatchRecipe:
    """Groups of an optimizer step and of one forward pass.

    >>> BatchRecipe().groups // BatchRecipe().groups_per_forward  # micro-batches of a step
    16
    """

    groups: int = 128  # groups of one optimizer step
    groups_per_forward: int = 8  # groups of one micro-batch; the rest is gradient accumulation
    tokens: int | None = None  # most tokens of one micro-batch, instead of groups_per_forward
    modality: Literal["mixed", "separate"] = "mixed"  # separate: no micro-batch has both image and text-only groups
    layout: Literal["tree", "plain"] = (
        "tree"  # tree: the prompt once and a branch for each response; plain: one sequence for each response
    )


@dataclass(frozen=True)
class OptimizerRecipe:
    """AdamW (arXiv 1711.05101) and its learning rates.

    >>> OptimizerRecipe(lr_by_part={"head": 1e-3}).lr
    1e-05
    """

    lr: float = 1e-5
    lr_by_part: dict[str, float] = field(default_factory=dict)  # vision, merger, language, head, loss; absent: lr
    weight_decay: float = 0.0  # on matrices only
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    kind: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = "adamw"  # paged: NVIDIA GPUs only
    bfloat16: Literal["nearest", "master", "stochastic"] = (
        "nearest"  # rounding of trained bfloat16 weights; master keeps float32 copies of them
    )


@dataclass(frozen=True)
class ScheduleRecipe:
    """The learning rate over the steps.

    >>> ScheduleRecipe().shape
    'cosine'
    """

    shape: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: float = 0.03  # share of the steps, 0 to 1
    final: float = 0.0  # learning rate at the end, as a share of the peak


@dataclass(frozen=True)
class EarlyStoppingRecipe:
    """When a run stops before its last step.

    >>> EarlyStoppingRecipe().patience
    3
    """

    patience: int = 3  # validations without improvement before the run stops
    min_delta: float = 0.0


@dataclass(frozen=True)
class TrainerRecipe:
    """Length, precision, devices, validations and checkpoints of a run.

    >>> TrainerRecipe().monitor
    'val/pair_accuracy'
    """

    epochs: float = 1.0  # passes through the mixture; ignored when `steps` is set
    steps: int | None = None  # optimizer steps
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    clip: float = 1.0  # largest norm of the gradient; 0: no clipping
    accelerator: Literal["auto", "cpu", "cuda", "gpu", "mps"] = "auto"
    deterministic: bool = True  # same bits on the CPU; a GPU promises none: flash attention and others only warn there
    compile: bool = False  # torch.compile of the language model's layers; the first steps take minutes longer
    validations: int = 4  # number of validations, evenly spread; each writes a checkpoint
    checkpoint_every: int | None = None  # optimizer steps between further checkpoints
    log_every: int = 10  # optimizer steps between records of the training curve
    monitor: str = "val/pair_accuracy"  # its largest value defines the best checkpoint; mean over the sources
    early_stopping: EarlyStoppingRecipe | None = None
    devices: int | None = None  # processes on each machine; null: 1, and in a sweep as many GPUs as memory needs
    nodes: int = 1  # machines; several are started by torchrun or SLURM
    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"  # auto: ddp, or fsdp2 if a whole model does not fit
    shard: Literal["optimizer", "weights"] = (
        "weights"  # what fsdp2 keeps divided between two passes; weights: all of it
    )


@dataclass(frozen=True)
class TrackingRecipe:
    """The MLflow store and experiment that a run is recorded in.

    >>> TrackingRecipe().uri is None
    True
    """

    uri: str | None = None  # null: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db
    experiment: str | None = None  # null: the recipe's name
    also: list[Literal["tensorboard", "wandb"]] = field(default_factory=list)  # other loggers that get all metrics
    system_metrics: float | None = 10.0  # seconds between samples of processors, memory, disk and GPUs; null: none


@dataclass(frozen=True)
class EnsembleRecipe:
    """An ensemble of trained cells, declared under `ensembles:` of an experiment.

    >>> EnsembleRecipe(how="soup").members
    ['*']
    """

    how: Way = "mean"
    # A pattern rather than a list of names, so that an ensemble follows when the axes of the experiment change.
    members: list[str] = field(default_factory=lambda: ["*"])  # names of cells; `*` matches any text
    text: list[str] = field(default_factory=list)  # cells that score prompts without images, instead of the members
    pairs: int = 1000  # validation pairs for the weights, equally many of each source and at least one
    k: float = 1.0  # standard deviations that `pessimistic` subtracts
    seed: int = 0  # of the draw of pairs, and of the bootstrap of learned weights


@dataclass(frozen=True)
class Recipe:
    """A complete recipe: everything that determines one run. Read-only.

    >>> Recipe().optimizer.lr
    1e-05
    """

    name: str = "unnamed"
    summary: str = ""
    seeds: Seeds = field(default_factory=Seeds)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    probe: bool = (
        False  # freeze the whole backbone, and train the head on pooled states that are computed once and kept
    )
    loss: Node = field(default_factory=dict)
    objective: Node | None = (
        None  # what a training step does; null: what the head needs (ranking, critique_ranking, language_modeling)
    )
    data: DataRecipe = field(default_factory=DataRecipe)
    batch: BatchRecipe = field(default_factory=BatchRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    trainer: TrainerRecipe = field(default_factory=TrainerRecipe)
    tracking: TrackingRecipe = field(default_factory=TrackingRecipe)
    launcher: Node | None = None  # where the cells of a sweep run; null: local, processes of this machine
