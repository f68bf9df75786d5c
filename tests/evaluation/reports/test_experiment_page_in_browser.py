"""Test the page of an experiment in a real headless browser: screen, phone, dark mode and print."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image
import pytest

from basereward.evaluation.items import Item, JudgedItem, Outcome
from basereward.evaluation.protocols.mm_rlhf_rewardbench import MMRLHFRewardBench
from basereward.evaluation.reports.experiment.index import report_sweep
from basereward.recipe import load_experiment
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
from tests.helpers.experiment_runs import finished_run, write_measures

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[3]
POINTS = 72 / 25.4  # PDF points in a millimetre


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the page of `head_depth` with its published table, a benchmark with many columns, one unfinished cell, and
    another sweep."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
        patch.setenv("BASEREWARD_RUNS", str(folder / "runs"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        for place, cell in enumerate(load_experiment("head_depth").cells[:-1]):
            run = finished_run(cell, accuracy=0.6 + 0.05 * place, seed=place)
            if place < 2:
                items = [
                    Item(index, f"{index}", "?", ("a", "b"), (0,), (1,), f"{index // 2}", {"category": name})
                    for index, name in enumerate(["mcq", "long", "short", "safety", "video"] * 4)
                ]
                judged = [JudgedItem(item, Outcome(correct=item.row % 3 > 0)) for item in items]
                write_measures(run, "mm_rlhf_rewardbench", MMRLHFRewardBench().variants, judged)
        finished_run(load_experiment("head_depth", overrides=["trainer.steps=30"]).cells[0])
        report = report_sweep("head_depth", root=folder / "reports", profile="tiny", overrides=())
    assert report.settings.name == "default"
    return report.page.out


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_are_readable(browser: Browser, page: Path, size: dict[str, int], dark: bool) -> None:
    """With all details open, the page of the sweep and the index of the sweeps do not scroll sideways, no element
    covers another, and axe-core finds no fault."""
    for file in (page, page.parents[1] / "index.html"):
        with opened_page(browser, file, size=size, dark=dark) as opened:
            open_details(opened.page)
            assert not scrolls_sideways(opened.page)
            assert overlaps(opened.page) == []
            assert axe_violations(opened.page) == []
            assert opened.errors == []


def test_figures_are_in_the_page_and_follow_dark_mode(browser: Browser, page: Path) -> None:
    """The browser decodes all seven figures and asks for nothing but the page. In dark mode a figure has a dark
    background and light letters, otherwise the reverse. Its alternative text has numbers."""
    for dark in (False, True):
        with opened_page(browser, page, dark=dark) as opened:
            images = opened.page.locator("main img")
            assert images.count() == 7
            assert are_decoded(opened.page)
            assert opened.requests == [page.resolve().as_uri()]
            with PIL.Image.open(io.BytesIO(images.first.screenshot())) as image:
                grey = image.convert("L")
            darkest, lightest = grey.getextrema()
            background = grey.getpixel((1, 1))
            assert abs(background - (darkest if dark else lightest)) < 8
            assert lightest - darkest > 150
            for alternative in images.evaluate_all("(all) => all.map((image) => image.alt)"):
                assert len(re.findall(r"\d", alternative)) >= 4


def test_columns_sort(browser: Browser, page: Path) -> None:
    """The best recipe is first. A click on a column sorts by it, another click turns the order, rows without a value
    and the baselines stay last, and the order is announced."""
    with opened_page(browser, page) as opened:
        table = opened.page.locator("#results table")
        names = table.locator("tbody th")

        def first_and_last() -> tuple[str, str]:
            texts = [text.split("\n")[0] for text in names.all_inner_texts()]
            assert texts[-3:] == ["head=5_silu", "longer answer", "random answer"]
            return texts[0], texts[-4]

        assert first_and_last() == ("head=4_silu", "head=1_none")
        head = table.locator("thead th").nth(1)
        assert head.get_attribute("aria-sort") == "descending"
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == "ascending"
        assert first_and_last() == ("head=1_none", "head=4_silu")
        table.locator("thead th").first.get_by_role("button").focus()
        opened.page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") is None
        assert names.all_inner_texts()[0] == "head=1_none"


def test_wide_tables_say_that_they_scroll(browser: Browser, page: Path) -> None:
    """On a phone the name and the score are side by side in view, and a hint is above the table until it fits. On a
    screen the table of results has no hint."""
    with opened_page(browser, page, size=PHONE) as opened:
        results = opened.page.locator("#results")
        assert results.locator(".cue").is_visible()
        box = results.locator("tbody td").first.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= PHONE["width"]
        wide = results.locator(".wide")
        assert "more-right" in (wide.get_attribute("class") or "")
        wide.evaluate("(node) => { node.scrollLeft = node.scrollWidth; }")
        opened.page.wait_for_function("!document.querySelector('#results .wide').classList.contains('more-right')")
    with opened_page(browser, page) as opened:
        assert not opened.page.locator("#results .cue").is_visible()


def test_page_prints_on_a4(browser: Browser, page: Path) -> None:
    """The pages are upright A4 and at most ten; the published table is on one page, and all its numbers are in the
    text."""
    pdf = page.with_suffix(".pdf")
    with opened_page(browser, page) as opened:
        content = opened.page.pdf(path=str(pdf), prefer_css_page_size=True)
    assert 1 < num_pages(content) <= 10
    (size,) = set(re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", content))
    assert [round(float(length) / POINTS) for length in size] == [210, 297]
    if shutil.which("pdftotext") is None:
        pytest.skip("the text of the page needs pdftotext (poppler-utils)")
    command = ["pdftotext", "-layout", str(pdf), "-"]
    pages = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\f")
    (table,) = [text for text in pages if "1 layer" in text and "64.5" in text]
    for row in ("2 layers, Tanh", "5 layers, SiLU"):
        assert row in table
    for number in ("66.7", "73.2", "78.3", "73.5", "72.7", "88.8", "73.9"):
        assert number in table
