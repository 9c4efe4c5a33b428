"""What `serve --engine ray` refuses before Ray is started."""

from __future__ import annotations

import sys

import pytest


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--engine", "ray", "--wyoming", "10300"), "Ray passes on HTTP and WebSockets alone"),
        (("--engine", "ray", "--page-only"), "replicas serve the API"),
        (("--engine", "ray", "--https"), "let what stands before them"),
        (("--engine", "ray", "--allow-artifacts", "https://a.example"), "replicas serve no page"),
        (("--engine", "ray", "--limits", "header=3"), "Ray's proxies read headers"),
        (("--engine", "ray", "--device", "cuda:0"), "Ray gives each process a device of its own"),
        (("--engine", "ray", "--device", "cpu,cuda"), "expected one of auto, cpu, cuda"),
        (("--engine", "ray", "--host", "0.0.0.0"), "give --api-key KEY"),
        (("--replicas", "2"), "add --engine ray"),
        (("--address", "auto"), "add --engine ray"),
    ],
)
def test_what_does_not_fit(run, options, said):
    run("serve", "tiny", *options).assert_refused(2, said)


@pytest.mark.parametrize("text", ["0", "3-2", "two", "1-"])
def test_a_number_of_replicas_that_is_none(run, text):
    run("serve", "tiny", "--engine", "ray", "--replicas", text).assert_misused("a range as 2-8")


def test_without_ray(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in [name for name in sys.modules if name.startswith("voxtral_onnx.cluster")]:
        monkeypatch.delitem(sys.modules, name)
    result = run("serve", "tiny", "--engine", "ray")
    result.assert_refused(7, "pip install 'voxtral-onnx[ray,serve,cpu]'")
