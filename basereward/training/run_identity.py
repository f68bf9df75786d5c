"""The backbone and the data that a run is trained on.

They are recorded in its folder and in its checkpoints, and compared when it goes on and when a sweep finds it again.
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
from basereward.runs.resolve_model import locate
from basereward.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)

KEY = "backbone_identity"
REMEDY = "A run goes on with what it began with: put it back, or start anew without --resume"


def check_encoder(run: RunFolder, encoder: Encoder) -> None:
    """Compares tokenizer, chat template and image processor with those that a run began with, before rows are read.

    Raises:
        RunError: they differ; the message names the parts.
    """
    if goes_on(run):
        _refuse(run, hash_differences(_recorded(run)[0].get("hashes", {}), encoder_hashes(encoder)))


def record_identity(run: RunFolder, recipe: Recipe, *, backbone: Backbone, data: PreferenceData) -> BackboneIdentity:
    """Records in a run's folder what it stands on, or compares a run that goes on with its record.

    A run of an earlier version has no record, and gets one now.

    Raises:
        RunError: a run goes on with another backbone, other data or another judge; the message names the parts.
    """
    identity = backbone.origin.with_encoder(data.encoder)
    now: dict[str, Any] = {"backbone": identity.as_dict(), "data": data.content, "judge": _judge(recipe)}
    if goes_on(run):
        known, content, judge = _recorded(run)
        faults = hash_differences(known.get("hashes", {}), identity.hashes) + content_differences(content, data.content)
        if judge not in (None, now["judge"]):
            faults.append(f"the model of data.curation.judge, {recipe.data.curation.judge}, differs")
        _refuse(run, faults)
    write_atomic(run.identity, json_text(now, indent=2) + "\n")
    return identity


def goes_on(run: RunFolder) -> bool:
    """Whether a run has a checkpoint that it goes on from."""
    return (run.checkpoints / "last.ckpt").exists()


def _refuse(run: RunFolder, faults: list[str]) -> None:
    if faults:
        raise RunError(f"run '{run.run_id}' cannot go on: {'; '.join(faults)}. {REMEDY}.")


def _judge(recipe: Recipe) -> str | None:
    """The hash of the model that judges labels in the curation."""
    judge = recipe.data.curation.judge
    return None if judge is None else model_digest(locate(judge))


def _recorded(run: RunFolder) -> tuple[dict[str, Any], Mapping[str, Mapping[str, str]], str | None]:
    """The record of a run: its backbone, its data, its judge; empty where there is none, or none that can be read."""
    file = run.identity
    if not file.exists():
        return {}, {}, None
    try:
        record = read_json_object(file, error=RunError)
        backbone = read_identity(record.get("backbone"), where=f"'{file}'", error=RunError).as_dict()
    except RunError as error:
        logger.warning("%s; what run %s began with is not compared", error, run.run_id)
        return {}, {}, None
    content = record.get("data")
    whole = isinstance(content, dict) and all(isinstance(parts, dict) for parts in content.values())
    judge = record.get("judge")
    return backbone, content if whole and content else {}, judge if isinstance(judge, str) else None


class IdentityInCheckpoint(Callback):
    """Writes the identity of the backbone into every checkpoint, and refuses a checkpoint of another one.

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
        before = checkpoint.get(KEY, {}).get("hashes", {})
        if faults := hash_differences(before, self.identity.hashes):
            raise RunError(f"the checkpoint is of a run on another backbone: {'; '.join(faults)}. {REMEDY}.")


def identity_tags(identity: BackboneIdentity) -> dict[str, str]:
    """The identity as tags of an MLflow run."""
    tags = {f"backbone.{part}": value for part, value in identity.hashes.items()}
    return tags | ({"backbone.commit": identity.commit} if identity.commit else {})


def backbone_changes(run: RunFolder, recipe: Recipe, *, known: dict[str, Mapping[str, str]]) -> list[str]:
    """How the backbone that a recipe names differs from the one that a run of it was trained on.

    Args:
        run: finished. Nothing is compared where it has no record, or the backbone cannot be read any more.
        recipe: of the run.
        known: takes the hashes of each backbone, which is read once for all runs that are asked about.
    """
    before = _recorded(run)[0].get("hashes", {})
    settings = recipe.model.backbone
    key = repr((settings, recipe.data.encoding, recipe.model.head))
    if before and key not in known:
        try:
            path = backbone_path(settings)
            precision = precision_text(settings.dtype, settings.quantization)
            identity = checkpoint_identity(path, revision=settings.revision, precision=precision)
            known[key] = identity.with_encoder(recipe_encoder(recipe, path=path)).hashes
        except ModelError as error:
            logger.debug("the backbone of a finished cell cannot be read: %s", error)
            known[key] = {}
    return hash_differences(before, known[key]) if before else []
