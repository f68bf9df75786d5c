"""Render self-contained HTML pages: no request leaves the page, and no text in it can act as markup.

Files of `assets/`: `page.html` is the head and frame of every page, `NAME.html` the body of one page, `common.css` the
style of all pages, `tables.js` the sorting of tables. A page whose script builds its content also has `page.js` and
`NAME.js`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from basereward.evaluation.reports.markup import Markup, escape

ASSETS = "assets"


def render_data_page(
    name: str,
    data: Mapping[str, Any],
    *,
    title: str,
    styles: Sequence[str] = (),
    has_files: bool = False,
    has_server: bool = False,
) -> str:
    """Render a page whose script builds the content from data.

    The data are embedded as JSON and the script inserts them as text nodes. The content security policy of the page
    admits only its own script and style, by their hashes, and no network request except to a server of the page.

    Args:
        name: the page: `NAME.html`, `NAME.css` and `NAME.js` in `assets`.
        data: what JSON can hold.
        title: text of the `<title>` element.
        styles: further style sheets, applied after `common.css` and before that of the page.
        has_files: whether the page loads scripts and pictures beside it.
        has_server: whether the page is served, and loads pictures and data from its server.

    Returns:
        The whole HTML document.

    >>> page = render_data_page("viewer", {"rows": []}, title="Rows")
    >>> page.count("<head>"), "default-src 'none'" in page
    (1, True)
    """
    script = "".join(_asset(f"{part}.js") for part in ("page", "tables", name))
    body = _asset(f"{name}.html") + _fill("script.html", {"data": as_json(data), "script": script})
    policy = _Policy(has_files=has_files, has_server=has_server)
    return _document(name, body, title=title, styles=styles, script=script, policy=policy)


def render_static_page(name: str, parts: Mapping[str, Markup], *, title: str, styles: Sequence[str] = ()) -> str:
    """Render a page whose content is in its HTML. Its script only sorts tables.

    Args:
        name: the page: `NAME.html` and `NAME.css` in `assets`.
        parts: the HTML of each `{{placeholder}}` of `NAME.html`.
        title: text of the `<title>` element.
        styles: as for `render_data_page`.

    Returns:
        The whole HTML document.

    >>> parts = {name: Markup("") for name in ("report", "head", "contents", "sections")}
    >>> render_static_page("experiment", parts, title="Runs").count("<title>Runs</title>")
    1
    """
    script = _asset("tables.js") + "enhanceTables(document);\n"
    body = _fill(f"{name}.html", parts) + f"<script>{script}</script>\n"
    return _document(name, body, title=title, styles=styles, script=script)


def as_json(data: Any) -> str:
    r"""Serialize data as JSON that is safe inside a `<script>` element.

    The text is ASCII: an unpaired surrogate, which UTF-8 cannot encode, is written as an escape.

    >>> as_json(["</script>", "é"])
    '["\\u003c/script\\u003e","\\u00e9"]'
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@dataclass(frozen=True)
class _Policy:
    """What a page may load, beside its own script and style; see `render_data_page`."""

    has_files: bool = False
    has_server: bool = False

    def header(self, *, style: str, script: str) -> str:
        """The content security policy."""
        # `file:` for a page that was opened as a file, which has no origin that 'self' could mean in every browser.
        beside = " 'self' file:" if self.has_files else ""
        served = " 'self'" if self.has_server else ""
        connect = " connect-src 'self';" if self.has_server else ""
        sources = f"style-src {_csp_hash(style)}; script-src {_csp_hash(script)}{beside}"
        images = f"img-src data:{beside}{served};{connect}"
        return f"default-src 'none'; {images} {sources}; base-uri 'none'; form-action 'none'"


NOTHING_ELSE = _Policy()


def _document(
    name: str, body: str, *, title: str, styles: Sequence[str], script: str, policy: _Policy = NOTHING_ELSE
) -> str:
    # The page's own style comes last, because rules of equal specificity override those before them.
    style = "".join(_asset(f"{sheet}.css") for sheet in ("common", *styles, name))
    header = policy.header(style=style, script=script)
    return _fill("page.html", {"policy": header, "title": escape(title), "style": style, "body": body})


def _fill(asset: str, values: Mapping[str, str]) -> str:
    # One pass over the template: a `{{word}}` inside a value is data, and stays as it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _asset(asset))


def _csp_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(ASSETS, name).read_text(encoding="utf-8")
