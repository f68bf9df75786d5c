"""The HTTP client: addresses that it may not connect to, and headers that it cannot read."""

from __future__ import annotations

import socket

import pytest

from basereward.errors import DataError
from basereward.io.http.addresses import is_public, public_addresses
from basereward.io.http.client import HTTPClient, MalformedHeader, PrivateAddress
from tests.helpers.chat_servers import serving_bytes


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_private_address_gets_no_byte(scheme: str) -> None:
    """The connection to this machine is closed before a request or a TLS handshake is sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = HTTPClient(max_bytes=1024, timeout_s=30.0, public_only=True)
        with pytest.raises(PrivateAddress):
            client.get(f"{scheme}://localhost:{server.getsockname()[1]}/a")
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1) == b""


def test_private_address_is_allowed_without_the_option() -> None:
    """The same client without `public_only` reads from this machine."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with serving_bytes(lambda connection, head: connection.sendall(answer)) as url:
        assert HTTPClient(max_bytes=1024, timeout_s=30.0).get(url).content == b"ok"


def test_malformed_header_of_a_response() -> None:
    """It has an error of its own, which does not blame the request."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nok"
    with serving_bytes(lambda connection, head: connection.sendall(answer)) as url, pytest.raises(MalformedHeader):
        HTTPClient(max_bytes=1024, timeout_s=30.0).get(url)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "::1", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "224.0.0.1", "255.255.255.255",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    """Those of this machine, of private and shared networks, of links, and of several machines at once."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "host", ["localhost", "127.1", "2130706433", "0x7f000001", "[::1]", "", "a" * 70, "no such host"]
)
def test_hosts_without_public_addresses(host: str) -> None:
    """Names of this machine in every notation, and names that do not exist, are errors."""
    with pytest.raises(DataError):
        public_addresses(host)


def test_public_addresses() -> None:
    """Public addresses are allowed, in both versions of the protocol."""
    assert is_public("93.184.215.14")
    assert is_public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")
