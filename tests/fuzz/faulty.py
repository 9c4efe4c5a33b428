"""A parser with every fault that the runner has to find, one at every second input."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from voxtral_onnx.errors import ArtifactError


def seeds() -> dict[str, bytes]:
    return {"good": b"good"}


def parse(data: bytes, folder: Path) -> None:
    number = int(folder.name) if folder.name.isdecimal() else 0
    if number % 2:
        list(FAULTS.values())[number // 2](folder)


def refuse(folder: Path) -> None:
    raise ArtifactError("no")


def loop(folder: Path) -> None:
    while True:
        pass


# What the runner says of each
FAULTS: dict[str, Callable[[Path], object]] = {
    "refused": refuse,
    "KeyError at faulty.py:": lambda folder: {}["key"],
    "SystemExit at faulty.py:": lambda folder: exit(),
    "MemoryError at faulty.py:": lambda folder: bytearray(1 << 33),
    "takes more than 0.2 s": loop,
    "waits for more than 3 s": lambda folder: time.sleep(60),
    "dies of SIGABRT": lambda folder: os.abort(),
    "exits with 3": lambda folder: os._exit(3),
    "writes ": lambda folder: (folder / "../elsewhere").write_bytes(b""),
    "os.rename ": lambda folder: (folder / "../secret").rename(folder / "mine"),
    "reads ": lambda folder: (folder / "../secret").read_bytes(),
    "calls ('192.0.2.1', 9)": lambda folder: socket.socket().connect(("192.0.2.1", 9)),
    "calls ('voxtral.test', 80": lambda folder: socket.getaddrinfo("voxtral.test", 80),
    "starts ": lambda folder: subprocess.run(["true"]),
}
