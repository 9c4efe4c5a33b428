"""A browser's WebSocket, which can send no header: its key is a subprotocol."""

from __future__ import annotations

import pytest
from support.commands import TEXT
from support.needs import chromium, need_chromium, need_node, run_node
from support.servers import running

from voxtral_onnx.server.app import build_app
from voxtral_onnx.server.guard.access import ApiKeys

KEY = "k" * 20


@pytest.mark.node
@pytest.mark.browser
def test_a_page_transcribes(engines):
    need_node()
    need_chromium()
    with running(build_app(engines, model_name="tiny", keys=ApiKeys([KEY]))) as port:
        run_node(
            "realtime.test.js",
            CHROMIUM=str(chromium()),
            VOXTRAL_SERVER=f"http://127.0.0.1:{port}",
            VOXTRAL_KEY=KEY,
            VOXTRAL_TEXT=TEXT,
        )
