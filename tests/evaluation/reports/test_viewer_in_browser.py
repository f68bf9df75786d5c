"""Test the page of `look` in a real headless browser."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from basereward.data.schema.group import IMAGE, Group, Image, Part, Preference, RejectedRow, Split, Turn
from basereward.evaluation.reports.page import render_data_page
from basereward.evaluation.reports.viewer_files import ViewerFiles
from basereward.evaluation.reports.viewer_rows import collect
from tests.helpers.browser import (
    DESKTOP,
    PHONE,
    are_decoded,
    axe_violations,
    open_details,
    opened_page,
    overlaps,
    scrolls_sideways,
)
from tests.helpers.support import group, picture

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EVIL = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
SCORES = {"right": [2.0, 1.0], "wrong": [-1.5, 1.5], "close": [1.0, 0.5], "evil": [1.0, 0.0], "pictures": [4.0, 1.0]}


def viewer_page(data: dict[str, Any]) -> str:
    """Render the viewer's page with these data."""
    return render_data_page("viewer", data, title="Rows of a source", styles=["articles"])


class Few:
    """A source with five rows and one rejected row."""

    name = "few"

    def groups(self, split: Split) -> list[Group]:
        if split == "test":
            return []
        if split == "val":
            turns = (Turn("user", (IMAGE, Part("Left of "), IMAGE)),)
            pictures = (picture(1), picture(2).resize((400, 300)))
            return [Group("pictures", "few", turns, ("one", "two"), (Preference(0, 1),), pictures)]
        return [
            pair("right", "Say seven.", "Seven, gladly.", "8"),
            pair("wrong", "Name a prime.", "7", "nine and no other number", margin=2.5, weight=0.5),
            pair("close", "Say eleven.", "SEVEN plus four", "11", winner=1),
            pair("evil", EVIL, EVIL, "<!--", tie=True),
        ]

    def rejected(self, split: Split) -> list[RejectedRow]:
        return (
            [RejectedRow("few", "val", "gone", "image_missing", f"there is no file {EVIL}")] if split == "val" else []
        )


def pair(name: str, question: str, *responses: str, winner: int = 0, **preference_fields: Any) -> Group:
    """Return a group of two responses to a text prompt."""
    preference = Preference(winner, 1 - winner, **preference_fields)
    return Group(name, "few", (Turn("user", (Part(question),)),), responses, (preference,))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page with the scores of a model."""
    data = collect(Few(), ["train", "val"], rows=99, score=lambda sample: SCORES[sample.id])
    path = tmp_path_factory.mktemp("page") / "few.html"
    path.write_text(viewer_page({**data, "model": "judge"}), encoding="utf-8")
    return path


def ids(page: Page) -> list[str]:
    """Return the ids of the shown rows in their order."""
    return page.locator("article h2").all_inner_texts()


def words(page: Page) -> str:
    """Return the text of the page in one line."""
    return re.sub(r"\s+", " ", page.inner_text("body"))


def written(folder: Path, groups: Sequence[Group]) -> Path:
    """Write the page of a source with these groups, without a model."""
    source = Few()
    source.groups = lambda split: list(groups)  # type: ignore[method-assign]
    path = folder / "page.html"
    path.write_text(viewer_page({**collect(source, ["train"], rows=5000), "model": None}), encoding="utf-8")
    return path


def test_page_shows_every_row_with_its_facts(browser: Browser, file: Path) -> None:
    """The page has the counts, the preferred response first, margins, weights, scores and the model's disagreements."""
    with opened_page(browser, file) as opened:
        assert ids(opened.page) == ["right", "wrong", "close", "evil", "pictures"]
        names, values = (opened.page.locator(f"#facts {name}").all_inner_texts() for name in ("dt", "dd"))
        facts = dict(zip(names, values, strict=True))
        text = words(opened.page)
    expected = {
        "rows": "6",
        "usable groups": "5",
        "lost": "1",
        "images shown": "2",
        "pairs shown": "4",
        "model agrees": "50.0 %",
    }
    assert expected.items() <= facts.items()
    assert "[0] better than [1] · margin 2.5 · weight 0.5 · model \N{MINUS SIGN}3.000" in text
    assert "✗ model disagrees" in text
    assert "tied with [1]" in text
    assert re.search(r"1 · preferred ?\[1\].* 11 .* ?2 ?\[0\].* SEVEN plus four", text)
    assert "score +1.500" in text
    assert "1 row lost: image_missing 1" in text


def test_markup_in_the_data_is_shown_as_text(browser: Browser, file: Path) -> None:
    """Script and image tags in prompt, response and detail are visible as text and have no effect."""
    with opened_page(browser, file) as opened:
        open_details(opened.page)
        assert opened.page.title() == "few: rows"
        assert words(opened.page).count(EVIL) == 3
        assert opened.page.locator("[src=x], [onerror]").count() == 0
        assert opened.errors == []


def test_pictures_are_embedded_at_their_positions(browser: Browser, file: Path) -> None:
    """The first picture is before the text and the second after it, and the browser decodes both with their sizes."""
    with opened_page(browser, file) as opened:
        turn = opened.page.locator("article", has_text="Left of").locator(".turn").first
        order = turn.evaluate("(node) => [...node.children].map((child) => child.className)")
        assert order == ["label", "picture", "text", "picture"]
        assert are_decoded(opened.page, "article img")
        sizes = "(all) => all.map((image) => [image.naturalWidth, image.naturalHeight])"
        assert turn.locator("img").evaluate_all(sizes) == [[56, 84], [400, 300]]
        assert opened.requests == [file.resolve().as_uri()]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("#sort=margin", ["wrong", "close", "right", "pictures", "evil"]),
        ("#sort=longest", ["evil", "wrong", "close", "right", "pictures"]),
        ("#search=seven", ["right", "close"]),
        ("#sort=margin&search=seven", ["close", "right"]),
        ("#search=%3Cscript%3E", ["evil"]),
        ("#wrong=1", ["wrong", "close"]),
        ("#split=val", ["pictures"]),
        ("#modality=text&sort=margin&wrong=1", ["wrong", "close"]),
        ("#modality=images", ["pictures"]),
        ("#modality=image", []),
        ("#sort=nonsense&split=nowhere", ["right", "wrong", "close", "evil", "pictures"]),
    ],
)
def test_url_fragment_filters_and_sorts(browser: Browser, file: Path, choice: str, expected: list[str]) -> None:
    """The worst margin comes first, and a tie has no margin and comes last. The search ignores case."""
    with opened_page(browser, file, fragment=choice) as opened:
        opened.page.get_by_text(f"{len(expected)} row{'' if len(expected) == 1 else 's'} of 5").wait_for()
        assert ids(opened.page) == expected


def test_search_matches_are_marked(browser: Browser, file: Path) -> None:
    """The marked words have the spelling of the row."""
    with opened_page(browser, file, fragment="#search=seven") as opened:
        assert opened.page.locator("mark").all_inner_texts() == ["seven", "Seven", "SEVEN"]


def test_search_field_filters_and_updates_the_url(browser: Browser, file: Path) -> None:
    """The page is not loaded again."""
    with opened_page(browser, file) as opened:
        opened.page.get_by_role("searchbox").fill("prime")
        opened.page.get_by_text("1 row of 5").wait_for()
        assert ids(opened.page) == ["wrong"]
        assert opened.page.url.endswith("#search=prime")
        assert len(opened.requests) == 1


def test_picture_opens_and_closes(browser: Browser, file: Path) -> None:
    """A click on the picture's button opens the viewer with the picture's size in the data; the viewer's button closes
    it."""
    with opened_page(browser, file) as opened:
        viewer = opened.page.get_by_role("dialog")
        assert not viewer.is_visible()
        opened.page.locator("button.picture").nth(1).click()
        assert "Image 2 of 2 of pictures; 400 \N{MULTIPLICATION SIGN} 300 pixels in the data" in viewer.inner_text()
        viewer.get_by_role("button").click()
        assert not viewer.is_visible()


def test_long_text_is_folded_and_unfolds(browser: Browser, tmp_path: Path) -> None:
    """The button has the length of the text."""
    with opened_page(browser, written(tmp_path, [group("Why?", ("word " * 400, "no"))])) as opened:
        button, text = opened.page.locator(".plain"), opened.page.locator(".responses .text").first
        is_cut = "(node) => node.clientHeight < node.scrollHeight"
        assert (button.inner_text(), text.evaluate(is_cut)) == ("Show all 2,000 characters", True)
        button.click()
        assert (button.inner_text(), text.evaluate(is_cut)) == ("Show less", False)


def test_many_rows_are_added_in_steps(browser: Browser, tmp_path: Path) -> None:
    """The page shows 50 of 3,000 rows, then 50 more, then all. Without scores the filter for disagreements is
    hidden."""
    with opened_page(browser, written(tmp_path, [group(name=f"row {i}") for i in range(3000)])) as opened:
        articles = opened.page.locator("article")
        assert articles.count() == 50
        opened.page.get_by_role("button", name="Show 50 more").click()
        assert articles.count() == 100
        opened.page.get_by_role("button", name="Show all 2900 that are left").click()
        assert articles.count() == 3000
        assert not opened.page.locator("#more").is_visible()
        assert not opened.page.get_by_label("only disagreements").is_visible()


def test_page_with_files_beside_it_shows_all_rows(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that was opened as a file has the first of 900 rows in itself and the others in files, of which it loads
    the ones that it shows, sorts by or searches. Pictures that are files are shown from their place, others from the
    folder; no row and no error is added by a name with markup."""
    monkeypatch.chdir(tmp_path)
    source, images = Few(), tmp_path / "my pictures#1"
    images.mkdir()
    picture(5).save(images / "five 5%.png")
    kinds: list[Image] = [images / "five 5%.png", (images / "five 5%.png").read_bytes(), picture(6)]
    rows = [pair(f"row {i}", f"question {i}", "a" * (i + 1), EVIL if i == 850 else "b") for i in range(900)]
    rows = [replace(row, prompt=(Turn("user", (IMAGE,)),), images=(kinds[i % 3],)) for i, row in enumerate(rows)]
    source.groups = lambda split: rows  # type: ignore[method-assign]
    page = tmp_path / "many rows.html"
    files = ViewerFiles(page, limit=20_000)
    data = {**collect(source, ["train"], rows=900, files=files), "model": None}
    assert 0 < len(data["rows"]) < 100
    assert data["files"] == {"folder": "many%20rows.files", "rows": 200, "chunks": -(-(900 - len(data["rows"])) // 200)}
    page.write_text(render_data_page("viewer", data, title="r", styles=["articles"], has_files=True), encoding="utf-8")
    assert page.stat().st_size < 80_000
    with opened_page(browser, page) as opened:
        view = opened.page
        assert ids(view) == [f"row {i}" for i in range(50)]
        view.locator("[name=sort]").select_option("longest")
        view.locator("article h2", has_text="row 899").wait_for()
        assert ids(view) == [f"row {i}" for i in range(899, 849, -1)]
        assert are_decoded(view, "article img")
        sources = view.locator("article img").evaluate_all("(all) => all.map((image) => image.getAttribute('src'))")
        assert len({uri.rpartition("/")[0] for uri in sources}) == 2
        view.locator("[name=sort]").select_option("")
        view.get_by_role("searchbox").fill("<img SRC=x")
        view.get_by_text("1 row of 900").wait_for()
        assert ids(view) == ["row 850"]
        assert view.locator("[src=x]").count() == 0
        assert opened.errors == []
        assert sum(".js" in request for request in opened.requests) == data["files"]["chunks"]
        for file in Path("many rows.files").glob("rows-*.js"):
            file.unlink()
    with opened_page(browser, page, fragment="#sort=longest") as opened:
        alert = opened.page.get_by_role("alert")
        alert.wait_for()
        assert "many rows.files/rows-" in alert.inner_text()


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_page_is_readable(browser: Browser, tmp_path: Path, size: dict[str, int], dark: bool) -> None:
    """With very long words the page does not scroll sideways, no element covers another, and axe-core finds no
    fault."""
    wide = Group("w" * 300, "few", (Turn("user", (Part("q" * 500),)),), ("a" * 900, "b"), (Preference(0, 1),))
    with opened_page(browser, written(tmp_path, [wide, *Few().groups("val")]), size=size, dark=dark) as opened:
        open_details(opened.page)
        assert not scrolls_sideways(opened.page)
        assert overlaps(opened.page) == []
        assert axe_violations(opened.page) == []
