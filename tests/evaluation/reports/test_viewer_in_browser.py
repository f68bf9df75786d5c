"""The page of `look` in a real browser, without a window: what a person would see."""

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
    """The page of the viewer with these data."""
    return render_data_page("viewer", data, title="Rows of a source", styles=["articles"])


class Few:
    """Five rows and a lost one."""

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


def pair(name: str, question: str, *responses: str, winner: int = 0, **more: Any) -> Group:
    """Two responses to a question in words."""
    preference = Preference(winner, 1 - winner, **more)
    return Group(name, "few", (Turn("user", (Part(question),)),), responses, (preference,))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page, with the scores of a model."""
    data = collect(Few(), ["train", "val"], rows=99, score=lambda given: SCORES[given.id])
    path = tmp_path_factory.mktemp("page") / "few.html"
    path.write_text(viewer_page({**data, "model": "judge"}), encoding="utf-8")
    return path


def seen(file: Path, choice: str = "") -> str:
    """The document after its script ran, as HTML."""
    assert BROWSER
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={file.parent / 'profile'}"]
    command = [BROWSER, *options, "--virtual-time-budget=2000", "--dump-dom", f"{file.as_uri()}{choice}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)


def ids(document: str) -> list[str]:
    """Of the rows that are shown, in their order."""
    return re.findall(r"<article><header><h2>(.*?)</h2>", document)


def words(document: str) -> str:
    """Its text."""
    return html.unescape(re.sub(r"<[^>]*>", " ", document))


def driven(file: Path, script: str, choice: str = "") -> str:
    """The title after a script of ours used the page as a person would; the policy lets no other script run, so the
    copy that it runs in has none."""
    policy = r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>"
    text, removed = re.subn(policy, "", file.read_text(encoding="utf-8"))
    assert removed == 1
    copy = file.with_name("driven.html")
    copy.write_text(text.replace("</body>", f"<script>{{{script}}}</script></body>"), encoding="utf-8")
    match = re.search(r"<title>(.*?)</title>", seen(copy, choice), flags=re.DOTALL)
    assert match
    return html.unescape(match[1])


def test_every_row_is_shown_with_what_is_known_of_it(file: Path) -> None:
    """Counts at the head, the winner first, margins, weights and scores, and where the model disagrees."""
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


def test_text_of_strangers_is_text(file: Path) -> None:
    """Script and picture tags in prompt, response and detail are seen as they were written, and do nothing."""
    document = seen(file)
    assert "<title>few: rows</title>" in document
    assert words(document).count(EVIL) == 3
    assert 'src="x"' not in document
    assert "<img onerror" not in document


def test_pictures_are_inside_the_page_and_at_their_places(file: Path) -> None:
    """Both open: the browser knows their sizes. The first is before the words, the second after."""
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
def test_the_address_filters_and_sorts(file: Path, choice: str, expected: list[str]) -> None:
    """Worst margin first; a tie has none and comes last. Words are found whatever their capitals."""
    document = seen(file, choice)
    assert ids(document) == expected
    assert f"{len(expected)} row{'' if len(expected) == 1 else 's'} of 5" in words(document)


def test_found_words_are_marked(file: Path) -> None:
    """As they are written in the row."""
    assert re.findall("<mark>(.*?)</mark>", seen(file, "#search=seven")) == ["seven", "Seven", "SEVEN"]


def test_typing_filters_and_is_kept_in_the_address(file: Path) -> None:
    """Without loading the page again."""
    script = (
        "const field = controls.elements.search; field.value = 'prime';"
        "field.dispatchEvent(new Event('input', { bubbles: true }));"
        "const told = () => [...document.querySelectorAll('h2')].map((name) => name.textContent) + location.hash;"
        "setTimeout(() => { document.title = told() }, 500);"
    )
    assert driven(file, script) == "wrong#search=prime"


def test_a_picture_is_enlarged_and_put_away(file: Path) -> None:
    """By a click, or by the keyboard, since it is a button; its size in the data is told."""
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


def test_a_long_text_is_folded_and_unfolds(tmp_path: Path) -> None:
    """Its length is on the button."""
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


def test_many_rows_come_in_steps(tmp_path: Path) -> None:
    """Of 3,000 rows 50 are put into the page, then 50 more, then all; without scores nothing asks for them."""
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


def test_nothing_is_wider_than_a_phone(file: Path) -> None:
    """390 pixels wide, the page does not scroll sideways, whatever the rows hold."""
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
