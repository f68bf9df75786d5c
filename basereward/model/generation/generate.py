"""Generates text after the branches of tree rows.

One pass over the tree rows computes keys and values of all branches; every prompt and image is computed once. The keys
and values are then copied to one row for each branch, and `generate` of transformers continues these rows together.

Shapes: B branches, T tokens of the longest branch with its prefix, H heads of keys, D channels of a head, V tokens of
the vocabulary.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    Cache,
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer

from basereward.data.batching.tree_batch import TreeBatch, row_segments
from basereward.errors import ModelError
from basereward.model.attention.layout_check import arbitrary_tokens
from basereward.model.backbone import Backbone
from basereward.model.families.lm_head import WEIGHT, LanguageHead
from basereward.model.generation.seeded_sampling import row_sampling, text_seed

IsCancelled: TypeAlias = Callable[[], Sequence[bool]]
"""Whether the text of each row is not needed any more; it is called before every token."""

# One thread of the process generates at a time: Qwen-VL models store the offset of their positions as an attribute
# between the steps of `generate`.
_generating = threading.Lock()


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Settings of generation, with the names that vLLM gives them.

    Args:
        max_tokens: limit of one text, including its end-of-turn token; a longer text is truncated.
        temperature: of sampling; 0 takes the most likely token.
        top_p: sampling draws from the smallest set of tokens that together have this probability.
        samples: texts for each branch.
        seed: of sampling. A sampled text depends on it, on the tokens before the text, on the name of the branch and on
            the number of the sample, but not on the rest of the batch.

    >>> SamplingParams(max_tokens=8).temperature  # greedy
    0.0
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    seed: int = 0


class TextGenerator:
    """Generates text with a backbone and its language-model head.

    Args:
        backbone: its current weights are used at every call.
        language: its language-model head.
        end: id of the end-of-turn token.
        pad: id of the padding token.
    """

    def __init__(self, backbone: Backbone, language: LanguageHead, *, end: int, pad: int) -> None:
        self.backbone = backbone
        self.language = language
        self.end = end
        self.pad = pad

    @torch.no_grad()
    def __call__(
        self,
        batch: TreeBatch,
        sampling: SamplingParams,
        *,
        names: Sequence[str] | None = None,
        is_cancelled: IsCancelled | None = None,
    ) -> list[list[Tensor]]:
        """Generates text after every branch of a batch of tree rows.

        Args:
            batch: one tree row with B branches.
            sampling: settings of the texts.
            names: one for each branch, such as the id of a request: branches with equal tokens and other names get
                other random numbers. None: none has a name.
            is_cancelled: says of every text, B times `sampling.samples`, whether it can end early; None: none can.

        Returns:
            For every branch `sampling.samples` texts of `(n,)` tokens, without the end-of-turn token. A text that was
            truncated has `max_tokens` tokens.
        """
        branches = _branch_columns(batch)
        rows: list[Tensor] = []
        for columns in branches:
            # `generate` repeats rows for several samples, but not the cache that it is given.
            rows += [columns] * sampling.samples
        # Layers that keep all keys. By the configuration, a sliding-window layer would drop those outside of the window
        # of the row's end, which other branches need.
        cache = Cache(layer_class_to_replicate=DynamicLayer)
        self.backbone.hidden_states(batch, cache=cache)
        longest = max(len(row) for row in rows)
        device = batch.rows.input_ids.device
        columns = torch.stack([_left_padded(row, longest) for row in rows]).to(device)
        mask = torch.stack([_left_padded(torch.ones_like(row), longest) for row in rows]).to(device)
        model = self.causal_model()
        with _generating:
            generated = model.generate(
                input_ids=batch.rows.input_ids[0, columns].masked_fill(mask == 0, self.pad),
                attention_mask=mask,
                # The positions of the tree row: Qwen-VL models would compute others without the images.
                position_ids=batch.rows.position_ids[..., 0, :][..., columns],
                # Without the last token: `generate` feeds it to get the first logits.
                past_key_values=_gathered(cache, columns[:, :-1]),
                generation_config=self._config(sampling),
                logits_processor=_sampling_steps(batch, branches, sampling, names, prompt_tokens=longest),
                stopping_criteria=StoppingCriteriaList([] if is_cancelled is None else [_Cancelled(is_cancelled)]),
            )
        texts = [_until(self.end, row[longest:]) for row in generated]
        return [texts[i : i + sampling.samples] for i in range(0, len(texts), sampling.samples)]

    def _config(self, sampling: SamplingParams) -> GenerationConfig:
        """The settings in the form of transformers."""
        return GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            eos_token_id=self.end,
            pad_token_id=self.pad,
            # Also for sampled texts: `row_sampling` draws the token, and it is then the only possible one.
            do_sample=False,
        )

    def causal_model(self) -> Any:
        """The transformer with its language-model head, as `generate` of transformers needs it; no weight is copied.

        Raises:
            ModelError: the family's language-model head has a bias.
        """
        transformer = self.backbone.transformer
        models: Any = (
            MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING if self.backbone.reads_images else MODEL_FOR_CAUSAL_LM_MAPPING
        )
        # The class is built without memory, and gets the weights of the backbone below.
        with torch.device("meta"):
            model: PreTrainedModel = models[type(transformer.config)](_in_float32(transformer.config))
        if getattr(model.get_output_embeddings(), "bias", None) is not None:
            raise ModelError(
                f"the language-model head of a {transformer.config.model_type} model has a bias, which generative "
                "heads do not support. Use a scalar head (linear, mlp), or another family."
            )
        setattr(model, model.base_model_prefix, transformer)
        weight = self.language.of(transformer)
        head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
        head.weight = nn.Parameter(weight, requires_grad=False)
        model.set_output_embeddings(head)
        # A new model is in training mode; `eval` here must not change the mode of a backbone that is being trained.
        return model.eval() if not self.backbone.training else model


class _Cancelled(StoppingCriteria):
    """Ends the texts that are not needed any more; the others of the batch go on."""

    def __init__(self, is_cancelled: IsCancelled) -> None:
        self._is_cancelled = is_cancelled

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Any:
        return torch.tensor(self._is_cancelled(), device=input_ids.device)


def _in_float32(config: PreTrainedConfig) -> PreTrainedConfig:
    """A copy of a configuration with the data type float32, also for its parts.

    While transformers makes a part of a model, the data type in its configuration is the default of all threads of the
    process, and others may be scoring.
    """
    copied = copy.deepcopy(config)
    for part in (copied, *(getattr(copied, name) for name in copied.sub_configs)):
        if part is not None:
            part.dtype = torch.float32
    return copied


@torch.no_grad()
def check_language_head(backbone: Backbone, language: LanguageHead) -> None:
    """Compares the logits of a few tokens with those of transformers' own causal model.

    Args:
        backbone: whose head it is.
        language: the language-model head that was loaded.

    Raises:
        ModelError: they differ, because the head of the family has a bias, a scale or a soft cap, which `LanguageHead`
            does not implement.
    """
    transformer = backbone.transformer
    training = [module for module in transformer.modules() if module.training]
    transformer.eval()
    ids = arbitrary_tokens(transformer, 4)[None].to(transformer.device)
    expected = (
        TextGenerator(backbone, language, end=0, pad=0).causal_model()(input_ids=ids, use_cache=False).logits.float()
    )
    logits = language.logits(transformer, transformer(input_ids=ids, use_cache=False).last_hidden_state)
    for module in training:
        module.training = True
    difference = float((logits - expected).norm() / expected.norm().clamp_min(1e-30))
    # Rounding alone gives relative differences of 1e-6 in float32 and some hundredths in half precision. The negated
    # comparison fails for NaN too.
    limit = 0.01 if transformer.dtype == torch.float32 else 0.3
    if not difference < limit:
        raise ModelError(
            f"the logits of a {transformer.config.model_type} model are not the product of hidden states and {WEIGHT} "
            f"(relative difference {difference:.2g}), so generative heads cannot use it. Use a scalar head (linear, "
            "mlp), or a family without scaled or capped logits."
        )


def _sampling_steps(
    batch: TreeBatch,
    branches: Sequence[Tensor],
    sampling: SamplingParams,
    names: Sequence[str] | None,
    *,
    prompt_tokens: int,
) -> LogitsProcessorList:
    """What draws the tokens of all texts; nothing at temperature 0. The arguments are those of `_text_seeds`."""
    if not sampling.temperature:
        return LogitsProcessorList()
    return row_sampling(
        _text_seeds(batch, branches, sampling, names),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        prompt_tokens=prompt_tokens,
        max_tokens=sampling.max_tokens,
    )


def _text_seeds(
    batch: TreeBatch, branches: Sequence[Tensor], sampling: SamplingParams, names: Sequence[str] | None
) -> list[int]:
    """The seeds of all texts: `sampling.samples` for each branch.

    Args:
        batch: one tree row.
        branches: for each of its B branches, the columns of its prefix and its own tokens.
        sampling: its `seed` and `samples`.
        names: of the branches; None: none has a name.
    """
    tokens = batch.rows.input_ids[0].cpu()
    seeds: list[int] = []
    for index, columns in enumerate(branches):
        # A server that gets this seed with a request without a name writes the same text.
        seed = sampling.seed if names is None else text_seed(sampling.seed, names[index])
        content = hashlib.sha256(tokens[columns].numpy().tobytes()).hexdigest()
        seeds += [text_seed(seed, content, sample) for sample in range(sampling.samples)]
    return seeds


def _left_padded(values: Tensor, length: int) -> Tensor:
    """Values `(n,)` with zeros before them, `(length,)`: `generate` appends tokens at the right end of all rows.

    >>> _left_padded(torch.tensor([4, 5]), 3).tolist()
    [0, 4, 5]
    """
    return nn.functional.pad(values, (length - len(values), 0))


def _branch_columns(batch: TreeBatch) -> list[Tensor]:
    """For every branch the columns of its prefix and its own tokens in the tree row."""
    prefixes: list[Tensor] = []
    columns: list[Tensor] = []
    for segment in row_segments(batch.rows.trees):
        own = torch.arange(segment.columns.start, segment.columns.stop)
        if segment.branch:
            columns.append(torch.cat([prefixes[segment.group], own]))
        else:
            prefixes.append(own)
    return columns


def _gathered(cache: Cache, columns: Tensor) -> DynamicCache:
    """Keys and values at the columns `(B, T)` of a cache with one row, as a cache with B rows."""
    gathered = DynamicCache()
    for index, cache_layer in enumerate(cache.layers):
        layer: Any = cache_layer
        # (1, H, columns, D) -> (B, H, T, D)
        keys = layer.keys[0][:, columns].transpose(0, 1).contiguous()
        values = layer.values[0][:, columns].transpose(0, 1).contiguous()
        gathered.update(keys, values, index)
    return gathered


def _until(end: int, tokens: Tensor) -> Tensor:
    """The tokens before the first `end`; all tokens if there is none.

    >>> _until(9, torch.tensor([4, 9, 9])).tolist()
    [4]
    """
    ends = (tokens == end).nonzero()
    return tokens[: int(ends[0])] if len(ends) else tokens


def texts(decode: Any, generated: Sequence[Sequence[Tensor]]) -> list[list[str]]:
    """Decodes the texts of every branch; special tokens stay visible.

    Args:
        decode: the method of a tokenizer.
        generated: for every branch its texts as tokens `(n,)`.

    >>> texts(lambda tokens, skip_special_tokens: bytes(tokens.tolist()).decode(), [[torch.tensor([72, 105])]])
    [['Hi']]
    """
    decoded: list[list[str]] = []
    for branch in generated:
        decoded.append([decode(tokens, skip_special_tokens=False) for tokens in branch])
    return decoded
