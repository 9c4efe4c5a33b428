"""The container and the service: what they may do, and that what they start exists."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from configparser import RawConfigParser
from itertools import pairwise
from pathlib import Path

import pytest
import typer
from support.needs import require

from voxtral_onnx.cli import app

ROOT = Path(__file__).parents[2]
DOCKERFILE, SERVICE = ROOT / "deploy" / "Dockerfile", ROOT / "deploy" / "voxtral-onnx.service"
PAGE = ROOT / "docs" / "deploy.md"
EXECUTABLE = "/opt/voxtral-onnx/bin/voxtral-onnx"


def stages() -> list[list[tuple[str, str]]]:
    """Return the instructions of each stage of the Dockerfile, with their arguments."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    text, found = "\n".join(lines).replace("\\\n", " "), []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, arguments = line.partition(" ")
        assert name.isupper(), line
        if name == "FROM":
            found.append([])
        found[-1].append((name, arguments.strip()))
    return found


def last(name: str) -> str:
    """Return the arguments of the instruction that holds in the image."""
    return [arguments for each, arguments in stages()[-1] if each == name][-1]


def service() -> dict[str, str]:
    parser = RawConfigParser(strict=False, delimiters="=")
    parser.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]
    parser.read_string(SERVICE.read_text())
    return dict(parser["Service"])


def test_the_container_is_nobody():
    user, group = last("USER").split(":")
    assert int(user) >= 1000 and int(group) >= 1000
    names = [name for name, _ in stages()[-1]]
    assert "RUN" not in names and "ADD" not in names  # nothing is fetched or made in the image
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert "chown" not in DOCKERFILE.read_text()


def test_the_container_has_no_secrets_and_mounts_the_model():
    given = " ".join(args for stage in stages() for name, args in stage if name in ("ENV", "ARG"))
    assert not re.search(r"key|token|secret|password", given, re.IGNORECASE)
    assert json.loads(last("VOLUME")) == ["/model", "/tmp"]
    assert last("STOPSIGNAL") == "SIGTERM"


def test_the_container_is_built_of_extras_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    (asked,) = (args for name, args in stages()[0] if name == "ARG")
    assert set(asked.removeprefix("EXTRAS=").split(",")) <= extras.keys()
    copied = {
        line.removeprefix("!")
        for line in DOCKERFILE.with_suffix(".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert all(list(ROOT.glob(pattern)) for pattern in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    rooms = {name.split(".")[1] for name in packages["packages"] if "." in name}
    assert rooms <= copied


def test_the_health_check_is_a_program():
    _, command = last("HEALTHCHECK").split("CMD", 1)
    python, option, code = json.loads(command)
    assert (python, option) == ("python", "-c")
    compile(code, "HEALTHCHECK", "exec")
    assert "http://127.0.0.1:8000/ready" in code


def options(command: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in command if word.startswith("--")}


def commands() -> list[list[str]]:
    """Return the arguments of `serve` in the container, the service and the page about them."""
    start = shlex.split(service()["ExecStart"])
    assert start[:2] == [EXECUTABLE, "serve"]
    entry = json.loads(last("ENTRYPOINT"))
    assert entry == ["voxtral-onnx", "serve"]
    return [json.loads(last("CMD")), start[2:]]


def test_what_is_started_is_guarded():
    """Others reach the container, so it must not say --insecure; the service is local."""
    for command in commands():
        assert "--insecure" not in options(command) and "--api-key" not in options(command)
        assert "--api-only" in options(command)
    container, local = commands()
    assert container[container.index("--host") + 1] == "0.0.0.0"
    assert local[local.index("--host") + 1] == "127.0.0.1"


def test_options_exist():
    command = typer.main.get_command(app.app)
    (serve,) = (
        each
        for name, each in command.commands.items()  # pyright: ignore[reportAttributeAccessIssue]
        if name == "serve"
    )
    known = {option for parameter in serve.params for option in parameter.opts}
    for command in commands():
        assert options(command) <= known


@pytest.mark.docker
def test_the_container_is_built():
    works = shutil.which("docker") and _succeeds("docker", "info")
    require("docker", {"a Docker daemon": bool(works)})
    tag = "voxtral-onnx:test"
    subprocess.run(["docker", "build", "-f", DOCKERFILE, "-t", tag, ROOT], check=True)
    limits = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    run = ["docker", "run", "--rm", *limits]
    identity = subprocess.run(
        [*run, "--entrypoint", "id", tag, "-u"], check=True, capture_output=True, text=True
    )
    assert identity.stdout.strip() == "10001"
    refused = subprocess.run([*run, tag], check=False, capture_output=True, text=True)
    assert refused.returncode == 2 and "--api-key" in refused.stderr  # it has none


HARDENED = {
    "DynamicUser": "yes",
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "RestrictNamespaces": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "LimitCORE": "0",
    "OOMPolicy": "continue",  # a decoder that is ended does not end the server
    "KillMode": "mixed",  # the server ends its decoders itself
    "SuccessExitStatus": "143",
}


def test_the_service_is_hardened():
    found = service()
    assert {name: found.get(name) for name in HARDENED} == HARDENED
    start = shlex.split(found["ExecStart"])
    assert "\nSystemCallFilter=@system-service @resources seccomp\n" in SERVICE.read_text()
    drain = int(start[start.index("--drain") + 1])
    assert int(found["TimeoutStopSec"]) > drain + 10
    assert found["LoadCredential"].startswith("api-keys:") and "%d/api-keys" in start


@pytest.mark.systemd
def test_systemd_takes_the_service(tmp_path):
    said = _said("systemd-analyze", "--version")
    version = re.match(r"systemd (\d+)", said)
    require("systemd", {"systemd-analyze (250 or newer)": bool(version and int(version[1]) >= 250)})
    unit = tmp_path / SERVICE.name
    unit.write_text(SERVICE.read_text().replace(EXECUTABLE, shutil.which("true") or "/bin/true"))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (verified.returncode, unit.name in verified.stderr) == (0, False), verified.stderr
    security = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", unit]
    assert _succeeds(*security), _said(*security)  # of 100; services without limits have 96


def test_the_page_runs_the_container_with_a_read_only_root():
    text = PAGE.read_text().replace("\\\n", " ")
    (run,) = re.findall(r"^docker run .*$", text, re.MULTILINE)
    words = shlex.split(run)
    assert {"--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"} <= set(words)
    mounts = [after for before, after in pairwise(words) if before == "-v"]
    assert any(mount.endswith(":/model:ro") for mount in mounts)
    build = "docker build -f deploy/Dockerfile"
    assert build in text and "deploy/voxtral-onnx.service" in text
    assert "--api-key " not in run  # which the list of processes would show


def _succeeds(*command: str | Path) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _said(*command: str | Path) -> str:
    try:
        return subprocess.run(command, capture_output=True, check=False, text=True).stdout
    except FileNotFoundError:
        return ""
