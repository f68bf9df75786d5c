"""Redaction of secrets: values of variables, headers, and the user information of addresses."""

import pytest

from basereward.io.secrets import has_secret_query, redact, userinfo_of, with_userinfo, without_userinfo

PASSWORDS = ["secret-word", "p@ss-word", "pa/ss-word", "a:b@c/d?e#f", "pa%40ss-word", "123/456@7"]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("scheme", ["http", "https", "postgresql", "mysql+pymysql"])
def test_user_information_is_removed_completely(scheme: str, password: str) -> None:
    """No part of any password stays in the address, and adding it back restores the address."""
    address = f"{scheme}://user:{password}@host.example:5000/path"
    assert without_userinfo(address) == f"{scheme}://host.example:5000/path"
    assert with_userinfo(without_userinfo(address), userinfo_of(address)) == address
    assert redact(f"no answer from '{address}'.") == f"no answer from '{scheme}://***@host.example:5000/path'."


@pytest.mark.parametrize(
    "address",
    [
        *("sqlite:////srv/me@store/mlflow.db", "sqlite:///mlflow.db", "file:///a@b", "http://host/a@b", "databricks"),
        *("http://host:5000", "https://host/packages/x@1.0", "mlflow.db", ""),
    ],
)
def test_addresses_without_user_information_are_unchanged(address: str) -> None:
    """A path can contain `@`."""
    assert without_userinfo(address) == redact(address) == address


def test_address_without_scheme_has_user_information() -> None:
    """An address may begin with `//`."""
    assert userinfo_of("//me:secret-word@host") == "me:secret-word@"
    assert without_userinfo("//me:secret-word@host") == "//host"
    assert with_userinfo("//host", "me:secret-word@") == "//me:secret-word@host"


def test_values_of_the_environment_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of variables whose names end in _KEY, TOKEN and the like, and passwords of addresses; short values are not
    replaced.

    A value is found as plain text, inside JSON and URL-encoded.
    """
    monkeypatch.setenv("OPENAI_API_KEY", 'sk-"quoted"/1')
    monkeypatch.setenv("HF_TOKEN", "hf_abcdef")
    monkeypatch.setenv("SHORT_KEY", "abc")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:tracking-word@host")
    text = 'sk-"quoted"/1 sk-\\"quoted\\"/1 sk-%22quoted%22%2F1 hf_abcdef abc tracking-word'
    assert redact(text) == "*** *** *** *** abc ***"


def test_given_values_and_headers_are_replaced() -> None:
    """A value that contains another one is replaced whole; the value of an Authorization header is replaced even if it
    is unknown."""
    assert redact("abcdefgh abcdef", ["abcdef", "abcdefgh"]) == "*** ***"
    assert redact("{'Authorization': 'Bearer unknown-key', 'x': 1}") == "{'Authorization': 'Bearer ***', 'x': 1}"


@pytest.mark.parametrize(
    "name", ["PGPASSWORD", "GITHUB_TOKEN", "SMTP_PASS", "MYSQL_PWD", "GITHUB_PAT", "ci_secret", "OPENAI_APIKEY"]
)
def test_usual_names_of_secrets_are_recognized(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of databases and code hosts included; other variables are not redacted."""
    monkeypatch.setenv(name, "hunter2hunter2")
    monkeypatch.setenv("OLDPWD", "/srv/somebody")
    assert redact("hunter2hunter2 in /srv/somebody") == "*** in /srv/somebody"


@pytest.mark.parametrize("name", ["token", "api_key", "password", "X-Amz-Signature", "client.secret"])
def test_secrets_in_the_query_of_an_address_are_replaced(name: str) -> None:
    """The rest of the address does not change."""
    address = f"https://host/x?a=1&{name}=hunter2hunter2&b=2"
    assert has_secret_query(address)
    assert redact(f"'{address}' does not answer") == f"'https://host/x?a=1&{name}=***&b=2' does not answer"
    assert not has_secret_query("postgresql://host/db?sslmode=require")
