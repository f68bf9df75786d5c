"""Keeps secrets out of messages, logs, files and MLflow: redacts values, and removes user names from addresses."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

MASK = "***"
SHORTEST = 6
"""Characters of the shortest secret that is redacted. A shorter value would match words that are no secret."""
SECRET_VARIABLES = (
    *("_KEY", "APIKEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE"),
    *("_PASS", "_PWD", "_PAT", "_CREDENTIAL", "_CREDENTIALS"),
)
"""Endings of the names of environment variables that hold a secret, such as `HF_TOKEN` and `PGPASSWORD`."""

_URL = re.compile(r"\b([A-Za-z][A-Za-z0-9+.\-]*://)([^\s'\"<>`]+)")
_QUERY = re.compile(r"(?i)([?&;][\w.\-]*(?:password|passwd|pwd|token|secret|key|signature)=)[^&;#\s'\"<>`]+")
_AUTHORIZATION = re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|basic|token)\s+)?)[^\s'\",;]+")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text with every secret replaced by `***`.

    These are redacted:

    - values of at least `SHORTEST` characters in `secrets` and in environment variables with an ending of
      `SECRET_VARIABLES`, also where they are escaped for JSON or for an address;
    - the user and the password of every address, and parameters of its query that are named as a secret;
    - the value of an `Authorization` header.

    Args:
        text: a message, a log line or a value that is to be shown or stored.
        secrets: values that the caller knows to be secret, such as a key that was sent.

    >>> redact("401 for k-123456 at http://me:p@ss/word@host:5000/x", ["k-123456"])
    '401 for *** at http://***@host:5000/x'
    """
    values = {value for value in (*secrets, *environment_secrets()) if len(value) >= SHORTEST}
    forms: set[str] = set()
    for value in values:
        forms |= {value, json.dumps(value)[1:-1], quote(value, safe="")}
    # Addresses first: a value replaced inside one could hide where its user information ends.
    text = _URL.sub(lambda match: match[1] + _QUERY.sub(rf"\1{MASK}", _mask_userinfo(match[2])), text)
    # The longest first: one secret may be the beginning of another, whose rest would stay.
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, MASK)
    return _AUTHORIZATION.sub(lambda match: match[1] + MASK, text)


def environment_secrets() -> set[str]:
    """The secret values in the environment: of variables named as a secret, and in addresses in other variables.

    >>> from unittest import mock
    >>> with mock.patch.dict(os.environ, {"HF_TOKEN": "hf_123456", "USER": "me"}, clear=True):
    ...     environment_secrets()
    {'hf_123456'}
    """
    secrets: set[str] = set()
    for name, value in os.environ.items():
        if name.upper().endswith(SECRET_VARIABLES):
            secrets.add(value)
        elif "://" in value:
            secrets |= address_secrets(value)
    return secrets


def has_secret_query(address: str) -> bool:
    """Whether the query of an address has a parameter named as a password, token, key, secret or signature.

    >>> has_secret_query("http://host/x?token=abc"), has_secret_query("sqlite:///mlflow.db?timeout=9")
    (True, False)
    """
    return _QUERY.search(address) is not None


def without_userinfo(address: str) -> str:
    """The address without the user and the password in it.

    >>> without_userinfo("http://me:p@ss/word@host:5000/x"), without_userinfo("sqlite:////srv/me@store/mlflow.db")
    ('http://host:5000/x', 'sqlite:////srv/me@store/mlflow.db')
    """
    scheme, mark, rest = _split(address)
    return f"{scheme}{mark}{rest[_userinfo_length(rest) :]}" if mark else address


def with_userinfo(address: str, userinfo: str) -> str:
    """The address with user information inserted.

    Args:
        address: an address without user information.
        userinfo: as `userinfo_of` returns it, with the `@`.

    >>> with_userinfo("http://host:5000", "me:secret@")
    'http://me:secret@host:5000'
    """
    scheme, mark, rest = _split(address)
    return f"{scheme}{mark}{userinfo}{rest}"


def userinfo_of(address: str) -> str:
    """The user information of an address, with the `@` after it; empty where there is none.

    >>> userinfo_of("http://me:p@ss@host"), userinfo_of("http://host/a@b")
    ('me:p@ss@', '')
    """
    _, mark, rest = _split(address)
    return rest[: _userinfo_length(rest)] if mark else ""


def _split(address: str) -> tuple[str, str, str]:
    """The scheme of an address, the mark after it, and the rest. An address may begin with `//`, without a scheme.

    >>> _split("http://host"), _split("//me:pw@host"), _split("mlflow.db")
    (('http', '://', 'host'), ('', '//', 'me:pw@host'), ('mlflow.db', '', ''))
    """
    if address.startswith("//"):
        return "", "//", address[2:]
    return address.partition("://")


def address_secrets(address: str) -> set[str]:
    """The secret parts of an address: its password, raw and decoded, and the base64 text of a Basic header with it.

    >>> sorted(address_secrets("http://me:se%40cret@host"))
    ['bWU6c2VAY3JldA==', 'me:se%40cret', 'se%40cret', 'se@cret']
    """
    userinfo = userinfo_of(address)[:-1]
    if not userinfo:
        return set()
    user, colon, password = userinfo.partition(":")
    # A token without a user stands in the user's place.
    secret = password if colon else user
    header = base64.b64encode(unquote(userinfo).encode()).decode()
    return {userinfo, secret, unquote(secret), header}


def _mask_userinfo(rest: str) -> str:
    length = _userinfo_length(rest)
    return f"{MASK}@{rest[length:]}" if length else rest


def _userinfo_length(rest: str) -> int:
    """How many characters after `://` are user information, with its `@`."""
    first = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if not first:
        # A path such as sqlite:////srv/me@store/mlflow.db, in which `@` belongs to a folder.
        return 0
    if ":" in first:
        # People paste passwords with unencoded `@`, `/`, `?` and `#`, which are then not valid in an address. Hiding
        # too much is better than too little, so everything to the last `@` counts as user information.
        return rest.rfind("@") + 1
    return first.rfind("@") + 1
