"""Test law 10: several processes train as one does, with whole models (DDP) and with a divided one (FSDP2)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from basereward import build, load, load_recipe
from basereward.runs.run_folder import RunFolder
from tests.helpers.killed_process import Moment
from tests.helpers.ranks import (
    MIXED,
    best_weights,
    curves,
    only_run,
    scores,
    slurm_variables,
    start_ranks,
    torchrun_variables,
    train_ranks,
)
from tests.helpers.support import pair_rows, write_rows

pytestmark = pytest.mark.slow

STEP = "basereward.training.module:RewardModule.training_step"
MICRO_BATCHES = 6  # of a step, on all ranks together
# Kinds of runs: their overrides. A learning rate above zero for every part, so that each of their gradients counts.
FULL: tuple[str, ...] = ()
LORA = ("model.lora={rank: 4, parts: [language, merger]}", "trainer.steps=6")
SHORT = ("trainer.steps=2", "trainer.validations=1")
CRITIC = (
    "model.head={_target_: critic, critiques: both, prompt: critique_brief, max_tokens: 3}",
    "model.backbone.gradient_checkpointing=true",
    *SHORT,
)
JUDGE = ("model.head={_target_: generative, thinking: true, max_tokens: 12}", *SHORT)
PROBE = ("probe=true", *SHORT)
# A vision tower without an image must not be changed by the decay of its weights either.
TEXT = ("data.sources.digits=null", "optimizer.weight_decay=0.1", *SHORT)
QLORA = ("model.backbone.quantization=nf4", "model.lora={rank: 4}", *SHORT)
DDP, FSDP2 = "trainer.strategy=ddp", "trainer.strategy=fsdp2"
EVERY = "trainer.checkpoint_every=5"
TOLERANCE = 1e-5
Runs = Callable[..., RunFolder]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Return the folder of this file's runs."""
    folder = tmp_path_factory.mktemp("ranks")
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="module")
def trained(root: Path) -> Runs:
    """Return a function that trains, each run once."""
    done: dict[Any, RunFolder] = {}

    def train(ranks: int, *overrides: str) -> RunFolder:
        key = (ranks, overrides)
        if key not in done:
            folder = root / f"run-{len(done)}"
            codes = train_ranks([*MIXED, *overrides], ranks, folder=folder)
            assert codes == [0] * ranks, (folder / "0.txt").read_text()[-3000:]
            done[key] = only_run(folder)
        return done[key]

    return train


def stopped(folder: Path, ranks: int, *overrides: str) -> str:
    """Train until all processes are killed in step 7, after the checkpoint of step 5 and before the first validation;
    return the id of the run."""
    moment = Moment(STEP, call=6 * MICRO_BATCHES // ranks + 2)
    codes = train_ranks([*MIXED, EVERY, *overrides], ranks, folder=folder, kills=dict.fromkeys(range(ranks), moment))
    # A process may notice the end of the other before it kills itself.
    assert codes[0] == -9 or -9 in codes
    run = only_run(folder)
    assert run.state in ("killed", "failed")
    return run.run_id


def assert_equal(run: RunFolder, expected: RunFolder) -> None:
    """Compare everything that two runs have recorded and written, to the rounding of float32."""
    assert run.state == "finished"
    of_run, of_expected = curves(run), curves(expected)
    assert of_run.keys() == of_expected.keys()
    for name, values in of_expected.items():
        assert of_run[name].keys() == values.keys(), name
        for step, value in values.items():
            # Margins are differences of scores of about 1, so their error is absolute.
            close = pytest.approx(value, rel=TOLERANCE, abs=2 * TOLERANCE, nan_ok=True)
            assert of_run[name][step] == close, (name, step)
    weights, expected_weights = best_weights(run), best_weights(expected)
    assert weights.keys() == expected_weights.keys()
    for name, weight in expected_weights.items():
        torch.testing.assert_close(weights[name], weight, rtol=TOLERANCE, atol=TOLERANCE, msg=name)
    for split in ("val", "test"):
        groups, expected_groups = scores(run, split), scores(expected, split)
        assert expected_groups
        for group, expected_group in zip(groups, expected_groups, strict=True):
            close_scores = pytest.approx(expected_group["scores"], rel=TOLERANCE, abs=2 * TOLERANCE)
            assert group == {**expected_group, "scores": close_scores}


def test_some_steps_have_text_alone_on_one_rank() -> None:
    """The runs below test what they are meant to: one rank has pictures and the other has none, in both directions."""
    recipe = load_recipe("basereward", profile="tiny", overrides=[*MIXED, "trainer.devices=2"])
    _, data, _ = build(recipe)
    plan, lengths = data.plan, data.lengths["train"]
    names = data.parts["train"].names
    with_pictures = []
    assert recipe.trainer.steps is not None
    for index in range(recipe.trainer.steps * plan.forwards_per_step):  # type: ignore[union-attr]
        of_ranks = [plan.forward(index, rank=rank) for rank in (0, 1)]  # type: ignore[union-attr]
        with_pictures.append([any(lengths[names[s]].images[row] for s, row in places) for places in of_ranks])
    assert [True, False] in with_pictures
    assert [False, True] in with_pictures
    assert [True, True] in with_pictures


@pytest.mark.parametrize("strategy", [DDP, FSDP2])
@pytest.mark.parametrize("kind", [FULL, LORA], ids=["full", "lora"])
def test_two_ranks_equal_one(kind: tuple[str, ...], strategy: str, trained: Runs) -> None:
    """Loss and gradient norm of every step, weights, metrics and scores are equal; there is one run, and no group is
    scored twice, although one rank has fewer passes over the held-out groups."""
    assert_equal(trained(2, *kind, strategy), trained(1, *kind))


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [(CRITIC, DDP), (CRITIC, FSDP2), (JUDGE, FSDP2), (PROBE, DDP), (QLORA, DDP), (TEXT, DDP), (TEXT, FSDP2)],
    ids=["critic-ddp", "critic-fsdp2", "judge-fsdp2", "probe-ddp", "qlora-ddp", "text-ddp", "text-fsdp2"],
)
def test_other_kinds_of_models(kind: tuple[str, ...], strategy: str, trained: Runs) -> None:
    """Heads that generate texts in training and in validation, probes, 4-bit backbones, and no pictures at all."""
    assert_equal(trained(2, *kind, strategy), trained(1, *kind))


def test_weights_may_stay_whole_between_passes(trained: Runs) -> None:
    """With `shard: optimizer` passes leave whole weights behind, of which no checkpoint and no model may be made."""
    kind = ("trainer.checkpoint_every=1", "trainer.steps=3", "trainer.validations=3")
    assert_equal(trained(2, *kind, FSDP2, "trainer.shard=optimizer"), trained(1, *kind))


def test_streamed_rows_are_divided_and_counted_once(root: Path, trained: Runs) -> None:
    """Each process encodes its own rows, and the run counts and lists those that any of them rejects."""
    rows = pair_rows(60)
    for index in (7, 18, 31):
        rows[index]["chosen"][0]["content"] = "too long " * 600
    write_rows(root / "rows.jsonl", rows)
    overrides = (
        *("data.sources.digits=null", "data.sources.numbers=null", "data.sources.mine.include=sources/jsonl"),
        *(f"data.sources.mine.path={root / 'rows.jsonl'}", "data.sources.mine.val=0.2", "data.sources.mine.test=0.2"),
        *("data.streaming={buffer: 8, held_out: 5}", "data.max_lost=0.5", "trainer.steps=4"),
    )
    one, two = trained(1, *overrides), trained(2, *overrides)
    assert_equal(two, one)
    lost = [sorted(run.rejections.read_text().splitlines()) for run in (one, two)]
    assert len(lost[0]) == 3
    assert lost[1] == lost[0]
    results = [run.result() or {} for run in (one, two)]
    assert results[0]["skipped"] == results[1]["skipped"] == {"mine": {"too_long": 3}}


@pytest.mark.parametrize("kind", [FULL, LORA], ids=["full", "lora"])
def test_divided_model_opens_and_scores_the_same(kind: tuple[str, ...], trained: Runs) -> None:
    """The model that two processes saved from their parts gives the scores of its test."""
    run = trained(2, *kind, FSDP2)
    model = load(str(run.model))
    _, data, _ = build(load_recipe("basereward", profile="tiny", overrides=[*MIXED]))
    part = data.parts["test"]
    groups = [part.group(place) for place in part.places]
    for group, values in zip(scores(run, "test"), model.score_groups(groups), strict=True):
        assert values == pytest.approx(group["scores"], abs=TOLERANCE)


def test_run_of_two_is_killed_and_resumes_on_one_and_on_three(root: Path, trained: Runs) -> None:
    """A divided model's checkpoint of two processes is read by one, and by three, which go on with the next group."""
    run_id = stopped(root / "two", 2, FSDP2)
    shutil.copytree(root / "two", root / "copy")
    for ranks, folder in ((1, root / "two"), (3, root / "copy")):
        assert train_ranks([*MIXED, EVERY, FSDP2], ranks, folder=folder, resume=run_id) == [0] * ranks
        assert_equal(only_run(folder), trained(1))


def test_run_of_one_is_killed_and_resumes_on_two(root: Path, trained: Runs) -> None:
    """The number of processes is no part of the recipe's identity, and a whole checkpoint is read by each of them."""
    run_id = stopped(root / "one", 1)
    assert train_ranks([*MIXED, EVERY], 2, folder=root / "one", resume=run_id) == [0, 0]
    assert_equal(only_run(root / "one"), trained(1))


@pytest.mark.parametrize("strategy", [DDP, FSDP2])
def test_killed_rank_ends_the_others(strategy: str, root: Path) -> None:
    """Within half a minute, with a message that names it; the run has failed and can be resumed."""
    folder = root / f"lost-{strategy[-4:]}"
    processes = start_ranks([*MIXED, strategy, EVERY], 2, folder=folder, kills={1: Moment(STEP, call=20)})
    processes[1].join(600)
    processes[0].join(30)
    code = processes[0].exitcode
    processes[0].kill()
    assert code == 1, "the first process has not ended"
    run = only_run(folder)
    assert run.state == "failed"
    assert "process 1" in run.status["error"]
    assert "killed" in run.status["error"]
    assert (run.checkpoints / "last.ckpt").exists()


def test_killed_first_rank_ends_the_others(root: Path) -> None:
    """The others say what has happened; the run counts as killed."""
    folder = root / "lost-first"
    processes = start_ranks([*MIXED], 2, folder=folder, kills={0: Moment(STEP, call=5)})
    processes[0].join(600)
    processes[1].join(30)
    code = processes[1].exitcode
    processes[1].kill()
    assert code == 1, "the second process has not ended"
    assert "process 0 ended without a message" in (folder / "1.txt").read_text()
    assert only_run(folder).state == "killed"


def test_nan_on_one_rank_stops_all_with_its_rows(root: Path) -> None:
    """All processes end at the same step, and the message has the rows of the rank with the fault."""
    folder = root / "nan"
    assert train_ranks([*MIXED], 2, folder=folder, nan={1: 5}) == [1, 1]
    run = only_run(folder)
    assert run.state == "failed"
    error = run.status["error"]
    assert "the loss is nan at step 2" in error
    _, data, _ = build(load_recipe("basereward", profile="tiny", overrides=[*MIXED, "trainer.devices=2"]))
    plan, part = data.plan, data.parts["train"]
    rows = {}
    for rank in (0, 1):
        places = [place for index in (3, 4, 5) for place in plan.forward(index, rank=rank)]  # type: ignore[union-attr]
        rows[rank] = [part.group(place).id for place in places]
    assert f"The rows of the step: {', '.join(rows[1])}." in error


@pytest.mark.parametrize("starter", ["slurm", "two-machines"])
def test_other_starters(starter: str, root: Path) -> None:
    """Processes of `srun`, and of torchrun on two machines with one process each, train one run."""

    def of_two_machines(number: int, ranks: int, *, port: int) -> dict[str, str]:
        return torchrun_variables(number, ranks, port=port, nodes=2)

    variables = {"slurm": slurm_variables, "two-machines": of_two_machines}[starter]
    overrides = [*MIXED, "trainer.steps=2", "trainer.validations=1"]
    assert train_ranks(overrides, 2, folder=root / starter, variables=variables) == [0, 0]
    run = only_run(root / starter)
    assert run.state == "finished"
    assert len(scores(run, "val")) == 13
