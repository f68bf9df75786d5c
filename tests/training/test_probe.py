"""Test that a probe, with states that are computed once, ends with the head of a run with a frozen backbone."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from basereward.inference.load_model import load
from basereward.io.files import cache_folder
from basereward.model.backbone import Backbone
from basereward.recipe import load_recipe
from basereward.runs.run_folder import find, list_runs
from basereward.runs.score_files import read_scores
from basereward.training.build import build
from basereward.training.fit import train
from basereward.training.probe import read_places, setting
from tests.helpers.killed_process import start_training
from tests.helpers.support import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ready_store")]

ROOT = Path(__file__).resolve().parents[2]
FROZEN = "model.backbone.freeze=[vision, merger, language]"
# Without centring the gradient of the last bias is only rounding, which AdamW would turn into steps.
# With AdamW's usual eps a gradient of 1e-7 gives a full step, which would amplify its rounding.
LEARNS = ("optimizer.lr=1e-2", "optimizer.eps=1e-3", "loss.centring=0.01")
NF4 = ("model.backbone.quantization=nf4", "model.backbone.dtype=bfloat16")
WAYS = {
    "tree": (),
    "plain": ("batch.layout=plain",),
    "bfloat16": ("model.backbone.dtype=bfloat16",),
    "mixed": ("trainer.precision=bf16-mixed",),
    "tokens": ("batch.tokens=1500", "batch.modality=separate"),
    "epochs": ("trainer.steps=null", "trainer.epochs=2.5", "data.mixture.weights={digits: 1, numbers: 2}"),
    "nf4": NF4,
}


def run(*changes: str) -> dict[str, Any]:
    """Train the small recipe with changes and return the result."""
    return train(load_recipe("basereward", overrides=[*SMALL, *LEARNS, *changes]))


def head(result: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the saved head of a run."""
    return load_file(find(result["run_id"]).model / "head.safetensors")


def files() -> list[Path]:
    """Return the files with cached states."""
    return list((cache_folder() / "pooled").glob("*/*.safetensors"))


@pytest.mark.parametrize("variant", WAYS)
def test_probe_ends_with_the_head_of_the_frozen_run(variant: str) -> None:
    """With the same plan and seeds the heads differ by at most 1e-6 of their distance from the start. States are
    computed in other batches than in the frozen run, which changes the rounding, in bfloat16 by up to 2e-2."""
    tolerance = 1e-6 if variant not in ("bfloat16", "mixed", "nf4") else 2e-2
    expected, probed = run(*WAYS[variant], FROZEN), run(*WAYS[variant], "probe=true")
    initial = load_recipe("basereward", overrides=[*SMALL, *WAYS[variant], "probe=true"])
    initial_head = torch.nn.utils.parameters_to_vector(build(initial)[0].model.head.state_dict().values())
    expected_head, probed_head = (
        torch.nn.utils.parameters_to_vector(head(result).values()) for result in (expected, probed)
    )
    distance = (expected_head - initial_head).norm()
    assert distance > 1e-2 * initial_head.norm()
    assert (probed_head - expected_head).norm() <= tolerance * distance
    pairs = {name: value for name, value in expected["metrics"].items() if name.endswith("pairs")}
    assert pairs == {name: probed["metrics"][name] for name in pairs}
    assert pairs["test/digits/pairs"] > 0
    assert probed["pair_s"] is None


def test_probe_scores_in_training_equal_the_saved_model() -> None:
    """The saved model reads the rows itself."""
    result = run("probe=true")
    recipe = load_recipe("basereward", overrides=[*SMALL, *LEARNS, "probe=true"])
    data = build(recipe)[1]
    groups = {group.id: group for group in (data.parts["test"].group(place) for place in data.parts["test"].places)}
    scored = read_scores(find(result["run_id"]).scores / "test.jsonl")
    assert {group.id for group in scored} == groups.keys()
    served = load(result["run_id"]).score_groups(groups[group.id] for group in scored)
    for in_training, served_scores in zip(scored, served, strict=True):
        torch.testing.assert_close(torch.tensor(served_scores), torch.tensor(in_training.scores), rtol=0, atol=1e-5)


def test_backbone_runs_once_per_group(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """This holds over two epochs and two validations. The next run with another head does not run the backbone, and its
    bits equal those of a run with an empty cache."""
    num_groups: list[int] = []
    forward = Backbone.forward

    def counted_forward(self: Backbone, batch: Any, **keywords: Any) -> Tensor:
        num_groups.append(batch.num_groups)
        return forward(self, batch, **keywords)

    monkeypatch.setattr(Backbone, "forward", counted_forward)
    epochs = ("probe=true", "trainer.steps=null", "trainer.epochs=2")
    run(*epochs)
    assert sum(num_groups) == 64 + 24 + 24
    num_groups.clear()
    with caplog.at_level(logging.INFO):
        from_cache = run(*epochs, "model.head.layers=3")
    assert num_groups == []
    assert "pooled states of train: 0 of 64 groups to compute" in caplog.text
    monkeypatch.setenv("BASEREWARD_CACHE", f"{cache_folder()}-other")
    computed = run(*epochs, "model.head.layers=3")
    assert sum(num_groups) == 64 + 24 + 24
    assert all(torch.equal(weight, head(computed)[name]) for name, weight in head(from_cache).items())


def test_damaged_cache_file_is_recomputed() -> None:
    """The run ends with the same bits."""
    expected = head(run("probe=true"))
    for file in files():
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.unlink()  # it may be mapped into memory
        file.write_bytes(content)
    recomputed = head(run("probe=true"))
    assert all(torch.equal(weight, expected[name]) for name, weight in recomputed.items())


def test_cache_key_depends_on_what_changes_the_states() -> None:
    """Changes of the backbone, the encoder and the computation change the key; changes of the head and the optimizer do
    not."""

    def key_of(*changes: str) -> str:
        recipe = load_recipe("basereward", overrides=[*SMALL, "probe=true", *changes])
        module, data, trainer = build(recipe)
        return setting(recipe, model=module.model, data=data, device=trainer.strategy.root_device)

    same_states = [(), ("model.head.layers=4",), ("optimizer.lr=1e-5", "seeds.init=3", "trainer.steps=2")]
    other_states = [
        ("model.backbone.make.seed=1",),
        ("model.backbone.dtype=bfloat16",),
        NF4,
        ("batch.layout=plain",),
        ("trainer.precision=bf16-mixed",),
        ("data.encoding.max_pixels=2000",),
        ("data.encoding.max_tokens=500",),
    ]
    assert len({key_of(*changes) for changes in same_states}) == 1
    assert len({key_of(*changes) for changes in ((), *other_states)}) == len(other_states) + 1


def test_mostly_read_source_is_computed_completely() -> None:
    """Other seeds then find its states in the cache; of a source that is hardly read, only the read groups are
    computed."""
    overrides = ("data.mixture.weights={digits: 3, numbers: 1}", "trainer.steps=3")
    _, data, trainer = build(load_recipe("basereward", overrides=[*SMALL, "probe=true", *overrides]))
    data.trainer = trainer  # as `fit` does
    places = read_places(data, "train")
    assert sum(source == 0 for source, _ in places) == 24
    assert sum(source == 1 for source, _ in places) == 6
    pooled = data.pooled("train")
    assert pooled is not None
    assert pooled.groups.keys() == set(places)


KILLED = [
    "probe=true",
    "trainer.checkpoint_every=1",
    "optimizer.lr=1e-2",
    "loss.centring=0.01",
    "data.sources.numbers.size=1200",
    # Every group is read once.
    "batch.groups=40",
    "trainer.steps=30",
]


def started(*, resume: str | None = None) -> Any:
    """Start a process that trains a probe on 1,200 groups, whose states fill five files."""
    return start_training("basereward", KILLED, profile="tests/small.yaml", resume=resume)


def killed(process: Any, condition: Callable[[], bool]) -> None:
    """Kill a process when a condition holds."""
    deadline = time.monotonic() + 240
    while not condition() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert process.is_alive()
    process.kill()
    process.join()


def ended(process: Any) -> None:
    """Wait for a process that ends by itself."""
    process.join(240)
    assert process.exitcode == 0


def test_killed_and_resumed_probe_equals_uninterrupted_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe is killed while states are computed and again while it trains. It loses no cache file and ends with the
    bits of an uninterrupted probe."""
    runs = Path(os.environ["BASEREWARD_RUNS"])
    killed(started(), lambda: len(files()) == 2)
    before = {file: file.stat().st_mtime_ns for file in files()}
    assert before
    killed(started(), lambda: any(runs.glob("*/checkpoints/last.ckpt")))
    computed = {file: file.stat().st_mtime_ns for file in files()}
    assert before.items() <= computed.items()
    (stopped,) = {path.parents[1].name for path in runs.glob("*/checkpoints/last.ckpt")}
    ended(started(resume=stopped))
    assert {file: file.stat().st_mtime_ns for file in files()} == computed  # no state was computed again
    monkeypatch.setenv("BASEREWARD_CACHE", str(tmp_path))
    earlier_runs = set(list_runs())
    ended(started())
    (uninterrupted,) = set(list_runs()) - earlier_runs
    resumed, expected = (find(run_id).result() or {} for run_id in (stopped, uninterrupted.run_id))
    assert all(torch.equal(weight, head(resumed)[name]) for name, weight in head(expected).items())
    assert resumed["metrics"] == expected["metrics"]


def test_probe_has_the_curves_of_the_frozen_run() -> None:
    """The probe logs only the recorded steps."""
    curves = []
    for override in ("probe=true", FROZEN):
        records = [record for record, _ in find(run("trainer.log_every=2", override)["run_id"]).journal.read(0)]
        curves.append(
            {
                (record["step"], name): value
                for record in records
                if record["kind"] == "metrics"
                for name, value in record["values"].items()
                if name.startswith("train/")
            }
        )
    assert {step for step, name in curves[0] if name == "train/loss"} == {2, 4, 6}
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)
