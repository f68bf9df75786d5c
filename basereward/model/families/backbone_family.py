"""What differs between families of backbones, and the description of text-only ones.

Shapes: P tokens of a prefix, n images, t visual tokens of an image, S states of a token (one that enters the language
model, and those that are added in deeper layers), D channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_MAPPING, PreTrainedConfig, PreTrainedModel

from basereward.data.images.vision_features import Grid
from basereward.data.videos.clips import VideoProcessor
from basereward.errors import ModelError
from basereward.recipe.schema import VideoRecipe


@dataclass(frozen=True, slots=True)
class VisionOutput:
    """Image features in the form that transformers' models take, in the order of the images' places in the rows.

    Attributes:
        pooler_output: features `(t, D)` of each image, or of all images in one tensor, as the family's model expects.
        deepstack_features: for each of the S - 1 deeper layers the features `(t, D)` of each image.

    >>> VisionOutput([torch.zeros(4, 8)], []).deepstack_features
    []
    """

    pooler_output: list[Tensor] | Tensor
    deepstack_features: list[list[Tensor]]


MAX_SIDE = 2**13
"""Largest side of a tile, in pixels. A hostile preprocessor_config.json could ask for tiles that fill the memory."""


class TextPositions:
    """Positions 0, 1, 2, ... of text-only backbones, and of families that number visual tokens like text."""

    def __call__(self, input_ids: Tensor, images_thw: Tensor | None) -> Tensor:
        """`(P,)` tokens to `(P,)` positions.

        >>> TextPositions()(torch.tensor([7, 7, 7]), None).tolist()
        [0, 1, 2]
        """
        return torch.arange(len(input_ids))


class BackboneFamily:
    """Description of a family of backbones; this class describes text-only ones.

    Attributes:
        model_types: values of `model_type` in config.json; empty for text-only families, which need no list.
        liger_types: those for whose decoder layers Liger has kernels.
        reads_images: whether prompts may have images.
        unquantized_modules: submodules that stay in floating point in a quantised backbone.

    >>> BackboneFamily().reads_images
    False
    """

    model_types: tuple[str, ...] = ()
    liger_types: tuple[str, ...] = ("llama", "qwen2", "qwen3")
    reads_images: bool = False
    unquantized_modules: tuple[str, ...] = ()

    def prepare(self, model: PreTrainedModel) -> None:
        """Changes settings of a loaded model, such as the attention of its vision tower."""

    def decoder_type(self, config: PreTrainedConfig) -> str:
        """The `model_type` of the decoder layers, by which kernels are chosen."""
        return config.model_type

    def attention_implementation(self, config: PreTrainedConfig, tree_attention: str) -> Any:
        """The value of `attn_implementation` that lets the language model use `tree_attention`.

        Families that do not call attention through transformers' interface get `eager`.
        """
        model: Any = MODEL_MAPPING.get(type(config), None)
        # Some configurations map to several classes; the first is the one that `AutoModel` builds.
        while isinstance(model, tuple | list):
            model = model[0]
        # A model from the checkpoint's own code is not in the mapping; whether it uses the interface shows when it is
        # loaded.
        return tree_attention if model is None or model._can_set_attn_implementation() else "eager"

    def part_of(self, path: Sequence[str]) -> str | None:
        """The part `vision` or `merger` of a parameter; None for parameters of the language model.

        Args:
            path: its dotted name, split at the dots.
        """
        return None


class VisionFamily(BackboneFamily, ABC):
    """A family that reads images: it also describes its image processor, positions and vision tower."""

    reads_images = True
    liger_types: tuple[str, ...] = ()

    def attention_implementation(self, config: PreTrainedConfig, tree_attention: str) -> Any:
        """The tree attention for the language model alone."""
        # The vision tower has attention of its own, over images and not over tree rows.
        return {"text_config": tree_attention}

    @abstractmethod
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
        """Keyword arguments of `Encoder` for images and positions.

        Args:
            config: of the checkpoint.
            processor: transformers' image processor of the checkpoint; may be changed.
            tokenizer: of the checkpoint.
            path: hub id or folder, for error messages.
            min_pixels, max_pixels: size of an image after resizing; None: as the processor has it.

        Raises:
            ModelError: the settings of the image processor are not usable.
        """

    def video_processor(
        self,
        config: PreTrainedConfig,
        *,
        image_processor: Any,
        path: str | Path,
        source: dict[str, Any],
        settings: VideoRecipe,
    ) -> VideoProcessor | None:
        """What the family says about videos; None: it reads none, and rows with videos are rejected.

        Args:
            config: of the checkpoint.
            image_processor: of the checkpoint.
            path: hub id or folder.
            source: keyword arguments of transformers that say what is read.
            settings: of the recipe.

        Raises:
            ModelError: the settings of the video processor are not usable.
        """
        return None

    @abstractmethod
    def encode_images(self, transformer: PreTrainedModel, patches: Tensor, grids: Sequence[Grid]) -> list[Tensor]:
        """Features of n images in one pass of the vision tower.

        Args:
            transformer: of this family.
            patches: of all images, as the image processor gives them.
            grids: patches of each image in time, height and width, on the host: nothing has to wait for the GPU.

        Returns:
            `(S, t, D)` for each image.
        """

    def inputs_with_images(
        self, transformer: PreTrainedModel, input_ids: Tensor, output: VisionOutput, tokens: Tensor
    ) -> dict[str, Any]:
        """What the transformer is called with in place of `input_ids`: embeddings, in which images stand.

        transformers would find the tokens of images on the device, and compare their number with that of the features;
        both wait for a GPU.

        Args:
            transformer: of this family.
            input_ids: `(R, T)`.
            output: features of the images at all their places.
            tokens: `(V,)`, their tokens among the flattened `(R * T)`.
        """
        embeddings: Tensor = transformer.get_input_embeddings()(input_ids)
        features = output.pooler_output
        features = features if isinstance(features, Tensor) else torch.cat(features)
        flat = embeddings.flatten(0, 1).index_copy(0, tokens, features.to(embeddings.dtype))
        return {"input_ids": None, "inputs_embeds": flat.view_as(embeddings)}

    def entering_features(self, states: list[Tensor]) -> list[Tensor] | Tensor:
        """The features `(t, D)` that enter the language model, in the form that the family's `forward` expects."""
        return states

    @abstractmethod
    def smallest_image(self, vision_config: Any) -> tuple[int, int]:
        """The size of the smallest image that the tower accepts: patches along a side, and numbers of one patch."""

    def feature_settings(self, config: PreTrainedConfig) -> tuple[Any, ...]:
        """Settings outside of `vision_config` that change an image's features."""
        return ()


def check_sizes(processor: Any, limits: Mapping[str, int], *, path: str | Path) -> None:
    """Checks the sizes in preprocessor_config.json that every image is resized to.

    Args:
        processor: transformers' image processor.
        limits: largest value of each size, by the size's name.
        path: hub id or folder, for the error message.

    Raises:
        ModelError: a size is not a positive integer, or above its limit.

    >>> from types import SimpleNamespace
    >>> check_sizes(SimpleNamespace(size=SimpleNamespace(height=10**6)), {"height": MAX_SIDE}, path="model")
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: preprocessor_config.json of 'model': size.height is 1000000; allowed are 1 to 8,192
    """
    for name, limit in limits.items():
        value = getattr(processor.size, name, None)
        if not isinstance(value, int) or not 0 < value <= limit:
            raise ModelError(
                f"preprocessor_config.json of '{path}': size.{name} is {value}; allowed are 1 to {limit:,}"
            )
