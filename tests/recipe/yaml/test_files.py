"""Test the reading of YAML files."""

from __future__ import annotations

from pathlib import Path

from basereward.recipe.yaml.files import read_yaml


def test_content_belongs_to_its_reader(tmp_path: Path) -> None:
    """A reader that changes the content does not change what the next one gets; a changed file is read again."""
    file = tmp_path / "one.yaml"
    file.write_text("optimizer: {lr: 1e-5, groups: [{decay: 0.1}]}\n")
    expected = {"optimizer": {"lr": 1e-5, "groups": [{"decay": 0.1}]}}
    first = read_yaml(file)
    first["optimizer"]["groups"][0]["decay"] = 0.5
    first["optimizer"]["groups"].append({})
    first["optimizer"]["lr"] = 1.0
    assert read_yaml(file) == expected
    file.write_text("optimizer: {lr: 1e-6}\n")
    assert read_yaml(file) == {"optimizer": {"lr": 1e-6}}
