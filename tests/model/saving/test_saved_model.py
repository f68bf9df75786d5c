"""Saving a model: it replaces only an older model, and its files have the usual permissions."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from basereward.errors import CheckpointError, ModelError
from basereward.inference.aggregation import Rule
from basereward.inference.ensemble import Ensemble, find_member
from basereward.inference.scorer import Scorer, load_scorer
from basereward.model.families.processing import load_encoder
from basereward.model.reward_model import build_model
from basereward.recipe.schema import BackboneRecipe, DataRecipe, LoraRecipe, ModelRecipe, Recipe
from tests.helpers.support import checkpoint


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """Return a scorer with adapters on a small Llama."""
    base = checkpoint("llama", tmp_path_factory.mktemp("saving") / "base")
    model = ModelRecipe(backbone=BackboneRecipe(path=str(base)), lora=LoraRecipe(rank=2), head={"_target_": "linear"})
    recipe = Recipe(model=model, data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}))
    return Scorer(build_model(model, path=str(base), seed=0).eval(), encoder=load_encoder(base), recipe=recipe)


def read_files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder by relative path."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "name",
    ["notes.txt", "sub/notes.txt", "adapter/notes.txt", "processor/labels.json", ".hidden", "members/0/notes.txt"],
)
@pytest.mark.parametrize("has_model", [False, True])
@pytest.mark.parametrize("kind", ["model", "ensemble"])
def test_folder_with_a_foreign_file_is_not_replaced(
    name: str, has_model: bool, kind: str, scorer: Scorer, tmp_path: Path
) -> None:
    """The error names the file, at the top of the folder, in a subfolder and inside a saved model."""
    saved = scorer if kind == "model" else ensemble_of(scorer, tmp_path / "one", tmp_path / "two")
    folder = tmp_path / "work"
    if has_model:
        saved.save(folder)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("mine")
    files_before = read_files(folder)
    with pytest.raises(ModelError, match=Path(name).name):
        saved.save(folder)
    assert read_files(folder) == files_before
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def ensemble_of(scorer: Scorer, *folders: Path) -> Ensemble:
    """Return an ensemble of saved copies of a model."""
    for folder in folders:
        scorer.save(folder)
    members = [find_member(str(folder), folder) for folder in folders]
    return Ensemble(members, Rule("mean", members=2))


def test_saved_model_is_replaced(scorer: Scorer, tmp_path: Path) -> None:
    """A saved model is replaced also while it is loaded; an empty folder is filled, and no temporary file remains."""
    (tmp_path / "m").mkdir()
    scorer.save(tmp_path / "m")
    expected = load_scorer(tmp_path / "m").score("?", ["yes", "no"])
    merged = load_scorer(tmp_path / "m").merged()
    merged.save(tmp_path / "m")
    merged.save(tmp_path / "m")
    assert not (tmp_path / "m" / "adapter").exists()
    assert load_scorer(tmp_path / "m").score("?", ["yes", "no"]) == pytest.approx(expected, abs=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    ensemble = ensemble_of(scorer, tmp_path / "one", tmp_path / "two")
    for _ in range(2):
        ensemble.save(tmp_path / "e")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "m", "one", "two"]


@pytest.mark.parametrize("path", [".", "..", "/", "~", "", "home/.."])
def test_working_and_home_folders_are_not_replaced(
    path: str, scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working folder, its parents and the home folder are refused under every spelling, empty or not."""
    (tmp_path / "home" / "here").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home" / "here" if path != "home/.." else tmp_path)
    with pytest.raises(ModelError, match=r"the (working|home) folder"):
        scorer.save(os.path.expanduser(path))
    assert (tmp_path / "home" / "here").is_dir()


def test_file_is_not_replaced_by_a_folder(scorer: Scorer, tmp_path: Path) -> None:
    """A path that is a file or a broken link is refused."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for name in ("file", "link"):
        with pytest.raises(ModelError, match="is a file"):
            scorer.save(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_weights_have_the_permissions_of_the_umask(umask: int, scorer: Scorer, tmp_path: Path) -> None:
    """The umask applies to adapters and head; safetensors alone would make them readable by the owner only."""
    previous_umask = os.umask(umask)
    try:
        scorer.save(tmp_path / "m")
    finally:
        os.umask(previous_umask)
    modes = {str(file.name): file.stat().st_mode & 0o777 for file in (tmp_path / "m").rglob("*") if file.is_file()}
    assert modes["head.safetensors"] == modes["adapter_model.safetensors"] == 0o666 & ~umask
    assert set(modes.values()) == {0o666 & ~umask}


def test_uncreatable_folder_is_named(scorer: Scorer, tmp_path: Path) -> None:
    """The error names a folder whose parent is a file."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="file/m"):
        scorer.save(tmp_path / "file" / "m")


def test_model_is_not_saved_over_its_own_backbone(scorer: Scorer, tmp_path: Path) -> None:
    """Adapters need the weights of their backbone, which may lie in the folder of another saved model."""
    adapter_scorer = scorer_of_copy(scorer, tmp_path / "whole")
    with pytest.raises(ModelError, match="backbone"):
        adapter_scorer.save(tmp_path / "whole")
    assert len(load_scorer(tmp_path / "whole").score("?", ["yes", "no"])) == 2


def scorer_of_copy(scorer: Scorer, folder: Path) -> Scorer:
    """Return a scorer with new adapters on the backbone inside the folder of a merged model."""
    scorer.save(folder)
    load_scorer(folder).merged().save(folder)
    base = str(folder / "backbone")
    model = replace(scorer.recipe.model, backbone=BackboneRecipe(path=base))
    reward_model = build_model(model, path=base, seed=0).eval()
    return Scorer(reward_model, encoder=load_encoder(base), recipe=replace(scorer.recipe, model=model))
