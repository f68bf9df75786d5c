"""Test the page of an experiment in a real headless browser: screen, phone and print."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from basereward.evaluation.items import Item, JudgedItem, Outcome
from basereward.evaluation.protocols.mm_rlhf_rewardbench import MMRLHFRewardBench
from basereward.evaluation.reports.experiment.make import make_page
from basereward.recipe import load_experiment
from tests.helpers.experiment_runs import finished_run, write_measures

ROOT = Path(__file__).parents[3]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a chromium on the PATH")
POINTS = 72 / 25.4  # PDF points in a millimetre


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the page of `head_depth` with its published table, a benchmark with many columns, and one unfinished
    cell."""
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
        make_page("head_depth", profile="tiny", overrides=(), out=folder / "head_depth.html")
    return folder / "head_depth.html"


def run_browser(folder: Path, *options: str) -> str:
    """Run the browser and return its stdout."""
    assert BROWSER
    common_options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    completed = subprocess.run(
        [BROWSER, *common_options, *options], capture_output=True, text=True, check=True, timeout=180
    )
    return completed.stdout


def evaluated_in_page(page: Path, script: str, *, width: int) -> str:
    """Return the value of `script` in the page at a width in pixels.

    The page's policy forbids scripts, so the script runs in a copy without the policy.
    """
    text, removed = re.subn(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page.read_text(encoding="utf-8"))
    assert removed == 1
    inner = html.escape(text.replace("</body>", f"<script>parent.document.title = {script}</script></body>"))
    frame = page.with_name(f"frame-{width}.html")
    content = f'<title>-</title><iframe width="{width}" height="900" srcdoc="{inner}"></iframe>'
    frame.write_text(content, encoding="utf-8")
    dom = run_browser(page.parent, "--virtual-time-budget=3000", "--dump-dom", frame.as_uri())
    title = re.search(r"<title>(.*?)</title>", dom)
    assert title
    return html.unescape(title[1])


@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_the_screen(page: Path, width: int) -> None:
    """With all details open, only the published table scrolls on a phone, and nothing scrolls on a screen."""
    script = (
        "(() => { document.querySelectorAll('details').forEach((each) => { each.open = true; });"
        "const box = document.querySelector('.printed').parentElement;"
        "return [document.documentElement.scrollWidth <= innerWidth, box.scrollWidth > box.clientWidth]; })()"
    )
    assert evaluated_in_page(page, script, width=width) == f"true,{'true' if width == 390 else 'false'}"


def test_pictures_are_embedded_and_nothing_is_fetched(page: Path) -> None:
    """The browser decodes all seven figures, requests no resource, and applies the style under the page's policy."""
    script = (
        "(() => { const images = [...document.images];"
        "const loaded = performance.getEntriesByType('resource').filter(({ name }) => !/^data:/.test(name)).length;"
        "return [images.length, images.every((each) => each.complete && each.naturalWidth > 0), loaded]; })()"
    )
    assert evaluated_in_page(page, script, width=1000) == "7,true,0"
    screenshot = page.with_name("page.png")
    run_browser(page.parent, "--window-size=600,400", f"--screenshot={screenshot}", page.as_uri())
    import PIL.Image

    with PIL.Image.open(screenshot) as image:
        # The background colour shows that the style is applied.
        assert image.convert("RGB").getpixel((2, 2)) == (0xF6, 0xF6, 0xF4)


def test_page_prints_on_a4(page: Path) -> None:
    """The pages are upright A4, the published table is on one page, and all its numbers are in the text."""
    if shutil.which("pdftotext") is None:
        pytest.skip("needs pdftotext (poppler-utils)")
    pdf = page.with_suffix(".pdf")
    run_browser(page.parent, "--no-pdf-header-footer", f"--print-to-pdf={pdf}", page.as_uri())
    info = subprocess.run(["pdfinfo", str(pdf)], capture_output=True, text=True, check=True).stdout
    size = re.search(r"Page size: +([\d.]+) x ([\d.]+)", info)
    assert size
    assert [round(float(length) / POINTS) for length in size.groups()] == [210, 297]
    command = ["pdftotext", "-layout", str(pdf), "-"]
    pages = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\f")
    (table,) = [text for text in pages if "1 layer" in text and "64.5" in text]
    for row in ("2 layers, Tanh", "5 layers, SiLU"):
        assert row in table
    for number in ("66.7", "73.2", "78.3", "73.5", "72.7", "88.8", "73.9"):
        assert number in table
