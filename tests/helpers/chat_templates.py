"""Chat templates like those of public model families, with their control tokens."""

# ruff: noqa: E501, RUF001 - templates are written as their authors write them

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from basereward.data.schema.group import Part, Turn

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN2_5 = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    + CHATML
)
QWEN2_5_VL = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Like Qwen3: the template removes reasoning of earlier turns and always writes a reasoning block in the last turn.
QWEN3_TURNS = """\
{%- set ns = namespace(last_query=0) %}
{%- for message in messages %}{%- if message.role == 'user' %}{%- set ns.last_query = loop.index0 %}{%- endif %}{%- endfor %}
{%- for message in messages %}
    {%- if message.role != 'assistant' %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- else %}
        {%- set content = message.content %}
        {%- set reasoning = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query %}
            {{- '<|im_start|>assistant\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
"""
QWEN3 = QWEN3_TURNS + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
QWEN3_OFF = (
    QWEN3_TURNS
    + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
)
QWEN3_THINKING = QWEN3_TURNS + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# Version 1 writes a space before and after an answer; version 3 puts the system turn into the last question.
MISTRAL_V1 = (
    "{{ '<s>' }}{% for message in messages %}"
    "{% if message.role not in ('user', 'assistant') or (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message.role == 'user' %}{{ '[INST] ' + message.content + ' [/INST]' }}"
    "{% else %}{{ message.content + '</s>' }}{% endif %}{% endfor %}"
)
MISTRAL_V3 = (
    "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}{%- set turns = messages[1:] %}"
    "{%- else %}{%- set turns = messages %}{%- endif %}{{- '<s>' }}"
    "{%- for message in turns %}"
    "{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('After the optional system message, conversation roles must alternate') }}{%- endif %}"
    "{%- if message.role == 'user' %}"
    "{%- if system is defined and loop.index0 >= turns | length - 2 and message == (turns | selectattr('role', 'equalto',"
    " 'user') | list)[-1] %}{{- '[INST] ' + system + '\\n\\n' + message.content + '[/INST]' }}"
    "{%- else %}{{- '[INST] ' + message.content + '[/INST]' }}{%- endif %}"
    "{%- else %}{{- ' ' + message.content | trim + '</s>' }}{%- endif %}{%- endfor %}"
)
GEMMA = (
    "{{ '<bos>' }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% set role = 'model' if message.role == 'assistant' else message.role %}"
    "{{ '<start_of_turn>' + role + '\n' + message.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for message in messages %}{{ '<|' + message.role + '|>\n' + message.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
PHI4 = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '<|im_sep|>' + message.content + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
INTERNVL = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0].role != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The template removes the reasoning of every answer, and only the generation prompt opens a reasoning block.
DEEPSEEK_R1 = (
    "{{ '<｜begin▁of▁sentence｜>' }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}"
    "{% elif message.role == 'user' %}{{ '<｜User｜>' + message.content }}"
    "{% else %}{{ '<｜Assistant｜>' + message.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
# The template writes text before and after every answer.
WRAPPED = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}Answer: {{ message.content }}\n{% else %}{{ message.content }}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Family:
    """A chat template and the properties of its conversations."""

    template: str
    end: str  # the token that ends an answer
    system: bool = True  # whether it accepts a system turn
    in_parts: bool = False
    trims: bool = False  # whether it strips white space around an answer
    wraps: bool = False  # whether it writes text around every answer
    reasons: bool = False  # whether it writes a reasoning block before the last answer
    drops_reasoning: bool = False  # whether it removes reasoning from the last answer too


FAMILIES = {
    "qwen2_5": Family(QWEN2_5, "<|im_end|>"),
    "qwen2_5_vl": Family(QWEN2_5_VL, "<|im_end|>", in_parts=True),
    "qwen3": Family(QWEN3, "<|im_end|>", reasons=True),
    "qwen3_off": Family(QWEN3_OFF, "<|im_end|>", reasons=True),
    "qwen3_thinking": Family(QWEN3_THINKING, "<|im_end|>", reasons=True),
    "llama3": Family(LLAMA3, "<|eot_id|>", trims=True),
    "mistral_v1": Family(MISTRAL_V1, "</s>", system=False),
    "mistral_v3": Family(MISTRAL_V3, "</s>", trims=True),
    "gemma": Family(GEMMA, "<end_of_turn>", system=False, trims=True),
    "phi3": Family(PHI3, "<|end|>"),
    "phi4": Family(PHI4, "<|im_end|>"),
    "internvl": Family(INTERNVL, "<|im_end|>", in_parts=True),
    "smollm2": Family(SMOLLM2, "<|im_end|>"),
    "wrapped": Family(WRAPPED, "<|im_end|>", wraps=True),
    "deepseek_r1": Family(DEEPSEEK_R1, "<｜end▁of▁sentence｜>", drops_reasoning=True),
}
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>", "<IMG_CONTEXT>", "<img>", "</img>"),
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<s>", "</s>", "[INST]", "[/INST]", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
)
# Added tokens, also of turns, that the tokenizers of these families do not mark as special.
ADDED = ("<think>", "</think>", "<｜User｜>", "<｜Assistant｜>")


def in_order(ids: Tensor, images_thw: Tensor | None) -> Tensor:
    """Return positions 0, 1, 2, ..."""
    return torch.arange(len(ids))


def tokenizer_of(vocabulary: PreTrainedTokenizerFast, template: str) -> Any:
    """Return a copy of the tokenizer with a chat template."""
    tokenizer = copy.copy(vocabulary)
    tokenizer.chat_template = template
    return tokenizer


def turn(role: Any, *texts: str) -> Turn:
    """Return a turn of text parts."""
    return Turn(role, tuple(map(Part, texts)))
