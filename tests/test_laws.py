"""Test the nine laws of the design; every test is named after its law.

The independent references are one plain sequence per response, transformers' own model called as its documentation
says, a second run of the same recipe, and real processes that are killed with SIGKILL.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.encoding.encoder import EncodedGroup, EncodingError
from basereward.data.schema.group import VIDEO, Group, Part, Turn
from basereward.errors import ModelError, TooManyRowsLost
from basereward.inference.load_model import load
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
from basereward.serve.reading.request_reader import RequestReader
from basereward.serve.settings import ServerSettings
from basereward.training.fit import train
from tests.helpers.forked_command import run_command
from tests.helpers.killed_process import start_training, train_in_process
from tests.helpers.own_forward import OwnForward, visual_group
from tests.helpers.support import (
    SMALL,
    TEXT,
    VISION,
    checkpoint,
    clip,
    drawn_groups,
    fill_adapters,
    gradients,
    group,
    mixed_groups,
    only,
    pair_rows,
    picture,
    placed,
    video_groups,
    write_rows,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ready_store")]

RELATIVE = 1e-5
READS_VIDEO = ("qwen2_5_vl", "qwen3_vl")


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Assert that the distance is at most 1e-5 of the expected tensor's norm.

    A gradient that sums cancelling terms near one, such as that of the last bias, is held to 1e-7, the float32 rounding
    of these terms.
    """
    assert actual.shape == expected.shape
    distance = float((actual - expected).norm())
    assert distance <= RELATIVE * max(float(expected.norm()), 1e-2), (
        f"{distance} apart, of a norm of {float(expected.norm())}"
    )


def reward_model(path: Path, *, lora: bool = False, checkpointing: bool = False) -> RewardModel:
    """Load a checkpoint with a new head, and with adapters that have random weights."""
    backbone = load_backbone(path, gradient_checkpointing=checkpointing)
    torch.manual_seed(1)
    head = make({"_target_": "mlp"}, "heads", backbone.hidden_size)
    if lora:
        backbone.model = add_lora(backbone.transformer, rank=4, alpha=8.0, parts=["language"])
        fill_adapters(backbone)
    return RewardModel(backbone, head).train()


def batches(path: Path, groups: list[Group]) -> tuple[TreeBatch, TreeBatch]:
    """Collate the groups as one tree row and as plain rows."""
    encoder = load_encoder(path)
    encoded = [encoder(sample) for sample in groups]
    tree, plain = (collate(encoded, layout=layout, pad_id=encoder.pad_id) for layout in ("tree", "plain"))
    return tree, plain


def scores_and_gradients(model: RewardModel, batch: TreeBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the scores of a batch and the gradient of the loss for every weight."""
    scores = model(batch)
    loss, _ = BradleyTerry(centring=0.01)(scores, batch)
    loss.backward()
    return scores.detach(), gradients(model)


@pytest.mark.parametrize("family", [*VISION, *TEXT])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["stored", "recomputed"])
def test_law_1_tree_equals_plain(family: str, lora: bool, checkpointing: bool, tmp_path: Path) -> None:
    """Scores and gradients of all groups in one tree row equal those of one sequence per response."""
    path = checkpoint(family, tmp_path / family)
    tree, plain = batches(path, mixed_groups(vision=family in VISION))
    model = reward_model(path, lora=lora, checkpointing=checkpointing)
    expected, expected_gradients = scores_and_gradients(model, plain)
    assert len(expected_gradients) > 4
    scores, tree_gradients = scores_and_gradients(model, tree)
    assert_close(scores, expected)
    assert tree_gradients.keys() == expected_gradients.keys()
    for name, gradient in tree_gradients.items():
        assert_close(gradient, expected_gradients[name])


@pytest.mark.parametrize("drawn", [False, True], ids=["text", "drawn"])
@pytest.mark.parametrize("family", READS_VIDEO)
def test_law_1_holds_with_videos(family: str, drawn: bool, tmp_path: Path) -> None:
    """Scores and gradients of groups with videos in one tree row equal those of one sequence per response; also with
    pictures in the responses."""
    path = checkpoint(family, tmp_path / family)
    groups = [*video_groups(), *([visual_group(drawn=True), *drawn_groups()] if drawn else [])]
    tree, plain = batches(path, groups)
    if not drawn:
        # Once in both groups that have it, and in all rows of the plain layout.
        assert len(tree.images.grids) == len(plain.images.grids) == 3
    model = reward_model(path)
    expected, expected_gradients = scores_and_gradients(model, plain)
    scores, tree_gradients = scores_and_gradients(model, tree)
    assert_close(scores, expected)
    for name, gradient in expected_gradients.items():
        assert_close(tree_gradients[name], gradient)


@pytest.mark.parametrize("drawn", [False, True], ids=["text", "drawn"])
@pytest.mark.parametrize("family", READS_VIDEO)
def test_law_2_holds_with_videos(family: str, drawn: bool, tmp_path: Path) -> None:
    """Hidden states of a prompt with an image and a video equal those of transformers' own model, which gets the values
    of all pixels from the frames by its own patches, and finds the positions itself; also with pictures in the
    responses."""
    path = checkpoint(family, tmp_path / family)
    sample = visual_group(drawn=drawn)
    _, plain = batches(path, [sample])
    with torch.no_grad():
        actual = load_backbone(path).eval().hidden_states(plain)
    own = OwnForward(path, family)
    for row in range(len(sample.responses)):
        ids, expected = own(sample, row)
        end = int(plain.rows.ends[row, 1])
        assert plain.rows.input_ids[row, : end + 1].tolist() == ids
        assert_close(actual[row, : end + 1], expected)


@pytest.mark.parametrize("images", [0, 1, 2])
@pytest.mark.parametrize("drawn", [False, True], ids=["text", "drawn"])
@pytest.mark.parametrize("family", VISION)
def test_law_2_hidden_states_equal_transformers(family: str, drawn: bool, images: int, tmp_path: Path) -> None:
    """Hidden states of the plain layout equal those of transformers' own model on the whole conversation, also with
    pictures in the responses."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    path = checkpoint(family, tmp_path / family)
    sample = group(images=images)
    if drawn:
        sample = replace(sample, response_images=(placed((6, 3), (13, 4)), placed((0, 5)), ()))
    _, plain = batches(path, [sample])
    with torch.no_grad():
        actual = load_backbone(path).eval().hidden_states(plain)

    tokenizer = AutoTokenizer.from_pretrained(path)
    processor = AutoImageProcessor.from_pretrained(path, backend="pil")
    model = AutoModel.from_pretrained(path, attn_implementation="eager").eval()
    tiles = {"crop_to_patches": True} if family == "internvl" else {}  # the default of its processor of images and text
    for row in range(len(sample.responses)):
        shown = [*sample.images, *(item.image for item in sample.images_of(row))]
        features = dict(processor(images=shown, return_tensors="pt", **tiles)) if shown else {}
        token, image_texts = _written_images(family, features)
        content: list[dict[str, str | None]] = [{"type": "image"}] * images + [{"type": "text", "text": "Which digit?"}]
        answer = [
            {"type": "image"} if part.is_visual else {"type": "text", "text": part.text}
            for part in sample.response_parts(row)
        ]
        turns = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        pieces = text.split(token)
        text = "".join(piece + image for piece, image in zip(pieces, [*image_texts, ""], strict=True))
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        inputs.pop("token_type_ids", None)
        kinds = {"mm_token_type_ids": (inputs["input_ids"] == model.config.image_token_id).int()}
        with torch.no_grad():
            expected = model(**inputs, **features, **({} if tiles else kinds)).last_hidden_state[0]
        end = int(plain.rows.ends[row, 1])
        assert expected.shape[0] == end + 2, (
            "the whole conversation is ours and the line break after the end of the turn"
        )
        assert_close(actual[row, : end + 1], expected[: end + 1])


def _written_images(family: str, features: dict[str, Any]) -> tuple[str, list[str]]:
    """Return the placeholder that the chat template writes, and the text that the processor makes of it for every
    image."""
    if family == "internvl":
        return "<IMG_CONTEXT>", [
            f"<img>{'<IMG_CONTEXT>' * 4 * int(tiles)}</img>" for tiles in features.pop("num_patches", [])
        ]
    grids = features.get("image_grid_thw", [])
    return "<|image_pad|>", ["<|image_pad|>" * int(grid.prod() // 4) for grid in grids]


@pytest.mark.parametrize("family", [*READS_VIDEO, "llama"])
@pytest.mark.parametrize("layout", ["tree", "plain"])
def test_law_3_score_depends_on_its_response_alone(family: str, layout: Any, tmp_path: Path) -> None:
    """Other groups in the batch or in the row, padding and the order of the responses change no score."""
    path = checkpoint(family, tmp_path / family)
    model = reward_model(path).eval()
    groups = mixed_groups(vision=family in VISION)
    encoder = load_encoder(path)
    encoded = [encoder(encoded_group) for encoded_group in groups]

    def scores(*members: EncodedGroup) -> Tensor:
        with torch.no_grad():
            result: Tensor = model(collate(members, layout=layout, pad_id=encoder.pad_id))
        return result

    separate_scores = [scores(encoded_group) for encoded_group in encoded]
    assert_close(scores(*encoded), torch.cat(separate_scores))
    assert_close(scores(*reversed(encoded)), torch.cat(separate_scores[::-1]))
    for sample, expected in zip(groups, separate_scores, strict=True):
        reversed_group = sample.select(range(len(sample.responses))[::-1])
        assert_close(scores(encoder(reversed_group)).flip(0), expected)


@pytest.mark.parametrize("family", READS_VIDEO)
@pytest.mark.parametrize("layout", ["tree", "plain"])
def test_law_3_holds_with_videos(family: str, layout: Any, tmp_path: Path) -> None:
    """Other groups in the batch, with videos or without, and the order of the responses change no score; also with
    pictures in the responses."""
    path = checkpoint(family, tmp_path / family)
    model, encoder = reward_model(path).eval(), load_encoder(path)
    groups = [*video_groups(), visual_group(drawn=True)]
    encoded = [encoder(sample) for sample in groups]
    with torch.no_grad():
        separate = [model(collate([sample], layout=layout, pad_id=encoder.pad_id)) for sample in encoded]
        together = model(collate(encoded[::-1], layout=layout, pad_id=encoder.pad_id))
        assert_close(together, torch.cat(separate[::-1]))
        for sample, expected in zip(groups, separate, strict=True):
            turned = encoder(sample.select(range(len(sample.responses))[::-1]))
            assert_close(model(collate([turned], layout=layout, pad_id=encoder.pad_id)).flip(0), expected)


@pytest.fixture(scope="module")
def adapter_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of this module's runs."""
    return tmp_path_factory.mktemp("law")


KINDS = {
    "full": (),
    "head": ("model.backbone.freeze=[vision, merger, language]",),
    "lora": ("model.lora.rank=4",),
    "lora-nf4": ("model.lora.rank=4", "model.backbone.quantization=nf4"),
    "lora-int8": ("model.lora.rank=4", "model.backbone.quantization=int8"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_law_4_saved_and_merged_models_keep_their_scores(kind: str, tmp_path: Path) -> None:
    """A trained model gives the same scores after saving and loading, and adapters also after merging."""
    scorer = trained(*KINDS[kind])
    groups = mixed_groups(vision=True)
    expected = list(scorer.score_groups(groups))
    scorer.save(tmp_path / "model")
    loaded = load_scorer(tmp_path / "model")
    assert list(loaded.score_groups(groups)) == expected
    if kind.startswith("lora"):
        merged = loaded.merged()
        merged.save(tmp_path / "merged")
        reloaded = load_scorer(tmp_path / "merged")
        assert list(reloaded.score_groups(groups)) == list(merged.score_groups(groups))
        # LLM.int8() also rounds the inputs of a layer, and the layers of a merged model get inputs without rounding.
        tolerance = 5e-2 if kind == "lora-int8" else RELATIVE
        for actual, before_merging in zip(merged.score_groups(groups), expected, strict=True):
            torch.testing.assert_close(torch.tensor(actual), torch.tensor(before_merging), rtol=0, atol=tolerance)


def trained(*overrides: str) -> Scorer:
    """Return a scorer whose trained weights all differ from their initial values."""
    recipe = load_recipe("basereward", overrides=[*SMALL, *overrides])
    path = backbone_path(recipe.model.backbone)
    model, encoder = build_model(recipe.model, path=path, seed=0), recipe_encoder(recipe, path=path)
    batch = collate([encoder(sample) for sample in mixed_groups(vision=True)], layout="tree", pad_id=encoder.pad_id)
    before = {
        name: weight.detach().clone()
        for _, named_parameters in model.parts().items()
        for name, weight in named_parameters
    }
    optimizer = torch.optim.AdamW(
        [weight for named_parameters in model.parts().values() for _, weight in named_parameters], lr=1e-2
    )
    for _ in range(3):
        loss, _ = BradleyTerry(centring=0.01)(model(batch), batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for named_parameters in model.parts().values():
        for name, parameter in named_parameters:
            assert not torch.equal(parameter, before[name]), f"{name} has not moved"
    return Scorer(model.eval(), encoder=encoder, recipe=recipe)


@pytest.mark.parametrize(
    ("file", "change", "message"),
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
def test_law_4_weights_that_do_not_fit_are_refused(file: str, change: Any, message: str, tmp_path: Path) -> None:
    """The error names a missing, extra or misshapen key of the head or the backbone."""
    trained().save(tmp_path / "model")
    weights = load_file(tmp_path / "model" / file)
    change(weights)
    save_file(weights, tmp_path / "model" / file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message):
        load_scorer(tmp_path / "model")


def test_law_4_adapters_on_another_backbone_are_refused(tmp_path: Path) -> None:
    """A backbone with other weights than those in training is an error."""
    scorer = trained("model.lora.rank=4")
    scorer.save(tmp_path / "model")
    weights = Path(scorer.model.backbone.origin.path) / "model.safetensors"
    changed = {name: weight + 0.01 for name, weight in load_file(weights).items()}
    save_file(changed, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="the weights differ"):
        load_scorer(tmp_path / "model")


@pytest.mark.parametrize("family", READS_VIDEO)
def test_law_5_train_score_and_serve_agree(family: str, tmp_path: Path) -> None:
    """The test scores of a run equal those of `load(...).score` and of `basereward score` on the same rows, half of
    which have pictures in their responses."""
    rows = pair_rows(40, folder=tmp_path)
    for index, row in enumerate(rows[1::2], start=1):
        row |= {"chosen_images": [f"{index}.png"], "rejected_images": [f"{index}.png", f"{index + 1}.png"][index % 2 :]}
    source = write_rows(tmp_path / "pairs.jsonl", rows)
    overrides = [*only(source), f"model.backbone.make._target_=tiny_{family}"]
    run = train(load_recipe("basereward", overrides=overrides))
    in_training = {
        scored_group.id: scored_group.scores for scored_group in read_scores(find(run["run_id"]).scores / "test.jsonl")
    }
    assert in_training

    completed = run_command("score", run["run_id"], source, "--out", tmp_path / "out.jsonl", "--json")
    assert completed.returncode == 0, completed.stderr
    assert json.loads(completed.stdout)["responses"] == 80
    from_file = {
        line["id"]: line["scores"] for line in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    }
    assert list(from_file) == [row["id"] for row in rows]

    scorer: Any = load(run["model"])
    assert scorer.model.backbone.transformer.config.model_type == family
    for row in rows:
        if row["id"] in in_training:
            responses = [row["chosen"][0]["content"], row["rejected"][0]["content"]]
            drawn = [[tmp_path / name for name in row.get(f"{side}_images", ())] for side in ("chosen", "rejected")]
            served = scorer.score(row["prompt"], responses, images=[tmp_path / row["images"][0]], response_images=drawn)
            for other in (from_file[row["id"]], served):
                torch.testing.assert_close(
                    torch.tensor(other), torch.tensor(in_training[row["id"]]), rtol=0, atol=RELATIVE
                )


@pytest.mark.parametrize("family", READS_VIDEO)
def test_law_5_holds_with_videos(family: str, tmp_path: Path) -> None:
    """Test scores of a run on folders of frames equal those of the command, of `score` with lists of frames, and of the
    group that the server makes of frames in data URIs."""
    rows = pair_rows(24)
    for index, row in enumerate(rows):
        folder = tmp_path / f"clip_{index}"
        folder.mkdir()
        for number, frame in enumerate(clip(5, first=index).frames):
            frame.save(folder / f"{number}.png")
        row["videos"] = [folder.name]
    source = write_rows(tmp_path / "pairs.jsonl", rows)
    overrides = [*only(source), f"model.backbone.make._target_=tiny_{family}"]
    overrides += ["data.sources.mine.val=0.3", "data.sources.mine.test=0.3"]
    run = train(load_recipe("basereward", overrides=[*overrides, "data.encoding.video.frames=4"]))
    in_training = {line.id: line.scores for line in read_scores(find(run["run_id"]).scores / "test.jsonl")}
    assert in_training
    completed = run_command("score", run["run_id"], source, "--out", tmp_path / "out.jsonl", "--json")
    assert completed.returncode == 0, completed.stderr
    from_file = {
        line["id"]: line["scores"] for line in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    }
    scorer: Any = load(run["model"])
    assert scorer.model.backbone.transformer.config.model_type == family
    for row in rows:
        if row["id"] not in in_training:
            continue
        responses = [row["chosen"][0]["content"], row["rejected"][0]["content"]]
        files = [tmp_path / row["videos"][0] / f"{number}.png" for number in range(5)]
        called = scorer.score(row["prompt"], responses, videos=[files])
        frames = [f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}" for file in files]
        served = RequestReader(ServerSettings()).group(row["prompt"], responses, videos=[frames])
        for other in (from_file[row["id"]], called, next(iter(scorer.score_groups([served])))):
            assert other == pytest.approx(in_training[row["id"]], abs=RELATIVE)


def test_law_6_every_lost_row_is_counted(tmp_path: Path) -> None:
    """Every row is used, or it is counted under a reason in the result, the run folder and MLflow; too many lost rows
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
    """A group that is too long is rejected as a whole. Both responses see the image: equal responses have equal scores,
    and another image changes both scores."""
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
                model(collate([encoder(candidate)], layout=layout, pad_id=encoder.pad_id)).tolist()
                for candidate in (sample, other)
            )
        assert first[0] == pytest.approx(first[1], abs=1e-6)
        assert second[0] == pytest.approx(second[1], abs=1e-6)
        assert abs(first[0] - second[0]) > 1e-4
        assert abs(first[1] - second[1]) > 1e-4


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_law_7_images_of_responses_are_never_cut(family: str, tmp_path: Path) -> None:
    """A response keeps all tokens of its images, or its group is rejected. Equal images give equal scores, and another
    image changes the score of its response alone."""
    path = checkpoint(family, tmp_path / "model")
    drawn = replace(group("Draw.", ("", "", ""), images=1), response_images=(placed((0, 3)), placed((0, 3)), ()))
    other = replace(drawn, response_images=(placed((0, 3)), placed((0, 4)), ()))
    encoder = load_encoder(path)
    encoded = encoder(drawn)
    assert encoded.images_thw is not None
    tokens = [int((branch == encoder.image_token_id).sum()) for branch in encoded.branches]
    assert tokens == [int(encoded.images_thw[1].prod()) // 4, int(encoded.images_thw[2].prod()) // 4, 0]
    for method in ("__call__", "measure"):
        with pytest.raises(EncodingError) as caught:
            getattr(load_encoder(path, max_tokens=encoded.longest - 1), method)(drawn)
        assert caught.value.reason == "too_long"
    model = reward_model(path).eval()
    for layout in ("tree", "plain"):
        with torch.no_grad():
            first, second = (
                model(collate([encoder(sample)], layout=layout, pad_id=encoder.pad_id)) for sample in (drawn, other)
            )
        assert float(first[0]) == pytest.approx(float(first[1]), abs=1e-6)
        assert_close(second[[0, 2]], first[[0, 2]])
        assert abs(float(first[1] - second[1])) > 1e-4


@pytest.mark.parametrize("family", READS_VIDEO)
def test_law_7_holds_with_videos(family: str, tmp_path: Path) -> None:
    """A group whose video does not fit is rejected as a whole, and every response sees the video."""
    path = checkpoint(family, tmp_path / "model")
    turn = Turn("user", (VIDEO, Part("What comes last?")))
    sample = Group("a", "test", (turn,), ("A four.", "A four."), (), images=(clip(6),))
    encoder = load_encoder(path)
    size = encoder.measure(sample)
    with pytest.raises(EncodingError) as caught:
        load_encoder(path, max_tokens=size.prefix + size.branches[0] - 1).measure(sample)
    assert caught.value.reason == "too_long"
    encoded = load_encoder(path, max_tokens=size.prefix + size.branches[0])(sample)
    assert encoder.videos is not None
    assert encoded.images_thw is not None
    tokens = int((encoded.prefix == encoder.videos.token_id).sum())
    assert tokens == int(encoded.images_thw.prod()) // 4 > 0
    assert (len(encoded.prefix), len(encoded.branches[0])) == (size.prefix, size.branches[0])

    model = reward_model(path).eval()
    # Another fourth frame alone, which both families use: of six, (0, 1, 3, 4) and (0, 2, 3, 5).
    other = Group(
        "a", "test", (turn,), sample.responses, (), images=(with_fourth_frame(sample.images[0], picture(99)),)
    )
    for layout in ("tree", "plain"):
        with torch.no_grad():
            first, second = (
                model(collate([encoder(candidate)], layout=layout, pad_id=encoder.pad_id)).tolist()
                for candidate in (sample, other)
            )
        assert first[0] == pytest.approx(first[1], abs=1e-6)
        assert abs(first[0] - second[0]) > 1e-5
        assert abs(first[1] - second[1]) > 1e-5


def with_fourth_frame(video: Any, frame: PIL.Image.Image) -> Any:
    """Return a video with another fourth frame."""
    return replace(video, frames=(*video.frames[:3], frame, *video.frames[4:]))


def test_law_8_same_recipe_same_seed_same_bits() -> None:
    """Two runs end with equal weights, bit for bit; another data seed gives other weights."""
    first, repeated = (trained_weights(train(load_recipe("basereward", overrides=SMALL))["run_id"]) for _ in range(2))
    assert first.keys() == repeated.keys()
    assert all(torch.equal(first[name], repeated[name]) for name in first)
    other_seed = trained_weights(train(load_recipe("basereward", overrides=[*SMALL, "seeds.data=1"]))["run_id"])
    assert any(not torch.equal(first[name], other_seed[name]) for name in first)


DROPOUT = (
    "model.lora.rank=4",
    "model.lora.dropout=0.2",
    "model.head.dropout=0.2",
    "batch.groups=8",
    "batch.groups_per_forward=4",
)


ROUNDED = ("model.backbone.dtype=bfloat16", "model.head.dropout=0.2", "optimizer.bfloat16=stochastic")


@pytest.mark.parametrize(
    ("kill_at", "options"),
    [(2, [*DROPOUT, "model.pooling=mean"]), (5, DROPOUT), (5, ROUNDED)],
    ids=["between-checkpoints", "after-a-validation", "stochastic-rounding"],
)
def test_law_8_killed_and_resumed_equals_uninterrupted(kill_at: int, options: Sequence[str]) -> None:
    """A run that is killed with SIGKILL and resumed ends with the bits of an uninterrupted run, with dropout and
    accumulation, and with weights in bfloat16 that are rounded at random."""
    overrides = [*SMALL, *options, "trainer.checkpoint_every=1"]
    uninterrupted = train(load_recipe("basereward", overrides=overrides))
    run_id = killed_run(overrides, at_step=kill_at)
    assert train_in_process("basereward", overrides, resume=run_id) == 0
    resumed = find(run_id).result() or {}
    assert resumed["metrics"] == uninterrupted["metrics"]
    resumed_weights, expected_weights = trained_weights(run_id), trained_weights(uninterrupted["run_id"])
    assert all(torch.equal(resumed_weights[name], expected_weights[name]) for name in expected_weights)


def killed_run(overrides: list[str], *, at_step: int) -> str:
    """Start a run in a process of its own and kill it after it has written the checkpoint of a step."""
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
    """Return all weights that a run saved."""
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
    """With chosen and rejected swapped, the margin changes its sign, and the loss is smaller in the order with the
    larger margin."""
    path = checkpoint("qwen2_5_vl", tmp_path / "model")
    model, encoder = reward_model(path).eval(), load_encoder(path)
    sample = group(responses=("It is a four.", "seven"), images=1)
    swapped = Group(sample.id, sample.source, sample.prompt, sample.responses[::-1], sample.preferences, sample.images)
    margins, losses = [], []
    for ordered_group in (sample, swapped):
        batch = collate([encoder(ordered_group)], layout="tree", pad_id=encoder.pad_id)
        with torch.no_grad():
            scores = model(batch)
        margins.append(float(scores[batch.preferences.winner] - scores[batch.preferences.loser]))
        losses.append(float(BradleyTerry(**options)(scores, batch)[0]))
    assert margins[0] == pytest.approx(-margins[1], abs=1e-6)
    assert abs(margins[0]) > 1e-4
    assert (losses[0] < losses[1]) == (margins[0] > margins[1])


def test_law_9_tie_is_never_counted_as_right() -> None:
    """Equal scores are wrong, and a preference that the data mark as a tie is excluded from the accuracy."""
    metrics = PreferenceMetrics()
    ties = torch.tensor([False, False, True])
    lengths = torch.tensor([3, 3, 3])
    metrics.update(torch.tensor([0.0, 2.0, 5.0]), ties=ties, winner_lengths=lengths, loser_lengths=lengths)
    values = metrics.compute()
    assert values["pair_accuracy"] == 0.5
    assert (values["pairs"], values["ties"]) == (2, 1)
