"""Engines that are shared, that fail, and that end while there is work."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from support.commands import CLIP, TEXT
from support.servers import until

from voxtral_onnx import Engine, Transcriber
from voxtral_onnx.runtime.engine.loop import EngineLoop
from voxtral_onnx.server.engines import Engines


def test_the_least_busy_engine_is_taken(tiny_artifact):
    options = {"slots": 2, "most_streams": 2}
    with (
        Transcriber(tiny_artifact, device="cpu", precision="fp32") as transcriber,
        Engine(transcriber, **options) as one,
        Engine(transcriber, **options) as other,
    ):
        engines = Engines([one, other])
        with engines.taken() as first, engines.taken() as second:
            assert {first, second} == {one, other}
            assert engines.num_running == 2
        with one.open(), engines.taken() as third:
            assert third is other
        assert engines.num_running == 0
        engines.close()


def test_more_than_are_read_at_once_wait(new_api):
    api = new_api(most_at_once=1)
    with api.client as client:
        streams = [
            client.audio.transcriptions.create(file=CLIP, model="tiny", stream=True)
            for _ in range(3)
        ]
        assert [list(stream)[-1].text for stream in streams] == [TEXT] * 3


def test_an_engine_that_dies_hangs_nobody(new_api, long_recording, monkeypatch):
    """Every request ends with an error, those that come later too; texts are not cut short."""
    api = new_api()

    def dying(loop):
        raise MemoryError("no memory")

    with api.client as client:
        streamed = client.audio.transcriptions.create(
            file=long_recording, model="tiny", stream=True
        )
        assert next(streamed).delta
        monkeypatch.setattr(EngineLoop, "_settle", dying)
        with pytest.raises(openai.APIError, match="the engine has failed"):
            list(streamed)
        with pytest.raises(openai.InternalServerError, match="no memory") as caught:
            client.audio.transcriptions.create(file=CLIP, model="tiny")
        assert caught.value.status_code == 503
        ready = httpx.get(f"{api.address}/ready")
        assert ready.status_code == 503 and "the engine has failed: no memory" in ready.text
        assert httpx.get(f"{api.address}/health").status_code == 200
        assert 'voxtral_up{device="cpu"} 0.0' in httpx.get(f"{api.address}/metrics").text


def test_work_that_is_ended(new_api, long_recording):
    """At the end of the time that a server waits: an error, not a text that looks whole."""
    api = new_api()
    with api.client as client, ThreadPoolExecutor() as others:

        def create(stream):
            return client.audio.transcriptions.create(
                file=long_recording, model="tiny", stream=stream
            )

        streamed = create(True)
        assert next(streamed).delta
        whole = others.submit(create, False)
        until(lambda: api.engines.num_open == 2)
        api.engines.stop()
        with pytest.raises(openai.APIError, match="ended before the recording did"):
            list(streamed)
        with pytest.raises(openai.InternalServerError, match="ended before the recording did"):
            whole.result()


def test_a_server_that_is_about_to_end(new_api):
    api = new_api()
    api.engines.is_draining = True
    with api.client as client, pytest.raises(openai.InternalServerError, match="about to end"):
        client.audio.transcriptions.create(file=CLIP, model="tiny")
    ready = httpx.get(f"{api.address}/ready")
    assert (ready.status_code, ready.text) == (503, "the server is about to end\n")
    answer = httpx.post(f"{api.address}/v1/audio/transcriptions", files={"file": b"RIFF"})
    assert answer.headers["retry-after"]
