"""A real headless Chromium for tests of pages: those of reports, of `look` and of MLflow.

Tests that use the fixture `browser` are skipped where no Chromium is installed. Debian's package `chromium` is enough;
playwright's own browsers are not needed.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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
