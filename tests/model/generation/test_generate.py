"""Text that a model writes after its branches: the same as transformers' own `generate` on each conversation alone."""

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

TOKENS = 10


def writer(path: Path, encoder: Encoder) -> TextGenerator:
    """The checkpoint, writing."""
    language = load_language_head(path, load_config(path))
    return TextGenerator(load_backbone(path).eval(), language, end=encoder.end_of_turn, pad=encoder.pad_id)


def batch(encoder: Encoder, groups: list[Group]) -> TreeBatch:
    """Groups in one row."""
    return collate([encoder(each) for each in groups], layout="tree", pad_id=encoder.pad_id)


def alone(path: Path, encoder: Encoder, groups: list[Group], *, vision: bool) -> list[list[int]]:
    """What transformers' model writes after every response, each conversation in a call of its own."""
    kind = AutoModelForImageTextToText if vision else AutoModelForCausalLM
    model: Any = kind.from_pretrained(path, attn_implementation="eager").eval()
    found = []
    for each in groups:
        encoded = encoder(each)
        for branch in encoded.branches:
            ids = torch.cat([encoded.prefix, branch])[None]
            given: dict[str, Any] = {}
            if each.images:
                processor = AutoImageProcessor.from_pretrained(path, backend="pil")
                given = dict(processor(images=list(each.images), return_tensors="pt"))
                given["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
            ends = {"eos_token_id": encoder.end_of_turn, "pad_token_id": encoder.pad_id}
            mask = torch.ones_like(ids)
            told = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, **ends, **given
            )
            text = told[0, ids.shape[1] :].tolist()
            found.append(text[: text.index(encoder.end_of_turn)] if encoder.end_of_turn in text else text)
    return found


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl", "qwen2", "qwen3", "llama"])
def test_a_batch_writes_what_every_conversation_does_alone(family: str, tmp_path: Path) -> None:
    """Groups of different lengths, with no, one and two images, several responses and turns."""
    path = checkpoint(family, tmp_path / family)
    encoder = load_encoder(path)
    groups = mixed_groups(vision="vl" in family)
    written = writer(path, encoder)(batch(encoder, groups), SamplingParams(max_tokens=TOKENS))
    assert [some[0].tolist() for some in written] == alone(path, encoder, groups, vision="vl" in family)
    assert len({tuple(some[0].tolist()) for some in written}) > 3, "texts are not all alike"


def test_pictures_are_encoded_once(tmp_path: Path) -> None:
    """One call of the vision tower for eight texts about one picture."""
    path = checkpoint("qwen2_5_vl", tmp_path / "model")
    encoder = load_encoder(path)
    write = writer(path, encoder)
    transformer: Any = write.backbone.transformer
    seen: list[int] = []
    transformer.visual.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    asked = group(responses=("a", "b", "c", "d"), images=1)
    written = write(batch(encoder, [asked]), SamplingParams(max_tokens=4, samples=2, temperature=1.0))
    assert [len(some) for some in written] == [2, 2, 2, 2]
    assert len(seen) == 1


def test_draws_follow_the_seed(tmp_path: Path) -> None:
    """The same seed, the same texts, and no other random number moves; another seed, others."""
    path = checkpoint("qwen2_5_vl", tmp_path / "model")
    encoder = load_encoder(path)
    write, rows = writer(path, encoder), batch(encoder, [group(images=1)])

    def told(seed: int) -> list[list[list[int]]]:
        drawn = write(rows, SamplingParams(max_tokens=TOKENS, temperature=1.0, samples=3, seed=seed))
        return [[text.tolist() for text in some] for some in drawn]

    before = torch.get_rng_state()
    first = told(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert told(1) == first != told(2)


def test_text_is_that_of_the_tokenizer(tmp_path: Path) -> None:
    """Completion tokens are decoded with nothing left out."""
    encoder = load_encoder(checkpoint("qwen2", tmp_path / "model"))
    tokens = encoder.branch("Seven.")
    decode = encoder.tokenizer.decode  # type: ignore[attr-defined]
    assert texts(decode, [[tokens[:-1]], [tokens]]) == [["Seven."], ["Seven.<|im_end|>"]]


def logits(path: Path, hidden: Tensor) -> Tensor:
    """Of the checkpoint's language head."""
    return load_language_head(path, load_config(path)).logits(load_backbone(path).transformer, hidden)


@pytest.mark.parametrize("tied", [False, True])
def test_the_language_head_is_the_checkpoint_s(tied: bool, tmp_path: Path) -> None:
    """Logits equal those of transformers' whole model, with a weight of its own and with the embedding's; so does its
    loss."""
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
        found = logits(tmp_path, hidden)
        assert torch.allclose(found, expected, atol=1e-6)
        language = load_language_head(tmp_path, load_config(tmp_path))
        loss = language.loss(load_backbone(tmp_path).transformer, hidden[0, :-1], ids[0, 1:], torch.ones(19))
        assert float(loss) / 19 == pytest.approx(float(model(ids, labels=ids).loss), rel=1e-6)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        *((family, "lm_head.weight") for family in (*VISION, "qwen3", "llama")),
        ("internvl", "language_model.lm_head.weight"),  # in checkpoints that hold a whole language model
    ],
)
def test_a_language_head_in_the_files_is_used_whatever_the_configuration_says(
    family: str, name: str, tmp_path: Path
) -> None:
    """Logits equal transformers' own of a folder whose config.json ties the head to the embedding, with a weight of its
    own in the files; a model that is built, saved and opened has it, and its outline knows of it."""
    path = tie(checkpoint(family, tmp_path / family))
    weights = load_file(path / "model.safetensors")
    embedding = next(weight for key, weight in weights.items() if key.endswith("embed_tokens.weight"))
    weights.pop("lm_head.weight", None)
    own = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(3)) / 8
    save_file(weights | {name: own}, path / "model.safetensors", metadata={"format": "pt"})
    kind = AutoModelForImageTextToText if family in VISION else AutoModelForCausalLM
    ids = torch.arange(20, 30)[None]
    recipe = load_recipe("basereward", profile="tiny", overrides=["model.head={_target_: generative}"])
    model = build_model(recipe.model, path=str(path), seed=0).eval()
    assert model.language is not None
    with torch.no_grad():
        expected = kind.from_pretrained(path)(input_ids=ids).logits
        hidden = model.backbone.transformer(input_ids=ids).last_hidden_state
        found = model.language.logits(model.backbone.transformer, hidden)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert outline(recipe.model, path=str(path)).language.weight is not None  # type: ignore[union-attr]
        save_model(model, tmp_path / "saved", recipe=recipe, encoder=load_encoder(path))
        opened, _, _ = load_reward_model(tmp_path / "saved")
        assert opened.language is not None
        again = opened.language.logits(opened.backbone.transformer, hidden)
        torch.testing.assert_close(again, expected, rtol=1e-5, atol=1e-5)


def test_a_weight_that_is_the_embedding_s_is_shared_where_the_configuration_ties_them(tmp_path: Path) -> None:
    """As transformers does with checkpoints that hold it twice; trained, the two stay one."""
    path = tie(checkpoint("qwen2", tmp_path / "model"))
    weights = load_file(path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    embedding: Any = load_backbone(path).transformer.get_input_embeddings()
    assert load_language_head(path, load_config(path), embedding=embedding.weight).weight is None


@pytest.mark.parametrize("family", ["cohere", "granite", "gemma2", "phi"])
def test_a_family_that_scales_or_caps_its_logits_is_refused_for_heads_that_speak(family: str, tmp_path: Path) -> None:
    """A product with the weight is not what it says: the error names the family. Scalar heads take it."""
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


def tie(path: Path) -> Path:
    """The folder, whose configuration says that the language head is the embedding's."""
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    return path


def test_many_logits_are_made_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same loss and the same gradients as all at once."""
    path = checkpoint("qwen3", tmp_path / "model")
    transformer = load_backbone(path).transformer
    torch.manual_seed(0)
    hidden = torch.randn(20, 64, requires_grad=True)
    targets, weights = torch.arange(20), torch.rand(20)
    found = []
    for at_once in (1024, 6):
        monkeypatch.setattr("basereward.model.families.lm_head.AT_ONCE", at_once)
        language = load_language_head(path, load_config(path))
        hidden.grad = None
        loss = language.loss(transformer, hidden, targets, weights)
        loss.backward()
        assert hidden.grad is not None
        found.append((loss.detach(), hidden.grad.clone()))
    assert torch.allclose(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], atol=1e-7)


def test_a_checkpoint_without_one_says_so(tmp_path: Path) -> None:
    """Not a head of random weights."""
    path = checkpoint("qwen3", tmp_path / "model")
    weights = load_file(path / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k != "lm_head.weight"}, path / "model.safetensors")
    with pytest.raises(ModelError, match=r"no lm_head\.weight.*scalar head"):
        load_language_head(path, load_config(path))
