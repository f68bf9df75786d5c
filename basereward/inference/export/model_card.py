"""The model card of a saved or an exported model: metadata that the hub reads, and a page for people."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from huggingface_hub import EvalResult, ModelCardData, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from basereward.model.heads.contracts import is_generative
from basereward.model.reward_model import RewardModel
from basereward.recipe.schema import Recipe

CardForm: TypeAlias = Literal["saved", "sequence_classification", "own_code"]
"""`saved`: our own folder; the others are the forms of an export, see `exportable.ExportForm`."""
PIPELINES = {True: "image-text-to-text", False: "text-classification"}
"""The hub's tag by whether the model reads images. It has none for a score of an image with a text."""
LIBRARY = "basereward"
TAGS = ["reward-model", "basereward"]
LICENSE = re.compile(r"[A-Za-z0-9.+_-]{1,64}")


class DescribedModel(Protocol):
    """The part of `Scorer` that a card describes; `scorer.py` imports this file, so it cannot be imported here."""

    model: RewardModel
    recipe: Recipe
    scores: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """One metric of an evaluation. `value`, `low` and `high` are shares from 0 to 1.

    Attributes:
        interval: how `low` and `high` were computed; None: there is no interval.
        items: the rows that the metric counts.
        partial: how the rows differ from the whole benchmark; None: they are the whole benchmark.

    >>> numbers = {"value": 0.75, "low": 0.7, "high": 0.8, "interval": "wilson", "items": 400}
    >>> names = {"benchmark": "vl_rewardbench", "title": "VL-RewardBench", "variant": "paper", "metric": "overall"}
    >>> BenchmarkResult(**names, **numbers).text
    '75.0 % (70.0 to 80.0, wilson, 95 %)'
    """

    benchmark: str
    title: str
    variant: str
    metric: str
    value: float
    low: float | None
    high: float | None
    interval: str | None
    items: int
    partial: str | None = None

    @property
    def text(self) -> str:
        """The value with its interval."""
        value = f"{100 * self.value:.1f} %"
        if self.low is None or self.high is None:
            return value
        return f"{value} ({100 * self.low:.1f} to {100 * self.high:.1f}, {self.interval}, 95 %)"


def model_card(
    scorer: DescribedModel,
    *,
    form: CardForm,
    adapter: bool = False,
    to: str = "hf",
    license_id: str | None = None,
    results: Sequence[BenchmarkResult] = (),
) -> str:
    """The text of README.md.

    Args:
        scorer: the model.
        form: in which it is saved or exported.
        adapter: whether only the adapter and the head are exported.
        to: the format, `hf` or `vllm`.
        license_id: as the hub writes it; None: that of the backbone's own card, where there is one.
        results: evaluations.
    """
    data = ModelCardData(
        pipeline_tag=PIPELINES[scorer.model.backbone.reads_images],
        library_name=LIBRARY if form == "saved" else "peft" if adapter else "transformers",
        base_model=base_model(scorer),
        datasets=hub_datasets(scorer.recipe) or None,
        license=license_id or _base_license(scorer),
        tags=TAGS,
        model_name=scorer.recipe.name,
        eval_results=[_eval_result(result) for result in results] or None,
    )
    return with_metadata(data, _page(scorer, form=form, adapter=adapter, to=to, results=results))


def with_metadata(data: ModelCardData, lines: Iterable[str]) -> str:
    """The text of README.md: the metadata in YAML, and the lines of the page.

    >>> with_metadata(ModelCardData(license="mit"), ["# A model"])
    '---\\nlicense: mit\\n---\\n\\n# A model\\n'
    """
    page = "\n".join(lines)
    return f"---\n{data.to_yaml(line_break=chr(10))}\n---\n\n{page}\n"


def base_model(scorer: DescribedModel) -> str | None:
    """The hub id of the backbone; None if it came from a folder."""
    path = scorer.model.backbone.origin.path
    return path if _is_on_hub(path) else hub_backbone(scorer.recipe)


def hub_backbone(recipe: Recipe) -> str | None:
    """The hub id of the backbone that a recipe names; None if it names a folder or makes the backbone.

    >>> hub_backbone(Recipe()) is None
    True
    """
    path = recipe.model.backbone.path
    return path if path is not None and _is_on_hub(path) else None


def _is_on_hub(path: str) -> bool:
    return not os.path.isabs(path) and not os.path.isdir(path) and is_hub_id(path)


def hub_datasets(recipe: Recipe) -> list[str]:
    """The hub ids of the sources of a recipe.

    >>> from basereward.recipe.schema import DataRecipe
    >>> sources = {"a": {"_target_": "hub", "path": "org/set"}, "b": {"_target_": "jsonl", "path": "rows.jsonl"}}
    >>> hub_datasets(Recipe(data=DataRecipe(sources=sources)))
    ['org/set']
    """
    paths = [node.get("path") for node in recipe.data.sources.values() if node.get("_target_") == "hub"]
    return sorted({path for path in paths if isinstance(path, str) and is_hub_id(path) and not os.path.exists(path)})


def is_hub_id(text: str) -> bool:
    """Whether a text can be the id of a repository with an owner.

    >>> is_hub_id("Qwen/Qwen3-8B"), is_hub_id("/data/model"), is_hub_id("model")
    (True, False, False)
    """
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return "/" in text


def _base_license(scorer: DescribedModel) -> str | None:
    """The licence in the card of the backbone, if the card is on this machine; nothing is downloaded."""
    file = _base_readme(scorer)
    try:
        metadata = metadata_load(file) if file is not None else None
    except (OSError, ValueError):
        # A page for people may have anything in its head.
        return None
    name = (metadata or {}).get("license")
    return name if isinstance(name, str) and LICENSE.fullmatch(name) else None


def _base_readme(scorer: DescribedModel) -> Path | None:
    """The card of the backbone in its folder or in the hub's cache."""
    backbone = scorer.recipe.model.backbone
    # A backbone whose weights were trained lies in the model itself, and the recipe says where it came from.
    path = backbone.path or scorer.model.backbone.origin.path
    if os.path.isdir(path):
        file = Path(path, "README.md")
        return file if file.is_file() else None
    cached = try_to_load_from_cache(path, "README.md", revision=backbone.revision) if is_hub_id(path) else None
    return Path(cached) if isinstance(cached, str) else None


def _eval_result(result: BenchmarkResult) -> EvalResult:
    interval: dict[str, Any] = {"low": result.low, "high": result.high, "interval": result.interval}
    return EvalResult(
        task_type="reward-modeling",
        task_name="Reward modeling",
        dataset_type=result.benchmark,
        dataset_name=result.title,
        dataset_config=result.variant,
        metric_type="accuracy",
        metric_name=result.metric,
        metric_value=result.value,
        metric_args={**interval, "items": result.items, **({"partial": result.partial} if result.partial else {})},
    )


def _page(
    scorer: DescribedModel, *, form: CardForm, adapter: bool, to: str, results: Sequence[BenchmarkResult]
) -> Iterator[str]:
    recipe = scorer.recipe
    yield f"# {recipe.name}"
    yield ""
    kind = "generative" if is_generative(scorer.model.head) else "scalar"
    yield f"{recipe.summary or 'A reward model'}: a {kind} reward model that BaseReward trained. It gives an answer"
    yield "to a prompt one number, and a higher number means a better answer."
    yield ""
    yield "## Use"
    yield ""
    if form == "saved":
        yield from saved_usage(images=scorer.model.backbone.reads_images)
    else:
        yield from _usage(scorer, form=form, adapter=adapter)
    if to == "vllm":
        yield ""
        yield from _vllm_usage(form)
    yield ""
    yield "## Evaluations"
    yield ""
    yield from _results_table(results)
    yield ""
    yield "## Training"
    yield ""
    yield from _recipe_table(scorer)
    yield ""
    yield from _limits(scorer, form=form)


def saved_usage(*, images: bool) -> Iterator[str]:
    """How a model in our own format is opened.

    Args:
        images: whether its prompts may have images.

    >>> list(saved_usage(images=False))[3:5]
    ['model = basereward.from_pretrained(FOLDER)', 'scores = model.score("What is 2 + 2?", ["4", "5"])  # one ...']
    """
    yield "```python"
    yield "import basereward"
    yield ""
    yield "model = basereward.from_pretrained(FOLDER)"
    if images:
        yield 'scores = model.score("What is this?", ["A cat.", "A dog."], images=["cat.png"])  # one for each answer'
    else:
        yield 'scores = model.score("What is 2 + 2?", ["4", "5"])  # one for each answer'
    yield "```"
    yield ""
    yield "FOLDER is this folder, or the name of this repository on the hub."


def _usage(scorer: DescribedModel, *, form: CardForm, adapter: bool) -> Iterator[str]:
    images = scorer.model.backbone.reads_images
    base = base_model(scorer) or "BACKBONE"
    yield "```python"
    yield "import torch"
    if adapter:
        yield "from peft import PeftModel"
        yield "from transformers import AutoModelForSequenceClassification, AutoTokenizer"
    elif form == "sequence_classification":
        yield "from transformers import AutoModelForSequenceClassification, AutoTokenizer"
    else:
        yield f"from transformers import AutoModel, {'AutoProcessor' if images else 'AutoTokenizer'}"
    yield ""
    yield f"reader = {'AutoProcessor' if images else 'AutoTokenizer'}.from_pretrained(FOLDER)"
    if adapter:
        yield f"base = AutoModelForSequenceClassification.from_pretrained({base!r}, num_labels=1)"
        yield "base.config.pad_token_id = reader.pad_token_id"
        yield "model = PeftModel.from_pretrained(base, FOLDER).eval()"
    elif form == "sequence_classification":
        yield "model = AutoModelForSequenceClassification.from_pretrained(FOLDER).eval()"
    else:
        yield "model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True).eval()"
    parts = '[{"type": "image", "path": "cat.png"}, {"type": "text", "text": "What is this?"}]'
    answer = '[{"type": "text", "text": "A cat."}]'
    yield "messages = ["
    yield f'    {{"role": "user", "content": {parts if images else chr(34) + "What is 2 + 2?" + chr(34)}}},'
    yield f'    {{"role": "assistant", "content": {answer if images else chr(34) + "4" + chr(34)}}},'
    yield "]"
    yield 'options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}'
    yield "with torch.inference_mode():"
    yield "    score = model(**reader.apply_chat_template(messages, **options)).logits[0, 0].item()"
    yield "```"
    yield ""
    yield "The score is read at the last token of what the chat template of this folder writes. A text that another"
    yield "template has rendered must end with the same token."


def _vllm_usage(form: CardForm) -> Iterator[str]:
    yield "With vLLM:"
    yield ""
    yield "```bash"
    if form == "own_code":
        yield "pip install FOLDER/vllm_plugin"
        yield "vllm serve FOLDER --runner pooling"
    else:
        yield "vllm serve FOLDER --runner pooling --convert classify"
    yield "```"
    yield ""
    yield "`POST /classify` with `use_activation: false` gives the score in `data[].probs`. This was not run with vLLM"
    yield "when it was written; compare some scores with those of transformers first."


def _results_table(results: Sequence[BenchmarkResult]) -> Iterator[str]:
    if not results:
        yield "The model was not evaluated on a benchmark."
        return
    yield "| benchmark | variant | metric | value | rows |"
    yield "|---|---|---|---|---|"
    for result in results:
        rows = f"{result.items}, partial: {result.partial}" if result.partial else str(result.items)
        yield f"| {result.title} | {result.variant} | {result.metric} | {result.text} | {rows} |"


def _recipe_table(scorer: DescribedModel) -> Iterator[str]:
    """What the recipe says, without paths of this machine."""
    recipe = scorer.recipe
    head = ", ".join(f"{key}={value}" for key, value in recipe.model.head.items() if key != "_target_")
    lora = recipe.model.lora
    steps = f"{recipe.trainer.steps} steps" if recipe.trainer.steps else f"{recipe.trainer.epochs:g} epochs"
    rows = {
        "backbone": base_model(scorer)
        or f"a checkpoint in a folder ({scorer.model.backbone.transformer.config.model_type})",
        "head": f"{recipe.model.head.get('_target_')} {head}".strip(),
        "pooling": recipe.model.pooling,
        "adapters": f"LoRA, rank {lora.rank}, alpha {lora.alpha:g}" if lora else "none",
        "frozen parts": ", ".join(recipe.model.backbone.freeze) or "none",
        "loss": recipe.loss.get("_target_", "-"),
        "sources": ", ".join(recipe.data.sources),
        "learning rate": f"{recipe.optimizer.lr:g}",
        "length": f"{steps} of {recipe.batch.groups} groups",
        "precision": recipe.trainer.precision,
        "seeds": f"data {recipe.seeds.data}, init {recipe.seeds.init}, dropout {recipe.seeds.dropout}",
        "mean and deviation of scores": ", ".join(f"{value:.4g}" for value in scorer.scores.values()) or "not measured",
    }
    yield "| what | value |"
    yield "|---|---|"
    for name, value in rows.items():
        yield f"| {name} | {value} |"


def intended_use() -> Iterator[str]:
    """The sections on use and limits, as far as they are the same for every model.

    >>> next(intended_use())
    '## Intended use'
    """
    yield "## Intended use"
    yield ""
    yield "The model ranks answers to the same prompt: to choose the best of several, to filter data, or as a reward in"
    yield "reinforcement learning. Its numbers have no unit, and those of two prompts cannot be compared."
    yield ""
    yield "## Limits"
    yield ""
    yield "- It repeats the preferences and the errors of its training data, and a policy that is trained against it"
    yield "  finds answers that it rates too high."


def _limits(scorer: DescribedModel, *, form: CardForm) -> Iterator[str]:
    yield from intended_use()
    yield f"- Inputs in training had at most {scorer.recipe.data.encoding.max_tokens} tokens."
    if scorer.recipe.trainer.precision != "32-true" or str(scorer.model.backbone.transformer.dtype) != "torch.float32":
        yield "- Its weights or its training had less than float32, and scores differ in the third digit by precision."
    if form == "sequence_classification":
        yield "- In bfloat16 transformers computes the score itself in bfloat16, with three digits. Load it in float32"
        yield "  to tell close answers apart."
