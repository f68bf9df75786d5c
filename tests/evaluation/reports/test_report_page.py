"""The page about evaluations: its numbers beside the files, and what a person sees in a real browser."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from basereward.errors import DataError
from basereward.evaluation.reports.evaluation_report import report
from tests.helpers.evaluation_folders import item, measure, write_folder

ROOT = Path(__file__).parents[3]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs a chromium on the PATH")
EVIL = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two models on one benchmark, one of them partial and with text of strangers, and a judge on another."""
    folder = tmp_path_factory.mktemp("report")
    rows = [item(row, row > 2, prompt=EVIL, responses=["w" * 900, EVIL]) for row in range(4)]
    given = [
        write_folder(folder / "ours", [True] * 5 + [False], variants={"official": {"overall": measure(1027, 1250)}}),
        write_folder(folder / "b", [True], rows=rows, name=f"$x_1$ {EVIL}", items=6),
        write_folder(folder / "judge", [True, False, None], benchmark="rm_bench", order="both", votes=5),
    ]
    head = Path(given[1]) / "evaluation.json"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"items": 6, "scored": 4, "partial": "4 of 6"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
        return report(given, out=str(folder / "page.html"))


def embedded(made: dict[str, Any]) -> Any:
    """The data of the page."""
    text = Path(made["out"]).read_text(encoding="utf-8")
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert match
    return json.loads(match[1])


def seen(file: Path) -> str:
    """The document after its script ran, as HTML."""
    assert BROWSER
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={file.parent / 'profile'}"]
    command = [BROWSER, *options, "--virtual-time-budget=2000", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)


def test_the_csv_holds_the_numbers_of_the_page(made: dict[str, Any]) -> None:
    """Every row and every column; nothing where there is nothing. Published values are of the same variant."""
    with Path(made["csv"]).open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    rows = [row for benchmark in embedded(made)["benchmarks"] for row in benchmark["rows"]]
    assert table == [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
    (ours,) = [row for row in table if row["model"] == "ours"]
    assert (float(ours["value"]), ours["numerator"], ours["denominator"]) == (0.8216, "1027", "1250")
    printed = [row for row in table if row["source"] == "published" and row["benchmark"] == "vl_rewardbench"]
    assert {row["variant"] for row in printed} == {"official"}
    assert ["82.16", "BaseReward (Qwen2.5-VL)"] in [[f"{100 * float(r['value']):.2f}", r["model"]] for r in printed]


def test_figures_are_pictures_beside_the_page(made: dict[str, Any]) -> None:
    """One forest a section, bars where there are categories; none is fetched from elsewhere. The part of a benchmark is
    a section of its own."""
    assert made["evaluations"] == 3
    assert all(Path(figure).read_bytes().startswith(b"\x89PNG") for figure in made["figures"])
    assert {Path(figure).parent for figure in made["figures"]} == {Path(made["out"]).with_suffix("")}
    uris = [figure["uri"] for benchmark in embedded(made)["benchmarks"] for figure in benchmark["figures"]]
    assert len(uris) == len(set(made["figures"])) == len(made["figures"]) == 5
    assert all(uri.startswith("data:image/svg+xml;base64,") for uri in uris)


@needs_browser
def test_what_a_person_sees(made: dict[str, Any]) -> None:
    """Values, counts and intervals of the files; what is partial, order, baselines; strangers' text as text."""
    document = seen(Path(made["out"]))
    text = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", document)))
    assert "ours 82.16 1,027 / 1,250 77.16\N{EN DASH}87.16 wilson 0 0 0 none" in text
    assert "both orders, 5 votes" in text
    assert "random answer 50.00 · longer answer 42.60 · shorter answer 56.50 · first answer 99.60" in text
    tables = re.findall(r"<table>.*?</table>", document, flags=re.DOTALL)
    assert sum("scored 4 of 6" in table for table in tables) == 2  # its variant, and the agreement
    assert "did not score the same items (row 4, row 5)" in text
    assert "<title>Benchmarks</title>" in document
    assert 'src="x"' not in document
    assert text.count(EVIL) >= 6
    margins = re.findall("margin \N{MINUS SIGN}([0-9])", text.split("wrong", 2)[-1])
    assert margins[1:4] == ["3", "2", "1"]


@needs_browser
def test_nothing_is_fetched_and_nothing_is_wider_than_a_phone(made: dict[str, Any]) -> None:
    """390 pixels wide, with every picture drawn, and no address but those inside the page."""
    text = Path(made["out"]).read_text(encoding="utf-8")
    assert "default-src 'none'; img-src data:" in text
    text = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", text)
    script = (
        "document.querySelectorAll('details').forEach((each) => { each.open = true; });"
        "document.querySelectorAll('tr').forEach((each) => { each.hidden = false; });"
        "const images = [...document.querySelectorAll('main img')];"
        "images.forEach((each) => { each.loading = 'eager'; });"
        "Promise.all(images.map((each) => each.decode())).then(() => {"
        "const loaded = performance.getEntriesByType('resource').filter(({ name }) => !/^data:/.test(name)).length;"
        "parent.document.title = [document.documentElement.scrollWidth <= innerWidth, images.length, loaded]; });"
    )
    inner = html.escape(text.replace("</body>", f"<script>{script}</script></body>"))
    frame = Path(made["out"]).with_name("phone.html")
    frame.write_text(f'<title>-</title><iframe width="390" height="800" srcdoc="{inner}"></iframe>', encoding="utf-8")
    assert "<title>true,5,0</title>" in seen(frame)


@pytest.mark.parametrize(
    ("folders", "out", "message"),
    [
        ([], None, "no evaluation is given"),
        (["a", "a"], None, "given more than once"),
        (["a"], "page", "must end in .html"),
        (["a"], "no/page.html", "there is no folder 'no'"),
        (["nowhere"], None, "evaluation.json"),
    ],
)
def test_a_mistake_writes_nothing(
    folders: list[str], out: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is answered with a sentence."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "a", [True])
    with pytest.raises(DataError, match=message):
        report(folders, out=out)
    assert not list(tmp_path.rglob("*.html"))
