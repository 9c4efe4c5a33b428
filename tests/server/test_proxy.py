"""The server behind nginx with deploy/nginx.conf, over TLS."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import openai
import pytest
from support.commands import CLIP, TEXT
from support.needs import require
from support.openai_client import Client
from support.servers import until
from websockets.sync.client import connect

from voxtral_onnx.server.realtime.mistral import PATH
from voxtral_onnx.server.tls import self_signed

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "nginx.conf"
# What a system's own file has around it
AROUND = """
pid pid; error_log stderr; events {{}}
http {{
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi; access_log off;
    {site}
}}
"""


@pytest.fixture
def proxy(api, tmp_path, monkeypatch):
    """The port of a proxy, and a context that trusts its certificate."""
    require("nginx", {"nginx": shutil.which("nginx") is not None})
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    certificate, key = self_signed()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    site = CONFIGURATION.read_text()
    for theirs, own in (
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("speech.example.org;", "localhost;"),
        ("http://127.0.0.1:8000", api.address),
        ("/etc/letsencrypt/live/speech.example.org/fullchain.pem", str(certificate)),
        ("/etc/letsencrypt/live/speech.example.org/privkey.pem", str(key)),
    ):
        assert theirs in site
        site = site.replace(theirs, own)
    (tmp_path / "nginx.conf").write_text(AROUND.format(site=site))
    command = ["nginx", "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-g", "daemon off;"]
    with subprocess.Popen(command) as process:
        try:
            until(lambda: process.poll() is not None or listens(port))
            yield port, ssl.create_default_context(cafile=str(certificate))
        finally:
            process.terminate()


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.nginx
def test_clients_behind_nginx(proxy):
    """Recordings, words as they come, live speech of a page's script, and an address without."""
    port, context = proxy
    address = f"https://localhost:{port}"
    with openai.DefaultHttpxClient(verify=context) as http:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", http_client=http)
        found = client.audio.transcriptions.create(file=CLIP, model="whisper-1", stream=True)
        assert "".join(getattr(each, "delta", "") for each in found) == TEXT
        assert http.get(f"{address}/v1/realtime").status_code == 426
    for path in ("/v1/realtime?intent=transcription", PATH):
        with connect(
            f"wss://localhost:{port}{path}",
            ssl=context,
            additional_headers={"Origin": address},
        ) as socket_:
            if path == PATH:
                assert json.loads(socket_.recv(20))["type"] == "session.created"
                continue
            speaker = Client(socket_)
            speaker.until("session.created")
            assert speaker.transcript(CLIP) == TEXT
