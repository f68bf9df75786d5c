"""LLaVA-Critic as published: two configurations of Parquet files, which the README names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import embedded, write_parquet

README = """---
configs:
- config_name: pairwise
  data_files:
  - split: train
    path: pairwise/train-*
- config_name: pointwise
  data_files:
  - split: train
    path: pointwise/train-*
---
"""


def write_configuration(folder: Path, name: str, talks: Sequence[tuple[int, str, str]]) -> None:
    """Talks with a judge as rows: the shade of a picture, what was asked, what was said."""
    (folder / "README.md").write_text(README)
    rows = [
        {
            "id": f"ours_{i}",
            "source": "ours",
            "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": said}],
            "image": embedded(shade),
        }
        for i, (shade, asked, said) in enumerate(talks)
    ]
    write_parquet(folder / name / "train-00000-of-00001.parquet", rows, images=["image"])


def ask(question: str, first: str, second: str, *, names: tuple[str, str]) -> str:
    """The prompt to the judge."""
    return f"<image>\nBe a fair judge.\nQuestion: [{question}]\n{names[0]}: [{first}]\n{names[1]}: [{second}]"


def write(folder: Path) -> Expected:
    """The second is better, the first, neither; a verdict that says nothing, and a prompt without answers."""
    spoken, numbered = ("The first response", "The second response"), ("Response 1", "Response 2")
    asked = ask("What is in [it]?", "A cup,\nor [two].", "A jar.", names=spoken)
    talks = [
        (1, asked, "The first names a cup that is not there. The better response: [2]"),
        (2, ask("How many?", "Two.", "Four.", names=numbered), "The better response: [1]\nIt counts right."),
        (3, ask("How many?", "Two.", "2.", names=spoken), "Both count right: they are equally good."),
        (4, asked, "I cannot tell."),
        (5, "<image>\nDescribe the picture.", "The better response: [1]"),
    ]
    write_configuration(folder, "pairwise", talks)
    write_configuration(folder, "pointwise", talks[:1])
    return Expected(
        groups=3,
        prompt=(("user", "<image>What is in [it]?"),),
        responses=("A cup,\nor [two].", "A jar."),
        preferences=(Preference(1, 0),),
        images=1,
        lost={"unknown_template": 1, "unknown_verdict": 1},
    )
