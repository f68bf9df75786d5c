"""Recipes are loaded from files and overrides, and every fault on the way is reported."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from basereward.errors import RecipeError
from basereward.recipe import find_faults, load_cells, load_recipe, names
from tests.recipe.conftest import EXPERIMENT

Write = Callable[..., Path]


def faults_of(*overrides: str, experiment: str = "one", profile: str = "tiny") -> dict[str, str]:
    """Return key and message of every fault that all cells share."""
    _, faults = find_faults(experiment, profile=profile, overrides=overrides)
    return {fault.key: fault.message for fault in faults}


def test_later_layers_win(experiments: Write) -> None:
    """The order is schema, profile, experiment, overrides."""
    experiments(
        profiles__tiny="optimizer: {lr: 2, eps: 2, weight_decay: 2}\nmodel: {backbone: {path: p}}\n"
        "data: {sources: {words: {_target_: recipe_targets.Words, path: p}}}",
        one="model: {head: {_target_: recipe_targets.Shallow}}\nloss: {_target_: recipe_targets.Plain}\n"
        "optimizer: {lr: 3, eps: 3}",
    )
    optimizer = load_recipe("one", overrides=["optimizer.lr=4"]).optimizer
    assert (optimizer.lr, optimizer.eps, optimizer.weight_decay, optimizer.betas) == (4.0, 3.0, 2.0, [0.9, 0.999])


def test_loading_does_not_import_targets(experiments: Write) -> None:
    """The modules of the targets raise when they are imported."""
    experiments()
    assert load_recipe("one").model.head["_target_"] == "recipe_targets.Deep"
    assert "recipe_targets" not in sys.modules


def test_defaults_of_a_target_are_written_into_the_recipe(experiments: Write) -> None:
    """A recipe records what was trained even when a default changes later; whole numbers become floats where the hint
    says so."""
    experiments()
    recipe = load_recipe("one")
    assert recipe.model.head == {
        "_target_": "recipe_targets.Deep",
        "layers": 2,
        "activation": "silu",
        "dropout": 0.0,
        "width": None,
    }
    assert recipe.data.sources["words"]["splits"] == [0.8, 0.2]


def test_name_and_summary_come_from_the_file(experiments: Write) -> None:
    """The name is the file name, the summary the first comment."""
    experiments()
    recipe = load_recipe("one")
    assert (recipe.name, recipe.summary) == ("one", "One head, one loss.")
    assert load_recipe("one", overrides=["name=other"]).name == "other"


def test_experiment_and_profile_can_be_paths(experiments: Write, tmp_path: Path) -> None:
    """Any YAML file is accepted; without a profile, the experiment must have all required keys."""
    folder = experiments()
    path = tmp_path / "own.yaml"
    path.write_text((folder / "one.yaml").read_text() + (folder / "profiles" / "tiny.yaml").read_text().split("\n")[3])
    assert load_recipe(str(folder / "one.yaml"), profile=str(folder / "profiles" / "tiny.yaml")).name == "one"
    _, faults = find_faults(str(path), profile=None)
    assert {fault.key for fault in faults} == {"data.sources", "model.backbone"}


def test_keys_beside_an_include_win(experiments: Write) -> None:
    """Includes work in any mapping, and of several includes the later one wins."""
    experiments(
        parts__a="# a\nlr: 1\neps: 1\nweight_decay: 1",
        parts__b="include: parts/a\neps: 2",
        two="include: one\noptimizer: {include: [parts/a, parts/b], weight_decay: 3}",
    )
    optimizer = load_recipe("two").optimizer
    assert (optimizer.lr, optimizer.eps, optimizer.weight_decay) == (1.0, 2.0, 3.0)


def test_override_can_include_a_file(experiments: Write) -> None:
    """One override adds a source."""
    experiments(sources__more="_target_: recipe_targets.Words\npath: more.txt")
    recipe = load_recipe("one", overrides=["data.sources.more.include=sources/more"])
    assert recipe.data.sources["more"]["path"] == "more.txt"
    assert list(
        load_recipe("one", overrides=["data.sources.more.include=sources/more", "data.sources.words=null"]).data.sources
    ) == ["more"]


def test_circular_include_is_a_fault(experiments: Write) -> None:
    """The message has the chain of files."""
    experiments(two="include: three", three="include: two")
    assert "two -> three -> two" in faults_of(experiment="two")["include"]


def test_unknown_include_does_not_hide_other_faults(experiments: Write) -> None:
    """Keys that the missing file could have had are not reported as missing; a typing error beside it is."""
    experiments(two="include: [onne]\noptimizer: {lrr: 1}", sources__words="_target_: x")
    faults = faults_of(experiment="two")
    assert set(faults) == {"include", "optimizer.lrr"}
    assert "did you mean 'one'?" in faults["include"]
    # Own and shipped names can be included, those of subfolders too.
    for name in ("profiles/tiny", "sources/words", "sources/digits"):
        assert f", {name}," in faults["include"]


def test_override_of_a_target_drops_its_arguments(experiments: Write) -> None:
    """Arguments in other overrides are kept, before or after the target."""
    experiments()
    target = "model.head._target_=recipe_targets.Shallow"
    assert load_recipe("one", overrides=[target]).model.head == {"_target_": "recipe_targets.Shallow", "bias": True}
    recipe = load_recipe("one", overrides=["model.head.bias=false", target])
    assert recipe.model.head == {"_target_": "recipe_targets.Shallow", "bias": False}


def test_interpolations_are_resolved_in_each_cell(experiments: Write) -> None:
    """They can refer to defaults, values of an axis and lists; `\\${` is an escape."""
    experiments()
    cells = load_cells("one", overrides=["seeds.init=${seeds.data}", "grid.seeds.data=[5,6]", "name=\\${x}"])
    assert [cell.recipe.seeds.init for cell in cells] == [5, 6]
    assert cells[0].recipe.name == "${x}"
    recipe = load_recipe("one", overrides=["optimizer.betas=['${schedule.final}', 0.5]"])
    assert recipe.optimizer.betas == [0.0, 0.5]


@pytest.mark.parametrize(
    ("override", "key", "message"),
    [
        ("optimizer.lr=${optimizr.eps}", "optimizer.lr", "did you mean 'optimizer'"),
        ("optimizer.lr=${optimizer.lr}", "optimizer.lr", "Recursive"),
        ("optimizer.lr=${name}", "optimizer.lr", "expected a number; 'one' given"),
        ("name=${oc.env:NO_SUCH_THING}", "name", "NO_SUCH_THING"),
        ("optimizer.lrr=1", "optimizer.lrr", "unknown key 'lrr'; did you mean 'lr'?"),
        ("optimizerr.lr=1", "optimizerr", "did you mean 'optimizer'?"),
        ("grd.optimizer.lr=[1]", "grd", "did you mean 'grid'?"),
        ("data.includex=x", "data.includex", "did you mean 'include'?"),
        ("grid.optimizer.lrr=[1]", "grid.optimizer.lrr", "did you mean 'lr'?"),
        ("trainer.log_every=1.5", "trainer.log_every", "expected a whole number; 1.5 given (the command line)"),
        ("trainer.precision=bf16-mixd", "trainer.precision", "did you mean 'bf16-mixed'?"),
        ("optimizer=3", "optimizer", "expected a mapping of lr, lr_by_part"),
        ("model.lora=true", "model.lora", "expected a mapping of rank"),
        ("data.sources=[a]", "data.sources", "expected a mapping"),
        ("model.head=mlp", "model.head", "expected a mapping with `_target_`: "),
        ("model.head={layers: 3, _target_: null}", "model.head", "expected a mapping with `_target_`: "),
        ("model.head.layrs=3", "model.head.layrs", "did you mean 'layers'?"),
        ("model.head.layers=deep", "model.head.layers", "expected a whole number; 'deep' given"),
        ("model.head.activation=slu", "model.head.activation", "did you mean 'silu'?"),
        ("model.head.hidden_size=8", "model.head.hidden_size", "the code sets this argument itself"),
        ("model.head._target_=recipe_targets.Dep", "model.head._target_", "did you mean 'recipe_targets.Deep'?"),
        ("loss._target_=bradley_tery", "loss._target_", "did you mean 'bradley_terry'?"),
        ("data.sources.words.path=null", "data.sources.words.path", "expected text; null given"),
        ("data.sources.more._target_=recipe_targets.Words", "data.sources.more.path", "missing"),
        ("data.sources.more.includex=x", "data.sources.more", "did you mean 'include' by 'includex'?"),
        ("schedule.warmup=2", "schedule.warmup", "must be from 0 to 1; 2.0 given (the command line)"),
        ("optimizer.lr=[1", "optimizer.lr", "is not valid YAML"),
        ("optimizer.lr=#1", "optimizer.lr", "is a comment in YAML"),
        ("optimizer.lr", "optimizer.lr", "an override is KEY=VALUE"),
        ("a..b=1", "a..b", "an override is KEY=VALUE"),
        ("model.include=[1]", "model.include", "expected a name or a list of names"),
        ("seeds=[1,1]", "seeds", "expected different whole numbers"),
        ("seeds=5", "seeds", "expected a mapping of data, init, dropout"),
    ],
)
def test_wrong_override_is_a_fault_at_its_key(experiments: Write, override: str, key: str, message: str) -> None:
    """The message has what is allowed and the nearest valid name, and there is no other fault."""
    experiments()
    faults = faults_of(override)
    assert list(faults) == [key]
    assert message in faults[key]


def test_faults_of_all_cells_are_reported_together(experiments: Write) -> None:
    """A fault of all cells is reported once, the others with their cells."""
    experiments(
        two="include: one\nname: 3\ngrid:\n  model.head.layers: [2, deep]\n  optimizer.rl: [1]\n"
        "  loss.margin: {none: 0, wrong: dta}"
    )
    with pytest.raises(RecipeError) as caught:
        load_cells("two", overrides=["trainer.epochs=-1", "trainer.stepps=3"])
    reported = {(fault.cell, fault.key) for fault in caught.value.faults}
    assert reported == {
        ("*", "grid.optimizer.rl"),
        ("*", "name"),
        ("*", "trainer.stepps"),
        ("*", "trainer.epochs"),
        ("layers=deep,margin=none", "model.head.layers"),
        ("layers=deep,margin=wrong", "model.head.layers"),
        ("layers=2,margin=wrong", "loss.margin"),
        ("layers=deep,margin=wrong", "loss.margin"),
    }
    lines = str(caught.value).splitlines()
    assert lines[0] == "8 faults in recipe 'two':"
    assert "  model.head.layers: expected a whole number; 'deep' given" in "\n".join(lines)
    assert sum("model.head.layers" in line for line in lines) == 1


def test_message_names_the_file_of_the_fault(experiments: Write) -> None:
    """The file is the profile, the experiment or an included file; otherwise the command line."""
    folder = experiments(
        parts__a="eps: small",
        two="include: one\ntrainer: {clip: much}\noptimizer: {include: parts/a}",
    )
    experiments(profiles__tiny=(folder / "profiles" / "tiny.yaml").read_text() + "schedule: {warmup: warm}\n")
    faults = faults_of("batch.groups=few", experiment="two")
    assert {key: Path(message.rpartition("(")[2].rstrip(")")).name for key, message in faults.items()} == {
        "optimizer.eps": "a.yaml",
        "trainer.clip": "two.yaml",
        "schedule.warmup": "tiny.yaml",
        "batch.groups": "the command line",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a: [1", "two.yaml:2: not valid YAML", id="open_bracket"),
        pytest.param("name: a\nname: b", "found duplicate key name", id="same_key_twice"),
        pytest.param("- 1", "a list is given", id="list"),
        pytest.param("on: 1", "quote them", id="truth_as_key"),
        pytest.param("name: ${a", "no viable alternative", id="interpolation"),
        pytest.param("name: \x00", "cannot be read", id="control_character"),
    ],
)
def test_invalid_file_is_one_fault(experiments: Write, text: str, message: str) -> None:
    """The message has the file, and the line where there is one."""
    experiments(two=text)
    (fault,) = faults_of(experiment="two").values()
    assert message in fault
    assert "two.yaml" in fault


def test_file_that_is_not_utf_8_is_one_fault(experiments: Write) -> None:
    """The message has the file and the encoding that is needed."""
    (experiments() / "two.yaml").write_bytes(b"name: \xff\xfe")
    (fault,) = faults_of(experiment="two").values()
    assert "two.yaml" in fault
    assert "UTF-8" in fault


def test_unknown_experiment_and_profile_are_both_reported(experiments: Write) -> None:
    """Each message has the nearest name."""
    experiments()
    _, faults = find_faults("onne", profile="tinny")
    assert ["did you mean 'tiny'?" in faults[0].message, "did you mean 'one'?" in faults[1].message] == [True, True]
    # Those of the package can be named too.
    assert ["qwen2_5_vl_7b" in faults[0].message, "head_depth" in faults[1].message] == [True, True]
    assert "there is no file 'one.yml'" in next(iter(faults_of(experiment="one.yml").values()))


def test_variable_that_names_no_folder_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The package's experiments must not silently replace a folder that the user has misspelt."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(tmp_path / "misspelt"))
    assert str(tmp_path / "misspelt") in faults_of(experiment="basereward")[""]


def test_shipped_experiments_are_found_from_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable is set, and there is no folder of experiments."""
    monkeypatch.delenv("BASEREWARD_EXPERIMENTS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert len(load_cells("head_depth")) == 7


def test_own_file_comes_before_the_shipped_one_and_beside_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A name in both folders is the user's, also in an include; the other names stay."""
    monkeypatch.delenv("BASEREWARD_EXPERIMENTS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments" / "sources").mkdir(parents=True)
    (tmp_path / "experiments" / "sources" / "numbers.yaml").write_text("_target_: numbers\nsize: 77\n")
    (tmp_path / "experiments" / "mine.yaml").write_text(
        "include: basereward\ndata: {sources: {numbers: null, mine: {include: sources/numbers}}}\n"
    )
    (cell,) = load_cells("mine")
    assert cell.recipe.data.sources["mine"]["size"] == 77
    assert cell.recipe.model.head["_target_"] == "mlp"
    assert {"mine", "head_depth"} <= {entry.name for entry in names("experiments")}


def test_equal_cells_are_a_fault(experiments: Write) -> None:
    """An override that hides an axis would train the same model several times."""
    experiments()
    _, faults = find_faults("one", overrides=["grid.optimizer.lr=[1e-3,1e-4]", "optimizer.lr=1"])
    (fault,) = faults
    assert (fault.cell, fault.key) == ("*", "grid")
    assert "one and the same recipe: lr=0.001, lr=0.0001" in fault.message


def test_an_axis_in_a_profile_is_a_fault(experiments: Write) -> None:
    """A profile describes the machine and the model, not the variations."""
    folder = experiments()
    experiments(profiles__tiny=(folder / "profiles" / "tiny.yaml").read_text() + "grid: {optimizer.lr: [1, 2]}\n")
    assert list(faults_of()) == ["grid"]


def test_load_recipe_rejects_a_sweep(experiments: Write) -> None:
    """The error names `load_cells`."""
    experiments()
    with pytest.raises(RecipeError, match=r"sweep of 2 cells .*load_cells"):
        load_recipe("one", overrides=["seeds=[0,1]"])


def test_seeds_axis_and_override_of_one_seed_combine(experiments: Write) -> None:
    """The axis remains when one of the seeds is set for all cells."""
    experiments()
    cells = load_cells("one", overrides=["seeds=[1,2]", "seeds.data=9"])
    assert [dataclasses.astuple(cell.recipe.seeds) for cell in cells] == [(9, 1, 1), (9, 2, 2)]
    assert [cell.name for cell in cells] == ["seed=1", "seed=2"]


def test_labels_must_not_give_two_cells_one_name(experiments: Write) -> None:
    """Two different cells could not be distinguished by their names."""
    lr = "optimizer.lr: {'1,groups=2': 1e-3, '1': 1e-4}"
    experiments(one=EXPERIMENT + "grid: {" + lr + ", batch.groups: {'3': 3, '2,groups=3': 4}}\n")
    with pytest.raises(RecipeError, match="labels with commas give two cells one name"):
        load_cells("one")


def test_a_recipe_is_read_only(experiments: Write) -> None:
    """Setting a key after loading is an error."""
    experiments()
    recipe: Any = load_recipe("one")
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.optimizer.lr = 3


SMALL = """\
# Another profile.
model: {backbone: {path: some/model}}
data: {sources: {words: {_target_: recipe_targets.Words, path: words.txt}}}
batch: {groups: 8}
"""


def test_sweep_section_applies_to_cells_only(experiments: Write) -> None:
    """`sweep:` of a profile changes the cells of a grid or of seeds, not a single run; the command line wins."""
    experiments(profiles__small=SMALL + "sweep: {trainer: {steps: 5}}\ntrainer: {steps: 50}\n")
    assert load_recipe("one", profile="small").trainer.steps == 50
    cells = load_cells("one", profile="small", overrides=["seeds=[0,1]"])
    assert [cell.recipe.trainer.steps for cell in cells] == [5, 5]
    overrides = ["grid.optimizer.lr=[1e-3,1e-4]", "trainer.steps=7"]
    assert [cell.recipe.trainer.steps for cell in load_cells("one", profile="small", overrides=overrides)] == [7, 7]


def test_null_removes_all_names_of_a_mapping() -> None:
    """It is as if no file had given them: names that are set after it are the only ones."""
    benchmarks = "data.include=mixtures/sets/benchmarks"
    rm_bench = "data.curation.against.rm_bench.include=benchmarks/rm_bench"
    for overrides, names_left in (
        ([], {"judgebench", "rm_bench", "vl_rewardbench"}),
        (["data.curation.against=null"], set()),
        (["data.curation.against=null", rm_bench], {"rm_bench"}),
    ):
        against = load_recipe("basereward", overrides=[benchmarks, *overrides]).data.curation.against
        assert against.keys() >= names_left
        assert len(names_left) == 3 or against.keys() == names_left


def test_grid_null_is_a_single_run(experiments: Write) -> None:
    """With `grid=null` the recipe is that of a single run, not of a cell."""
    experiments(profiles__small=SMALL + "sweep: {trainer: {steps: 5}}\ntrainer: {steps: 50}\n")
    grid = "grid.optimizer.lr=[1e-3,1e-4]"
    assert load_recipe("one", profile="small", overrides=[grid, "grid=null"]).trainer.steps == 50


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("5", "sweep", "expected a mapping of the keys that change"),
        ("[1]", "sweep", "expected a mapping"),
        ("{grid: {optimizer.lr: [1, 2]}}", "sweep.grid", "not of a cell"),
        ("{seeds: [0, 1]}", "sweep.seeds", "not of a cell"),
    ],
)
def test_invalid_sweep_section_is_a_fault(experiments: Write, section: str, key: str, message: str) -> None:
    """The message has the file, with and without a grid."""
    experiments(profiles__small=SMALL + f"sweep: {section}\n")
    for overrides in ([], ["grid.optimizer.lr=[1e-3,1e-4]"]):
        faults = faults_of(*overrides, profile="small")
        assert list(faults) == [key]
        assert message in faults[key]
        assert "small.yaml" in faults[key]


def test_unknown_key_in_the_sweep_section_is_a_fault(experiments: Write) -> None:
    """The message has the nearest valid key."""
    experiments(profiles__small=SMALL + "sweep: {trainer: {stepps: 5}}\n")
    with pytest.raises(RecipeError, match=r"did you mean 'steps'"):
        load_cells("one", profile="small", overrides=["seeds=[0,1]"])
