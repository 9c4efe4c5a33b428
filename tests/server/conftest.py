"""What tests of the server share: a page without onnxruntime-web, and a server of *tiny*."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openai
import pytest
import soundfile
from support.commands import LONG_CLIP
from support.servers import FROM_VENDOR, page_app, running

from voxtral_onnx import Engine, Transcriber
from voxtral_onnx.server.app import build_app
from voxtral_onnx.server.engines import Engines
from voxtral_onnx.server.page import files as server_page


@pytest.fixture
def page_folder(tmp_path):
    """The page's files, with stand-ins for onnxruntime-web, which only browsers run."""
    folder = tmp_path / "page"
    shutil.copytree(
        server_page.PAGE, folder, ignore=shutil.ignore_patterns("node_modules", "vendor")
    )
    (folder / "vendor").mkdir()
    for name, content in FROM_VENDOR.items():
        (folder / "vendor" / name).write_bytes(content)
    return folder


@pytest.fixture
def page(page_folder, monkeypatch):
    """The same, in the place of the page."""
    monkeypatch.setattr(server_page, "PAGE", page_folder)
    return page_folder


@pytest.fixture
def port(page, tiny_artifact):
    with running(page_app(tiny_artifact)) as port:
        yield port


@dataclass(frozen=True)
class Api:
    """A server of the API in a thread."""

    port: int
    engines: Engines
    temporary: Path  # the folder of temporary files

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key="none", max_retries=0)


@contextmanager
def api_of(folder, temporary, **options):
    """Serve the API with an engine of an artifact in float32 on the CPU."""
    with (
        pytest.MonkeyPatch.context() as patch,
        Transcriber(folder, device="cpu", precision="fp32") as transcriber,
        Engine(transcriber, slots=4, context=8192, most_streams=4) as engine,
    ):
        patch.setattr(tempfile, "tempdir", str(temporary))
        engines = Engines([engine], **options)
        with running(build_app(engines, model_name="tiny")) as port:
            yield Api(port, engines, temporary)
        engines.close()


@pytest.fixture(scope="module")
def api(tiny_artifact, tmp_path_factory):
    temporary = tmp_path_factory.mktemp("temporary")
    with api_of(tiny_artifact, temporary) as found:
        yield found
        assert not list(temporary.iterdir())


@pytest.fixture
def new_api(tiny_artifact, tmp_path):
    """Make a server of its own, to be ended in ways of its own."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(api_of(tiny_artifact, tmp_path, **options))


@pytest.fixture(scope="session")
def long_recording(tmp_path_factory) -> Path:
    """Six minutes of speech, which take seconds to transcribe, in pieces."""
    return repeated(tmp_path_factory.mktemp("long") / "long.wav", 14)


@pytest.fixture(scope="session")
def minute_recording(tmp_path_factory) -> Path:
    """A minute of speech."""
    return repeated(tmp_path_factory.mktemp("minute") / "minute.wav", 2)


def repeated(path: Path, times: int) -> Path:
    samples, rate = soundfile.read(LONG_CLIP, dtype="float32")
    soundfile.write(path, np.tile(samples, times), rate)
    return path
