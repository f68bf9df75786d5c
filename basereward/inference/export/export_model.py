"""Writes a trained model in a format that other software opens."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel

from basereward.errors import CheckpointError, ModelError, sentence
from basereward.inference.export import modeling_reward
from basereward.inference.export.adapter import check_adapter_exportable, write_adapter
from basereward.inference.export.exportable import (
    ExportForm,
    check_exportable,
    choose_form,
    classification_model,
    head_layers,
    plain_config,
)
from basereward.inference.export.model_card import BenchmarkResult, model_card
from basereward.inference.export.turn_ending import exported_tokenizer
from basereward.inference.export.vllm_plugin import check_plugin, write_plugin
from basereward.inference.reward_scorer import RewardScorer
from basereward.inference.scorer import Scorer
from basereward.io.files import apply_umask, json_text, write_atomic
from basereward.io.limits import read_json_object
from basereward.io.outputs import check_outputs, check_replaceable, foreign_files, replace_folder
from basereward.model.backbone import quiet_transformers
from basereward.model.lora import to_floating_point

ExportFormat: TypeAlias = Literal["hf", "vllm"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
MANIFEST = "basereward_export.json"
MODELING = Path(modeling_reward.__file__).name
SHARD = "5GB"


def export_model(
    model: RewardScorer,
    folder: Path,
    *,
    source: Path,
    to: ExportFormat = "hf",
    adapter: bool = False,
    license_id: str | None = None,
    results: Sequence[BenchmarkResult] = (),
) -> dict[str, Any]:
    """Writes the folder of an exported model atomically; it replaces an older export.

    Args:
        model: what `load` returns. Adapters are merged into it.
        folder: where to write; a folder with anything but an export is rejected and not changed.
        source: folder of the saved model, in which nothing is written.
        to: `hf` for transformers and peft; `vllm` adds a plug-in where vLLM needs one.
        adapter: write the adapter and the head alone, without the weights of the backbone.
        license_id: for the model card; None: that of the backbone, where it is known.
        results: evaluations, for the model card.

    Returns:
        `out`, `form`, `files` and `bytes`.

    Raises:
        ModelError: the model cannot be exported in this form, or the folder is not free; the message has the reason.
        CheckpointError: the folder cannot be written, for example because the disk is full.
    """
    scorer = check_exportable(model)
    form = choose_form(scorer)
    if adapter:
        check_adapter_exportable(scorer, form, to=to)
    with_plugin = to == "vllm" and form == "own_code"
    if with_plugin:
        check_plugin(scorer.model.backbone.transformer.config)
    folder = Path(os.path.abspath(folder))
    _check_folder(folder, scorer, source=source)
    written = "adapter" if adapter else form
    with _partial_folder(folder) as partial:
        card = model_card(scorer, form=form, adapter=adapter, to=to, license_id=license_id, results=results)
        write_atomic(partial / "README.md", card)
        with quiet_transformers():
            _write_weights(scorer, partial, form=form, adapter=adapter)
        if with_plugin:
            write_plugin(partial, scorer.model.backbone.transformer.config)
        files = _finish(partial, form=written)
        replace_folder(partial, folder)
    size = sum((folder / name).stat().st_size for name in files)
    return {"out": str(folder), "form": written, "files": files, "bytes": size}


@contextlib.contextmanager
def _partial_folder(folder: Path) -> Iterator[Path]:
    """A folder beside another one, which is removed at the end unless it has taken its place.

    Raises:
        CheckpointError: it, or what is written in the block, cannot be written.
    """
    partial: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        yield partial
    # safetensors reports a full disk as an error of its own.
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the model cannot be exported to '{folder}': {sentence(error)} Give another folder."
        ) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _check_folder(folder: Path, scorer: Scorer, *, source: Path) -> None:
    """Checks that nothing but an older export is replaced.

    Raises:
        ModelError: the folder is or lies in the model or its backbone, or has other files.
    """
    origin = scorer.model.backbone.origin.path
    inputs = [source, *([Path(origin)] if os.path.isdir(origin) else [])]
    check_outputs({"--out": folder}, inputs, read_whole=inputs, error=ModelError)
    check_replaceable(folder, foreign=foreign_export_files, error=ModelError)


def foreign_export_files(folder: Path) -> list[str]:
    """The files in a folder that no export has written; all of them if the folder is not an export.

    A checkpoint from elsewhere has files of the same names, so names alone do not tell.
    """
    manifest = folder / MANIFEST
    written = read_json_object(manifest, error=ModelError).get("files") if manifest.is_file() else []
    own = {MANIFEST, *(written if isinstance(written, list) else [])}
    return foreign_files(folder, lambda name: manifest.is_file() and name in own)


def _write_weights(scorer: Scorer, folder: Path, *, form: ExportForm, adapter: bool) -> None:
    """Writes weights, configuration, code, tokenizer and image processor."""
    tokenizer = exported_tokenizer(scorer.encoder)
    if adapter:
        write_adapter(scorer, folder)
    else:
        _floating_point(scorer)
        build = _classification if form == "sequence_classification" else _own_code
        exported = build(scorer, pad_token_id=tokenizer.pad_token_id)
        exported.save_pretrained(folder, max_shard_size=SHARD)
        if form == "own_code":
            shutil.copyfile(modeling_reward.__file__, folder / MODELING)
    tokenizer.save_pretrained(folder)
    if scorer.encoder.image_processor is not None:
        scorer.encoder.image_processor.save_pretrained(folder)
    if scorer.encoder.videos is not None:
        scorer.encoder.videos.save_pretrained(folder)


def _floating_point(scorer: Scorer) -> None:
    """Merges adapters, and dequantises weights."""
    backbone = scorer.model.backbone
    if isinstance(backbone.model, PeftModel):
        scorer.merged()
    elif backbone.quantization is not None:
        backbone.model = to_floating_point(backbone.transformer)
        backbone.quantization = None


def _classification(scorer: Scorer, *, pad_token_id: int) -> PreTrainedModel:
    """transformers' sequence classification with the weights of a model."""
    transformer = scorer.model.backbone.transformer
    model = classification_model(transformer.config)
    assert model is not None
    setattr(model, model.base_model_prefix, transformer)
    (weight,) = head_layers(scorer.model.head).weights.values()
    score = nn.Linear(weight.shape[1], 1, bias=False)
    score.weight = nn.Parameter(weight.detach())
    model.set_submodule("score", score)
    model.config.pad_token_id = pad_token_id
    model.config.architectures = [type(model).__name__]
    model.config.dtype = transformer.dtype
    return model


def _own_code(scorer: Scorer, *, pad_token_id: int) -> PreTrainedModel:
    """The class of `modeling_reward` with the weights of a model."""
    transformer = scorer.model.backbone.transformer
    config: Any = plain_config(transformer.config)
    layers = head_layers(scorer.model.head)
    kind = modeling_reward.BaseRewardForSequenceClassification
    reference = f"{Path(MODELING).stem}.{kind.__name__}"
    config.reward_head = layers.settings
    config.auto_map = {"AutoModel": reference, "AutoModelForSequenceClassification": reference}
    config.num_labels = 1
    config.get_text_config().pad_token_id = pad_token_id
    with torch.device("meta"):
        model = kind(config)
    model.model = transformer
    model.head.load_state_dict(layers.weights, assign=True)
    model.config.architectures = [kind.__name__]
    model.config.dtype = transformer.dtype
    return model


def _finish(folder: Path, *, form: str) -> list[str]:
    """Writes the list of files, and gives files the rights of ordinary ones."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    write_atomic(folder / MANIFEST, json_text({"form": form, "files": files}, indent=2) + "\n")
    # mkdtemp and safetensors give rights to the owner alone.
    folder.chmod(0o755)
    for file in folder.rglob("*.safetensors"):
        apply_umask(file)
    return [*files, MANIFEST]
