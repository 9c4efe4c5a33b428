"""What a server may answer: too much, too little, too slowly, packed, from elsewhere."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import itertools
import os
import random
import socket
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session, get_session, set_client_factory

from voxtral_onnx import download, limits
from voxtral_onnx.download import ConnectionLostError, RemoteFile, StatusError, fetch
from voxtral_onnx.errors import StorageError

BODY = random.Random(0).randbytes(100_000)
FILE = RemoteFile(len(BODY), hashlib.sha256(BODY).hexdigest())
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def place(tmp_path):
    return tmp_path / "file"


@pytest.fixture
def bring(hub_server, place):
    """Download FILE; the server answers with the pieces that the test sets."""

    def bring() -> bytes:
        download.download(f"{hub_server.url}/file", FILE, place, lambda came=0, wait=0.0: None)
        return place.read_bytes()

    return bring


def answers(server, *pieces: bytes) -> None:
    server.faults.raw["/file"] = lambda: pieces


def head(**headers) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    return "".join(["HTTP/1.1 200 OK\r\n", *lines, "\r\n"]).encode()


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def unfinished(place) -> bytes | None:
    path = download.unfinished_of(place)
    return path.read_bytes() if path.exists() else None


def leave(place, content: bytes) -> None:
    """As a download that was killed leaves it."""
    download.unfinished_of(place).write_bytes(content)


def test_body_without_end_stops_at_its_size(hub_server, bring, place):
    sent = []

    def endless():
        yield CHUNKED
        while True:
            sent.append(len(BODY))
            yield chunk(BODY)

    hub_server.faults.raw["/file"] = endless
    with pytest.raises(StorageError, match=r"expected 100,000 bytes .*, got more; they were remov"):
        bring()
    assert len(sent) < 200  # what the connection's buffers take
    assert not place.exists() and unfinished(place) is None


def test_one_byte_more_is_an_error(hub_server, bring, place):
    answers(hub_server, CHUNKED, chunk(BODY), chunk(b"x"), chunk(b""))
    with pytest.raises(StorageError, match="got more; they were removed"):
        bring()
    answers(hub_server, CHUNKED, chunk(BODY), chunk(b""))
    assert bring() == BODY


@pytest.mark.parametrize("size", [0, 5, len(BODY) - 1, len(BODY) + 1, 1 << 60])
def test_answer_of_another_size_is_not_taken(size, hub_server, bring, place):
    leave(place, BODY[:10])
    answers(hub_server, head(Content_Length=size), BODY)
    with pytest.raises(
        StorageError, match=f"expected 100000 bytes, the server sends '{size} bytes'; "
    ):
        bring()
    assert unfinished(place) == BODY[:10]


def test_body_that_ends_early_is_asked_for_again_and_not_for_ever(hub_server, bring, place):
    answers(hub_server, CHUNKED, chunk(BODY[:10]), chunk(b""))
    with pytest.raises(ConnectionLostError, match="it ended after 10 of 100,000 bytes"):
        bring()
    assert len(hub_server.requests) == 4
    assert unfinished(place) == BODY[:10]


def test_server_that_has_no_more(hub_server, bring, place):
    leave(place, BODY[:-1])
    hub_server.faults.statuses = [416]
    with pytest.raises(
        StorageError, match=r"got 99,999 with .*they were removed, download it again"
    ):
        bring()
    assert unfinished(place) is None


@pytest.mark.parametrize(
    "given",
    ["bytes 0-99999/100000", "bytes 11-99999/100000", "bytes 10-99999/100001", "bytes 10-", "x"],
)
def test_another_range_than_asked_for(given, hub_server, bring, place):
    leave(place, BODY[:10])
    partial = head(Content_Range=given, Content_Length=len(BODY) - 10).replace(b"200", b"206")
    answers(hub_server, partial, BODY[10:])
    with pytest.raises(StorageError, match="expected bytes 10-…/100000, the server sends '"):
        bring()
    assert unfinished(place) == BODY[:10]


@pytest.mark.parametrize("given", ["bytes 10-99999/100000", "bytes 10-99999/*"])
def test_the_range_that_was_asked_for(given, hub_server, bring, place):
    leave(place, BODY[:10])
    partial = head(Content_Range=given, Content_Length=len(BODY) - 10).replace(b"200", b"206")
    answers(hub_server, partial, BODY[10:])
    assert bring() == BODY


@pytest.mark.parametrize("status", [201, 204, 206, 300, 304])
def test_statuses_that_bring_no_whole(status, hub_server, bring):
    answers(hub_server, b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
    with pytest.raises(StatusError, match=f"HTTP {status}"):
        bring()
    assert len(hub_server.requests) == 1


def test_packed_content_is_not_unpacked(hub_server, bring, place):
    bomb = gzip.compress(bytes(10 << 20))
    answers(hub_server, head(Content_Encoding="gzip", Content_Length=len(bomb)), bomb)
    with pytest.raises(StorageError, match="expected identity, the server sends 'gzip'"):
        bring()
    with pytest.raises(StorageError, match="expected identity, the server sends 'gzip'"):
        fetch(f"{hub_server.url}/file", len(bomb))


def test_answer_is_read_to_its_limit_and_no_further(hub_server):
    def endless():
        yield CHUNKED
        yield from itertools.repeat(chunk(BODY))

    hub_server.faults.raw["/file"] = endless
    with pytest.raises(StorageError, match="expected at most 200,000 bytes, got more"):
        fetch(f"{hub_server.url}/file", 200_000)


def test_body_of_a_redirect_is_not_read(hub_server, bring):
    def endless():
        yield b"HTTP/1.1 302 X\r\nLocation: /other\r\nTransfer-Encoding: chunked\r\n\r\n"
        yield from itertools.repeat(chunk(BODY))

    hub_server.faults.raw |= {"/file": endless, "/other": lambda: [head(), BODY]}
    assert bring() == BODY


def test_redirects_without_end(hub_server, bring):
    answers(hub_server, b"HTTP/1.1 302 X\r\nLocation: /file\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(StorageError, match="redirected more than 5 times; check HF_ENDPOINT"):
        bring()
    assert len(hub_server.requests) == 6


@pytest.mark.parametrize("place", ["ftp://localhost/x", "file:///etc/passwd"])
def test_redirects_to_what_is_no_web(place, hub_server):
    answers(hub_server, b"HTTP/1.1 302 X\r\nLocation: %b\r\n\r\n" % place.encode())
    with pytest.raises(StorageError, match="redirected from http to"):
        fetch(f"{hub_server.url}/file", 100)


@pytest.fixture
def elsewhere(monkeypatch):
    """Answers of hosts that are not this machine: a redirect from hub.example to any place."""
    client = importlib.import_module(download.HTTPError.__module__)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    asked = []

    def redirect(place: str) -> list:
        def answer(request):
            asked.append(request)
            headers = {"Location": place} if request.url.path == "/file" else {}
            return client.Response(
                302 if headers else 200, headers=headers, content=iter([b"found"])
            )

        set_client_factory(lambda: client.Client(transport=client.MockTransport(answer)))
        return asked

    factory = importlib.import_module("huggingface_hub.utils._http").default_client_factory
    yield redirect
    set_client_factory(factory)


@pytest.mark.parametrize(
    ("place", "token"),
    [
        ("https://hub.example/other", "Bearer hf_secret"),
        ("https://hub.example:444/other", None),
        ("https://hub.example.org/other", None),
        ("//evil.example/other", None),
    ],
)
def test_token_stays_with_its_host(place, token, elsewhere):
    asked = elsewhere(place)
    assert fetch("https://hub.example/file", 100) == b"found"
    assert [request.headers.get("Authorization") for request in asked] == [
        "Bearer hf_secret",
        token,
    ]


def test_https_is_not_left(elsewhere):
    asked = elsewhere("http://hub.example/other")
    with pytest.raises(StorageError, match="redirected from https to http; check HF_ENDPOINT"):
        fetch("https://hub.example/file", 100)
    assert len(asked) == 1


def trickle(start: bytes, piece: bytes):
    def pieces():
        yield start
        while True:
            time.sleep(0.02)
            yield piece

    return pieces


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (CHUNKED, chunk(b"x")),
        (head(Content_Length=len(BODY)), b"x"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"", b"HTTP/1.1 102 X\r\n\r\n"),
        (b"HTTP/1.1 302 X\r\nLocation: ", b"/"),
    ],
    ids=["chunks", "body", "header", "preliminary", "redirect"],
)
def test_byte_now_and_then_holds_nobody(start, piece, hub_server, bring, monkeypatch):
    """Bytes that come renew no patience, unless there are enough of them."""
    monkeypatch.setattr(limits, "SLOWEST_SECONDS", 0.2)
    hub_server.faults.raw["/file"] = trickle(start, piece)
    with pytest.raises(ConnectionLostError, match=r"fewer than 61,440 bytes in 0\.2 s"):
        bring()
    assert len(hub_server.requests) == 4


def test_listening_server_that_says_nothing(monkeypatch):
    monkeypatch.setattr(limits, "SLOWEST_SECONDS", 0.05)
    monkeypatch.setattr(download, "WAITS", ())
    with socket.create_server(("127.0.0.1", 0)) as server:
        with pytest.raises(ConnectionLostError, match="fewer than"):
            fetch(f"http://127.0.0.1:{server.getsockname()[1]}/file", 100)
        server.accept()[0].close()


@pytest.mark.parametrize("start", [0, 500 << 10])
@pytest.mark.parametrize(("seconds", "is_lost"), [(0.5, False), (2, True)])
def test_rate_is_looked_at_over_a_minute(seconds, is_lost, start, monkeypatch):
    """A KiB, each so many seconds after the other; a server that knows no ranges sends all."""
    blocks = [bytes(1024)] * 500
    response = SimpleNamespace(status_code=200, headers={}, iter_raw=lambda: iter(blocks))
    monkeypatch.setattr(download, "_open", lambda *arguments: nullcontext(response))
    clock = itertools.count(0, seconds)
    monkeypatch.setattr(download.time, "monotonic", lambda: next(clock))
    if is_lost:
        with pytest.raises(ConnectionLostError, match="fewer than 61,440 bytes in 60 s"):
            list(download.receive("http://hub.example", start))
    else:
        content = b"".join(download.receive("http://hub.example", start))
        assert len(content) == (500 << 10) - start


def test_reader_ends_with_who_listens(monkeypatch):
    """Also where it waits to hand over a block."""
    made, is_closed = [], threading.Event()

    def read(*arguments):
        try:
            while True:
                made.append(1)
                yield 1, b"x"
        finally:
            is_closed.set()

    monkeypatch.setattr(download, "_read", read)
    blocks = download.receive("http://hub.example")
    next(blocks)
    deadline = time.monotonic() + 60
    while len(made) < 18:  # one was taken, 16 stand in the queue, one waits
        assert time.monotonic() < deadline
        time.sleep(0.001)
    blocks.close()
    assert is_closed.wait(60)


@pytest.mark.parametrize(
    ("name", "value"), [("HTTP_PROXY", "gopher://x"), ("SSL_CERT_FILE", "/nowhere/cert.pem")]
)
def test_client_that_cannot_be_made(name, value, hub_server, monkeypatch):
    monkeypatch.setenv(name, value)
    close_session()
    with pytest.raises(StorageError, match=r"cannot be asked for \(.*SSL_CERT_FILE"):
        fetch(f"{hub_server.url}/file", 100)
    monkeypatch.delenv(name)
    assert get_session()


@pytest.mark.parametrize("url", ["http://h:port/file", "http://a\x00b/file"])
def test_address_that_is_none(url):
    with pytest.raises(StorageError, match="cannot be asked for"):
        fetch(url, 100)


def test_token_of_other_characters_is_not_shown(hub_server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_sécret")
    with pytest.raises(StorageError, match="the token has characters that no token has") as raised:
        fetch(f"{hub_server.url}/file", 100)
    assert "cret" not in str(raised.value)


def test_who_does_not_say_who_asks(hub_server, monkeypatch):
    for token, code in (("", "RepoNotFound"), ("hf_wrong", "")):
        monkeypatch.setenv("HF_TOKEN", token)
        answers(hub_server, b"HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n")
        with pytest.raises(StatusError) as raised:
            fetch(f"{hub_server.url}/file", 100)
        assert raised.value.code == code


@pytest.mark.parametrize("kind", ["link", "second name", "pipe", "folder"])
def test_what_another_put_in_the_place_is_not_written_into(kind, hub_server, bring, place):
    answers(hub_server, head(), BODY)
    precious, there = place.with_name("precious"), download.unfinished_of(place)
    precious.write_bytes(b"mine")
    if kind == "link":
        there.symlink_to(precious)
    elif kind == "second name":
        there.hardlink_to(precious)
    elif kind == "pipe":
        os.mkfifo(there)
    else:
        there.mkdir()
    with pytest.raises(StorageError, match="partial: expected a plain file of its own; remove"):
        bring()
    assert precious.read_bytes() == b"mine" and not place.exists()


def test_long_names_are_short_on_their_way(hub_server, place):
    places = [
        place.with_name(end * (length // len(end.encode())))
        for end in "aä"
        for length in (240, 246, 250, 254)
    ]
    assert len({download.unfinished_of(path) for path in places}) == len(places)
    answers(hub_server, head(), BODY)
    for path in places:
        leave(path, BODY[:7])
        download.download(f"{hub_server.url}/file", FILE, path, lambda came=0, wait=0.0: None)
        assert path.read_bytes() == BODY


def test_endpoint_is_asked_with_a_timeout(elsewhere):
    asked = elsewhere("/other")
    fetch("https://hub.example/file", 100)
    seconds = constants.HF_HUB_DOWNLOAD_TIMEOUT
    assert all(set(request.extensions["timeout"].values()) == {seconds} for request in asked)


def test_beginning_of_a_file_is_all_that_is_kept(hub_server):
    hub_server.publish("org/name", {"model.gguf": b"GGUF" * 100_000})
    url = f"{hub_server.url}/org/name/resolve/main/model.gguf"
    assert fetch(url, 6, is_cut=True) == b"GGUFGG"
    assert fetch(url, 1 << 20, is_cut=True) == b"GGUF" * 100_000
    with pytest.raises(StorageError, match="expected at most 6 bytes, got more"):
        fetch(url, 6)
