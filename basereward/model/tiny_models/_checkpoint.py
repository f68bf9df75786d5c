"""Makers of small checkpoints of random weights: what all families share, and decorators that complete a family.

A family's file has one function, which gives the family's configuration. `text_model` and `image_model` turn it into
the maker that a recipe names: a callable that takes a folder and sizes, and writes the checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from annotated_types import Interval

from basereward.model.tiny_models._byte_level import byte_level_tokenizer

# These libraries take seconds to import, and `basereward check` imports the makers to read their signatures.
if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

# Attention heads of every language model.
HEADS = 4

QWEN_PREPROCESSOR = {
    # The constants of Qwen2-VL's own preprocessor_config.json; four patches, two by two, become one token.
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "min_pixels": 3136,
    "max_pixels": 12845056,
}

QWEN3_VIDEO_PREPROCESSOR = {
    # The constants of Qwen3-VL's own video_preprocessor_config.json. The sizes are those of all frames together.
    "video_processor_type": "Qwen3VLVideoProcessor",
    "size": {"longest_edge": 25165824, "shortest_edge": 4096},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "fps": 2,
    "min_frames": 4,
    "max_frames": 768,
    "image_mean": QWEN_PREPROCESSOR["image_mean"],
    "image_std": QWEN_PREPROCESSOR["image_std"],
}


@dataclass(frozen=True, slots=True)
class TinySizes:
    """Sizes of a small model.

    Attributes:
        hidden_size: width of the language model.
        layers: layers of the language model.
        vision_layers: layers of the vision tower; 0 for a text-only model.

    >>> TinySizes(128, 3).vision_layers
    0
    """

    hidden_size: int
    layers: int
    vision_layers: int = 0


Settings: TypeAlias = "Callable[[TinySizes, PreTrainedTokenizerFast], dict[str, Any]]"
"""Gives the keyword arguments of a family's configuration, from the sizes and the tokenizer."""


@dataclass(frozen=True, slots=True)
class TinyFamily:
    """What a family of small models needs besides its sizes.

    Attributes:
        config: name of the configuration class in transformers.
        model: name of the model class in transformers, with its language-model head.
        settings: keyword arguments of the configuration.
        preprocessor: content of `preprocessor_config.json`; None for a text-only family.
        video_preprocessor: content of `video_preprocessor_config.json`; None for families without one.
        tokenizer: builds the tokenizer.
        initialise: draws the weights that the model class leaves at zero, with a standard deviation.

    >>> TinyFamily("Qwen3Config", "Qwen3ForCausalLM", settings=text_settings).preprocessor is None
    True
    """

    config: str
    model: str
    settings: Settings
    preprocessor: Mapping[str, Any] | None = None
    tokenizer: Callable[[], PreTrainedTokenizerFast] = byte_level_tokenizer
    initialise: Callable[[Any, float], None] | None = None
    video_preprocessor: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TextModelMaker:
    """Writes small checkpoints of a text-only family.

    Args:
        family: what is special about it.
    """

    family: TinyFamily

    def __call__(
        self,
        folder: Path,
        *,
        hidden_size: Annotated[int, Interval(ge=1, le=4096)] = 128,
        layers: Annotated[int, Interval(ge=1, le=64)] = 3,
        initializer_range: float = 0.06,
        seed: int = 0,
    ) -> None:
        """Writes a checkpoint of random weights, with a byte-level tokenizer.

        Args:
            folder: where to write; it is created if it does not exist.
            hidden_size: width of the model.
            layers: number of layers.
            initializer_range: standard deviation of the weights; see `write_tiny`.
            seed: of the weights.
        """
        write_tiny(folder, self.family, TinySizes(hidden_size, layers), initializer_range=initializer_range, seed=seed)


@dataclass(frozen=True, slots=True)
class ImageModelMaker:
    """Writes small checkpoints of a family that reads images.

    Args:
        family: what is special about it.
    """

    family: TinyFamily

    def __call__(
        self,
        folder: Path,
        *,
        hidden_size: Annotated[int, Interval(ge=1, le=4096)] = 128,
        layers: Annotated[int, Interval(ge=1, le=64)] = 3,
        vision_layers: Annotated[int, Interval(ge=1, le=64)] = 3,
        initializer_range: float = 0.06,
        seed: int = 0,
    ) -> None:
        """Writes a checkpoint of random weights, with a byte-level tokenizer and an image processor.

        Args:
            folder: where to write; it is created if it does not exist.
            hidden_size: width of the language model.
            layers: layers of the language model.
            vision_layers: layers of the vision tower.
            initializer_range: standard deviation of the weights; see `write_tiny`.
            seed: of the weights.
        """
        sizes = TinySizes(hidden_size, layers, vision_layers)
        write_tiny(folder, self.family, sizes, initializer_range=initializer_range, seed=seed)


def text_model(*, config: str, model: str) -> Callable[[Settings], TextModelMaker]:
    """A decorator: turns the settings of a text-only family into its maker.

    Args:
        config: name of the configuration class in transformers.
        model: name of the model class in transformers, with its language-model head.

    >>> text_model(config="Qwen3Config", model="Qwen3ForCausalLM")(text_settings).family.config
    'Qwen3Config'
    """

    def complete(settings: Settings) -> TextModelMaker:
        return TextModelMaker(TinyFamily(config, model, settings))

    return complete


def image_model(
    *,
    config: str,
    model: str,
    preprocessor: Mapping[str, Any],
    tokenizer: Callable[[], PreTrainedTokenizerFast] = byte_level_tokenizer,
    initialise: Callable[[Any, float], None] | None = None,
    video_preprocessor: Mapping[str, Any] | None = None,
) -> Callable[[Settings], ImageModelMaker]:
    """A decorator: turns the settings of a family that reads images into its maker; for the arguments see `TinyFamily`.

    >>> make = image_model(config="Qwen2VLConfig", model="Qwen2VLModel", preprocessor=QWEN_PREPROCESSOR)
    >>> make(text_settings).family.preprocessor["patch_size"]
    14
    """

    def complete(settings: Settings) -> ImageModelMaker:
        family = TinyFamily(config, model, settings, preprocessor, tokenizer, initialise, video_preprocessor)
        return ImageModelMaker(family)

    return complete


def write_tiny(folder: Path, family: TinyFamily, sizes: TinySizes, *, initializer_range: float, seed: int) -> None:
    """Writes a checkpoint of a family, with random weights, in the format of the hub.

    Args:
        folder: where to write; it is created if it does not exist.
        family: what differs between families.
        sizes: of the model.
        initializer_range: standard deviation of the weights. The families' own 0.02 is meant for thousands of channels;
            with a hundred channels the first hundreds of steps would learn nothing.
        seed: of the weights.
    """
    import transformers

    tokenizer = family.tokenizer()
    config: PreTrainedConfig = getattr(transformers, family.config)(**family.settings(sizes, tokenizer))
    _set_initializer_range(config, initializer_range)

    def build() -> PreTrainedModel:
        model: PreTrainedModel = getattr(transformers, family.model)(config)
        if family.initialise is not None:
            family.initialise(model, initializer_range)
        return model

    write_checkpoint(folder, build, tokenizer=tokenizer, seed=seed)
    if family.preprocessor is not None:
        write_preprocessor(folder, family.preprocessor)
    if family.video_preprocessor is not None:
        text = json.dumps(family.video_preprocessor, indent=2) + "\n"
        (folder / "video_preprocessor_config.json").write_text(text)


def write_checkpoint(
    folder: Path, build: Callable[[], PreTrainedModel], *, tokenizer: PreTrainedTokenizerFast, seed: int
) -> None:
    """Writes weights, configuration and tokenizer in the format of the hub.

    Args:
        folder: where to write; it is created if it does not exist.
        build: draws the weights from torch's generator.
        tokenizer: saved beside the weights.
        seed: of that generator; its state afterwards is as before.
    """
    import torch

    # transformers draws initial weights from the generator of the process; the fork keeps the state of the caller.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_preprocessor(folder: Path, settings: Mapping[str, Any] = QWEN_PREPROCESSOR) -> None:
    """Writes the settings of an image processor as `preprocessor_config.json`.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_preprocessor(folder)
    >>> json.loads((folder / "preprocessor_config.json").read_text())["merge_size"]
    2
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _set_initializer_range(config: PreTrainedConfig, initializer_range: float) -> None:
    """Sets the standard deviation of the weights, also in the sections for text and vision."""
    # transformers reads the value of the section that a module belongs to, not that of the whole configuration.
    sections: tuple[Any, ...] = (config, *(getattr(config, name) for name in config.sub_configs))
    for section in sections:
        section.initializer_range = initializer_range


def text_settings(sizes: TinySizes, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The configuration of a small language model with Qwen's proportions and the token ids of `tokenizer`.

    >>> text_settings(TinySizes(64, 2), byte_level_tokenizer())["intermediate_size"]
    256
    """
    ids = tokenizer.get_vocab()
    return {
        "hidden_size": sizes.hidden_size,
        "intermediate_size": 4 * sizes.hidden_size,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }


def image_token_settings(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The token ids by which configurations of the Qwen-VL families mark images.

    >>> image_token_settings(byte_level_tokenizer())["image_token_id"]  # after 256 bytes and 12 special tokens
    268
    """
    ids = tokenizer.get_vocab()
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def three_axes(sections: list[int]) -> dict[str, Any]:
    """Rotary positions whose frequencies are divided over time, height and width.

    >>> three_axes([4, 6, 6])["mrope_section"]
    [4, 6, 6]
    """
    return {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e6}


def quarter_for_time(hidden_size: int) -> dict[str, Any]:
    """The rotary positions of Qwen2-VL and Qwen2.5-VL: about a quarter of the frequencies is for time.

    >>> quarter_for_time(128)["mrope_section"]  # of 16 frequencies a head
    [4, 6, 6]
    """
    frequencies = hidden_size // HEADS // 2
    side = (frequencies - frequencies // 4) // 2
    # What the division leaves over goes to time, so that the three sections cover every frequency.
    return three_axes([frequencies - 2 * side, side, side])
