"""`reward_model.json`, the card of a saved model. Every value is checked, because the file may come from anybody."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from basereward.data.encoding.content_hash import hash_differences
from basereward.errors import ModelError
from basereward.io.limits import check_format, read_json_object
from basereward.model.saving.identity import read_identity

CARD = "reward_model.json"
# Raised when older versions could not read what a new version writes.
FORMAT = 1
# What was trained: all weights of the backbone, adapters, or only the head.
KINDS = ("full", "adapter", "head")
DTYPES = ("float32", "bfloat16", "float16")
QUANTIZATIONS = (None, "nf4", "int8")

# For every key a check of its value, and for the message the values that it allows.
Checks: TypeAlias = dict[str, tuple[Callable[[Any], bool], str]]


def read_card(folder: Path) -> dict[str, Any]:
    """Reads and checks `reward_model.json`.

    Raises:
        ModelError: the folder is not a saved reward model, it has a later format, or values of the card have a wrong
            type or are not allowed; the message names each of them.

    >>> read_card(Path("no folder"))
    Traceback (most recent call last):
        ...
    basereward.errors.ModelError: 'no folder' is not a saved reward model: it has no reward_model.json (found: no ...
    """
    path = folder / CARD
    if not path.is_file():
        # Some names of files show at once that the parent or a sibling of the right folder was given.
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
        raise ModelError(
            f"'{folder}' is not a saved reward model: it has no {CARD} (found: {found or 'nothing'}). "
            "Give a run id, runs:/<run id>, or the folder `model` of a run."
        )
    card = read_json_object(path, error=ModelError)
    check_format(card, newest=FORMAT, where=f"'{path}'", error=ModelError)
    if faults := [*_card_faults(card), *_backbone_faults(card)]:
        raise ModelError(f"'{path}' is damaged:\n  " + "\n  ".join(faults) + "\nCopy the folder again.")
    # Cards of the first version have no such key; no version has written null.
    if "identity" in card:
        read_identity(card["identity"], where=f"'{path}'")
    return card


def backbone_differences(card: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The differences between the backbones of two saved models, as texts; an empty list if they are equal.

    Tokenizer, chat template and image processor are compared if both cards have their hashes.

    >>> card = {"identity": None, "backbone": {"fingerprint": "a"}}
    >>> backbone_differences(card, {"identity": None, "backbone": {"fingerprint": "b"}})
    ['the weights differ']
    """
    hashes = (card.get("identity") or {}).get("hashes", {})
    other_hashes = (other.get("identity") or {}).get("hashes", {})
    if differences := hash_differences(hashes, other_hashes):
        return differences
    if hashes.get("weights") and other_hashes.get("weights"):
        return []
    # Cards of earlier versions have no hashes, only a fingerprint of some values.
    same = card["backbone"]["fingerprint"] == other["backbone"]["fingerprint"]
    return [] if same else ["the weights differ"]


def _card_faults(card: dict[str, Any]) -> list[str]:
    checks: Checks = {
        "kind": (lambda value: value in KINDS, f"one of {', '.join(KINDS)}"),
        "head": (_is_node, "an object with _target_"),
        "backbone": (lambda value: isinstance(value, dict), "an object"),
        "scores": (_is_numbers, "an object of finite numbers"),
    }
    return _faults(card, checks)


def _backbone_faults(card: dict[str, Any]) -> list[str]:
    backbone = card.get("backbone")
    if not isinstance(backbone, dict):
        return []
    # The backbone of a `full` model is in the folder itself and needs no path.
    in_folder = card.get("kind") == "full"
    checks: Checks = {
        "path": (lambda value: isinstance(value, str) or (in_folder and value is None), "a hub id or a folder"),
        "revision": (_is_text_or_null, "text or null"),
        "fingerprint": (_is_text_or_null, "text or null"),
        "dtype": (lambda value: value in DTYPES, f"one of {', '.join(DTYPES)}"),
        "quantization": (lambda value: value in QUANTIZATIONS, "one of null, nf4, int8"),
    }
    # Cards of earlier versions, and of models whose backbone is elsewhere, have no such key.
    if "hashes" in backbone:
        checks["hashes"] = (_is_text_mapping, "an object of texts")
    return [f"backbone.{fault}" for fault in _faults(backbone, checks)]


def _faults(values: dict[str, Any], checks: Checks) -> list[str]:
    """A message for every key that is missing or has a value that is not allowed.

    >>> _faults({"kind": 3}, {"kind": (_is_text_or_null, "text or null")})
    ["kind is '3'; text or null is needed"]
    """
    faults = []
    for key, (check, allowed) in checks.items():
        if key not in values:
            faults.append(f"{key} is missing; {allowed} is needed")
        elif not check(values[key]):
            faults.append(f"{key} is {str(values[key])[:80]!r}; {allowed} is needed")
    return faults


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("_target_"), str)


def _is_text_or_null(value: Any) -> bool:
    return isinstance(value, str | None)


def _is_text_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _is_numbers(value: Any) -> bool:
    """Whether a value is an object whose values are finite numbers; Python's parser of JSON reads NaN too.

    >>> _is_numbers({"mean": 0.5}), _is_numbers({"mean": True})  # in Python a bool is an int
    (True, False)
    >>> _is_numbers({"mean": float("nan")}), _is_numbers({"mean": 10**400})
    (False, False)
    """
    return isinstance(value, dict) and all(_is_finite(number) for number in value.values())


def _is_finite(number: Any) -> bool:
    # `abs(number) <= max` is false for NaN and infinity, and an integer is never converted.
    return isinstance(number, int | float) and not isinstance(number, bool) and abs(number) <= sys.float_info.max
