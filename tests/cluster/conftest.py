"""What tests of the cluster share: clips, their texts by this machine alone, and a cluster."""

# Packages that have an environment of their own, see make test-ray
# pyright: reportMissingImports=false
from __future__ import annotations

import hashlib
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from support.archives import unexpected
from support.commands import SAMPLES, Result, clean_environment
from support.needs import need_ray

SECONDS = 240  # that a run may take


def pytest_addoption(parser):
    parser.addoption("--count", type=int, default=40, help="clips of the archive (Ray)")
    parser.addoption("--repeat", type=int, default=1, help="times that something is killed (Ray)")


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(metafunc.config.getoption("--repeat", 1)))


@pytest.fixture(scope="session", autouse=True)
def _needs_ray():
    need_ray()


@pytest.fixture(scope="session")
def clips(tmp_path_factory, request) -> Path:
    """A folder with clips that differ from each other, in folders, some of the same name."""
    folder = tmp_path_factory.mktemp("clips")
    sources = sorted(SAMPLES.glob("*.wav"), key=lambda path: path.stat().st_size)[:8]
    for number in range(request.config.getoption("--count", 40)):
        sound, rate = soundfile.read(sources[number % len(sources)], dtype="float32")
        quiet = np.zeros(rate * (number % 5) // 10, np.float32)
        path = folder / f"{number % 3}" / f"{sources[number % len(sources)].stem}-{number // 2}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.concatenate([quiet, sound * (1 - number / 1000)]), rate)
    return folder


@pytest.fixture(scope="session")
def model(tiny_artifact) -> tuple[str, ...]:
    """Options for a model whose texts do not depend on what is decoded beside."""
    return ("--model", str(tiny_artifact), "--precision", "fp32", "--batch-size", "4")


@pytest.fixture(scope="session")
def texts(clips, tiny_artifact) -> Counter[tuple[str, str]]:
    """How often each file has each hash of a text, by this machine alone: once."""
    need_ray()
    from voxtral_onnx import Transcriber
    from voxtral_onnx.cluster.manifest import list_recordings

    table = list_recordings([str(clips)], unexpected, unexpected)
    ids = dict(zip(table["path"].to_pylist(), table["id"].to_pylist(), strict=True))
    with Transcriber(tiny_artifact, precision="fp32", batch_size=4) as transcriber:
        found = list(transcriber.transcribe_many(ids))
    return Counter(
        (ids[each.source.name], hashlib.sha256(each.text.encode()).hexdigest()) for each in found
    )


@pytest.fixture(scope="session")
def s3():
    """A store of buckets, which this process and those it starts find by their environment."""
    need_ray()
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3) -> str:
    """The address of a new bucket."""
    from pyarrow import fs

    name = f"archive-{secrets.token_hex(4)}"
    fs.S3FileSystem(endpoint_override=s3, allow_bucket_creation=True).create_dir(name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def cluster(s3):
    """Three nodes on this machine: a head, and two with a worker and Ray's own work each."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=2)
    made.add_node(num_cpus=2)
    yield made
    made.shutdown()


@dataclass
class Run:
    """A run of the command line into a folder, which may be killed."""

    output: str
    process: subprocess.Popen[str]

    def wait(self) -> Result:
        out, err = self.process.communicate(timeout=SECONDS)
        return Result(self.process.returncode, out, err)

    @property
    def rows(self) -> list[Path]:
        return list(Path(self.output, "work", "rows").glob("*.json"))

    def wait_for_rows(self, count: int) -> None:
        """Wait until so many rows are written and the run goes on."""
        deadline = time.monotonic() + SECONDS
        while len(self.rows) < count:
            assert self.process.poll() is None, self.wait().err
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def start(cluster, model, tmp_path):
    """Start a run on the cluster."""
    runs = list[Run]()

    def start(source: object, output: object, *more: object, **environment: str) -> Run:
        command = [sys.executable, "-m", "voxtral_onnx", "transcribe", str(source), *model]
        command += ["--engine", "ray", "--address", cluster.address, "-o", str(output)]
        command += ["-f", "json", *map(str, more)]
        own = clean_environment(tmp_path, **environment)
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        runs.append(Run(str(output), subprocess.Popen(command, cwd=tmp_path, env=own, **pipes)))
        return runs[-1]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.send_signal(signal.SIGKILL)
            run.process.communicate()


@pytest.fixture
def chance(seed) -> random.Random:
    return random.Random(seed)
