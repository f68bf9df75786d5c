"""A package that teaches vLLM the class of an exported model.

vLLM converts a head by itself only if it is one linear layer without bias, called `score`. Every other head needs a
class that a package registers through the entry point `vllm.general_plugins`.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from string import Template

from transformers import PreTrainedConfig

from basereward.errors import ModelError
from basereward.inference.export.modeling_reward import BaseRewardForSequenceClassification
from basereward.io.files import write_atomic

PLUGIN_FOLDER = "vllm_plugin"
TEXT_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""vLLM's classes of text backbones by `model_type`, each in the module of the same name."""
IMAGE_CLASSES = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
"""How the names of vLLM's classes begin for backbones that read images."""


def check_plugin(config: PreTrainedConfig) -> None:
    """Checks that there is a class of vLLM to build on.

    Raises:
        ModelError: there is none for this family.

    >>> check_plugin(PreTrainedConfig())
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: --format vllm: there is no plug-in for the family ''; ...
    """
    known = sorted(TEXT_CLASSES.keys() | IMAGE_CLASSES.keys())
    if config.model_type not in known:
        raise ModelError(
            f"--format vllm: there is no plug-in for the family '{config.model_type}'; there is one for "
            f"{', '.join(known)}. Take --format hf, or use `basereward serve`"
        )


def write_plugin(folder: Path, config: PreTrainedConfig) -> None:
    """Writes the package beside the files of a model.

    Args:
        folder: of the exported model.
        config: of its transformer, of a family that `check_plugin` accepts.
    """
    package = folder / PLUGIN_FOLDER / "basereward_vllm"
    package.mkdir(parents=True)
    names = _names(config.model_type)
    sources = files(__package__) / "vllm_files"
    for source, target in (
        ("pyproject.txt", package.parent / "pyproject.toml"),
        ("init.txt", package / "__init__.py"),
        ("model.txt", package / "model.py"),
    ):
        text = (sources / source).read_text(encoding="utf-8")
        write_atomic(target, Template(text).substitute(names))


def _names(model_type: str) -> dict[str, str]:
    """What stands in place of the names with a dollar sign.

    >>> _names("qwen3")["imports"]
    'from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM'
    """
    names = {"architecture": BaseRewardForSequenceClassification.__name__}
    module = f"vllm.model_executor.models.{model_type}"
    if model_type in TEXT_CLASSES:
        base = TEXT_CLASSES[model_type]
        return names | {"base": base, "decorator": "", "imports": f"from {module} import {base}"}
    prefix = IMAGE_CLASSES[model_type]
    parts = [f"{prefix}{part}" for part in ("DummyInputsBuilder", "MultiModalProcessor", "ProcessingInfo")]
    dummy, processor, info = parts
    base = f"{prefix}ForConditionalGeneration"
    imported = ",\n    ".join(sorted([*parts, base]))
    return names | {
        "base": base,
        "decorator": f"@MULTIMODAL_REGISTRY.register_processor({processor}, info={info}, dummy_inputs={dummy})",
        "imports": f"from {module} import (\n    {imported},\n)\nfrom vllm.multimodal import MULTIMODAL_REGISTRY",
    }
