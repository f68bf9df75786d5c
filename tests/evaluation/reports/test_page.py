"""A page holds everything it needs, and what it shows cannot act in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

from basereward.evaluation.reports.page import as_json, page

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)><!--<script> ]]> \u2028 {{script}} & é \ud800"


class Elements(HTMLParser):
    """Every start tag with its attributes, as a browser's parser sees them, and what is in scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.inside[self.cdata_elem].append(data)


def test_text_of_strangers_stays_data() -> None:
    """It makes no element, and comes back as it was."""
    data = {"rows": [EVIL], EVIL: 1}
    calm, evil = Elements(page("look", {"rows": []})), Elements(page("look", data))
    assert [tag for tag, _ in evil.found] == [tag for tag, _ in calm.found]
    assert json.loads(evil.inside["script"][0]) == data
    assert evil.inside["script"][1:] == calm.inside["script"][1:]
    assert not set("<>&") & set(as_json(data))
    page("look", data).encode()  # UTF-8, in spite of the surrogate


def test_nothing_is_fetched() -> None:
    """No element refers to anything outside the page, and the policy would not let it."""
    html = page("look", {})
    references: list[Any] = [
        value for _, attributes in Elements(html).found for name, value in attributes.items() if name in ("src", "href")
    ]
    assert references == []
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'; img-src data:;" in html


def test_the_policy_admits_our_script_and_style_alone() -> None:
    """By their hashes, counted here over what stands between the tags."""
    html = page("look", {})
    elements = Elements(html)
    for kind, content in (("script", elements.inside["script"][1]), ("style", elements.inside["style"][0])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in html


def test_the_script_makes_no_markup() -> None:
    """It has none of the doors by which a text becomes an element or code."""
    script = Elements(page("look", {})).inside["script"][1]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script)
