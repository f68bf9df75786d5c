"""Limits for chat templates and texts: templates that refuse, loop or drop content, and texts that are too long."""

# ruff: noqa: E501 - templates in one line each

from __future__ import annotations

import random
import signal
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from basereward.data.encoding.control_tokens import tokenizer_faults
from basereward.data.encoding.encoder import Encoder
from basereward.data.encoding.lengths import measure
from basereward.data.encoding.template_limits import TemplateStopped, characters_per_token, limited_steps
from basereward.data.schema.group import Group, Turn
from basereward.data.schema.rejections import RowRejected
from basereward.errors import DataError, ModelError
from tests.data.encoding.test_end_of_turn import small_tokenizer
from tests.helpers.chat_templates import CHATML, GEMMA, MISTRAL_V1, QWEN2_5, in_order, tokenizer_of, turn
from tests.helpers.support import checkpoint, group
from tests.inference.test_scorer import scorer_of

ENDLESS = {
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "a macro that calls itself": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "a long text": "{{ 'x' * 10**10 }}",
    "a wide text": "{{ 'x' | center(10**10) }}",
    "a text that doubles": "{% set ns = namespace(x='abcd') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "much output": "{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}",
    "output that is caught": "{% set y %}{% for i in range(99999) %}{{ 'x' * 100000 }}{% endfor %}{% endset %}",
    "after a system turn": "{% if messages[0].role == 'system' %}{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}{% endif %}",
}


def encoder_of(template: str, **options: Any) -> Encoder:
    """Return an encoder with this template and a tokenizer of bytes."""
    tokenizer = small_tokenizer("<|im_start|>", "<|im_end|>", template=template, eos="<|im_end|>")
    return Encoder(tokenizer, positions=in_order, **options)


@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS)
def test_endless_template_is_an_error(endless: str) -> None:
    """Opening the model fails by a count of steps, characters or bytes. The earlier trace function and signal handler
    are restored."""
    trace_function, handler = sys.gettrace(), signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(ModelError, match=r"chat_template\.jinja"):
        encoder_of(CHATML + endless)
    assert (sys.gettrace(), signal.getsignal(signal.SIGVTALRM)) == (trace_function, handler)


def test_template_that_loops_on_one_row_rejects_the_row() -> None:
    """Other rows are encoded."""
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    encoder = encoder_of("{% if 'magic' in messages[0].content %}" + loops + "{% endif %}" + CHATML)
    with pytest.raises(RowRejected) as caught:
        encoder(group("the magic word"))
    assert caught.value.reason == "template_rejects"
    assert len(encoder(group("another word")).branches) == 3


def test_long_conversation_is_within_the_limit() -> None:
    """A thousand turns take a few percent of the allowed steps."""
    encoder = encoder_of(QWEN2_5)
    turns = [turn("user", "Hi."), turn("assistant", "Hello!")] * 500
    text = encoder.template.render([*turns, turn("user", "?")], generation_prompt=True)
    assert text.count("<|im_start|>") == 1003
    with pytest.raises(TemplateStopped), limited_steps(steps=500):
        encoder.tokenizer.apply_chat_template(  # type: ignore[attr-defined]
            [{"role": "user", "content": "?"}] * 1000, tokenize=False
        )


@pytest.mark.parametrize(
    ("template", "turns"),
    [
        (GEMMA, (turn("system", "Be brief."), turn("user", "Hi."))),
        (MISTRAL_V1, (turn("system", "Be brief."), turn("user", "Hi."))),
        (GEMMA, (turn("user", "Hi."), turn("user", "Hello?"))),
        (CHATML + "{% if 'zero' in messages[0].content %}{{ 1 // 0 }}{% endif %}", (turn("user", "zero"),)),
        (CHATML + "{% if 'none' in messages[0].content %}{{ none.x.y }}{% endif %}", (turn("user", "none"),)),
    ],
    ids=["gemma system", "mistral system", "two questions", "division", "undefined"],
)
def test_conversation_that_the_template_refuses_is_rejected(template: str, turns: tuple[Turn, ...]) -> None:
    """Training, measuring and scoring have the same reason, with the message of the template."""
    encoder = encoder_of(template)
    refused_group = Group("row-7", "test", turns, ("Yes.", "No."))
    for method in (encoder, encoder.measure, encoder.opening):
        with pytest.raises(RowRejected) as caught:
            method(refused_group)
        assert caught.value.reason == "template_rejects"
        assert all(message_turn.role in str(caught.value) for message_turn in turns)
    assert len(encoder(group("Hi.", ("Yes.", "No."))).branches) == 2


class Rows:
    """A source of the given groups."""

    name = "rows"

    def __init__(self, *groups: Group) -> None:
        self._groups = groups

    def groups(self, split: str) -> tuple[Group, ...]:
        return self._groups

    def rejected(self, split: str) -> list[Any]:
        return []


def test_refused_rows_are_listed() -> None:
    """The other rows of the source are used."""
    system = (turn("system", "Be brief."),)
    rows = Rows(group(name="a"), group(name="b", turns=system), group(name="c"))
    lengths, rejected = measure(rows, "train", encoder=encoder_of(GEMMA))  # type: ignore[arg-type]
    assert lengths.index.tolist() == [0, 2]
    assert [(row.id, row.reason) for row in rejected] == [("b", "template_rejects")]
    assert "System role not supported" in rejected[0].detail


@pytest.mark.parametrize("broken", ["{{ raise_exception('never') }}", "{% for x in %}", "{{ 1 // 0 }}", "{{ x.y.z }}"])
def test_template_that_refuses_everything_is_an_error(broken: str) -> None:
    """The error is raised when the model is opened, before a row is read."""
    with pytest.raises(ModelError, match="chat template"):
        encoder_of(broken)


def test_turn_that_the_template_drops_rejects_the_row() -> None:
    """A template may silently drop a system turn, which can be the reason of a preference."""
    encoder = encoder_of(CHATML.replace("in messages %}", "in messages if message.role != 'system' %}"))
    with pytest.raises(RowRejected, match="system") as caught:
        encoder(group(turns=(turn("system", "Answer in French."),)))
    assert caught.value.reason == "template_rejects"
    only_last = encoder_of(
        "{% set messages = messages[-1:] if messages[-1].role == 'user' else messages[-2:] %}" + CHATML
    )
    with pytest.raises(RowRejected, match="assistant, user") as caught:
        only_last(group(turns=(turn("user", "Hi."), turn("assistant", "Hello!"))))
    assert caught.value.reason == "template_rejects"


def test_template_that_drops_the_answer_is_an_error() -> None:
    """No score could depend on the answer."""
    with pytest.raises(ModelError, match="drops the text of assistant turns"):
        encoder_of("{% for message in messages if message.role == 'user' %}{{ message.content }}{% endfor %}<|im_end|>")


def test_template_that_repeats_the_answer_is_an_error() -> None:
    """The position of the answer would be ambiguous."""
    with pytest.raises(ModelError, match="2 times"):
        encoder_of(CHATML.replace("{{ message.content }}", "{{ message.content }} ({{ message.content }})"))


@pytest.mark.parametrize("text", ["x" * 2_000_000, "\n" * 2_000_000, "word " * 400_000], ids=["x", "lines", "words"])
def test_too_long_text_is_rejected_before_tokenizing(
    text: str, vocabulary: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two million characters in a response, in the prompt, and in another turn."""
    encoder = Encoder(tokenizer_of(vocabulary, QWEN2_5), positions=in_order, max_tokens=4096)
    sizes: list[int] = []
    original_call = type(vocabulary).__call__

    def recording_call(self: Any, text_to_encode: str, **options: Any) -> Any:
        sizes.append(len(text_to_encode))
        return original_call(self, text_to_encode, **options)

    monkeypatch.setattr(type(vocabulary), "__call__", recording_call)
    for too_long in (
        group("Hi.", ("Yes.", text)),
        group(text, ("Yes.", "No.")),
        group("Hi.", ("Yes.", "No."), turns=(turn("system", text),)),
    ):
        with pytest.raises(RowRejected) as caught:
            encoder(too_long)
        assert caught.value.reason == "too_long"
        assert "2000000" in str(caught.value)
        assert "4096" in str(caught.value)
    assert max(sizes) < 1000, "nothing long was encoded"


def test_character_limit_rejects_no_text_that_fits(vocabulary: PreTrainedTokenizerFast) -> None:
    """A token has at most as many characters as the longest token of the vocabulary, with NFC four times as many.
    Checked with random texts and the worst cases."""
    from tokenizers import normalizers

    tokenizer = tokenizer_of(vocabulary, QWEN2_5)
    backend = tokenizer.backend_tokenizer
    per_token, proved = characters_per_token(backend)
    tokens = backend.get_vocab()
    longest = max(tokens, key=len)
    assert (per_token, proved) == (len(longest), True)
    rng = random.Random(0)
    texts = ["".join(map(chr, rng.choices(range(1, 0xD800), k=50))) for _ in range(100)]
    texts += [" " * 5000, "\n" * 5000, "=" * 5000, "ᾂ" * 100]
    for text in texts:
        assert len(text) <= per_token * len(backend.encode(text, add_special_tokens=False).ids)
    copied = type(backend).from_str(backend.to_str())
    copied.normalizer = normalizers.NFC()
    assert characters_per_token(copied) == (4 * per_token, True)
    characters = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    assert max(len(unicodedata.normalize("NFD", character)) for character in characters) == 4, (
        "of one character, at most four"
    )


def test_tokenizer_that_drops_text_has_the_default_limit(vocabulary: PreTrainedTokenizerFast) -> None:
    """No bound can be derived for it, so the limit is 1,024 characters per token."""
    from tokenizers import normalizers

    backend = vocabulary.backend_tokenizer
    copied = type(backend).from_str(backend.to_str())
    copied.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Strip()])
    assert characters_per_token(copied) == (1024, False)


def test_scoring_a_refused_row_is_a_data_error(tmp_path: Path) -> None:
    """The error has the reason and the template's message."""
    folder = checkpoint("qwen3", tmp_path / "model")
    (folder / "chat_template.jinja").write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    )
    scorer = scorer_of(folder)
    assert len(scorer.score("Hi.", ["Yes.", "No."])) == 2
    with pytest.raises(DataError, match=r"template_rejects.*no system"):
        scorer.score([{"role": "system", "content": "Brief."}, {"role": "user", "content": "Hi."}], ["Yes."])


def test_panic_of_the_tokenizer_is_a_model_error() -> None:
    """Panics of the tokenizers library are not an `Exception`; other exceptions pass through."""
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(ModelError, match=r"tokenizer\.json"), tokenizer_faults():
        raise panic("retry-limit-in-match over")
    with pytest.raises(KeyboardInterrupt), tokenizer_faults():
        raise KeyboardInterrupt
