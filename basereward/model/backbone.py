"""A pretrained transformer without its language head: batches in, hidden states of the pooled tokens out."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    Cache,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import __version__ as transformers_version
from transformers.utils import logging as transformers_logging

from basereward.data.batching.tree_batch import PADDING, Layout, TreeBatch
from basereward.errors import ModelError
from basereward.io.limits import read_json_object
from basereward.io.names import folder_fault
from basereward.model.attention.cast_once import cast_inputs_once
from basereward.model.attention.gradient_checkpointing import enable_gradient_checkpointing
from basereward.model.attention.kernels import Kernels, find_kernels, use_kernels
from basereward.model.attention.last_layer import LastLayer
from basereward.model.attention.layout_check import find_tree_fault
from basereward.model.attention.tree_attention import (
    TREE_ATTENTION,
    RowPlan,
    TreePlan,
    register_tree_attention,
    tree_masks,
)
from basereward.model.families.registry import find_family, import_user_families, vision_family, vision_types
from basereward.model.families.vision import ImageEncoder, features_of_nothing, is_trained
from basereward.model.pooling import LAST, Pooling
from basereward.model.quantization import Quantization, keep_four_bit_weights, own_device, quantization_config
from basereward.model.saving.folder_checks import (
    check_checkpoint,
    check_numbers,
    check_size,
    explained,
    first_not_finite,
    not_finite_in,
)
from basereward.model.saving.identity import (
    CONFIG,
    BackboneIdentity,
    checkpoint_identity,
    find_file,
    precision_text,
    weight_files,
)
from basereward.recipe.trust import is_trusted

# Faults of weights that an error message lists.
MAX_SHOWN = 20

Origin: TypeAlias = BackboneIdentity
"""Where the weights of a backbone come from, with hashes of the files that were read."""


class Backbone(nn.Module):
    """A model of transformers without its language-model head, called on tree rows or plain rows.

    Args:
        model: the transformer, with or without adapters.
        origin: where its weights were loaded from.
        quantization: of its weights; None: not quantised.
        tree_fault: the reason why it cannot take tree rows; None: it can.

    Attributes:
        vision: encodes the images of batches.
        merged: whether adapters were merged into the weights, which then differ from those at the origin.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        *,
        origin: Origin,
        quantization: Quantization | None = None,
        tree_fault: str | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.origin = origin
        self.quantization = quantization
        self.tree_fault = tree_fault
        self.vision = ImageEncoder()
        self._last_layer = LastLayer()
        self.merged = False

    @property
    def transformer(self) -> PreTrainedModel:
        """The transformer itself, without the wrapper of its adapters."""
        model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        assert isinstance(model, PreTrainedModel)
        return model

    @property
    def hidden_size(self) -> int:
        """The width D of the hidden states."""
        return int(self.transformer.config.get_text_config().hidden_size)

    @property
    def reads_images(self) -> bool:
        """Whether prompts may have images."""
        return find_family(self.transformer.config).reads_images

    def forward(self, batch: TreeBatch, *, pooling: Pooling = LAST, cache: Cache | None = None) -> Tensor:
        """Pooled hidden states of the branches, `(B, D)`, in the precision of the backbone.

        Args:
            batch: tree rows or plain rows.
            pooling: which hidden states of a branch are read.
            cache: see `hidden_states`.

        Raises:
            ModelError: the batch has images and the backbone is text-only; or it has tree rows and the family cannot
                take them.
        """
        return pooling(self.hidden_states(batch, pooling=pooling, cache=cache), batch)

    def hidden_states(self, batch: TreeBatch, *, pooling: Pooling | None = None, cache: Cache | None = None) -> Tensor:
        """Hidden states after the last norm, `(R, T, D)`.

        Args:
            batch: tree rows or plain rows.
            pooling: the last layer computes only the states that it reads, and the others are undefined; None: all
                states are computed.
            cache: an empty cache is filled with keys and values of all tokens. A cache with a prefix is read: the batch
                then has one row, which holds only the branches of one tree.

        Raises:
            ModelError: as `forward`.
        """
        self.check_layout(batch.rows.layout)
        inputs: dict[str, Any] = {
            "input_ids": batch.rows.input_ids,
            "position_ids": batch.rows.position_ids,
            # False also with a cache: True would let the model create one where there is none.
            "use_cache": False,
            "past_key_values": cache,
        }
        inputs |= self._attention(batch, pooling=pooling, prefix=0 if cache is None else cache.get_seq_length())
        if batch.images.places:
            if not self.reads_images:
                raise ModelError(f"the batch has images and {self.origin.path} is a text-only backbone")
            # Features instead of pixels: the model would encode an image again for every row of the plain layout.
            features = self.vision(self.transformer, batch)
            assert batch.images.tokens is not None
            inputs |= vision_family(self.transformer.config).inputs_with_images(
                self.transformer, batch.rows.input_ids, features, batch.images.tokens
            )
        rows = inputs.get("rows")
        with tree_masks(rows if isinstance(rows, TreePlan) else None):
            hidden: Tensor = self.transformer(**inputs).last_hidden_state
        if batch.images.pixels is None and self._vision_gradients_needed():
            # Gives the vision tower gradients of zero: without them the all-reduce of the other processes never ends.
            hidden = hidden + 0.0 * features_of_nothing(self.transformer)
        return hidden

    def check_layout(self, layout: Layout) -> None:
        """Checks that the backbone takes batches of a layout.

        Raises:
            ModelError: it does not; the message gives the reason.
        """
        if layout == "tree" and self.tree_fault is not None:
            model_type = self.transformer.config.model_type
            raise ModelError(
                f"{self.origin.path} ({model_type}) cannot take tree rows: {self.tree_fault}. Set batch.layout=plain."
            )

    def _vision_gradients_needed(self) -> bool:
        """Whether the vision tower must get gradients although this batch has no images.

        In distributed training each process waits for the others' gradients of every trained weight.
        """
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not distributed or torch.distributed.get_world_size() == 1:
            return False
        return torch.is_grad_enabled() and self.reads_images and is_trained(self.transformer)

    def _attention(self, batch: TreeBatch, *, pooling: Pooling | None, prefix: int) -> dict[str, Any]:
        """Keyword arguments for attention; `prefix` is the number of tokens in the cache."""
        rows, length = batch.rows.input_ids.shape
        device = batch.rows.input_ids.device
        restricted, pooled = None, None
        # Only families that pass the check of tree rows are known to pass the keyword `rows` to their attention.
        if pooling is not None and self.tree_fault is None:
            restricted = self._last_layer.install(self.transformer)
        if pooling is not None and restricted is not None:
            places = pooling.places(batch)
            pooled = places[:, 0] * length + places[:, 1]
        if batch.rows.layout == "plain":
            plain: dict[str, Any] = {"attention_mask": (batch.rows.branch != PADDING).long()}
            return plain if pooled is None else plain | {"rows": RowPlan(pooled)}
        plan = TreePlan(
            batch.rows.trees,
            device=device,
            restricted=restricted,
            pooling=pooling or LAST,
            pooled=pooled,
            cached=prefix > 0,
        )
        # Tree rows have no padding. Without an explicit mask, some families interpret positions that restart at 0 as
        # packed sequences, and build a mask of their own.
        return {"attention_mask": torch.ones(rows, prefix + length, dtype=torch.long, device=device), "rows": plan}


def load_backbone(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    quantization: Quantization | None = None,
    gradient_checkpointing: bool = False,
    checkpoint_layers: int | Literal["auto"] | None = None,
    kernels: Kernels = "none",
    trust_remote_code: bool = False,
    complete: bool = False,
) -> Backbone:
    """Loads a transformer from the hub or from a folder in the hub's format, without its language-model head.

    Args:
        path: hub id or folder.
        revision: branch, tag or commit of the hub repository.
        dtype: of the weights that are not quantised.
        quantization: of the language model.
        gradient_checkpointing, checkpoint_layers: see `enable_gradient_checkpointing`.
        kernels: whether fused kernels replace operations on a GPU; see `find_kernels`.
        trust_remote_code: whether code of the checkpoint may run; it also needs the caller's `trusting` block.
        complete: the folder must hold exactly the weights of this transformer, as the folders that we save do.

    Raises:
        ModelError: there is no model at `path`, its family is not supported, weights are missing, of another shape,
            not finite or (with `complete`) unexpected, or an option is not available on this machine or for this
            family.
    """
    # A recipe from elsewhere must not be able to run code by itself.
    trust_remote_code = trust_remote_code and is_trusted()
    config = load_config(path, revision=revision, trust_remote_code=trust_remote_code)
    with quiet_transformers():
        # Before anything is allocated: the sizes in config.json may be hostile.
        check_size(config, check_checkpoint(path, revision=revision), path=path)
    identity = _identity(path, revision=revision, dtype=dtype, quantization=quantization, hashed=not complete)
    fused = find_kernels(kernels, family=find_family(config).decoder_type(config))
    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    model = _load_transformer(path, config, dtype=dtype, quantization=quantization, complete=complete, source=source)
    if gradient_checkpointing:
        enable_gradient_checkpointing(model, layers=checkpoint_layers)
    if fused is not None:
        use_kernels(model, fused)
    origin = replace(identity, fingerprint=fingerprint(model))
    # The check runs the backbone, so it needs a `Backbone` whose `tree_fault` is not yet known.
    try:
        tree_fault = find_tree_fault(Backbone(model, origin=origin, quantization=quantization))
    except ModelError:
        # States that are NaN differ from any other, and the fault is then that of the weights.
        _check_finite(model, path, revision=revision)
        raise
    return Backbone(model, origin=origin, quantization=quantization, tree_fault=tree_fault)


def _load_transformer(
    path: str | Path,
    config: PreTrainedConfig,
    *,
    dtype: torch.dtype,
    quantization: Quantization | None,
    complete: bool,
    source: dict[str, Any],
) -> PreTrainedModel:
    """Loads the weights of a checkpoint whose files were checked; see `load_backbone` for the arguments.

    Args:
        path: hub id or folder.
        config: of the checkpoint.
        dtype: of the weights that are not quantised.
        quantization: of the language model.
        complete: whether unexpected weights are an error.
        source: keyword arguments of transformers that say what is read: the revision, and whether code may run.

    Raises:
        ModelError: transformers cannot load the files, or weights are missing, unexpected or of another shape.
    """
    register_tree_attention()
    options: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": find_family(config).attention_implementation(config, TREE_ATTENTION),
        # transformers fills missing weights with random numbers and only warns; the information makes it an error here.
        "output_loading_info": True,
        # Weights of another shape are reported with the others that do not fit, by name.
        "ignore_mismatched_sizes": True,
        # Without it transformers falls back to pickles, which can run code.
        "use_safetensors": True,
    }
    if quantization is not None:
        options["quantization_config"] = quantization_config(quantization, dtype)
        options |= own_device()
    with quiet_transformers(), explained(path):
        model, loading = AutoModel.from_pretrained(path, **source, **options)
    _check_weights(path, loading, complete=complete)
    find_family(config).prepare(model)
    cast_inputs_once(model)
    if quantization is not None:
        # transformers leaves the weights that are not quantised trainable; only adapters and the head are trained.
        model.requires_grad_(False)
        keep_four_bit_weights(model)
    loaded: PreTrainedModel = model
    return loaded


def _identity(
    path: str | Path, *, revision: str | None, dtype: torch.dtype, quantization: Quantization | None, hashed: bool
) -> BackboneIdentity:
    """The identity of a checkpoint; without hashes for a saved model's own backbone, which moves with its folder."""
    if not hashed:
        return BackboneIdentity(str(path), revision)
    return checkpoint_identity(path, revision=revision, precision=precision_text(dtype, quantization))


def _check_weights(path: str | Path, loading: dict[str, Any], *, complete: bool) -> None:
    """Checks what transformers reports about the weights that it has loaded.

    Raises:
        ModelError: a weight is missing or has another shape; or, with `complete`, the files have a weight that the
            model does not have.
    """
    faults = [
        f"{name} has shape {tuple(given)}, config.json describes {tuple(described)}"
        for name, given, described in sorted(loading["mismatched_keys"])
    ]
    # Where transformers names a weight of another shape twice, the shape says more.
    other_shapes = {name for name, *_ in loading["mismatched_keys"]}
    faults += [f"missing: {name}" for name in sorted(set(loading["missing_keys"]) - other_shapes)]
    if complete:
        faults += [f"not in the model: {name}" for name in sorted(loading["unexpected_keys"])]
    if not faults:
        return
    shown = "\n  ".join(faults[:MAX_SHOWN])
    if len(faults) > MAX_SHOWN:
        shown += f"\n  and {len(faults) - MAX_SHOWN} more"
    raise ModelError(
        f"the weights in '{path}' do not fit its config.json:\n  {shown}\nGive the config.json that belongs to these "
        "weights: copy the complete checkpoint again."
    )


def _check_finite(model: PreTrainedModel, path: str | Path, *, revision: str | None) -> None:
    """Checks the weights of a transformer that was loaded.

    Raises:
        ModelError: a weight is NaN or infinite. The message names the file that it comes from; or, if its files are
            finite, the dtype to which they were cast.
    """
    name = first_not_finite(dict(model.named_parameters()))
    if name is None:
        return
    for file in weight_files(path, revision=revision).values():
        if (in_file := not_finite_in(file)) is not None:
            raise ModelError(
                f"'{file}' holds weights that are NaN or infinite: {in_file}. No score can be computed with them. Copy "
                "the checkpoint again, or take an earlier one"
            )
    raise ModelError(
        f"{name} of '{path}' is finite in its files, and NaN or infinite in {str(model.dtype).removeprefix('torch.')}. "
        "Take a dtype with a larger range: model.backbone.dtype=bfloat16 or float32"
    )


def fingerprint(model: nn.Module) -> str:
    """A hash of every weight's name and shape and of about 64 of its values, spread evenly.

    Hashing all values of a 7B model would take longer than loading it; fine-tuning changes nearly every value.

    >>> fingerprint(nn.Linear(2, 2)) == fingerprint(nn.Linear(2, 2))  # other random weights
    False
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        values = parameter.detach().flatten()
        sample = values[:: max(1, len(values) // 64)].float().cpu()
        digest.update(f"{name} {tuple(parameter.shape)} {sample.tolist()}".encode())
    return digest.hexdigest()


def load_config(path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedConfig:
    """Loads the configuration of a checkpoint.

    Args:
        path: hub id or folder.
        revision: branch, tag or commit of the hub repository.
        trust_remote_code: whether code of the checkpoint may run; it also needs the caller's `trusting` block.

    Raises:
        ModelError: there is no configuration, or its family is not supported.

    >>> load_config("./missing")
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: ...
    """
    trust_remote_code = trust_remote_code and is_trusted()
    _check_local(path)
    # Before transformers reads config.json: a family of the user may register its `model_type`.
    import_user_families()
    with quiet_transformers(), explained(path):
        file = find_file(path, CONFIG, revision=revision)
        # Before transformers reads the file: some families build a list as long as a number in it.
        if file is not None:
            check_numbers(read_json_object(file, error=ModelError), where=f"'{file}'")
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code
        )
    _check_family(config, path)
    return config


def _check_family(config: PreTrainedConfig, path: str | Path) -> None:
    """Checks that a family can be a backbone.

    Raises:
        ModelError: the family reads more than text and is not among the supported ones; it is an encoder-decoder; or
            transformers has no model of it without a head.
    """
    if find_family(config).reads_images:
        return
    multimodal = hasattr(config, "vision_config") or hasattr(config, "audio_config")
    if multimodal or type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ModelError(
            f"{path} is a {config.model_type} model; families that read images are {', '.join(vision_types())}, "
            "besides any text-only causal model"
        )
    if type(config) not in MODEL_MAPPING and not getattr(config, "auto_map", None):
        raise ModelError(
            f"{path} is a {config.model_type} model, and transformers {transformers_version} has no model without a "
            "head for this family. Use a decoder-only language model."
        )
    if config.is_encoder_decoder:
        raise ModelError(
            f"{path} is a {config.model_type} model, which has an encoder and a decoder. Use a decoder-only language "
            "model."
        )


def _check_local(path: str | Path) -> None:
    """Rejects a missing folder whose path cannot be a hub id; transformers would search the hub for it.

    Raises:
        ModelError: the message names the full path of the folder.
    """
    if fault := folder_fault(path):
        raise ModelError(fault)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hides transformers' progress bars, and its warning about the language-model head that is not loaded.

    >>> with quiet_transformers():
    ...     transformers_logging.is_progress_bar_enabled()
    False
    """
    # Both settings belong to the process; transformers has none for a single call. They are restored after the block.
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
