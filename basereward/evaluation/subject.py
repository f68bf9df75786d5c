"""What is evaluated: its name, where its evaluations lie, and the run that it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from basereward.errors import DataError
from basereward.evaluation.benchmark import Benchmark
from basereward.evaluation.judging.judge import Judge
from basereward.evaluation.outcome import BASELINES
from basereward.io.names import check_name
from basereward.runs.params import clean_name
from basereward.runs.resolve_model import resolve_model
from basereward.runs.run_folder import RunFolder

FOLDER = "evaluations"


@dataclass(frozen=True)
class Subject:
    """What is evaluated; `fingerprint` changes with the files of a model."""

    name: str
    model: str
    folder: Path
    run: RunFolder | None = None
    fingerprint: str = ""


def find_subject(
    model: str | None, scores: str | None, judge: Judge | None, *, out: str | None, name: str | None
) -> Subject:
    """
    Raises:
        DataError: not one of the three is given, or the name is none.
        RunError: there is no such model.
    """
    if (model is not None) + (scores is not None) + (judge is not None) != 1:
        raise DataError(
            "give a model to evaluate, --scores with a file of outcomes made elsewhere, or --judge; one of the three"
        )
    if name is not None:
        check_name(name, what="--name", error=DataError)
    if judge is not None:
        shown = name or clean_name(judge.engine.name).replace("/", "_")
        return Subject(shown, judge.engine.name, Path(out or Path(FOLDER) / shown))
    if scores is not None:
        shown = name or Path(scores).stem
        return Subject(shown, str(Path(scores).absolute()), Path(out or Path(FOLDER) / shown))
    assert model is not None
    if model in BASELINES and not Path(model).exists():
        return Subject(name or model, model, Path(out or Path(FOLDER) / (name or model)))
    path = resolve_model(model)
    run = RunFolder(path.parent) if (path.parent / "status.json").is_file() else None
    shown = name or (run.name if run else path.name)
    default = run.path / FOLDER if run else Path(FOLDER) / shown
    asked = run.run_id if run else str(path)
    return Subject(shown, asked, Path(out) if out else default, run, _fingerprint(path))


def check_names(benchmarks: Sequence[Benchmark], subject: Subject) -> None:
    """Two benchmarks of one name, or the evaluation of something else, would be overwritten."""
    names = [benchmark.name for benchmark in benchmarks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"several benchmarks are called {', '.join(twice)}; give them files of different names")
    for name in names:
        file = subject.folder / name / "evaluation.json"
        try:
            before = json.loads(file.read_text())["model"]
        except (OSError, ValueError, LookupError, TypeError):
            continue
        if before != subject.model:
            raise DataError(
                f"{file.parent} holds the evaluation of {before}, not of {subject.model}; call this one otherwise with "
                "--name, or put it elsewhere with --out"
            )


def _fingerprint(folder: Path) -> str:
    """Changes when a file of the model does: by size and time, since weights are too large to be read for it."""
    files = sorted(each for each in folder.rglob("*") if each.is_file())
    told = [(str(each.relative_to(folder)), each.stat().st_size, each.stat().st_mtime_ns) for each in files]
    return hashlib.sha256(repr(told).encode()).hexdigest()
