"""FSDP2 as a strategy of Lightning: weights, gradients and optimizer states are divided among the processes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from basereward.model.families.parts import decoder_layers
from basereward.model.families.vision import is_trained
from basereward.model.sharded import FREES
from basereward.training.parallel.sharded_checkpoint import placed_optimizer_state, read_checkpoint, save_checkpoint

STEPS = ("training_step", "validation_step", "test_step")
"""Methods of a module that use its weights, in place of `forward`."""


class ShardedStrategy(ModelParallelStrategy):
    """Divides the model of a `RewardModule` among all processes.

    Every decoder layer is gathered by itself, when a pass reaches it. The rest (embedding, vision tower, norm, head) is
    gathered for a whole step, so that a process without images needs no part of the tower when others do.

    Args:
        ranks: number of all processes.
        frees_weights: whether the whole weights of a layer are freed after each pass (ZeRO-3); otherwise they stay
            until the optimizer changes them, and gradients and optimizer states alone are divided (ZeRO-2).
        mixed: whether the layers compute in bfloat16.
        timeout: how long a process waits for the others.
    """

    def __init__(self, ranks: int, *, frees_weights: bool, mixed: bool, timeout: timedelta) -> None:
        super().__init__(data_parallel_size=ranks, tensor_parallel_size=1, timeout=timeout)
        self.frees_weights = frees_weights
        self.mixed = mixed

    def divide(self, module: LightningModule, *, transformer: nn.Module, head: nn.Module) -> None:
        """Divide the weights of a module; later calls have no effect.

        Args:
            module: whose steps use the weights.
            transformer: of its backbone.
            head: of its model, whose weights stay in float32.
        """
        if isinstance(module, FSDPModule):
            return
        mesh = self.device_mesh["data_parallel"]
        whole = MixedPrecisionPolicy(cast_forward_inputs=False)
        layers = whole
        if self.mixed:
            # Half of the bytes travel; sums of gradients need more digits. Autocast does the rest, as on one device.
            layers = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        # Layer by layer, so that a device never holds a whole model.
        for index, layer in enumerate(decoder_layers(transformer)):
            fully_shard(layer, mesh=mesh, mp_policy=layers, reshard_after_forward=self.frees_weights)
            setattr(layer, FREES, self.frees_weights)
            if index == 0 and is_trained(transformer):
                # Before the hook of `fully_shard`, which looks at the same inputs.
                layer.register_forward_pre_hook(_need_gradients, with_kwargs=True, prepend=True)
        if any(True for _ in head.parameters()):
            fully_shard(head, mesh=mesh, mp_policy=whole, reshard_after_forward=False)
        fully_shard(module, mesh=mesh, mp_policy=whole, reshard_after_forward=False)
        for step in STEPS:
            register_fsdp_forward_method(module, step)

    # Checkpoints; see `sharded_checkpoint`.

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning hands over the states that `load_checkpoint` has read."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Nothing: the module adds its trained weights itself."""
        return {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The states of an optimizer, of which this process holds a part."""
        own: Optimizer = getattr(optimizer, "optimizer", optimizer)
        return own.state_dict()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write the parts of all processes, and a file that names them."""
        save_checkpoint(checkpoint, Path(filepath), write_file=self.checkpoint_io.save_checkpoint)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint of any number of processes."""
        assert self.lightning_module is not None
        # Every `RewardModule` has the method, and this package lies below it.
        weights: dict[str, Tensor] = self.lightning_module.trained_weights()  # type: ignore[operator]
        return read_checkpoint(Path(checkpoint_path), weights=weights, optimizers=self.optimizers)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Hand the trained weights to the module."""
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Hand the states to the optimizers, each divided as its weight is."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(placed_optimizer_state(optimizer, state))


def _need_gradients(
    module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Let gradients flow to the input of the first layer, on all processes alike.

    With a trained vision tower and a frozen embedding they flow there only for batches with images. Gradients decide in
    which order the layers are gathered and summed in the backward pass, and all processes must have the same order.
    """
    hidden = inputs[0] if inputs else keywords["hidden_states"]
    if torch.is_grad_enabled() and not hidden.requires_grad:
        hidden = hidden.detach().requires_grad_()
    if inputs:
        return (hidden, *inputs[1:]), keywords
    return inputs, {**keywords, "hidden_states": hidden}
