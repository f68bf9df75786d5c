"""A reward model as one folder: no pickle, the head included, nothing guessed when it is read again.

reward_model.json   what kind of folder it is, the head's node, where the backbone comes from, the spread of the scores
recipe.yaml         the run's recipe
head.safetensors    the head
language.safetensors the language head, where the head speaks and it is in no other file
prompt.txt           what a head that speaks asks
backbone/           the whole backbone with tokenizer and image processor, in the hub's format; or
adapter/            the adapters alone, in peft's format; or neither, when only the head was trained
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from basereward.data.encoding import Encoder
from basereward.errors import CheckpointError, ModelError
from basereward.model.backbone import Backbone, load_backbone, quiet_transformers
from basereward.model.casting import cast, cast_backbone, find_dtype
from basereward.model.language import WEIGHT, LanguageHead, load_language_head
from basereward.model.pooling import Pooling
from basereward.model.reward import RewardModel
from basereward.model.voice import speaks
from basereward.recipe import make, recipe_from_yaml, recipe_yaml
from basereward.recipe.schema import Recipe

CARD = "reward_model.json"
LANGUAGE = "language.safetensors"
PROMPT = "prompt.txt"
FORMAT = 1
Kind = Literal["full", "adapter", "head"]


def kind_of(model: RewardModel) -> Kind:
    """What has to be saved: the backbone when its own weights were trained, else adapters, else the head alone."""
    if isinstance(model.backbone.model, PeftModel):
        return "adapter"
    own = any(p.requires_grad for p in model.backbone.parameters())
    return "full" if own or model.backbone.merged else "head"


def save_model(
    model: RewardModel, folder: Path, *, recipe: Recipe, encoder: Encoder, scores: Mapping[str, float] | None = None
) -> None:
    """Writes the folder; it appears whole or not at all, and takes the place of an older one.

    Args:
        model: trained.
        folder: where.
        recipe: the run's.
        encoder: whose tokenizer and image processor go with a whole backbone.
        scores: mean and standard deviation of the scores on validation data.

    Raises:
        CheckpointError: it cannot be written, on a full disk for example.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with quiet_transformers():
            _write(model, partial, recipe=recipe, encoder=encoder, scores=scores or {})
        partial.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        partial.replace(folder)
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"the model cannot be saved in '{folder}': {error}. Make room, and save it again."
        ) from error


def _write(model: RewardModel, folder: Path, *, recipe: Recipe, encoder: Encoder, scores: Mapping[str, float]) -> None:
    kind, backbone = kind_of(model), model.backbone
    card = {
        "format": FORMAT,
        "kind": kind,
        "head": recipe.model.head,
        "backbone": {
            "path": None if kind == "full" else backbone.origin.path,
            "revision": None if kind == "full" else backbone.origin.revision,
            "fingerprint": None if kind == "full" else backbone.origin.fingerprint,
            "dtype": str(backbone.transformer.dtype).removeprefix("torch."),
            "quantization": backbone.quantization,
        },
        "scores": dict(scores),
    }
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n")
    (folder / "recipe.yaml").write_text(recipe_yaml(recipe))
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in model.head.state_dict().items()}, folder / "head.safetensors"
    )
    if model.language is not None and model.language.weight is not None and kind == "full":
        save_file({WEIGHT: model.language.weight.detach().cpu().contiguous()}, folder / LANGUAGE)
    if speaks(model.head):
        # Files of prompts change and move; the model's own stays with it.
        speech: Any = model.head.speech
        (folder / PROMPT).write_text(speech.text, encoding="utf-8")
    if kind == "adapter":
        backbone.model.save_pretrained(str(folder / "adapter"), save_embedding_layers=False)
    elif kind == "full":
        backbone.transformer.save_pretrained(folder / "backbone")
        encoder.tokenizer.save_pretrained(folder / "backbone")  # type: ignore[attr-defined]
        if encoder.image_processor is not None:
            encoder.image_processor.save_pretrained(folder / "backbone")


def read_card(folder: Path) -> dict[str, Any]:
    """The contents of `reward_model.json`.

    Raises:
        ModelError: the folder is not a saved reward model, or of a later format.
    """
    path = folder / CARD
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
        raise ModelError(
            f"'{folder}' is not a saved reward model: it has no {CARD} (found: {found or 'nothing'}). "
            "Give a run id, runs:/<run id>, or the folder `model` of a run."
        )
    try:
        card: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ModelError(f"'{path}' is not JSON: {error}") from error
    if card.get("format") != FORMAT:
        raise ModelError(
            f"'{folder}' has format {card.get('format')}; this version reads format {FORMAT}. Update the package."
        )
    return card


def load_reward_model(folder: Path, *, dtype: str | None = None) -> tuple[RewardModel, Recipe, str]:
    """The model of a saved folder, its recipe, and the path its tokenizer is found at.

    Args:
        dtype: what the backbone's weights are rounded to, `float32` or `bfloat16`; None leaves them.

    Raises:
        ModelError: the folder is not a saved model, the backbone it was trained on is gone or another one, weights
            are missing, too many or of another shape, or they cannot take the dtype.
    """
    wanted = None if dtype is None else find_dtype(dtype)
    card, recipe = read_card(folder), recipe_from_yaml(folder / "recipe.yaml")
    origin = card["backbone"]
    path = str(folder / "backbone") if card["kind"] == "full" else origin["path"]
    backbone = load_backbone(
        path,
        revision=origin["revision"],
        dtype=getattr(torch, origin["dtype"]),
        quantization=origin["quantization"],
        trust_remote_code=recipe.model.backbone.trust_remote_code,
        complete=card["kind"] == "full",
    )
    if origin["fingerprint"] not in (None, backbone.origin.fingerprint):
        raise ModelError(
            f"the backbone at '{path}' is not the one that '{folder}' was trained on: its weights differ. "
            "Put the old one back, or train again."
        )
    if wanted is not None:
        cast_backbone(backbone, wanted)
    head = load_head(folder, hidden_size=backbone.hidden_size)
    if card["kind"] == "adapter":
        backbone.model = _load_adapter(backbone.transformer, folder / "adapter")
        if wanted is not None:
            cast(backbone.model, wanted)
    backbone.merged = card["kind"] == "full"
    language = _language(folder, card, backbone, path=path) if speaks(head) else None
    model = RewardModel(backbone, head, language=language, pooling=Pooling(recipe.model.pooling))
    return model.eval(), recipe, path


def load_head(folder: Path, *, hidden_size: int) -> nn.Module:
    """The head of a saved folder.

    Raises:
        ModelError: its weights are missing, too many or of another shape.
    """
    head = make(saved_head(folder, read_card(folder)), "heads", hidden_size)
    assert isinstance(head, nn.Module)
    _load_exactly(head.state_dict(), folder / "head.safetensors")
    return head


def saved_head(folder: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """The head's node, with the prompt that was saved."""
    kept = folder / PROMPT
    node: dict[str, Any] = card["head"]
    return node | {"prompt_file": str(kept)} if kept.is_file() else node


def _language(folder: Path, card: Mapping[str, Any], backbone: Backbone, *, path: str) -> LanguageHead:
    """The language head that was saved, or that of the backbone's checkpoint."""
    config, dtype = backbone.transformer.config, backbone.transformer.dtype
    embedding: Any = backbone.transformer.get_input_embeddings()
    if card["kind"] != "full":
        revision = card["backbone"]["revision"]
        return load_language_head(path, config, embedding=embedding.weight, revision=revision, dtype=dtype)
    if config.tie_word_embeddings and not (folder / LANGUAGE).is_file():
        return LanguageHead()
    own = {WEIGHT: torch.empty(embedding.weight.shape, dtype=dtype)}
    _load_exactly(own, folder / LANGUAGE)
    return LanguageHead(own[WEIGHT])


def _load_adapter(transformer: Any, folder: Path) -> PeftModel:
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(f"'{folder}' has no adapter_config.json; the folder was not copied whole")
    with quiet_transformers():
        model = PeftModel.from_pretrained(transformer, str(folder))
    _load_exactly(get_peft_model_state_dict(model), folder / "adapter_model.safetensors")
    return model


def _load_exactly(own: Mapping[str, Tensor], path: Path) -> None:
    """Copies a file's weights over `own`; every difference in names or shapes is an error."""
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"'{path}' cannot be read: {error}") from error
    faults = copy_exactly(own, saved)
    if faults:
        raise ModelError(f"'{path}' does not fit the model:\n  " + "\n  ".join(faults))


def copy_exactly(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Copies `given` over `own` when names and shapes agree; else copies nothing and returns every difference."""
    faults = [f"missing: {name}" for name in own.keys() - given.keys()]
    faults += [f"not in the model: {name}" for name in given.keys() - own.keys()]
    faults += [
        f"{name} has shape {tuple(given[name].shape)}, the model has {tuple(own[name].shape)}"
        for name in own.keys() & given.keys()
        if own[name].shape != given[name].shape
    ]
    if not faults:
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(given[name])
    return sorted(faults)
