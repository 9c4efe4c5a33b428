"""What the server tells of itself."""

from __future__ import annotations

import re

import httpx
from prometheus_client.parser import text_string_to_metric_families
from support.commands import CLIP


def figures(api) -> dict[str, float]:
    """Return all samples by their name and labels, as Prometheus reads them."""
    answer = httpx.get(f"{api.address}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        f"{sample.name}{sorted(sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_health_and_readiness(api):
    for path in ("/health", "/ready"):
        answer = httpx.get(f"{api.address}{path}")
        assert (answer.status_code, answer.text) == (200, "ok\n")
        assert answer.headers["cache-control"] == "no-store"


def test_figures(api):
    before = figures(api)
    with api.client as client:
        client.audio.transcriptions.create(file=CLIP, model="tiny")
    httpx.post(f"{api.address}/v1/audio/transcriptions", files={"file": ("a", b"no sound")})
    after = figures(api)
    grown = {name: after[name] - before[name] for name in after}
    assert grown["voxtral_requests_total['ok']"] == grown["voxtral_requests_total['refused']"] == 1
    assert grown["voxtral_audio_seconds_total[]"] == 2.175
    assert 27 <= grown["voxtral_tokens_total[]"] <= 45
    assert grown["voxtral_rtf_count[]"] == 1 and grown["voxtral_rtf_sum[]"] > 0
    assert grown["voxtral_decoder_steps_total['cpu']"] > 27
    assert after["voxtral_capacity['cpu']"] == 4 and after["voxtral_up['cpu']"] == 1
    for name in ("streams['cpu']", "requests_running[]", "requests_waiting[]"):
        assert after[f"voxtral_{name}"] == 0


def test_figures_of_live_streams(api):
    engine = api.engines.engines[0]
    with engine.open() as stream:
        assert figures(api)["voxtral_streams['cpu']"] == 1
        stream.feed([0.0] * 16_000)
        stream.finish()
        assert list(stream.events)
    found = figures(api)
    assert found["voxtral_ticks_total['cpu']"] > 0
    assert (
        0
        < found["voxtral_tick_seconds['0.5', 'cpu']"]
        <= found["voxtral_tick_seconds['0.99', 'cpu']"]
    )


def test_no_text_and_no_names_of_files(api):
    """Figures are read by whoever watches, not by whoever was recorded."""
    with api.client as client:
        client.audio.transcriptions.create(file=("secret.wav", CLIP.read_bytes()), model="tiny")
    text = httpx.get(f"{api.address}/metrics").text
    assert not re.search("secret|bathroom|music", text)
