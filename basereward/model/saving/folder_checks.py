"""Checks the files of a checkpoint before a weight is allocated.

A folder from an untrusted source is opened in bounded time and memory, and the result is a model or a `ModelError`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from basereward.errors import BaseRewardError, ModelError
from basereward.io.limits import MIB, check_regular_file, read_json_object
from basereward.model.saving.identity import CONFIG, find_file, weight_files

Shapes = dict[str, tuple[int, ...]]

MAX_LAYERS = 10_000
MAX_COUNT = 1_000_000
"""Largest count in config.json that is not of layers, such as labels: transformers builds a table of them."""
# Values of keys such as `attn_implementation` that run code of transformers; any other value may name a hub repository.
IMPLEMENTATIONS = (
    "eager",
    "sdpa",
    "flash_attention_2",
    "flash_attention_3",
    "flex_attention",
    "grouped_mm",
    "batched_mm",
)
MAX_NUMBER = 2**31
"""Largest number in config.json: no size of a layer and no token id is larger."""
LAYERS = ("layers", "n_layer", "depth", "num_blocks")
"""Endings of keys that count layers. Some families build a list of this length when the configuration is read."""
UNLIMITED = ("model_max_length", "max_length", "rope_theta")
"""Keys whose size costs nothing: some tokenizers write 10^30 for no limit."""
MAX_MESSAGE = 300
"""Characters of a library's message that are shown."""
FLOAT_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""Dtypes of the weights of heads and adapters; a copy from others would lose digits silently."""
MAX_TOKENIZER_BYTES = 256 * MIB
MAX_GROWTH = 100
"""Largest factor by which a tokenizer's normalizer may lengthen a text."""
PARAMETERS_PER_TENSOR = 4
"""Largest number of parameters for each tensor of the files: some families split what their files hold as one."""
PACKING_FACTOR = 16
"""Largest number of elements of the model for each element of a file with packed weights."""
MAX_BUFFER_ELEMENTS = 2**31
# Files that tokenizers and image processors read, and the configuration of generation.
TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
)


@contextlib.contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """Turns errors of libraries about a folder without a usable model into a `ModelError`.

    Libraries raise many types of errors for unexpected files: transformers alone OSError, ValueError, KeyError,
    TypeError, AttributeError and RuntimeError, and the tokenizers library plain `Exception`.
    """
    try:
        yield
    except BaseRewardError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        reason = reason if len(reason) <= MAX_MESSAGE else f"{reason[:MAX_MESSAGE]}..."
        if not isinstance(error, OSError | ValueError) or not reason:
            reason = f"{type(error).__name__} {reason}".strip()
        if not os.path.isdir(path):
            reason += f" There is no folder {os.path.abspath(path)}, so it was taken as a hub id."
        raise ModelError(
            f"no model could be loaded from '{path}': {reason} "
            "Give a hub id, or a folder with config.json, *.safetensors and a tokenizer."
        ) from error


def tensor_shapes(file: Path | str) -> Shapes:
    """The shapes in a safetensors file, from its header; no weight is read.

    Raises:
        ModelError: the file is missing, not a regular file, truncated, or in another format, such as a pickle.
    """
    check_regular_file(file, error=ModelError)
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(
            f"'{file}' is not a safetensors file, or is not whole: {error}. Copy the folder again; pickles are not read"
        ) from error


def load_finite(file: Path | str) -> dict[str, Tensor]:
    """Loads the tensors of a safetensors file.

    Raises:
        ModelError: as `tensor_shapes`; or a tensor has integers, complex or packed numbers, NaN or infinity; the
            message names it.
    """
    tensor_shapes(file)
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise ModelError(f"'{file}' cannot be read: {error}") from error
    if others := [f"{name} ({tensor.dtype})" for name, tensor in tensors.items() if tensor.dtype not in FLOAT_DTYPES]:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOAT_DTYPES)
        raise ModelError(f"'{file}' holds weights of another dtype: {others[0]}; allowed are {names}")
    if name := first_not_finite(tensors):
        raise ModelError(f"'{file}' holds weights that are NaN or infinite: {name}. Train again from an earlier one")
    return tensors


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with NaN or infinity; None if all are finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def check_checkpoint(path: str | Path, *, revision: str | None = None) -> dict[str, Shapes]:
    """Checks the files of a checkpoint, and returns the shapes in every weight file, by its name.

    Raises:
        ModelError: a file is missing, too large, malformed or outside of the folder; the folder has an adapter; or a
            number in config.json is larger than any real one.
    """
    with explained(path):
        config = find_file(path, CONFIG, revision=revision)
        if config is None:
            raise ModelError(
                f"no model could be loaded from '{path}': there is no config.json. "
                "Give a hub id, or a folder with config.json, *.safetensors and a tokenizer."
            )
        check_numbers(read_json_object(config, error=ModelError), where=f"'{config}'")
        if find_file(path, "adapter_config.json", revision=revision) is not None:
            raise ModelError(
                f"'{path}' holds an adapter (adapter_config.json), which would be put on the model in silence; merge "
                "the adapter into the model first, or remove adapter_config.json"
            )
        files = weight_files(path, revision=revision)
        return {name: tensor_shapes(file) for name, file in files.items()}


def check_adapter(folder: Path) -> None:
    """Checks the files of an adapter before peft reads them.

    Raises:
        ModelError: a file is missing or malformed, the adapter is not LoRA, its rank differs from that of its weights,
            or it changes more than LoRA weights do.
    """
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise ModelError(f"'{folder}' has no adapter_config.json; the folder was not copied whole")
    config = read_json_object(file, error=ModelError)
    shapes = tensor_shapes(folder / "adapter_model.safetensors")
    if config.get("peft_type") != "LORA":
        raise ModelError(f"'{file}': peft_type is {str(config.get('peft_type'))[:80]!r}; LORA is needed")
    ranks = {shape[0] for name, shape in shapes.items() if "lora_A" in name and shape}
    if ranks != {config.get("r")}:
        raise ModelError(
            f"'{file}': r is {str(config.get('r'))[:80]}, and the weights have rank {sorted(ranks)}; they do not fit"
        )
    with explained(folder):
        usual: dict[str, Any] = LoraConfig().to_dict()  # type: ignore[no-untyped-call]
    for key in sorted(usual.keys() & config.keys() - ADAPTER_KEYS):
        if config[key] and config[key] != usual[key]:
            raise ModelError(f"'{file}': {key} is {str(config[key])[:80]!r}; {usual[key]!r} is needed")


ADAPTER_KEYS = {
    *("task_type", "peft_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    *("r", "target_modules", "lora_alpha", "lora_dropout", "use_rslora", "auto_mapping"),
}
"""Keys of adapter_config.json with any value. Others could change the weights of the base, import modules, or repeat
layers when peft reads them."""


def check_text_files(path: str | Path, *, revision: str | None = None) -> None:
    """Checks that the files of a tokenizer and an image processor are regular files of a reasonable size.

    Raises:
        ModelError: one is not.
    """
    for name in TEXT_FILES:
        with explained(path):
            file = find_file(path, name, revision=revision)
        if file is None:
            continue
        size = check_regular_file(file, error=ModelError)
        if size > MAX_TOKENIZER_BYTES:
            raise ModelError(f"'{file}' has {size:,} bytes; at most {MAX_TOKENIZER_BYTES:,} are read")
        if name.endswith("_config.json"):
            read_json_object(file, error=ModelError)
        if name == "tokenizer.json":
            content = read_json_object(file, limit=MAX_TOKENIZER_BYTES, error=ModelError)
            if normalizer_growth(content.get("normalizer")) > MAX_GROWTH:
                raise ModelError(
                    f"'{file}': the normalizer makes a text more than {MAX_GROWTH} times as long, which would fill the "
                    "memory; copy the folder again, or take another checkpoint"
                )


def normalizer_growth(node: Any) -> int:
    """How many times longer a normalizer of tokenizer.json makes a text at most; a few letters more count too.

    >>> normalizer_growth({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "_"}, {"type": "NFC"}]})
    1
    >>> normalizer_growth({"type": "Sequence", "normalizers": [{"type": "Replace", "content": "ab"}] * 5})
    32
    """
    growth, waiting = 1, [node]
    while waiting and growth <= MAX_GROWTH:
        inner = waiting.pop()
        if not isinstance(inner, dict):
            continue
        added = inner.get("content") if inner.get("type") == "Replace" else inner.get("prepend")
        if isinstance(added, str):
            growth *= max(1, len(added))
        normalizers = inner.get("normalizers")
        waiting.extend(normalizers if isinstance(normalizers, list) else [])
    return growth


def check_numbers(config: Mapping[str, Any], *, where: str) -> None:
    """Rejects numbers of a configuration that would occupy transformers without end, and kernels from the hub.

    Args:
        config: the content of config.json.
        where: the file, for the error message.

    Raises:
        ModelError: a number of layers is above `MAX_LAYERS`, another count above `MAX_COUNT`, or any number above
            `MAX_NUMBER`; or an implementation is not one of transformers' own. The message names the key.

    >>> check_numbers({"text_config": {"num_hidden_layers": 10**9}}, where="config.json")
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: config.json: num_hidden_layers is 1000000000; at most 10,000 are allowed
    """
    # A stack and no recursion: a nested file could exceed Python's limit of recursion.
    unchecked: list[tuple[str, Any]] = list(config.items())
    while unchecked:
        key, value = unchecked.pop()
        if key.endswith("_implementation"):
            _check_implementation(key, value, where=where)
        elif isinstance(value, dict):
            unchecked.extend(value.items())
        elif isinstance(value, list):
            unchecked.extend((key, item) for item in value)
        elif isinstance(value, int) and key not in UNLIMITED:
            limit = _limit_of(key)
            if not -limit <= value <= limit:
                raise ModelError(f"{where}: {key} is {value}; at most {limit:,} are allowed")


def _limit_of(key: str) -> int:
    """The largest number that a key of config.json may have.

    >>> _limit_of("num_hidden_layers"), _limit_of("num_labels"), _limit_of("vocab_size") == MAX_NUMBER
    (10000, 1000000, True)
    """
    if key.endswith(LAYERS):
        return MAX_LAYERS
    if key.startswith("num_"):
        return MAX_COUNT
    return MAX_NUMBER


def check_size(config: Any, files: Mapping[str, Shapes], *, path: str | Path) -> None:
    """Checks that a configuration describes no much larger model than the weight files hold.

    The model is built on the meta device, which allocates nothing.

    Args:
        config: transformers' configuration.
        files: as `check_checkpoint` gives them.
        path: of the checkpoint, for messages.

    Raises:
        ModelError: it does, or it describes no model at all.
    """
    from transformers import AutoModel

    shapes: list[tuple[int, ...]] = []
    for shapes_of_file in files.values():
        shapes += shapes_of_file.values()
    elements = sum(torch.Size(shape).numel() for shape in shapes)
    packed = getattr(config, "quantization_config", None) is not None
    # Weights that are missing are named when they are loaded; here only what would fill the memory is refused.
    most = elements * (PACKING_FACTOR if packed else 2) + 2**20
    with explained(path), bounded_parameters(PARAMETERS_PER_TENSOR * len(shapes), what=f"config.json of '{path}'"):
        model = AutoModel.from_config(config, trust_remote_code=False) if _is_known(config) else None
    if model is None:
        return
    described = sum(parameter.numel() for parameter in model.parameters())
    buffers = sum(buffer.numel() for buffer in model.buffers())
    if described > most or buffers > MAX_BUFFER_ELEMENTS:
        raise ModelError(
            f"config.json of '{path}' describes {described:,} weights and {buffers:,} other numbers, and its files "
            f"hold {elements:,} weights. The weights in '{path}' do not fit its config.json; copy the folder again"
        )


def _is_known(config: Any) -> bool:
    """Whether the family is one of transformers' own. The code of another is the caller's responsibility."""
    return type(config).__module__.startswith("transformers.")


def _check_implementation(key: str, value: Any, *, where: str) -> None:
    """Refuses kernels of the hub, whose code transformers would fetch and run; a checkpoint may name its own only."""
    names = value.values() if isinstance(value, dict) else [value]
    for name in names:
        if name is not None and name not in IMPLEMENTATIONS:
            raise ModelError(
                f"{where}: {key} is {str(name)[:80]!r}; allowed are {', '.join(IMPLEMENTATIONS)}. "
                "Kernels of the hub would run code that came with the checkpoint; remove the key"
            )


@contextlib.contextmanager
def bounded_parameters(most: int, *, what: str) -> Iterator[None]:
    """Builds modules on the meta device, and stops at the first parameter beyond `most`.

    Raises:
        ModelError: there are more.
    """
    thread, count = threading.get_ident(), 0

    def registered(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        if threading.get_ident() != thread or parameter is None:
            return
        count += 1
        if count > most:
            raise ModelError(f"{what} describes more than {most:,} weights, and its files hold fewer; they do not fit")

    handle = torch_module.register_module_parameter_registration_hook(registered)
    try:
        with torch.device("meta"):
            yield
    finally:
        handle.remove()
