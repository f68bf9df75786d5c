"""The identity of a run: hashes of its backbone, its data, and the model that judges its labels.

It is recorded in the run folder and in checkpoints, and compared when the run resumes and when a sweep finds it again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from basereward.data.encoding.content_hash import content_differences, encoder_hashes, hash_differences
from basereward.data.encoding.encoder import Encoder
from basereward.data.module import PreferenceData
from basereward.errors import ModelError, RunError
from basereward.inference.ensemble import model_digest
from basereward.io.files import json_text, write_atomic
from basereward.io.limits import read_json_object
from basereward.model.backbone import Backbone
from basereward.model.families.processing import recipe_encoder
from basereward.model.saving.identity import BackboneIdentity, checkpoint_identity, precision_text, read_identity
from basereward.model.saving.made_checkpoint import backbone_path
from basereward.recipe.schema import Recipe
from basereward.runs.resolve_model import resolve_model
from basereward.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)

KEY = "backbone_identity"
"""Key of a checkpoint."""
REMEDY = "A run resumes only with the same backbone and data: restore them, or start a new run without --resume"


def check_encoder(run: RunFolder, encoder: Encoder) -> None:
    """Compare tokenizer, chat template and image processor with those of a run that resumes, before rows are read.

    Raises:
        RunError: they differ; the message names the parts.
    """
    if has_checkpoint(run):
        _raise_if_changed(run, hash_differences(_recorded(run)[0].get("hashes", {}), encoder_hashes(encoder)))


def record_identity(run: RunFolder, recipe: Recipe, *, backbone: Backbone, data: PreferenceData) -> BackboneIdentity:
    """Write the identity of a run to its folder; for a run that resumes, compare it first.

    A run of an earlier version has no record, and gets one now.

    Args:
        run: its folder.
        recipe: of the run.
        backbone: loaded.
        data: after `setup`.

    Returns:
        The identity of the backbone, with its encoder.

    Raises:
        RunError: a run resumes with another backbone, other data or another judge; the message names the parts.
    """
    identity = backbone.origin.with_encoder(data.encoder)
    record: dict[str, Any] = {"backbone": identity.as_dict(), "data": data.content, "judge": _judge_hash(recipe)}
    if has_checkpoint(run):
        known, content, judge = _recorded(run)
        changes = hash_differences(known.get("hashes", {}), identity.hashes)
        changes += content_differences(content, data.content)
        if judge not in (None, record["judge"]):
            changes.append(f"the model of data.curation.judge, {recipe.data.curation.judge}, differs")
        _raise_if_changed(run, changes)
    write_atomic(run.identity, json_text(record, indent=2) + "\n")
    return identity


def has_checkpoint(run: RunFolder) -> bool:
    """Whether a run has a checkpoint to resume from."""
    return (run.checkpoints / "last.ckpt").exists()


def _raise_if_changed(run: RunFolder, changes: list[str]) -> None:
    if changes:
        raise RunError(f"run '{run.run_id}' cannot resume: {'; '.join(changes)}. {REMEDY}.")


def _judge_hash(recipe: Recipe) -> str | None:
    """The hash of the model that judges labels in the curation; None without one."""
    judge = recipe.data.curation.judge
    return None if judge is None else model_digest(resolve_model(judge))


def _recorded(run: RunFolder) -> tuple[dict[str, Any], Mapping[str, Mapping[str, str]], str | None]:
    """The recorded backbone, data and judge of a run; empty without a readable record."""
    file = run.identity
    if not file.exists():
        return {}, {}, None
    try:
        record = read_json_object(file, error=RunError)
        backbone = read_identity(record.get("backbone"), where=f"'{file}'", error=RunError).as_dict()
    except RunError as error:
        logger.warning("%s; the backbone and the data of run %s are not compared", error, run.run_id)
        return {}, {}, None
    content = record.get("data")
    valid = isinstance(content, dict) and all(isinstance(parts, dict) for parts in content.values())
    judge = record.get("judge")
    return backbone, content if valid and content else {}, judge if isinstance(judge, str) else None


class IdentityInCheckpoint(Callback):
    """Writes the identity of the backbone into every checkpoint, and rejects a checkpoint of another backbone.

    Args:
        identity: of the module's backbone.
    """

    def __init__(self, identity: BackboneIdentity) -> None:
        self.identity = identity

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = self.identity.as_dict()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """
        Raises:
            RunError: the checkpoint is of a run on another backbone.
        """
        recorded = checkpoint.get(KEY, {}).get("hashes", {})
        if changes := hash_differences(recorded, self.identity.hashes):
            raise RunError(f"the checkpoint is of a run on another backbone: {'; '.join(changes)}. {REMEDY}.")


def identity_tags(identity: BackboneIdentity) -> dict[str, str]:
    """The identity as tags of an MLflow run."""
    tags = {f"backbone.{part}": value for part, value in identity.hashes.items()}
    return tags | ({"backbone.commit": identity.commit} if identity.commit else {})


def backbone_changes(run: RunFolder, recipe: Recipe, *, known: dict[str, Mapping[str, str]]) -> list[str]:
    """List the differences between the backbone that a recipe names now and the one that its run was trained on.

    Args:
        run: a finished run. Without a record, or when the backbone cannot be read any more, nothing is compared.
        recipe: of the run.
        known: hashes of backbones by their settings. New ones are added, so that each backbone is read once for
            several runs.
    """
    recorded = _recorded(run)[0].get("hashes", {})
    settings = recipe.model.backbone
    key = repr((settings, recipe.data.encoding, recipe.model.head))
    if recorded and key not in known:
        try:
            path = backbone_path(settings)
            precision = precision_text(settings.dtype, settings.quantization)
            identity = checkpoint_identity(path, revision=settings.revision, precision=precision)
            known[key] = identity.with_encoder(recipe_encoder(recipe, path=path)).hashes
        except ModelError as error:
            logger.debug("the backbone of a finished cell cannot be read: %s", error)
            known[key] = {}
    return hash_differences(recorded, known[key]) if recorded else []
