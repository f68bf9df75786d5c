"""Text that a reward model writes itself, after the branches of its groups.

All branches of a batch are read in one pass over tree rows, every prompt and image once. Their keys and values are then
laid out as one row a branch, and transformers' `generate` continues them together. Shapes: B branches, T tokens of the
longest with its prefix.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    Cache,
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.cache_utils import DynamicLayer

from basereward.data.batching.tree_batch import TreeBatch
from basereward.errors import ModelError
from basereward.model.attention.layout_check import made_tokens
from basereward.model.backbone import Backbone
from basereward.model.families.lm_head import WEIGHT, LanguageHead

# Threads take turns: draws come from the one generator of the process, and Qwen-VL models keep the offset of their
# positions as an attribute between the steps of `generate`.
_generating = threading.Lock()


@dataclass(frozen=True, slots=True)
class Writing:
    """How text is written.

    Args:
        max_tokens: of one text, its end of turn included; a longer one is cut, which whoever reads it must expect.
        temperature: 0 takes the likeliest token every time.
        top_p: the smallest set of tokens with so much probability is drawn from.
        samples: texts a branch.
        seed: of the draws.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    seed: int = 0


class Writer:
    """Writes with a backbone and its language head.

    Args:
        backbone: whose weights are used as they are at the time.
        language: its language head.
        end: the token that ends a turn.
        pad: the token that fills.
    """

    def __init__(self, backbone: Backbone, language: LanguageHead, *, end: int, pad: int) -> None:
        self.backbone = backbone
        self.language = language
        self.end = end
        self.pad = pad

    @torch.no_grad()
    def __call__(self, batch: TreeBatch, how: Writing) -> list[list[Tensor]]:
        """Continues every branch of a batch of tree rows.

        Returns:
            for every branch `how.samples` texts, `(n,)` tokens each, without the end of turn; one that `max_tokens`
            cut is as long as that.
        """
        # `generate` repeats rows for several samples, but not a cache that it is given.
        rows = [row for row in _laid_out(batch) for _ in range(how.samples)]
        cache = Cache(layer_class_to_replicate=DynamicLayer)
        self.backbone.hidden_states(batch, cache=cache)
        longest = max(len(row) for row in rows)
        device = batch.input_ids.device
        picked = torch.stack([nn.functional.pad(row, (longest - len(row), 0)) for row in rows]).to(device)
        there = torch.stack([nn.functional.pad(torch.ones_like(row), (longest - len(row), 0)) for row in rows])
        model = self.whole()
        with _generating, _drawing_with(how.seed, device) if how.temperature else contextlib.nullcontext():
            written = model.generate(
                input_ids=batch.input_ids[0, picked].masked_fill(there.to(device) == 0, self.pad),
                attention_mask=there.to(device),
                position_ids=batch.position_ids[..., 0, :][..., picked],
                past_key_values=_gathered(cache, picked[:, :-1]),
                generation_config=self._config(how),
            )
        texts = [_until(self.end, row[longest:]) for row in written]
        return [texts[i : i + how.samples] for i in range(0, len(texts), how.samples)]

    def _config(self, how: Writing) -> GenerationConfig:
        drawn: dict[str, Any] = {"do_sample": False}
        if how.temperature:
            drawn = {"do_sample": True, "temperature": how.temperature, "top_p": how.top_p, "top_k": 0}
        return GenerationConfig(
            max_new_tokens=how.max_tokens,
            eos_token_id=self.end,
            pad_token_id=self.pad,
            **drawn,
        )

    def whole(self) -> Any:
        """The transformer with its language head, as `generate` takes it; no weight is copied.

        Raises:
            ModelError: the family's language head has a bias.
        """
        transformer = self.backbone.transformer
        kinds: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING if self.backbone.reads_images else MODEL_FOR_CAUSAL_LM_MAPPING
        with torch.device("meta"):
            model: PreTrainedModel = kinds[type(transformer.config)](transformer.config)
        if getattr(model.get_output_embeddings(), "bias", None) is not None:
            raise ModelError(
                f"the language head of a {transformer.config.model_type} model has a bias, which a head that speaks "
                "does not use. Take a scalar head (linear, mlp), or another family."
            )
        setattr(model, model.base_model_prefix, transformer)
        weight = self.language.of(transformer)
        head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        head.weight = nn.Parameter(weight, requires_grad=False)
        model.set_output_embeddings(head)
        return model.eval() if not self.backbone.training else model


@torch.no_grad()
def check_language_head(backbone: Backbone, language: LanguageHead) -> None:
    """Compares logits of a few made tokens with those of transformers' whole model.

    Raises:
        ModelError: they differ: the family's head has a bias, a scale or a soft cap, which ours has not.
    """
    transformer = backbone.transformer
    training = [module for module in transformer.modules() if module.training]
    transformer.eval()
    ids = made_tokens(transformer, 4)[None].to(transformer.device)
    expected = Writer(backbone, language, end=0, pad=0).whole()(input_ids=ids, use_cache=False).logits.float()
    found = language.logits(transformer, transformer(input_ids=ids, use_cache=False).last_hidden_state)
    for module in training:
        module.training = True
    difference = float((found - expected).norm() / expected.norm().clamp_min(1e-30))
    if not difference < (0.01 if transformer.dtype == torch.float32 else 0.3):
        raise ModelError(
            f"a {transformer.config.model_type} model makes other logits of its hidden states than a product with "
            f"{WEIGHT} (they differ by {difference:.2g}), so a head that speaks cannot use it. Take a scalar head "
            "(linear, mlp), or a family without scaled or capped logits."
        )


@contextlib.contextmanager
def _drawing_with(seed: int, device: torch.device) -> Iterator[None]:
    """Draws from torch's own generator, and leaves it as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _laid_out(batch: TreeBatch) -> list[Tensor]:
    """The columns of every branch with its prefix in the one row of tree rows, in order."""
    rows, first = [], 0
    for prefix, *branches in batch.trees:
        start = first + prefix
        for size in branches:
            rows.append(torch.cat([torch.arange(first, first + prefix), torch.arange(start, start + size)]))
            start += size
        first = start
    return rows


def _gathered(cache: Cache, columns: Tensor) -> DynamicCache:
    """Keys and values of the columns `(B, T)` of a cache of one row, as a cache of B rows."""
    found = DynamicCache()
    for index, layer in enumerate(cache.layers):
        held: Any = layer
        keys, values = (
            states[0][:, columns].transpose(0, 1).contiguous()  # from (1, H, columns, D)
            for states in (held.keys, held.values)
        )
        found.update(keys, values, index)
    return found


def _until(end: int, tokens: Tensor) -> Tensor:
    ends = (tokens == end).nonzero()
    return tokens[: int(ends[0])] if len(ends) else tokens


def texts(decode: Any, written: Sequence[Sequence[Tensor]]) -> list[list[str]]:
    """Tokens to text, by a tokenizer's `decode`; special tokens stay to be seen."""
    return [[decode(tokens, skip_special_tokens=False) for tokens in some] for some in written]
