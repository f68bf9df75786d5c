"""The encoder of a checkpoint: its own tokenizer, chat template, image processor and way of numbering positions."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, PreTrainedConfig

from basereward.data.encoding.encoder import Encoder
from basereward.data.images.tiles import TileProcessor
from basereward.errors import ModelError
from basereward.model.backbone import VISION_FAMILIES, load_config, quiet_transformers
from basereward.model.heads.contracts import GenerativeHead
from basereward.model.saving.folder_checks import check_text_files, explained
from basereward.recipe import make
from basereward.recipe.schema import Recipe
from basereward.recipe.trust import is_trusted

MAX_PIXELS = 2**27
"""Of a picture: the largest that `shortest_edge`, the least number of pixels, may ask for."""
MAX_SIDE = 2**13
"""Pixels of a tile's side."""
STEPS = {"patch_size": 64, "merge_size": 8, "temporal_patch_size": 8}
"""The largest steps in which a picture is cut; those in use are 14 or 16, 2 and 2."""
SMALL_PIXELS = 2**22
"""A processor that brings every picture to more than these is not tried on one when it is loaded."""


class TextPositions:
    """Positions of a backbone that reads text only, or pictures as it reads text: 0, 1, 2, ..."""

    def __call__(self, input_ids: Tensor, images_thw: Tensor | None) -> Tensor:
        """`(P,)` tokens to `(P,)` positions."""
        return torch.arange(len(input_ids))


class VisionPositions:
    """Three-axis positions, time by height by width, as the family's own `get_rope_index` gives them.

    The indexer is a model without weights, since transformers keeps the rule on the model class.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config = config
        self._indexer: Any = None

    def __call__(self, input_ids: Tensor, images_thw: Tensor | None) -> Tensor:
        """`(P,)` tokens and `(n, 3)` grids to `(3, P)` positions."""
        if images_thw is None:
            return torch.arange(len(input_ids)).expand(3, -1)
        if self._indexer is None:
            with torch.device("meta"):
                self._indexer = AutoModel.from_config(self.config)
        kinds = (input_ids == self.config.image_token_id).int()
        positions: Tensor = self._indexer.get_rope_index(
            input_ids[None], mm_token_type_ids=kinds[None], image_grid_thw=images_thw
        )[0]
        return positions[:, 0]

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "_indexer": None}


def load_encoder(
    path: str | Path,
    *,
    revision: str | None = None,
    image_backend: Literal["pil", "torchvision"] = "pil",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    max_tokens: int = 4096,
    trust_remote_code: bool = False,
    files: str | Path | None = None,
) -> Encoder:
    """The encoder of a checkpoint on the hub or in a folder.

    Args:
        path: hub id or folder of the backbone.
        revision: branch, tag or commit of the hub repository.
        image_backend: which of transformers' image processors is used; they resample differently.
        min_pixels, max_pixels: of a picture; None: as the image processor has it.
        max_tokens: of a prompt with any one response.
        trust_remote_code: whether code of the checkpoint may run.
        files: the folder of tokenizer, chat template and image processor, where they are not in `path`.

    Raises:
        ModelError: there is no tokenizer, chat template or image processor, or the image backend is not installed.
    """
    trust_remote_code = trust_remote_code and is_trusted()
    config = load_config(path, revision=revision, trust_remote_code=trust_remote_code)
    source: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if files is None:
        source["revision"] = revision
    place = path if files is None else files
    check_text_files(place, revision=source.get("revision"))
    with quiet_transformers(), explained(place):
        tokenizer = AutoTokenizer.from_pretrained(place, **source)
        if config.model_type not in VISION_FAMILIES:
            limits: dict[str, Any] = {"max_tokens": max_tokens, "same_positions": same_positions(config)}
            return Encoder(tokenizer, positions=TextPositions(), **limits)
    if image_backend == "torchvision" and importlib.util.find_spec("torchvision") is None:
        raise ModelError(
            "data.encoding.image_backend is torchvision, which is not installed. Install it, or set "
            "data.encoding.image_backend=pil (the two resample differently, so scores differ a little)."
        )
    with quiet_transformers(), explained(place):
        processor = AutoImageProcessor.from_pretrained(place, backend=image_backend, **source)
        options = _image_options(config, processor, tokenizer, path=place, min_pixels=min_pixels, max_pixels=max_pixels)
        options |= {"max_tokens": max_tokens, "same_positions": same_positions(config)}
        return Encoder(tokenizer, image_token_id=config.image_token_id, **options)


def recipe_encoder(
    recipe: Recipe,
    *,
    path: str,
    head: nn.Module | None = None,
    revision: str | None = None,
    files: Path | None = None,
) -> Encoder:
    """The encoder of a recipe, with the branch template of its head if the head is generative.

    Args:
        recipe: of the run.
        path: hub id or folder of the backbone.
        head: the head of the recipe if it is built already.
        revision: of the hub repository; None: that of the recipe, if `path` is its backbone.
        files: the folder of tokenizer, chat template and image processor, if they are not at `path`.

    Raises:
        ModelError: as `load_encoder`.
    """
    settings = recipe.data.encoding
    encoder = load_encoder(
        path,
        revision=revision or (recipe.model.backbone.revision if path == recipe.model.backbone.path else None),
        image_backend=settings.image_backend,
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
        max_tokens=settings.max_tokens,
        trust_remote_code=recipe.model.backbone.trust_remote_code,
        files=files,
    )
    # The data are read before the backbone is loaded, so its width is unknown here; a template does not depend on it.
    any_head = head or make(recipe.model.head, "heads", 1)
    encoder.speech = any_head.branch_template if isinstance(any_head, GenerativeHead) else None
    return encoder


def same_positions(config: PreTrainedConfig) -> int | None:
    """Tokens up to which a sequence has the same rotary frequencies whatever is beside it; None: all have.

    transformers chooses those of the types `dynamic` and `longrope` by the longest sequence of a batch.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None)
    found = []
    for each in [rope, *rope.values()] if isinstance(rope, dict) else []:  # of all layers, or by the kind of layer
        if not isinstance(each, dict):
            continue
        if each.get("rope_type") == "dynamic":
            found.append(text.max_position_embeddings)
        elif each.get("rope_type") == "longrope":
            found.append(each.get("original_max_position_embeddings") or text.max_position_embeddings)
    return min(found, default=None)


def _image_options(
    config: PreTrainedConfig,
    processor: Any,
    tokenizer: Any,
    *,
    path: str | Path,
    min_pixels: int | None,
    max_pixels: int | None,
) -> dict[str, Any]:
    """What `Encoder` is told about pictures, by family.

    Raises:
        ModelError: the image processor's sizes are of no picture.
    """
    if config.model_type == "internvl":
        tiles = TileProcessor(
            processor,
            patch_size=config.vision_config.patch_size[0],
            merge_size=int(1 / config.downsample_ratio),
            min_pixels=min_pixels,
            max_pixels=max_pixels,
        )
        _check_sizes(processor, {"height": MAX_SIDE, "width": MAX_SIDE}, path=path)
        marks = _image_marks(tokenizer, path)
        positions = TextPositions()
        return {
            "positions": positions, "image_processor": tiles, "merge_size": tiles.merge_size, "image_marks": marks,
        }  # fmt: skip
    limits = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    for name, value in limits.items():
        if value is not None:
            setattr(processor.size, name, value)
    _check_sizes(processor, {"shortest_edge": MAX_PIXELS}, path=path)
    _check_steps(processor, path=path)
    _check_on_a_picture(processor, path=path)
    return {
        "positions": VisionPositions(config),
        "image_processor": processor,
        "merge_size": processor.merge_size,
    }


def _check_sizes(processor: Any, limits: Mapping[str, int], *, path: str | Path) -> None:
    """A picture is never made larger than the limits, whatever a preprocessor_config.json says.

    Raises:
        ModelError: a size that every picture is brought to is no positive number, or above the limit.
    """
    for name, limit in limits.items():
        value = getattr(processor.size, name, None)
        if not isinstance(value, int) or not 0 < value <= limit:
            raise ModelError(
                f"preprocessor_config.json of '{path}': size.{name} is {value}; allowed are 1 to {limit:,}"
            )


def _check_steps(processor: Any, *, path: str | Path) -> None:
    """Into what a picture is cut. Too large a step would fill the memory with a picture's padding.

    Raises:
        ModelError: a step is no whole number, or far from any that is in use.
    """
    for name, most in STEPS.items():
        value = getattr(processor, name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise ModelError(
                f"preprocessor_config.json of '{path}': {name} is {str(value)[:80]!r}; allowed are 1 to {most}"
            )


def _check_on_a_picture(processor: Any, *, path: str | Path) -> None:
    """Tries the processor on one small picture: whatever its settings have wrong comes out here, not in the training.

    Raises:
        ModelError: it fails, or gives values that are NaN or infinite.
    """
    if processor.size.shortest_edge > SMALL_PIXELS:  # it would make a large one of it
        return
    side = max(64, processor.patch_size * processor.merge_size)
    try:
        values = processor(images=[Image.new("RGB", (side, side), "gray")], return_tensors="pt")["pixel_values"]
    except Exception as error:
        raise ModelError(
            f"preprocessor_config.json of '{path}' does not work on a picture: {type(error).__name__} "
            f"{' '.join(str(error).split())[:200]}. Copy the folder again, or use another checkpoint"
        ) from error
    if not bool(torch.isfinite(values).all()):
        raise ModelError(
            f"preprocessor_config.json of '{path}' makes a picture's values NaN or infinite. Copy the folder again, or "
            "use another checkpoint"
        )


def _image_marks(tokenizer: Any, path: str | Path) -> tuple[int, int]:
    """What InternVL's processor puts around the tokens of an image."""
    marks = tuple(getattr(tokenizer, f"{name}_image_token_id", None) for name in ("start", "end"))
    if None in marks:
        raise ModelError(
            f"the tokenizer in '{path}' names no start_image_token and end_image_token, which go around the tokens of "
            "an image. Use a checkpoint in transformers' own format (its hub id ends with -hf)."
        )
    return marks  # type: ignore[return-value]
