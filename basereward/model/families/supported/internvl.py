"""InternVL, in transformers' own format (hub ids that end with -hf)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from basereward.data.images.tiles import TileProcessor, to_tiles
from basereward.data.images.vision_features import Grid
from basereward.errors import ModelError
from basereward.model.families.backbone_family import MAX_SIDE, TextPositions, VisionFamily, check_sizes


class InternVL(VisionFamily):
    """InternVL: images are cut into tiles of one size, and visual tokens are numbered like text.

    >>> InternVL().part_of(["multi_modal_projector", "linear_1", "weight"])
    'merger'
    """

    model_types = ("internvl",)
    unquantized_modules = ("vision_tower", "multi_modal_projector")

    def decoder_type(self, config: PreTrainedConfig) -> str:
        """The type of the language model."""
        # The language model is another family's, with its kernels: a Qwen2 in InternVL3.
        return config.get_text_config().model_type

    def part_of(self, path: Sequence[str]) -> str | None:
        """The projector is the merger."""
        if "multi_modal_projector" in path:
            return "merger"
        return "vision" if "vision_tower" in path else None

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
        """Tiles in place of the processor's own cutting, and the marks around the tokens of an image."""
        vision_config: Any = config.vision_config
        downsample_ratio: float = config.downsample_ratio
        tiles = TileProcessor(
            processor,
            patch_size=vision_config.patch_size[0],
            merge_size=int(1 / downsample_ratio),
            min_pixels=min_pixels,
            max_pixels=max_pixels,
        )
        check_sizes(processor, {"height": MAX_SIDE, "width": MAX_SIDE}, path=path)
        return {
            "positions": TextPositions(),
            "image_processor": tiles,
            "merge_size": tiles.merge_size,
            "image_marks": _image_marks(tokenizer, path),
        }

    def encode_images(self, transformer: PreTrainedModel, patches: Tensor, grids: Sequence[Grid]) -> list[Tensor]:
        """All tiles of all images in one pass; S is 1."""
        model: Any = transformer
        # All tiles have one size, so every grid has the height and width of the first; its time is the number of tiles.
        _, rows, columns = grids[0]
        tiles = to_tiles(patches, rows=rows, columns=columns, side=model.config.vision_config.patch_size[0])
        features = model.get_image_features(tiles, return_dict=True).pooler_output
        return [states.flatten(0, 1)[None] for states in torch.split(features, [time for time, _, _ in grids])]

    def entering_features(self, states: list[Tensor]) -> list[Tensor] | Tensor:
        """The features of all images in one tensor."""
        return torch.cat(states)

    def smallest_image(self, vision_config: Any) -> tuple[int, int]:
        """One tile."""
        # A whole tile: the tower accepts no other size.
        side = vision_config.image_size[0] // vision_config.patch_size[0]
        return side, vision_config.num_channels * vision_config.patch_size[0] ** 2

    def feature_settings(self, config: PreTrainedConfig) -> tuple[Any, ...]:
        """The layer whose states are used, and how many patches are merged."""
        # Neither has weights, so a hash of the weights does not show them.
        return tuple(getattr(config, name, None) for name in ("downsample_ratio", "vision_feature_layer"))


def _image_marks(tokenizer: Any, path: str | Path) -> tuple[int, int]:
    """The tokens that InternVL's processor puts before and after the tokens of an image."""
    start = getattr(tokenizer, "start_image_token_id", None)
    end = getattr(tokenizer, "end_image_token_id", None)
    if start is None or end is None:
        raise ModelError(
            f"the tokenizer in '{path}' has no start_image_token and end_image_token, which go around the tokens of an "
            "image. Use a checkpoint in transformers' own format (its hub id ends with -hf)."
        )
    return start, end


FAMILY = InternVL()
