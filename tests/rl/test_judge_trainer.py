"""Test the trainer of judges: its loss is that of the formulas and of TRL, images reach every forward pass, rows with
and without images mix, and bad rewards and rollouts are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationMixin

from basereward.errors import DataError, NotFiniteError, RecipeError, TrainingError
from basereward.model.policy import load_policy, policy_adapters
from basereward.recipe.schema import LoraRecipe
from basereward.rl.objectives import PolicyObjective, grpo, reinforce_pp, stable_reinforce
from basereward.rl.rewards.verdict import JudgeReward
from tests.helpers.judge_training import (
    CONSTANTS,
    batch_of,
    gradients,
    judge_policy,
    judge_trainer,
    metric,
    row,
    rows_of,
    write_rollouts,
)
from tests.helpers.support import picture

RIGHT, WRONG = "<think>a</think><answer>1</answer>", "<think>b</think><answer>2</answer>"


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose policy is written once."""
    shared = tmp_path_factory.getbasetemp() / "judge_policy"
    judge_policy(shared / "policy")
    return shared


def lengths(prompts: Any, completions: Any, **_: Any) -> list[float]:
    """A reward that is different for different texts."""
    return [float(sum(map(ord, completion[0]["content"])) % 7) for completion in completions]


def trl_steps(folder: Path, rows: Any, settings: Any) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of the steps of TRL's own GRPOTrainer, and the weights afterwards."""
    from trl import GRPOTrainer

    policy = judge_policy(folder / "policy")
    trainer = GRPOTrainer(policy.model, lengths, args=settings, train_dataset=rows, processing_class=policy.processor)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], trainer.model.state_dict()


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param(stable_reinforce(ratio_bounds=None, filter="off", baseline="group"), id="stable-off"),
        pytest.param(grpo(beta=0.04), id="grpo-kl"),
    ],
)
def test_without_clip_and_filter_training_is_trls_own_grpo(folder: Path, objective: PolicyObjective) -> None:
    """Four steps from the same seed have TRL's losses and end in TRL's weights, with pictures, to 1e-6."""
    rows = rows_of(*[row(f"Which is {n}?", picture(n)) for n in range(8)])
    ours = judge_trainer(folder, objective, reward=lengths, rows=rows, max_steps=4)
    ours.train()
    losses = [entry["loss"] for entry in ours.state.log_history if "loss" in entry]
    theirs, weights = trl_steps(folder, rows, ours.args)
    assert len(set(theirs)) > 1
    assert losses == pytest.approx(theirs, abs=1e-6)
    for name, weight in ours.model.state_dict().items():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=1e-6)


def reference_loss(trainer: Any, batch: dict[str, Any], *, bound: float) -> Tensor:
    """The loss of a batch by loops over the formulas in float64, from the logits of transformers' own forward pass."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    model = judge_policy(Path(trainer.args.output_dir).parent / "policy").model.double()
    outputs = model(
        input_ids=ids,
        attention_mask=torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
        pixel_values=batch["pixel_values"].double(),
        image_grid_thw=batch["image_grid_thw"],
        mm_token_type_ids=batch["mm_token_type_ids"],
    )
    prompt = batch["prompt_ids"].size(1)
    log_probs = outputs.logits.log_softmax(-1)[:, prompt - 1 : -1]
    new = log_probs.gather(-1, ids[:, prompt:, None])[..., 0]
    loss = torch.zeros((), dtype=torch.float64)
    for i, length in enumerate(batch["completion_mask"].sum(1).tolist()):
        for t in range(length):
            d = new[i, t] - batch["old_per_token_logps"][i, t].double()
            rho = d.clamp(-bound, bound).exp()
            z = batch["advantages"][i, t].double()
            loss = loss - torch.minimum(rho * z, rho.clamp(0.8, 1.2) * z) / length / len(ids)
    trainer.reference = model
    return loss


def test_loss_and_gradients_of_a_batch_equal_the_formulas(folder: Path) -> None:
    """Old log-probabilities are far away on both sides, so both clips act; every weight's gradient is compared."""
    rows = [
        row("Which?", picture(0)),
        row("Which?", picture(0)),
        row("What is it?", picture(1)),
        row("Hm?", picture(2)),
    ]
    trainer = judge_trainer(folder, stable_reinforce(), reward=JudgeReward(), rows=rows_of(*rows))
    write_rollouts(trainer, [RIGHT, WRONG, "1", RIGHT])
    batch = batch_of(trainer, rows)
    generator = torch.Generator().manual_seed(0)
    old = batch["old_per_token_logps"]
    batch["old_per_token_logps"] = old + 0.3 * torch.randn(old.shape, generator=generator)
    batch["old_per_token_logps"][:, :2] += torch.tensor([9.0, -9.0])
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    expected = reference_loss(trainer, batch, bound=6.907755278982137)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert metric(trainer, "clip_ratio/pre_clip") == pytest.approx(8 / batch["completion_mask"].sum().item())
    theirs = dict(trainer.reference.named_parameters())
    for name, gradient in gradients(trainer).items():
        torch.testing.assert_close(
            gradient.double(), theirs[name].grad, rtol=1e-3, atol=1e-5 * float(gradient.abs().max())
        )


def test_another_picture_changes_old_new_and_reference_log_probabilities(folder: Path) -> None:
    """The same rollouts of the same prompt have other log-probabilities in all three forward passes."""
    trainer = judge_trainer(
        folder, stable_reinforce(), reward=JudgeReward(), rows=rows_of(row("Which?")), keep_reference=True
    )
    write_rollouts(trainer, [RIGHT, WRONG])
    passes = []
    for index in (0, 5):
        batch = batch_of(trainer, [row("Which?", picture(index))] * 2)
        seen: list[Tensor] = []
        trainer._with_pre_clip = lambda log_probs, inputs, seen=seen: seen.append(log_probs.detach()) or log_probs
        trainer.current_gradient_accumulation_steps = 1
        trainer._compute_loss(trainer.model, batch)
        passes.append([batch["old_per_token_logps"], batch["ref_per_token_logps"], *seen])
    for first, second in zip(*passes, strict=True):
        assert (first - second).abs().max() > 1e-4
    old, reference, new = passes[0]
    torch.testing.assert_close(new, old, rtol=0, atol=1e-5)
    torch.testing.assert_close(reference, old, rtol=0, atol=1e-5)


def test_forward_pass_without_pixels_marks_or_three_axes_is_refused(folder: Path, monkeypatch: Any) -> None:
    """Each of the ways in which a policy would learn without its images stops the training."""
    trainer = judge_trainer(folder, stable_reinforce(), reward=JudgeReward(), rows=rows_of(row("Which?")))
    write_rollouts(trainer, [RIGHT])
    rows = [row("Which?", picture(0))] * 2
    batch = batch_of(trainer, rows)
    without_pixels = {name: value for name, value in batch.items() if name not in ("pixel_values", "image_grid_thw")}
    with pytest.raises(TrainingError, match="patches"):
        trainer._compute_loss(trainer.model, without_pixels)
    shifted = batch | {"mm_token_type_ids": batch["mm_token_type_ids"].roll(1, 1)}
    with pytest.raises(TrainingError, match="three-axis"):
        trainer._compute_loss(trainer.model, shifted)
    monkeypatch.setattr(trainer.model.model, "compute_3d_position_ids", lambda *_, **__: None)
    with pytest.raises(TrainingError, match="positions of text"):
        trainer._compute_loss(trainer.model, batch)


def test_rows_with_and_without_images_mix(folder: Path) -> None:
    """A row's log-probabilities in a mixed batch are those among rows of its kind; what such rows have trained can
    be loaded again."""
    mixed = [row("Which is it?", picture(0)), row("No picture?"), row("Or this?", picture(1)), row("2 + 2?")]
    trainer = judge_trainer(folder, stable_reinforce(), reward=lengths, rows=rows_of(*mixed), max_steps=2)
    write_rollouts(trainer, [RIGHT])
    together = batch_of(trainer, mixed)
    assert together["num_images"] == [1, 0, 1, 0]
    for place, columns in enumerate(mixed):
        alone = batch_of(trainer, [columns, columns])
        torch.testing.assert_close(
            alone["old_per_token_logps"][0], together["old_per_token_logps"][place], rtol=0, atol=1e-5
        )
    del trainer._generate_single_turn
    trainer.train()
    assert trainer.state.global_step == 2
    trainer.save_model(str(folder / "saved"))
    again = load_policy(folder / "saved")
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weight)
    texts = [f"{again.processor.image_token}?"]  # type: ignore[union-attr]
    ours, theirs = (made(text=texts, images=[[picture(0)]]) for made in (trainer.processing_class, again.processor))
    assert torch.equal(torch.tensor(ours["input_ids"]), torch.tensor(theirs["input_ids"]))


def test_checkpoint_is_loaded_with_its_weights(folder: Path) -> None:
    """A trainer that resumes has the weights of the checkpoint, and not those of its start."""
    trainer = judge_trainer(folder, grpo(), reward=lengths, rows=rows_of(row("Which?")))
    start = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.add_(0.5)
    trainer.save_model(str(folder / "checkpoint"))
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.sub_(0.5)
    trainer._load_from_checkpoint(str(folder / "checkpoint"))
    for name, weight in trainer.model.state_dict().items():
        torch.testing.assert_close(weight, start[name] + 0.5, rtol=0, atol=1e-6)


def test_rewards_that_are_not_numbers_count_in_no_mean(folder: Path) -> None:
    """Of the rewards 1, 3, NaN and none, the mean is 2 and the deviation 1; the others get no advantage."""

    def reward(prompts: Any, completions: Any, **_: Any) -> list[float | None]:
        return [1.0, 3.0, float("inf"), None]

    trainer = judge_trainer(folder, stable_reinforce(), reward=reward, rows=rows_of(row("Which?")))
    write_rollouts(trainer, [RIGHT])
    batch = batch_of(trainer, [row("Which?")] * 4)
    length = batch["completion_ids"].size(1)
    expected = torch.tensor([[-1.0], [1.0], [0.0], [0.0]]).expand(4, length)
    torch.testing.assert_close(batch["advantages"], expected)
    assert metric(trainer, "rewards/unscored") == 0.5


def test_equal_rewards_of_empty_texts_change_nothing_and_are_named(folder: Path, caplog: Any) -> None:
    """A policy that writes nothing has the reward 0: no weight changes, no number is NaN, a warning says it."""
    rows = rows_of(*[row(f"Which is {n}?", picture(n)) for n in range(4)])
    trainer = judge_trainer(folder, reinforce_pp(), reward=JudgeReward(), rows=rows, max_steps=1)
    write_rollouts(trainer, [""])
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    with caplog.at_level("WARNING", "basereward.rl"):
        trainer.train()
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert (logged["loss"], logged["reward"], logged["completions/mean_length"]) == (0.0, 0.0, 1.0)
    assert "constant" in trainer.watch.warned
    assert any("equal" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(("variant", "wrong"), [("paper", 0.0), ("code", 1.0)])
def test_dropped_shares_are_apart_for_right_and_wrong_answers(folder: Path, variant: Any, wrong: float) -> None:
    """At 80 % right with rewards 1.5 and 0.5, z of wrong answers is -2: within 3, and below 1.3 - 3."""
    trainer = judge_trainer(folder, stable_reinforce(filter=variant), reward=JudgeReward(), rows=rows_of(row("W?")))
    write_rollouts(trainer, [RIGHT] * 4 + [WRONG])
    batch = batch_of(trainer, [row("Which?")] * 10)
    assert metric(trainer, "filter/dropped_wrong") == wrong
    assert metric(trainer, "filter/dropped_right") == 0.0
    assert metric(trainer, "filter/dropped") == pytest.approx(0.2 * wrong)
    assert batch["advantages"][4].tolist() == pytest.approx([-2.0 * (1 - wrong)] * batch["advantages"].size(1))


def test_penalty_in_the_reward_reads_the_reference(folder: Path) -> None:
    """Returns are the reward minus beta times k1 of this and later tokens, standardised over all tokens."""
    trainer = judge_trainer(folder, reinforce_pp(beta=0.3), reward=JudgeReward(), rows=rows_of(row("Which?")))
    write_rollouts(trainer, [RIGHT, WRONG, "1"])
    with torch.no_grad():
        trainer.model.lm_head.weight.add_(0.05 * torch.randn(trainer.model.lm_head.weight.shape))
    batch = batch_of(trainer, [row("Which?", picture(0))] * 4)
    kl = batch["old_per_token_logps"] - batch["ref_per_token_logps"]
    mask = batch["completion_mask"].bool()
    assert kl[mask].abs().max() > 1e-2
    assert trainer.beta == 0
    returns = []
    for place, reward in enumerate([1.5, 0.5, 0.0, 1.5]):
        own = kl[place][mask[place]].tolist()
        returns += [reward - 0.3 * sum(own[t:]) for t in range(len(own))]
    values = torch.tensor(returns, dtype=torch.float64)
    expected = (values - values.mean()) / values.std(correction=0)
    torch.testing.assert_close(batch["advantages"][mask].double(), expected, rtol=0, atol=1e-4)
    assert metric(trainer, "kl/reference") == pytest.approx(kl[mask].mean().item(), abs=1e-5)


def test_loss_that_is_not_finite_stops_the_training(folder: Path) -> None:
    """It is never skipped in silence."""
    trainer = judge_trainer(folder, stable_reinforce(), reward=JudgeReward(), rows=rows_of(row("Which?")))
    write_rollouts(trainer, [RIGHT])
    batch = batch_of(trainer, [row("Which?")] * 2)
    batch["advantages"][0, 0] = float("nan")
    trainer.current_gradient_accumulation_steps = 1
    with pytest.raises(NotFiniteError, match="step 1"):
        trainer._compute_loss(trainer.model, batch)


def test_label_that_is_not_1_or_2_names_its_row(folder: Path) -> None:
    """The error of the reward reaches the caller of `train`."""
    rows = rows_of(*[row("Which?", label=0, id="pairs/7") for _ in range(4)])
    trainer = judge_trainer(folder, stable_reinforce(), reward=JudgeReward(), rows=rows, max_steps=1)
    write_rollouts(trainer, [RIGHT])
    with pytest.raises(DataError, match="pairs/7"):
        trainer.train()


@pytest.mark.parametrize(
    "options",
    [{"per_device": 3}, {"rollouts_per_prompt": 1}, {"constants": "papers"}, {"epsilon": 0.3}, {"loss_type": "dapo"}],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    """Sizes that do not divide, and settings that the objective decides about."""
    from basereward.rl.trainer import trainer_settings

    with pytest.raises(RecipeError):
        trainer_settings(tmp_path, stable_reinforce(), **{"constants": CONSTANTS, "per_device": 2, **options})


def test_settings_have_the_published_constants(tmp_path: Path) -> None:
    """256 rollouts in two steps of 128; the penalty is that of the objective."""
    from basereward.rl.trainer import trainer_settings

    settings = trainer_settings(tmp_path, stable_reinforce(beta=1e-3), constants="released", per_device=16)
    assert (settings.learning_rate, settings.num_train_epochs, settings.beta) == (3e-7, 1, 1e-3)
    assert (settings.gradient_accumulation_steps, settings.steps_per_generation) == (8, 16)
    assert (settings.generation_batch_size, settings.loss_type, settings.epsilon) == (256, "grpo", 0.2)


def test_settings_of_another_objective_are_refused(folder: Path) -> None:
    """Clip and penalty would be silently those of the settings."""
    from basereward.rl.trainer import JudgeTrainer, trainer_settings

    settings = trainer_settings(folder, grpo(beta=0.1), constants=CONSTANTS, per_device=2)
    with pytest.raises(RecipeError, match="stable_reinforce"):
        JudgeTrainer(
            judge_policy(folder / "policy"), JudgeReward(), rows_of(row("W?")), stable_reinforce(clip=0.3), settings
        )


@pytest.mark.parametrize("is_lora", [False, True], ids=["whole", "lora"])
def test_shared_prefixes_change_no_rollout(folder: Path, is_lora: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps, with and without pictures: rollouts, losses and weights have the bits of repeated prompts."""
    rows = rows_of(*[row(f"Which is {n}?", picture(n) if n % 2 else None) for n in range(8)])
    prompts: list[int] = []
    ends: list[dict[str, Tensor]] = []
    texts: list[list[str]] = []
    for is_shared in (False, True):
        policy = judge_policy(folder / "policy")
        adapters = policy_adapters(policy, LoraRecipe(rank=2)) if is_lora else None
        options = {"max_steps": 4, "peft_config": adapters, "shares_prefixes": is_shared}
        trainer = judge_trainer(folder, grpo(), reward=lengths, rows=rows, **options)
        generate = GenerationMixin.generate

        def counted(self: Any, *arguments: Any, generate: Any = generate, **inputs: Any) -> Any:
            prompts.append(len(inputs["input_ids"]))
            return generate(self, *arguments, **inputs)

        monkeypatch.setattr(GenerationMixin, "generate", counted)
        trainer.train()
        monkeypatch.setattr(GenerationMixin, "generate", generate)
        ends.append(trainer.model.state_dict())
        texts.append([str(text) for text in trainer._logs["completion"]])
    # Two generations of 8 rollouts, two for each prompt.
    assert prompts == [8, 8, 4, 4]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 4
    for name, weight in ends[0].items():
        assert torch.equal(weight, ends[1][name])
