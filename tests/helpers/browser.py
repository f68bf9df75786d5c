"""A real headless Chromium for tests of pages: those of reports, of `look` and of MLflow.

Tests that use the fixture `browser` are skipped where no Chromium is installed. Debian's package `chromium` is enough;
playwright's own browsers are not needed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from axe_playwright_python.sync_playwright import Axe

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on the PATH")
# Chromium as root has no sandbox, and its own requests for updates would only wait for a network.
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1440, "height": 900}


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Start a browser, and stop it after the block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS))
        try:
            yield browser
        finally:
            browser.close()


def scrolls_sideways(page: Page) -> bool:
    """Whether the body is wider than the window."""
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))


def axe_violations(page: Page) -> list[str]:
    """Return the accessibility violations that axe-core finds, as its rule with the first element."""
    violations = []
    for violation in Axe().run(page).response["violations"]:
        violations.append(f"{violation['id']}: {violation['nodes'][0]['html'][:200]}")
    return violations


# Elements that are children of one parent must not cover each other. Cells that stick to the edge of a table may.
OVERLAPS = """() => {
  const found = [];
  const parents = "body, header, main, section, article, figure, dl, nav, tr, .figures, .answers";
  for (const parent of document.querySelectorAll(parents)) {
    const children = [...parent.children].filter((child) => child.checkVisibility());
    const fixed = children.filter((child) => getComputedStyle(child).position !== "sticky");
    const boxes = fixed.map((child) => child.getBoundingClientRect());
    boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b, j) => {
      const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (width > 1 && height > 1) found.push([i, i + j + 1].map((n) => fixed[n].outerHTML.slice(0, 80)).join(" | "));
    }));
  }
  return found;
}"""


def are_decoded(page: Page, pictures: str = "img") -> bool:
    """Whether all pictures that a selector finds are loaded and decoded, also those out of sight."""
    script = """(all) => Promise.all(all.map((image) => { image.loading = "eager"; return image.decode(); }))
        .then(() => all.every((image) => image.naturalWidth > 0), () => false)"""
    return bool(page.locator(pictures).evaluate_all(script))


def overlaps(page: Page) -> list[str]:
    """Return the pairs of neighbouring elements that cover each other, as the beginnings of their HTML."""
    found: list[str] = page.evaluate(OVERLAPS)
    return found


@dataclass
class OpenPage:
    """A page, the errors of its console, and the addresses that it asked for, data URIs left out."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def opened_page(
    browser: Browser, file: Path, *, size: Mapping[str, int] = DESKTOP, dark: bool = False, fragment: str = ""
) -> Iterator[OpenPage]:
    """Open a file as a reader does who double-clicks it."""
    context = browser.new_context(
        viewport={"width": size["width"], "height": size["height"]}, color_scheme="dark" if dark else "light"
    )
    opened = OpenPage(context.new_page())
    opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.page.on("console", lambda message: opened.errors.append(message.text) if message.type == "error" else None)
    opened.page.on(
        "request", lambda request: None if request.url.startswith("data:") else opened.requests.append(request.url)
    )
    try:
        opened.page.goto(file.resolve().as_uri() + fragment)
        yield opened
    finally:
        context.close()


def open_details(page: Page) -> None:
    """Open everything that is folded."""
    page.evaluate("document.querySelectorAll('details').forEach((node) => { node.open = true; })")


def num_pages(pdf: bytes) -> int:
    """Return the number of pages of a PDF that Chromium wrote."""
    return len(re.findall(rb"/Type\s*/Page\b", pdf))
