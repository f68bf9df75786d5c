"""A page holds everything it needs, and what it shows cannot act in it."""

from __future__ import annotations

import base64
import hashlib
import json
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import pytest

from basereward.evaluation.reports.markup import Markup
from basereward.evaluation.reports.page import as_json, render_data_page, render_static_page

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)><!--<script> ]]> \u2028 {{script}} & é \ud800"


def viewer_page(data: dict[str, Any]) -> str:
    """The page of the viewer with any data."""
    return render_data_page("viewer", data, title="Rows", styles=["articles"])


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
    calm, evil = Elements(viewer_page({"rows": []})), Elements(viewer_page(data))
    assert [tag for tag, _ in evil.found] == [tag for tag, _ in calm.found]
    assert json.loads(evil.inside["script"][0]) == data
    assert evil.inside["script"][1:] == calm.inside["script"][1:]
    assert not set("<>&") & set(as_json(data))
    viewer_page(data).encode()  # UTF-8, in spite of the surrogate


def test_nothing_is_fetched() -> None:
    """No element refers to anything outside the page, and the policy would not let it."""
    html = viewer_page({})
    references: list[Any] = [
        value for _, attributes in Elements(html).found for name, value in attributes.items() if name in ("src", "href")
    ]
    assert references == []
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'; img-src data:;" in html


def test_the_policy_admits_our_script_and_style_alone() -> None:
    """By their hashes, counted here over what stands between the tags."""
    html = viewer_page({})
    elements = Elements(html)
    for kind, content in (("script", elements.inside["script"][1]), ("style", elements.inside["style"][0])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in html


@pytest.mark.parametrize("name", ["viewer", "evaluation_report"])
def test_the_policy_lets_no_text_become_code(name: str) -> None:
    """The policy allows two hashes and no `unsafe-inline` or `unsafe-eval`, so that markup from data cannot run."""
    html = render_data_page(name, {"rows": []}, title="Any", styles=[])
    policy = next(
        attributes["content"] or ""
        for tag, attributes in Elements(html).found
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert "unsafe" not in policy
    assert policy.count("sha256-") == 2


@pytest.mark.parametrize("name", ["viewer", "evaluation_report", "experiment"])
def test_every_page_has_the_one_head(name: str) -> None:
    """The body of a page has no head of its own, and the head is that of `page.html`."""
    assets = resources.files("basereward.evaluation.reports").joinpath("assets")
    body = assets.joinpath(f"{name}.html").read_text(encoding="utf-8")
    assert not {"html", "head", "meta", "style", "script", "body"} & {tag for tag, _ in Elements(body).found}
    frame = Elements(assets.joinpath("page.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in frame.found if tag in ("head", "body")] == ["head", "body"]


def test_a_title_is_escaped() -> None:
    """It comes from the name of an experiment, which is a file name."""
    parts = {"head": Markup(""), "contents": Markup(""), "sections": Markup("")}
    html = render_static_page("experiment", parts, title="</title><script>", styles=["tables"])
    assert "script" not in [tag for tag, _ in Elements(html).found]
    assert "<title>&lt;/title&gt;&lt;script&gt;</title>" in html
