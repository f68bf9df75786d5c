"""Runs `exported_scores` in a process without this package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.helpers import exported_scores


def scores_elsewhere(cases: list[dict[str, Any]], folder: Path) -> list[list[list[float]]]:
    """Return the scores of cases in a process without this package, in another working folder."""
    (folder / "cases.json").write_text(json.dumps(cases))
    script = folder / "exported_scores.py"
    script.write_text(Path(exported_scores.__file__).read_text())
    environment = {**os.environ, "HF_MODULES_CACHE": str(folder / "modules"), "PYTHONPATH": ""}
    command = [sys.executable, str(script), str(folder / "cases.json")]
    completed = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr[-2000:]
    scores: list[list[list[float]]] = json.loads(completed.stdout)
    return scores
