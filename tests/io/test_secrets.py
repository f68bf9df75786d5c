"""Secrets are replaced by value wherever they stand, and addresses lose their user information."""

import pytest

from basereward.io.secrets import has_secret_query, redact, userinfo_of, with_userinfo, without_userinfo

PASSWORDS = ["secret-word", "p@ss-word", "pa/ss-word", "a:b@c/d?e#f", "pa%40ss-word", "123/456@7"]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("scheme", ["http", "https", "postgresql", "mysql+pymysql"])
def test_the_user_information_of_an_address_is_taken_out_whole(scheme: str, password: str) -> None:
    """Whatever the password holds, no part of it stays in the address, and put back it is as before."""
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
def test_addresses_without_user_information_stay_as_they_are(address: str) -> None:
    """A path may hold `@`."""
    assert without_userinfo(address) == redact(address) == address


def test_values_of_the_environment_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of variables whose names end in _KEY, TOKEN and the like, and of addresses in variables; no short ones.

    A value is found as it stands, inside JSON and encoded for an address.
    """
    monkeypatch.setenv("OPENAI_API_KEY", 'sk-"quoted"/1')
    monkeypatch.setenv("HF_TOKEN", "hf_abcdef")
    monkeypatch.setenv("SHORT_KEY", "abc")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:tracking-word@host")
    text = 'sk-"quoted"/1 sk-\\"quoted\\"/1 sk-%22quoted%22%2F1 hf_abcdef abc tracking-word'
    assert redact(text) == "*** *** *** *** abc ***"


def test_given_values_and_headers_are_replaced() -> None:
    """A value that holds another one is replaced whole; a header's value goes though nobody knows it."""
    assert redact("abcdefgh abcdef", ["abcdef", "abcdefgh"]) == "*** ***"
    assert redact("{'Authorization': 'Bearer unknown-key', 'x': 1}") == "{'Authorization': 'Bearer ***', 'x': 1}"


@pytest.mark.parametrize(
    "name", ["PGPASSWORD", "GITHUB_TOKEN", "SMTP_PASS", "MYSQL_PWD", "GITHUB_PAT", "ci_secret", "OPENAI_APIKEY"]
)
def test_the_usual_names_of_secrets_are_known(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of databases and code hosts among them; what else is in the environment is not touched."""
    monkeypatch.setenv(name, "hunter2hunter2")
    monkeypatch.setenv("OLDPWD", "/srv/somebody")
    assert redact("hunter2hunter2 in /srv/somebody") == "*** in /srv/somebody"


@pytest.mark.parametrize("name", ["token", "api_key", "password", "X-Amz-Signature", "client.secret"])
def test_secrets_in_the_query_of_an_address_are_replaced(name: str) -> None:
    """What goes before and behind it stays."""
    address = f"https://host/x?a=1&{name}=hunter2hunter2&b=2"
    assert has_secret_query(address)
    assert redact(f"'{address}' does not answer") == f"'https://host/x?a=1&{name}=***&b=2' does not answer"
    assert not has_secret_query("postgresql://host/db?sslmode=require")
