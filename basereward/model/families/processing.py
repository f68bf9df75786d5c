"""Builds the encoder of a checkpoint: its own tokenizer, chat template, image processor and rule for positions."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

from torch import nn
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from basereward.data.encoding.encoder import Encoder
from basereward.errors import ModelError
from basereward.model.backbone import load_config, quiet_transformers
from basereward.model.families.backbone_family import TextPositions, VisionFamily
from basereward.model.families.registry import find_family
from basereward.model.heads.contracts import GenerativeHead
from basereward.model.saving.folder_checks import check_text_files, explained
from basereward.recipe import make
from basereward.recipe.schema import Recipe, VideoRecipe
from basereward.recipe.trust import is_trusted


def load_encoder(
    path: str | Path,
    *,
    revision: str | None = None,
    image_backend: Literal["pil", "torchvision"] = "pil",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    max_tokens: int = 4096,
    video: VideoRecipe | None = None,
    whole_turn: bool = False,
    trust_remote_code: bool = False,
    files: str | Path | None = None,
) -> Encoder:
    """Loads the encoder of a checkpoint on the hub or in a folder.

    Args:
        path: hub id or folder of the backbone.
        revision: branch, tag or commit of the hub repository.
        image_backend: which of transformers' image processors is used; they resample differently.
        min_pixels, max_pixels: size of an image after resizing; None: the image processor's own limit.
        max_tokens: limit of a prompt with one response; longer groups are rejected.
        video: which frames of a video are used; None: the defaults of the recipe.
        whole_turn: see `Encoder`.
        trust_remote_code: whether code of the checkpoint may run; it also needs the caller's `trusting` block.
        files: the folder of tokenizer, chat template and image processor, if they are not in `path`.

    Raises:
        ModelError: the checkpoint has no tokenizer, chat template or image processor; its image processor has unusable
            settings; or the image backend is not installed.
    """
    trust_remote_code = trust_remote_code and is_trusted()
    config = load_config(path, revision=revision, trust_remote_code=trust_remote_code)
    family = find_family(config)
    source: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if files is None:
        # A folder of files has no revisions.
        source["revision"] = revision
    place = path if files is None else files
    # Before transformers reads the files, which may come from anybody.
    check_text_files(place, revision=source.get("revision"))
    with quiet_transformers(), explained(place):
        tokenizer = AutoTokenizer.from_pretrained(place, **source)
        _check_vocabulary(tokenizer, config, place=place)
        if not isinstance(family, VisionFamily):
            limits: dict[str, Any] = {"max_tokens": max_tokens, "same_positions": same_positions(config)}
            return Encoder(tokenizer, positions=TextPositions(), whole_turn=whole_turn, **limits)
    _check_backend(image_backend)
    with quiet_transformers(), explained(place):
        processor = AutoImageProcessor.from_pretrained(place, backend=image_backend, **source)
        options: dict[str, Any] = family.encoder_options(
            config, processor=processor, tokenizer=tokenizer, path=place, min_pixels=min_pixels, max_pixels=max_pixels
        )
        options["videos"] = family.video_processor(
            config, image_processor=processor, path=place, source=source, settings=video or VideoRecipe()
        )
        options |= {"max_tokens": max_tokens, "same_positions": same_positions(config)}
        return Encoder(tokenizer, image_token_id=config.image_token_id, whole_turn=whole_turn, **options)


def _check_backend(image_backend: str) -> None:
    """Checks that the image backend is installed.

    Raises:
        ModelError: it is not.
    """
    if image_backend == "torchvision" and importlib.util.find_spec("torchvision") is None:
        raise ModelError(
            "data.encoding.image_backend is torchvision, which is not installed. Install it, or set "
            "data.encoding.image_backend=pil (the two resample differently, so scores differ a little)."
        )


def _check_vocabulary(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, *, place: str | Path) -> None:
    """Checks that the embedding has a row for every token that a text can have.

    Special tokens without one are allowed: they are not parsed in texts, and Gemma 3 has such a token for images.

    Raises:
        ModelError: the tokenizer has more tokens than the embedding, as that of another model would.
    """
    rows = getattr(config.get_text_config(), "vocab_size", None)
    if rows is None:
        return
    added = tokenizer.added_tokens_decoder
    for token, number in tokenizer.get_vocab().items():
        if number >= rows and not (number in added and added[number].special):
            raise ModelError(
                f"the tokenizer in '{place}' gives {token!r} the number {number}, but the model's embedding has only "
                f"{rows} rows (vocab_size). Use the tokenizer that was made for this model, or resize its embedding"
            )


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
    if settings.ending == "template" and recipe.model.pooling == "last_text":
        raise ModelError(
            "model.pooling=last_text reads the token before the end-of-turn token, and data.encoding.ending=template "
            "may write more after it. Set data.encoding.ending=end_of_turn, or model.pooling=last"
        )
    encoder = load_encoder(
        path,
        revision=revision or (recipe.model.backbone.revision if path == recipe.model.backbone.path else None),
        image_backend=settings.image_backend,
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
        max_tokens=settings.max_tokens,
        video=settings.video,
        whole_turn=settings.ending == "template",
        trust_remote_code=recipe.model.backbone.trust_remote_code,
        files=files,
    )
    # The data are read before the backbone is loaded, so its width is unknown here. A template does not depend on it.
    any_head = head or make(recipe.model.head, "heads", 1)
    return encoder.with_branch_template(any_head.branch_template if isinstance(any_head, GenerativeHead) else None)


def same_positions(config: PreTrainedConfig) -> int | None:
    """The length up to which the rotary frequencies of a sequence do not depend on other sequences; None: any length.

    transformers chooses the frequencies of the types `dynamic` and `longrope` by the longest sequence of a batch, so a
    score would depend on the other sequences of the batch.

    Args:
        config: of the checkpoint.

    Returns:
        A number of tokens, or None.

    >>> same_positions(PreTrainedConfig()) is None
    True
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None)
    if not isinstance(rope, dict):
        return None
    limits: list[int] = []
    # The parameters are those of all layers, or one dictionary for each kind of layer.
    for parameters in (rope, *rope.values()):
        if not isinstance(parameters, dict):
            continue
        if parameters.get("rope_type") == "dynamic":
            limits.append(text.max_position_embeddings)
        elif parameters.get("rope_type") == "longrope":
            limits.append(parameters.get("original_max_position_embeddings") or text.max_position_embeddings)
    return min(limits, default=None)
