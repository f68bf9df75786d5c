"""Test the hash of all that a model's scores depend on, by which shards of scores are found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from basereward.errors import ModelError
from basereward.inference.aggregation import Rule
from basereward.inference.ensemble import model_digest, write_ensemble
from basereward.inference.model_content import model_content
from tests.helpers.checkpoint_fixtures import change_a_weight
from tests.helpers.served_model import save_scored_model


def test_backbone_outside_of_the_folder_counts(tmp_path: Path) -> None:
    """A model with only a trained head reads its backbone from elsewhere. Another backbone changes the hash, although
    the files of the model's own folder stay the same."""
    model = save_scored_model(tmp_path, head="linear", frozen=True)
    before, files = model_content(model), model_digest(model)
    assert model_content(model) == before
    change_a_weight(tmp_path / "backbone" / "model.safetensors")
    assert model_digest(model) == files
    assert model_content(model) != before


def test_members_of_an_ensemble_count(tmp_path: Path) -> None:
    """The hash depends on members outside the folder of the ensemble too, and on their backbones."""
    model = save_scored_model(tmp_path, head="linear", frozen=True)
    ensemble = tmp_path / "ensemble"
    write_ensemble(ensemble, names=[str(model)], digests=[model_digest(model)], rule=Rule())
    before = model_content(ensemble)
    change_a_weight(tmp_path / "backbone" / "model.safetensors")
    assert model_content(ensemble) != before


def test_missing_backbone_is_refused(tmp_path: Path) -> None:
    """Before anything is scored."""
    model = save_scored_model(tmp_path, head="linear", frozen=True)
    (tmp_path / "backbone" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json"):
        model_content(model)
