"""Time `basereward look` of many rows, with its peak memory and the size of its page.

    python -m bench.looking [--rows 100000] [--pictures 2000] [--work FOLDER]

Every row has a picture of 224 x 224 pixels, two responses of some 60 words, and one preference. The pictures are files.
The command runs in a process of its own; memory is the largest resident set of that process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image

ROOT = Path(__file__).resolve().parents[1]
# Limits on this work: seconds, GiB and MB.
LIMITS = {"seconds": 60.0, "peak_gib": 1.0, "page_mb": 5.0}


def write_rows(folder: Path, *, rows: int, pictures: int) -> Path:
    """Write `rows.jsonl` and its pictures, and return the file."""
    rng, numbers = random.Random(0), np.random.default_rng(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(2000)]
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for number in range(pictures):
        pixels = numbers.integers(0, 255, (14, 14, 3), dtype=np.uint8)
        picture = PIL.Image.fromarray(pixels).resize((224, 224))
        picture.save(folder / "pictures" / f"{number}.png")
    file = folder / "rows.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for number in range(rows):
            texts = [" ".join(rng.choices(words, k=rng.randint(40, 80))) for _ in range(2)]
            prompt = " ".join(rng.choices(words, k=15))
            row = {"id": f"row {number}", "prompt": prompt, "chosen": texts[0], "rejected": texts[1]}
            lines.write(json.dumps(row | {"images": [f"pictures/{number % pictures}.png"]}) + "\n")
    return file


def measure(file: Path, *, rows: int) -> dict[str, float]:
    """Run the command, and return its seconds, its peak memory in GiB and the size of the page in MB."""
    page = file.with_name("page.html")
    command = [sys.executable, "-m", "basereward", "look", str(file), "--rows", str(rows), "--out", str(page), "--json"]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"look ended with exit status {process.returncode}")
    seconds = time.perf_counter() - started
    shown = json.loads(output)["rows"]
    # Linux counts kibibytes.
    peak_gib = usage.ru_maxrss / 2**20
    measured = {"rows": shown, "seconds": seconds, "cpu_s": usage.ru_utime + usage.ru_stime, "peak_gib": peak_gib}
    return measured | {"page_mb": page.stat().st_size / 1e6}


def main() -> None:
    """Print the measurement as one JSON object, and end with status 1 if it exceeds a limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--pictures", type=int, default=2_000)
    parser.add_argument("--work", type=Path, help="folder for the rows (default: a temporary one)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        file = write_rows(arguments.work or Path(temporary), rows=arguments.rows, pictures=arguments.pictures)
        measured = measure(file, rows=arguments.rows)
    print(json.dumps({key: round(value, 2) for key, value in measured.items()}))
    exceeded = [name for name, limit in LIMITS.items() if measured[name] > limit]
    raise SystemExit(f"over the limit: {', '.join(exceeded)}" if exceeded else 0)


if __name__ == "__main__":
    main()
