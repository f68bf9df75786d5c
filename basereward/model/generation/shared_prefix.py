"""Generation that reads a prompt, with its images, once for all of its texts.

One forward pass computes keys and values of each distinct prompt. They are then copied to one row for each text, and
transformers' own loop continues these rows: logits, sampling and stopping are those of `generate` for repeated prompts.

Shapes: U distinct prompts, N texts, L tokens of the longest prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")

PROBE_TOKENS = 5
# As in `layout_check`: kernels differ by 1e-6 in float32, and by a few hundredths in half precision.
MAX_DIFFERENCE = {torch.float32: 0.01, torch.float64: 0.01}
MAX_DIFFERENCE_HALF = 0.3
ALONG_TOKENS = ("attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids")
"""Inputs of a forward pass whose last axis is that of the tokens."""
CONTINUED = ("past_key_values", "use_cache", "logits_to_keep")
"""Inputs that stay the same after the prompts."""


def distinct(values: Sequence[Value]) -> tuple[list[Value], list[int]]:
    """The values without those that equal the one before them, and for each value its place in this list.

    Args:
        values: compared with `==`.

    >>> distinct(["a", "a", "b", "a"])
    (['a', 'b', 'a'], [0, 0, 1, 2])
    """
    kept: list[Value] = []
    places: list[int] = []
    for value in values:
        if not kept or value != kept[-1]:
            kept.append(value)
        places.append(len(kept) - 1)
    return kept, places


class SharedPrefixSampler:
    """A decoding method of transformers, for `generate(**inputs, custom_generate=SharedPrefixSampler(places))`.

    The inputs are those of U prompts, padded on the left. The output has N rows, as of `generate` for N prompts.

    Args:
        places: for each of the N texts, the number of its prompt.
    """

    def __init__(self, places: Sequence[int]) -> None:
        self.places = places

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **inputs: Any,
    ) -> Any:
        """As `_sample` of transformers, which also decodes greedily.

        Args:
            model: whose `generate` calls this.
            input_ids: `(U, L)`.
            logits_processor, stopping_criteria, generation_config: as `generate` prepares them.
            inputs: of the prompts: masks, positions, images, and an empty cache.
        """
        rows = torch.tensor(self.places, device=input_ids.device)
        # Without the last token, whose logits the loop below computes for each row. `generate` leaves out a mask
        # without padding.
        prefix = dict(inputs)
        for name in ALONG_TOKENS:
            if prefix.get(name) is not None:
                prefix[name] = prefix[name][..., :-1]
        model(
            **model.prepare_inputs_for_generation(input_ids[:, :-1], is_first_iteration=True, **prefix),
            return_dict=True,
        )
        inputs["past_key_values"].batch_select_indices(rows)
        # Images and types of tokens are left out: the cache holds them.
        continued = {name: inputs[name] for name in CONTINUED if name in inputs}
        for name in ("attention_mask", "position_ids"):
            if inputs.get(name) is not None:
                # Rows are the last axis but one; positions of several axes have these before it.
                continued[name] = inputs[name].index_select(-2, rows)
        return model._sample(
            input_ids[rows],
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            generation_config=generation_config,
            **continued,
        )


@contextmanager
def sharing_prefixes(model: Any, places: Sequence[int]) -> Iterator[None]:
    """In the block, `model.generate` takes the inputs of distinct prompts and returns a row for each of `places`.

    Args:
        model: with or without adapters.
        places: see `SharedPrefixSampler`.
    """
    generate: Callable[..., Any] = model.generate

    def shared(**inputs: Any) -> Any:
        return generate(**inputs, custom_generate=SharedPrefixSampler(places))

    # Of this object alone; the method of its class is found again afterwards.
    model.generate = shared
    try:
        yield
    finally:
        del model.generate


@torch.no_grad()
def shared_prefix_fault(model: Any) -> str | None:
    """The reason why a model cannot share prefixes; None if it can.

    Two texts of two tokens are generated after a few arbitrary tokens, and their logits compared with those of
    transformers' own `generate`.

    Args:
        model: a causal model of transformers, with or without adapters.
    """
    vocabulary = int(model.config.get_text_config().vocab_size)
    # Small numbers, which are letters in most vocabularies and no control tokens.
    ids = (torch.arange(PROBE_TOKENS, device=model.device) + vocabulary // 3)[None] % vocabulary
    options: dict[str, Any] = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False, "pad_token_id": 0}
    options |= {"top_k": None, "top_p": None, "temperature": None, "output_logits": True}
    options |= {"return_dict_in_generate": True, "disable_compile": True, "attention_mask": torch.ones_like(ids)}
    was_training = model.training
    model.eval()
    try:
        expected = torch.stack(model.generate(ids, **options).logits)
        reached = torch.stack(
            model.generate(ids, **options, custom_generate=SharedPrefixSampler([0, 0])).logits,
        )
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__} in its cache: {error}"
    finally:
        model.train(was_training)
    difference = float((reached - expected).norm() / expected.norm().clamp_min(1e-30)) / 2**0.5
    limit = MAX_DIFFERENCE.get(model.dtype, MAX_DIFFERENCE_HALF)
    # Negated, so that NaN is a fault too.
    return (
        None if difference < limit else f"its logits differ by {difference:.2g} of their size, and {limit} is allowed"
    )
