"""Test the report page of evaluations: its numbers against the files, and its display in a real browser."""

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
def report_result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Write a report of two models on one benchmark, one of them partial and with markup in its texts, and a judge on
    another."""
    folder = tmp_path_factory.mktemp("report")
    rows = [item(row, row > 2, prompt=EVIL, responses=["w" * 900, EVIL]) for row in range(4)]
    folders = [
        write_folder(folder / "ours", [True] * 5 + [False], variants={"official": {"overall": measure(1027, 1250)}}),
        write_folder(folder / "b", [True], rows=rows, name=f"$x_1$ {EVIL}", items=6),
        write_folder(folder / "judge", [True, False, None], benchmark="rm_bench", order="both", votes=5),
    ]
    head = Path(folders[1]) / "evaluation.json"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"items": 6, "scored": 4, "partial": "4 of 6"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BASEREWARD_EXPERIMENTS", str(ROOT / "experiments"))
        return report(folders, out=str(folder / "page.html"))


def embedded(report_result: dict[str, Any]) -> Any:
    """Return the data that the page contains."""
    text = Path(report_result["out"]).read_text(encoding="utf-8")
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert match
    return json.loads(match[1])


def seen(file: Path) -> str:
    """Return the document as HTML after its script ran."""
    assert BROWSER
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={file.parent / 'profile'}"]
    command = [BROWSER, *options, "--virtual-time-budget=2000", "--dump-dom", file.as_uri()]
    completed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return re.sub(r"<script.*?</script>", "", completed.stdout, flags=re.DOTALL)


def test_csv_has_the_numbers_of_the_page(report_result: dict[str, Any]) -> None:
    """Rows and columns are equal, a missing value is an empty cell, and published values have the same variant."""
    with Path(report_result["csv"]).open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    rows = [row for benchmark in embedded(report_result)["benchmarks"] for row in benchmark["rows"]]
    assert table == [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
    (ours,) = [row for row in table if row["model"] == "ours"]
    assert (float(ours["value"]), ours["numerator"], ours["denominator"]) == (0.8216, "1027", "1250")
    printed = [row for row in table if row["source"] == "published" and row["benchmark"] == "vl_rewardbench"]
    assert {row["variant"] for row in printed} == {"official"}
    assert ["82.16", "BaseReward (Qwen2.5-VL)"] in [
        [f"{100 * float(printed_row['value']):.2f}", printed_row["model"]] for printed_row in printed
    ]


def test_figures_are_files_and_embedded_pictures(report_result: dict[str, Any]) -> None:
    """Every section has a forest plot, and a bar chart where there are categories; all are embedded. The partial
    evaluation has a section of its own."""
    assert report_result["evaluations"] == 3
    assert all(Path(figure).read_bytes().startswith(b"\x89PNG") for figure in report_result["figures"])
    assert {Path(figure).parent for figure in report_result["figures"]} == {Path(report_result["out"]).with_suffix("")}
    uris = [figure["uri"] for benchmark in embedded(report_result)["benchmarks"] for figure in benchmark["figures"]]
    assert len(uris) == len(set(report_result["figures"])) == len(report_result["figures"]) == 5
    assert all(uri.startswith("data:image/svg+xml;base64,") for uri in uris)


@needs_browser
def test_browser_shows_the_evaluations(report_result: dict[str, Any]) -> None:
    """The page shows values, counts, intervals, partial evaluations, orders and baselines, and markup in the data as
    text."""
    document = seen(Path(report_result["out"]))
    text = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", document)))
    assert "ours 82.16 1,027 / 1,250 77.16\N{EN DASH}87.16 wilson 0 0 0 none" in text
    assert "both orders, 5 votes" in text
    assert "random answer 50.00 · longer answer 42.60 · shorter answer 56.50 · first answer 99.60" in text
    tables = re.findall(r"<table>.*?</table>", document, flags=re.DOTALL)
    assert sum("scored 4 of 6" in table for table in tables) == 2  # the table of its variant and the table of agreement
    assert "did not score the same items (row 4, row 5)" in text
    assert "<title>Benchmarks</title>" in document
    assert 'src="x"' not in document
    assert text.count(EVIL) >= 6
    margins = re.findall("margin \N{MINUS SIGN}([0-9])", text.split("wrong", 2)[-1])
    assert margins[1:4] == ["3", "2", "1"]


@needs_browser
def test_page_fetches_nothing_and_fits_a_phone(report_result: dict[str, Any]) -> None:
    """At a width of 390 pixels the page does not scroll sideways, all pictures are decoded, and no resource is
    requested."""
    text = Path(report_result["out"]).read_text(encoding="utf-8")
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
    frame = Path(report_result["out"]).with_name("phone.html")
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
def test_invalid_arguments_write_no_page(
    folders: list[str], out: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call raises an error that explains the mistake."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "a", [True])
    with pytest.raises(DataError, match=message):
        report(folders, out=out)
    assert not list(tmp_path.rglob("*.html"))
