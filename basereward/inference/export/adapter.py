"""LoRA adapters in peft's format, with the head among the modules that peft saves whole."""

from __future__ import annotations

import copy
from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from peft.utils import TaskType
from safetensors.torch import save_file

from basereward.errors import ModelError
from basereward.inference.export.exportable import ExportForm, classification_model, head_layers
from basereward.inference.scorer import Scorer

WRAPPER = "base_model.model."
"""What peft writes before the name of every weight."""


def check_adapter_exportable(scorer: Scorer, form: ExportForm, *, to: str) -> None:
    """Checks that the adapter of a model, with its head, is one that peft opens with the right scores.

    Raises:
        ModelError: it is not; the message has the reason.
    """
    backbone = scorer.model.backbone
    if not isinstance(backbone.model, PeftModel):
        raise ModelError("--adapter: the model has no adapter: it was trained without model.lora, or merged")
    if to != "hf":
        raise ModelError("--adapter: vLLM is given whole weights. Leave --adapter out, or take --format hf")
    if backbone.quantization is not None:
        raise ModelError(
            f"--adapter: the adapter was trained on {backbone.quantization} weights, and peft would add it to whatever "
            "weights the user loads. Leave --adapter out: the merged weights are exact"
        )
    if form != "sequence_classification":
        raise ModelError(
            "--adapter: peft puts an adapter on a class that transformers makes from the backbone's own checkpoint, "
            "and that class has only a linear head without bias on a text backbone. Leave --adapter out: the adapter "
            "is then merged"
        )


def write_adapter(scorer: Scorer, folder: Path) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors` into a folder.

    Args:
        scorer: a model that `check_adapter_exportable` has accepted.
        folder: an existing folder.
    """
    backbone = scorer.model.backbone
    assert isinstance(backbone.model, PeftModel)
    target = classification_model(backbone.transformer.config)
    assert target is not None
    weights = {}
    # With the default "auto" peft asks the hub whether the vocabulary has changed.
    for name, weight in get_peft_model_state_dict(backbone.model, save_embedding_layers=False).items():
        inner = name.removeprefix(WRAPPER)
        weights[f"{WRAPPER}{target.base_model_prefix}.{inner}"] = weight.detach().cpu().contiguous()
    (score,) = head_layers(scorer.model.head).weights.values()
    weights[f"{WRAPPER}score.weight"] = score.detach().cpu().contiguous()
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(backbone.model.active_peft_config)
    config.task_type = TaskType.SEQ_CLS
    config.modules_to_save = ["score"]
    config.base_model_name_or_path = backbone.origin.path
    config.revision = backbone.origin.commit or backbone.origin.revision
    config.inference_mode = True
    config.auto_mapping = None
    config.save_pretrained(str(folder))
