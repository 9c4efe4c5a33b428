"""Live speech in replicas of Ray, while they are full, killed, taken away, or all are to end."""

# Packages that have an environment of their own, see make test-ray
# pyright: reportMissingImports=false
from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.commands import CLIP, SAMPLES, Result
from support.servers import Serving, serving, until
from support.vllm_client import COMMIT, UPDATE, Client, pcm
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

pytestmark = pytest.mark.ray
PATIENCE = 240  # seconds for Ray to start or to end, on a busy machine
EXAMPLE = Path(__file__).parents[2] / "examples" / "live_client.py"
API = ("--precision", "fp32", "--slots", "2", "--model-name", "mine")


def replicas_of(parent: int) -> list[int]:
    """The processes of replicas below another one."""
    command = ["ps", "-eo", "pid,ppid,args"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = [line.split(None, 2) for line in listed.splitlines()[1:]]
    below = {parent}
    while more := {int(pid) for pid, above, _ in found if int(above) in below} - below:
        below |= more
    name = "ray::ServeReplica:voxtral-onnx:streams"
    return [int(pid) for pid, _, args in found if int(pid) in below and args.startswith(name)]


@pytest.fixture(scope="module")
def server(tiny_artifact, tmp_path_factory) -> Iterator[Serving]:
    """The command, on a cluster of its own: two replicas, each with two slots."""
    folder = tmp_path_factory.mktemp("served")
    options = ("--engine", "ray", "--replicas", "2", "--threads", "1", "--drain", "60", *API)
    with serving(folder, tiny_artifact, folder, *options, api=True, ends=False) as found:
        until(lambda: len(replicas_of(found.process.pid)) == 2, PATIENCE)
        yield found


@pytest.fixture(scope="module")
def expected(tiny_artifact, tmp_path_factory) -> dict[Path, str]:
    """The text of each clip by the plain server."""
    folder = tmp_path_factory.mktemp("plain")
    options = ("--api-only", "--threads", "1", *API)
    with serving(folder, tiny_artifact, folder, *options, api=True) as plain:
        return {clip: spoken(plain.port, clip) for clip in (CLIP, SAMPLES / "date-hibari.wav")}


@contextmanager
def client_of(port: int) -> Iterator[Client]:
    with connect(f"ws://127.0.0.1:{port}/v1/realtime", open_timeout=60) as socket:
        client = Client(socket, patience=60)
        assert client.receive()["type"] == "session.created"
        client.send(UPDATE, model="mine")
        yield client


def spoken(port: int, clip: Path) -> str:
    """Speak a clip, and return its text."""
    with client_of(port) as client:
        client.speak(pcm(clip))
        return text_of(client)


def text_of(client: Client) -> str:
    client.send(COMMIT, final=True)
    return client.until("transcription.done")[-1]["text"]


def begins(client: Client) -> bool:
    """Speak, and return whether there was a slot: words come, or it is told that none was left."""
    with suppress(ConnectionClosed):  # refused before all of it was sent
        client.speak(pcm())
    event = client.receive()
    assert event["type"] == "transcription.delta" or event["code"] == "at_capacity", event
    return event["type"] == "transcription.delta"


def closed(client: Client) -> tuple[int, list[dict[str, Any]]]:
    """The code with which a connection is closed, 1006 without one, and all that came before."""
    events = list[dict[str, Any]]()
    with pytest.raises(ConnectionClosed) as ended:
        while True:
            events.append(client.receive())
    return ended.value.rcvd.code if ended.value.rcvd else 1006, events


def test_texts_are_those_of_the_plain_server(server, expected):
    for clip, text in expected.items():
        assert text and spoken(server.port, clip) == text
    address = f"http://127.0.0.1:{server.port}"
    with CLIP.open("rb") as file:
        sent = httpx.post(f"{address}/v1/audio/transcriptions", files={"file": file}, timeout=60)
    assert sent.json()["text"] == expected[CLIP].strip()
    assert httpx.get(f"{address}/ready", timeout=60).text == "ok\n"
    said = server.said.read_text()
    assert "Ray: 2 replicas, each with 1 thread\n" in said
    assert f"API: {address}/v1 with model mine" in said


def test_beyond_its_slots_it_refuses(server, expected):
    """With a reason and a code; those who were first are not disturbed."""
    with ExitStack() as stack:
        clients = list[Client]()
        for _ in range(5):
            clients.append(client := stack.enter_context(client_of(server.port)))
            if not begins(client):
                break
        assert len(clients) >= 3  # one replica at least is full
        assert closed(clients.pop()) == (1013, [])
        for client in clients:
            assert text_of(client) == expected[CLIP]


def test_a_killed_replica_is_survived(server, expected):
    """Its clients are cut off without a word; one that speaks again gets its text."""
    command = [sys.executable, str(EXAMPLE), f"ws://127.0.0.1:{server.port}/v1/realtime"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with client_of(server.port) as client:
        assert begins(client)
        killed = replicas_of(server.process.pid)
        with subprocess.Popen([*command, str(SAMPLES / "date-hibari.wav")], **pipes) as example:
            assert example.stderr and example.stderr.read(8)  # its first words
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            assert closed(client)[0] == 1006
            out, err = example.communicate(timeout=PATIENCE)
    assert "connecting anew: code 1006" in err
    assert out.strip() == expected[SAMPLES / "date-hibari.wav"].strip(), err
    until(lambda: len(replicas_of(server.process.pid)) == 2, PATIENCE)
    assert not set(replicas_of(server.process.pid)) & set(killed)


def test_all_are_told_to_move_at_the_end(server, expected):
    """At SIGTERM: the words so far come, then an error and a code."""
    with client_of(server.port) as client:
        assert begins(client)
        server.process.send_signal(signal.SIGTERM)
        code, events = closed(client)
        assert code == 1012 and events[-1]["code"] == "server_restarting"
        deltas = [each["delta"] for each in events if each["type"] == "transcription.delta"]
        assert deltas and expected[CLIP].rstrip().endswith("".join(deltas).rstrip()), deltas
        assert server.process.wait(PATIENCE) == 143
    assert "Traceback" not in server.said.read_text()


def test_replicas_that_cannot_start(tmp_path):
    """The error of one is that of the command."""
    command = [sys.executable, "-m", "voxtral_onnx", "serve", str(tmp_path / "nothing")]
    done = subprocess.run(
        [*command, "--engine", "ray", "--port", "0"],
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE,
    )
    result = Result(done.returncode, done.stdout, done.stderr)
    result.assert_refused(4, "nothing: no such folder")


def test_replicas_follow_the_streams(cluster, tiny_artifact, expected):
    """Where one is taken away its client is told to move; that of the other one speaks on."""
    from voxtral_onnx.cluster.session import connected
    from voxtral_onnx.cluster.streams import Settings, application, serve
    from voxtral_onnx.server.guard.checks import NO_KEYS
    from voxtral_onnx.server.serving import listen

    settings = Settings(
        model=str(tiny_artifact),
        model_name="mine",
        precision="fp32",
        device="cpu",
        threads=1,
        slots=4,
        most_streams=4,
        max_replicas=2,
        downscale_delay=1,
    )

    def num_running() -> int:
        (deployed,) = serve.status().applications["streams"].deployments.values()
        return deployed.replica_states.get("RUNNING", 0)

    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    with connected(cluster.address), ExitStack() as stack:
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        stack.callback(serve.shutdown)
        serve.run(application(settings, NO_KEYS), name="streams", route_prefix="/")

        # More connections than one replica should have
        clients = [stack.enter_context(client_of(port))]
        assert begins(clients[0])
        with ExitStack() as waiting:
            for _ in range(4):
                waiting.enter_context(client_of(port))
            until(lambda: num_running() == 2, PATIENCE)
            clients.append(stack.enter_context(client_of(port)))  # with the one that has fewer
            assert begins(clients[1])

        # Few enough for one
        moved, code = closed_first(clients)
        clients.remove(moved)
        assert code == 1012
        assert text_of(clients[0]) == expected[CLIP]
        until(lambda: num_running() == 1, PATIENCE)
        assert spoken(port, CLIP) == expected[CLIP]


def closed_first(clients: list[Client]) -> tuple[Client, int | None]:
    """The client whose connection is closed first, and the code of that."""
    while True:
        for client in clients:
            try:
                client.socket.recv(0.5)
            except TimeoutError:
                continue
            except ConnectionClosed as ended:
                return client, ended.rcvd and ended.rcvd.code
