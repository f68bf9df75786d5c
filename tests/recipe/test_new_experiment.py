"""`basereward new` writes experiments that load, and overwrites nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from basereward.cli import main
from basereward.errors import RecipeError
from basereward.recipe import load_cells, names
from basereward.recipe.new_experiment import new_experiment
from basereward.recipe.yaml.files import shipped_experiments

SHIPPED = sorted(file.stem for file in shipped_experiments().glob("*.yaml"))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without experiments of its own, and without the variable."""
    monkeypatch.delenv("BASEREWARD_EXPERIMENTS", raising=False)
    monkeypatch.chdir(tmp_path)


def test_command_writes_a_commented_recipe_and_names_the_next_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe is that of the default experiment, with comments; the commands that it names run."""
    assert main(["new", "mine", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["path"] == "experiments/mine.yaml"
    assert result["next"] == ["basereward check mine", "basereward train mine --profile tiny"]
    lines = Path(result["path"]).read_text().splitlines()
    assert sum(line.startswith("#") for line in lines) > len(lines) / 2
    assert "# Run it: basereward train mine --profile tiny" in lines
    assert not any("templates/" in line for line in lines)
    assert Path("experiments", lines[0].partition("$schema=")[2]).is_file()
    (cell,), (default,) = load_cells("mine"), load_cells("basereward")
    kept = {"name": default.recipe.name, "summary": default.recipe.summary}
    assert dataclasses.replace(cell.recipe, **kept) == default.recipe
    assert "mine" in {entry.name for entry in names("experiments")}


def test_every_commented_line_of_the_template_is_valid() -> None:
    """A person who removes the marks of all comments gets a recipe, of a grid with seeds."""
    text = new_experiment("mine").path.read_text()
    lines = []
    for line in text.splitlines()[1:]:  # the first line is for editors
        bare = line.replace("# ", "", 1) if line.lstrip().startswith("# ") else line
        key = bare.strip().partition(":")[0]
        is_prose = line.startswith("#") and (" " in key or not bare.rstrip().partition(":")[1])
        lines.append("" if is_prose else bare)
    Path("experiments/mine.yaml").write_text("\n".join(lines))
    cells = load_cells("mine", overrides=["data.sources.pairs.path=pairs.jsonl", "model.lora=null"])
    assert len(cells) == 3 * 2 * 3
    assert cells[0].recipe.trainer.steps == 300
    assert cells[0].recipe.loss["label_smoothing"] == 0.1


@pytest.mark.parametrize("origin", SHIPPED)
def test_copy_has_the_cells_of_its_origin(origin: str) -> None:
    """And its comments name the copy in their commands."""
    new = new_experiment("mine", origin=origin)
    copied, original = load_cells("mine"), load_cells(origin)
    assert [cell.overrides for cell in copied] == [cell.overrides for cell in original]
    for cell, other in zip(copied, original, strict=True):
        kept = {"name": other.recipe.name, "summary": other.recipe.summary}
        assert dataclasses.replace(cell.recipe, **kept) == other.recipe
    command = next(line for line in new.path.read_text().splitlines() if line.startswith("# Run it:"))
    assert " mine " in command
    assert new.path.read_text().count("yaml-language-server") == 1


def test_nothing_is_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither an own experiment nor the name of a shipped one, whose includes the copy would take over."""
    file = new_experiment("mine").path
    file.write_text("mine: too\n")
    schema = Path("experiments/schemas/experiment.json")
    schema.write_text("{}")
    assert main(["new", "mine"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(RecipeError, match="head_depth"):
        new_experiment("head_depth", origin="basereward")
    new_experiment("other")
    assert (file.read_text(), schema.read_text()) == ("mine: too\n", "{}")


@pytest.mark.parametrize("name", ["", "..", "a/b", "mine.yaml", "a\nb"])
def test_bad_name_writes_nothing(name: str, tmp_path: Path) -> None:
    """The file stays in the folder of experiments."""
    with pytest.raises(RecipeError):
        new_experiment(name)
    assert list(tmp_path.iterdir()) == []


def test_unknown_origin_has_a_suggestion(tmp_path: Path) -> None:
    """Nothing is written."""
    with pytest.raises(RecipeError, match="head_depth"):
        new_experiment("mine", origin="head_dept")
    assert list(tmp_path.iterdir()) == []
