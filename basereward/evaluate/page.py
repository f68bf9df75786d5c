"""One HTML file that holds everything it needs, and trusts nothing that it shows."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from importlib import resources
from typing import Any


def page(name: str, data: dict[str, Any]) -> str:
    """The page `NAME.html` of this package with its style, its script and its data inside.

    The data are JSON in which nothing can be taken for markup; the script puts them into the page as text. The page's
    policy lets no other script run and nothing be fetched.
    """
    style, script = _read(f"{name}.css"), _read(f"{name}.js")
    filled = {"style": style, "script": script, "data": as_json(data), "policy": _policy(style=style, script=script)}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: filled[match[1]], _read(f"{name}.html"))


def as_json(data: Any) -> str:
    r"""JSON that may stand in a `<script>`; in ASCII, so that surrogates by themselves do no harm.

    >>> as_json(["</script>", "é"])
    '["\\u003c/script\\u003e", "\\u00e9"]'
    """
    text = json.dumps(data, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(*, style: str, script: str) -> str:
    allowed = f"style-src {_hash(style)}; script-src {_hash(script)}"
    return f"default-src 'none'; img-src data:; {allowed}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
