"""Checks the files of a checkpoint before a weight is allocated.

A folder from an untrusted source is opened in bounded time and memory, and the result is a model or a `ModelError`.
"""

from __future__ import annotations

import contextlib
import os
import re
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

from basereward.errors import BaseRewardError, ModelError, sentence
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
FLOAT_FORMATS = ("F64", "F32", "BF16", "F16")
"""Names in safetensors headers of the dtypes that a backbone without `quantization_config` may have."""
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

    Args:
        path: hub id or folder, for the message.

    Raises:
        ModelError: the block raised any exception that is not one of this project.

    >>> with explained("missing"):
    ...     {}["model_type"]
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: no model could be loaded from 'missing': KeyError 'model_type'. There is no folder ...
    """
    try:
        yield
    except BaseRewardError:
        raise
    except Exception as error:
        # Messages of transformers have several lines and may repeat the whole content of a file.
        reason = " ".join(str(error).split())
        reason = reason if len(reason) <= MAX_MESSAGE else f"{reason[:MAX_MESSAGE]}..."
        if not isinstance(error, OSError | ValueError) or not reason:
            reason = f"{type(error).__name__} {reason}".strip()
        if not os.path.isdir(path):
            reason = f"{sentence(reason)} There is no folder {os.path.abspath(path)}, so it was taken as a hub id."
        raise ModelError(
            f"no model could be loaded from '{path}': {sentence(reason)} "
            "Give a hub id, or a folder with config.json, *.safetensors and a tokenizer."
        ) from error


def tensor_shapes(file: Path | str) -> Shapes:
    """The shapes in a safetensors file, from its header; no weight is read.

    Raises:
        ModelError: the file is missing, not a regular file, truncated, or in another format, such as a pickle.

    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> file = Path(tempfile.mkdtemp()) / "head.safetensors"
    >>> save_file({"weight": torch.zeros(1, 2)}, file)
    >>> tensor_shapes(file)
    {'weight': (1, 2)}
    """
    check_regular_file(file, error=ModelError)
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(
            f"'{file}' is not a safetensors file, or is truncated: {sentence(error)} Copy the folder again; pickles "
            "are not read"
        ) from error


def load_finite(file: Path | str) -> dict[str, Tensor]:
    """Loads the tensors of a safetensors file.

    Raises:
        ModelError: as `tensor_shapes`; or a tensor has integers, complex or packed numbers, NaN or infinity; the
            message names it.

    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> file = Path(tempfile.mkdtemp()) / "head.safetensors"
    >>> save_file({"bias": torch.tensor([float("nan")])}, file)
    >>> load_finite(file)
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: '...' holds weights that are NaN or infinite: bias. Train again from an earlier ...
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
        raise ModelError(
            f"'{file}' holds weights that are NaN or infinite: {name}. Train again from an earlier checkpoint"
        )
    return tensors


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with NaN or infinity; None if all are finite.

    >>> first_not_finite({"weight": torch.zeros(2), "bias": torch.tensor([float("inf")])})
    'bias'
    """
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
            return name
    return None


def not_finite_in(file: Path) -> str | None:
    """The name of the first tensor with NaN or infinity in a safetensors file; None if all are finite.

    One tensor at a time is in memory.

    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> file = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> save_file({"weight": torch.zeros(2), "bias": torch.tensor([float("inf")])}, file)
    >>> not_finite_in(file)
    'bias'
    """
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118
            if not _is_finite(tensors.get_tensor(name)):
                return str(name)
    return None


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
        return True
    if tensor.dtype not in FLOAT_DTYPES:
        # 8-bit floats have few operations.
        tensor = tensor.float()
    # Both are NaN if any value is. A mask of the size of the tensor, as `isfinite` makes, takes 30 times as long.
    smallest, largest = torch.aminmax(tensor)
    return bool(smallest.isfinite() and largest.isfinite())


def check_checkpoint(path: str | Path, *, revision: str | None = None) -> dict[str, Shapes]:
    """Checks the files of a checkpoint.

    Args:
        path: hub id or folder.
        revision: branch, tag or commit of the hub repository.

    Returns:
        For every weight file, by its name, the shapes of its tensors.

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
        keys = read_json_object(config, error=ModelError)
        check_numbers(keys, where=f"'{config}'")
        # transformers would load the adapter that such a file describes, also from another repository.
        if find_file(path, "adapter_config.json", revision=revision) is not None:
            raise ModelError(
                f"'{path}' holds an adapter (adapter_config.json), which transformers would add to the model without a "
                "message. Merge the adapter into the model first, or remove adapter_config.json"
            )
        files = weight_files(path, revision=revision)
        shapes = {name: tensor_shapes(file) for name, file in files.items()}
        if not keys.get("quantization_config"):
            for file in files.values():
                _check_float(file)
        return shapes


def _check_float(file: Path) -> None:
    """Checks the dtypes of the weights of a file; transformers would cast integers and 8-bit floats without a message.

    Buffers, such as masks and positions, may have any dtype, so only names that end in `.weight` are checked.

    Raises:
        ModelError: a weight has another dtype than `FLOAT_FORMATS`; the message names it.
    """
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118
            if name.endswith(".weight") and (dtype := tensors.get_slice(name).get_dtype()) not in FLOAT_FORMATS:
                raise ModelError(
                    f"'{file}' holds {name} as {dtype}, and config.json has no quantization_config that says how to "
                    f"read it. Allowed are {', '.join(FLOAT_FORMATS)}; convert the weights to one of them"
                )


def check_adapter(folder: Path) -> None:
    """Checks the files of an adapter before peft reads them.

    Args:
        folder: of adapter_config.json and adapter_model.safetensors.

    Raises:
        ModelError: a file is missing or malformed, the adapter is not LoRA, its rank differs from that of its weights,
            or it has options that change more than low-rank products do.

    >>> check_adapter(Path("no folder"))
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: 'no folder' has no adapter_config.json. Copy the complete folder again
    """
    file = folder / "adapter_config.json"
    if not file.is_file():
        raise ModelError(f"'{folder}' has no adapter_config.json. Copy the complete folder again")
    config = read_json_object(file, error=ModelError)
    shapes = tensor_shapes(folder / "adapter_model.safetensors")
    if config.get("peft_type") != "LORA":
        raise ModelError(f"'{file}': peft_type is {str(config.get('peft_type'))[:80]!r}; LORA is needed")
    # peft would allocate factors of the rank that the configuration names, however large, before it compares shapes.
    ranks = {shape[0] for name, shape in shapes.items() if "lora_A" in name and shape}
    if ranks != {config.get("r")}:
        raise ModelError(
            f"'{file}': r is {str(config.get('r'))[:80]}, and the weights have rank {sorted(ranks)}; they do not fit"
        )
    _check_target_modules(config, file)
    with explained(folder):
        defaults: dict[str, Any] = LoraConfig().to_dict()  # type: ignore[no-untyped-call]
    for key in sorted(defaults.keys() & config.keys() - ADAPTER_KEYS):
        if config[key] and config[key] != defaults[key]:
            raise ModelError(f"'{file}': {key} is {str(config[key])[:80]!r}; {defaults[key]!r} is needed")


def _check_target_modules(config: Mapping[str, Any], file: Path) -> None:
    """Checks the modules that an adapter names.

    Raises:
        ModelError: they are a regular expression.
    """
    modules = config.get("target_modules")
    # peft takes a text as a regular expression, and one can be written that takes years to match a name.
    if isinstance(modules, str) and not MODULE_NAME.fullmatch(modules):
        raise ModelError(f"'{file}': target_modules is {modules[:80]!r}; a list of the names of modules is needed")


MODULE_NAME = re.compile(r"[\w-]+")
"""A name without the signs of a regular expression, such as `q_proj` or `all-linear`."""
ADAPTER_KEYS = {
    *("task_type", "peft_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    *("r", "target_modules", "lora_alpha", "lora_dropout", "use_rslora", "auto_mapping"),
}
"""Keys of adapter_config.json that may have any value. Other keys could make peft change the weights of the backbone,
import modules, or repeat layers."""


def check_text_files(path: str | Path, *, revision: str | None = None) -> None:
    """Checks that the files of a tokenizer and an image processor are regular files of a reasonable size.

    Args:
        path: hub id or folder.
        revision: branch, tag or commit of the hub repository.

    Raises:
        ModelError: a file is a pipe or a device, too large or not JSON; or the normalizer of the tokenizer could fill
            the memory.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> written = (folder / "tokenizer_config.json").write_text("[]")
    >>> check_text_files(folder)
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: ...tokenizer_config.json...
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
                    "memory. Copy the folder again, or use another checkpoint"
                )


def normalizer_growth(node: Any) -> int:
    """The largest factor by which a normalizer of tokenizer.json makes a text longer.

    The factors of its steps are multiplied, because each step may lengthen what the step before has written. A text
    that is prepended counts as a factor too.

    Args:
        node: the normalizer, with further ones inside.

    Returns:
        The factor; counting stops above `MAX_GROWTH`.

    >>> normalizer_growth({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "_"}, {"type": "NFC"}]})
    1
    >>> normalizer_growth({"type": "Sequence", "normalizers": [{"type": "Replace", "content": "ab"}] * 5})
    32
    """
    growth, unchecked = 1, [node]
    while unchecked and growth <= MAX_GROWTH:
        inner = unchecked.pop()
        if not isinstance(inner, dict):
            continue
        added = inner.get("content") if inner.get("type") == "Replace" else inner.get("prepend")
        if isinstance(added, str):
            growth *= max(1, len(added))
        normalizers = inner.get("normalizers")
        unchecked.extend(normalizers if isinstance(normalizers, list) else [])
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
    """Checks that a configuration does not describe a much larger model than the weight files hold.

    The model is built on the meta device, which allocates nothing.

    Args:
        config: transformers' configuration.
        files: the result of `check_checkpoint`.
        path: of the checkpoint, for messages.

    Raises:
        ModelError: it describes a much larger model, or no model at all.
    """
    from transformers import AutoModel

    shapes: list[tuple[int, ...]] = []
    for shapes_of_file in files.values():
        shapes += shapes_of_file.values()
    elements = sum(torch.Size(shape).numel() for shape in shapes)
    packed = getattr(config, "quantization_config", None) is not None
    # Loading reports single missing weights later; this limit only prevents that the memory is filled.
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
    """Rejects kernels from the hub, whose code transformers would download and run.

    Raises:
        ModelError: the value names anything but an implementation of transformers itself.
    """
    names = value.values() if isinstance(value, dict) else [value]
    for name in names:
        if name is not None and name not in IMPLEMENTATIONS:
            raise ModelError(
                f"{where}: {key} is {str(name)[:80]!r}; allowed are {', '.join(IMPLEMENTATIONS)}. Kernels from the hub "
                "would run code that the checkpoint chooses. Remove the key"
            )


@contextlib.contextmanager
def bounded_parameters(most: int, *, what: str) -> Iterator[None]:
    """For a block, modules are built on the meta device and may have at most `most` parameters together.

    Args:
        most: limit of their number.
        what: describes the modules, for the error message.

    Raises:
        ModelError: a module registers a further parameter.

    >>> with bounded_parameters(1, what="config.json"):
    ...     nn.Linear(2, 2)
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: config.json describes more than 1 weights, and its files hold fewer; they do not fit
    """
    thread, count = threading.get_ident(), 0

    def registered(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        if threading.get_ident() != thread or parameter is None:
            return
        count += 1
        if count > most:
            raise ModelError(f"{what} describes more than {most:,} weights, and its files hold fewer; they do not fit")

    # torch has this hook for the whole process only, so the hook ignores modules of other threads. It is removed after
    # the block.
    handle = torch_module.register_module_parameter_registration_hook(registered)
    try:
        with torch.device("meta"):
            yield
    finally:
        handle.remove()
