"""Secrets stay out of messages, logs, files and MLflow: addresses without user information, and redaction by value."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

MASK = "***"
SHORTEST = 6
"""Letters from which a value is replaced wherever it stands. A shorter one would hit words that are no secret."""
SECRET_VARIABLES = (
    *("_KEY", "APIKEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE"),
    *("_PASS", "_PWD", "_PAT", "_CREDENTIAL", "_CREDENTIALS"),
)
"""How the names of environment variables end that hold a secret; `HF_TOKEN` and `PGPASSWORD` are among them."""

_URL = re.compile(r"\b([A-Za-z][A-Za-z0-9+.\-]*://)([^\s'\"<>`]+)")
_QUERY = re.compile(r"(?i)([?&;][\w.\-]*(?:password|passwd|pwd|token|secret|key|signature)=)[^&;#\s'\"<>`]+")
_AUTHORIZATION = re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic|token)\s+)?)[^\s'\",;]+")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text with every secret replaced by `***`.

    Replaced are: values of at least `SHORTEST` letters among `secrets` and in environment variables whose names end as
    `SECRET_VARIABLES` say, each also as it looks inside JSON and inside an address; the user and password of every
    address in the text, and what its query calls a password, a token, a key, a secret or a signature; the value of an
    `Authorization` header.

    Args:
        text: a message, a log line or a value that is to be shown or stored.
        secrets: values that are known here to be secret, such as a key that was sent.

    >>> redact("401 for k-123456 at http://me:p@ss/word@host:5000/x", ["k-123456"])
    '401 for *** at http://***@host:5000/x'
    """
    values = {value for value in (*secrets, *environment_secrets()) if len(value) >= SHORTEST}
    forms = {form for value in values for form in (value, json.dumps(value)[1:-1], quote(value, safe=""))}
    # Addresses first: a value replaced inside one could hide where its user information ends.
    text = _URL.sub(lambda found: found[1] + _QUERY.sub(rf"\1{MASK}", _masked(found[2])), text)
    for form in sorted(forms, key=len, reverse=True):  # the longest first, so that no rest of one stays
        text = text.replace(form, MASK)
    return _AUTHORIZATION.sub(lambda found: found[1] + MASK, text)


def environment_secrets() -> set[str]:
    """The values of environment variables that hold a secret, and those in addresses that variables hold."""
    found: set[str] = set()
    for name, value in os.environ.items():
        if name.upper().endswith(SECRET_VARIABLES):
            found.add(value)
        elif "://" in value:
            found |= address_secrets(value)
    return found


def has_secret_query(address: str) -> bool:
    """Whether the query of an address holds something called a password, a token, a key, a secret or a signature.

    >>> has_secret_query("http://host/x?token=abc"), has_secret_query("sqlite:///mlflow.db?timeout=9")
    (True, False)
    """
    return _QUERY.search(address) is not None


def without_userinfo(address: str) -> str:
    """The address without the user and the password in it.

    >>> without_userinfo("http://me:p@ss/word@host:5000/x"), without_userinfo("sqlite:////srv/me@store/mlflow.db")
    ('http://host:5000/x', 'sqlite:////srv/me@store/mlflow.db')
    """
    scheme, mark, rest = address.partition("://")
    return f"{scheme}{mark}{rest[_userinfo_length(rest) :]}" if mark else address


def with_userinfo(address: str, userinfo: str) -> str:
    """The address with user information, as `userinfo_of` gives it, put into it.

    >>> with_userinfo("http://host:5000", "me:secret@")
    'http://me:secret@host:5000'
    """
    scheme, mark, rest = address.partition("://")
    return f"{scheme}{mark}{userinfo}{rest}"


def userinfo_of(address: str) -> str:
    """The user information of an address with the `@` behind it; empty where there is none.

    >>> userinfo_of("http://me:p@ss@host"), userinfo_of("http://host/a@b")
    ('me:p@ss@', '')
    """
    _, mark, rest = address.partition("://")
    return rest[: _userinfo_length(rest)] if mark else ""


def address_secrets(address: str) -> set[str]:
    """What of an address may not be shown anywhere: its password, as it stands and decoded, and the header made of it.

    >>> sorted(address_secrets("http://me:se%40cret@host"))
    ['bWU6c2VAY3JldA==', 'me:se%40cret', 'se%40cret', 'se@cret']
    """
    userinfo = userinfo_of(address)[:-1]
    if not userinfo:
        return set()
    user, colon, password = userinfo.partition(":")
    secret = password if colon else user  # a token alone stands where the user does
    header = base64.b64encode(unquote(userinfo).encode()).decode()
    return {userinfo, secret, unquote(secret), header}


def _masked(rest: str) -> str:
    length = _userinfo_length(rest)
    return f"{MASK}@{rest[length:]}" if length else rest


def _userinfo_length(rest: str) -> int:
    """How many letters after `://` are user information, with its `@`.

    A password may hold `@`, `/`, `?` and `#`, though an address in which they are not encoded is not a right one: after
    a colon in the first part, everything to the last `@` counts as user information.
    """
    first = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if not first:
        return 0  # a path: sqlite:////srv/me@store/mlflow.db
    if ":" in first:
        return rest.rfind("@") + 1
    return first.rfind("@") + 1
