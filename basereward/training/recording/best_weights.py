"""The weights of the best validation, its facts and the scores of its pairs in one file.

As one file they always belong to the same validation, also after the process was killed.

It is a file of safetensors. The facts are JSON in its metadata. The scores are a tensor of bytes, since metadata is
limited to 100 MB.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from basereward.errors import DamagedCheckpointError
from basereward.io.files import apply_umask, atomic_path, json_text, write_state

BEST = "best.safetensors"
CARD = "best"
"""The key of the metadata that has the card."""
SCORES = "basereward.val_scores"
"""The name of the tensor that has the text of the scores, UTF-8."""


def write_best_weights(
    file: Path, weights: Mapping[str, Tensor], *, card: Mapping[str, Any], scores: str | None = None
) -> None:
    """Write the file, whole or not at all.

    Args:
        file: replaced; its folder exists.
        weights: by name.
        card: facts of the validation.
        scores: the content of a file of `write_scores`; None: there are none.

    Raises:
        OSError, SafetensorError: it cannot be written.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / BEST
    >>> write_best_weights(file, {"weight": torch.ones(2)}, card={"step": 3}, scores="{}")
    >>> read_card(file), list(read_weights(file)), read_best_scores(file)
    ({'step': 3}, ['weight'], '{}')
    """
    tensors = dict(weights)
    if scores is not None:
        tensors[SCORES] = torch.frombuffer(bytearray(scores.encode()), dtype=torch.uint8) if scores else _no_bytes()
    write_tensors(file, tensors, metadata={CARD: json_text(card)})


def write_tensors(file: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as a file of safetensors, whole or not at all. Errors are those of `write_best_weights`.

    Args:
        file: replaced; its folder exists.
        tensors: by name, on any device.
        metadata: texts by name.
    """
    # safetensors stores no tensor with gaps between its values, and writes only to a path.
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(file) as partial:
        save_file(stored, partial, metadata=None if metadata is None else dict(metadata))
        apply_umask(partial)


def read_weights(file: Path) -> dict[str, Tensor]:
    """The weights by name, without the scores; on the CPU.

    Raises:
        DamagedCheckpointError: the file cannot be read.
    """
    with _damage_explained(file):
        return {name: weight for name, weight in load_file(file).items() if name != SCORES}


def read_card(file: Path) -> dict[str, Any] | None:
    """The card; None if the file has none, as those of earlier versions.

    Raises:
        DamagedCheckpointError: the file cannot be read.
    """
    with _damage_explained(file), safe_open(file, framework="pt") as weights:
        text = (weights.metadata() or {}).get(CARD)
        card: dict[str, Any] | None = None if text is None else json.loads(text)
        return card


def read_best_scores(file: Path) -> str | None:
    """The text of the scores; None if the file has none.

    Raises:
        DamagedCheckpointError: the file cannot be read.
    """
    with _damage_explained(file), safe_open(file, framework="pt") as weights:
        return bytes(weights.get_tensor(SCORES).numpy()).decode() if SCORES in set(weights.keys()) else None


def restore_scores(file: Path, target: Path) -> None:
    """Write the scores of the best validation again: a run that was killed after it wrote the weights lacks them.

    Args:
        file: of `write_best_weights`. Without scores in it, nothing is written.
        target: the file of the scores.
    """
    scores = read_best_scores(file) if file.exists() else None
    if scores is not None:
        write_state(target, scores)


@contextmanager
def _damage_explained(file: Path) -> Iterator[None]:
    """
    Raises:
        DamagedCheckpointError: the file cannot be read.
    """
    try:
        yield
    except (OSError, SafetensorError, ValueError) as error:
        raise DamagedCheckpointError(f"the checkpoint '{file}' is damaged: {error}. Start a new run") from error


def _no_bytes() -> Tensor:
    return torch.empty(0, dtype=torch.uint8)
