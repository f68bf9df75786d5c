"""Samples several responses of a policy to each prompt, for best-of-N."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from basereward.data.encoding.chat import messages
from basereward.data.images.open_images import open_image
from basereward.data.schema.group import Group
from basereward.data.schema.preferences import reference_answers
from basereward.io.progress import track
from basereward.model.generation.shared_prefix import shared_prefix_fault, sharing_prefixes
from basereward.model.policy import ImageTextProcessor, Policy
from basereward.rl.exact_match import exact_match


def sample_responses(
    policy: Policy,
    groups: Sequence[Group],
    *,
    number: int = 8,
    max_tokens: int = 256,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch: int = 8,
) -> Iterator[dict[str, Any]]:
    """Samples responses, and compares each with the reference answers of its group.

    Args:
        policy: in evaluation mode.
        groups: their prompts are asked.
        number: responses to each prompt.
        max_tokens: of a response; a longer one is truncated.
        temperature, top_p: of sampling.
        seed: of sampling; the responses also depend on `batch`.
        batch: prompts that are answered together.

    Yields:
        For each group a row of `score_best_of_n`: `id`, `prompt`, `images`, `responses`, and `right`, a truth value for
        each response.
    """
    starts = range(0, len(groups), batch)
    options: dict[str, Any] = {"max_new_tokens": max_tokens, "temperature": temperature, "top_p": top_p}
    options["is_shared"] = shared_prefix_fault(policy.model) is None
    devices = [policy.model.device] if policy.model.device.type == "cuda" else []
    for start in track(starts, "sampling responses", unit="batches"):
        asked = [groups[place] for place in range(start, min(start + batch, len(groups)))]
        # Seeded by position, so that a part of the groups gets the same responses as in a pass over all groups.
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed * 1_000_003 + start)
            texts = _texts(policy, asked, number, **options)
        for place, group in enumerate(asked):
            responses = texts[number * place : number * place + number]
            answers = reference_answers(group)
            yield {
                "id": group.id,
                "prompt": messages(group.prompt, in_parts=True),
                "images": list(group.images),
                "responses": responses,
                "right": [exact_match(response, answers) for response in responses],
            }


def _texts(policy: Policy, groups: Sequence[Group], number: int, *, is_shared: bool, **options: Any) -> list[str]:
    """`number` sampled texts for each group, those of a group one after the other.

    Args:
        is_shared: whether each prompt is read once for its texts.
    """
    reads_images = isinstance(policy.processor, ImageTextProcessor)
    tokenizer: Any = policy.processor.tokenizer if reads_images else policy.processor
    texts: list[str] = []
    for group in groups:
        turns = messages(group.prompt, in_parts=reads_images)
        texts.append(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    inputs: dict[str, Any] = {"text": texts, "padding": True, "return_tensors": "pt"}
    if reads_images:
        images: list[list[Any]] = []
        for group in groups:
            images.append([open_image(image) for image in group.images])
        inputs["images"] = images
    encoded = policy.processor(**inputs).to(policy.model.device)
    model: Any = policy.model
    places: list[int] = []
    for place in range(len(groups)):
        places += [place] * number
    with sharing_prefixes(model, places) if is_shared else contextlib.nullcontext():
        written = model.generate(
            **encoded,
            do_sample=True,
            # As of TRL's rollouts. A checkpoint may have other values for chats: with a `top_k` of 1 all texts are one.
            top_k=0,
            repetition_penalty=1.0,
            num_return_sequences=1 if is_shared else number,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **options,
        )
    own = written[:, encoded["input_ids"].size(1) :]
    decoded: list[str] = tokenizer.batch_decode(own, skip_special_tokens=True)
    return decoded
