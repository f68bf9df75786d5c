"""The identity of a run: hashes of its backbone, its data, and the model that judges its labels.

It is recorded in the run folder and in checkpoints, and compared when the run resumes and when a sweep finds it again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from basereward.data.encoding.content_hash import content_differences, encoder_hashes, hash_differences
from basereward.data.encoding.encoder import Encoder
from basereward.data.module import PreferenceData
from basereward.errors import ModelError, RunError
from basereward.inference.ensemble import model_digest
from basereward.io.files import is_special, json_text, write_state
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

    Args:
        run: that resumes; nothing is compared when it has no checkpoint.
        encoder: of the recipe.

    Raises:
        RunError: they differ; the message names the parts.
    """
    if has_checkpoint(run):
        _raise_if_changed(run, hash_differences(_recorded(run)[0].get("hashes", {}), encoder_hashes(encoder)))


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What a run is trained on.

    Args:
        backbone: with its encoder.
        data: hashes of the groups of each split, by source.
        judge: hash of the model that judges labels in the curation; None without one.

    >>> identity = RunIdentity(BackboneIdentity("a/b"), data={"digits": {"train": "9f2c"}}, judge=None)
    >>> identity.check(RunFolder.reserve())
    """

    backbone: BackboneIdentity
    data: Mapping[str, Mapping[str, str]]
    judge: str | None

    @classmethod
    def of(cls, recipe: Recipe, *, backbone: Backbone, data: PreferenceData) -> RunIdentity:
        """Compute the identity.

        Args:
            recipe: of the run.
            backbone: loaded.
            data: after `setup`.
        """
        return cls(backbone.origin.with_encoder(data.encoder), data.content, _judge_hash(recipe))

    def check(self, run: RunFolder) -> None:
        """Compare the identity with that of a run that resumes.

        Args:
            run: that resumes.

        Raises:
            RunError: the backbone, the data or the judge differ; the message names the parts.
        """
        # A run without a checkpoint starts from its first step, on whatever it is given.
        if not has_checkpoint(run):
            return
        known, content, judge = _recorded(run)
        changes = hash_differences(known.get("hashes", {}), self.backbone.hashes)
        changes += content_differences(content, self.data)
        # A record of an earlier version has no judge.
        if judge not in (None, self.judge):
            changes.append("the model of data.curation.judge differs")
        _raise_if_changed(run, changes)

    def write(self, run: RunFolder) -> None:
        """Record the identity in the folder of a run. A run of an earlier version has no record, and gets one now."""
        record: dict[str, Any] = {"backbone": self.backbone.as_dict(), "data": self.data, "judge": self.judge}
        write_state(run.identity, json_text(record, indent=2) + "\n")


def has_checkpoint(run: RunFolder) -> bool:
    """Whether a run has a checkpoint to resume from.

    >>> has_checkpoint(RunFolder.reserve())
    False
    """
    file = run.checkpoints / "last.ckpt"
    return file.exists() and not is_special(file)


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
    # A damaged record must not cost the run: its checkpoint holds the identity of the backbone a second time.
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

    >>> callback = IdentityInCheckpoint(BackboneIdentity("a/b", hashes={"weights": "9f2c"}))
    >>> callback.on_load_checkpoint(None, None, {KEY: {"hashes": {"weights": "1b6e"}}})
    Traceback (most recent call last):
    basereward.errors.RunError: ...
    """

    def __init__(self, identity: BackboneIdentity) -> None:
        self.identity = identity

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the identity under `KEY`."""
        checkpoint[KEY] = self.identity.as_dict()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Compare the identity in a checkpoint with that of the module. A checkpoint of an earlier version has none.

        Raises:
            RunError: the checkpoint is of a run on another backbone.
        """
        recorded = checkpoint.get(KEY, {}).get("hashes", {})
        if changes := hash_differences(recorded, self.identity.hashes):
            raise RunError(f"the checkpoint is of a run on another backbone: {'; '.join(changes)}. {REMEDY}.")


def identity_tags(identity: BackboneIdentity) -> dict[str, str]:
    """Return the identity as tags of an MLflow run.

    Args:
        identity: of a backbone.

    >>> identity_tags(BackboneIdentity("a/b", commit="1b6e", hashes={"weights": "9f2c"}))
    {'backbone.weights': '9f2c', 'backbone.commit': '1b6e'}
    """
    tags = {f"backbone.{part}": value for part, value in identity.hashes.items()}
    return tags | ({"backbone.commit": identity.commit} if identity.commit else {})


def backbone_changes(run: RunFolder, recipe: Recipe, *, known: dict[str, Mapping[str, str]]) -> list[str]:
    """List the differences between the backbone that a recipe names now and the one that its run was trained on.

    Args:
        run: a finished run. Without a record, or when the backbone cannot be read any more, nothing is compared.
        recipe: of the run.
        known: hashes of backbones by their settings. New ones are added, so that each backbone is read once for
            several runs.

    >>> backbone_changes(RunFolder.reserve(), Recipe(), known={})
    []
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
        # A finished run stays valid after its backbone was moved or deleted.
        except ModelError as error:
            logger.debug("the backbone of a finished cell cannot be read: %s", error)
            known[key] = {}
    return hash_differences(recorded, known[key]) if recorded else []
