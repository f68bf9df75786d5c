"""What the keys of a recipe and the arguments of a `_target_` mean, read from comments and docstrings."""

from __future__ import annotations

import ast
import functools
import re
import tokenize
from pathlib import Path

from basereward.recipe import schema

MEANINGS = {
    "name": "Name of the experiment; the file name, unless the file sets it.",
    "summary": "One line for `basereward ls experiments`; the first comment of the file, unless the file sets it.",
    "seeds": "Seeds, one for each use of randomness.",
    "model": "Backbone, adapter, head and pooling.",
    "model.backbone": "The pretrained model that reads prompts, images and responses.",
    "model.backbone.trust_remote_code": "Load a checkpoint that brings its own Python files; needs `--trust` too.",
    "model.lora": "Low-rank adapters; null: the weights that are not frozen are trained.",
    "model.lora.rank": "Rank of the two matrices of an adapter.",
    "model.lora.alpha": "Scale of the adapter: its output is multiplied by alpha / rank.",
    "model.lora.dropout": "Dropout probability before the adapter, 0 to 1.",
    "model.head": "The head: `linear`, `mlp`, `critic`, `generative`, `rating`, or a class of your own.",
    "loss": "The loss: `bradley_terry`, `plackett_luce`, or a class of your own.",
    "data": "Sources, their mixture, their encoding and their curation.",
    "data.sources": "Sources by a name of your choice, as in `{digits: {include: sources/digits}}`.",
    "data.mixture": "How the sources are mixed.",
    "data.encoding": "How prompts, images and responses become tokens.",
    "data.encoding.max_pixels": "Largest number of pixels of an image; null: as in preprocessor_config.json.",
    "data.curation": "Which training groups are left out or weighted down.",
    "batch": "Groups of a step and of a forward pass.",
    "optimizer": "AdamW and its learning rates.",
    "optimizer.lr": "Peak learning rate.",
    "optimizer.betas": "Decay rates of AdamW's first and second moment.",
    "optimizer.eps": "AdamW's epsilon.",
    "schedule": "Learning rate over the steps.",
    "schedule.shape": "Shape of the decay after warm-up.",
    "trainer": "Length, precision, validation and checkpoints of a run.",
    "trainer.precision": "float32 products, or bfloat16 products with weights in their own type.",
    "trainer.accelerator": "Device, as in Lightning; `auto` takes a GPU when there is one.",
    "trainer.deterministic": "Use only kernels that give the same bits again; an operation without one is an error.",
    "trainer.early_stopping": "Stop when validation no longer improves; null: train all steps.",
    "trainer.early_stopping.min_delta": "Smallest improvement of `trainer.monitor` that counts as a gain.",
    "tracking": "MLflow server and experiment.",
    "ensembles.NAME.how": "How the members' scores are combined.",
}
"""Meanings of keys without a comment in the schema, whose name and type say enough to a reader of the code. A comment
in the schema takes precedence."""
EXPERIMENT_KEYS = {
    "include": "A file, or a list of files, that is merged in before this mapping; at any level of a file.",
    "grid": "Axes: a dotted key and the list, or the labelled mapping, of its values. On the command line `grid.KEY` "
    "replaces an axis, `+grid.KEY` adds one, and `grid={...}` replaces all.",
    "grid.recipe": "An axis whose values are pieces of a recipe by label, to vary several keys at once.",
    "seeds": "A list of integers makes the seeds an axis: `seeds=[0,1,2]`.",
    "profiles.NAME": "What is different when the experiment runs on that profile.",
    "sweep": "In a profile: what is different for a cell of a sweep.",
    "ensembles.NAME": "An ensemble of the trained cells, with the keys above.",
    "stages.NAME": "A stage of a pipeline; `${NAME.OUTPUT}` in another stage is an output of it.",
}
"""Meanings of the keys of a file that are no part of a cell's recipe."""


def meaning(path: str, section: type, name: str) -> str:
    """The meaning of a key; empty where nobody has written one.

    Args:
        path: its dotted path.
        section: the dataclass of the schema that has it.
        name: its name there.

    >>> meaning("seeds.dropout", schema.Seeds, "dropout")
    'dropout masks'
    """
    return comments(section.__name__).get(name) or MEANINGS.get(path, "")


@functools.cache
def comments(section: str) -> dict[str, str]:
    """The meaning of every key of a dataclass of the schema: the comment on its lines; empty where there is none.

    >>> comments("StreamingRecipe")["buffer"]
    'groups of each source in the shuffle buffer'
    """
    file = Path(schema.__file__)
    texts = _comments_by_line(file)
    meanings: dict[str, str] = {}
    for node in _class_body(file, section):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            # A formatter may break a long line, so the comment can stand on any line of the statement.
            numbers = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            meanings[node.target.id] = " ".join(texts[number] for number in numbers if number in texts)
    return meanings


def _comments_by_line(file: Path) -> dict[int, str]:
    with file.open("rb") as lines:
        tokens = [token for token in tokenize.tokenize(lines.readline) if token.type == tokenize.COMMENT]
    return {token.start[0]: token.string.lstrip("# ").strip() for token in tokens}


def _class_body(file: Path, name: str) -> list[ast.stmt]:
    nodes = ast.parse(file.read_text(encoding="utf-8")).body
    return next(node.body for node in nodes if isinstance(node, ast.ClassDef) and node.name == name)


def argument_meanings(docstring: str) -> dict[str, str]:
    """The meaning of every argument from the section `Args:` of a docstring.

    >>> argument_meanings("A head.\\n\\nArgs:\\n    layers: number of layers;\\n        one is linear.\\n\\nMore.")
    {'layers': 'number of layers; one is linear.'}
    """
    _, found, after = docstring.partition("Args:\n")
    meanings: dict[str, str] = {}
    names: list[str] = []
    for line in after.splitlines() if found else []:
        # The section ends with the first line that is not indented.
        if line.strip() and not line.startswith(" "):
            break
        head = re.fullmatch(r" {4}(\w+(?:, \w+)*): (.+)", line)
        if head:
            names = head[1].split(", ")
            meanings.update(dict.fromkeys(names, head[2].strip()))
        elif line.strip():
            for name in names:
                meanings[name] += f" {line.strip()}"
    return meanings
