"""Decodes cells by their features of the `datasets` library.

Rows are read as Arrow tables, so that images stay undecoded bytes or paths. The library then decodes nothing, so JSON
would remain text and a class its index; this module decodes these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from basereward.data.readers.json_lines import decode_json
from basereward.data.schema.rejections import RowRejected

if TYPE_CHECKING:
    import datasets

Decoder: TypeAlias = Callable[[Any], Any]

# Features whose Arrow value equals the decoded value. `Image` is one of them, because we open the bytes or path
# ourselves: the library would decode every image at every access to a row.
STORED_AS_SHOWN = (
    "Value", "Translation", "TranslationVariableLanguages", "Array2D", "Array3D", "Array4D", "Array5D", "Image",
)  # fmt: skip
NESTED = ("List", "LargeList")
DECODED = ("ClassLabel", "Json")


def row_decoders(features: datasets.Features) -> dict[str, Decoder]:
    """Return the decoder of each column that needs one.

    Rows with a value of an unknown feature (audio, video, documents, features of later versions) are rejected, because
    training on the rest of such a row would ignore a part of its prompt.

    >>> import datasets
    >>> label = datasets.ClassLabel(names=["A", "B"])
    >>> decoders = row_decoders(datasets.Features({"prompt": datasets.Value("string"), "label": label}))
    >>> {column: decode(1) for column, decode in decoders.items()}
    {'label': 'B'}
    """
    decoders = {column: _decoder(feature, where=f"column '{column}'") for column, feature in features.items()}
    return {column: decoder for column, decoder in decoders.items() if decoder is not None}


def _decoder(feature: Any, *, where: str) -> Decoder | None:
    """Return a picklable decoder, or None if the value needs no decoding."""
    if isinstance(feature, Mapping):
        return _struct_decoder(feature, where=where)
    # By name, because features of this version may be missing in other versions of the library.
    name = type(feature).__name__
    if name in STORED_AS_SHOWN:
        return None
    if name in NESTED:
        item = _decoder(feature.feature, where=where)
        return None if item is None else partial(_list, item)
    if name == "Json":
        return partial(_json, where)
    if name == "ClassLabel":
        return partial(_class_name, tuple(feature.names or ()))
    return partial(_refuse, name, where)


def _struct_decoder(fields: Mapping[str, Any], *, where: str) -> Decoder | None:
    """Return the decoder of a feature with named fields, or None if no field needs decoding."""
    decoders = {name: _decoder(feature, where=where) for name, feature in fields.items()}
    needed = {name: decoder for name, decoder in decoders.items() if decoder is not None}
    return partial(_struct, needed) if needed else None


def _struct(fields: Mapping[str, Decoder], value: Any) -> Any:
    if value is None:
        return None
    return {name: fields[name](inner) if name in fields else inner for name, inner in value.items()}


def _list(item: Decoder, value: Any) -> Any:
    return None if value is None else [item(inner) for inner in value]


def _json(where: str, value: Any) -> Any:
    if value is None:
        return None
    try:
        return decode_json(value)
    except RowRejected as rejection:
        raise RowRejected(rejection.reason, f"{where}: {rejection.detail}") from None


def _class_name(names: Sequence[str], value: Any) -> Any:
    """Return the name of a class; the library stores -1 for a missing one."""
    if value is None or value == -1:
        return None
    return names[value] if 0 <= value < len(names) else value


def _refuse(kind: str, where: str, value: Any) -> Any:
    if value is None:
        return None
    detail = (
        f"{where} has the feature {kind} of `datasets`; only text, numbers, JSON and images are read. If the rows are "
        "complete without it, remove the column with `remove_columns`"
    )
    raise RowRejected("unsupported_feature", detail)
