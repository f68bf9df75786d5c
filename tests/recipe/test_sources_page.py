"""The documentation page of published sources agrees with the comments of their files."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "experiments" / "sources").glob("*.yaml"))


def head(file: Path) -> str:
    """Return the comments before the first key, as one line."""
    return " ".join(line.lstrip("# ") for line in file.read_text().split("_target_")[0].splitlines())


def rows() -> dict[str, list[str]]:
    """Return the cells of the page's table by the name of the source."""
    lines = [line for line in (ROOT / "docs" / "sources.md").read_text().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    assert len({row[0] for row in cells}) == len(cells)
    return {row[0].strip("`"): row[1:] for row in cells}


def test_page_agrees_with_the_files() -> None:
    """Hub id, size, licence, revision, and everything that is not confirmed; the page has exactly the published
    sources."""
    nodes = {file: yaml.safe_load(file.read_text()) for file in FILES}
    published = {file.stem: file for file, node in nodes.items() if node["_target_"] == "hub" and "path" in node}
    assert set(rows()) == set(published)
    for name, (hub, size, licence, revision, doubts) in rows().items():
        file = published[name]
        path = nodes[file]["path"]
        assert hub == f"[{path}](https://huggingface.co/datasets/{path})"
        assert str(nodes[file]["revision"]).startswith(revision)
        assert f"Licence: {licence}." in head(file) + ".", name
        assert size in head(file)
        assert doubts == "-" or all(doubt in head(file) for doubt in doubts.split("; ")), name
