"""What a hub answers, heads of HTTP included, and what is remembered of it."""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
import threading
from collections import deque
from contextlib import suppress
from functools import cache
from pathlib import Path

from huggingface_hub import constants

from voxtral_onnx import download, hub, limits

BETWEEN = b"\n=====\n"  # of answers, of which every request gets the next one
REPOSITORY = hub.Repository("org/name", "main")
CONTENT = b"content of a file"
COMMIT = "0123456789abcdef" * 2 + "01234567"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LISTING = {
    "id": "org/name",
    "sha": COMMIT,
    "siblings": [
        {"rfilename": "params.json", "size": 2, "blobId": hashlib.sha1(b"blob 2\0{}").hexdigest()},
        {
            "rfilename": "onnx/model.onnx",
            "size": len(CONTENT),
            "blobId": "0" * 40,
            "lfs": {"sha256": SHA256, "size": len(CONTENT), "pointerSize": 130},
        },
    ],
}
LEFT = CONTENT[:4]  # of the second file


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "\r\n")
    return "\r\n".join(lines).encode() + body


def seeds() -> dict[str, bytes]:
    listing, small = answer(json.dumps(LISTING).encode()), answer(b"{}")
    rest = CONTENT[len(LEFT) :]
    given = f"Content-Range: bytes {len(LEFT)}-{len(CONTENT) - 1}/{len(CONTENT)}"
    part = answer(rest, given, status="206 Partial Content")
    chunks = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n" + CONTENT + b"\r\n0\r\n\r\n"
    )
    moved = answer(b"", "Location: /elsewhere", status="302 Found")
    busy = answer(b"", "Retry-After: 1", "X-Error-Code: ", status="503 Busy")
    record = {"commit": COMMIT, "files": {"params.json": {"size": 2, "digest": SHA256}}}
    return {
        "part": BETWEEN.join((listing, small, part)),
        "whole": BETWEEN.join((listing, small, answer(CONTENT, "ETag: x", "Accept-Ranges: bytes"))),
        "chunks": BETWEEN.join((listing, small, chunks)),
        "moved": BETWEEN.join((moved, listing, moved, small, moved, moved, part)),
        "busy": BETWEEN.join((busy, listing, busy, busy, small, part)),
        "packed": BETWEEN.join(
            (listing, small, part, answer(gzip.compress(bytes(1 << 20)), "Content-Encoding: gzip"))
        ),
        "record": json.dumps(record).encode(),
    }


def parse(data: bytes, folder: Path) -> None:
    hub_server = server()
    constants.ENDPOINT = hub_server.url
    constants.HF_ASSETS_CACHE = constants.HF_HUB_CACHE = str(folder)
    download.WAITS = (0, 0)
    limits.SLOWEST_SECONDS = 5
    if not data.startswith(b"HTTP"):
        home = folder / "voxtral-onnx" / "org--name"
        home.mkdir(parents=True)
        (home / "main.json").write_bytes(data)
        snapshot = hub.look_up(REPOSITORY, offline=True)
        check_names(snapshot, folder)
        return
    hub_server.answers = deque(data.split(BETWEEN))
    snapshot = hub.look_up(REPOSITORY)
    place = snapshot.folder(snapshot.files)
    check_names(snapshot, place)
    for name in list(snapshot.files)[1:2]:
        unfinished = download.unfinished_of(place / name)
        with suppress(OSError):  # a name that is too long
            unfinished.parent.mkdir(parents=True)
            unfinished.write_bytes(LEFT)
    snapshot.folder_of_others(snapshot.files)
    snapshot.download(snapshot.files, place)
    snapshot.remember()
    for name, file in snapshot.files.items():
        digest = file.hash()
        digest.update((place / name).read_bytes())
        assert digest.hexdigest() == file.digest
    assert hub.look_up(REPOSITORY, offline=True).files == snapshot.files


def check_names(snapshot: hub.Snapshot, folder: Path) -> None:
    assert all((folder / name).resolve().is_relative_to(folder) for name in snapshot.files)


class Server:
    """Gives every connection the next answer, and no more than that."""

    def __init__(self):
        self.answers: deque[bytes] = deque()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            connection, _ = self.socket.accept()
            with connection, suppress(OSError):
                request = b""
                while b"\r\n\r\n" not in request and (more := connection.recv(1 << 16)):
                    request += more
                connection.sendall(self.answers.popleft() if self.answers else b"")
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass


@cache
def server() -> Server:
    return Server()
