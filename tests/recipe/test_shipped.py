"""The published experiments load, and `ls` lists them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from basereward.cli import parse
from basereward.recipe import find_experiment, find_faults, load_cells, names
from basereward.recipe.fragment import load_fragment

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments"
TABLES = FOLDER / "published"  # numbers of papers, nothing to run
FILES = sorted(file for file in FOLDER.rglob("*.yaml") if TABLES not in file.parents)
PAIRS = ["data.sources.pairs.path=x"]
PROFILES = {
    "tiny": [],
    **dict.fromkeys(["qwen2_5_vl_3b", "qwen2_5_vl_7b", "qwen2_5_vl_7b_lora", "qwen2_5_vl_7b_qlora"], PAIRS),
    **dict.fromkeys(["qwen3_vl_4b", "qwen3_vl_8b"], PAIRS),
}
OWN_DATA = (
    "single_source",
    "text_ratio",
    "text_only",
    "ensembles",
    "beyond",
    "beyond_models",
    "r1_reward",
    "r1_reward_released",
)  # their data are the paper's sets


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find experiments from any working directory."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(FOLDER))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("experiment", sorted(file.stem for file in FOLDER.glob("*.yaml")))
def test_every_experiment_loads_on_every_profile(experiment: str, profile: str) -> None:
    """No cell and no argument of a target has a fault."""
    _, faults = find_faults(experiment, profile=profile, overrides=[] if experiment in OWN_DATA else PROFILES[profile])
    assert faults == []


def test_all_profiles_are_tested() -> None:
    """A new profile needs an entry in `PROFILES`, with overrides only if it needs a path."""
    assert {entry.name for entry in names("profiles")} == set(PROFILES)


@pytest.mark.parametrize("file", FILES, ids=[file.relative_to(FOLDER).as_posix() for file in FILES])
def test_command_in_the_comments_of_a_file_is_valid(file: Path) -> None:
    """After the line for editors, one describes the file, and the next has its command: it can be parsed, and its
    experiment has no fault."""
    modeline, summary, command, *_ = file.read_text().splitlines()
    assert modeline.startswith("# yaml-language-server: $schema=")
    assert summary.startswith("# ")
    assert command.startswith("# Run it: basereward ")
    arguments = parse(shlex.split(command.removeprefix("# Run it: basereward ")))
    if arguments.command == "eval":
        for benchmark in arguments.benchmark:
            load_fragment(benchmark, "benchmarks")
        return
    _, faults = find_faults(arguments.experiment, profile=arguments.profile, overrides=arguments.overrides)
    assert faults == []


def test_head_depth_has_the_heads_of_table_2() -> None:
    """Seven heads: one layer, two without and with two activations, three to five with SiLU; nothing else varies."""
    cells = load_cells("head_depth")
    assert [cell.name for cell in cells] == [
        f"head={label}" for label in ("1_none", "2_none", "2_tanh", "2_silu", "3_silu", "4_silu", "5_silu")
    ]
    for cell in cells:
        layers, activation = cell.name.removeprefix("head=").split("_")
        head = cell.recipe.model.head
        expected = (1, "none") if head["_target_"] == "linear" else (head["layers"], head["activation"])
        assert (int(layers), activation) == expected
        assert list(cell.overrides) == ["model.head"]


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_qwen_profiles_have_the_constants_of_the_paper(size: str) -> None:
    """Learning rate 3e-6 and 128 pairs per step; comments mark our own choices."""
    (cell,) = load_cells("basereward", profile=f"qwen2_5_vl_{size}", overrides=PROFILES[f"qwen2_5_vl_{size}"])
    assert cell.recipe.optimizer.lr == 3e-6
    assert cell.recipe.batch.groups == 128
    assert cell.recipe.model.backbone.path == f"Qwen/Qwen2.5-VL-{size.upper()}-Instruct"
    assert (FOLDER / "profiles" / f"qwen2_5_vl_{size}.yaml").read_text().count("Our own choice") == 2


@pytest.mark.parametrize("kind", ["experiments", "profiles", "sources", "benchmarks", "heads", "losses"])
def test_everything_that_is_listed_has_a_summary(kind: str) -> None:
    """A name alone does not describe an entry."""
    entries = names(kind)  # type: ignore[arg-type]
    assert entries
    assert all(entry.summary for entry in entries)


def test_names_lists_files_and_classes() -> None:
    """Files of `experiments`, and the classes of the extension folders."""
    assert {"basereward", "head_depth"} <= {entry.name for entry in names("experiments")}
    assert {"digits", "digit_pairs", "numbers", "jsonl"} <= {entry.name for entry in names("sources")}
    assert {"linear", "mlp"} <= {entry.name for entry in names("heads")}
    assert "bradley_terry" in {entry.name for entry in names("losses")}


PARTS_OF_OTHERS = {
    "multimodal_rewardbench_2": "multimodal_rewardbench_2_pooled",
    "multimodal_rewardbench_2_edit": "multimodal_rewardbench_2_pooled",
    "multimodal_rewardbench_2_interleaved": "multimodal_rewardbench_2_pooled",
    "multimodal_rewardbench_2_t2i": "multimodal_rewardbench_2_pooled",
    "omnirewardbench_image": "omnirewardbench",
    "omnirewardbench_text": "omnirewardbench",
    "vl_rewardbench_1247": "vl_rewardbench",
}
UNPUBLISHED = {"best_of_n", "rewardbench_prior_sets"}  # their rows are the user's


@pytest.mark.parametrize("experiment", ["beyond", "beyond_models"])
def test_beyond_is_compared_with_every_published_benchmark(experiment: str) -> None:
    """The node of each is that of the benchmark itself. One that is a part of another has the same repository."""
    found, _ = find_experiment(experiment, profile="qwen2_5_vl_7b")
    stages = [stage.recipe for stage in found.stages if stage.recipe is not None]
    for recipe in [*stages, *(cell.recipe for cell in found.cells)]:
        against = recipe.data.curation.against
        assert against.keys() == {entry.name for entry in names("benchmarks")} - PARTS_OF_OTHERS.keys() - UNPUBLISHED
        for name, node in against.items():
            assert node == load_fragment(name, "benchmarks")[1]
        for part, whole in PARTS_OF_OTHERS.items():
            assert load_fragment(part, "benchmarks")[1]["path"] == against[whole]["path"]


@pytest.mark.parametrize("name", [entry.name for entry in names("benchmarks")])
def test_named_files_of_a_benchmark_are_of_the_split_train(name: str) -> None:
    """A file of rows has no other split, whatever the benchmark's own is called."""
    _, node = load_fragment(name, "benchmarks")
    for layout in [{}, *(node.get("layouts") or {}).values()]:
        arguments = {**node, **layout}
        for part in [{}, *(arguments.get("parts") or {}).values()]:
            place = {**arguments, **part}
            assert not place.get("files") or place["split"] == "train"
