"""A pretrained transformer without its language head: batches in, hidden states of the pooled tokens out."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

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
from basereward.io.checkpoint_folder import folder_fault
from basereward.io.limits import read_json_object
from basereward.model.attention.gradient_checkpointing import recompute
from basereward.model.attention.kernels import Kernels, check_liger, use_liger
from basereward.model.attention.last_layer import LastLayer
from basereward.model.attention.layout_check import find_tree_fault
from basereward.model.attention.tree_attention import TREE_ATTENTION, RowPlan, TreePlan, tree_masks
from basereward.model.families.registry import find_family, vision_types
from basereward.model.families.vision import ImageEncoder, features_of_nothing, is_trained
from basereward.model.pooling import LAST, Pooling
from basereward.model.quantization import Quantization, quantization_config, settle
from basereward.model.saving.folder_checks import check_checkpoint, check_numbers, check_size, explained
from basereward.model.saving.identity import CONFIG, BackboneIdentity, checkpoint_identity, find_file, precision_text
from basereward.recipe.trust import is_trusted

Origin: TypeAlias = BackboneIdentity
"""Where a backbone's weights come from, with the hashes of the files that were read."""


class Backbone(nn.Module):
    """A transformer of transformers, called on tree or plain rows.

    Args:
        model: the transformer without its language head, with adapters or without.
        origin: where its weights were loaded from.
        quantization: how they were quantised.
        tree_fault: why it cannot take tree rows; None: it can.
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
        self.merged = False  # whether adapters were folded in, so that the weights are no longer those at the origin

    @property
    def transformer(self) -> PreTrainedModel:
        """The transformer itself, below any adapters."""
        model = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        assert isinstance(model, PreTrainedModel)
        return model

    @property
    def hidden_size(self) -> int:
        return int(self.transformer.config.get_text_config().hidden_size)

    @property
    def reads_images(self) -> bool:
        return find_family(self.transformer.config).reads_images

    def forward(self, batch: TreeBatch, *, pooling: Pooling = LAST, cache: Cache | None = None) -> Tensor:
        """Pooled hidden states of the branches, shape `(B, D)`, in the backbone's precision; `cache` as below.

        Raises:
            ModelError: the batch has images and the backbone reads none; or it has tree rows, which the backbone's
                family cannot take.
        """
        return pooling(self.hidden_states(batch, pooling=pooling, cache=cache), batch)

    def hidden_states(self, batch: TreeBatch, *, pooling: Pooling | None = None, cache: Cache | None = None) -> Tensor:
        """Hidden states after the last norm, shape `(R, T, D)`.

        Args:
            pooling: the states of the tokens that it reads are made alone, and those of others mean nothing; None: the
                states of all tokens are made.
            cache: an empty one takes the keys and values of all tokens. One that holds those of a prefix is seen by
                the tokens of the batch's one row, which are the branches of the batch's one tree.

        Raises:
            ModelError: as `forward`.
        """
        self.check_layout(batch.layout)
        inputs: dict[str, Any] = {
            "input_ids": batch.input_ids,
            "position_ids": batch.position_ids,
            "use_cache": False,
            "past_key_values": cache,
        }
        inputs |= self._attention(batch, pooling=pooling, prefix=0 if cache is None else cache.get_seq_length())
        if batch.image_places:
            if not self.reads_images:
                raise ModelError(f"the batch has images and {self.origin.path} is a text-only backbone")
            inputs["mm_encoder_outputs"] = {"image": self.vision(self.transformer, batch)}
        rows = inputs.get("rows")
        with tree_masks(rows if isinstance(rows, TreePlan) else None):
            hidden: Tensor = self.transformer(**inputs).last_hidden_state
        if batch.pixels is None and self._vision_is_awaited():
            hidden = hidden + 0.0 * features_of_nothing(self.transformer)
        return hidden

    def check_layout(self, layout: Layout) -> None:
        """
        Raises:
            ModelError: batches of this layout cannot be run through this backbone.
        """
        if layout == "tree" and self.tree_fault is not None:
            kind = self.transformer.config.model_type
            raise ModelError(
                f"{self.origin.path} ({kind}) cannot take tree rows: {self.tree_fault}. Set batch.layout=plain."
            )

    def _vision_is_awaited(self) -> bool:
        """Whether other processes may wait for gradients of the vision tower that this one's batch would not give.

        Those that train together wait, for ever, for each other's gradients of every trained weight.
        """
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not (together and torch.distributed.get_world_size() > 1 and torch.is_grad_enabled() and self.reads_images):
            return False
        return is_trained(self.transformer)

    def _attention(self, batch: TreeBatch, *, pooling: Pooling | None, prefix: int) -> dict[str, Any]:
        """What the layers are told about the rows; `prefix` is the number of tokens in the cache."""
        rows, length = batch.input_ids.shape
        device = batch.input_ids.device
        restricted, pooled = None, None
        if pooling is not None and self.tree_fault is None:
            restricted = self._last_layer.install(self.transformer)
        if pooling is not None and restricted is not None:
            places = pooling.places(batch)
            pooled = places[:, 0] * length + places[:, 1]
        if batch.layout == "plain":
            plain: dict[str, Any] = {"attention_mask": (batch.branch != PADDING).long()}
            return plain if pooled is None else plain | {"rows": RowPlan(pooled)}
        plan = TreePlan(
            batch.trees,
            device=device,
            restricted=restricted,
            pooling=pooling or LAST,
            pooled=pooled,
            cached=prefix > 0,
        )
        # No token is padding; with a mask that says so, no family takes positions that begin anew for packed rows.
        return {"attention_mask": torch.ones(rows, prefix + length, dtype=torch.long, device=device), "rows": plan}


def load_backbone(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    quantization: Quantization | None = None,
    gradient_checkpointing: bool = False,
    checkpoint_layers: int | None = None,
    kernels: Kernels = "none",
    trust_remote_code: bool = False,
    complete: bool = False,
) -> Backbone:
    """Loads a transformer from the hub or from a folder in the hub's format, without its language head.

    Args:
        gradient_checkpointing, checkpoint_layers: whether layers keep their inputs alone in training; see `recompute`.
        kernels: see `use_liger`.
        complete: the folder must hold this transformer and no weight besides, as those do that we save.

    Raises:
        ModelError: there is no model, its family is unknown, weights are missing in it or, with `complete`, too many,
            or an option cannot be had.
    """
    trust_remote_code = trust_remote_code and is_trusted()  # a recipe alone, or a saved model's, does not let code run
    config = load_config(path, revision=revision, trust_remote_code=trust_remote_code)
    with quiet_transformers():
        check_size(config, check_checkpoint(path, revision=revision), path=path)
    identity = _identity(path, revision=revision, dtype=dtype, quantization=quantization, hashed=not complete)
    family = find_family(config)
    if kernels == "liger":
        check_liger(family.decoder_type(config))
    attention = family.attention_implementation(config, TREE_ATTENTION)
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attention, "output_loading_info": True}
    options["use_safetensors"] = True  # transformers would read a pickle where there is no safetensors file
    if quantization is not None:
        options["quantization_config"] = quantization_config(quantization, dtype)
    with quiet_transformers(), explained(path):
        model, loading = AutoModel.from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code, **options
        )
    _check_weights(path, loading, complete=complete)
    if quantization is not None:
        model.requires_grad_(False)
        settle(model)
    if gradient_checkpointing:
        recompute(model, layers=checkpoint_layers)
    if kernels == "liger":
        use_liger(model)
    origin = replace(identity, fingerprint=fingerprint(model))
    tree_fault = find_tree_fault(Backbone(model, origin=origin, quantization=quantization))
    return Backbone(model, origin=origin, quantization=quantization, tree_fault=tree_fault)


def _identity(
    path: str | Path, *, revision: str | None, dtype: torch.dtype, quantization: Quantization | None, hashed: bool
) -> BackboneIdentity:
    """The identity of a checkpoint. One that belongs to a saved model needs none: it moves with its folder."""
    if not hashed:
        return BackboneIdentity(str(path), revision)
    return checkpoint_identity(path, revision=revision, precision=precision_text(dtype, quantization))


def _check_weights(path: str | Path, loading: dict[str, Any], *, complete: bool) -> None:
    kinds = {"missing": "missing_keys"} | ({"not in the model": "unexpected_keys"} if complete else {})
    faults = [f"{what}: {name}" for what, key in kinds.items() for name in sorted(loading[key])]
    if faults:
        shown = "\n  ".join(faults[:20]) + (f"\n  and {len(faults) - 20} more" if len(faults) > 20 else "")
        raise ModelError(f"the weights in '{path}' do not fit its config.json:\n  {shown}")


def fingerprint(model: nn.Module) -> str:
    """A hash of every weight's name, shape and some 64 values spread over it: another checkpoint has another."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        values = parameter.detach().flatten()
        sample = values[:: max(1, len(values) // 64)].float().cpu()
        digest.update(f"{name} {tuple(parameter.shape)} {sample.tolist()}".encode())
    return digest.hexdigest()


def load_config(path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration of a checkpoint.

    Raises:
        ModelError: there is none, or its family is not supported.
    """
    trust_remote_code = trust_remote_code and is_trusted()
    _check_local(path)
    with quiet_transformers(), explained(path):
        file = find_file(path, CONFIG, revision=revision)
        if file is not None:
            check_numbers(read_json_object(file, error=ModelError), where=f"'{file}'")
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code
        )
    _check_family(config, path)
    return config


def _check_family(config: PreTrainedConfig, path: str | Path) -> None:
    """
    Raises:
        ModelError: the family reads more than text and is none of those whose pictures are known, it encodes a source
            text before it writes, or transformers has no such model without a head.
    """
    if find_family(config).reads_images:
        return
    more = hasattr(config, "vision_config") or hasattr(config, "audio_config")
    if more or type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ModelError(
            f"{path} is a {config.model_type} model; families that read images are {', '.join(vision_types())}, "
            "besides any text-only causal model"
        )
    if type(config) not in MODEL_MAPPING and not getattr(config, "auto_map", None):
        raise ModelError(
            f"{path} is a {config.model_type} model, of which transformers {transformers_version} has no backbone by "
            "itself. Take a decoder-only language model."
        )
    if config.is_encoder_decoder:
        raise ModelError(
            f"{path} is a {config.model_type} model, which has an encoder and a decoder. Take a decoder-only language "
            "model."
        )


def _check_local(path: str | Path) -> None:
    """Refuses a path that can only be a folder and is none, which transformers would look for on the hub.

    Raises:
        ModelError: it says where the folder was looked for.
    """
    if fault := folder_fault(path):
        raise ModelError(fault)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No loading bars and no report of the language head that is left out on purpose."""
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
