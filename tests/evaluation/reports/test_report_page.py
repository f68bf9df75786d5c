"""Test the report page of evaluations: its numbers against the files, and its display in a real browser."""

from __future__ import annotations

import csv
import json
import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from basereward.errors import DataError
from basereward.evaluation.reports.evaluation_report import report
from tests.helpers.browser import (
    DESKTOP,
    PHONE,
    are_decoded,
    axe_violations,
    num_pages,
    open_details,
    opened_page,
    overlaps,
    scrolls_sideways,
)
from tests.helpers.evaluation_folders import item, measure, write_folder

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[3]
EVIL = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"


@pytest.fixture(scope="module")
def report_result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Write a report of two models on one benchmark, one of them partial and with markup in its texts, and a judge on
    another."""
    folder = tmp_path_factory.mktemp("report")
    rows = [item(row, row > 2, prompt=EVIL, responses=["w" * 900, EVIL]) for row in range(4)]
    folders = [
        write_folder(folder / "ours", [True] * 5 + [False], variants={"official": {"overall": measure(1027, 1250)}}),
        write_folder(folder / "b", [True], rows=rows, name=f"$x_1$ {EVIL}", items=6),
        write_folder(folder / "judge", [True, False, None], benchmark="rm_bench", order="both", votes=5),
    ]
    head = Path(folders[1]) / "evaluation.json"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"items": 6, "scored": 4, "partial": "4 of 6"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
        return report(folders, out=str(folder / "page.html"))


def embedded(report_result: dict[str, Any]) -> Any:
    """Return the data that the page contains."""
    text = Path(report_result["out"]).read_text(encoding="utf-8")
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert match
    return json.loads(match[1])


def test_csv_has_the_numbers_of_the_page(report_result: dict[str, Any]) -> None:
    """Rows and columns are equal, a missing value is an empty cell, and published values have the same variant."""
    with Path(report_result["csv"]).open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    rows = [row for benchmark in embedded(report_result)["benchmarks"] for row in benchmark["rows"]]
    assert table == [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
    (ours,) = [row for row in table if row["model"] == "ours"]
    assert (float(ours["value"]), ours["numerator"], ours["denominator"]) == (0.8216, "1027", "1250")
    printed = [row for row in table if row["source"] == "published" and row["benchmark"] == "vl_rewardbench"]
    assert {row["variant"] for row in printed} == {"official"}
    assert ["82.16", "BaseReward (Qwen2.5-VL)"] in [
        [f"{100 * float(printed_row['value']):.2f}", printed_row["model"]] for printed_row in printed
    ]


def test_figures_are_files_and_embedded_pictures(report_result: dict[str, Any]) -> None:
    """Every section has a forest plot, and a bar chart where there are categories; all are embedded. The partial
    evaluation has a section of its own."""
    assert report_result["evaluations"] == 3
    assert all(Path(figure).read_bytes().startswith(b"\x89PNG") for figure in report_result["figures"])
    assert {Path(figure).parent for figure in report_result["figures"]} == {Path(report_result["out"]).with_suffix("")}
    uris = [figure["uri"] for benchmark in embedded(report_result)["benchmarks"] for figure in benchmark["figures"]]
    assert len(uris) == len(set(report_result["figures"])) == len(report_result["figures"]) == 5
    assert all(uri.startswith("data:image/svg+xml;base64,") for uri in uris)


def test_browser_shows_the_evaluations(browser: Browser, report_result: dict[str, Any]) -> None:
    """The page shows values, counts, intervals, partial evaluations, orders and baselines, and markup in the data as
    text. It asks for nothing but itself."""
    file = Path(report_result["out"])
    with opened_page(browser, file) as opened:
        open_details(opened.page)
        text = re.sub(r"\s+", " ", opened.page.inner_text("body"))
        assert "ours 82.16 1,027 / 1,250 77.16\N{EN DASH}87.16 wilson 0 0 0 none" in text
        assert "both orders, 5 votes" in text
        assert "random answer 50.00 · longer answer 42.60 · shorter answer 56.50 · first answer 99.60" in text
        tables = opened.page.locator("table.cards").all_inner_texts()
        # It has a section of its own, without a table of agreement.
        assert sum("scored 4 of 6" in table for table in tables) == 1
        assert "vl_rewardbench 1, in part" in text
        assert opened.page.title() == "Benchmarks"
        assert opened.page.locator("[src=x]").count() == 0
        assert text.count(EVIL) >= 6
        gallery = opened.page.locator("details.errors", has_text="$x_1$").inner_text()
        assert re.findall("margin \N{MINUS SIGN}([0-9])", gallery) == ["3", "2", "1"]
        assert opened.requests == [file.resolve().as_uri()]
        assert opened.errors == []


@pytest.fixture(scope="module")
def two_by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a report of two models on two benchmarks with three variants each and 30 wrong items with pictures and long
    texts."""
    folder = tmp_path_factory.mktemp("two")
    rng = random.Random(0)
    folders = []
    for benchmark in ("vl_rewardbench", "rm_bench"):
        for place, model in enumerate(("small", "large")):
            right = [rng.random() < 0.4 + 0.3 * place for _ in range(100)]
            texts = {"prompt": "question " * 40, "responses": ["good " * 200, "bad " * 300]}
            rows = [item(row, correct, **texts) for row, correct in enumerate(right)]
            metrics = {"overall": measure(sum(right), 100), "general": measure(1, 3), "reasoning": measure(2, 3)}
            variants = {"official": metrics, "first_order": metrics, "per_prompt": metrics}
            fields = {"rows": rows, "name": model, "variants": variants, "benchmark": benchmark}
            folders.append(write_folder(folder / f"{benchmark}-{model}", right, **fields))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
        return Path(report(folders, out=str(folder / "page.html"))["out"])


def test_page_begins_with_models_by_benchmarks(browser: Browser, two_by_two: Path) -> None:
    """The first table has a row per model, the best first, and a column per benchmark; a click sorts it. Only the first
    variant of a benchmark is open."""
    with opened_page(browser, two_by_two) as opened:
        table = opened.page.locator("main table").first
        assert [text.split("\n")[0] for text in table.locator("thead th").all_inner_texts()] == [
            "model",
            "vl_rewardbench 1",
            "rm_bench 1",
        ]
        names = table.locator("tbody tr.measured th")
        assert names.all_inner_texts() == ["large", "small"]
        table.get_by_role("button", name="rm_bench").click()
        table.get_by_role("button", name="rm_bench").click()
        assert names.all_inner_texts() == ["small", "large"]
        assert table.locator("tbody tr").last.get_attribute("class") == "baseline"
        opens = opened.page.locator("#benchmark-0 > details").evaluate_all("(all) => all.map((node) => node.open)")
        assert opens[:3] == [True, False, False]
        agreement = opened.page.locator("table.cards", has_text="Kappa")
        assert agreement.locator("tbody th").all_inner_texts() == ["small and large"] * 2


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_page_is_readable(
    browser: Browser, two_by_two: Path, report_result: dict[str, Any], size: dict[str, int], dark: bool
) -> None:
    """With everything open, neither page scrolls sideways, no element covers another, all figures are decoded, and
    axe-core finds no fault."""
    for file in (two_by_two, Path(report_result["out"])):
        with opened_page(browser, file, size=size, dark=dark) as opened:
            open_details(opened.page)
            opened.page.evaluate("document.querySelectorAll('tr').forEach((row) => { row.hidden = false; })")
            assert not scrolls_sideways(opened.page)
            assert overlaps(opened.page) == []
            assert axe_violations(opened.page) == []
            assert are_decoded(opened.page, "main img")
            alternatives = opened.page.locator("figure img").evaluate_all("(all) => all.map((image) => image.alt)")
            assert all(re.search(r"\d", alternative) for alternative in alternatives)


def test_page_of_two_models_prints_on_ten_pages(browser: Browser, two_by_two: Path) -> None:
    """The errors and what is folded are not printed."""
    with opened_page(browser, two_by_two) as opened:
        assert 1 < num_pages(opened.page.pdf(prefer_css_page_size=True)) <= 10


@pytest.mark.parametrize(
    ("folders", "out", "message"),
    [
        ([], None, "no evaluation is given"),
        (["a", "a"], None, "given more than once"),
        (["a"], "page", "must end in .html"),
        (["a"], "no/page.html", "there is no folder 'no'"),
        (["nowhere"], None, "evaluation.json"),
    ],
)
def test_invalid_arguments_write_no_page(
    folders: list[str], out: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call raises an error that explains the mistake."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "a", [True])
    with pytest.raises(DataError, match=message):
        report(folders, out=out)
    assert not list(tmp_path.rglob("*.html"))
