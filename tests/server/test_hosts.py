"""By which names requests may call the server (DNS rebinding)."""

from __future__ import annotations

import socket

import pytest
from support.servers import get, page_app, running, send_raw

from voxtral_onnx.errors import UsageError
from voxtral_onnx.server.hosts import checked_host, own_names


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LocalHost.",
        "127.0.0.1:1",
        "[::1]",
        "[0:0:0:0:0:0:0:1]:8000",
        "[::ffff:127.0.0.1]",
        socket.gethostname(),
        *own_names(),
    ],
)
def test_own_names(port, host):
    assert get(port, "/", Host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "stranger.example",
        "stranger.example:8000",
        "localhost.stranger.example",
        "127.0.0.1.stranger.example",
        "10.9.8.7",
        "[2001:db8::1]:8000",
        "name@localhost",
        "localhost:8000:9",
        "[::1",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/", "/artifact/voxtral_onnx.json", "/nothing"])
def test_other_names(port, host, path):
    status, headers, content = get(port, path, Host=host)
    assert (status, headers["content-type"]) == (421, "text/plain; charset=utf-8")
    assert b"expected a name of this computer" in content and content.count(b"\n") == 1


def test_a_request_without_a_name(port):
    assert send_raw(port, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 421 ")


def test_names_that_are_allowed(page, tiny_artifact):
    names = ["Box.example.org", "2001:DB8::1", "10.9.8.7"]
    with running(page_app(tiny_artifact, allowed_hosts=names)) as port:
        for host in ("box.example.org:8000", "[2001:db8::1]", "10.9.8.7"):
            assert get(port, "/", Host=host)[0] == 200
        status, _, content = get(port, "/", Host="stranger.example")
        assert status == 421
        assert b"start serve with --allowed-host stranger.example" in content


@pytest.mark.parametrize(
    "host", ["https://box", "box:8000", "*", "*.example.org", "a b", "", "a/b"]
)
def test_what_is_no_host(host):
    with pytest.raises(UsageError, match="expected the name or the address of a computer"):
        checked_host(host)
