"""The names of stand-ins of published benchmarks. This module imports nothing, so that a plan is shown at once."""

from __future__ import annotations

FOLDER = "stand_ins"
"""Of the YAML files in `experiments/benchmarks`, and of the made rows in the cache."""


def stand_in_name(benchmark: str) -> str:
    """The name of the stand-in of a benchmark, under which its evaluations are kept.

    >>> stand_in_name("vl_rewardbench")
    'stand_in_vl_rewardbench'
    """
    return f"stand_in_{benchmark}"


def stand_in_file(benchmark: str) -> str:
    """The name by which the stand-in of a benchmark is opened.

    >>> stand_in_file("vl_rewardbench")
    'stand_ins/vl_rewardbench'
    """
    return f"{FOLDER}/{benchmark}"
