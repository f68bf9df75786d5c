"""Text generation after the branches of a batch, compared with transformers' `generate` on each conversation alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoModelForImageTextToText

from basereward import load_recipe
from basereward.data.batching.collate import collate
from basereward.data.batching.tree_batch import TreeBatch
from basereward.data.encoding.encoder import Encoder
from basereward.data.schema.group import Group
from basereward.errors import ModelError
from basereward.model.backbone import load_backbone, load_config
from basereward.model.cost.meta_model import outline
from basereward.model.families.lm_head import load_language_head
from basereward.model.families.processing import load_encoder
from basereward.model.generation.generate import SamplingParams, TextGenerator, texts
from basereward.model.reward_model import build_model
from basereward.model.saving.saved_model import load_reward_model, save_model
from tests.helpers.families import tiny_config
from tests.helpers.support import VISION, checkpoint, group, mixed_groups

MAX_TOKENS = 10


def text_generator(path: Path, encoder: Encoder) -> TextGenerator:
    """Return a text generator on the checkpoint."""
    language = load_language_head(path, load_config(path))
    return TextGenerator(load_backbone(path).eval(), language, end=encoder.end_of_turn, pad=encoder.pad_id)


def tree_batch(encoder: Encoder, groups: list[Group]) -> TreeBatch:
    """Return the encoded groups in one tree row."""
    return collate([encoder(item) for item in groups], layout="tree", pad_id=encoder.pad_id)


def reference_texts(path: Path, encoder: Encoder, groups: list[Group], *, vision: bool) -> list[list[int]]:
    """Return the tokens that transformers' model generates after every response, one call per conversation."""
    model_class = AutoModelForImageTextToText if vision else AutoModelForCausalLM
    model: Any = model_class.from_pretrained(path, attn_implementation="eager").eval()
    texts = []
    for item in groups:
        encoded = encoder(item)
        for index, branch in enumerate(encoded.branches):
            ids = torch.cat([encoded.prefix, branch])[None]
            image_inputs: dict[str, Any] = {}
            images = [*item.images, *(placed_image.image for placed_image in item.images_of(index))]
            if images:
                processor = AutoImageProcessor.from_pretrained(path, backend="pil")
                image_inputs = dict(processor(images=images, return_tensors="pt"))
                image_inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
            stop_tokens = {"eos_token_id": encoder.end_of_turn, "pad_token_id": encoder.pad_id}
            mask = torch.ones_like(ids)
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=MAX_TOKENS,
                do_sample=False,
                **stop_tokens,
                **image_inputs,
            )
            text = output[0, ids.shape[1] :].tolist()
            texts.append(text[: text.index(encoder.end_of_turn)] if encoder.end_of_turn in text else text)
    return texts


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl", "qwen2", "qwen3", "llama"])
def test_batch_generation_equals_single_conversations(family: str, tmp_path: Path) -> None:
    """Groups of different lengths with zero to two images and several responses and turns give the same tokens."""
    path = checkpoint(family, tmp_path / family)
    encoder = load_encoder(path)
    groups = mixed_groups(vision="vl" in family)
    completions = text_generator(path, encoder)(tree_batch(encoder, groups), SamplingParams(max_tokens=MAX_TOKENS))
    assert [samples[0].tolist() for samples in completions] == reference_texts(
        path, encoder, groups, vision="vl" in family
    )
    assert len({tuple(samples[0].tolist()) for samples in completions}) > 3, "the texts must differ"


def test_images_are_encoded_once(tmp_path: Path) -> None:
    """The vision tower is called once for eight texts about one image."""
    path = checkpoint("qwen2_5_vl", tmp_path / "model")
    encoder = load_encoder(path)
    generator = text_generator(path, encoder)
    transformer: Any = generator.backbone.transformer
    calls: list[int] = []
    transformer.visual.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    image_group = group(responses=("a", "b", "c", "d"), images=1)
    completions = generator(
        tree_batch(encoder, [image_group]), SamplingParams(max_tokens=4, samples=2, temperature=1.0)
    )
    assert [len(samples) for samples in completions] == [2, 2, 2, 2]
    assert len(calls) == 1


def test_seed_sets_the_sampled_texts(tmp_path: Path) -> None:
    """The same seed gives the same texts and leaves torch's generator unchanged; another seed gives other texts."""
    path = checkpoint("qwen2_5_vl", tmp_path / "model")
    encoder = load_encoder(path)
    generator, batch = text_generator(path, encoder), tree_batch(encoder, [group(images=1)])

    def sample(seed: int) -> list[list[list[int]]]:
        completions = generator(batch, SamplingParams(max_tokens=MAX_TOKENS, temperature=1.0, samples=3, seed=seed))
        return [[text.tolist() for text in samples] for samples in completions]

    state_before = torch.get_rng_state()
    first = sample(1)
    assert torch.equal(torch.get_rng_state(), state_before)
    assert sample(1) == first != sample(2)


def test_samples_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    """Three samples after each branch are the same in a batch of three groups, alone, and in another order."""
    path = checkpoint("qwen2_5_vl", tmp_path / "model")
    encoder = load_encoder(path)
    generator = text_generator(path, encoder)
    groups = mixed_groups(vision=True)[:3]
    sampling = SamplingParams(max_tokens=5, temperature=1.0, samples=3)

    def sample(items: list[Group]) -> list[list[list[int]]]:
        return [[text.tolist() for text in samples] for samples in generator(tree_batch(encoder, items), sampling)]

    alone = [sample([item]) for item in groups]
    assert sample(groups) == alone[0] + alone[1] + alone[2]
    assert sample(groups[::-1]) == alone[2] + alone[1] + alone[0]
    assert all(len({tuple(text) for text in samples}) > 1 for samples in alone[0])


def test_completions_are_decoded_with_special_tokens(tmp_path: Path) -> None:
    """The tokens of a completion are decoded with nothing left out."""
    encoder = load_encoder(checkpoint("qwen2", tmp_path / "model"))
    tokens = encoder.branch("Seven.")
    decode = encoder.tokenizer.decode  # type: ignore[attr-defined]
    assert texts(decode, [[tokens[:-1]], [tokens]]) == [["Seven."], ["Seven.<|im_end|>"]]


def logits(path: Path, hidden: Tensor) -> Tensor:
    """Return the logits of the checkpoint's language head."""
    return load_language_head(path, load_config(path)).logits(load_backbone(path).transformer, hidden)


@pytest.mark.parametrize("tied", [False, True])
def test_language_head_equals_transformers(tied: bool, tmp_path: Path) -> None:
    """Logits and loss equal those of transformers' full model, with tied and with untied embeddings."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
    )
    model = Qwen2ForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state
        expected = model(ids).logits
        actual = logits(tmp_path, hidden)
        assert torch.allclose(actual, expected, atol=1e-6)
        language = load_language_head(tmp_path, load_config(tmp_path))
        loss = language.loss(load_backbone(tmp_path).transformer, hidden[0, :-1], ids[0, 1:], torch.ones(19))
        assert float(loss) / 19 == pytest.approx(float(model(ids, labels=ids).loss), rel=1e-6)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        *((family, "lm_head.weight") for family in (*VISION, "qwen3", "llama")),
        ("internvl", "language_model.lm_head.weight"),  # the name in checkpoints with a full language model
    ],
)
def test_stored_language_head_overrides_tied_embeddings(family: str, name: str, tmp_path: Path) -> None:
    """The config ties the language head to the embedding, and the files hold a separate weight.

    Logits equal transformers' own for this folder, also after the model is built, saved and loaded; the outline has the
    weight too.
    """
    path = tie_embeddings(checkpoint(family, tmp_path / family))
    weights = load_file(path / "model.safetensors")
    embedding = next(weight for key, weight in weights.items() if key.endswith("embed_tokens.weight"))
    weights.pop("lm_head.weight", None)
    head_weight = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(3)) / 8
    save_file(weights | {name: head_weight}, path / "model.safetensors", metadata={"format": "pt"})
    model_class = AutoModelForImageTextToText if family in VISION else AutoModelForCausalLM
    ids = torch.arange(20, 30)[None]
    recipe = load_recipe("basereward", profile="tiny", overrides=["model.head={_target_: generative}"])
    model = build_model(recipe.model, path=str(path), seed=0).eval()
    assert model.language is not None
    with torch.no_grad():
        expected = model_class.from_pretrained(path)(input_ids=ids).logits
        hidden = model.backbone.transformer(input_ids=ids).last_hidden_state
        actual = model.language.logits(model.backbone.transformer, hidden)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
        assert outline(recipe.model, path=str(path)).language.weight is not None  # type: ignore[union-attr]
        save_model(model, tmp_path / "saved", recipe=recipe, encoder=load_encoder(path))
        loaded, _, _ = load_reward_model(tmp_path / "saved")
        assert loaded.language is not None
        reloaded_logits = loaded.language.logits(loaded.backbone.transformer, hidden)
        torch.testing.assert_close(reloaded_logits, expected, rtol=1e-5, atol=1e-5)


def test_stored_copy_of_tied_embedding_is_shared(tmp_path: Path) -> None:
    """A checkpoint that ties the embedding and stores it twice shares one weight, as transformers does, so that
    training changes both."""
    path = tie_embeddings(checkpoint("qwen2", tmp_path / "model"))
    weights = load_file(path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    embedding: Any = load_backbone(path).transformer.get_input_embeddings()
    assert load_language_head(path, load_config(path), embedding=embedding.weight).weight is None


@pytest.mark.parametrize("family", ["cohere", "granite", "gemma2", "phi"])
def test_family_with_scaled_logits_is_refused_for_generative_heads(family: str, tmp_path: Path) -> None:
    """The product of states and weight is not the logits of these families.

    The error names the family; scalar heads accept it.
    """
    config = tiny_config(family)
    model = AutoModelForCausalLM.from_config(config)
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    for name, scale in {"logit_scale": 0.5, "logits_scaling": 4.0, "final_logit_softcapping": 1.0}.items():
        if hasattr(config, name):
            setattr(model.config, name, scale)
    model.save_pretrained(tmp_path)
    recipe = load_recipe("basereward", profile="tiny", overrides=["model.head={_target_: generative}"]).model
    with pytest.raises(ModelError, match=family):
        build_model(recipe, path=str(tmp_path), seed=0)
    build_model(replace(recipe, head={"_target_": "mlp"}), path=str(tmp_path), seed=0)


def tie_embeddings(path: Path) -> Path:
    """Set `tie_word_embeddings` in the configuration of the checkpoint and return its folder."""
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    return path


def test_language_loss_is_computed_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss and the gradients in chunks equal those of one computation."""
    path = checkpoint("qwen3", tmp_path / "model")
    transformer = load_backbone(path).transformer
    torch.manual_seed(0)
    hidden = torch.randn(20, 64, requires_grad=True)
    targets, weights = torch.arange(20), torch.rand(20)
    results = []
    for chunk_tokens in (1024, 6):
        monkeypatch.setattr("basereward.model.families.lm_head.CHUNK_TOKENS", chunk_tokens)
        language = load_language_head(path, load_config(path))
        hidden.grad = None
        loss = language.loss(transformer, hidden, targets, weights)
        loss.backward()
        assert hidden.grad is not None
        results.append((loss.detach(), hidden.grad.clone()))
    assert torch.allclose(results[0][0], results[1][0])
    assert torch.allclose(results[0][1], results[1][1], atol=1e-7)


@pytest.mark.parametrize("tied", [False, True])
def test_language_head_of_another_vocabulary_is_refused(tied: bool, tmp_path: Path) -> None:
    """Eight rows of the language head are missing; transformers refuses the same folder."""
    path = checkpoint("qwen3", tmp_path / "model")
    path = tie_embeddings(path) if tied else path
    weights = load_file(path / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = embedding[:-8].clone()
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lm_head\.weight has the shape"):
        load_language_head(path, load_config(path), embedding=embedding)


def test_missing_language_head_is_refused(tmp_path: Path) -> None:
    """A checkpoint without a language head is refused instead of getting a head with random weights."""
    path = checkpoint("qwen3", tmp_path / "model")
    weights = load_file(path / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k != "lm_head.weight"}, path / "model.safetensors")
    with pytest.raises(ModelError, match=r"no lm_head\.weight.*scalar head"):
        load_language_head(path, load_config(path))
