"""The headline of doctor: will the 4B model run here, and how fast?"""

from __future__ import annotations

import json
import platform
import re
from dataclasses import replace
from pathlib import Path

import pytest

from voxtral_onnx.config import RELEASED
from voxtral_onnx.exporter.binding.layout import plan_external_data
from voxtral_onnx.exporter.export import ENCODER_SLACK, caches
from voxtral_onnx.exporter.graph.families import native
from voxtral_onnx.exporter.model.parameters import PartFactory
from voxtral_onnx.exporter.precisions import PRECISIONS
from voxtral_onnx.manifest import Tokens
from voxtral_onnx.quant.recipe import FLOAT, load_recipe
from voxtral_onnx.runtime import forecast as forecasts
from voxtral_onnx.runtime import memory
from voxtral_onnx.runtime.doctor import Check
from voxtral_onnx.runtime.forecast import cpu_speed, forecast, gpu_speed, hour_speed, needed_memory

RESULTS = Path(__file__).parents[2] / "bench" / "results"
GB = 10**9
TOKENS = Tokens(bos=0, eos=0, streaming_pad=0, streaming_word=0, first_text=0)


def machine(*, cores=8, bandwidth=60e9, free: int | None = 30 * GB) -> list[Check]:
    """Return what doctor finds of a machine."""
    known = {} if free is None else {"available_memory": free}
    return [
        Check("versions", "onnxruntime", "ok", "1.32.0"),
        Check("providers", "cpu", "ok", "runs"),
        Check("machine", "processor", "ok", "", {"cores": cores}),
        Check("machine", "memory", "ok", "", known),
        Check("machine", "bandwidth", "ok", "", {"read_bytes_per_second": bandwidth}),
    ]


def gpu(free=80 * GB, bandwidth=3e12) -> Check:
    values = {"free_memory": free, "copy_bytes_per_second": bandwidth}
    return Check("providers", "cuda:0", "ok", "", values)


def headline(checks, **options) -> Check:
    return forecast(checks, **{"context": 8192, **options})


@pytest.mark.parametrize("name", PRECISIONS)
def test_sizes_are_those_that_an_export_plans(name):
    kind = PRECISIONS[name]
    recipe = load_recipe(kind.recipe) if kind.recipe else FLOAT
    options = {"build": PartFactory(kind.dtype, recipe), "suffix": ""}
    sizes = []
    for plan in (
        native.encoder_plan(RELEASED, **options),
        native.decoder_plan(RELEASED, tokens=TOKENS, **options),
    ):
        layout = plan_external_data(plan.parts, plan.data_file, 512 << 20)
        sizes.append(sum(layout.sizes.values()))
    assert tuple(sizes) == forecasts.WEIGHTS[name]
    assert (kind.dtype == "float16") == (name in forecasts.FLOAT16)


@pytest.mark.parametrize("name", ["q4f16", "q4"])
def test_memory_is_that_of_a_manifest(name):
    size = 2 if name == "q4f16" else 4
    buffers = sum(memory.buffer_bytes(spec, size) for spec in caches(RELEASED).values())
    expected = memory.resident_bytes(name, sum(forecasts.WEIGHTS[name]), buffers)
    assert needed_memory(name, 8192) == needed_memory(name, 10**6) == expected
    assert needed_memory(name, 1024) < expected
    assert forecasts.ENCODER_SLACK == ENCODER_SLACK


def test_speed_is_near_what_was_measured():
    """On the machine whose runs the constants come from."""
    measured = 0
    runs = json.loads((RESULTS / "full_size.json").read_text())["runs"]
    for run in runs:
        if run["audio_seconds"] == 60:
            bandwidth = run["details"]["read_bytes_per_second"]
            rtf = 1 / cpu_speed(run["precision"], run["threads"], bandwidth)
            assert rtf == pytest.approx(run["rtf"], rel=0.15)
            measured += 1
    assert measured == 2
    steps = json.loads((RESULTS / "gpu_speed.json").read_text())["q4f16"]["steps"]
    token = steps["decoder, full window, replayed"]["p50"]
    token += steps["encoder, full window, 16 tokens, replayed"]["p50"] / 16
    assert 80 / gpu_speed("q4f16", 4e12) == pytest.approx(token, rel=0.15)


@pytest.mark.parametrize("name", ["q4f16", "q4", "q8", "fp16", "fp32"])
def test_an_hour_is_slower_by_its_full_window(name):
    runs = json.loads((RESULTS / "full_size.json").read_text())["runs"]
    (found,) = [run["details"] for run in runs if run["precision"] == name]
    full, empty = (found[window]["decoder"]["p50"] for window in ("full_window", "empty_window"))
    more = (full - empty) / 1000 * 2  # cores
    assert pytest.approx(more, rel=0.02) == forecasts.ATTENTION_CORE_SECONDS[name]
    hour = hour_speed(0.5, name, 2, 8192)
    assert 0.08 / 0.5 + forecasts.OTHER_WORK * more / 2 * 0.909 == pytest.approx(
        0.08 / hour, rel=0.01
    )
    assert hour < hour_speed(0.5, name, 2, 1024) < 0.5 and hour < hour_speed(0.5, name, 8, 8192)


def test_more_of_anything_is_no_slower():
    slow = cpu_speed("q4", 2, 10e9)
    assert cpu_speed("q4", 4, 10e9) > slow and cpu_speed("q4", 2, 20e9) > slow
    assert gpu_speed("q4f16", 2e12) > gpu_speed("q4f16", 3e11)


def test_a_slow_machine():
    found = headline(machine(cores=2, bandwidth=13e9))
    assert (found.topic, found.status) == ("headline", "ok")
    assert found.values["speed"] < 0.7
    hours = (
        r"A recording of one hour will take about \d(\.\d)? hours here \(within a factor of two\)"
    )
    assert re.match(f"{hours}, and it is too slow for live speech", found.summary)
    assert re.search(r"at about 0\.\d+ of real time \(RTF [\d.]+\) on the CPU", found.summary)
    assert f"Use: voxtral-onnx export --precision {found.values['precision']}" in found.summary


def test_a_busy_machine_is_said_to_be():
    checks = machine()
    checks[-1] = replace(checks[-1], status="note")
    assert "(busy as this machine is; idle it is faster)" in headline(checks).summary
    assert "within a factor" in headline([*checks, gpu()]).summary


def test_a_fast_machine():
    found = headline(machine(cores=32, bandwidth=400e9))
    assert found.values["speed"] > 2 and " times real time (RTF 0." in found.summary
    minutes = round(60 / found.values["hour_speed"])
    assert f"one hour will take about {minutes} minutes here (" in found.summary
    assert "and it keeps up with live speech" in found.summary


@pytest.mark.parametrize(
    ("speed", "text"),
    [
        (0.11, "9 hours"),
        (0.5, "2.0 hours"),
        (0.99, "61 minutes"),
        (10, "6 minutes"),
        (200, "1 minute"),
    ],
)
def test_an_hour(speed, text):
    assert forecasts._hour(speed) == text


def test_a_gpu_is_taken_where_there_is_one():
    checks = [*machine(), gpu()]
    found = headline(checks)
    assert (found.values["place"], found.values["precision"]) == ("cuda:0", "q4f16")
    assert headline(checks, device="cpu").values["place"] == "the CPU"
    assert headline(checks, device="cuda").values["place"] == "cuda:0"
    assert headline([*machine(), gpu(free=GB)]).values["place"] == "the CPU"


def test_what_is_asked_for_is_what_is_forecast():
    assert headline(machine(), precisions=["q8"]).values["precision"] == "q8"
    assert headline(machine(free=200 * GB), precisions=["all"]).values["precision"] in PRECISIONS


def test_what_fits_instead_is_said():
    one = headline(machine(free=int(6.5 * GB)), precisions=["q8"])
    assert one.status == "note" and "q8 does not fit here: it needs 9.6 GB" in one.summary
    assert "What fits: q4f16, 6.0 GB on the CPU" in one.summary
    short = headline(machine(free=int(5.2 * GB)))
    assert "What fits: q4f16 --context" in short.summary and short.values["context"] < 8192
    assert short.values["needed_memory"] <= 5.2 * GB
    none = headline(machine(free=2 * GB))
    assert none.status == "note" and "no other precision or context does" in none.summary
    assert "--model tiny" in none.summary and "speed" not in none.values


def test_a_precision_that_a_device_does_not_have():
    checks = [*machine(), gpu()]
    found = headline(checks, device="cuda", precisions=["q4"])
    assert (
        found.status == "note" and "in q4 does not run on cuda. What fits: q4f16, " in found.summary
    )
    full = headline([*machine(), gpu(free=0)], device="cuda", precisions=["q4"])
    assert "no other precision or context does" in full.summary


def test_unknown_memory_refuses_nothing():
    found = headline(machine(free=None))
    assert found.status == "ok" and "are free" not in found.summary


def test_without_onnxruntime_nothing_runs():
    checks = machine()
    checks[0] = Check("versions", "onnxruntime", "missing", "onnxruntime is missing; run: pip")
    assert headline(checks).summary.endswith(
        "cannot run here yet: onnxruntime is missing; run: pip"
    )


def test_float16_is_not_proposed_on_arm(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert headline(machine()).values["precision"] == "q4"
    asked = headline(machine(), precisions=["q4f16"])
    assert (asked.status, asked.values["precision"]) == ("ok", "q4f16")
    assert headline([*machine(), gpu()]).values["place"] == "cuda:0"


def test_a_self_test_of_that_shape_is_a_measurement():
    values = {"device": "cpu", "rtf": 0.8, "is_released_shape": True}
    tested = Check("artifact", "self-test q4", "ok", "", values)
    found = headline([*machine(), tested])
    assert found.values == {"precision": "q4", "speed": 1.25, "is_measured": True}
    assert "takes about 48 minutes" not in found.summary  # the window fills in eleven minutes
    assert (
        "q4 runs at 1.2 times real time (RTF 0.8) on the CPU, as its self-test just did"
        in found.summary
    )
    tiny = replace(tested, values={**values, "is_released_shape": False})
    assert not headline([*machine(), tiny]).values["is_measured"]


def test_doctor_begins_with_it(run, monkeypatch):
    monkeypatch.setattr("voxtral_onnx.runtime.machine.READ_BYTES", 32 << 20)
    found = json.loads(run("doctor", "--json").out)
    assert found[0]["topic"] == "headline" and "speed" in found[0]["values"]
    shown = run("doctor").out
    assert shown.startswith("A recording of one hour will take about ") and " on the CPU; " in (
        " ".join(shown.partition("\n\n")[0].split())
    )
    assert max(map(len, shown.splitlines())) <= 80
