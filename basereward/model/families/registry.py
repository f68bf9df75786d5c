"""Finds the description of a family by the `model_type` of a configuration.

A family is a file with a constant `FAMILY`. Those of this package are in `families/supported`. A file of the user is in
a folder `basereward_families` beside the modules that Python finds, such as the working directory; it is imported only
inside a `trusting()` block.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator

from transformers import PreTrainedConfig

from basereward.errors import ModelError
from basereward.model.families import supported
from basereward.model.families.backbone_family import BackboneFamily, VisionFamily
from basereward.recipe.trust import is_trusted

TEXT_ONLY = BackboneFamily()
USER_PACKAGE = "basereward_families"
"""The folder of a user's families. A namespace package: it needs no `__init__.py`, and may lie in several places."""

_user_families: dict[str, VisionFamily] = {}
"""The user's families that this process has imported, by module."""


def vision_families() -> tuple[VisionFamily, ...]:
    """All families that read images: those of this package, and those of the user that were imported with trust."""
    # The user's without trust too: a model that was built in a `trusting` block is trained and scored outside of it.
    return (*_supported_families(), *_user_families.values())


@functools.cache
def _supported_families() -> tuple[VisionFamily, ...]:
    families: list[VisionFamily] = []
    for name in _module_names(supported.__name__):
        family = importlib.import_module(name).FAMILY
        assert isinstance(family, VisionFamily), name
        families.append(family)
    return tuple(families)


def import_user_families() -> None:
    """Import the families of the user that are not imported yet; without trust do nothing.

    It is called when a checkpoint is opened, and not by `vision_families`, which is asked for every weight of a model.

    Raises:
        ModelError: a file cannot be imported, or does not describe a new family.
    """
    if not is_trusted():
        return
    # Python keeps the listings of the folders on its path, and would miss a file written after the last search.
    importlib.invalidate_caches()
    for name in _module_names(USER_PACKAGE):
        if name not in _user_families:
            _user_families[name] = _user_family(name)


def _module_names(package: str) -> Iterator[str]:
    """Full names of the modules of a package, sorted; none when there is no such package."""
    try:
        folders = importlib.import_module(package).__path__
    except ModuleNotFoundError:
        return
    for module in sorted(pkgutil.iter_modules(folders), key=lambda module: module.name):
        yield f"{package}.{module.name}"


def _user_family(name: str) -> VisionFamily:
    """Import one family of the user.

    Raises:
        ModelError: the module cannot be imported, has no `FAMILY`, or describes a type that already has a family.
    """
    try:
        module = importlib.import_module(name)
    except Exception as error:
        # A module of the user may raise anything.
        raise ModelError(f"module '{name}' cannot be imported: {type(error).__name__}: {error}") from error
    family = getattr(module, "FAMILY", None)
    if not isinstance(family, VisionFamily):
        raise ModelError(
            f"module '{name}' has no constant FAMILY that is a VisionFamily; see the files in "
            "basereward/model/families/supported"
        )
    known: set[str] = set()
    for other in (*_supported_families(), *_user_families.values()):
        known.update(other.model_types)
    # The first family of a type would be taken in silence, and the user's file would have no effect.
    taken = sorted(known.intersection(family.model_types))
    if taken:
        raise ModelError(f"module '{name}' describes {', '.join(taken)}, which another family describes already")
    return family


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
