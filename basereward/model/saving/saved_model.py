"""Saves a reward model in one folder, without pickles, and opens it again.

reward_model.json    kind of folder, configuration of the head, origin of the backbone, spread of the scores
recipe.yaml          recipe of the run
head.safetensors     weights of the head
language.safetensors weights of the language-model head, if the head is generative and no other file has them
prompt.txt           prompt of a generative head
backbone/            the backbone with tokenizer and image processor, in the hub's format, if its weights were trained
adapter/             the adapters in peft's format, if adapters were trained
processor/           tokenizer, chat template and image processor, if there is no backbone/
"""

from __future__ import annotations

import fnmatch
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from basereward.data.encoding.content_hash import hash_differences
from basereward.data.encoding.encoder import Encoder
from basereward.errors import ModelError, RecipeError
from basereward.io.files import json_text, write_atomic
from basereward.io.limits import check_regular_file
from basereward.io.outputs import check_replaceable, foreign_files
from basereward.model.backbone import Backbone, load_backbone, quiet_transformers
from basereward.model.families.lm_head import WEIGHT, LanguageHead, load_language_head
from basereward.model.families.processing import recipe_encoder
from basereward.model.heads.contracts import GenerativeHead, is_generative
from basereward.model.lora import prepare_adapters
from basereward.model.meta_device import build_on_meta_device
from basereward.model.pooling import Pooling
from basereward.model.reward_model import RewardModel
from basereward.model.saving.card import CARD, FORMAT, read_card
from basereward.model.saving.casting import cast, cast_backbone, find_dtype
from basereward.model.saving.folder_checks import (
    PARAMETERS_PER_TENSOR,
    Shapes,
    bounded_parameters,
    check_adapter,
    explained,
    load_finite,
    tensor_shapes,
)
from basereward.model.saving.identity import BackboneIdentity, checkpoint_identity, read_identity
from basereward.model.saving.whole_folder import whole_folder
from basereward.recipe import make, recipe_from_yaml, recipe_yaml
from basereward.recipe.schema import Recipe

logger = logging.getLogger(__name__)

HEAD = "head.safetensors"
MODEL_CARD = "README.md"
CARD_MARK = b"\n- basereward\n"
"""A tag in the metadata of every model card that this project writes."""
CARD_HEAD = 4096
"""Bytes of a model card that hold its metadata."""
LANGUAGE = "language.safetensors"
PROMPT = "prompt.txt"
PROCESSOR = "processor"
# The second line is what makes the folder a model of MLflow.
FILES = (
    *(CARD, "recipe.yaml", HEAD, LANGUAGE, PROMPT),
    *("MLmodel", "input_example.json", "serving_input_example.json", "python_env.yaml", "requirements.txt"),
)
PROCESSOR_FILES = (
    *("*tokenizer*.json", "*.model", "*vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template*", "*processor_config.json", "*.py"),
)
FOLDERS: dict[str, tuple[str, ...]] = {
    # The folder of a backbone is a whole checkpoint, with the files of its processor.
    "backbone": (
        *("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"),
        *PROCESSOR_FILES,
    ),
    "adapter": ("adapter_config.json", "adapter_model.safetensors", "README.md"),
    PROCESSOR: PROCESSOR_FILES,
}
"""The folders of a saved model, with patterns of the files that transformers and peft write into them."""
# A head may have this many parameters more than its file allows for, such as buffers that are not saved.
SPARE_PARAMETERS = 16
ModelKind = Literal["full", "adapter", "head"]


def kind_of(model: RewardModel) -> ModelKind:
    """What must be saved: the backbone if its own weights were trained, otherwise the adapters, otherwise the head."""
    # Adapters first: peft freezes the weights below them, and a merged backbone has no adapters left.
    if isinstance(model.backbone.model, PeftModel):
        return "adapter"
    own = any(p.requires_grad for p in model.backbone.parameters())
    return "full" if own or model.backbone.merged else "head"


def save_model(
    model: RewardModel,
    folder: Path,
    *,
    recipe: Recipe,
    encoder: Encoder,
    scores: Mapping[str, float] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes the folder of a model atomically; it replaces an older saved model.

    Args:
        model: trained.
        folder: where to write; a folder with anything but a saved model is rejected and not changed.
        recipe: of the run.
        encoder: its tokenizer, chat template and image processor are saved with the model.
        scores: mean and standard deviation of the scores on validation data.
        weights: all weights of the model by name, if it holds only a part of them itself; None: its own.

    Raises:
        ModelError: the folder has files that `save_model` does not write, or is or contains the working folder or the
            home folder; or it holds the backbone that the model was trained from.
        CheckpointError: the folder cannot be written, for example because the disk is full.
    """
    check_replaceable(folder, foreign=foreign_model_files, error=ModelError)
    folder = Path(os.path.abspath(folder))
    if kind_of(model) != "full" and Path(model.backbone.origin.path).is_relative_to(folder):
        # Replacing the folder would delete weights that the saved model needs.
        raise ModelError(
            f"'{folder}' holds the backbone of the model ({model.backbone.origin.path}); give another folder"
        )
    with whole_folder(folder, content="model", advice="Free disk space, and save it again.") as partial:
        state = model.state_dict() if weights is None else dict(weights)
        _write(model, partial, state, recipe=recipe, encoder=encoder, scores=scores or {})


def foreign_model_files(folder: Path) -> list[str]:
    """The files in a folder that `save_model` does not write; all files if the folder is not a saved model.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> written = [(folder / name).write_text("{}") for name in ("notes.txt", CARD)]
    >>> foreign_model_files(folder)
    ['notes.txt']
    """
    is_model = (folder / CARD).is_file()

    def is_own(name: str) -> bool:
        top, _, inner = name.partition("/")
        known = any(fnmatch.fnmatchcase(inner, pattern) for pattern in FOLDERS.get(top, ()))
        own_card = name == MODEL_CARD and is_own_card(folder)
        return is_model and (name in FILES or own_card or ("/" not in inner and known))

    return foreign_files(folder, is_own)


def is_own_card(folder: Path) -> bool:
    """Whether README.md of a folder is a model card that this project wrote; a page of the user is never replaced.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / MODEL_CARD).write_text("# Notes")
    >>> is_own_card(folder)
    False
    """
    with (folder / MODEL_CARD).open("rb") as file:
        return CARD_MARK in file.read(CARD_HEAD)


def _write(
    model: RewardModel,
    folder: Path,
    weights: Mapping[str, Tensor],
    *,
    recipe: Recipe,
    encoder: Encoder,
    scores: Mapping[str, float],
) -> None:
    """Writes all files of a saved model into an empty folder."""
    kind, backbone = kind_of(model), model.backbone
    (folder / "recipe.yaml").write_text(recipe_yaml(_with_absolute_path(recipe)), encoding="utf-8")
    save_file({k: v.detach().cpu().contiguous() for k, v in _below(weights, "head.").items()}, folder / HEAD)
    if model.language is not None and model.language.weight is not None and kind == "full":
        save_file({WEIGHT: weights["language.weight"].detach().cpu().contiguous()}, folder / LANGUAGE)
    if isinstance(model.head, GenerativeHead):
        # The file of a prompt may change or move later, and the scores depend on its text.
        (folder / PROMPT).write_text(model.head.branch_template.text, encoding="utf-8")
    if kind == "adapter":
        # The default "auto" asks the hub for the configuration of the backbone, to see whether the vocabulary changed.
        adapters = _below(weights, "backbone.model.")
        backbone.model.save_pretrained(str(folder / "adapter"), save_embedding_layers=False, state_dict=adapters)
    elif kind == "full":
        backbone.transformer.save_pretrained(folder / "backbone", state_dict=_below(weights, "backbone.model."))
    _save_processor(encoder, folder / ("backbone" if kind == "full" else PROCESSOR))
    card = _card(model, recipe=recipe, encoder=encoder, scores=scores)
    if kind == "full":
        card["backbone"]["hashes"] = _own_hashes(folder)
    write_atomic(folder / CARD, json_text(card, indent=2) + "\n")


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights of a module, by the names that they have in it.

    >>> list(_below({"head.bias": torch.zeros(1), "language.weight": torch.zeros(1)}, "head."))
    ['bias']
    """
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


def _save_processor(encoder: Encoder, folder: Path) -> None:
    """Saves tokenizer, chat template and image processor, so that later changes of the backbone's have no effect."""
    encoder.tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    if encoder.image_processor is not None:
        encoder.image_processor.save_pretrained(folder)
    if encoder.videos is not None:
        encoder.videos.save_pretrained(folder)


def _own_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of the weights and of `config.json` of the backbone in the folder of a saved model."""
    hashes = checkpoint_identity(folder / "backbone", precision="").hashes
    return {part: hashes[part] for part in ("weights", "config")}


def _with_absolute_path(recipe: Recipe) -> Recipe:
    """The recipe with an absolute path of a backbone in a folder, so that the model opens from anywhere."""
    path = recipe.model.backbone.path
    if path is None or not os.path.isdir(os.path.expanduser(path)):
        return recipe
    backbone = replace(recipe.model.backbone, path=os.path.abspath(os.path.expanduser(path)))
    return replace(recipe, model=replace(recipe.model, backbone=backbone))


def _card(model: RewardModel, *, recipe: Recipe, encoder: Encoder, scores: Mapping[str, float]) -> dict[str, Any]:
    """The content of reward_model.json; see `saving.card` for its checks."""
    kind, backbone = kind_of(model), model.backbone
    origin = backbone.origin
    # A backbone in the folder itself moves with it, so the path and the hashes of its origin would be wrong.
    identity = (BackboneIdentity("backbone") if kind == "full" else origin).with_encoder(encoder)
    return {
        "format": FORMAT,
        "kind": kind,
        "head": recipe.model.head,
        "backbone": {
            "path": None if kind == "full" else origin.path,
            "revision": None if kind == "full" else origin.commit or origin.revision,
            "fingerprint": None if kind == "full" else origin.fingerprint,
            "dtype": str(backbone.transformer.dtype).removeprefix("torch."),
            "quantization": backbone.quantization,
        },
        "identity": identity.as_dict(),
        # JSON has no NaN and no infinity.
        "scores": {name: value for name, value in scores.items() if value is not None and math.isfinite(value)},
    }


def load_reward_model(folder: Path, *, dtype: str | None = None) -> tuple[RewardModel, Recipe, Encoder]:
    """Opens a saved folder: the model in evaluation mode, its recipe and its encoder.

    Args:
        folder: written by `save_model`.
        dtype: `float32` or `bfloat16`, to which the backbone's weights are cast; None: they stay as they are.

    Raises:
        ModelError: the folder is not a saved model or is damaged; its backbone is missing or has changed since the
            training; weights are missing, unexpected, of another shape or not finite; or they cannot be cast.
    """
    # First, so that a wrong name is reported before minutes of loading.
    target_dtype = None if dtype is None else find_dtype(dtype)
    card, recipe = read_card(folder), saved_recipe(folder)
    origin = card["backbone"]
    path = str(folder / "backbone") if card["kind"] == "full" else origin["path"]
    if card["kind"] == "adapter":
        check_adapter(folder / "adapter")
    backbone = load_backbone(
        path,
        revision=origin["revision"],
        dtype=getattr(torch, origin["dtype"]),
        quantization=origin["quantization"],
        trust_remote_code=recipe.model.backbone.trust_remote_code,
        complete=card["kind"] == "full",
        # A recipe of an earlier version has `none`. A model that was trained with Liger opens on other machines too.
        kernels="none" if recipe.model.backbone.kernels == "none" else "auto",
    )
    _check_same(folder, card, backbone.origin)
    # After the check: the hashes in the card are those of the weights as they were trained.
    if target_dtype is not None:
        cast_backbone(backbone, target_dtype)
    head = load_head(folder, hidden_size=backbone.hidden_size)
    if card["kind"] == "adapter":
        backbone.model = _load_adapter(backbone.transformer, folder / "adapter")
        # peft loads adapters in float32 whatever the dtype of the backbone.
        if target_dtype is not None:
            cast(backbone.model, target_dtype)
    # So that it is saved whole again: the weights in the folder are in no other checkpoint.
    backbone.merged = card["kind"] == "full"
    language = _language(folder, card, backbone, path=path) if is_generative(head) else None
    encoder = recipe_encoder(recipe, path=path, head=head, revision=origin["revision"], files=processor_folder(folder))
    pooling = Pooling(recipe.model.pooling)
    model = RewardModel(backbone, head, language=language, pooling=pooling, encoder=encoder)
    return model.eval(), recipe, encoder


def saved_recipe(folder: Path) -> Recipe:
    """Reads the recipe of a saved model.

    Raises:
        ModelError: the file is missing, or is not a recipe.
    """
    file = folder / "recipe.yaml"
    check_regular_file(file, error=ModelError)
    try:
        return recipe_from_yaml(file)
    except RecipeError as error:
        raise ModelError(f"'{file}' is not the recipe of a saved model: {error}") from error


def _check_same(folder: Path, card: Mapping[str, Any], origin: BackboneIdentity) -> None:
    """Compares the loaded backbone with the one in the card.

    Raises:
        ModelError: they differ; the message names each part with its old and its new hash.
    """
    if card["kind"] == "full":
        _check_own_backbone(folder, card)
        return
    before = read_identity(card["identity"], where=f"'{folder / CARD}'") if card.get("identity") else None
    if before is not None and before.hashes.get("weights"):
        faults = hash_differences(before.hashes, origin.hashes)
    else:
        # Models of earlier versions have no hashes.
        known = card["backbone"]["fingerprint"]
        faults = [] if known in (None, origin.fingerprint) else ["its weights differ"]
        # A hash of packed bytes: a CPU and a GPU may round a weight to different codes.
        if faults and card["backbone"]["quantization"] is not None:
            logger.warning("'%s' may have been trained on another backbone or device: packed weights differ", folder)
            faults = []
    if faults:
        raise ModelError(
            f"the backbone at '{origin.path}' is not the one that '{folder}' was trained on: {'; '.join(faults)}. "
            "Restore the old backbone, or train again."
        )


def _check_own_backbone(folder: Path, card: Mapping[str, Any]) -> None:
    """Compares the backbone in the folder of a full model with its card.

    Raises:
        ModelError: they differ.
    """
    # Models of earlier versions have no hashes of the backbone in their folder.
    own = card["backbone"].get("hashes")
    if own and (faults := hash_differences(own, _own_hashes(folder))):
        raise ModelError(
            f"'{folder / 'backbone'}' is not what was saved with '{folder / CARD}': {'; '.join(faults)}. Copy the "
            "complete folder again, or train again."
        )


def load_head(folder: Path, *, hidden_size: int) -> nn.Module:
    """Loads the head of a saved folder.

    Raises:
        ModelError: its weights are missing, unexpected, of another shape or not finite, or it cannot be built.
    """
    file = folder / HEAD
    shapes = tensor_shapes(file)

    def build() -> nn.Module:
        try:
            head = make(saved_head(folder, read_card(folder)), "heads", hidden_size)
        except RecipeError as error:
            raise ModelError(f"the head in '{folder / CARD}': {error}") from error
        assert isinstance(head, nn.Module)
        return head

    with explained(folder):
        _check_head(build, shapes, file=file)
        head = build()
        load_exactly(head.state_dict(), file)
    return head


def _check_head(build: Callable[[], nn.Module], shapes: Shapes, *, file: Path) -> None:
    """Compares the shapes of a head with those of its file before memory is allocated.

    Raises:
        ModelError: they differ.
    """
    limit = PARAMETERS_PER_TENSOR * len(shapes) + SPARE_PARAMETERS
    with bounded_parameters(limit, what=f"the head in '{file.parent / CARD}'"):
        head = build_on_meta_device(build)
    if head is None:
        return
    if faults := shape_faults(_shapes(head.state_dict()), shapes):
        raise ModelError(f"'{file}' does not fit the model:\n  " + "\n  ".join(faults))


def saved_head(folder: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """The node of the head in a recipe, with the saved prompt in place of the prompt file that the node names.

    Args:
        folder: of the saved model.
        card: of the saved model.

    Raises:
        ModelError: the node names a prompt file and the folder has none; files outside of the folder are not read.

    >>> saved_head(Path("no folder"), {"head": {"_target_": "linear"}})
    {'_target_': 'linear'}
    """
    prompt_file = folder / PROMPT
    node: dict[str, Any] = card["head"]
    if prompt_file.is_file():
        return node | {"prompt_file": str(prompt_file)}
    if node.get("prompt_file") is not None:
        raise ModelError(f"'{folder}' has no {PROMPT}, the prompt of its head. Copy the complete folder again")
    return node


def processor_folder(folder: Path) -> Path | None:
    """The folder of the saved tokenizer and image processor; None if a model of an earlier version has none.

    >>> processor_folder(Path("no folder")) is None
    True
    """
    processor = folder / PROCESSOR
    return processor if processor.is_dir() else None


def _language(folder: Path, card: Mapping[str, Any], backbone: Backbone, *, path: str) -> LanguageHead:
    """The saved language-model head, or that of the backbone's checkpoint."""
    config, dtype = backbone.transformer.config, backbone.transformer.dtype
    embedding: Any = backbone.transformer.get_input_embeddings()
    if card["kind"] != "full":
        revision = card["backbone"]["revision"]
        return load_language_head(path, config, embedding=embedding.weight, revision=revision, dtype=dtype)
    # A tied weight that was trained apart from the embedding is in a file of its own.
    if config.tie_word_embeddings and not (folder / LANGUAGE).is_file():
        return LanguageHead()
    own = {WEIGHT: torch.empty(embedding.weight.shape, dtype=dtype)}
    load_exactly(own, folder / LANGUAGE)
    return LanguageHead(own[WEIGHT])


def _load_adapter(transformer: Any, folder: Path) -> PeftModel:
    """Adds saved adapters to a backbone.

    Raises:
        ModelError: peft cannot read the folder, or weights are missing, unexpected, of another shape or not finite.
    """
    with quiet_transformers(), explained(folder):
        model = PeftModel.from_pretrained(transformer, str(folder))
    prepare_adapters(model)
    # peft ignores keys that do not fit, so the weights are loaded once more and compared. With the default "auto" for
    # embeddings it would ask the hub for the name of a backbone that the folder gives.
    load_exactly(get_peft_model_state_dict(model, save_embedding_layers=False), folder / "adapter_model.safetensors")
    return model


def load_exactly(own: Mapping[str, Tensor], path: Path) -> None:
    """Copies the weights of a safetensors file into the tensors of a state dict.

    Args:
        own: the tensors that are overwritten, by name.
        path: of the file.

    Raises:
        ModelError: names or shapes differ, and the message lists all differences; or a weight is not finite.

    >>> weights = nn.Linear(2, 1).state_dict()
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "head.safetensors"
    >>> save_file({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, file)
    >>> load_exactly(weights, file)
    >>> weights["weight"]
    tensor([[1., 1.]])
    """
    if faults := copy_exactly(own, load_finite(path)):
        raise ModelError(f"'{path}' does not fit the model:\n  " + "\n  ".join(faults))


def shape_faults(own: Mapping[str, tuple[int, ...]], given: Mapping[str, tuple[int, ...]]) -> list[str]:
    """All differences in names and shapes.

    >>> shape_faults({"bias": (2,), "weight": (2, 3)}, {"bias": (1,)})
    ['bias has shape (1,), the model has (2,)', 'missing: weight']
    """
    faults = [f"missing: {name}" for name in own.keys() - given.keys()]
    faults += [f"not in the model: {name}" for name in given.keys() - own.keys()]
    faults += [
        f"{name} has shape {given[name]}, the model has {own[name]}"
        for name in own.keys() & given.keys()
        if own[name] != given[name]
    ]
    return sorted(faults)


def copy_exactly(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Copies `given` into `own` if names and shapes agree; otherwise copies nothing and returns all differences.

    >>> copy_exactly({"bias": torch.zeros(1)}, {"bias": torch.ones(2)})
    ['bias has shape (2,), the model has (1,)']
    """
    faults = shape_faults(_shapes(own), _shapes(given))
    if not faults:
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(given[name])
    return faults


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}
