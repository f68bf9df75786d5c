"""`reward_model.json`, the card of a saved model. Every value is checked: anybody may have written the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from basereward.data.encoding.content_hash import hash_differences
from basereward.errors import ModelError
from basereward.io.limits import read_json_object
from basereward.model.saving.identity import read_identity

CARD = "reward_model.json"
FORMAT = 1
KINDS = ("full", "adapter", "head")
DTYPES = ("float32", "bfloat16", "float16")
QUANTIZATIONS = (None, "nf4", "int8")


def read_card(folder: Path) -> dict[str, Any]:
    """Reads and checks `reward_model.json`.

    Raises:
        ModelError: the folder is not a saved reward model, it has a later format, or values of the card have a wrong
            type or are not allowed; the message names each of them.
    """
    path = folder / CARD
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
        raise ModelError(
            f"'{folder}' is not a saved reward model: it has no {CARD} (found: {found or 'nothing'}). "
            "Give a run id, runs:/<run id>, or the folder `model` of a run."
        )
    card = read_json_object(path, error=ModelError)
    if card.get("format") != FORMAT:
        raise ModelError(
            f"'{folder}' has format {str(card.get('format'))[:80]}; this version reads format {FORMAT}. "
            "Update the package."
        )
    if faults := [*_card_faults(card), *_backbone_faults(card)]:
        raise ModelError(f"'{path}' is damaged:\n  " + "\n  ".join(faults) + "\nCopy the folder again.")
    if card.get("identity") is not None:
        read_identity(card["identity"], where=f"'{path}'")
    return card


def backbone_differences(card: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The differences of the backbones of two saved models, as texts; an empty list if they are equal.

    Tokenizer, chat template and image processor are compared if both cards have their hashes.
    """
    hashes = [(each.get("identity") or {}).get("hashes", {}) for each in (card, other)]
    if faults := hash_differences(*hashes):
        return faults
    if all(each.get("weights") for each in hashes):
        return []
    fingerprints = [each["backbone"]["fingerprint"] for each in (card, other)]
    return [] if fingerprints[0] == fingerprints[1] else ["the weights differ"]


def _card_faults(card: dict[str, Any]) -> list[str]:
    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        "kind": (lambda value: value in KINDS, f"one of {', '.join(KINDS)}"),
        "head": (_is_node, "an object with _target_"),
        "backbone": (lambda value: isinstance(value, dict), "an object"),
        "scores": (_is_numbers, "an object of numbers"),
    }
    return _faults(card, checks)


def _backbone_faults(card: dict[str, Any]) -> list[str]:
    backbone = card.get("backbone")
    if not isinstance(backbone, dict):
        return []
    own = card.get("kind") == "full"
    text_or_null: Callable[[Any], bool] = lambda value: isinstance(value, str | None)  # noqa: E731
    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        "path": (lambda value: isinstance(value, str) or (own and value is None), "a hub id or a folder"),
        "revision": (text_or_null, "text or null"),
        "fingerprint": (text_or_null, "text or null"),
        "dtype": (lambda value: value in DTYPES, f"one of {', '.join(DTYPES)}"),
        "quantization": (lambda value: value in QUANTIZATIONS, "one of null, nf4, int8"),
    }
    return [f"backbone.{fault}" for fault in _faults(backbone, checks)]


def _faults(values: dict[str, Any], checks: dict[str, tuple[Callable[[Any], bool], str]]) -> list[str]:
    faults = []
    for key, (check, allowed) in checks.items():
        if key not in values:
            faults.append(f"{key} is missing; {allowed} is needed")
        elif not check(values[key]):
            faults.append(f"{key} is {str(values[key])[:80]!r}; {allowed} is needed")
    return faults


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("_target_"), str)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in value.values()
    )
