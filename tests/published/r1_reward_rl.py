"""R1-Reward-RL as published: Parquet; messages are JSON in a text, pictures are base64 in a text."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from basereward.data.schema.group import Preference
from tests.published.expected import Expected
from tests.published.writing import picture, write_parquet


def ask(question: str, first: str, second: str) -> str:
    """The prompt to the judge, with the headings of its authors' code."""
    return (
        f"Compare two responses.\n\n###### **Input:**  \n###### [Question]:\n{question}  \n\n"
        f"###### [Response 1]:\n{first}  \n\n###### [Response 2]:\n{second}  \n\n"
        "###### **Output Format (strictly follow):**  \n<think>...</think><answer>1/2</answer>"
    )


def write(folder: Path) -> Expected:
    """The second is right, the first is; a verdict that is none, a picture whose base64 is broken, and one as a data
    URI."""
    whole = base64.b64encode(picture(1)).decode()
    rows = [
        (ask("How many?", "Three.", "Two.\nYes, two."), "<answer>2</answer>", whole),
        (ask("What is it?", "A cup.", "A jar."), "<answer>1</answer>", f"data:image/png;base64,{whole}"),
        (ask("Where?", "Here.", "There."), "<answer>3</answer>", whole),
        (ask("When?", "Now.", "Then."), "<answer>1</answer>", whole[:-5]),
    ]
    full = [
        {
            "question": text,
            "message": json.dumps(
                [{"role": "user", "content": [{"type": "image", "image": "<image>"}, {"type": "text", "text": text}]}]
            ),
            "answer": [verdict],
            "image": image,
        }
        for text, verdict, image in rows
    ]
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", full)
    return Expected(
        groups=2,
        prompt=(("user", "<image>How many?"),),
        responses=("Three.", "Two.\nYes, two."),
        preferences=(Preference(1, 0),),
        images=1,
        lost={"unknown_verdict": 1, "bad_base64": 1},
    )
