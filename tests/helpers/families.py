"""Tiny random models of every transformers family, and their hidden states in tree and plain rows.

`python -m tests.helpers.families` measures all causal families and prints which support tree rows, which support plain
rows only, and which are refused.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from basereward.data.batching.collate import collate
from basereward.data.encoding.encoder import EncodedGroup
from basereward.errors import ModelError
from basereward.model.backbone import Backbone, load_backbone, load_config, quiet_transformers
from basereward.model.families.registry import vision_types

CAUSAL = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
IMAGE_TEXT = sorted(set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) - set(vision_types()))

# Families without a tiny model here, with the reason.
NOT_MADE = {
    "blt": "its four models must agree in sizes that its configuration does not derive",
    "gemma4_assistant": "it is no model of its own: its layers read another model's keys and values",
    "vision-encoder-decoder": "it has no configuration of its own, only those of two models",
}

# Measured with transformers 5.23. These families are right in tree rows and in plain rows.
TREE = """
    afmoe apertus arcee aria_text axk1 beam biogpt bitnet cohere cohere2 cohere2_moe cohere_compass_text ctrl
    cwm dbrx deepseek_v2 deepseek_v3 diffllama dots1 ernie4_5 ernie4_5_moe exaone4 exaone_moe flex_olmo flint
    gemma gemma2 gemma3_text gemma3n_text gemma4_unified_text glm glm4 glm4_moe glm4_moe_lite gpt-sw3 gpt2
    gpt_bigcode gpt_neox gpt_oss granite granite_swa granitemoe granitemoe_swa granitemoeshared helium hrm_text
    hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax internlm3 iquestcoder jais2 jetmoe kolibri1 laguna llama
    longcat_flash mellum mimo_v2_flash minicpm3 minimax_m2 ministral ministral3 mistral mixtral
    modernbert-decoder moshi nanochat nemotron olmo olmo2 olmo3 olmoe opt persimmon phi phi3 phimoe qwen2
    qwen2_moe qwen3 qwen3_moe seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma youtu
""".split()

# These families are right in plain rows, and tree rows are refused.
PLAIN = """
    axk2 bailing_hybrid bamba bert bert-generation big_bird bloom codegen deepseek_v32 deepseek_v4 doge
    dots3_note_text electra ernie falcon falcon_h1 falcon_mamba gemma4_text glm_moe_dsa gpt_neo
    gpt_neox_japanese gptj granitemoehybrid hy_v4 inkling2_text inkling_text jamba kimi_linear lfm2 lfm2_moe
    lfm3 llama4_text mamba mamba2 megatron-bert minimax minimax_m3_vl_text mpt nemotron_h olmo_hybrid openai-gpt
    qwen3_5_moe_text qwen3_5_text qwen3_next qwen4_exp_text recurrent_gemma reformer rembert roc_bert roformer
    rwkv xglm xlm xlnet xlstm zamba zamba2 zaya
""".split()

# These families are refused when they are loaded. Families in none of the three lists are new: measure them.
REFUSED = """
    bart bigbird_pegasus blenderbot blenderbot-small camembert cpmant data2vec-text dots3_note emu3 fuyu gemma3
    gemma3n gemma4 gemma4_unified gemma4_unified_assistant git got_ocr2 llama4 marian mbart mllama
    moss_transcribe_diarize musicgen musicgen_melody mvp pegasus phi4_multimodal plbart prophetnet qwen3_5
    qwen3_5_moe qwen4_exp roberta roberta-prelayernorm trocr whisper xlm-roberta xlm-roberta-xl xmod
""".split()

# Small values for the sizes that a configuration has. The window is shorter than the rows of the tests.
SIZES: dict[str, Any] = {
    "attention_chunk_size": 6,
    "bos_token_id": 1,
    "chunk_size": 8,
    "d_model": 32,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "decoder_layers": 3,
    "dim": 32,
    "emb_dim": 32,
    "embedding_size": 32,
    "eos_token_id": 2,
    "ffn_dim": 48,
    "first_k_dense_replace": 1,
    "head_dim": 8,
    "hidden_size": 32,
    "intermediate_size": 48,
    "kv_lora_rank": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "max_position_embeddings": 64,
    "max_seq_len": 64,
    "moe_intermediate_size": 16,
    "moe_k": 2,
    "moe_num_experts": 4,
    "moe_topk": 2,
    "n_embd": 32,
    "n_group": 1,
    "n_head": 4,
    "n_heads": 4,
    "n_inner": 48,
    "n_layer": 3,
    "n_layers": 3,
    "n_positions": 64,
    "n_routed_experts": 4,
    "num_attention_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "pad_token_id": 0,
    "q_lora_rank": 16,
    "qk_head_dim": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "rotary_dim": 4,
    "shared_expert_intermediate_size": 16,
    "sliding_window": 6,
    "state_size": 8,
    "topk_group": 1,
    "v_head_dim": 8,
    "vocab_size": 64,
}

LATENT = {"num_key_value_heads": 4}  # as many key heads as query heads, computed from one latent vector
MIXED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}

# Additional or different values for single families.
OTHERWISE: dict[str, dict[str, Any]] = {
    "afmoe": MIXED,
    "axk1": LATENT,
    "axk2": LATENT,
    "bailing_hybrid": {
        "num_key_value_heads": 4,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    },
    "cohere2": MIXED,
    "cohere2_moe": MIXED,
    "cohere_compass_text": MIXED | {"rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": LATENT | {"topk_method": "greedy", "num_experts_per_tok": 2},
    "deepseek_v3": LATENT,
    "deepseek_v32": LATENT,
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": LATENT,
    "exaone4": MIXED,
    "exaone_moe": MIXED,
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3_text": MIXED,
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 64,
        "activation_sparsity_pattern": [0.0] * 4,
        "laurel_rank": 8,
        "altup_num_inputs": 2,
    },
    "gemma4_text": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 64,
    },
    "glm4_moe_lite": LATENT,
    "glm_moe_dsa": LATENT,
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8, "num_experts": 4},
    "kimi_linear": LATENT
    | {"linear_head_dim": 8, "linear_num_heads": 4, "num_local_experts": 4, "num_experts_per_tok": 2},
    "kolibri1": MIXED,
    "lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "llama4_text": {
        "layer_types": ["chunked_attention", "full_attention", "chunked_attention"],
        "floor_scale": 4,
        "no_rope_layers": [1, 0, 1],
    },
    "longcat_flash": {
        "num_layers": 2,
        "num_hidden_layers": 4,
        "ffn_hidden_size": 48,
        "expert_ffn_hidden_size": 16,
        "zero_expert_num": 1,
        "num_key_value_heads": 4,
    },
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "minicpm3": LATENT,
    "minimax_m3_vl_text": {"layer_types": ["minimax_m3_sparse", "full_attention", "full_attention"]},
    "ministral": {"head_dim": 8},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "olmo3": MIXED,
    "reformer": {"axial_pos_shape": (8, 8), "axial_pos_embds_dim": (16, 16), "num_buckets": 4},
    "roc_bert": {"pronunciation_vocab_size": 8, "shape_vocab_size": 8},
    "youtu": LATENT,
    "zamba": {"num_hidden_layers": 6, "layers_block_type": ["mamba", "mamba", "hybrid"] * 2},
    "zamba2": {"layers_block_type": ["mamba", "hybrid", "mamba"], "n_mamba_heads": 4},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 8},
}

PREFIX, BRANCHES = 13, (9, 5, 12)  # tokens


def tiny_config(family: str) -> PreTrainedConfig:
    """Return a family's configuration with small sizes."""
    config_class: Any = CONFIG_MAPPING[family]
    defaults = config_class().to_dict()
    small = {name: size for name, size in SIZES.items() if defaults.get(name) is not None}
    config: PreTrainedConfig = config_class(**small | OTHERWISE.get(family, {}))
    return config


def write_tiny(family: str, folder: Path) -> None:
    """Write a checkpoint of a family with random weights, or the configuration alone if it is refused."""
    config = tiny_config(family)
    config.save_pretrained(folder)
    try:
        load_config(folder)
    except ModelError:
        return
    model = AutoModel.from_config(config)
    _randomize(model)
    with quiet_transformers():
        model.save_pretrained(folder)


def _randomize(model: PreTrainedModel) -> None:
    """Draw weights that keep the variance of their inputs, so that every layer and every sink affects the output."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) / math.sqrt(weight.shape[-1]))
            elif "sink" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator))


@dataclass(frozen=True)
class Outcome:
    """The support of a family: `tree` (tree and plain rows), `plain` (plain rows only) or `refused`."""

    kind: str
    reason: str = ""  # why the support is limited
    differences: tuple[float, ...] = ()  # differences from the reference states, relative to their maximum


def measure(folder: Path) -> Outcome:
    """Load a checkpoint and compare its states with those of the family's own forward pass with `eager` attention."""
    try:
        backbone = load_backbone(folder).eval()
    except ModelError as error:
        return Outcome("refused", str(error).replace(str(folder), "FOLDER"))
    with quiet_transformers():
        reference = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    layouts = ("plain",) if backbone.tree_fault else ("plain", "tree")
    differences = [difference for layout in layouts for difference in _differences(backbone, reference, layout)]
    return Outcome(layouts[-1], backbone.tree_fault or "", tuple(differences))


@torch.no_grad()
def _differences(backbone: Backbone, reference: Any, layout: Any) -> Iterable[float]:
    """Yield the relative differences of the states of every branch with its prefix, and of the pooled states."""
    ids = torch.arange(3, 3 + PREFIX + sum(BRANCHES))
    prefix, branches = ids[:PREFIX], ids[PREFIX:].split(list(BRANCHES))
    group = EncodedGroup("g", "s", prefix, torch.arange(PREFIX), tuple(branches), ())
    reference_states = [
        reference(input_ids=torch.cat([prefix, branch])[None], use_cache=False).last_hidden_state[0]
        for branch in branches
    ]
    batch = collate([group], layout=layout, pad_id=0)
    hidden, pooled = backbone.hidden_states(batch), backbone(batch)
    scale = max(1.0, *(float(states.abs().max()) for states in reference_states))
    for index, expected in enumerate(reference_states):
        yield float((_sequence(hidden, layout, index) - expected).abs().max()) / scale
        yield float((pooled[index] - expected[-1]).abs().max()) / scale


def _sequence(hidden: Tensor, layout: str, branch: int) -> Tensor:
    """Return the states of a prefix and one of its branches."""
    if layout == "plain":
        return hidden[branch, : PREFIX + BRANCHES[branch]]
    first = PREFIX + sum(BRANCHES[:branch])
    return torch.cat([hidden[0, :PREFIX], hidden[0, first : first + BRANCHES[branch]]])


def main() -> None:
    """Print the outcomes of all causal families."""
    torch.set_num_threads(1)  # more threads are slower for tiny matrices
    outcomes = {}
    for family in CAUSAL:
        if family in NOT_MADE:
            continue
        with tempfile.TemporaryDirectory() as folder:
            write_tiny(family, Path(folder))
            outcomes[family] = measure(Path(folder))
    lines = [
        f"{kind}: {' '.join(family for family, outcome in outcomes.items() if outcome.kind == kind)}"
        for kind in ("tree", "plain", "refused")
    ]
    lines.append(f"not made: {' '.join(sorted(NOT_MADE.keys() & set(CAUSAL)))}")
    for family, outcome in outcomes.items():
        lines.append(f"{family:28} {outcome.kind:8} {max(outcome.differences, default=0.0):8.1e} {outcome.reason}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
