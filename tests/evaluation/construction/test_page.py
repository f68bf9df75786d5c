"""Test the page of annotators in a real headless browser, driven by the keyboard, and what its server refuses."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from basereward.evaluation.construction.annotations import queue_order
from basereward.evaluation.construction.select import select
from basereward.evaluation.construction.selected_rows import read_rows
from basereward.evaluation.construction.server import MAX_BODY, PageServer
from basereward.evaluation.construction.verify import PlanChanges, Verification, page_server, summarize
from tests.helpers.browser import DESKTOP, PHONE, are_decoded, axe_violations, overlaps, scrolls_sideways
from tests.helpers.construction import text_selection
from tests.helpers.support import picture, write_rows

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EVIL = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
PAIRS = 50


@contextmanager
def served(folder: Path, changes: PlanChanges | None = None) -> Iterator[PageServer]:
    """Serve a selection from a thread."""
    with Verification(folder, changes) as verification, page_server(verification, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def opened(browser: Browser, address: str, *, size: dict[str, int] = DESKTOP, dark: bool = False) -> Iterator[Page]:
    """Open an address in a context of its own; errors in the console fail the test."""
    viewport: Any = {"width": size["width"], "height": size["height"]}
    context = browser.new_context(viewport=viewport, color_scheme="dark" if dark else "light")
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(address)
    try:
        yield page
        assert errors == []
    finally:
        context.close()


@contextmanager
def served_page(browser: Browser, address: str, name: str) -> Iterator[Page]:
    """Open the page of a person whose requests may be refused, which the console shows as errors."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    try:
        start(page, name)
        yield page
    finally:
        context.close()


def start(page: Page, name: str) -> None:
    """Type a name and press Enter."""
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    page.locator("#pair").wait_for()


def decide(page: Page, keys: str) -> str:
    """Press keys and Enter, wait for the next pair or the end, and return the pair that was decided."""
    pair = page.inner_text("#id")
    for key in keys:
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    page.wait_for_function("(old) => item !== old && !busy", arg=pair)
    return pair


def records(folder: Path) -> list[dict[str, Any]]:
    """Return the decisions in the file of annotations."""
    lines = [json.loads(line) for line in (folder / "annotations.jsonl").read_text().splitlines()[1:]]
    return [line for line in lines if "given" not in line]


def test_fifty_pairs_by_keyboard_survive_a_kill(browser: Browser, tmp_path: Path) -> None:
    """A person decides 25 pairs by keys alone, and the server is killed by SIGKILL while a pair is in view. The page
    says that nothing was saved; after a new start it continues with the same pair. All 50 decisions are in the file
    once, with the pressed label, ambiguity and tags, and with the seconds that each pair was in view."""
    selection = text_selection(tmp_path, pairs=PAIRS)
    command = [sys.executable, "-m", "basereward", "verify", str(selection), "--overlap", "0", "--port"]
    order = queue_order([row.id for row in read_rows(selection)], seed=0)
    keys = {pair: "w" if place % 7 == 3 else "ra1"[: 1 + place % 3] for place, pair in enumerate(order)}

    def process(port: str) -> tuple[subprocess.Popen[str], str]:
        started = subprocess.Popen(
            [*command, port],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell starts its background jobs with SIGINT ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert started.stderr is not None
        line = next(line for line in started.stderr if "http://" in line)
        return started, re.findall(r"http://127\.0\.0\.1:\d+/", line)[0]

    first, address = process("0")
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    start(page, "ann")
    for pair in order[:25]:
        assert decide(page, keys[pair]) == pair
    first.send_signal(signal.SIGKILL)
    first.communicate()
    page.keyboard.press("r")
    page.keyboard.press("Enter")
    page.locator("#message.bad").wait_for()
    assert (page.inner_text("#id"), len(records(selection))) == (order[25], 25)
    second, again = process(address.rpartition(":")[2].strip("/"))
    assert again == address
    # The page that is open goes on with its pair, which the file says is this person's; the next one after a reload.
    assert decide(page, keys[order[25]][1:]) == order[25]
    page.reload()
    page.locator("#pair").wait_for()
    for pair in order[26:]:
        assert decide(page, keys[pair]) == pair
    assert not page.locator("#pair").is_visible()
    assert f"{PAIRS} pairs by you" in page.inner_text("#progress")
    context.close()
    second.send_signal(signal.SIGINT)
    output, errors = second.communicate()
    assert second.returncode == 0, errors
    assert f"{PAIRS} of {PAIRS} pairs are verified" in output
    lines = records(selection)
    assert [line["item"] for line in lines] == order
    for line in lines:
        pressed = keys[line["item"]]
        assert line["label"] == ("wrong" if "w" in pressed else "right")
        assert line["ambiguous"] == ("a" in pressed)
        assert line["tags"] == (["existence"] if "1" in pressed else [])
        assert 0 < line["seconds"] < 600


def test_back_corrects_and_enter_needs_a_label(browser: Browser, tmp_path: Path) -> None:
    """Enter without a label saves nothing. B shows the pair before with its decision; the correction replaces it, and
    the first decision stays in the file. A key that is pressed twice is taken back."""
    selection = text_selection(tmp_path, pairs=4)
    with served(selection) as server, opened(browser, server.address) as page:
        start(page, "ann")
        page.keyboard.press("Enter")
        page.locator("#message.bad").wait_for()
        assert records(selection) == []
        first = decide(page, "ra2")
        page.keyboard.press("b")
        page.wait_for_function("(pair) => item === pair && !busy", arg=first)
        assert page.locator("[name=label][value=right]").is_checked()
        assert page.locator("[name=ambiguous]").is_checked()
        assert page.locator("#tags input").nth(1).is_checked()
        decide(page, "wa22")
        page.keyboard.press("b")
        page.wait_for_function("(pair) => item === pair && !busy", arg=first)
        page.keyboard.press("b")
        page.get_by_text("There is no earlier pair of yours.").wait_for()
    lines = [(line["item"], line["label"], line["ambiguous"], line["tags"]) for line in records(selection)]
    assert lines == [(first, "right", True, ["recognition"]), (first, "wrong", False, ["recognition"])]


def test_two_people_of_one_name_do_not_overwrite_each_other(browser: Browser, tmp_path: Path) -> None:
    """Both pages show the same pair. The second decision is refused with what to do, and the first one stays. Somebody
    who types a name that is in use is told so."""
    selection = text_selection(tmp_path, pairs=4)
    with served(selection) as server, opened(browser, server.address) as page:
        start(page, "Zoë")
        with served_page(browser, server.address, "zoë") as second:
            first = decide(page, "r")
            for key in ("w", "Enter"):
                second.keyboard.press(key)
            second.locator("#message.bad").wait_for()
            assert "another page" in second.inner_text("#message")
        assert [(line["item"], line["label"]) for line in records(selection)] == [(first, "right")]
        with opened(browser, server.address) as third:
            start(third, "Zoë")
            third.get_by_text("choose another name").wait_for()


def test_adjudicator_sees_the_decisions_of_annotators(browser: Browser, tmp_path: Path) -> None:
    """Two annotators disagree on one of two pairs. The page of the adjudicator shows that pair with both decisions, and
    ends after it; the name of an annotator is not accepted for it."""
    selection = text_selection(tmp_path, pairs=2)
    with served(selection, PlanChanges(overlap=1.0)) as server:
        for name, labels in (("ann", "rr"), ("bob", "rw")):
            with opened(browser, server.address) as page:
                start(page, name)
                decided = [decide(page, label) for label in labels]
        with opened(browser, f"{server.address}#annotator=ann&role=adjudicator") as page:
            page.get_by_text("There is no pair to adjudicate now.").wait_for()
        with opened(browser, f"{server.address}#annotator=carol&role=adjudicator") as page:
            page.locator("#earlier").wait_for()
            assert page.inner_text("#id") == decided[1]
            earlier = page.locator("#earlier li").all_inner_texts()
            assert [re.findall("label (right|wrong)", text) for text in earlier] == [["right"], ["wrong"]]
            assert axe_violations(page) == []
            decide(page, "w")
            assert not page.locator("#pair").is_visible()
    summary = summarize(str(selection))
    assert (summary["kept"], summary["dropped"], summary["adjudicated"]) == (1, {"label_wrong": 1, "ambiguous": 0}, 1)


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_page_is_readable_and_safe(browser: Browser, tmp_path: Path, size: dict[str, int], dark: bool) -> None:
    """Markup in a prompt, a response and an id is shown as text. Two images are at their places; nothing scrolls
    sideways or covers another element, and axe-core finds no fault, neither before the start nor with a pair."""
    for number in range(2):
        picture(number).resize((300, 200 + number)).save(tmp_path / f"{number}.png")
    row = {"id": EVIL, "chosen": EVIL, "rejected": f"{EVIL} {'a' * 600}", "images": ["0.png", "1.png"]}
    content = [{"type": "image"}, {"type": "text", "text": EVIL}, {"type": "image"}]
    write_rows(tmp_path / "pairs.jsonl", [row | {"prompt": [{"role": "user", "content": content}]}])
    select([str(tmp_path / "pairs.jsonl")], judges=["longer"], out=str(tmp_path / "selection"))
    with served(tmp_path / "selection") as server, opened(browser, server.address, size=size, dark=dark) as page:
        assert axe_violations(page) == []
        start(page, "ann")
        assert page.locator("#id").inner_text() == EVIL
        assert page.locator("article").inner_text().count(EVIL) == 4
        assert page.locator("[src=x], [onerror]").count() == 0
        assert are_decoded(page, "article img")
        heights = page.locator("article img").evaluate_all("(all) => all.map((image) => image.naturalHeight)")
        assert heights == [200, 201]
        assert not scrolls_sideways(page)
        assert overlaps(page) == []
        assert axe_violations(page) == []
        page.locator("button.picture").first.click()
        assert page.get_by_role("dialog").is_visible()
        page.keyboard.press("r")
        page.keyboard.press("Escape")
        assert not page.locator("[name=label][value=right]").is_checked()
        assert page.title() == "ann: selection"


def answer(
    server: PageServer, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Send a request with these headers in place of the usual ones, and return its status, headers and body."""
    port = server.server_address[1]
    usual = {"Host": f"127.0.0.1:{port}", "Content-Type": "application/json", "Content-Length": str(len(body))}
    sent = usual | {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in sent.items():
        if value:
            connection.putheader(name, value)
    connection.endheaders(body)
    response = connection.getresponse()
    try:
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


NEXT = b'{"annotator": "ann", "role": "annotator"}'


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", "/next", NEXT, {}, 200),
        ("POST", "/next", NEXT, {"Origin": "http://127.0.0.1:PORT"}, 200),
        ("GET", "/", b"", {"Host": "localhost:PORT"}, 200),
        ("GET", "/", b"", {"Host": "evil.example:PORT"}, 421),
        ("POST", "/next", NEXT, {"Host": "evil.example"}, 421),
        ("POST", "/next", NEXT, {"Host": ""}, 421),
        ("POST", "/next", NEXT, {"Origin": "http://evil.example"}, 403),
        ("POST", "/next", NEXT, {"Origin": "null"}, 403),
        ("POST", "/next", NEXT, {"Sec_Fetch_Site": "cross-site"}, 403),
        ("GET", "/", b"", {"Sec_Fetch_Site": "cross-site"}, 403),
        ("POST", "/next", NEXT, {"Content_Type": "text/plain"}, 415),
        ("POST", "/next", NEXT, {"Content_Length": ""}, 411),
        ("POST", "/next", NEXT, {"Content_Length": "-1"}, 411),
        ("POST", "/next", NEXT, {"Content_Length": str(MAX_BODY + 1)}, 413),
        ("POST", "/next", NEXT, {"Content_Length": "9" * 30}, 413),
        ("POST", "/next", b"[]", {}, 400),
        ("POST", "/next", b"[" * 2000, {}, 400),
        ("POST", "/next", b"\xff", {}, 400),
        ("POST", "/next", b'{"annotator": "", "role": "annotator"}', {}, 400),
        ("POST", "/next", b'{"annotator": "ann", "role": "owner"}', {}, 400),
        ("POST", "/save", NEXT, {}, 400),
        ("POST", "/nothing", NEXT, {}, 404),
        ("GET", "/images/../selection.json", b"", {}, 404),
        ("GET", "/images/..%2fselection.json", b"", {}, 404),
        ("GET", f"/images/{'0' * 32}.png", b"", {}, 404),
        ("GET", "/rows.jsonl", b"", {}, 404),
        ("PUT", "/next", NEXT, {}, 501),
    ],
)
def test_server_answers_its_own_page_alone(
    tmp_path: Path, method: str, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    """Requests for another host, from another origin, of another form or too large are refused, and none of them adds
    an annotation. Answers forbid other sites to embed them and browsers to guess their type."""
    selection = text_selection(tmp_path, pairs=2)
    with served(selection) as server:
        port = str(server.server_address[1])
        sent = {name: value.replace("PORT", port) for name, value in headers.items()}
        got, returned, content = answer(server, method, path, body, **sent)
        assert got == status
        if status != 501:
            assert returned["X-Content-Type-Options"] == "nosniff"
            assert returned["Cross-Origin-Resource-Policy"] == "same-origin"
        if status not in (200, 501):
            assert list(json.loads(content)) == ["error"]
        assert records(selection) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"item": "other"},
        {"label": "yes"},
        {"ambiguous": "no"},
        {"tags": ["existence", "evil"]},
        {"tags": "existence"},
        {"seconds": -1},
        {"seconds": True},
        {"seconds": 1e9},
        {"annotator": "a\nb"},
        {"annotator": "a" * 65},
        {"role": "adjudicator"},
        {"annotator": "bob"},
    ],
)
def test_wrong_annotations_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """The answer is 400, and nothing is added; the same request with right values is saved. Nobody can adjudicate a
    pair on which annotators do not disagree, or decide the pair of another person."""
    selection = text_selection(tmp_path, pairs=2)
    right = {"annotator": "ann", "role": "annotator", "label": "right", "ambiguous": False}
    right |= {"tags": ["existence"], "seconds": 1.5}
    with served(selection) as server:
        right["item"] = json.loads(answer(server, "POST", "/next", NEXT)[2])["pair"]["id"]
        assert answer(server, "POST", "/save", json.dumps(right | wrong).encode())[0] == 400
        assert records(selection) == []
        assert answer(server, "POST", "/save", json.dumps(right).encode())[0] == 200
        assert len(records(selection)) == 1
