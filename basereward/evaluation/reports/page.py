"""One HTML file that holds everything it needs, and trusts nothing that it shows."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from basereward.evaluation.reports.markup import Markup


def page(name: str, data: dict[str, Any], *, base: str | None = None) -> str:
    """The page `NAME.html` of this package with its style, its script and its data inside.

    The data are JSON in which nothing can be taken for markup; the script puts them into the page as text. The page's
    policy lets no other script run and nothing be fetched.

    Args:
        base: a style that comes between that of all pages and the page's own.
    """
    return _filled(name, {"data": as_json(data)}, script=_read(f"{name}.js"), base=base)


def written(name: str, parts: Mapping[str, Markup], *, base: str | None = None) -> str:
    """The same for a page without a script, that says everything in HTML, under the names of its parts."""
    return _filled(name, parts, script=None, base=base)


def _filled(name: str, parts: Mapping[str, str], *, script: str | None, base: str | None) -> str:
    style = "".join(_read(f"{each}.css") for each in ("common", base, name) if each)
    filled = {"style": style, "script": script or "", "policy": _policy(style=style, script=script), **parts}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: filled[match[1]], _read(f"{name}.html"))


def as_json(data: Any) -> str:
    r"""JSON that may stand in a `<script>`; in ASCII, so that surrogates by themselves do no harm.

    >>> as_json(["</script>", "é"])
    '["\\u003c/script\\u003e", "\\u00e9"]'
    """
    text = json.dumps(data, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(*, style: str, script: str | None) -> str:
    allowed = f"style-src {_hash(style)}" + (f"; script-src {_hash(script)}" if script else "")
    return f"default-src 'none'; img-src data:; {allowed}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
