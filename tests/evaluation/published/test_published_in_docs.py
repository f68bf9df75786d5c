"""Test that every published number in the documentation is that of a file, with its source and its variant, and that no
value of one variant stands beside one of another."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from basereward.evaluation.benchmark import load_benchmark
from basereward.evaluation.evaluation_folder import Evaluation, StoredMeasure
from basereward.evaluation.published.published import every_value
from basereward.evaluation.published.published_file import read_table
from basereward.evaluation.published.published_table import PublishedTable, named_tables
from basereward.evaluation.published.published_value import METRICS, UNKNOWN, VARIANTS
from basereward.evaluation.reports.experiment.gather import Contender
from basereward.evaluation.reports.experiment.paper_comparison import difference, measured_cells
from basereward.evaluation.reports.numbers import numbers

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "experiments" / "published"
FILES = sorted(FOLDER.glob("*.yaml"))
TABLES = named_tables(FOLDER)
PAGES = [ROOT / "README.md", ROOT / "BENCHMARKS.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Its numbers are tested row by row.
PAGES.remove(ROOT / "docs" / "published.md")
# Label in docs/published.md, without the numbers of tables -> the files that it is about, or the beginning of their
# names before these numbers.
LABELS = {
    "BaseReward": "basereward_table_",
    "R1-Reward": "r1_reward_table_",
    "R1-Reward, Figure 1": "r1_reward_figure_1",
    "DT2IT-MRM": "dt2it_mrm",
    "MMRB2": "multimodal_rewardbench_2",
    "Omni-RewardBench": "omni_rewardbench",
    "VL-RewardBench, critic training": "vl_rewardbench_critic_training",
    "VL-RewardBench, best of N": "vl_rewardbench_best_of_n",
    "YOJO": "yojo",
}
# How the documentation cites a paper, and the beginning of the names of its files.
CITED = {"BaseReward, Table ": "basereward_table_", "DT2IT-MRM (": "dt2it_mrm"}
DECIMAL = re.compile(r"(?<![\d.])\d+\.\d+(?![\d.])")
COUNT = re.compile(r"\b(\d+)/(\d+)\b")


def corrections() -> list[list[str]]:
    """Return the rows of the table of corrections in docs/published.md."""
    text = (ROOT / "docs" / "published.md").read_text(encoding="utf-8")
    section = text.partition("## What is corrected")[2].partition("\n\nR1-Reward was")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def files_of(label: str) -> list[str]:
    """Return the names of the files of a row of corrections."""
    if label in LABELS:
        return [LABELS[label]]
    paper, _, numbers_text = label.partition(" ")
    return [LABELS[paper] + number for number in numbers_text.split(", ")]


def texts_of(content: Any) -> Iterator[str]:
    """Yield the texts in the content of a file."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for inner in content.values() if isinstance(content, dict) else content:
            yield from texts_of(inner)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_value_names_its_source(file: Path) -> None:
    """A value has a paper and a place in it. Its arXiv number is in the line `# From` of the file; a source without one
    is named there by an address or as a README. What is known from others' accounts says so in its note."""
    content = yaml.safe_load(file.read_text())
    origin = file.read_text().partition("# From ")[2].partition("\npaper:")[0]
    number = content["paper"]["arxiv"]
    if number is not None:
        assert f"arXiv:{number}" in origin
    else:
        assert re.search(r"\w\.(io|com|org)\b|README", origin)
    for value in read_table(file):
        assert value.paper.strip()
        assert value.table.strip()
        assert number is None or number in value.paper
        assert value.variant == UNKNOWN or value.variant in VARIANTS[value.benchmark]
        assert value.metric in METRICS[value.benchmark]
    if re.search(r"known from (a|an|accounts)\b", origin):
        assert "Known from" in content.get("note", ""), file.stem


@pytest.mark.parametrize("row", corrections(), ids=lambda row: f"{row[0]}: {row[1][:40]}")
def test_numbers_of_a_correction_are_those_of_the_file(row: list[str]) -> None:
    """Each number under "printed" is printed in the file and is corrected or of an unknown variant there. Each one
    under "what it is" is a value of the file, or in its reasons; each count is that of a value, or in its reasons."""
    label, printed, what_it_is = row
    values = [value for name in files_of(label) for value in read_table(FOLDER / f"{name}.yaml")]
    reasons = " ".join(
        text for name in files_of(label) for text in texts_of(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))
    )
    marked = [value for value in values if value.corrected or value.variant == UNKNOWN]
    assert marked
    for number in re.findall(DECIMAL, re.sub(r"Qwen2\.5|Claude[- ]3\.[57]|GPT-5\.2", "", printed)):
        assert float(number) in {value.printed for value in marked}, number
    for number in re.findall(DECIMAL, what_it_is):
        digits = len(number.partition(".")[2])
        shares = {f"{100 * value.value:.{digits}f}" for value in values}
        assert number in shares or number in reasons, number
    for right, total in re.findall(COUNT, what_it_is):
        known = (int(right), int(total)) in {value.count for value in values} or f"{right}/{total}" in reasons
        # Sizes of the three categories, 484/448/318, and 1/170 are no counts of a value.
        assert known or right == "1" or f"{right}/{total}/" in what_it_is or f"/{right}/{total}" in what_it_is
    if what_it_is.endswith("unknown"):
        assert [value for value in values if value.variant == UNKNOWN]


def test_every_file_with_a_correction_is_in_the_table() -> None:
    """A reader of docs/published.md learns of all corrected tables."""
    listed = set(itertools.chain.from_iterable(files_of(row[0]) for row in corrections()))
    corrected = {file.stem for file in FILES if yaml.safe_load(file.read_text()).get("corrections")}
    assert corrected - listed == set()


def citations(text: str) -> list[tuple[str, str, str]]:
    """Return of each citation of a table the name of its file, what stands in parentheses, and the claim after it."""
    pattern = re.compile("|".join(f"({re.escape(words)})" for words in CITED))
    places = list(pattern.finditer(text))
    found: list[tuple[str, str, str]] = []
    for place, following in itertools.zip_longest(places, places[1:]):
        claim = re.split(r"\||\n", text[place.end() : following.start() if following else None])[0]
        number = re.match(r"\d+", claim)
        name = CITED[place[0]] + (number[0] if number and place[0].endswith("Table ") else "")
        within = re.search(r"\(([^()]*)\)", claim) if number else re.match(r"([^()]*)\)", claim)
        # A citation that ends with a parenthesis has the rest of it before its claim.
        found.append((name, within[1] if within else "", claim if number else claim.partition(")")[2]))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_numbers_after_a_citation_are_of_its_table_and_variant(page: Path) -> None:
    """Where a page cites a table and gives numbers, the parentheses after it have the variant of all of them, or say
    that it is unknown."""
    for name, within, claim in citations(page.read_text(encoding="utf-8")):
        given = [float(number) for number in re.findall(DECIMAL, re.sub(r"\([^()]*\)|Qwen\d\.5", "", claim))]
        if not given:
            continue
        values = read_table(FOLDER / f"{name}.yaml")
        variants = set(re.findall(r"`(\w+)`", within))
        assert variants, f"{page.name}: no variant after the citation of {name}: {within}"
        for number in given:
            of_number = {value.variant for value in values if number in (value.printed, round(100 * value.value, 1))}
            assert of_number & variants, f"{page.name}: {number} of {name} is of {of_number}, not of {variants}"


def share_of(*names: str) -> float:
    """Return a share that no other names have."""
    return int(hashlib.sha256("/".join(names).encode()).hexdigest()[:8], 16) / 16**8


def evaluation_of(benchmark: str) -> Evaluation:
    """Return a whole evaluation in which every metric of every variant has another value."""
    variants: dict[str, dict[str, StoredMeasure]] = {}
    for variant in load_benchmark(benchmark).variants:
        variants[variant] = {
            metric: StoredMeasure(
                value=share_of(benchmark, variant, metric),
                **{"numerator": None, "denominator": None, "low": None, "high": None, "interval": None},
                **{"ties": 0, "undecided": 0, "baselines": {}},
            )
            for metric in METRICS[benchmark]
        }
    facts: dict[str, Any] = {"version": "1", "name": "ours", "model": "ours", "kind": "scores", "order": None}
    facts |= {"votes": None, "items": 1, "scored": 1, "expected": 1, "partial": None, "fingerprint": None}
    return Evaluation(folder=benchmark, benchmark=benchmark, run_id=None, variants=variants, rows=(), **facts)


@pytest.fixture(autouse=True)
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the project's benchmarks."""
    monkeypatch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))


@pytest.mark.parametrize("name", [name for name, table in TABLES.items() if table.experiments])
def test_our_value_is_of_the_variant_of_the_printed_one(name: str) -> None:
    """With evaluations in which every variant has another value, each of our cells has that of a variant of the printed
    number. A number of an unknown variant has no value of ours beside it, and one that is of none of the variants that
    its table states has no difference."""
    table: PublishedTable = TABLES[name]
    run: Any = SimpleNamespace(evaluations=[evaluation_of(benchmark) for benchmark in table.benchmarks])
    contender = Contender("ours", results=[], trained=[run])
    for row, cells in table.rows.items():
        measured = measured_cells(table, row, contender)
        for column, printed in cells.items():
            if column in table.means:
                continue
            allowed = [share_of(printed.benchmark, variant, printed.metric) for variant in printed.variants]
            assert (column in measured) == bool(allowed), (row, column)
            if allowed:
                assert measured[column].value == allowed[0]
                assert measured[column].variant == printed.variants[0]
                assert (difference(printed, measured[column]) is None) == (not printed.known)
        parts = {column: [measured.get(part) for part in of] for column, of in table.means.items() if column in cells}
        assert all((column in measured) == all(parts[column]) for column in parts)


@pytest.mark.parametrize("benchmark", sorted(set(VARIANTS) - {"mean_of_benchmarks"}))
def test_report_lists_published_values_under_their_own_variant(benchmark: str) -> None:
    """The rows of a report have every published value of a variant of ours once, below that variant, and none of an
    unknown one."""
    values = every_value(FOLDER)
    ours = evaluation_of(benchmark)
    rows = [row for row in numbers([ours], {benchmark: "ours"}, values) if row["source"] == "published"]
    listed = sorted((row["variant"], row["metric"], row["model"], row["paper"], row["value"]) for row in rows)
    expected = sorted(
        (value.variant, value.metric, value.model, value.paper, value.value)
        for value in values
        if value.benchmark == benchmark and value.variant in ours.variants
    )
    assert listed == expected
    assert UNKNOWN not in {row["variant"] for row in rows}
