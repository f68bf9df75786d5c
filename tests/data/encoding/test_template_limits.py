"""A chat template comes from outside: it may refuse a conversation, never end, or leave words out. So may a text."""

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
    """With a tokenizer of bytes."""
    tokenizer = small_tokenizer("<|im_start|>", "<|im_end|>", template=template, eos="<|im_end|>")
    return Encoder(tokenizer, positions=in_order, **options)


@pytest.mark.parametrize("bomb", ENDLESS.values(), ids=ENDLESS)
def test_a_template_without_end_is_refused_when_a_model_is_opened(bomb: str) -> None:
    """By a count of steps, of characters or of bytes; whatever ran before (a debugger, an alarm) goes on after."""
    traced, alarm = sys.gettrace(), signal.getsignal(signal.SIGVTALRM)
    with pytest.raises(ModelError, match=r"chat_template\.jinja"):
        encoder_of(CHATML + bomb)
    assert (sys.gettrace(), signal.getsignal(signal.SIGVTALRM)) == (traced, alarm)


def test_a_template_that_loops_on_one_row_loses_the_row() -> None:
    """And no other."""
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    encoder = encoder_of("{% if 'magic' in messages[0].content %}" + loops + "{% endif %}" + CHATML)
    with pytest.raises(RowRejected) as caught:
        encoder(group("the magic word"))
    assert caught.value.reason == "template_rejects"
    assert len(encoder(group("another word")).branches) == 3


def test_long_conversations_are_far_from_the_limit() -> None:
    """A thousand turns take some per cent of the steps."""
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
def test_a_conversation_that_the_template_refuses_is_a_lost_row(template: str, turns: tuple[Turn, ...]) -> None:
    """By its own reason and with what the template says, for training, measuring and scoring."""
    encoder = encoder_of(template)
    refused = Group("row-7", "test", turns, ("Yes.", "No."))
    for attempt in (encoder, encoder.measure, encoder.opening):
        with pytest.raises(RowRejected) as caught:
            attempt(refused)
        assert caught.value.reason == "template_rejects"
        assert all(each.role in str(caught.value) for each in turns)
    assert len(encoder(group("Hi.", ("Yes.", "No."))).branches) == 2


class Rows:
    """A source of some groups."""

    name = "rows"

    def __init__(self, *groups: Group) -> None:
        self._groups = groups

    def groups(self, split: str) -> tuple[Group, ...]:
        return self._groups

    def rejected(self, split: str) -> list[Any]:
        return []


def test_refused_rows_are_counted_and_named() -> None:
    """The rest of the source is used."""
    system = (turn("system", "Be brief."),)
    rows = Rows(group(name="a"), group(name="b", turns=system), group(name="c"))
    lengths, lost = measure(rows, "train", encoder=encoder_of(GEMMA))  # type: ignore[arg-type]
    assert lengths.index.tolist() == [0, 2]
    assert [(row.id, row.reason) for row in lost] == [("b", "template_rejects")]
    assert "System role not supported" in lost[0].detail


@pytest.mark.parametrize("broken", ["{{ raise_exception('never') }}", "{% for x in %}", "{{ 1 // 0 }}", "{{ x.y.z }}"])
def test_a_template_that_refuses_everything_is_no_model(broken: str) -> None:
    """Known when it is opened, before a row is read."""
    with pytest.raises(ModelError, match="chat template"):
        encoder_of(broken)


def test_turns_that_a_template_would_leave_out_are_lost_rows() -> None:
    """A template without system turns that says nothing drops the reason of a label in silence; we say it."""
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


def test_a_template_without_the_answer_is_no_model() -> None:
    """No score could be of it."""
    with pytest.raises(ModelError, match="leaves out the words of the assistant"):
        encoder_of("{% for message in messages if message.role == 'user' %}{{ message.content }}{% endfor %}<|im_end|>")


def test_a_template_that_repeats_the_answer_is_no_model() -> None:
    """Where its words begin and end is not known, so a branch would hold words of the probe."""
    with pytest.raises(ModelError, match="more than once"):
        encoder_of(CHATML.replace("{{ message.content }}", "{{ message.content }} ({{ message.content }})"))


@pytest.mark.parametrize("text", ["x" * 2_000_000, "\n" * 2_000_000, "word " * 400_000], ids=["x", "lines", "words"])
def test_a_text_of_two_million_characters_is_too_long_before_it_is_encoded(
    text: str, vocabulary: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a response, in the prompt, and in another turn."""
    encoder = Encoder(tokenizer_of(vocabulary, QWEN2_5), positions=in_order, max_tokens=4096)
    sizes: list[int] = []
    encode = type(vocabulary).__call__

    def watched(self: Any, given: str, **options: Any) -> Any:
        sizes.append(len(given))
        return encode(self, given, **options)

    monkeypatch.setattr(type(vocabulary), "__call__", watched)
    for lost in (
        group("Hi.", ("Yes.", text)),
        group(text, ("Yes.", "No.")),
        group("Hi.", ("Yes.", "No."), turns=(turn("system", text),)),
    ):
        with pytest.raises(RowRejected) as caught:
            encoder(lost)
        assert caught.value.reason == "too_long"
        assert "2000000" in str(caught.value)
        assert "4096" in str(caught.value)
    assert max(sizes) < 1000, "nothing long was encoded"


def test_no_text_that_fits_is_refused_by_its_characters(vocabulary: PreTrainedTokenizerFast) -> None:
    """A token stands for at most as many characters as the longest of the vocabulary has, and with NFC four times as
    many: tried with random texts, and with the texts that are nearest to the bound."""
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
    shrunk = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    assert max(len(unicodedata.normalize("NFD", each)) for each in shrunk) == 4, "of one character, at most four"


def test_tokenizers_that_drop_text_have_a_limit_all_the_same(vocabulary: PreTrainedTokenizerFast) -> None:
    """Nothing is proved of them, so the limit is far above any text: 1,024 characters a token."""
    from tokenizers import normalizers

    backend = vocabulary.backend_tokenizer
    copied = type(backend).from_str(backend.to_str())
    copied.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Strip()])
    assert characters_per_token(copied) == (1024, False)


def test_scoring_names_the_row_that_the_template_refuses(tmp_path: Path) -> None:
    """With the error of the rest of the interface."""
    folder = checkpoint("qwen3", tmp_path / "model")
    (folder / "chat_template.jinja").write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    )
    scorer = scorer_of(folder)
    assert len(scorer.score("Hi.", ["Yes.", "No."])) == 2
    with pytest.raises(DataError, match=r"template_rejects.*no system"):
        scorer.score([{"role": "system", "content": "Brief."}, {"role": "user", "content": "Hi."}], ["Yes."])


def test_a_panic_of_the_tokenizer_is_an_error_of_the_model() -> None:
    """The library's panics are no `Exception`; everything else passes as it is."""
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(ModelError, match=r"tokenizer\.json"), tokenizer_faults():
        raise panic("retry-limit-in-match over")
    with pytest.raises(KeyboardInterrupt), tokenizer_faults():
        raise KeyboardInterrupt
