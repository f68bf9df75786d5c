"""The preferences that trainers are timed on, made from scikit-learn's scanned digits and filler words.

    python -m bench.workloads FOLDER

| file | image | prompt | responses |
|---|---|---|---|
| pairs.jsonl | 896 x 896 pixels, which is 1,024 visual tokens | a question and 40 words | two of 40 to 200 words |
| groups.jsonl | the same | the same | four, ranked: six preferences |
| text.jsonl | none | 600 words | two of 40 to 200 words |
| short.jsonl | none | ten words | two of 300 to 400 words |

Rows are in our own format; `for_ms_swift` and `for_trl` write them in that of another trainer.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

Row = dict[str, Any]

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FILLER = (
    "a pen drew this line down and round then up again with more ink where it began less at its end so that every part "
    "of the shape stands dark on white paper as people write when they count fast"
).split()
# In words: short questions and longer answers beside a large image, so that the image is most of a prompt's tokens.
PROMPT_WORDS = 40
TEXT_PROMPT_WORDS = 600
RESPONSE_WORDS = (40, 200)
SHORT_PROMPT_WORDS = 10
LONG_RESPONSE_WORDS = (300, 400)
WITH_IMAGES = ("pairs", "groups")


def write(folder: Path, *, rows: int = 48, side: int = 896, seed: int = 0) -> None:
    """Writes the workloads and the pictures they name; the same arguments write the same bytes.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write(folder, rows=1, side=28)
    >>> [len(row["responses"]) for row in read_rows(folder / "groups.jsonl")]
    [4]
    """
    from sklearn.datasets import load_digits

    rng = random.Random(seed)
    digits = load_digits()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    workloads: dict[str, list[Row]] = {"pairs": [], "groups": [], "text": [], "short": []}
    # A generator of its own: the other workloads keep their bytes when this one changes.
    long_rng = random.Random(seed + 1)
    for i in range(rows):
        picture = f"images/{i}.png"
        _save_picture(folder / picture, digits.images[i], side=side)
        true = int(digits.target[i])
        # The right digit comes first, then three wrong ones, so that every group has one right answer.
        digits_named = [true, *rng.sample([digit for digit in range(10) if digit != true], 3)]
        responses = [f"The picture shows a {NAMES[digit]}: {_words(rng, *RESPONSE_WORDS)}" for digit in digits_named]
        question = f"Which digit is written here? {_words(rng, PROMPT_WORDS, PROMPT_WORDS)}"
        long_prompt = _words(rng, TEXT_PROMPT_WORDS, TEXT_PROMPT_WORDS)
        workloads["pairs"].append(_row(i, question, responses[:2], images=[picture]))
        workloads["groups"].append(_row(i, question, responses, images=[picture]))
        workloads["text"].append(_row(i, long_prompt, responses[:2], images=[]))
        answers = [_words(long_rng, *LONG_RESPONSE_WORDS) for _ in range(2)]
        prompt = _words(long_rng, SHORT_PROMPT_WORDS, SHORT_PROMPT_WORDS)
        workloads["short"].append(_row(i, prompt, answers, images=[]))
    for name, content in workloads.items():
        write_rows(folder / f"{name}.jsonl", content)


def _save_picture(path: Path, ink: Any, *, side: int) -> None:
    """`ink` is 8 x 8, 0 (none) to 16 (full)."""
    from PIL import Image

    grey = (255 - ink * (255 / 16)).astype("uint8")
    Image.fromarray(grey).resize((side, side)).convert("RGB").save(path)


def _words(rng: random.Random, least: int, most: int) -> str:
    return " ".join(rng.choices(FILLER, k=rng.randint(least, most)))


def _row(number: int, prompt: str, responses: list[str], *, images: list[str]) -> Row:
    ranks = list(range(len(responses)))
    row: Row = {"id": str(number), "prompt": prompt, "responses": responses, "ranking": ranks}
    return row | {"images": images} if images else row


def read_rows(path: Path) -> list[Row]:
    """Rows of a JSON Lines file.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "rows.jsonl"
    >>> _ = file.write_text('{"id": "a"}')
    >>> read_rows(file)
    [{'id': 'a'}]
    """
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def first_rows(folder: Path, workload: str, *, count: int) -> Path:
    """A file of the first rows of a workload; the workload is written if it does not exist.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_rows(folder / "text.jsonl", [{"id": "a"}, {"id": "b"}])
    >>> first_rows(folder, "text", count=1).name
    'text_1.jsonl'
    """
    if not (folder / f"{workload}.jsonl").exists():
        write(folder)
    rows = read_rows(folder / f"{workload}.jsonl")
    if len(rows) < count:
        raise SystemExit(f"the workload {workload} has {len(rows)} rows; {count} are asked for")
    path = folder / f"{workload}_{count}.jsonl"
    write_rows(path, rows[:count])
    return path


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows as JSON Lines.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "rows.jsonl"
    >>> write_rows(file, [{"id": "a"}])
    >>> file.read_text().strip()
    '{"id": "a"}'
    """
    with path.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def for_ms_swift(path: Path) -> Iterator[Row]:
    """A row of ms-swift is one pair, so a group of four is written out as its six; images by absolute path.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "rows.jsonl"
    >>> write_rows(file, [{"prompt": "2 + 2?", "responses": ["4", "5"]}])
    >>> [row["rejected_response"] for row in for_ms_swift(file)]
    ['5']
    """
    for row in read_rows(path):
        images = [str((path.parent / image).resolve()) for image in row.get("images", [])]
        prompt = {"role": "user", "content": "<image>" * len(images) + row["prompt"]}
        for better, worse in combinations(row["responses"], 2):
            messages = [prompt, {"role": "assistant", "content": better}]
            yield {"messages": messages, "rejected_response": worse} | ({"images": images} if images else {})


def for_trl(path: Path) -> Iterator[Row]:
    """A row of TRL's reward trainer is one pair of text conversations.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "rows.jsonl"
    >>> write_rows(file, [{"prompt": "2 + 2?", "responses": ["4", "5"]}])
    >>> [row["chosen"][1]["content"] for row in for_trl(file)]
    ['4']
    """
    for row in read_rows(path):
        prompt = {"role": "user", "content": row["prompt"]}
        for better, worse in combinations(row["responses"], 2):
            sides = {"chosen": better, "rejected": worse}
            yield {side: [prompt, {"role": "assistant", "content": text}] for side, text in sides.items()}


def main() -> None:
    """Writes the workloads to a folder given on the command line."""
    parser = argparse.ArgumentParser(description="Write the workloads that trainers are timed on.")
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()
