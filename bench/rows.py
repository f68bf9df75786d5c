"""Rows on a cluster: `python -m bench.rows [--work FOLDER] [--score-rows 20000] [--text-rows 200000]`.

Scores rows with a small model, and finds near duplicates among text rows, in one process and on a local Ray cluster of
one and of two workers. It prints the seconds without the start of Ray, their ratio, the most memory that a worker has
had, and whether the output is that of one process. The first line of each part has a quarter of the rows, to show
whether memory grows with them. Times are of a machine that may be busy with other work; compare them within a run only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from basereward.cluster.options import ClusterOptions
from basereward.cluster.shards import ShardedRows
from basereward.data.curation.duplicates import Duplicate, find_duplicates
from basereward.data.curation.sharded import PlacedGroups, ShardedCuration
from basereward.data.sources.jsonl import read_rows
from basereward.inference.score_file import score
from basereward.inference.scorer import Scorer
from basereward.model.families.processing import load_encoder
from basereward.model.reward_model import build_model
from basereward.model.saving.made_checkpoint import backbone_path
from basereward.recipe.schema import BackboneRecipe, DataRecipe, ModelRecipe, Recipe

WORKERS = (0, 1, 2)
"""0 is one process without a cluster."""
VOCABULARY = 2000


@dataclass(frozen=True)
class Measured:
    """One run: a hash of its output, its seconds, and the most memory of each worker in bytes.

    >>> Measured("a", 2.0, []).seconds
    2.0
    """

    output: str
    seconds: float
    peaks: list[int]


def write_texts(file: Path, num_rows: int) -> None:
    """Write rows of 40 to 80 words, of which a tenth repeats an earlier row with one word changed.

    >>> file = Path(tempfile.mkdtemp(), "rows.jsonl")
    >>> write_texts(file, 20)
    >>> len(file.read_text().splitlines())
    20
    """
    draw = random.Random(0)
    names = [f"word{number}" for number in range(VOCABULARY)]
    recent: list[list[str]] = []
    with file.open("w") as output:
        for number in range(num_rows):
            if recent and draw.random() < 0.1:
                text = list(draw.choice(recent))
                text[draw.randrange(len(text))] = "other"
            else:
                text = draw.choices(names, k=draw.randint(40, 80))
            # The last ones only, so that writing needs little memory.
            recent = [*recent[-999:], text]
            half = len(text) // 2
            row = {"id": f"r{number}", "prompt": "Which is right?", "chosen": " ".join(text), "rejected": text[half]}
            output.write(json.dumps(row) + "\n")


def write_scored(file: Path, num_rows: int) -> None:
    """Write short rows to score."""
    draw = random.Random(0)
    with file.open("w") as output:
        for number in range(num_rows):
            answers = [" ".join(draw.choices(("yes", "no", "seven", "one"), k=draw.randint(1, 8))) for _ in range(2)]
            output.write(json.dumps({"id": f"r{number}", "prompt": f"What is {number}?", "responses": answers}) + "\n")


def save_model(folder: Path) -> Path:
    """Save a text model of random weights, small enough for two CPU cores."""
    backbone = BackboneRecipe(make={"_target_": "tiny_qwen3", "hidden_size": 32, "layers": 2})
    recipe = Recipe(
        model=ModelRecipe(backbone=backbone, head={"_target_": "linear"}),
        data=DataRecipe(sources={"rows": {"_target_": "jsonl"}}),
    )
    path = backbone_path(backbone)
    model = build_model(recipe.model, path=path, seed=0).eval()
    Scorer(model, encoder=load_encoder(path), recipe=recipe).save(folder / "model")
    return folder / "model"


def measure_score(model: Path, file: Path, workers: int) -> Measured:
    """Score a file."""
    out = file.with_suffix(f".{workers}.scores.jsonl")
    cluster = ClusterOptions(workers=workers, shards=8) if workers else None
    result = score(str(model), str(file), out=str(out), cluster=cluster)
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    return Measured(digest, result["seconds"], sorted(result.get("workers", {}).values()))


def measure_duplicates(file: Path, workers: int) -> Measured:
    """Find near duplicates, and write the rows that are kept."""
    groups = read_rows(file)
    peaks: list[int] = []

    def timed(find: Callable[[], list[Duplicate]]) -> Measured:
        began = time.perf_counter()
        copies = find()
        dropped = {copy.index for copy in copies}
        out = file.with_suffix(f".{workers}.kept.jsonl")
        with file.open("rb") as rows, out.open("wb") as output:
            output.writelines(row for number, row in enumerate(rows) if number not in dropped)
        seconds = time.perf_counter() - began
        # With the details, which name the kept row and the similarity.
        digest = hashlib.sha256(out.read_bytes() + repr(copies).encode()).hexdigest()
        return Measured(digest, seconds, peaks)

    if not workers:
        return timed(lambda: find_duplicates((("rows", number, group) for number, group in enumerate(groups))))
    with ShardedRows(ClusterOptions(workers=workers, shards=8), folder=Path(f"{file}.shards")) as rows:
        placed = PlacedGroups([("rows", groups, np.arange(len(groups)))])
        measured = timed(lambda: ShardedCuration(placed, rows).find_duplicates(threshold=0.8))
        peaks += sorted(rows.peaks.values())
        rows.remove()
    return measured


def report(name: str, num_rows: int, measure: Callable[[int], Measured]) -> bool:
    """Print a line for each number of workers; returns whether all outputs are equal."""
    first: Measured | None = None
    seconds_of_one = 0.0
    equal = True
    for workers in WORKERS:
        measured = measure(workers)
        first = first or measured
        if workers == 1:
            seconds_of_one = measured.seconds
        equal = equal and measured.output == first.output
        ratio = f"{measured.seconds / seconds_of_one:.2f}" if workers > 1 else "-"
        peaks = ", ".join(f"{peak / 2**20:.0f}" for peak in measured.peaks) or "-"
        same = "yes" if measured.output == first.output else "NO"
        where = f"{workers} workers" if workers else "1 process"
        line = f"{name:16}{num_rows:>9,}  {where:10}{measured.seconds:>9.1f}  {ratio:>12}  {peaks:>20}  {same}"
        print(line, flush=True)
    return equal


def main() -> int:
    """Run all, and return 0 when all outputs are equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for the rows and the model (default: a temporary one)")
    parser.add_argument("--score-rows", type=int, default=20_000, help="rows to score")
    parser.add_argument("--text-rows", type=int, default=200_000, help="rows among which near duplicates are found")
    arguments = parser.parse_args()
    work: Path = arguments.work or Path(tempfile.mkdtemp(prefix="basereward-rows-"))
    work.mkdir(parents=True, exist_ok=True)
    model = save_model(work)
    print(f"{'work':16}{'rows':>9}  {'where':10}{'seconds':>9}  {'of 1 worker':>12}  {'MiB a worker':>20}  same output")
    equal = True
    for num_rows in (arguments.text_rows // 4, arguments.text_rows):
        texts = work / f"texts-{num_rows}.jsonl"
        write_texts(texts, num_rows)
        equal &= report("near duplicates", num_rows, lambda workers, texts=texts: measure_duplicates(texts, workers))  # type: ignore[misc]
    for num_rows in (arguments.score_rows // 4, arguments.score_rows):
        rows = work / f"rows-{num_rows}.jsonl"
        write_scored(rows, num_rows)
        equal &= report("score", num_rows, lambda workers, rows=rows: measure_score(model, rows, workers))  # type: ignore[misc]
    return int(not equal)


if __name__ == "__main__":
    sys.exit(main())
