"""Finds the description of a family by the `model_type` of a configuration."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from transformers import PreTrainedConfig

from basereward.model.families import supported
from basereward.model.families.backbone_family import BackboneFamily, VisionFamily

TEXT_ONLY = BackboneFamily()


@functools.cache
def vision_families() -> tuple[VisionFamily, ...]:
    """All families that read images: the constants `FAMILY` of the files in `families/supported`.

    >>> [type(family).__name__ for family in vision_families()]
    ['InternVL', 'QwenVL']
    """
    families: list[VisionFamily] = []
    for file in sorted(module.name for module in pkgutil.iter_modules(supported.__path__)):
        family = importlib.import_module(f"{supported.__name__}.{file}").FAMILY
        assert isinstance(family, VisionFamily), file
        families.append(family)
    return tuple(families)


def vision_types() -> tuple[str, ...]:
    """Every `model_type` that reads images.

    >>> vision_types()
    ('internvl', 'qwen2_5_vl', 'qwen2_vl', 'qwen3_vl')
    """
    types: list[str] = []
    for family in vision_families():
        types += family.model_types
    return tuple(types)


def liger_types() -> tuple[str, ...]:
    """Every `model_type` for whose decoder layers Liger has kernels.

    >>> "qwen2_5_vl" in liger_types(), "bloom" in liger_types()
    (True, False)
    """
    types = list(TEXT_ONLY.liger_types)
    for family in vision_families():
        types += family.liger_types
    return tuple(sorted(types))


def find_family(config: PreTrainedConfig) -> BackboneFamily:
    """The family of a configuration; the text-only one for every type that is not listed.

    >>> find_family(PreTrainedConfig()).reads_images
    False
    """
    for family in vision_families():
        if config.model_type in family.model_types:
            return family
    return TEXT_ONLY


def vision_family(config: PreTrainedConfig) -> VisionFamily:
    """The family of a configuration that reads images.

    >>> from transformers import Qwen2_5_VLConfig
    >>> vision_family(Qwen2_5_VLConfig()).unquantized_modules
    ('visual',)
    """
    family = find_family(config)
    assert isinstance(family, VisionFamily), f"a {config.model_type} model reads no images"
    return family
