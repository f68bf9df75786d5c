"""Mistakes of a new user of the command line: the words, and what the answer must contain.

`tests/cli/test_new_user_mistakes.py` tests the answers, and `python -m bench.answers` times them. This file imports
nothing but the standard library, so that a process that runs a mistake imports only what the command does.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    *("torch", "transformers", "tokenizers", "datasets", "mlflow", "pytorch_lightning", "peft", "bitsandbytes"),
    *("torchmetrics", "matplotlib", "sklearn", "scipy", "pandas", "pyarrow", "huggingface_hub"),
)
"""Libraries whose import takes a noticeable part of a second; an answer to a mistake needs none of them."""
MINE = "data.sources.digits=null data.sources.numbers=null data.sources.mine.include=sources/jsonl"
"""Overrides that make a file the only source, but for its path."""


@dataclass(frozen=True)
class Mistake:
    """A command line that is wrong.

    Attributes:
        line: the words after `basereward`, as a shell reads them. The working folder is that of `write_files`.
        given: what the answer must repeat of it.
        allowed: texts of the answer that say what would be right, or what to do.
        looks_at_files: whether files must be read to see it.
        environment: variables of the process.
    """

    line: str
    given: str
    allowed: tuple[str, ...]
    looks_at_files: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        """The words after `basereward`."""
        return shlex.split(self.line)


MISTAKES = {
    # The command line itself.
    "command misspelt": Mistake("trian basereward", "trian", ("did you mean 'train'",)),
    "no command": Mistake("", "COMMAND", ("train", "check", "score")),
    "experiment before the command": Mistake("basereward train", "basereward", ("train basereward",)),
    "no experiment": Mistake("train", "EXPERIMENT", ("ls experiments",)),
    "experiment misspelt": Mistake("train baserewrd", "baserewrd", ("did you mean 'basereward'",)),
    "profile without a name": Mistake("train basereward --profile", "--profile", ("ls profiles",)),
    "profile misspelt": Mistake("train basereward --profile tinny", "tinny", ("did you mean 'tiny'",)),
    "option misspelt": Mistake("train basereward --profle tiny", "--profle", ("did you mean '--profile'",)),
    "a key as an option": Mistake("train basereward --lr 1e-4", "--lr", ("optimizer.lr=",)),
    "a key without its section": Mistake("train basereward lr=1e-4", "lr", ("optimizer.lr",)),
    "spaces around =": Mistake("train basereward optimizer.lr = 1e-4", "=", ("optimizer.lr=1e-4", "without spaces")),
    "quotes of a list lost": Mistake("sweep head_depth seeds=[0, 1, 2]", "seeds=[0,", ("'seeds=[0, 1, 2]'",)),
    "quotes of a mapping lost": Mistake(
        "train basereward model.head={_target_: mlp, layers: 3}", "model.head={", ("'model.head={_target_: mlp,",)
    ),
    "override without a value": Mistake("train basereward trainer.steps", "trainer.steps", ("trainer.steps=VALUE",)),
    "override with an empty value": Mistake("train basereward optimizer.lr=", "optimizer.lr", ("a number",)),
    "an empty model": Mistake("score '' rows.jsonl", "'score'", ("empty", "variable of the shell")),
    "an empty value of an option": Mistake("train basereward --profile=", "--profile", ("empty", "leave it out")),
    "file forgotten": Mistake("score runs/mine/model", "FILE", ("basereward score",)),
    "benchmark forgotten": Mistake("eval runs/mine/model", "--benchmark", ("ls benchmarks",)),
    "kind of list misspelt": Mistake("ls expriments", "expriments", ("did you mean 'experiments'",)),
    "option without its condition": Mistake("check basereward --gpu h100", "--gpu", ("--cost",)),
    "unknown GPU": Mistake("check basereward --cost --gpu h1000", "h1000", ("did you mean 'h100'",)),
    "run that does not exist": Mistake("train basereward --resume nope", "nope", ("ls runs",)),
    # Values of a recipe.
    "number with a full stop": Mistake("train basereward optimizer.lr=1e-5.", "1e-5.", ("optimizer.lr", "a number")),
    "number as a word": Mistake("train basereward trainer.steps=ten", "ten", ("trainer.steps", "whole number")),
    "negative learning rate": Mistake("train basereward optimizer.lr=-1", "-1", ("optimizer.lr", "above 0")),
    "key misspelt": Mistake("train basereward optimzer.lr=1e-4", "optimzer", ("did you mean 'optimizer'",)),
    "argument misspelt": Mistake("train basereward loss.margn=1", "margn", ("did you mean 'margin'",)),
    "head misspelt": Mistake("train basereward model.head._target_=mpl", "mpl", ("did you mean 'mlp'",)),
    "device that does not exist": Mistake("train basereward trainer.accelerator=gpu0", "gpu0", ("cuda", "cpu", "auto")),
    "precision of another trainer": Mistake("train basereward trainer.precision=fp16", "fp16", ("bf16-mixed",)),
    "dtype of another trainer": Mistake("train basereward model.backbone.dtype=float16", "float16", ("bfloat16",)),
    "batch that does not divide": Mistake("train basereward batch.groups=33", "33", ("multiple", "32")),
    "a sweep given to train": Mistake("train head_depth", "head_depth", ("basereward sweep",)),
    "source without its kind": Mistake(
        "train basereward data.sources.mine.path=a.jsonl", "mine", ("_target_", "jsonl")
    ),
    "tracking address without a scheme": Mistake(
        "train basereward tracking.uri=localhost:5000", "localhost:5000", ("http://localhost:5000",)
    ),
    "gated model without a network": Mistake(
        "train basereward model.backbone.make=null model.backbone.path=meta-llama/Llama-3.2-11B-Vision",
        "meta-llama/Llama-3.2-11B-Vision",
        ("HF_HUB_OFFLINE",),
        environment={"HF_HUB_OFFLINE": "1"},
    ),
    "folder of experiments that does not exist": Mistake(
        "train basereward", "nowhere", ("BASEREWARD_EXPERIMENTS",), environment={"BASEREWARD_EXPERIMENTS": "nowhere"}
    ),
    # Files.
    "file that does not exist": Mistake(
        f"train basereward {MINE} data.sources.mine.path=gone.jsonl", "gone.jsonl", ("No such file",), True
    ),
    "folder for a file": Mistake(
        f"train basereward {MINE} data.sources.mine.path=folder", "folder", ("data files",), True
    ),
    "model folder for a file": Mistake(
        f"train basereward {MINE} data.sources.mine.path=model", "model", ("data files",), True
    ),
    "empty file": Mistake(
        f"check basereward {MINE} data.sources.mine.path=empty.jsonl", "empty.jsonl", ("rows",), True
    ),
    "CSV with semicolons": Mistake(
        f"train basereward {MINE} data.sources.mine.path=semicolons.csv", "semicolons.csv", ("';'", "commas"), True
    ),
    "other columns": Mistake(
        f"train basereward {MINE} data.sources.mine.path=columns.jsonl", "question", ("'chosen'", "rejected"), True
    ),
    "pictures that do not exist": Mistake(
        f"train basereward {MINE} data.sources.mine.path=pictures.jsonl", "gone.png", ("max_lost",), True
    ),
    "a picture for rows": Mistake(f"train basereward {MINE} data.sources.mine.path=0.png", "0.png", ("UTF-8",), True),
    "file with an unknown kind": Mistake(
        f"train basereward {MINE} data.sources.mine.path=rows.xlsx",
        "rows.xlsx",
        (".jsonl", ".csv"),
        True,
    ),
    "recipe with tabs": Mistake("train tabs.yaml", "tabs.yaml", ("spaces",), True),
    "recipe without blanks after colons": Mistake("train blanks.yaml", "blanks.yaml", ("mapping",), True),
    "rows for a recipe": Mistake("train rows.jsonl", "rows.jsonl", ("data.sources", "YAML"), True),
    "folder for a recipe": Mistake("train folder/", "folder", ("YAML",), True),
    "recipe that does not exist": Mistake("train mine.yaml", "mine.yaml", ("no file",), True),
    "backbone that is a file": Mistake(
        "train basereward model.backbone.make=null model.backbone.path=./rows.jsonl",
        "rows.jsonl",
        ("config.json",),
        True,
    ),
    "backbone without files": Mistake(
        "train basereward model.backbone.make=null model.backbone.path=./folder", "folder", ("config.json",), True
    ),
    "folder of runs that is a file": Mistake(
        "train basereward", "rows.jsonl", ("BASEREWARD_RUNS",), True, {"BASEREWARD_RUNS": "rows.jsonl"}
    ),
    "model and rows exchanged": Mistake("score rows.jsonl model", "rows.jsonl", ("folder of a saved model",), True),
    "rows to look at that do not exist": Mistake("look gone.jsonl", "gone.jsonl", ("there is no file",), True),
}


def write_files(folder: Path) -> None:
    """Write the files that the mistakes name."""
    pair = {"prompt": "Which?", "chosen": "this one", "rejected": "that one"}
    rows: dict[str, list[dict[str, Any]]] = {
        "rows.jsonl": [{**pair, "prompt": f"Which of {number}?"} for number in range(40)],
        "columns.jsonl": [{"question": "Which?", "good": "this", "bad": "that"}] * 40,
        "pictures.jsonl": [{**pair, "prompt": f"<image>{number}?", "images": ["gone.png"]} for number in range(40)],
    }
    for name, of_file in rows.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in of_file))
    (folder / "empty.jsonl").write_text("")
    (folder / "rows.xlsx").write_bytes(b"PK\x03\x04" + bytes(100))
    (folder / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    (folder / "semicolons.csv").write_text("prompt;chosen;rejected\n" + "Which?;this;that\n" * 40)
    (folder / "folder").mkdir()
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "tabs.yaml").write_text("# Mine.\nloss:\n\t_target_: bradley_terry\n")
    (folder / "blanks.yaml").write_text("# Mine.\nloss:\n  _target_:bradley_terry\n")


def environment_of(mistake: Mistake, folder: Path) -> dict[str, str]:
    """Return the environment of a mistake's process, whose runs and caches are in a folder."""
    own = {
        "BASEREWARD_EXPERIMENTS": str(ROOT / "experiments"),
        "BASEREWARD_RUNS": str(folder / "runs"),
        "BASEREWARD_CACHE": str(folder / "cache"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "PYTHONPATH": str(ROOT),
    }
    return {**os.environ, **own, **mistake.environment}
