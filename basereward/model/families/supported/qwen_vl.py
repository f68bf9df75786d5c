"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from basereward.data.images.vision_features import Grid
from basereward.data.videos.clips import Clip, VideoProcessor
from basereward.errors import ModelError
from basereward.model.attention.segment_attention import SEGMENT_ATTENTION, register_segment_attention
from basereward.model.attention.varlen import segment_bounds
from basereward.model.families.backbone_family import VisionFamily, VisionOutput, check_sizes
from basereward.model.families.qwen_videos import load_videos
from basereward.recipe.schema import VideoRecipe

MAX_PIXELS = 2**27
"""Largest value of `shortest_edge`, the least number of pixels of an image after resizing."""
MAX_STEPS = {"patch_size": 64, "merge_size": 8, "temporal_patch_size": 8}
"""Largest steps in which an image is cut. Real ones are 14 or 16, 2 and 2; padding to a huge step fills the memory."""
SMALL_PIXELS = 2**22
"""A processor that enlarges every image to more pixels than this is not tried when it is loaded."""


DEEPER = "deeper_states"
"""Keyword by which a Qwen3-VL passes to its language model the visual tokens and their states of deeper layers."""


class VisionPositions:
    """Three-axis positions (time, height, width) by the family's own `get_rope_index`.

    transformers implements the rule in the model class, so the indexer is a model without weights.

    Args:
        config: of the checkpoint.

    >>> from transformers import Qwen2_5_VLConfig
    >>> VisionPositions(Qwen2_5_VLConfig())(torch.tensor([5, 6]), None).tolist()
    [[0, 1], [0, 1], [0, 1]]
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config = config
        self._indexer: Any = None

    def __call__(self, input_ids: Tensor, images_thw: Tensor | None, clips: Sequence[Clip | None] = ()) -> Tensor:
        """Maps `(P,)` tokens, `(n, 3)` grids and the n clips of videos (None for images) to `(3, P)` positions."""
        if images_thw is None:
            return torch.arange(len(input_ids)).expand(3, -1)
        # Built at the first prompt with an image; encoders of text alone never need it.
        if self._indexer is None:
            # While transformers makes a model, its data type is the default of all threads of the process, and others
            # may be scoring: float32 changes nothing for them. It is written into the configuration, hence the copy.
            with torch.device("meta"):
                self._indexer = AutoModel.from_config(copy.deepcopy(self.config), dtype=torch.float32)
        kinds = (input_ids == self.config.image_token_id).int()
        options: dict[str, Any] = {"image_grid_thw": images_thw}
        if any(clips):
            kinds = kinds + 2 * (input_ids == self.config.video_token_id).int()
            is_video = torch.tensor([clip is not None for clip in clips])
            images, videos = images_thw[~is_video], images_thw[is_video]
            seconds = torch.tensor([clip.seconds_per_patch for clip in clips if clip is not None])
            options = {"image_grid_thw": images, "video_grid_thw": videos, "second_per_grid_ts": seconds}
        positions: Tensor = self._indexer.get_rope_index(input_ids[None], mm_token_type_ids=kinds[None], **options)[0]
        return positions[:, 0]

    def __getstate__(self) -> dict[str, Any]:
        # Workers of a data loader build their own indexer: a meta model is large to pickle and cheap to build.
        return {"config": self.config, "_indexer": None}


class QwenVL(VisionFamily):
    """Qwen-VL: images keep their aspect ratio, and positions have three axes.

    In Qwen3-VL, visual states are also added in deeper layers of the language model.

    >>> QwenVL().part_of(["visual", "merger", "mlp", "0", "weight"])
    'merger'
    """

    model_types: tuple[str, ...] = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl")
    liger_types: tuple[str, ...] = model_types
    unquantized_modules = ("visual",)

    def part_of(self, path: Sequence[str]) -> str | None:
        """The mergers of deeper visual states of Qwen3-VL are part of the merger."""
        if "visual" not in path:
            return None
        return "merger" if any("merger" in step for step in path) else "vision"

    def encoder_options(
        self,
        config: PreTrainedConfig,
        *,
        processor: Any,
        tokenizer: Any,
        path: str | Path,
        min_pixels: int | None,
        max_pixels: int | None,
    ) -> dict[str, Any]:
        """The checkpoint's own processor with the limits of pixels, and three-axis positions."""
        # In these processors the two edges hold numbers of pixels.
        for name, value in (("shortest_edge", min_pixels), ("longest_edge", max_pixels)):
            if value is not None:
                setattr(processor.size, name, value)
        check_sizes(processor, {"shortest_edge": MAX_PIXELS}, path=path)
        _check_steps(processor, path=path)
        _check_on_one_image(processor, path=path)
        return {
            "positions": VisionPositions(config),
            "image_processor": processor,
            "merge_size": processor.merge_size,
        }

    def video_processor(
        self,
        config: PreTrainedConfig,
        *,
        image_processor: Any,
        path: str | Path,
        source: dict[str, Any],
        settings: VideoRecipe,
    ) -> VideoProcessor | None:
        """The checkpoint's own video processor with the settings of the recipe."""
        return load_videos(
            config.model_type,
            path=path,
            source=source,
            image_processor=image_processor,
            token_id=config.video_token_id,
            settings=settings,
        )

    def prepare(self, model: PreTrainedModel) -> None:
        """Lets the vision tower attend to all windows of all images in one call, and places deeper states by index."""
        register_segment_attention()
        language: Any = model.get_submodule("language_model")
        if hasattr(language, "_deepstack_process"):
            _place_deeper_states_by_index(language)
        tower: Any = model.get_submodule("visual")
        # A configuration of the tower's own. In that of the model, transformers would look for a package or a kernel of
        # this name whenever it makes another model of it, as its name contains "flash".
        own = copy.copy(tower.config)
        own._attn_implementation = SEGMENT_ATTENTION
        for module in tower.modules():
            if getattr(module, "config", None) is not None:
                module.config = own

    def encode_images(self, transformer: PreTrainedModel, patches: Tensor, grids: Sequence[Grid]) -> list[Tensor]:
        """All images in one pass; S is 1, or more in Qwen3-VL."""
        model: Any = transformer
        inputs = tower_inputs(model.visual, grids, device=patches.device)
        # The grids stay on the host, as transformers reads single numbers of them.
        output = model.get_image_features(patches, torch.tensor(grids), return_dict=True, **inputs)
        # Only Qwen3-VL has states for deeper layers.
        deeper: Sequence[Sequence[Tensor]] = getattr(output, "deepstack_features", None) or ()
        return [torch.stack(states) for states in zip(output.pooler_output, *deeper, strict=True)]

    def inputs_with_images(
        self, transformer: PreTrainedModel, input_ids: Tensor, output: VisionOutput, tokens: Tensor
    ) -> dict[str, Any]:
        """Embeddings; for Qwen3-VL also the states that its language model adds in deeper layers."""
        inputs = super().inputs_with_images(transformer, input_ids, output, tokens)
        if output.deepstack_features:
            inputs[DEEPER] = (tokens, [torch.cat(of_images) for of_images in output.deepstack_features])
        return inputs

    def smallest_image(self, vision_config: Any) -> tuple[int, int]:
        """The patches of one merged token."""
        numbers = vision_config.in_channels * vision_config.temporal_patch_size * vision_config.patch_size**2
        return vision_config.spatial_merge_size, numbers


def _place_deeper_states_by_index(language: Any) -> None:
    """Lets the language model of a Qwen3-VL add deeper visual states at indices that the host knows.

    transformers selects the tokens by a mask, for which a GPU waits at each of these layers. Its `forward` has no
    argument for indices, so they take the place of the mask, and the method that reads it is replaced on this object.
    """
    # The family prepares a model again after each change of its attention.
    if "_deepstack_process" in vars(language):
        return
    language._deepstack_process = MethodType(_add_deeper_states, language)
    language.register_forward_pre_hook(_pass_deeper_states, with_kwargs=True)


def _pass_deeper_states(
    language: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Give the language model the indices and states of `DEEPER`, if the call has them."""
    tokens, states = kwargs.pop(DEEPER, (None, None))
    if tokens is not None:
        kwargs |= {"visual_pos_masks": tokens, "deepstack_visual_embeds": states}
    return inputs, kwargs


def _add_deeper_states(language: Any, hidden: Tensor, tokens: Tensor, states: Tensor) -> Tensor:
    """Add `states` `(V, D)` at V `tokens` among the flattened `(R * T)` of `hidden` `(R, T, D)`."""
    if tokens.dtype == torch.bool:  # a call of transformers' own, with a mask
        placed: Tensor = type(language)._deepstack_process(language, hidden, tokens, states)
        return placed
    return hidden.flatten(0, 1).index_add(0, tokens, states.to(hidden.dtype)).view_as(hidden)


def tower_inputs(tower: Any, grids: Sequence[Grid], *, device: torch.device) -> dict[str, Any]:
    """What the vision tower derives from the grids of images, computed on the host.

    On a GPU the tower itself would wait for the device several times for every image.

    Args:
        tower: vision tower of a Qwen-VL.
        grids: patches of each image in time, height and width.
        device: of the tower.

    Returns:
        Keyword arguments of the tower: positions, bounds of frames and windows with the longest of each, and in
        Qwen3-VL the interpolation of its learned positions.
    """
    thw = torch.tensor(grids)
    inputs: dict[str, Any] = {"position_ids": get_vision_position_ids(thw, tower.spatial_merge_size)}
    frames: list[int] = []
    for time, height, width in grids:
        frames += [height * width] * time
    inputs |= {"cu_seqlens": segment_bounds(frames), "max_seqlen": max(frames)}
    if hasattr(tower, "window_size"):
        # In merged tokens along a side.
        side = tower.window_size // tower.spatial_merge_size // tower.patch_size
        order, sizes = window_order(grids, side=side, merge=tower.spatial_merge_size)
        inputs |= {"window_index": torch.from_numpy(order), "cu_window_seqlens": segment_bounds(sizes)}
        inputs["max_window_seqlen"] = max(sizes)
    if hasattr(tower, "interpolation_mode"):
        inputs["interp_indices"], inputs["interp_weights"] = get_vision_interpolation_indices_and_weights(
            thw,
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=tower.config.spatial_merge_size,
        )
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            inputs[name] = value.to(device, non_blocking=True)
    return inputs


def window_order(grids: Sequence[Grid], *, side: int, merge: int) -> tuple[NDArray[np.int64], list[int]]:
    """The order of merged tokens, window by window, and the number of patches of each window.

    Windows are read from left to right and from top to bottom, frame by frame; those at the right and lower edge may be
    smaller.

    Args:
        grids: patches of each image in time, height and width.
        side: merged tokens along a side of a window.
        merge: patches along a side of a merged token.

    >>> order, sizes = window_order([(1, 4, 6)], side=2, merge=2)
    >>> order.tolist(), sizes
    ([0, 1, 3, 4, 2, 5], [16, 8])
    """
    orders: list[NDArray[np.int64]] = []
    sizes: list[int] = []
    first = 0
    for time, height, width in grids:
        rows, columns = height // merge, width // merge
        window_row, window_column = np.arange(rows) // side, np.arange(columns) // side
        windows_across, windows_down = -(-columns // side), -(-rows // side)
        of_frame = window_row[:, None] * windows_across + window_column
        frame = np.arange(time)[:, None, None] * (windows_across * windows_down)
        window = (frame + of_frame).reshape(-1)
        orders.append(first + np.argsort(window, kind="stable"))
        sizes += (np.bincount(window) * merge**2).tolist()
        first += time * rows * columns
    return np.concatenate(orders), sizes


def _check_steps(processor: Any, *, path: str | Path) -> None:
    """Checks the steps in which the processor cuts an image.

    Raises:
        ModelError: a step is not an integer, or above its limit.
    """
    for name, limit in MAX_STEPS.items():
        value = getattr(processor, name, 1)
        # In Python a bool is an int.
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= limit:
            raise ModelError(
                f"preprocessor_config.json of '{path}': {name} is {str(value)[:80]!r}; allowed are 1 to {limit}"
            )


def _check_on_one_image(processor: Any, *, path: str | Path) -> None:
    """Runs the processor on one small image, so that wrong settings are reported before training.

    Raises:
        ModelError: it fails, or gives values that are NaN or infinite.
    """
    # The processor would enlarge the small image, and take seconds and gigabytes.
    if processor.size.shortest_edge > SMALL_PIXELS:
        return
    side = max(64, processor.patch_size * processor.merge_size)
    try:
        values = processor(images=[Image.new("RGB", (side, side), "gray")], return_tensors="pt")["pixel_values"]
    except Exception as error:
        raise ModelError(
            f"preprocessor_config.json of '{path}' fails on an image: {type(error).__name__} "
            f"{' '.join(str(error).split())[:200]}. Copy the folder again, or use another checkpoint"
        ) from error
    if not bool(torch.isfinite(values).all()):
        raise ModelError(
            f"preprocessor_config.json of '{path}' gives pixels that are NaN or infinite. Copy the folder again, or "
            "use another checkpoint"
        )


FAMILY = QwenVL()
