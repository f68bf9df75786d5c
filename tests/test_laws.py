"""The nine laws of the design, one test or more each, named after the law.

Independent truths: one plain sequence a response, transformers' own model called as its documentation says, the same
run made twice, and real processes killed with SIGKILL.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.encoding.encoder import EncodedGroup, EncodingError
from basereward.data.schema.group import Group
from basereward.errors import ModelError, TooManyRowsLost
from basereward.inference.score_file import load
from basereward.inference.scorer import Scorer, load_scorer
from basereward.metrics.collection import PreferenceMetrics
from basereward.model.backbone import load_backbone
from basereward.model.families.processing import load_encoder, recipe_encoder
from basereward.model.lora import add_lora
from basereward.model.losses.bradley_terry import BradleyTerry
from basereward.model.reward_model import RewardModel, build_model
from basereward.model.saving.made_checkpoint import backbone_path
from basereward.recipe import load_recipe, make
from basereward.runs.run_folder import find
from basereward.runs.score_files import read_scores
from basereward.training.fit import train
from tests.helpers.killed_process import start_training, train_in_process
from tests.helpers.support import (
    SMALL,
    TEXT,
    VISION,
    checkpoint,
    gradients,
    group,
    mixed_groups,
    only,
    pair_rows,
    write_rows,
)

pytestmark = pytest.mark.slow

RELATIVE = 1e-5


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Equal to 1e-5 of the whole tensor's norm.

    A gradient that sums terms near one which cancel, as that of the last bias, is held to 1e-7, their float32 rounding.
    """
    assert actual.shape == expected.shape
    distance = float((actual - expected).norm())
    assert distance <= RELATIVE * max(float(expected.norm()), 1e-2), (
        f"{distance} apart, of a norm of {float(expected.norm())}"
    )


def reward_model(path: Path, *, lora: bool = False, checkpointing: bool = False) -> RewardModel:
    """A checkpoint with a new head, and with new adapters that do something."""
    backbone = load_backbone(path, gradient_checkpointing=checkpointing)
    torch.manual_seed(1)
    head = make({"_target_": "mlp"}, "heads", backbone.hidden_size)
    if lora:
        backbone.model = add_lora(backbone.transformer, rank=4, alpha=8.0, parts=["language"])
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name:  # B starts at zero, and A would get no gradient
                torch.nn.init.normal_(parameter, std=0.1)
    return RewardModel(backbone, head).train()


def batches(path: Path, groups: list[Group]) -> tuple[TreeBatch, TreeBatch]:
    """Groups together in one tree row, and as plain rows."""
    encoder = load_encoder(path)
    encoded = [encoder(each) for each in groups]
    tree, plain = (collate(encoded, layout=layout, pad_id=encoder.pad_id) for layout in ("tree", "plain"))
    return tree, plain


def scores_and_gradients(model: RewardModel, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """The scores of a batch, and the gradient of the loss for every weight."""
    scores = model(batch)
    loss, _ = BradleyTerry(centring=0.01)(scores, batch)
    loss.backward()
    return scores.detach(), gradients(model)


@pytest.mark.parametrize("family", [*VISION, *TEXT])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
def test_law_1_tree_equals_plain(family: str, lora: bool, checkpointing: bool, tmp_path: Path) -> None:
    """Scores and gradients of all groups in one tree row equal those of one sequence a response."""
    path = checkpoint(family, tmp_path / family)
    tree, plain = batches(path, mixed_groups(vision=family in VISION))
    model = reward_model(path, lora=lora, checkpointing=checkpointing)
    expected, expected_gradients = scores_and_gradients(model, plain)
    assert len(expected_gradients) > 4
    scores, found = scores_and_gradients(model, tree)
    assert_close(scores, expected)
    assert found.keys() == expected_gradients.keys()
    for name, gradient in found.items():
        assert_close(gradient, expected_gradients[name])


@pytest.mark.parametrize("images", [0, 1, 2])
@pytest.mark.parametrize("family", VISION)
def test_law_2_ours_equals_transformers(family: str, images: int, tmp_path: Path) -> None:
    """Hidden states of the plain layout equal the model's own, called as its documentation says on the whole
    conversation."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    path = checkpoint(family, tmp_path / family)
    sample = group(images=images)
    _, plain = batches(path, [sample])
    with torch.no_grad():
        ours = load_backbone(path).eval().hidden_states(plain)

    tokenizer = AutoTokenizer.from_pretrained(path)
    processor = AutoImageProcessor.from_pretrained(path, backend="pil")
    model = AutoModel.from_pretrained(path, attn_implementation="eager").eval()
    tiles = {"crop_to_patches": True} if family == "internvl" else {}  # as its processor of pictures and text has it
    features = dict(processor(images=list(sample.images), return_tensors="pt", **tiles)) if images else {}
    token, written = _written_images(family, features)
    for row, response in enumerate(sample.responses):
        content: list[dict[str, str]] = [{"type": "image"}] * images + [{"type": "text", "text": "Which digit?"}]
        turns = [{"role": "user", "content": content}, {"role": "assistant", "content": response}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        pieces = text.split(token)
        text = "".join(piece + image for piece, image in zip(pieces, [*written, ""], strict=True))
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        inputs.pop("token_type_ids", None)
        kinds = {"mm_token_type_ids": (inputs["input_ids"] == model.config.image_token_id).int()}
        with torch.no_grad():
            theirs = model(**inputs, **features, **({} if tiles else kinds)).last_hidden_state[0]
        end = int(plain.rows.ends[row, 1])
        assert theirs.shape[0] == end + 2, "the whole conversation is ours and the line break after the end of the turn"
        assert_close(ours[row, : end + 1], theirs[: end + 1])


def _written_images(family: str, features: dict[str, Any]) -> tuple[str, list[str]]:
    """What the chat template writes for an image, and what the family's processor makes of it for every image."""
    if family == "internvl":
        return "<IMG_CONTEXT>", [f"<img>{'<IMG_CONTEXT>' * 4 * int(n)}</img>" for n in features.pop("num_patches", [])]
    grids = features.get("image_grid_thw", [])
    return "<|image_pad|>", ["<|image_pad|>" * int(grid.prod() // 4) for grid in grids]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llama"])
@pytest.mark.parametrize("layout", ["tree", "plain"])
def test_law_3_a_score_belongs_to_its_response_alone(family: str, layout: Any, tmp_path: Path) -> None:
    """Batch mates, padding, other groups in the row and the order of the responses change no score."""
    path = checkpoint(family, tmp_path / family)
    model = reward_model(path).eval()
    groups = mixed_groups(vision=family in VISION)
    encoder = load_encoder(path)
    encoded = [encoder(each) for each in groups]

    def scores(*members: EncodedGroup) -> Tensor:
        with torch.no_grad():
            result: Tensor = model(collate(members, layout=layout, pad_id=encoder.pad_id))
        return result

    alone = [scores(each) for each in encoded]
    assert_close(scores(*encoded), torch.cat(alone))
    assert_close(scores(*reversed(encoded)), torch.cat(alone[::-1]))
    for sample, expected in zip(groups, alone, strict=True):
        turned = Group(sample.id, sample.source, sample.prompt, sample.responses[::-1], (), sample.images)
        assert_close(scores(encoder(turned)).flip(0), expected)


@pytest.fixture(scope="module")
def adapter_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of this module lie."""
    return tmp_path_factory.mktemp("law")


KINDS = {
    "full": (),
    "head": ("model.backbone.freeze=[vision, merger, language]",),
    "lora": ("model.lora.rank=4",),
    "lora-nf4": ("model.lora.rank=4", "model.backbone.quantization=nf4"),
    "lora-int8": ("model.lora.rank=4", "model.backbone.quantization=int8"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_law_4_the_head_survives(kind: str, tmp_path: Path) -> None:
    """Trained, saved, loaded and merged, a model gives the same scores."""
    scorer = trained(*KINDS[kind])
    groups = mixed_groups(vision=True)
    expected = list(scorer.score_groups(groups))
    scorer.save(tmp_path / "model")
    loaded = load_scorer(tmp_path / "model")
    assert list(loaded.score_groups(groups)) == expected
    if kind.startswith("lora"):
        merged = loaded.merged()
        merged.save(tmp_path / "merged")
        again = load_scorer(tmp_path / "merged")
        assert list(again.score_groups(groups)) == list(merged.score_groups(groups))
        # LLM.int8() rounds the inputs of a layer as well as its weights; merged weights meet inputs that are not
        # rounded.
        tolerance = 5e-2 if kind == "lora-int8" else RELATIVE
        for one, other in zip(merged.score_groups(groups), expected, strict=True):
            torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=0, atol=tolerance)


def trained(*overrides: str) -> Scorer:
    """A scorer whose every trained weight has moved away from where it began."""
    recipe = load_recipe("basereward", overrides=[*SMALL, *overrides])
    path = backbone_path(recipe.model.backbone)
    model, encoder = build_model(recipe.model, path=path, seed=0), recipe_encoder(recipe, path=path)
    batch = collate([encoder(each) for each in mixed_groups(vision=True)], layout="tree", pad_id=encoder.pad_id)
    before = {name: p.detach().clone() for _, named in model.parts().items() for name, p in named}
    optimizer = torch.optim.AdamW([p for named in model.parts().values() for _, p in named], lr=1e-2)
    for _ in range(3):
        loss, _ = BradleyTerry(centring=0.01)(model(batch), batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for named in model.parts().values():
        for name, parameter in named:
            assert not torch.equal(parameter, before[name]), f"{name} has not moved"
    return Scorer(model.eval(), encoder=encoder, recipe=recipe)


@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        pytest.param("head.safetensors", lambda w: w.pop("layers.0.bias"), "missing: layers.0.bias", id="missing"),
        pytest.param("head.safetensors", lambda w: w.update(more=torch.zeros(1)), "not in the model: more", id="extra"),
        pytest.param(
            "head.safetensors",
            lambda w: w.update({"layers.2.weight": torch.zeros(1, 3)}),
            "layers.2.weight has shape",
            id="shape",
        ),
        pytest.param(
            "backbone/model.safetensors",
            lambda w: w.pop("language_model.norm.weight"),
            "missing: language_model.norm.weight",
            id="backbone",
        ),
        pytest.param(
            "backbone/model.safetensors",
            lambda w: w.update(more=torch.zeros(1)),
            "not in the model: more",
            id="backbone-extra",
        ),
    ],
)
def test_law_4_weights_that_do_not_fit_are_an_error(file: str, change: Any, named: str, tmp_path: Path) -> None:
    """A missing, extra or misshapen key is named, whichever file it is in."""
    trained().save(tmp_path / "model")
    weights = load_file(tmp_path / "model" / file)
    change(weights)
    save_file(weights, tmp_path / "model" / file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=named):
        load_scorer(tmp_path / "model")


def test_law_4_another_backbone_is_an_error(tmp_path: Path) -> None:
    """Adapters are not put on a backbone that they were not trained on."""
    scorer = trained("model.lora.rank=4")
    scorer.save(tmp_path / "model")
    weights = Path(scorer.model.backbone.origin.path) / "model.safetensors"
    changed = {name: weight + 0.01 for name, weight in load_file(weights).items()}
    save_file(changed, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="the weights differ"):
        load_scorer(tmp_path / "model")


def test_law_5_train_score_and_serve_agree(tmp_path: Path) -> None:
    """The numbers of the test part are those of `load(...).score` and of `basereward score`, for the same rows."""
    rows = pair_rows(40, folder=tmp_path)
    source = write_rows(tmp_path / "pairs.jsonl", rows)
    overrides = only(source)
    run = train(load_recipe("basereward", overrides=overrides))
    in_training = {each.id: each.scores for each in read_scores(find(run["run_id"]).scores / "test.jsonl")}
    assert in_training

    command = [
        sys.executable,
        "-m",
        "basereward",
        "score",
        run["run_id"],
        str(source),
        "--out",
        str(tmp_path / "out.jsonl"),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["responses"] == 80
    from_file = {
        line["id"]: line["scores"] for line in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    }
    assert list(from_file) == [row["id"] for row in rows]

    scorer = load(run["model"])
    for row in rows:
        if row["id"] in in_training:
            responses = [row["chosen"][0]["content"], row["rejected"][0]["content"]]
            served = scorer.score(row["prompt"], responses, images=[tmp_path / row["images"][0]])
            for other in (from_file[row["id"]], served):
                torch.testing.assert_close(
                    torch.tensor(other), torch.tensor(in_training[row["id"]]), rtol=0, atol=RELATIVE
                )


def test_law_6_no_row_is_lost_in_silence(tmp_path: Path) -> None:
    """Every row is used, or counted and listed under a reason, in the result, the run's folder and MLflow; too many
    stop the run."""
    rows = pair_rows(60, folder=tmp_path)
    (tmp_path / "3.png").write_bytes(b"")
    (tmp_path / "4.png").unlink()
    rows[5]["chosen"][0]["content"] = "  "
    rows[6]["rejected"][0]["content"] = "no " * 3000
    rows[7] = "not JSON"
    del rows[8]["rejected"]
    source = write_rows(tmp_path / "pairs.jsonl", rows)
    overrides = only(source)
    with pytest.raises(TooManyRowsLost, match=r"6 of 60 rows .*data\.max_lost"):
        train(load_recipe("basereward", overrides=overrides))

    run = train(load_recipe("basereward", overrides=[*overrides, "data.max_lost=0.11"]))
    reasons = ("empty_response", "image_missing", "image_unreadable", "malformed_json", "missing_column", "too_long")
    expected = dict.fromkeys(reasons, 1)
    assert run["skipped"] == {"mine": expected}
    folder = find(run["run_id"])
    assert sorted(json.loads(line)["reason"] for line in folder.rejections.read_text().splitlines()) == sorted(expected)

    from mlflow import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    metrics = client.get_run(folder.mlflow_run_id).data.metrics
    assert {name: metrics[f"data/skipped/{name}"] for name in expected} == expected


def test_law_7_image_tokens_are_never_cut(tmp_path: Path) -> None:
    """A group that is too long is lost whole; and both responses see the image: equal ones score alike, another image
    changes both."""
    path = checkpoint("qwen2_5_vl", tmp_path / "model")
    sample = group(responses=("It is a four.", "It is a four."), images=1)
    encoder = load_encoder(path)
    length = encoder(sample).longest
    with pytest.raises(EncodingError) as caught:
        load_encoder(path, max_tokens=length - 1)(sample)
    assert caught.value.reason == "too_long"
    encoded = load_encoder(path, max_tokens=length)(sample)
    tokens = int((encoded.prefix == encoder.image_token_id).sum())
    assert encoded.images_thw is not None
    assert tokens == int(encoded.images_thw.prod()) // 4 > 0

    model = reward_model(path).eval()
    other = Group(
        sample.id, sample.source, sample.prompt, sample.responses, sample.preferences, group(images=2).images[1:]
    )
    for layout in ("tree", "plain"):
        with torch.no_grad():
            first, second = (
                model(collate([encoder(each)], layout=layout, pad_id=encoder.pad_id)).tolist()
                for each in (sample, other)
            )
        assert first[0] == pytest.approx(first[1], abs=1e-6)
        assert second[0] == pytest.approx(second[1], abs=1e-6)
        assert abs(first[0] - second[0]) > 1e-4
        assert abs(first[1] - second[1]) > 1e-4


def test_law_8_same_recipe_same_seed_same_bits() -> None:
    """Two runs end with equal weights, bit for bit; another seed ends elsewhere."""
    first, again = (trained_weights(train(load_recipe("basereward", overrides=SMALL))["run_id"]) for _ in range(2))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = trained_weights(train(load_recipe("basereward", overrides=[*SMALL, "seeds.data=1"]))["run_id"])
    assert any(not torch.equal(first[name], other[name]) for name in first)


DROPOUT = (
    "model.lora.rank=4",
    "model.lora.dropout=0.2",
    "model.head.dropout=0.2",
    "batch.groups=8",
    "batch.groups_per_forward=4",
)


@pytest.mark.parametrize(
    ("kill_at", "pooling"), [(2, "mean"), (5, "last")], ids=["between-checkpoints", "after-a-validation"]
)
def test_law_8_stopped_and_resumed_equals_never_stopped(kill_at: int, pooling: str) -> None:
    """A run killed with SIGKILL and resumed ends with the bits of one that was never stopped, dropout and
    accumulation included."""
    overrides = [*SMALL, *DROPOUT, "trainer.checkpoint_every=1", f"model.pooling={pooling}"]
    whole = train(load_recipe("basereward", overrides=overrides))
    run_id = killed_run(overrides, at_step=kill_at)
    assert train_in_process("basereward", overrides, resume=run_id) == 0
    resumed = find(run_id).result() or {}
    assert resumed["metrics"] == whole["metrics"]
    ours, theirs = trained_weights(run_id), trained_weights(whole["run_id"])
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def killed_run(overrides: list[str], *, at_step: int) -> str:
    """Starts a run in a process of its own and kills it once it has written the checkpoint of a step."""
    runs = Path(os.environ["BASEREWARD_RUNS"])
    before = set(runs.iterdir())
    process = start_training("basereward", overrides)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.is_alive():
        for run in set(runs.iterdir()) - before:
            last = run / "checkpoints" / "last.ckpt"
            if last.exists() and torch.load(last, weights_only=True)["global_step"] >= at_step:
                process.kill()
                process.join()
                return run.name
        time.sleep(0.01)
    process.kill()
    raise AssertionError(f"the run ended before step {at_step}")


def trained_weights(run_id: str) -> dict[str, Tensor]:
    """All weights that a run saved."""
    folder = find(run_id).model
    return {
        f"{file.name}:{name}": weight
        for file in folder.rglob("*.safetensors")
        for name, weight in load_file(file).items()
    }


@pytest.mark.parametrize(
    "options", [{}, {"margin": 0.5}, {"label_smoothing": 0.1}, {"centring": 0.1}, {"length_normalisation": True}]
)
def test_law_9_swapping_a_pair_flips_the_margin(options: dict[str, Any], tmp_path: Path) -> None:
    """Chosen and rejected in the other order: the margin changes its sign, the loss of a wrong pair is that of the
    right one seen from the other side, and a tie is never right."""
    path = checkpoint("qwen2_5_vl", tmp_path / "model")
    model, encoder = reward_model(path).eval(), load_encoder(path)
    sample = group(responses=("It is a four.", "seven"), images=1)
    swapped = Group(sample.id, sample.source, sample.prompt, sample.responses[::-1], sample.preferences, sample.images)
    margins, losses = [], []
    for each in (sample, swapped):
        batch = collate([encoder(each)], layout="tree", pad_id=encoder.pad_id)
        with torch.no_grad():
            scores = model(batch)
        margins.append(float(scores[batch.preferences.winner] - scores[batch.preferences.loser]))
        losses.append(float(BradleyTerry(**options)(scores, batch)[0]))
    assert margins[0] == pytest.approx(-margins[1], abs=1e-6)
    assert abs(margins[0]) > 1e-4
    assert (losses[0] < losses[1]) == (margins[0] > margins[1])


def test_law_9_a_tie_is_never_counted_as_right() -> None:
    """Equal scores are wrong, and a preference that the data call a tie is in no accuracy."""
    metrics = PreferenceMetrics()
    ties = torch.tensor([False, False, True])
    lengths = torch.tensor([3, 3, 3])
    metrics.update(torch.tensor([0.0, 2.0, 5.0]), ties=ties, winner_lengths=lengths, loser_lengths=lengths)
    values = metrics.compute()
    assert values["pair_accuracy"] == 0.5
    assert (values["pairs"], values["ties"]) == (2, 1)
