"""Test that `check` finds mistakes that a training would only meet later, and that `train` refuses them.

Each case is a recipe whose keys and types are right. It was found by training it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from basereward.cli import main
from basereward.recipe import Cell, load_recipe
from basereward.runs.run_folder import list_runs
from basereward.training.checks import model as model_check
from basereward.training.preflight import cell_findings
from tests.helpers.support import pair_rows, write_rows

PROFILE = str(Path(__file__).parents[1] / "small.yaml")
SOURCE = "data.sources."
TEXT_ONLY = "model.backbone.make={_target_: tiny_qwen3, hidden_size: 64, layers: 2}"


def only(name: str, *more: str) -> list[str]:
    """Return overrides that make a file of the fixture `files` the only source, `mine`."""
    source = [f"{SOURCE}numbers=null", f"{SOURCE}mine._target_=jsonl", f"{SOURCE}mine.path=FILES/{name}"]
    return [*source, *(f"{SOURCE}mine.{override}" for override in more)]


def hub(path: str, *more: str) -> list[str]:
    """Return overrides that make a data set the only source, `mine`."""
    source = [f"{SOURCE}numbers=null", f"{SOURCE}mine._target_=hub", f"{SOURCE}mine.path={path}"]
    return [*source, *(f"{SOURCE}mine.{override}" for override in more)]


CASES: dict[str, tuple[list[str], str]] = {
    # Data.
    "empty file": (only("empty.jsonl"), "data.sources.mine"),
    "folder for a file": (only("folder"), "data.sources.mine"),
    "missing file for validation": (only("good.jsonl", "val=/no/val.jsonl"), "data.sources.mine"),
    "missing file for the test": (only("good.jsonl", "test=/no/test.jsonl"), "data.sources.mine"),
    "empty file for validation": (only("good.jsonl", "val=FILES/empty.jsonl"), "data.sources.mine"),
    "other columns for validation": (only("good.jsonl", "val=FILES/unlabelled.jsonl"), "data.sources.mine"),
    "other columns for the test": (only("good.jsonl", "test=FILES/unlabelled.jsonl"), "data.sources.mine"),
    "no labels": (only("unlabelled.jsonl"), "data.sources.mine"),
    "shares of one together": (only("good.jsonl", "val=0.5", "test=0.5"), "data.sources.mine"),
    "column that no row has": (only("good.jsonl", "columns={prompt: question}"), "data.sources.mine"),
    "ratings from high to low": (only("good.jsonl", "rating_range=[5, 1]"), "data.sources.mine"),
    "equal responses": (only("equal.jsonl"), "data.max_lost"),
    "bad rows after six hundred": (only("late.jsonl"), "data.max_lost"),
    "missing pictures": (only("pictures.jsonl", "images_root=/no/folder"), "data.max_lost"),
    "long rows": ([*only("good.jsonl"), "data.encoding.max_tokens=8"], "data.max_lost"),
    "rows above the budget": ([*only("good.jsonl"), "batch.tokens=8"], "data.max_lost"),
    "pixels above the limit": ([*only("pictures.jsonl"), "data.encoding.min_pixels=50000000"], "data.max_lost"),
    "pictures without eyes": ([*only("pictures.jsonl"), TEXT_ONLY], "data.max_lost"),
    "critic without critiques": ([*only("good.jsonl"), "model.head={_target_: critic}"], "data.max_lost"),
    "rating without ratings": ([*only("good.jsonl"), "model.head={_target_: rating}"], "data.max_lost"),
    "nothing left to train on": ([f"{SOURCE}numbers.size=0"], "data.sources"),
    "no weight above zero": (["data.mixture.weights={numbers: 0}"], "data.mixture.weights"),
    "passes of nothing": (["data.mixture.passes={numbers: 1e-9}"], "data.mixture"),
    "generated rows in a stream": (["data.streaming={}"], "data.sources.numbers"),
    "impossible numbers": ([f"{SOURCE}numbers.below=5"], "data.sources.numbers"),
    "split of a file": (hub("FILES/good.jsonl", "split=test"), "data.sources.mine"),
    "archive that is missing": (hub("FILES/good.jsonl", "images=pictures.zip"), "data.sources.mine"),
    "pattern without a file": (hub("FILES/folder", "files=[no*.jsonl]"), "data.sources.mine"),
    "adapter of other columns": (hub("FILES/good.jsonl", "shape={_target_: shp}"), "data.sources.mine"),
    "data set out of reach": (hub("nobody/nothing"), "data.sources.mine"),
    "judge that is missing": (["data.curation.judge=nobody"], "data.curation.judge"),
    "benchmark that is missing": (
        ["data.curation.against={b: {_target_: jsonl, path: /no.jsonl}}"],
        "data.curation.against.b",
    ),
    "benchmark of other columns": (
        [
            "data.curation.against.b.include=benchmarks/vl_rewardbench",
            "data.curation.against.b={path: FILES/good.jsonl, split: train}",
        ],
        "data.curation.against.b",
    ),
    # Model, head, loss, objective.
    "backbone out of reach": (["model.backbone={make: null, path: nobody/nothing}"], "model.backbone.path"),
    "backbone that is a file": (["model.backbone={make: null, path: FILES/good.jsonl}"], "model.backbone.path"),
    "backbone without config.json": (["model.backbone={make: null, path: FILES/folder}"], "model.backbone.path"),
    "backbone with a broken config.json": (["model.backbone={make: null, path: FILES/broken}"], "model"),
    "width that does not divide": (["model.backbone.make.hidden_size=65"], "model"),
    "more checkpointed layers than layers": (
        ["model.backbone={gradient_checkpointing: true, checkpoint_layers: 99}"],
        "model",
    ),
    "adapters of a part that is missing": ([TEXT_ONLY, "model.lora={parts: [vision]}"], "model"),
    "learning rate of a part that is missing": ([TEXT_ONLY, "optimizer.lr_by_part={vision: 1e-4}"], "model"),
    "learning rate of a loss without weights": (["optimizer.lr_by_part={loss: 1e-4}"], "model"),
    "head above the memory": (["model.head={_target_: mlp, layers: 64, width: 131072}"], "model"),
    "prompt that is missing": (["model.head={_target_: critic, prompt: none}"], "model"),
    "prompt file that is missing": (["model.head={_target_: critic, prompt_file: /no.txt}"], "model"),
    "prompt without its fields": (["model.head={_target_: generative, prompt: critique}"], "model"),
    "pattern that is no expression": (["model.head={_target_: generative, pattern: '('}"], "model"),
    "text objective of a scalar head": (["objective={_target_: language_modeling}"], "model"),
    "critique objective of a scalar head": (["objective={_target_: critique_ranking}"], "model"),
    "ranking of a head that writes": (
        ["model.head={_target_: generative}", "objective={_target_: ranking}"],
        "model",
    ),
    "critique objective of a judge": (
        ["model.head={_target_: generative}", "objective={_target_: critique_ranking}"],
        "model",
    ),
    # Optimizer, packages, tracking.
    "paged optimizer without a GPU": (["optimizer.kind=paged_adamw", "trainer.accelerator=cpu"], "optimizer.kind"),
    "folder for a database": (["tracking.uri=sqlite:///FILES/folder"], "tracking.uri"),
    "text for a database": (["tracking.uri=sqlite:///FILES/good.jsonl"], "tracking.uri"),
    "two slashes of a database": (["tracking.uri=sqlite://mlflow.db"], "tracking.uri"),
    "port out of range": (["tracking.uri=http://localhost:99999"], "tracking.uri"),
    "address without a scheme": (["tracking.uri=localhost:5000"], "tracking.uri"),
    "driver that is not installed": (["tracking.uri=postgresql+nodriver://host/db"], "tracking.uri"),
}
ENVIRONMENTS = {
    "runs in a file": {"BASEREWARD_RUNS": "FILES/good.jsonl"},
    "runs below a file": {"BASEREWARD_RUNS": "FILES/good.jsonl/runs"},
    "caches in a file": {"BASEREWARD_CACHE": "FILES/good.jsonl"},
    "caches below a file": {"BASEREWARD_CACHE": "FILES/good.jsonl/cache"},
    "store in a folder": {"MLFLOW_TRACKING_URI": "FILES/folder"},
    "store without a scheme": {"MLFLOW_TRACKING_URI": "localhost:5000"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the files that the cases name."""
    folder = tmp_path_factory.mktemp("files")
    good = pair_rows(60)
    unlabelled = [{"prompt": row["prompt"], "chosen": row["chosen"]} for row in good]
    equal = [{**row, "rejected": row["chosen"]} for row in good]
    write_rows(folder / "good.jsonl", good)
    write_rows(folder / "unlabelled.jsonl", unlabelled)
    write_rows(folder / "equal.jsonl", equal)
    write_rows(folder / "late.jsonl", [*pair_rows(600), *unlabelled])
    PIL.Image.new("RGB", (56, 84)).save(folder / "a.png")
    write_rows(folder / "pictures.jsonl", [{**row, "images": ["a.png"]} for row in good])
    (folder / "empty.jsonl").touch()
    (folder / "folder").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{]")
    return folder


def placed(texts: list[str], files: Path) -> list[str]:
    """Return overrides with the folder of the fixture in place of FILES."""
    return [text.replace("FILES", str(files)) for text in texts]


@pytest.mark.parametrize("name", CASES)
def test_check_finds(name: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status is 2, and the fault has the key of what must be changed."""
    overrides, key = CASES[name]
    assert main(["check", "basereward", "--profile", PROFILE, "--json", *placed(overrides, files)]) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    faults = json.loads(printed.out)["faults"]
    assert [fault["key"] for fault in faults] == [key], faults
    assert faults[0]["message"]


@pytest.mark.parametrize("name", ["late bad rows", "objective", "store"])
def test_train_and_sweep_refuse_the_same_before_any_folder(
    name: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a run nor a sweep is made for a fault of the data, of the model or of the tracking."""
    case = {"late bad rows": "bad rows after six hundred", "objective": "critique objective of a judge"}
    overrides, key = CASES[case.get(name, "two slashes of a database")]
    for command, experiment in (("train", "basereward"), ("sweep", "seeds")):
        assert main([command, experiment, "--profile", PROFILE, "--json", *placed(overrides, files)]) == 2
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        assert f"{key}: " in json.loads(printed.out)["error"]["message"]
    assert list_runs(kind=None) == []


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_check_finds_wrong_variables(
    name: str, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message has the variable that is to be changed."""
    ((variable, value),) = ENVIRONMENTS[name].items()
    monkeypatch.setenv(variable, value.replace("FILES", str(files)))
    for command in ("check", "train"):
        assert main([command, "basereward", "--profile", PROFILE, "--json"]) == 2
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        assert variable in printed.out


def findings(overrides: list[str]) -> Any:
    """Return what the checks of one recipe find."""
    recipe = load_recipe("basereward", profile=PROFILE, overrides=overrides)
    return cell_findings([Cell("cell", "cell", {}, recipe)])


def test_facts_are_those_of_the_files_and_the_model(files: Path) -> None:
    """Sizes, columns, lengths, weights, memory and disk; every number by hand or by the file system."""
    found = findings(placed(only("good.jsonl", "val=0.1"), files))
    assert found.faults == found.warnings == []
    facts = found.facts["cell"]
    source = facts["sources"]["mine"]
    assert source["bytes"] == (files / "good.jsonl").stat().st_size
    assert source["rows"] == sum(source["groups"].values()) == 60
    assert source["columns"] == {name: name for name in ("id", "prompt", "chosen", "rejected")}
    assert source["complete"]
    assert facts["devices"]["kind"] == "cpu"
    assert facts["tokens"]["mine"]["encoded"] == 60
    assert facts["tokens"]["mine"]["rejected"] == {}
    weights = facts["model"]["weights"]
    assert facts["model"]["trained"] == weights
    # A weight, its gradient and the two moments of AdamW, of four bytes each.
    assert facts["memory"]["counted"] == 16 * weights
    assert facts["memory"]["counted"] < facts["memory"]["peak"] < facts["memory"]["available"]
    # The last state twice while it is replaced, and the best weights: three, three and one numbers a weight.
    assert facts["disk"] == {"runs": 7 * 4 * weights, "mlflow": 4 * weights, "cache": 0}


def test_rejections_of_both_kinds_count_together(tmp_path: Path) -> None:
    """Two blank and two long rows of a hundred: each kind alone is within three per cent, both together are not."""
    rows = pair_rows(100)
    for row, change in zip(rows, [{"rejected": " "}] * 2 + [{"chosen": "yes " * 3000}] * 2, strict=False):
        row.update(change)
    overrides = [f"{SOURCE}numbers=null", f"{SOURCE}mine._target_=jsonl"]
    overrides += [f"{SOURCE}mine.path={write_rows(tmp_path / 'rows.jsonl', rows)}", "data.encoding.max_tokens=512"]
    assert [fault.key for fault in findings([*overrides, "data.max_lost=0.03"]).faults] == ["data.max_lost"]
    assert findings([*overrides, "data.max_lost=0.04"]).faults == []


def test_memory_and_disk_that_do_not_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted must fit; what is estimated is a warning; the disk must hold what a run writes."""
    memory = findings([]).facts["cell"]["memory"]
    monkeypatch.setattr(model_check, "device_memory", lambda device: memory["counted"] - 1)
    assert [fault.key for fault in findings([]).faults] == ["model"]
    monkeypatch.setattr(model_check, "device_memory", lambda device: memory["peak"] - 1)
    found = findings([])
    assert (found.faults, [fault.key for fault in found.warnings]) == ([], ["batch"])
    monkeypatch.setattr(model_check, "device_memory", lambda device: memory["peak"])
    assert findings([]).warnings == []
    # A cache of features larger than any disk.
    too_large = ["data.encoding.feature_cache=1e9", "model.backbone.freeze=[vision, merger]"]
    (fault,) = findings(too_large).faults
    assert "BASEREWARD_CACHE" in fault.message
