"""The suites of benchmarks: which benchmarks `basereward eval --suite` runs, and which number stands for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from basereward.errors import RecipeError, unknown
from basereward.recipe.yaml.files import experiments_folders, yaml_files
from basereward.recipe.yaml.include import Reader

ALL = "all"
"""Name of the suite that has all other suites."""


@dataclass(frozen=True, slots=True)
class SuiteMember:
    """A benchmark of a suite.

    >>> SuiteMember("rm_bench", "text", (("domain_mean", "overall"),)).suite
    'text'
    """

    benchmark: str
    suite: str
    headline: tuple[tuple[str, str], ...]
    """(variant, metric); the first one that is counted stands for the benchmark"""


def suite_members(suite: str) -> list[SuiteMember]:
    """Lists the benchmarks of a suite: those whose files name it, in the order of their names.

    Args:
        suite: its name; `all` for all suites, one after the other.

    Raises:
        RecipeError: no benchmark names such a suite, or the file of a benchmark is wrong.

    >>> [member.benchmark for member in suite_members("text")]
    ['judgebench', 'rewardbench', 'rewardbench_2', 'rm_bench']
    """
    members = _members()
    if suite == ALL:
        return sorted(members, key=lambda member: member.suite)
    of_suite = [member for member in members if member.suite == suite]
    if not of_suite:
        raise RecipeError(unknown("suite", suite, suite_names()))
    return of_suite


def suite_names() -> list[str]:
    """Lists the suites that the files of benchmarks name, and `all`.

    Raises:
        RecipeError: the file of a benchmark is wrong.

    >>> suite_names()
    ['multimodal', 'text', 'all']
    """
    return [*sorted({member.suite for member in _members()}), ALL]


def _members() -> list[SuiteMember]:
    reader = Reader(experiments_folders())
    members: list[SuiteMember] = []
    for file in yaml_files(reader.subfolders("benchmarks")):
        # The other keys are checked when the benchmark is opened, where classes outside the package may be trusted.
        values = reader.read(file).values
        if isinstance(values.get("suite"), str):
            members.append(SuiteMember(file.stem, values["suite"], _headline(file.stem, values)))
    return members


def _headline(benchmark: str, values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The measures that may stand for a benchmark."""
    given = values.get("headline")
    pairs = [tuple(str(name).split("/")) for name in given] if isinstance(given, list) else []
    if not pairs or any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise RecipeError(
            f"benchmark '{benchmark}' is in the suite '{values['suite']}', and its headline is {given}; a list of "
            "VARIANT/METRIC is needed, such as [published/overall]"
        )
    return tuple((variant, metric) for variant, metric in pairs)
