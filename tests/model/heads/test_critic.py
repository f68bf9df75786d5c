"""The critic: what it is taught, what it writes, and the score at the end of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from basereward.data.batching.branch_edits import remove_targets
from basereward.data.batching.tree_batch import Layout, TreeBatch, collate
from basereward.data.encoding.encoder import Encoder
from basereward.data.schema.group import Group
from basereward.data.schema.rejections import RowRejected
from basereward.errors import ModelError, RecipeError
from basereward.model.attention.gradient_checkpointing import enable_gradient_checkpointing
from basereward.model.backbone import load_backbone, load_config
from basereward.model.families.lm_head import load_language_head
from basereward.model.families.processing import load_encoder
from basereward.model.generation.generate import SamplingParams, TextGenerator
from basereward.model.losses.bradley_terry import BradleyTerry
from basereward.model.reward_model import RewardModel
from basereward.recipe import make
from tests.helpers.support import checkpoint, gradients, group, mixed_groups

HEAD = {"_target_": "critic", "max_tokens": 12, "prompt": "critique_brief"}


def criticised(each: Group) -> Group:
    """The group with a critique of every response."""
    return replace(each, critiques=tuple(f"It says {text[:4]}." for text in each.responses))


def made(path: Path, **changes: Any) -> tuple[RewardModel, Encoder]:
    """A checkpoint with a critic, and its encoder."""
    backbone = load_backbone(path)
    torch.manual_seed(1)
    head = make(HEAD | changes, "heads", backbone.hidden_size)
    encoder = load_encoder(path)
    encoder.speech = head.branch_template
    language = load_language_head(path, load_config(path))
    model = RewardModel(backbone, head, language=language, encoder=encoder)
    return model, encoder


def laid(encoder: Encoder, groups: list[Group], *, with_targets: bool = False, layout: Layout = "tree") -> TreeBatch:
    """Groups in one batch."""
    return collate([encoder(each, with_targets=with_targets) for each in groups], layout=layout, pad_id=encoder.pad_id)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3"])
def test_tree_rows_teach_what_plain_rows_do(family: str, tmp_path: Path) -> None:
    """Law 1 with critiques: scores, the loss of language, and all gradients."""
    model, encoder = made(checkpoint(family, tmp_path / family))
    groups = [criticised(each) for each in mixed_groups(vision="vl" in family)]
    found = []
    for layout in ("tree", "plain"):
        batch = laid(encoder, groups, with_targets=True, layout=layout)  # type: ignore[arg-type]
        outputs = model.train().outputs(batch)
        assert outputs.language is not None
        (ranked,) = outputs.scores
        loss, _ = BradleyTerry()(ranked, batch)
        (loss + outputs.language).backward()
        found.append((ranked.detach(), outputs.language.detach(), gradients(model)))
    (scores, language, grads), (expected, expected_language, expected_grads) = found
    assert torch.allclose(scores, expected, rtol=1e-5, atol=1e-6)
    assert torch.allclose(language, expected_language, rtol=1e-5)
    assert any(name.startswith("language.") for name in grads)
    assert grads.keys() == expected_grads.keys()
    for name, gradient in grads.items():
        assert float((gradient - expected_grads[name]).norm()) <= 1e-5 * max(float(expected_grads[name].norm()), 1e-2)


def test_the_loss_of_language_is_transformers_own(tmp_path: Path) -> None:
    """On one critique, where all tokens but its own are masked out of the labels."""
    from transformers import AutoModelForCausalLM

    path = checkpoint("qwen3", tmp_path / "model")
    model, encoder = made(path)
    batch = laid(encoder, [criticised(group(responses=("It is a seven.",)))], with_targets=True)
    told = model.outputs(batch).language
    count = len(encoder.branch("It says It i."))
    assert len(batch.lm_target_positions) == count
    labels = torch.full_like(batch.input_ids, -100)
    labels[0, -count:] = batch.input_ids[0, -count:]
    theirs = AutoModelForCausalLM.from_pretrained(path)(batch.input_ids, labels=labels).loss
    assert float(told) == pytest.approx(float(theirs), rel=1e-5)  # type: ignore[arg-type]


def test_a_score_is_that_at_the_end_of_the_written_critique(tmp_path: Path) -> None:
    """Writing and scoring in one go equals scoring the written text given as data."""
    model, encoder = made(checkpoint("qwen2_5_vl", tmp_path / "model"))
    model.eval()
    asked = group(images=1)
    batch = laid(encoder, [asked])
    texts: list[Any] = []
    assert model.language is not None
    writer = TextGenerator(model.backbone, model.language, end=encoder.end_of_turn, pad=encoder.pad_id)
    for (text,) in writer(batch, SamplingParams(max_tokens=12)):
        texts.append(text if len(text) == 12 else torch.cat([text, torch.tensor([encoder.end_of_turn])]))
    whole = encoder(asked)
    branches = tuple(torch.cat([branch, text]) for branch, text in zip(whole.branches, texts, strict=True))
    with torch.no_grad():
        expected = model(collate([replace(whole, branches=branches)], layout="plain", pad_id=encoder.pad_id))
        found = model.response_scores(batch)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_branch_is_the_conversation_as_the_template_writes_it(tmp_path: Path) -> None:
    """The prompt, the response, the request for a critique, and the critique."""
    _, encoder = made(checkpoint("qwen3", tmp_path / "model"))
    asked = criticised(group("Which digit?", ("It is 7.", "4")))
    encoded = encoder(asked, with_targets=True)
    tokenizer: Any = encoder.tokenizer
    for branch, response, critique in zip(encoded.branches, asked.responses, asked.critiques, strict=True):
        words = [("user", "Which digit?"), ("assistant", response), ("user", "Why?")]
        turns = [{"role": role, "content": text} for role, text in words]
        rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        end = tokenizer.decode([encoder.end_of_turn])
        assert tokenizer.decode(torch.cat([encoded.prefix, branch])) == rendered + critique + end


def test_of_several_critiques_the_score_is_the_mean(tmp_path: Path) -> None:
    """Of the scores at the end of each, read one by one in plain rows."""
    model, encoder = made(checkpoint("qwen2_5_vl", tmp_path / "model"), samples=3, temperature=1.0)
    model.eval()
    asked = group(images=1)
    batch, whole = laid(encoder, [asked]), encoder(asked)
    assert model.generator is not None
    written = model.generator.generate(batch, model.head.sampling)  # type: ignore[arg-type]
    assert len({tuple(text.tolist()) for texts in written for text in texts}) > 3, "the critiques are not all alike"
    scores = []
    for sample in range(3):
        ends = [texts[sample] for texts in written]
        branches = tuple(torch.cat([branch, text]) for branch, text in zip(whole.branches, ends, strict=True))
        with torch.no_grad():
            row = collate([replace(whole, branches=branches)], layout="plain", pad_id=encoder.pad_id)
            scores.append(model(row))
    with torch.no_grad():
        found = model.response_scores(batch)
    assert torch.allclose(found, torch.stack(scores).mean(0), rtol=1e-5, atol=1e-6)


def test_a_score_does_not_depend_on_batch_mates(tmp_path: Path) -> None:
    """Law 3, with what is written."""
    model, encoder = made(checkpoint("qwen2_5_vl", tmp_path / "model"))
    model.eval()
    groups = mixed_groups(vision=True)
    with torch.no_grad():
        together = model.response_scores(laid(encoder, groups))
        alone = torch.cat([model.response_scores(laid(encoder, [each])) for each in groups])
    assert torch.allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_pictures_are_encoded_once_for_writing_and_scoring(tmp_path: Path) -> None:
    """One call of the vision tower for one picture with four responses and three critiques each."""
    model, encoder = made(checkpoint("qwen2_5_vl", tmp_path / "model"), samples=3, temperature=1.0)
    transformer: Any = model.eval().backbone.transformer
    calls: list[int] = []
    transformer.visual.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    with torch.no_grad():
        scores = model.response_scores(laid(encoder, [group(responses=("a", "b", "c", "d"), images=1)]))
    assert scores.shape == (4,)
    assert len(calls) == 1


def test_rows_without_critiques_are_lost_by_name(tmp_path: Path) -> None:
    """In training; scoring asks for none."""
    _, encoder = made(checkpoint("qwen3", tmp_path / "model"))
    with pytest.raises(RowRejected, match="digits, numbers, digit_pairs and mm_rlhf") as told:
        encoder(group(), with_targets=True)
    assert told.value.reason == "no_critique"
    assert len(encoder(group()).branches) == 3


def test_its_own_critiques_are_ranked_after(tmp_path: Path) -> None:
    """Of `own` there is no language to learn, and no row is lost; of `both` there are two rankings, the first that of
    `given`, and gradients of each. Without what is taught, a batch is the one that is scored."""
    path = checkpoint("qwen2_5_vl", tmp_path / "model")
    groups = [criticised(group(images=1)), criticised(group("Which?", ("7", "It is 4."), name="text"))]
    own, encoder = made(path, critiques="own")
    plain = laid(encoder, [replace(each, critiques=()) for each in groups], with_targets=True)
    outputs = own.train().outputs(plain)
    assert outputs.language is None
    (ranked,) = outputs.scores
    ranked.sum().backward()
    assert gradients(own)
    with torch.no_grad():
        assert torch.allclose(ranked, own.eval().response_scores(plain), rtol=1e-5, atol=1e-6)
    both, encoder = made(path, critiques="both")
    taught, asked = laid(encoder, groups, with_targets=True), laid(encoder, groups)
    shortened = remove_targets(taught)
    for name in ("input_ids", "position_ids", "group", "branch", "ends"):
        assert torch.equal(getattr(shortened, name), getattr(asked, name)), name
    assert shortened.trees == asked.trees
    outputs = both.train().outputs(taught)
    given, mine = outputs.scores
    assert torch.allclose(mine, ranked, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(given, mine)
    assert outputs.language is not None
    assert both.training


def test_layers_that_are_computed_again_get_the_pass_they_are_of(tmp_path: Path) -> None:
    """Scores and gradients of `both` are the same with gradient checkpointing, though its second pass reads other
    tokens than the first, before the first is computed again."""
    path = checkpoint("qwen3", tmp_path / "model")
    groups = [criticised(group()), criticised(group("Which?", ("7", "It is 4."), name="text"))]
    found = []
    for checkpointing in (False, True):
        model, encoder = made(path, critiques="both")
        if checkpointing:
            enable_gradient_checkpointing(model.backbone.transformer)
        given, own = model.train().outputs(laid(encoder, groups, with_targets=True)).scores
        (given.square().sum() + own.sum()).backward()
        found.append((given.detach(), own.detach(), gradients(model)))
    (given, own, wanted), (given_again, own_again, again) = found
    assert torch.equal(given, given_again)
    assert torch.equal(own, own_again)
    assert wanted.keys() == again.keys()
    for name, gradient in again.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-6, atol=1e-7)


def test_plain_rows_cannot_be_written_after(tmp_path: Path) -> None:
    """The error names the key."""
    model, encoder = made(checkpoint("qwen3", tmp_path / "model"))
    with pytest.raises(ModelError, match=r"batch\.layout=tree"):
        model.response_scores(laid(encoder, [group()], layout="plain"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples": 3}, "samples=3"),
        ({"max_tokens": 0}, "from 1 to"),
        ({"prompt": "critic"}, "critique"),
        ({"prompt_file": "/nowhere.txt"}, "cannot be read"),
    ],
)
def test_arguments_are_checked(changes: dict[str, Any], said: str) -> None:
    """What is wrong is said."""
    with pytest.raises(RecipeError, match=said):
        make(HEAD | changes, "heads", 8)
