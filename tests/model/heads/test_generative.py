"""Generative heads: judges that compare two responses in one prompt, and judges that rate one response."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import Layout, TreeBatch
from basereward.data.encoding.encoder import Encoder
from basereward.data.schema.group import Group, Preference, Reasoning
from basereward.data.schema.rejections import RowRejected
from basereward.errors import ModelError, RecipeError
from basereward.model.backbone import load_backbone, load_config
from basereward.model.families.lm_head import load_language_head
from basereward.model.families.processing import load_encoder
from basereward.model.generation.generate import SamplingParams
from basereward.model.generation.response_generator import ResponseGenerator
from basereward.model.reward_model import RewardModel
from basereward.recipe import make
from basereward.training.objectives.critique_ranking import critic_outputs
from tests.helpers.support import checkpoint, gradients, group, mixed_groups

VERDICT = {"_target_": "generative", "prompt": "pairwise_brief"}
THINKING = VERDICT | {"thinking": True, "max_tokens": 12}
RATING = {"_target_": "rating", "prompt": "rating_brief"}


def build_judge(path: Path, head: dict[str, Any], **changes: Any) -> tuple[RewardModel, Encoder]:
    """Return a reward model with a generative head on the checkpoint, and its encoder."""
    backbone = load_backbone(path)
    judge = make(head | changes, "heads", backbone.hidden_size)
    encoder = load_encoder(path).with_branch_template(judge.branch_template)
    language = load_language_head(path, load_config(path))
    model = RewardModel(backbone, judge, language=language, encoder=encoder)
    return model.eval(), encoder


def collate_groups(
    encoder: Encoder, groups: list[Group], *, with_targets: bool = False, layout: Layout = "tree"
) -> TreeBatch:
    """Return the encoded groups in one batch."""
    return collate([encoder(item, with_targets=with_targets) for item in groups], layout=layout, pad_id=encoder.pad_id)


def with_reasoning(group: Group) -> Group:
    """Return the group with ratings, and with reasoning about its first preference in both orders."""
    winner, loser = group.preferences[0].winner, group.preferences[0].loser
    reasonings = (Reasoning(winner, loser, "2 is false."), Reasoning(loser, winner, "1 is false."))
    count = len(group.responses)
    return replace(group, reasonings=reasonings, ratings=tuple(1 - i / (count - 1) for i in range(count)))


def comparable_groups(*, vision: bool) -> list[Group]:
    """Return groups of different shapes, each with at least two responses."""
    return [with_reasoning(item) for item in mixed_groups(vision=vision) if len(item.responses) > 1]


def test_branch_equals_the_rendered_judge_prompt(tmp_path: Path) -> None:
    """Prefix and branch are the judge's turn as the template renders it, with both responses; the target follows."""
    _, encoder = build_judge(checkpoint("qwen3", tmp_path / "model"), VERDICT)
    pair_group = group("Which digit?", ("It is 7.", "4"))
    encoded = encoder(pair_group, with_targets=True)
    texts = [
        encoder.tokenizer.decode(torch.cat([encoded.prefix, branch]))  # type: ignore[attr-defined]
        for branch in encoded.branches
    ]
    end = encoder.tokenizer.decode([encoder.end_of_turn])  # type: ignore[attr-defined]
    for text, (first, second), verdict in zip(texts, [("It is 7.", "4"), ("4", "It is 7.")], "12", strict=True):
        prompt = f"Which digit?\n1: {first}\n2: {second}\nBetter?"
        turn = [{"role": "user", "content": prompt}]
        rendered = encoder.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        assert text == rendered + verdict + end
    assert [target.compared_responses for target in encoded.branch_targets] == [(0, 1), (1, 0)]
    assert encoded.lengths == tuple(len(encoder.plain(text)) for text in pair_group.responses)


def test_special_tokens_in_responses_are_plain_text(tmp_path: Path) -> None:
    """A response with special tokens in its text neither ends the judge's turn nor adds an image token."""
    _, encoder = build_judge(checkpoint("qwen2_5_vl", tmp_path / "model"), VERDICT)
    (branch, _) = encoder(group("Which?", ("<|im_end|><|image_pad|>", "4"))).branches
    assert encoder.image_token_id not in branch.tolist()
    assert branch.tolist().count(encoder.end_of_turn) == 1


@pytest.mark.parametrize("head", [VERDICT, THINKING, RATING], ids=["verdict", "thinking", "rating"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3"])
def test_tree_and_plain_rows_give_equal_gradients(family: str, head: dict[str, Any], tmp_path: Path) -> None:
    """Law 1 for judges: the language loss and all gradients are equal, and there are no ranking scores."""
    model, encoder = build_judge(checkpoint(family, tmp_path / family), head)
    groups = comparable_groups(vision="vl" in family)
    results = []
    for layout in ("tree", "plain"):
        outputs = critic_outputs(model.train(), collate_groups(encoder, groups, with_targets=True, layout=layout))  # type: ignore[arg-type]
        assert outputs.scores == ()
        assert outputs.language is not None
        outputs.language.backward()
        results.append((outputs.language.detach(), gradients(model)))
    (language, tree_gradients), (expected, plain_gradients) = results
    assert torch.allclose(language, expected, rtol=1e-5)
    assert tree_gradients.keys() == plain_gradients.keys()
    for name, gradient in tree_gradients.items():
        assert float((gradient - plain_gradients[name]).norm()) <= 1e-5 * max(float(plain_gradients[name].norm()), 1e-2)


def test_preference_weight_scales_the_loss(tmp_path: Path) -> None:
    """A weight of one half halves the loss."""
    model, encoder = build_judge(checkpoint("qwen3", tmp_path / "model"), VERDICT)
    losses = []
    for weight in (1.0, 0.5):
        weighted_group = replace(group(responses=("7", "4")), preferences=(Preference(0, 1, weight=weight),))
        losses.append(
            float(critic_outputs(model, collate_groups(encoder, [weighted_group], with_targets=True)).language.detach())
        )  # type: ignore[union-attr]
    assert losses[1] == pytest.approx(losses[0] / 2)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3"])
def test_verdict_probability_equals_transformers_generate(family: str, tmp_path: Path) -> None:
    """For two responses in both orders, the probability is the softmax over the logits of the two verdict tokens that
    transformers' `generate` gives for the same prompt."""
    model, encoder = build_judge(checkpoint(family, tmp_path / "model"), VERDICT)
    pair_group = group("Which digit?", ("It is 7.", "4"), images=int("vl" in family))
    batch = collate_groups(encoder, [pair_group])
    assert model.generator is not None
    tokens = [model.generator.token("1"), model.generator.token("2")]
    model_class = AutoModelForImageTextToText if "vl" in family else AutoModelForCausalLM
    reference: Any = model_class.from_pretrained(tmp_path / "model", attn_implementation="eager").eval()
    expected_leads = []
    for branch in encoder(pair_group).branches:
        encoded = replace(encoder(pair_group), branches=(branch,), branch_targets=(), lengths=())
        plain_batch = collate([replace(encoded, preferences=())], layout="plain", pad_id=encoder.pad_id)
        image_inputs: dict[str, Any] = {}
        if plain_batch.images.pixels is not None:
            image_inputs = {
                "pixel_values": plain_batch.images.pixels.values,
                "image_grid_thw": torch.tensor(plain_batch.images.grids),
            }
            image_inputs["mm_token_type_ids"] = (plain_batch.rows.input_ids == encoder.image_token_id).long()
        output = reference.generate(
            input_ids=plain_batch.rows.input_ids, max_new_tokens=1, do_sample=False, output_logits=True,
            return_dict_in_generate=True, pad_token_id=encoder.pad_id, **image_inputs,
        )  # fmt: skip
        probability = output.logits[0][0, tokens].float().softmax(-1)
        expected_leads.append(torch.log(probability[0] / probability[1]))
    expected = torch.sigmoid((expected_leads[0] - expected_leads[1]) / 2)
    with torch.no_grad():
        scores = model.response_scores(batch)
        actual_leads = model.head._logit_leads(model.generator, batch)  # type: ignore[operator]
    for (lead,), expected_lead in zip(actual_leads, expected_leads, strict=True):
        assert torch.sigmoid(torch.tensor(lead)) == pytest.approx(float(torch.sigmoid(expected_lead)), abs=1e-5)
    assert float(torch.sigmoid(scores[0] - scores[1])) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("head", [VERDICT, THINKING], ids=["verdict", "thinking"])
def test_preference_does_not_depend_on_the_order_of_responses(head: dict[str, Any], tmp_path: Path) -> None:
    """The preference probabilities of a pair and of the swapped pair sum to one."""
    model, encoder = build_judge(checkpoint("qwen2_5_vl", tmp_path / "model"), head)
    responses = ("It is 7.", "4")
    with torch.no_grad():
        scores = model.response_scores(collate_groups(encoder, [group(responses=responses, images=1)]))
        swapped_scores = model.response_scores(collate_groups(encoder, [group(responses=responses[::-1], images=1)]))
    preference = torch.sigmoid(scores[0] - scores[1]) + torch.sigmoid(swapped_scores[0] - swapped_scores[1])
    assert float(preference) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("head", [VERDICT, THINKING, RATING], ids=["verdict", "thinking", "rating"])
def test_scores_do_not_depend_on_batch_mates(head: dict[str, Any], tmp_path: Path) -> None:
    """Law 3 for verdicts and generated text: a group scored alone and in a batch has the same scores."""
    model, encoder = build_judge(checkpoint("qwen2_5_vl", tmp_path / "model"), head)
    groups = comparable_groups(vision=True)
    with torch.no_grad():
        together = model.response_scores(collate_groups(encoder, groups))
        alone = torch.cat([model.response_scores(collate_groups(encoder, [item])) for item in groups])
    assert len(together) == sum(len(item.responses) for item in groups)
    assert torch.allclose(together, alone, rtol=1e-5, atol=1e-5)


def test_text_without_a_verdict_is_counted_and_ignored(tmp_path: Path) -> None:
    """A model with random weights generates no verdict, so all scores are 0 and every text is counted as unread."""
    model, encoder = build_judge(checkpoint("qwen3", tmp_path / "model"), THINKING, votes=3, temperature=1.0)
    with torch.no_grad():
        scores = model.response_scores(
            collate_groups(encoder, [group(responses=("a", "b", "c"))]), tally=(tally := Counter[str]())
        )
    assert scores.tolist() == [0.0, 0.0, 0.0]
    assert tally["verdicts"] == tally["unread"] == 3 * 2 * 3


def test_scores_of_generated_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores are calculated by hand.

    The second of three responses wins both of its pairs in both orders; one vote of the third pair cannot be parsed.
    """
    model, encoder = build_judge(checkpoint("qwen3", tmp_path / "model"), THINKING)
    verdicts = {(0, 1): "2", (1, 0): "1", (1, 2): "1", (2, 1): "2", (0, 2): "1", (2, 0): "?"}

    def generate(self: ResponseGenerator, batch: TreeBatch, sampling: SamplingParams) -> list[list[torch.Tensor]]:
        pairs = [(first, second) for first, second in batch.targets.compared.tolist()]
        return [[self.encoder.branch(f"<think>.</think><answer>{verdicts[pair]}</answer>")] for pair in pairs]

    monkeypatch.setattr(ResponseGenerator, "generate", generate)
    scores = model.response_scores(collate_groups(encoder, [group(responses=("a", "b", "c"))]))
    assert scores.tolist() == pytest.approx([0.0, 2 / 3, -2 / 3])


def test_response_without_a_verdict_sets_its_group_to_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of three responses beats the second, and no text about the third can be parsed.

    Any score of the third would rank it, so the whole group scores 0; the other group keeps its scores.
    """
    model, encoder = build_judge(checkpoint("qwen3", tmp_path / "model"), THINKING, order="given")
    verdicts = {(0, 1): "1", (0, 2): "?", (1, 2): "?", (3, 4): "2"}

    def generate(self: ResponseGenerator, batch: TreeBatch, sampling: SamplingParams) -> list[list[torch.Tensor]]:
        pairs = [(first, second) for first, second in batch.targets.compared.tolist()]
        return [[self.encoder.branch(f"<think>.</think><answer>{verdicts[pair]}</answer>")] for pair in pairs]

    monkeypatch.setattr(ResponseGenerator, "generate", generate)
    scores = model.response_scores(
        collate_groups(encoder, [group(responses=("a", "b", "c")), group("x", ("d", "e"), name="y")])
    )
    assert scores.tolist() == [0.0, 0.0, 0.0, -0.5, 0.5]


def test_rating_score_is_the_mean_over_the_scale(tmp_path: Path) -> None:
    """A score lies within the scale, and the training target is the nearest number of the scale."""
    model, encoder = build_judge(checkpoint("qwen3", tmp_path / "model"), RATING)
    rated_group = with_reasoning(group(responses=("a", "b", "c")))
    encoded = encoder(rated_group, with_targets=True)
    target_texts = [encoder.tokenizer.decode(branch[-2:-1]) for branch in encoded.branches]  # type: ignore[attr-defined]
    assert target_texts == ["5", "3", "1"]
    with torch.no_grad():
        scores = model.response_scores(collate_groups(encoder, [rated_group]))
    assert ((scores > 1) & (scores < 5)).all()
    assert model.response_scores(collate_groups(encoder, [group(responses=("alone",))])).shape == (1,)


@pytest.mark.parametrize(
    ("head", "row_group", "reason", "message"),
    [
        (VERDICT, group(responses=("alone",)), "single_response", "rating"),
        (VERDICT, replace(group(), preferences=(Preference(0, 1, tie=True),)), "no_verdict", "ties"),
        (THINKING, group(), "no_reasoning", "basereward annotate"),
        (RATING, group(), "no_rating", "llava_critic_pointwise"),
        (RATING, replace(group(responses=("a", "b")), ratings=(5.0, 1.0)), "bad_ratings", "rating_range"),
    ],
)
def test_row_without_targets_is_rejected(
    head: dict[str, Any], row_group: Group, reason: str, message: str, tmp_path: Path
) -> None:
    """The message names the sources that have the missing column."""
    _, encoder = build_judge(checkpoint("qwen3", tmp_path / "model"), head)
    with pytest.raises(RowRejected, match=message) as excinfo:
        encoder(row_group, with_targets=True)
    assert excinfo.value.reason == reason


def test_selected_preferences_are_spread_evenly(tmp_path: Path) -> None:
    """Of the three preferences among three responses, `pairs=1` selects the first and `pairs=2` the first and the
    second."""
    path = checkpoint("qwen3", tmp_path / "model")
    for pairs, expected_pairs in ((1, {(0, 1)}), (2, {(0, 1), (0, 2)}), (None, {(0, 1), (0, 2), (1, 2)})):
        _, encoder = build_judge(path, VERDICT, pairs=pairs, order="given")
        assert {
            target.compared_responses for target in encoder(group(), with_targets=True).branch_targets
        } == expected_pairs


def test_preferences_with_reasoning_are_selected_first(tmp_path: Path) -> None:
    """Only the last of three preferences has reasoning, so `pairs=1` selects it in the order of its reasoning."""
    _, encoder = build_judge(checkpoint("qwen3", tmp_path / "model"), THINKING, pairs=1)
    reasoning_group = replace(group(responses=("a", "b", "c")), reasonings=(Reasoning(2, 1, "1 is false."),))
    (target,) = encoder(reasoning_group, with_targets=True).branch_targets
    assert target.compared_responses == (2, 1)


@pytest.mark.parametrize("head", [VERDICT, RATING], ids=["verdict", "rating"])
def test_loss_does_not_depend_on_the_micro_batches(head: dict[str, Any], tmp_path: Path) -> None:
    """The loss of three groups in one forward pass is the mean by group of the losses of one and of two groups."""
    model, encoder = build_judge(checkpoint("qwen3", tmp_path / "model"), head)
    groups = [with_reasoning(group("Which?", tuple("abcdefg"[:count]), name=f"g{count}")) for count in (2, 3, 5)]
    with torch.no_grad():
        full_loss, first_loss, rest_loss = (
            float(critic_outputs(model, collate_groups(encoder, batch_groups, with_targets=True)).language)  # type: ignore[arg-type]
            for batch_groups in (groups, groups[:1], groups[1:])
        )
    assert full_loss == pytest.approx((first_loss + 2 * rest_loss) / 3, rel=1e-5)


def test_calling_a_judge_is_refused(tmp_path: Path) -> None:
    """A judge has no score of a hidden state; the error names the method to call."""
    model, encoder = build_judge(checkpoint("qwen3", tmp_path / "model"), VERDICT)
    with pytest.raises(ModelError, match="response_scores"):
        model(collate_groups(encoder, [group()]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"votes": 3}, "identical"),
        ({"votes": 16, "thinking": True, "temperature": 1.0}, "1 to 15"),
        ({"order": "all"}, "both"),
        ({"pairs": 0}, "at least 1"),
        ({"prompt": "critique"}, "pairwise_verdict|fields"),
        ({"pattern": "1|2"}, "0 groups"),
        ({"_target_": "rating", "scale": 10}, "scale"),
    ],
)
def test_invalid_generative_arguments_are_refused(changes: dict[str, Any], message: str) -> None:
    """Numbers out of range, unknown orders, prompts with other fields and invalid patterns are refused."""
    head = VERDICT if changes.get("_target_") is None else {}
    with pytest.raises(RecipeError, match=message):
        make(head | changes, "heads", 8)
