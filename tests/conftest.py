"""What tests of all parts share: artifacts of *tiny*, the command line, traces, and needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.commands import Result, clean_environment
from support.needs import marks, require
from support.traces import Traces

from voxtral_onnx import export
from voxtral_onnx.cli import app
from voxtral_onnx.exporter import export as exporter
from voxtral_onnx.manifest import Manifest

torch.set_num_threads(1)  # small matrices: threads that wait for each other are slower than one
EXACT_RECIPE = Path(__file__).parent / "reference" / "exact.toml"
RIGHTS = {"tmpfs", "control_group"}  # fixtures that few users may make


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory, request) -> Path:
    """One folder for the whole session, however many processes pytest-xdist runs it in."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if hasattr(request.config, "workerinput") else own


@pytest.fixture(scope="session", autouse=True)
def traces(shared_folder):
    """No export in this session traces what another has traced.

    The file tests/exporter/checkpoint/test_names.py shows that it may.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "trace", Traces(shared_folder / "traces"))
        yield exporter.trace


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory):
    """The embedded checkpoint, exported in every precision.

    Read only: tests that write take `artifact`.
    """
    folder = tmp_path_factory.mktemp("artifact") / "tiny-onnx"
    return export("tiny", folder, precisions=("q4f16", "q4", "q8", "fp16", "fp32"))


@pytest.fixture(scope="session")
def toy_model():
    """transformers' model of the toy configuration."""
    from reference import toy

    return toy.transformers_model(
        toy.toy_config(), seed=20
    )  # no choice in the streams of the tests is close


@pytest.fixture(scope="session", autouse=True)
def folders_of_session(tmp_path_factory):
    """Keep what exports for several tests remember from what other processes remember."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("STATE", "CACHE"):
            patch.setenv(f"XDG_{kind}_HOME", str(tmp_path_factory.mktemp(kind.lower())))
        yield


@pytest.fixture(scope="session")
def toy_checkpoint(toy_model, tmp_path_factory):
    """The toy model's folder in Mistral's layout."""
    from reference import toy

    return toy.write_mistral(
        toy_model, toy.toy_config(), tmp_path_factory.mktemp("toy") / "toy-mistral"
    )


@pytest.fixture(scope="session")
def toy_artifact(toy_checkpoint, tmp_path_factory):
    """The toy model in float32, and in 4 bits with the accuracy level that computes in float.

    Float32 portable too.
    """
    folder = tmp_path_factory.mktemp("toy") / "artifact"
    export(toy_checkpoint, folder, precisions=("fp32", "q4"), recipe=str(EXACT_RECIPE))
    return export(toy_checkpoint, folder, precisions=("fp32",), families=("portable",))


@pytest.fixture(scope="session")
def portable_artifact(tiny_artifact, tmp_path_factory):
    """The embedded checkpoint in q4 and fp16 with the portable family's graphs.

    They stand in the place of native's. Read only.
    """
    folder, precisions = tmp_path_factory.mktemp("portable") / "tiny-onnx", ("q4", "fp16")
    copy_artifact(tiny_artifact, folder, *precisions)
    export("tiny", folder, precisions=precisions, families=("portable",))
    manifest = Manifest.read(folder)
    for name in precisions:
        encoder, decoder = manifest.family(name, "portable")
        kind = replace(manifest.precisions[name], encoder=encoder, decoder=decoder, families={})
        manifest = replace(manifest, precisions={**manifest.precisions, name: kind})
    manifest.write(folder)
    return folder


@pytest.fixture(scope="session")
def transformers_js_artifact(tiny_artifact, tmp_path_factory):
    """The embedded checkpoint in q4, to which the family transformers_js was added. Read only."""
    folder = copy_artifact(tiny_artifact, tmp_path_factory.mktemp("family") / "tiny-onnx", "q4")
    return export("tiny", folder, precisions=("q4",), families=("transformers_js",))


@pytest.fixture
def artifact(tiny_artifact, tmp_path) -> Path:
    """A copy with the precision q4f16 alone, to damage."""
    return copy_artifact(tiny_artifact, tmp_path / "artifact")


def copy_artifact(source: Path, target: Path, *precisions: str) -> Path:
    manifest = Manifest.read(source)
    kept = {
        name: replace(manifest.precisions[name], families={}) for name in precisions or ("q4f16",)
    }
    manifest = replace(manifest, precisions=kept)
    names = {name for name in manifest.files if "/" not in name}
    names |= {name for graph in manifest.graphs() for name in (graph.path, *graph.data)}
    (target / "onnx").mkdir(parents=True)
    for name in names:
        shutil.copyfile(source / name, target / name)
    replace(manifest, files={name: manifest.files[name] for name in sorted(names)}).write(target)
    return target


@pytest.fixture(autouse=True)
def _own_state(monkeypatch, tmp_path_factory):
    """No test reads or writes what is remembered of the user's exports and weights."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("VOXTRAL_ONNX_MODEL", raising=False)


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line inside this process: fast, and everything but the process itself is real."""

    def run(*arguments) -> Result:
        monkeypatch.setattr(sys, "argv", ["voxtral-onnx", *map(str, arguments)])
        for module, name in ((sys, "unraisablehook"), (threading, "excepthook")):
            monkeypatch.setattr(module, name, getattr(module, name))  # pytest's, given back
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            app.main()
        return Result(int(stop.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def hub_server(monkeypatch, tmp_path):
    """A hub on this machine that this process takes for the one.

    It downloads into `tmp_path / "hub"`.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session
    from support.hub_server import HubServer

    from voxtral_onnx import download

    server = HubServer()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "hub" / "assets"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hub" / "token"))
    monkeypatch.setattr(download, "WAITS", (0.001, 0.001, 0.001))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    close_session()
    server.close()


@pytest.fixture
def tmpfs(tmp_path):
    """Make file systems of a given size."""
    mounted = []

    def make(options: str) -> Path:
        folder = tmp_path / f"tmpfs{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        may_mount = (
            shutil.which("mount")
            and not subprocess.run(command, capture_output=True, check=False).returncode
        )
        require("rights", {"permission to mount a tmpfs": bool(may_mount)})
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def process(tmp_path):
    """The command line as a process of its own."""

    def process(*arguments, **options) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "voxtral_onnx", *map(str, arguments)],
            capture_output=True,
            check=False,
            cwd=tmp_path,
            env=clean_environment(tmp_path),
            timeout=120,
            **options,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    return process


def pytest_runtest_setup(item):
    marks.clear()
    marks.update(mark.name for mark in item.iter_markers())


def pytest_collection_modifyitems(items):
    """Run the longest tests first, which are the browser's.

    No process is left waiting for another at the end.
    """
    for item in items:
        if RIGHTS & set(getattr(item, "fixturenames", ())):
            item.add_marker("rights")
    items.sort(key=lambda item: item.get_closest_marker("browser") is None)
