"""What tests of the server share: a page without onnxruntime-web, and a server of *tiny*."""

from __future__ import annotations

import shutil

import pytest
from support.servers import FROM_VENDOR, running

from voxtral_onnx.server import app
from voxtral_onnx.server import page as server_page


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The page with stand-ins for onnxruntime-web, which only browsers run."""
    folder = tmp_path / "page"
    shutil.copytree(
        server_page.PAGE, folder, ignore=shutil.ignore_patterns("node_modules", "vendor")
    )
    (folder / "vendor").mkdir()
    for name, content in FROM_VENDOR.items():
        (folder / "vendor" / name).write_bytes(content)
    monkeypatch.setattr(server_page, "PAGE", folder)
    return folder


@pytest.fixture
def port(page, tiny_artifact):
    with running(app.create_app(tiny_artifact)) as port:
        yield port
