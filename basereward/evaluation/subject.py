"""Resolve what is evaluated: its name, the folder of its evaluations, and the run that it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from basereward.errors import DataError
from basereward.evaluation.benchmark import Benchmark
from basereward.evaluation.judging.judge import Judge
from basereward.evaluation.outcome import BASELINES
from basereward.io.files import files_below
from basereward.io.limits import read_json
from basereward.io.names import check_name
from basereward.runs.params import clean_name
from basereward.runs.resolve_model import resolve_model
from basereward.runs.run_folder import RunFolder

FOLDER = "evaluations"


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a model, a judge, a baseline, or a file of outcomes.

    >>> Subject("random", "random", Path("evaluations/random")).is_model
    False
    """

    name: str
    """in tables"""
    model: str
    """a run id, a path, the name of a judge or of a baseline"""
    folder: Path
    """gets one folder per benchmark"""
    run: RunFolder | None = None
    fingerprint: str = ""
    """of the files of a model; empty for everything else"""
    model_folder: Path | None = None
    """of a model; None for everything else"""

    @property
    def is_model(self) -> bool:
        """Whether this is a reward model that computes scores."""
        return bool(self.fingerprint)


def find_subject(
    model: str | None, scores: str | None, judge: Judge | None, *, out: str | None, name: str | None
) -> Subject:
    """Resolve the subject from the options of the command line.

    Args:
        model: what `load` opens, or the name of a baseline.
        scores: a file of outcomes.
        judge: a generative judge.
        out: the folder for its evaluations, if not the default.
        name: its name in tables, if not the default.

    Raises:
        DataError: not exactly one of `model`, `scores` and `judge` is given, or the name is not allowed.
        RunError: there is no such model.

    >>> find_subject("longer", None, None, out=None, name=None).folder
    PosixPath('evaluations/longer')
    """
    if [model, scores, judge].count(None) != 2:
        raise DataError("give exactly one of a model to evaluate, --scores with a file of outcomes, and --judge")
    if name is not None:
        check_name(name, what="--name", error=DataError)
    if judge is not None:
        # The name of a hub model has a slash, and becomes the name of a folder.
        return _other_subject(judge.engine.name, name or clean_name(judge.engine.name).replace("/", "_"), out)
    if scores is not None:
        return _other_subject(str(Path(scores).absolute()), name or Path(scores).stem, out)
    assert model is not None
    if _is_baseline(model):
        return _other_subject(model, name or model, out)
    return _model_subject(model, out=out, name=name)


def _is_baseline(model: str) -> bool:
    # A folder of a model may have the name of a baseline; the folder is meant then.
    return model in BASELINES and not Path(model).exists()


def check_names(benchmarks: Sequence[Benchmark], subject: Subject) -> None:
    """Check that no evaluation of something else, and no other benchmark, would be overwritten.

    Raises:
        DataError: two benchmarks have one name, or a folder holds the evaluation of another model.

    >>> check_names([], Subject("random", "random", Path("evaluations/random")))
    """
    names = [benchmark.name for benchmark in benchmarks]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"several benchmarks are called {', '.join(repeated)}; give them files of different names")
    for name in names:
        file = subject.folder / name / "evaluation.json"
        try:
            earlier = read_json(file)["model"]
        except (OSError, ValueError, LookupError, TypeError):
            # There is none, or it is damaged and of no use.
            continue
        if earlier != subject.model:
            raise DataError(
                f"{file.parent} holds the evaluation of {earlier}, not of {subject.model}; choose another name with "
                "--name, or another folder with --out"
            )


def _other_subject(model: str, name: str, out: str | None) -> Subject:
    return Subject(name, model, Path(out or Path(FOLDER) / name))


def _model_subject(model: str, *, out: str | None, name: str | None) -> Subject:
    path = resolve_model(model)
    run = RunFolder(path.parent) if (path.parent / "status.json").is_file() else None
    if run is None:
        shown_name = name or path.name
        return Subject(shown_name, str(path), Path(out or Path(FOLDER) / shown_name), None, _fingerprint(path), path)
    return Subject(name or run.name, run.run_id, Path(out or run.path / FOLDER), run, _fingerprint(path), path)


def _fingerprint(folder: Path) -> str:
    """A hash that changes if a file of the model does."""
    # By size and modification time: weights of a 7B model are 15 GB, and reading them takes a minute.
    states = []
    for file in files_below(folder):
        states.append((str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns))
    return hashlib.sha256(repr(states).encode()).hexdigest()
