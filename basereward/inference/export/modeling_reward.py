"""A reward model: a transformer of the transformers library, and layers that map the last token's state to a score.

This file needs torch and transformers alone. `AutoModel.from_pretrained(FOLDER, trust_remote_code=True)` opens the
folder that it lies in.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

ACTIVATION_FUNCTIONS = {"none": nn.Identity, "tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}


class ScoreLayers(nn.Module):
    """Linear layers with an activation after every layer but the last.

    Args:
        sizes: widths: of the hidden states, of the layers between, and 1.
        activation: one of `ACTIVATION_FUNCTIONS`.
        bias: whether the layers have one.

    >>> ScoreLayers([8, 4, 1], activation="silu", bias=True)(torch.zeros(3, 8)).shape
    torch.Size([3, 1])
    """

    def __init__(self, sizes: list[int], *, activation: str, bias: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs, bias=bias) for inputs, outputs in pairwise(sizes))
        self.activation = ACTIVATION_FUNCTIONS[activation]()

    def forward(self, states: Tensor) -> Tensor:
        """Maps hidden states `(B, D)` in float32 to scores `(B, 1)`."""
        for index, layer in enumerate(self.layers):
            states = layer(states if index == 0 else self.activation(states))
        return states


class BaseRewardForSequenceClassification(PreTrainedModel):
    """Scores conversations that end with the end of the answer's turn.

    Args:
        config: of the transformer, with `reward_head`: the arguments of `ScoreLayers`.
    """

    config_class = PreTrainedConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    supports_gradient_checkpointing = True
    # Scores in bfloat16 would have three digits, and close answers would tie.
    _keep_in_fp32_modules_strict: set[str] | list[str] | None = {"head"}  # noqa: RUF012 - as the base declares it

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.num_labels = 1
        self.model = AutoModel.from_config(config)
        self.head = ScoreLayers(**config.reward_head)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **inputs: Any
    ) -> SequenceClassifierOutput:
        """Scores sequences.

        Args:
            input_ids: `(B, T)`, from the chat template without a generation prompt.
            attention_mask: `(B, T)`, zero at padding on either side; None: there is no padding.
            inputs: what the transformer takes besides, such as `pixel_values` and `image_grid_thw`.

        Returns:
            `logits` of shape `(B, 1)` in float32, the scores.
        """
        assert input_ids is not None, "the tokens are needed: they say where the images are"
        if inputs.get("image_grid_thw") is not None and inputs.get("mm_token_type_ids") is None:
            # Qwen-VL numbers the tokens of images in three dimensions only if it gets the types of the tokens.
            inputs["mm_token_type_ids"] = (input_ids == self.config.image_token_id).int()
        inputs = {name: value for name, value in inputs.items() if name not in ("use_cache", "return_dict", "labels")}
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **inputs)
        hidden = output.last_hidden_state
        rows, length = input_ids.shape
        last = torch.full((rows,), length - 1, device=hidden.device)
        if attention_mask is not None:
            places = torch.arange(length, device=attention_mask.device)
            last = (attention_mask.long() * places).argmax(-1).to(hidden.device)
        pooled = hidden[torch.arange(rows, device=hidden.device), last]
        with torch.autocast(hidden.device.type, enabled=False):
            scores: Tensor = self.head(pooled.float())
        return SequenceClassifierOutput(logits=scores)
