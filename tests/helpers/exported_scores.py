"""Score rows with exported folders where this package does not exist: run with a file of cases, it prints JSON.

A case has `folder`, `opener` (the name of a class of transformers, or `peft`), `base` for peft, and `rows`: messages of
chat templates, and files of images.
"""

from __future__ import annotations

import functools
import importlib.abc
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class _Blocker(importlib.abc.MetaPathFinder):
    """Refuse this package, also where it is installed in the environment."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name.partition(".")[0] == "basereward":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def open_export(case: dict[str, Any]) -> Any:
    """Open the model of a case."""
    import transformers

    if case["opener"] == "peft":
        import peft

        base = transformers.AutoModelForSequenceClassification.from_pretrained(case["base"], num_labels=1)
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(case["folder"])
        base.config.pad_token_id = tokenizer.pad_token_id
        return peft.PeftModel.from_pretrained(base, case["folder"]).eval()
    options = {"trust_remote_code": True} if case["opener"] == "AutoModel" else {}
    return getattr(transformers, case["opener"]).from_pretrained(case["folder"], **options).eval()


@functools.cache
def tokenizer_of(folder: str) -> Any:
    """Open the tokenizer of an export."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@functools.cache
def processor_of(folder: str) -> Any:
    """Open the image processor of an export."""
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(folder, backend="pil")


def inputs_of(folder: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Render and encode rows as one padded batch by the files of an export, as a processor does."""
    import PIL.Image
    import torch

    tokenizer = tokenizer_of(folder)
    texts = [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in rows]
    files = [file for row in rows for file in row.get("images", [])]
    pixels: dict[str, Any] = {}
    if files:
        processor = processor_of(folder)
        pixels = dict(processor(images=[PIL.Image.open(file) for file in files], return_tensors="pt"))
        sizes = iter((pixels["image_grid_thw"].prod(-1) // processor.merge_size**2).tolist())
        texts = [
            "".join(part if part != "<|image_pad|>" else part * next(sizes) for part in _split(text)) for text in texts
        ]
    tokens = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    assert isinstance(tokens["input_ids"], torch.Tensor)
    return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"], **pixels}


def _split(text: str) -> list[str]:
    pieces = text.split("<|image_pad|>")
    return [part for piece in pieces for part in (piece, "<|image_pad|>")][:-1]


def main(file: str) -> None:
    """Print the scores of every case."""
    sys.path = [path for path in sys.path if path and not Path(path).is_relative_to(ROOT)]
    sys.meta_path.insert(0, _Blocker())
    try:
        import basereward  # noqa: F401
    except ModuleNotFoundError:
        pass
    else:
        raise SystemExit("the package can be imported")
    import torch

    torch.set_num_threads(1)
    scores = []
    with torch.inference_mode():
        for case in json.loads(Path(file).read_text()):
            model = open_export(case)
            # Text and image rows apart: a batch with both is none of ours to check here.
            by_row = [model(**inputs_of(case["folder"], rows)).logits[:, 0].tolist() for rows in case["rows"]]
            scores.append(by_row)
    sys.stdout.write(json.dumps(scores))


if __name__ == "__main__":
    main(sys.argv[1])
