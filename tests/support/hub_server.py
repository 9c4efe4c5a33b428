"""A hub on this machine: the endpoints that downloads and uploads use, with faults on request.

They answer on a real socket.

    GET /api/models/ORG/NAME[/revision/REVISION]?blobs=True   commit, files, sizes, hashes
    GET /ORG/NAME/resolve/REVISION/PATH                       small files; of LFS, a redirect
    GET /lfs/ORG/NAME/SHA256                                  on another host name, as on the hub

    POST /api/repos/create                                    409 where it exists
    POST /api/validate-yaml                                   of a card
    POST /api/models/ORG/NAME/preupload/REVISION              which files go to LFS
    POST /ORG/NAME.git/info/lfs/objects/batch                 where to send those that are not there
    PUT /lfs/SHA256                                           one of them
    POST /api/models/ORG/NAME/commit/REVISION                 all changes, a JSON object a line

Spaces have `spaces` in the place of `models` and before ORG. Who writes needs the token.

Source: the answers of huggingface.co, as huggingface_hub's code reads them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LFS = (".safetensors", ".gguf", ".onnx", ".onnx_data")
PIECE = 1 << 16  # bytes sent at a time


@dataclass(frozen=True)
class Request:
    method: str
    path: str  # without the query
    range: str | None
    token: str | None
    agent: str | None


@dataclass
class Faults:
    """What goes wrong; a test sets it, the server uses it up."""

    # Bytes of a body after which the connection is cut, one a request
    drops: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)  # of the next answers, with no word why
    error: tuple[int, str] | None = None  # status and X-Error-Code of every answer
    flip: str | None = None  # a file of which one byte is wrong
    knows_ranges: bool = True
    body: bytes | None = None  # of every answer
    # By the end of a path: pieces of an answer, its head among them, sent one by one as they stand
    raw: dict[str, Callable[[], Iterable[bytes]]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)  # announced in the place of right ones
    hold: int | None = None  # bytes of a file after which the server waits until `resumed` is set
    # Of others, made before the next one, one a commit
    commits: list[dict[str, bytes]] = field(default_factory=list)


class HubServer:
    def __init__(self):
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}  # by name and revision
        self.private: set[str] = set()
        self.token = "hf_secret"  # of who may write
        self.stored: dict[str, bytes] = {}  # in LFS, by sha256
        self.requests: list[Request] = []
        self.faults = Faults()
        self.held, self.resumed = threading.Event(), threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.resumed.set()
        self.http.shutdown()
        self.http.server_close()

    def publish(
        self, repo_id: str, content: Path | Mapping[str, bytes], revision: str = "main"
    ) -> str:
        """A new commit, of these files or of a folder's; returns it."""
        if isinstance(content, Path):
            files = {
                str(p.relative_to(content)): p.read_bytes()
                for p in sorted(content.rglob("*"))
                if p.is_file()
            }
        else:
            files = dict(content)
        digests = [f"{name} {hashlib.sha256(body).hexdigest()}" for name, body in files.items()]
        commit = hashlib.sha1("\n".join(digests).encode()).hexdigest()
        self.repositories.setdefault(repo_id, {}).update({revision: files, commit: files})
        return commit

    def commit(self, repo_id: str, revision: str) -> str:
        files = self.repositories[repo_id][revision]
        names = [name for name, held in self.repositories[repo_id].items() if held is files]
        return next(name for name in names if re.fullmatch("[0-9a-f]{40}", name))

    def taken(self) -> list[str]:
        """Files of which a body was asked for, in order."""
        return [
            r.path.split("/resolve/")[1].partition("/")[2]
            for r in self.requests
            if "/resolve/" in r.path
        ]

    def change(self, repo_id: str, changes: list[dict]) -> str | None:
        """Make the commit that these lines describe; None where it does not follow the newest."""
        header, *operations = changes
        if header["value"].get("parentCommit") not in (None, self.commit(repo_id, "main")):
            return None
        files = dict(self.repositories[repo_id]["main"])
        for operation in operations:
            value = operation["value"]
            match operation["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.stored[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        return self.publish(repo_id, files)


def handler(server: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format, *arguments) -> None: ...

        def begin(self) -> list[str] | None:
            """Take a request: the parts of its path, or None where a fault has answered it."""
            path, headers, faults = unquote(urlsplit(self.path).path), self.headers, server.faults
            token, agent = headers.get("Authorization"), headers.get("User-Agent")
            server.requests.append(Request(self.command, path, headers.get("Range"), token, agent))
            if faults.statuses:
                self.answer(faults.statuses.pop(0), b"{}")
            elif faults.error:
                self.answer(faults.error[0], b"{}", {"X-Error-Code": faults.error[1]})
            elif faults.body is not None:
                self.answer(200, faults.body)
            elif pieces := next((p for end, p in faults.raw.items() if path.endswith(end)), None):
                self.close_connection = True
                for piece in pieces():
                    self.wfile.write(piece)
                    self.wfile.flush()
            else:
                return path.strip("/").split("/")

        def do_GET(self) -> None:
            if (parts := self.begin()) is None:
                return None
            if parts[0] == "lfs":
                files = {
                    f"{name}": body
                    for revision in server.repositories["/".join(parts[1:3])].values()
                    for name, body in revision.items()
                }
                name = next(
                    n for n, body in files.items() if hashlib.sha256(body).hexdigest() == parts[3]
                )
                return self.send_file(name, files[name])
            is_listing = parts[:2] in (["api", "models"], ["api", "spaces"])
            if parts[0] == "api" and not is_listing:
                return self.answer(404, b"{}")
            repo_id = name_of(*parts[1:4]) if is_listing else "/".join(parts[:2])
            revision = "main" if is_listing and len(parts) == 4 else parts[5 if is_listing else 3]
            if repo_id not in server.repositories:
                return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            if revision not in server.repositories[repo_id]:
                return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            files, commit = server.repositories[repo_id][revision], server.commit(repo_id, revision)
            if is_listing:
                siblings = [entry(*file) for file in files.items()]
                for each in siblings:
                    each["size"] = server.faults.sizes.get(each["rfilename"], each["size"])
                listing = {"id": repo_id, "sha": commit, "siblings": siblings}
                return self.answer_json(200, listing | {"private": repo_id in server.private})
            name = "/".join(parts[4:])
            if name not in files:
                return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            if not name.endswith(LFS):
                return self.send_file(name, files[name], {"X-Repo-Commit": commit})
            digest = hashlib.sha256(files[name]).hexdigest()
            location = f"http://localhost:{server.http.server_port}/lfs/{repo_id}/{digest}"
            headers = {
                "Location": location,
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{digest}"',
            }
            return self.answer(302, b"", headers | {"X-Linked-Size": str(len(files[name]))})

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:
            body = self.body()
            if (parts := self.begin()) is None:
                return None
            if self.headers.get("Authorization") != f"Bearer {server.token}":
                return self.answer_json(401, {"error": "Invalid username or password."})
            if parts[1:] == ["validate-yaml"]:
                return self.answer_json(200, {"warnings": [], "errors": []})
            if parts[1:] == ["repos", "create"]:
                asked = json.loads(body)
                repo_id = name_of(f"{asked['type']}s", asked["organization"], asked["name"])
                url = f"{server.url}/{repo_id}"
                if repo_id in server.repositories:
                    return self.answer_json(
                        409, {"error": "You already created this repo", "url": url}
                    )
                server.publish(repo_id, {".gitattributes": b"*.onnx filter=lfs\n"})
                if asked.get("visibility") == "private" or asked.get("private"):
                    server.private.add(repo_id)
                return self.answer_json(200, {"url": url})
            if parts[-4:] == ["info", "lfs", "objects", "batch"]:
                objects = json.loads(body)["objects"]
                for wanted in objects:
                    if wanted["oid"] not in server.stored:
                        href = f"http://localhost:{server.http.server_port}/lfs/{wanted['oid']}"
                        wanted["actions"] = {"upload": {"href": href}}
                return self.answer_json(200, {"objects": objects, "transfer": "basic"})
            repo_id, lines = name_of(*parts[1:4]), [json.loads(line) for line in body.splitlines()]
            if repo_id not in server.repositories:
                return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            if parts[4] == "preupload":
                modes = {
                    file["path"]: "lfs" if file["path"].endswith(LFS) else "regular"
                    for file in lines[0]["files"]
                }
                files = [
                    {"path": path, "uploadMode": mode, "shouldIgnore": False}
                    for path, mode in modes.items()
                ]
                return self.answer_json(200, {"files": files})
            if server.faults.commits:
                server.publish(
                    repo_id, server.repositories[repo_id]["main"] | server.faults.commits.pop()
                )
            if (commit := server.change(repo_id, lines)) is None:
                return self.answer_json(412, {"error": "A commit has happened since."})
            return self.answer_json(
                200, {"commitUrl": f"{server.url}/{repo_id}/commit/{commit}", "commitOid": commit}
            )

        def do_PUT(self) -> None:
            cut = server.faults.drops.pop(0) if server.faults.drops else None
            body = self.body(cut)
            if cut is not None:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
            elif (parts := self.begin()) is not None:
                digest = hashlib.sha256(body).hexdigest()
                if parts[1] == digest:
                    server.stored[digest] = body
                self.answer(200 if parts[1] == digest else 400, b"")

        def body(self, limit: int | None = None) -> bytes:
            """What the request brings, in one piece or in chunks; `limit` bytes of it at most."""
            if "Content-Length" in self.headers:
                size = int(self.headers["Content-Length"])
                return self.rfile.read(size if limit is None else min(size, limit))
            found = b""
            while (size := int(self.rfile.readline(), 16)) and (
                limit is None or len(found) < limit
            ):
                found += self.rfile.read(size)
                self.rfile.readline()
            if not size:
                self.rfile.readline()
            return found

        def answer_json(self, status: int, values: Mapping) -> None:
            self.answer(status, json.dumps(values).encode())

        def answer(
            self, status: int, body: bytes, headers: Mapping[str, str] | None = None
        ) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def send_file(self, name: str, body: bytes, more: Mapping[str, str] | None = None) -> None:
            faults = server.faults
            if faults.flip == name:
                body = bytes([body[0] ^ 1]) + body[1:]
            status = 200
            headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "Accept-Ranges": "bytes"}
            headers |= more or {}
            if faults.knows_ranges and (
                match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            ):
                start = int(match[1])
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                status, body = 206, body[start:]
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            cut = faults.drops.pop(0) if faults.drops else None
            for start in range(0, len(body), PIECE):
                stop = min(start + PIECE, len(body))
                if faults.hold is not None and stop > faults.hold:
                    self.wfile.write(body[start : faults.hold])
                    self.wfile.flush()
                    server.held.set()
                    server.resumed.wait(60)
                    start, faults.hold = faults.hold, None
                if cut is not None and stop > cut:
                    self.wfile.write(body[start:cut])
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.wfile.write(body[start:stop])

        def finish(self) -> None:
            with suppress(OSError):  # the client is gone
                super().finish()

        def handle(self) -> None:
            with suppress(OSError):
                super().handle()

    return Handler


def name_of(kind: str, owner: str, name: str) -> str:
    """What `HubServer.repositories` knows a repository by."""
    return f"{owner}/{name}" if kind == "models" else f"{kind}/{owner}/{name}"


def entry(name: str, body: bytes) -> dict:
    """A file as the hub lists it."""
    size = len(body)
    blob = hashlib.sha1(b"blob %d\0" % size + body).hexdigest()
    if not name.endswith(LFS):
        return {"rfilename": name, "size": size, "blobId": blob}
    lfs = {"size": size, "sha256": hashlib.sha256(body).hexdigest(), "pointerSize": 130}
    return {"rfilename": name, "size": size, "blobId": "0" * 40, "lfs": lfs}
