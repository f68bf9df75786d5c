"""Hooks of MkDocs: pages that are generated, files of the repository that pages link to, and a check of the result."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference_pages import ROOT, cli_page, package_page, packages, recipe_page, shipped_page

# Pages that live outside docs/, where GitHub and package indexes look for them, and their place in the site.
OUTSIDE_PAGES = {
    "BENCHMARKS.md": "measured.md",
    "bench/README.md": "bench.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "experiments/LOG.md": "log.md",
}
LINK = re.compile(r"(?<!!)(\]\()([^)#\s]+)(#[^)\s]*)?(\))")
EXTERNAL = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//[^"'\s>]+""")
# A link element that loads nothing by itself.
NOT_LOADED = ('rel="canonical"', "rel=canonical")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, the pages from outside docs/, and every repository file that a page links to."""
    generated = {
        "reference/recipe.md": recipe_page(),
        "reference/cli.md": cli_page(),
        "reference/shipped.md": shipped_page(),
    }
    generated |= {f"reference/python/{package}.md": package_page(package) for package in packages()}
    for name, text in generated.items():
        files.append(File.generated(config, name, content=text))
    for source, target in OUTSIDE_PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text(encoding="utf-8")))
    linked = set()
    for file in files.documentation_pages():
        for match in LINK.finditer(file.content_string):
            linked |= _linked_file(match[2], _source_folder(file.src_uri))
    for path in sorted(linked):
        name = f"files/{path.relative_to(ROOT).as_posix()}"
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave docs/ to the copies in the site; they stay as they are for readers on GitHub."""
    folder = _source_folder(page.file.src_uri)

    def rewrite(match: re.Match[str]) -> str:
        target = _target(match[2], folder)
        if target is None:
            return match[0]
        place = os.path.relpath(target, Path(page.file.src_uri).parent)
        return f"{match[1]}{Path(place).as_posix()}{match[3] or ''}{match[4]}"

    return LINK.sub(rewrite, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that would load a font, a script or an image from elsewhere.

    Raises:
        PluginError: a page does; the message names the page and the address.
    """
    for page in sorted(Path(config.site_dir).rglob("*.html")):
        for match in EXTERNAL.finditer(page.read_text(encoding="utf-8")):
            if not any(mark in match[0] for mark in NOT_LOADED):
                raise PluginError(f"{page.name} loads a file from another host: {match[0]}")


def _source_folder(src_uri: str) -> Path:
    """The folder from which the links of a page start, in the repository."""
    for source, target in OUTSIDE_PAGES.items():
        if src_uri == target:
            return (ROOT / source).parent
    return (ROOT / "docs" / src_uri).parent


def _linked_file(link: str, folder: Path) -> set[Path]:
    """The repository file outside docs/ that a link names, when it is not a page of the site."""
    if "://" in link or link.startswith("mailto:"):
        return set()
    path = Path(os.path.normpath(folder / link))
    outside = path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / "docs")
    if not outside or not path.is_file() or path.relative_to(ROOT).as_posix() in OUTSIDE_PAGES:
        return set()
    return {path}


def _target(link: str, folder: Path) -> str | None:
    """The place in the site of a file of the repository; None where the link stays as it is."""
    if "://" in link or link.startswith("mailto:"):
        return None
    path = Path(os.path.normpath(folder / link))
    if not path.is_relative_to(ROOT):
        return None
    name = path.relative_to(ROOT).as_posix()
    if name in OUTSIDE_PAGES:
        return OUTSIDE_PAGES[name]
    if path.is_relative_to(ROOT / "docs"):
        return path.relative_to(ROOT / "docs").as_posix()
    return f"files/{name}" if path.is_file() else None
