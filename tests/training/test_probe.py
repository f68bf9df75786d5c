"""Probes: the head that an ordinary run with a frozen backbone comes to, from states that are computed once."""

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

from basereward.inference.score_file import load
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

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FROZEN = "model.backbone.freeze=[vision, merger, language]"
# Without centring the last bias has no gradient but rounding, which AdamW makes steps of.
# With AdamW's usual eps a gradient of 1e-7 is a step as long as any other, and its rounding with it.
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
    """What training the small recipe with changes comes to."""
    return train(load_recipe("basereward", overrides=[*SMALL, *LEARNS, *changes]))


def head(result: Mapping[str, Any]) -> dict[str, Tensor]:
    """The head that a run has saved."""
    return load_file(find(result["run_id"]).model / "head.safetensors")


def files() -> list[Path]:
    """The kept states."""
    return list((cache_folder() / "pooled").glob("*/*.safetensors"))


@pytest.mark.parametrize("way", WAYS)
def test_a_probe_ends_with_the_head_of_the_run_that_it_stands_for(way: str) -> None:
    """Same plan, same seeds: the head has moved the same way, to 1e-6 of the distance. States are computed in other
    company than in the run's own passes, which rounds them otherwise, in bfloat16 by hundredths."""
    tolerance = 1e-6 if way not in ("bfloat16", "mixed", "nf4") else 2e-2
    expected, found = run(*WAYS[way], FROZEN), run(*WAYS[way], "probe=true")
    initial = load_recipe("basereward", overrides=[*SMALL, *WAYS[way], "probe=true"])
    first = torch.nn.utils.parameters_to_vector(build(initial)[0].model.head.state_dict().values())
    expected_head, found_head = (torch.nn.utils.parameters_to_vector(head(each).values()) for each in (expected, found))
    moved = (expected_head - first).norm()
    assert moved > 1e-2 * first.norm()
    assert (found_head - expected_head).norm() <= tolerance * moved
    pairs = {name: value for name, value in expected["metrics"].items() if name.endswith("pairs")}
    assert pairs == {name: found["metrics"][name] for name in pairs}
    assert pairs["test/digits/pairs"] > 0
    assert found["pair_s"] is None


def test_train_score_and_serve_agree() -> None:
    """The scores in training are those of the saved model, which reads the rows itself."""
    result = run("probe=true")
    recipe = load_recipe("basereward", overrides=[*SMALL, *LEARNS, "probe=true"])
    data = build(recipe)[1]
    groups = {each.id: each for each in (data.parts["test"].group(place) for place in data.parts["test"].places)}
    scored = read_scores(find(result["run_id"]).scores / "test.jsonl")
    assert {each.id for each in scored} == groups.keys()
    served = load(result["run_id"]).score_groups(groups[each.id] for each in scored)
    for in_training, again in zip(scored, served, strict=True):
        torch.testing.assert_close(torch.tensor(again), torch.tensor(in_training.scores), rtol=0, atol=1e-5)


def test_the_backbone_runs_once_a_group(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Over two epochs and two validations; the next run with another head runs it never, and has the same bits as one
    that computes states itself."""
    seen: list[int] = []
    forward = Backbone.forward

    def counted(self: Backbone, batch: Any, **given: Any) -> Tensor:
        seen.append(batch.num_groups)
        return forward(self, batch, **given)

    monkeypatch.setattr(Backbone, "forward", counted)
    epochs = ("probe=true", "trainer.steps=null", "trainer.epochs=2")
    run(*epochs)
    assert sum(seen) == 64 + 24 + 24
    seen.clear()
    with caplog.at_level(logging.INFO):
        kept = run(*epochs, "model.head.layers=3")
    assert seen == []
    assert "pooled states of train: 0 of 64 groups to compute" in caplog.text
    monkeypatch.setenv("BASEREWARD_CACHE", f"{cache_folder()}-other")
    computed = run(*epochs, "model.head.layers=3")
    assert sum(seen) == 64 + 24 + 24
    assert all(torch.equal(weight, head(computed)[name]) for name, weight in head(kept).items())


def test_a_damaged_file_is_computed_anew() -> None:
    """And the run comes to the same bits."""
    expected = head(run("probe=true"))
    for file in files():
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.unlink()  # it may be mapped into memory
        file.write_bytes(content)
    found = head(run("probe=true"))
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())


def test_states_belong_to_the_backbone_the_encoder_and_the_way_of_computing() -> None:
    """Whatever changes their bits has states of its own; what is trained on top does not."""

    def of(*changes: str) -> str:
        recipe = load_recipe("basereward", overrides=[*SMALL, "probe=true", *changes])
        module, data, trainer = build(recipe)
        return setting(recipe, model=module.model, data=data, device=trainer.strategy.root_device)

    alike = [(), ("model.head.layers=4",), ("optimizer.lr=1e-5", "seeds.init=3", "trainer.steps=2")]
    others = [
        ("model.backbone.make.seed=1",),
        ("model.backbone.dtype=bfloat16",),
        NF4,
        ("batch.layout=plain",),
        ("trainer.precision=bf16-mixed",),
        ("data.encoding.max_pixels=2000",),
        ("data.encoding.max_tokens=500",),
    ]
    assert len({of(*changes) for changes in alike}) == 1
    assert len({of(*changes) for changes in ((), *others)}) == len(others) + 1


def test_of_a_source_that_is_mostly_read_all_is_computed() -> None:
    """So that other seeds find the states of this one; of one that is hardly read no more than is read."""
    rare = ("data.mixture.weights={digits: 3, numbers: 1}", "trainer.steps=3")
    _, data, _ = build(load_recipe("basereward", overrides=[*SMALL, "probe=true", *rare]))
    places = read_places(data, "train")
    assert sum(source == 0 for source, _ in places) == 24
    assert sum(source == 1 for source, _ in places) == 6
    assert data.pooled["train"].groups.keys() == set(places)


KILLED = [
    "probe=true",
    "trainer.checkpoint_every=1",
    "optimizer.lr=1e-2",
    "loss.centring=0.01",
    "data.sources.numbers.size=1200",
    "trainer.steps=150",
]


def started(*, resume: str | None = None) -> Any:
    """A process that trains a probe on 1,200 groups, in five files of states."""
    return start_training("basereward", KILLED, profile="tests/small.yaml", resume=resume)


def killed(process: Any, when: Callable[[], bool]) -> None:
    """Kills a process as soon as something is so."""
    deadline = time.monotonic() + 240
    while not when() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    assert process.is_alive()
    process.kill()
    process.join()


def ended(process: Any) -> None:
    """Waits for a process that comes to its end by itself."""
    process.join(240)
    assert process.exitcode == 0


def test_killed_and_resumed_is_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that is killed while states are computed, and again while it trains, loses no file and ends with the
    bits of one that never was."""
    runs = Path(os.environ["BASEREWARD_RUNS"])
    killed(started(), lambda: len(files()) == 2)
    before = {file: file.stat().st_mtime_ns for file in files()}
    assert before
    killed(started(), lambda: any(runs.glob("*/checkpoints/last.ckpt")))
    computed = {file: file.stat().st_mtime_ns for file in files()}
    assert before.items() <= computed.items()
    (stopped,) = {path.parents[1].name for path in runs.glob("*/checkpoints/last.ckpt")}
    ended(started(resume=stopped))
    assert {file: file.stat().st_mtime_ns for file in files()} == computed  # nothing was computed again
    monkeypatch.setenv("BASEREWARD_CACHE", str(tmp_path))
    others = set(list_runs())
    ended(started())
    (whole,) = set(list_runs()) - others
    resumed, expected = (find(run_id).result() or {} for run_id in (stopped, whole.run_id))
    assert all(torch.equal(weight, head(resumed)[name]) for name, weight in head(expected).items())
    assert resumed["metrics"] == expected["metrics"]


def test_a_probe_has_the_curves_of_the_run_that_it_stands_for() -> None:
    """Though it logs only the steps that are kept."""
    curves = []
    for way in ("probe=true", FROZEN):
        records = [record for record, _ in find(run("trainer.log_every=2", way)["run_id"]).journal.read(0)]
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
