"""The critic head: training on critiques, generation of critiques, and the score read at the end of a critique."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from basereward.data.batching.branch_edits import remove_targets
from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import Layout, TreeBatch
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
from basereward.training.objectives.critique_ranking import critic_outputs
from tests.helpers.support import checkpoint, gradients, group, mixed_groups

HEAD = {"_target_": "critic", "max_tokens": 12, "prompt": "critique_brief"}


def with_critiques(group: Group) -> Group:
    """Return the group with a critique of every response."""
    return replace(group, critiques=tuple(f"It says {text[:4]}." for text in group.responses))


def build_critic(path: Path, **changes: Any) -> tuple[RewardModel, Encoder]:
    """Return a reward model with a critic head on the checkpoint, and its encoder."""
    backbone = load_backbone(path)
    torch.manual_seed(1)
    head = make(HEAD | changes, "heads", backbone.hidden_size)
    encoder = load_encoder(path).with_branch_template(head.branch_template)
    language = load_language_head(path, load_config(path))
    model = RewardModel(backbone, head, language=language, encoder=encoder)
    return model, encoder


def collate_groups(
    encoder: Encoder, groups: list[Group], *, with_targets: bool = False, layout: Layout = "tree"
) -> TreeBatch:
    """Return the encoded groups in one batch."""
    return collate([encoder(item, with_targets=with_targets) for item in groups], layout=layout, pad_id=encoder.pad_id)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3"])
def test_tree_and_plain_rows_give_equal_gradients(family: str, tmp_path: Path) -> None:
    """Law 1 with critiques: scores, language loss and all gradients are equal for tree rows and plain rows."""
    model, encoder = build_critic(checkpoint(family, tmp_path / family))
    groups = [with_critiques(item) for item in mixed_groups(vision="vl" in family)]
    results = []
    for layout in ("tree", "plain"):
        batch = collate_groups(encoder, groups, with_targets=True, layout=layout)  # type: ignore[arg-type]
        outputs = critic_outputs(model.train(), batch)
        assert outputs.language is not None
        (layout_scores,) = outputs.scores
        loss, _ = BradleyTerry()(layout_scores, batch)
        (loss + outputs.language).backward()
        results.append((layout_scores.detach(), outputs.language.detach(), gradients(model)))
    (scores, language, tree_gradients), (expected, expected_language, plain_gradients) = results
    assert torch.allclose(scores, expected, rtol=1e-5, atol=1e-6)
    assert torch.allclose(language, expected_language, rtol=1e-5)
    assert any(name.startswith("language.") for name in tree_gradients)
    assert tree_gradients.keys() == plain_gradients.keys()
    for name, gradient in tree_gradients.items():
        assert float((gradient - plain_gradients[name]).norm()) <= 1e-5 * max(float(plain_gradients[name].norm()), 1e-2)


def test_language_loss_equals_transformers_loss(tmp_path: Path) -> None:
    """On one critique the language loss is that of transformers with all other tokens masked out of the labels."""
    from transformers import AutoModelForCausalLM

    path = checkpoint("qwen3", tmp_path / "model")
    model, encoder = build_critic(path)
    batch = collate_groups(encoder, [with_critiques(group(responses=("It is a seven.",)))], with_targets=True)
    loss = critic_outputs(model, batch).language
    num_targets = len(encoder.branch("It says It i."))
    assert len(batch.targets.positions) == num_targets
    labels = torch.full_like(batch.rows.input_ids, -100)
    labels[0, -num_targets:] = batch.rows.input_ids[0, -num_targets:]
    expected = AutoModelForCausalLM.from_pretrained(path)(batch.rows.input_ids, labels=labels).loss
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)  # type: ignore[arg-type]


def test_score_is_read_at_the_end_of_the_generated_critique(tmp_path: Path) -> None:
    """Generating and scoring in one call equals scoring the generated text passed as data."""
    model, encoder = build_critic(checkpoint("qwen2_5_vl", tmp_path / "model"))
    model.eval()
    prompt_group = group(images=1)
    batch = collate_groups(encoder, [prompt_group])
    critiques: list[Any] = []
    assert model.language is not None
    generator = TextGenerator(model.backbone, model.language, end=encoder.end_of_turn, pad=encoder.pad_id)
    for (critique,) in generator(batch, SamplingParams(max_tokens=12)):
        critiques.append(
            critique if len(critique) == 12 else torch.cat([critique, torch.tensor([encoder.end_of_turn])])
        )
    encoded = encoder(prompt_group)
    branches = tuple(
        torch.cat([branch, critique]) for branch, critique in zip(encoded.branches, critiques, strict=True)
    )
    with torch.no_grad():
        expected = model(collate([replace(encoded, branches=branches)], layout="plain", pad_id=encoder.pad_id))
        actual = model.response_scores(batch)
    assert torch.allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_branch_equals_the_rendered_chat_template(tmp_path: Path) -> None:
    """A branch is the rendered conversation of prompt, response, request for a critique, and critique."""
    _, encoder = build_critic(checkpoint("qwen3", tmp_path / "model"))
    critique_group = with_critiques(group("Which digit?", ("It is 7.", "4")))
    encoded = encoder(critique_group, with_targets=True)
    tokenizer: Any = encoder.tokenizer
    for branch, response, critique in zip(
        encoded.branches, critique_group.responses, critique_group.critiques, strict=True
    ):
        messages = [("user", "Which digit?"), ("assistant", response), ("user", "Why?")]
        turns = [{"role": role, "content": text} for role, text in messages]
        rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        end = tokenizer.decode([encoder.end_of_turn])
        assert tokenizer.decode(torch.cat([encoded.prefix, branch])) == rendered + critique + end


def test_score_is_the_mean_over_several_critiques(tmp_path: Path) -> None:
    """The score is the mean of the scores at the end of each critique, read one by one in plain rows."""
    model, encoder = build_critic(checkpoint("qwen2_5_vl", tmp_path / "model"), samples=3, temperature=1.0)
    model.eval()
    prompt_group = group(images=1)
    batch, encoded = collate_groups(encoder, [prompt_group]), encoder(prompt_group)
    assert model.generator is not None
    critiques = model.generator.generate(batch, model.head.sampling)  # type: ignore[arg-type]
    assert len({tuple(text.tolist()) for texts in critiques for text in texts}) > 3, "the critiques must differ"
    scores = []
    for sample in range(3):
        sampled = [texts[sample] for texts in critiques]
        branches = tuple(torch.cat([branch, text]) for branch, text in zip(encoded.branches, sampled, strict=True))
        with torch.no_grad():
            plain_batch = collate([replace(encoded, branches=branches)], layout="plain", pad_id=encoder.pad_id)
            scores.append(model(plain_batch))
    with torch.no_grad():
        actual = model.response_scores(batch)
    assert torch.allclose(actual, torch.stack(scores).mean(0), rtol=1e-5, atol=1e-6)


def test_scores_do_not_depend_on_batch_mates(tmp_path: Path) -> None:
    """Law 3 with generated critiques: a group scored alone and in a batch has the same scores."""
    model, encoder = build_critic(checkpoint("qwen2_5_vl", tmp_path / "model"))
    model.eval()
    groups = mixed_groups(vision=True)
    with torch.no_grad():
        together = model.response_scores(collate_groups(encoder, groups))
        alone = torch.cat([model.response_scores(collate_groups(encoder, [item])) for item in groups])
    assert torch.allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_images_are_encoded_once_for_generation_and_scoring(tmp_path: Path) -> None:
    """The vision tower is called once for one image with four responses and three critiques each."""
    model, encoder = build_critic(checkpoint("qwen2_5_vl", tmp_path / "model"), samples=3, temperature=1.0)
    transformer: Any = model.eval().backbone.transformer
    calls: list[int] = []
    transformer.visual.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    with torch.no_grad():
        scores = model.response_scores(collate_groups(encoder, [group(responses=("a", "b", "c", "d"), images=1)]))
    assert scores.shape == (4,)
    assert len(calls) == 1


def test_row_without_critiques_is_rejected(tmp_path: Path) -> None:
    """In training the row is rejected and the message names the sources with critiques; scoring needs no critiques."""
    _, encoder = build_critic(checkpoint("qwen3", tmp_path / "model"))
    with pytest.raises(RowRejected, match="digits, numbers, digit_pairs and mm_rlhf") as excinfo:
        encoder(group(), with_targets=True)
    assert excinfo.value.reason == "no_critique"
    assert len(encoder(group()).branches) == 3


def test_generated_critiques_are_ranked(tmp_path: Path) -> None:
    """With `critiques="own"` there is no language loss, and no row is rejected.

    With `both` there are two rankings, first that of the given critiques, then that of the generated ones. A batch with
    its targets removed equals the batch used for scoring.
    """
    path = checkpoint("qwen2_5_vl", tmp_path / "model")
    groups = [with_critiques(group(images=1)), with_critiques(group("Which?", ("7", "It is 4."), name="text"))]
    own_model, encoder = build_critic(path, critiques="own")
    own_batch = collate_groups(encoder, [replace(item, critiques=()) for item in groups], with_targets=True)
    outputs = critic_outputs(own_model.train(), own_batch)
    assert outputs.language is None
    (own_scores,) = outputs.scores
    own_scores.sum().backward()
    assert gradients(own_model)
    with torch.no_grad():
        assert torch.allclose(own_scores, own_model.eval().response_scores(own_batch), rtol=1e-5, atol=1e-6)
    both_model, encoder = build_critic(path, critiques="both")
    target_batch, scoring_batch = collate_groups(encoder, groups, with_targets=True), collate_groups(encoder, groups)
    stripped_batch = remove_targets(target_batch)
    for name in ("input_ids", "position_ids", "group", "branch", "ends"):
        assert torch.equal(getattr(stripped_batch.rows, name), getattr(scoring_batch.rows, name)), name
    assert stripped_batch.rows.trees == scoring_batch.rows.trees
    outputs = critic_outputs(both_model.train(), target_batch)
    given_scores, generated_scores = outputs.scores
    assert torch.allclose(generated_scores, own_scores, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(given_scores, generated_scores)
    assert outputs.language is not None
    assert both_model.training


def test_gradient_checkpointing_works_with_two_forward_passes(tmp_path: Path) -> None:
    """Scores and gradients of `both` are the same with gradient checkpointing.

    Its second forward pass reads other tokens than the first, and runs before the activations of the first are
    recomputed.
    """
    path = checkpoint("qwen3", tmp_path / "model")
    groups = [with_critiques(group()), with_critiques(group("Which?", ("7", "It is 4."), name="text"))]
    results = []
    for checkpointing in (False, True):
        model, encoder = build_critic(path, critiques="both")
        if checkpointing:
            enable_gradient_checkpointing(model.backbone.transformer)
        given_scores, generated_scores = critic_outputs(
            model.train(), collate_groups(encoder, groups, with_targets=True)
        ).scores
        (given_scores.square().sum() + generated_scores.sum()).backward()
        results.append((given_scores.detach(), generated_scores.detach(), gradients(model)))
    (given_scores, generated_scores, expected), (recomputed_given_scores, recomputed_generated_scores, recomputed) = (
        results
    )
    assert torch.equal(given_scores, recomputed_given_scores)
    assert torch.equal(generated_scores, recomputed_generated_scores)
    assert expected.keys() == recomputed.keys()
    for name, gradient in recomputed.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-7)


def test_generation_refuses_plain_rows(tmp_path: Path) -> None:
    """The error names the key `batch.layout` and its value."""
    model, encoder = build_critic(checkpoint("qwen3", tmp_path / "model"))
    with pytest.raises(ModelError, match=r"batch\.layout=tree"):
        model.response_scores(collate_groups(encoder, [group()], layout="plain"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 3}, "samples=3"),
        ({"max_tokens": 0}, "from 1 to"),
        ({"prompt": "critic"}, "critique"),
        ({"prompt_file": "/nowhere.txt"}, "cannot be read"),
    ],
)
def test_invalid_critic_arguments_are_refused(changes: dict[str, Any], message: str) -> None:
    """Numbers out of range, a prompt of another kind and a missing prompt file are refused."""
    with pytest.raises(RecipeError, match=message):
        make(HEAD | changes, "heads", 8)
