"""Test the page of `look` in a real headless browser."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from basereward.data.schema.group import IMAGE, Group, Part, Preference, RejectedRow, Split, Turn
from basereward.evaluation.reports.page import render_data_page
from basereward.evaluation.reports.viewer_rows import collect
from tests.helpers.support import group, picture

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a chromium on the PATH")

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

    def lost(self, split: Split) -> list[RejectedRow]:
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


def seen(file: Path, choice: str = "") -> str:
    """Return the document as HTML after its script ran."""
    assert BROWSER
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={file.parent / 'profile'}"]
    command = [BROWSER, *options, "--virtual-time-budget=2000", "--dump-dom", f"{file.as_uri()}{choice}"]
    completed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return re.sub(r"<script.*?</script>", "", completed.stdout, flags=re.DOTALL)


def ids(document: str) -> list[str]:
    """Return the ids of the shown rows in their order."""
    return re.findall(r"<article><header><h2>(.*?)</h2>", document)


def words(document: str) -> str:
    """Return the text of the document."""
    return html.unescape(re.sub(r"<[^>]*>", " ", document))


def driven(file: Path, script: str, choice: str = "") -> str:
    """Return the title after `script` has used the page.

    The page's policy forbids other scripts, so the script runs in a copy without the policy.
    """
    policy = r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>"
    text, removed = re.subn(policy, "", file.read_text(encoding="utf-8"))
    assert removed == 1
    copy = file.with_name("driven.html")
    copy.write_text(text.replace("</body>", f"<script>{{{script}}}</script></body>"), encoding="utf-8")
    match = re.search(r"<title>(.*?)</title>", seen(copy, choice), flags=re.DOTALL)
    assert match
    return html.unescape(match[1])


def test_page_shows_every_row_with_its_facts(file: Path) -> None:
    """The page has the counts, the preferred response first, margins, weights, scores and the model's disagreements."""
    document = seen(file)
    text = words(document)
    assert ids(document) == ["right", "wrong", "close", "evil", "pictures"]
    facts = {
        "rows": "6",
        "usable groups": "5",
        "lost": "1",
        "images shown": "2",
        "pairs shown": "4",
        "model agrees": "50.0 %",
    }
    for name, value in facts.items():
        assert f"<dt>{name}</dt><dd>{value}</dd>" in document
    assert "[0] better than [1] · margin 2.5 · weight 0.5 · model \N{MINUS SIGN}3.000" in text
    assert "✗ model disagrees" in text
    assert "tied with [1]" in text
    assert re.search(r"1 · preferred +\[1\].* 11 .* 2 +\[0\].* SEVEN plus four", text)
    assert "score +1.500" in text
    assert "1 row lost: image_missing 1" in text


def test_markup_in_the_data_is_shown_as_text(file: Path) -> None:
    """Script and image tags in prompt, response and detail are visible as text and have no effect."""
    document = seen(file)
    assert "<title>few: rows</title>" in document
    assert words(document).count(EVIL) == 3
    assert 'src="x"' not in document
    assert "<img onerror" not in document


def test_pictures_are_embedded_at_their_positions(file: Path) -> None:
    """The first picture is before the text and the second after it, and the browser decodes both with their sizes."""
    document = seen(file)
    places = [document.index(word) for word in ('alt="Image 1 of 2', "Left of", 'alt="Image 2 of 2')]
    assert places == sorted(places)
    assert len(re.findall(r'<img src="data:image/(?:png|jpeg);base64,', document)) == 2
    script = (
        "const images = [...document.querySelectorAll('article img')];"
        "images.forEach((image) => image.loading = 'eager');"
        "Promise.all(images.map((image) => image.decode())).then(() => {"
        "document.title = images.map((image) => `${image.naturalWidth}x${image.naturalHeight}`).join(' ')});"
    )
    assert driven(file, script) == "56x84 400x300"


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
def test_url_fragment_filters_and_sorts(file: Path, choice: str, expected: list[str]) -> None:
    """The worst margin comes first, and a tie has no margin and comes last. The search ignores case."""
    document = seen(file, choice)
    assert ids(document) == expected
    assert f"{len(expected)} row{'' if len(expected) == 1 else 's'} of 5" in words(document)


def test_search_matches_are_marked(file: Path) -> None:
    """The marked words have the spelling of the row."""
    assert re.findall("<mark>(.*?)</mark>", seen(file, "#search=seven")) == ["seven", "Seven", "SEVEN"]


def test_search_field_filters_and_updates_the_url(file: Path) -> None:
    """The page is not loaded again."""
    script = (
        "const field = controls.elements.search; field.value = 'prime';"
        "field.dispatchEvent(new Event('input', { bubbles: true }));"
        "const told = () => [...document.querySelectorAll('h2')].map((name) => name.textContent) + location.hash;"
        "setTimeout(() => { document.title = told() }, 500);"
    )
    assert driven(file, script) == "wrong#search=prime"


def test_picture_opens_and_closes(file: Path) -> None:
    """A click on the picture's button opens the viewer with the picture's size in the data; the viewer's button closes
    it."""
    script = (
        "const viewer = document.getElementById('viewer'); const told = [viewer.open];"
        "document.querySelectorAll('button.picture')[1].click();"
        "told.push(viewer.open, viewer.querySelector('p').textContent);"
        "viewer.querySelector('button').click(); told.push(viewer.open); document.title = told.join('|');"
    )
    assert (
        driven(file, script)
        == "false|true|Image 2 of 2 of pictures; 400 \N{MULTIPLICATION SIGN} 300 pixels in the data|false"
    )


def test_long_text_is_folded_and_unfolds(tmp_path: Path) -> None:
    """The button has the length of the text."""
    source = Few()
    source.groups = lambda split: [group("Why?", ("word " * 400, "no"))]  # type: ignore[method-assign]
    path = tmp_path / "long.html"
    path.write_text(viewer_page({**collect(source, ["train"], rows=9), "model": None}), encoding="utf-8")
    script = (
        "const button = document.querySelector('.plain'); const text = document.querySelector('.responses .text');"
        "const told = [button.textContent, text.clientHeight < text.scrollHeight]; button.click();"
        "told.push(button.textContent, text.clientHeight < text.scrollHeight); document.title = told.join('|');"
    )
    assert driven(path, script) == "Show all 2,000 characters|true|Show less|false"


def test_many_rows_are_added_in_steps(tmp_path: Path) -> None:
    """The page shows 50 of 3,000 rows, then 50 more, then all. Without scores the filter for disagreements is
    hidden."""
    source = Few()
    rows = [group(name=f"row {i}") for i in range(3000)]
    source.groups = lambda split: rows  # type: ignore[method-assign]
    path = tmp_path / "many.html"
    path.write_text(viewer_page({**collect(source, ["train"], rows=5000), "model": None}), encoding="utf-8")
    script = (
        "const shown = () => document.querySelectorAll('article').length; const told = [shown()];"
        "const [more, all] = document.querySelectorAll('#more button'); told.push(more.textContent); more.click();"
        "told.push(shown(), all.textContent); all.click(); told.push(shown(), document.getElementById('more').hidden);"
        "told.push(controls.elements.wrong.parentElement.hidden); document.title = told.join('|');"
    )
    assert driven(path, script) == "50|Show 50 more|100|Show all 2900 that are left|3000|true|true"


def test_page_fits_a_phone(file: Path) -> None:
    """At a width of 390 pixels the page with very long words does not scroll sideways."""
    frame = file.with_name("phone.html")
    source = Few()
    wide = Group("w" * 300, "few", (Turn("user", (Part("q" * 500),)),), ("a" * 900, "b"), (Preference(0, 1),))
    source.groups = lambda split: [wide, *Few().groups("val")]  # type: ignore[method-assign]
    text = viewer_page({**collect(source, ["train"], rows=9), "model": None})
    script = "document.title = document.documentElement.scrollWidth <= innerWidth"
    text = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", text)
    inner = html.escape(
        text.replace("</body>", f"<script>{script}; parent.document.title = document.title</script></body>")
    )
    frame.write_text(f'<title>-</title><iframe width="390" height="800" srcdoc="{inner}"></iframe>', encoding="utf-8")
    assert "<title>true</title>" in seen(frame)
