"""Test that a page is self-contained and that data in it cannot run."""

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
    """Render the viewer's page with any data."""
    return render_data_page("viewer", data, title="Rows", styles=["articles"])


class Elements(HTMLParser):
    """All start tags with their attributes, and the contents of scripts and styles, as a browser parses them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.start_tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.start_tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem:
            self.inside[self.cdata_elem].append(data)


def test_markup_in_the_data_stays_data() -> None:
    """Markup in the data adds no element, and the embedded JSON equals the data."""
    data = {"rows": [EVIL], EVIL: 1}
    plain_page, evil_page = Elements(viewer_page({"rows": []})), Elements(viewer_page(data))
    assert [tag for tag, _ in evil_page.start_tags] == [tag for tag, _ in plain_page.start_tags]
    assert json.loads(evil_page.inside["script"][0]) == data
    assert evil_page.inside["script"][1:] == plain_page.inside["script"][1:]
    assert not set("<>&") & set(as_json(data))
    viewer_page(data).encode()  # the surrogate does not prevent encoding as UTF-8


def test_page_refers_to_nothing_outside() -> None:
    """No element refers to an outside resource, and the policy forbids requests."""
    html = viewer_page({})
    references: list[Any] = [
        value
        for _, attributes in Elements(html).start_tags
        for name, value in attributes.items()
        if name in ("src", "href")
    ]
    assert references == []
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'; img-src data:;" in html


def test_policy_allows_the_script_and_style_by_hash() -> None:
    """The hashes equal those of the contents between the tags."""
    html = viewer_page({})
    elements = Elements(html)
    for kind, content in (("script", elements.inside["script"][1]), ("style", elements.inside["style"][0])):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in html


@pytest.mark.parametrize("name", ["viewer", "evaluation_report"])
def test_policy_forbids_inline_code(name: str) -> None:
    """The policy allows two hashes and neither `unsafe-inline` nor `unsafe-eval`, so markup in the data cannot run."""
    html = render_data_page(name, {"rows": []}, title="Any", styles=[])
    policy = next(
        attributes["content"] or ""
        for tag, attributes in Elements(html).start_tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert "unsafe" not in policy
    assert policy.count("sha256-") == 2


@pytest.mark.parametrize("name", ["viewer", "evaluation_report", "experiment"])
def test_every_page_shares_the_frame(name: str) -> None:
    """The body of a page has no head of its own; the head is in `page.html`."""
    assets = resources.files("basereward.evaluation.reports").joinpath("assets")
    body = assets.joinpath(f"{name}.html").read_text(encoding="utf-8")
    assert not {"html", "head", "meta", "style", "script", "body"} & {tag for tag, _ in Elements(body).start_tags}
    frame = Elements(assets.joinpath("page.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in frame.start_tags if tag in ("head", "body")] == ["head", "body"]


def test_title_is_escaped() -> None:
    """The title is the name of an experiment, which is a file name."""
    parts = {"report": Markup(""), "head": Markup(""), "contents": Markup(""), "sections": Markup("")}
    html = render_static_page("experiment", parts, title="</title><script>", styles=["tables"])
    assert [tag for tag, _ in Elements(html).start_tags].count("script") == 1  # that of the page
    assert "<title>&lt;/title&gt;&lt;script&gt;</title>" in html
