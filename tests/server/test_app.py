"""The application by what there is of it: the page, the API, or both."""

from __future__ import annotations

import httpx
from support.commands import CLIP
from support.servers import get, page_app, running

from voxtral_onnx.server.app import build_app
from voxtral_onnx.server.page.site import Site


def test_page_and_api(api, page, tiny_artifact):
    app = build_app(api.engines, Site(tiny_artifact), model_name="tiny")
    with running(app) as port:
        assert get(port, "/")[2] == (page / "index.html").read_bytes()
        assert get(port, "/ready")[0] == get(port, "/v1/models")[0] == 200
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/audio/transcriptions", files={"file": CLIP.read_bytes()}
        )
        assert answer.status_code == 200
        for path in ("/", "/v1/models"):
            assert get(port, path, Host="stranger.example")[0] == 421


def test_the_page_alone(page, tiny_artifact):
    with running(page_app(tiny_artifact)) as port:
        assert get(port, "/health")[0] == get(port, "/ready")[0] == 200
        status, _, content = get(port, "/v1/models")
        assert status == 404 and b"--page-only" in content
        assert get(port, "/metrics")[0] == 404


def test_an_api_that_lacks_something(page, tiny_artifact):
    """Whoever waits for it is told why it does not come."""
    app = build_app(site=Site(tiny_artifact), lack="onnxruntime is not installed")
    with running(app) as port:
        assert get(port, "/")[0] == get(port, "/health")[0] == 200
        for path in ("/ready", "/v1/models"):
            status, _, content = get(port, path)
            assert status == 503 and b"onnxruntime is not installed" in content


def test_the_api_alone(api):
    assert httpx.get(f"{api.address}/").status_code == 404
    assert httpx.get(f"{api.address}/openapi.json").json()["info"]["title"] == "voxtral-onnx"
