"""The examples, run as they stand."""

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.agreement import SHORT_CLIPS, lead_of
from support.commands import CLIP, LONG_CLIP, SAMPLES, TEXT, clean_environment
from support.needs import WEB, need_node, old_package, require

from voxtral_onnx import Transcriber
from voxtral_onnx.manifest import FILE_NAME, Manifest
from voxtral_onnx.runtime.device.base import MIN_ONNXRUNTIME

FOLDER = Path(__file__).parent.parent / "examples"


def test_a_quantiser(tmp_path):
    example = FOLDER / "extend" / "quantizer.py"
    assert len(example.read_text().splitlines()) <= 40
    command = [sys.executable, example, "tiny", tmp_path / "out"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=clean_environment(tmp_path), timeout=300
    )
    assert done.returncode == 0, done.stderr
    artifact = done.stdout.strip()
    assert Manifest.read(Path(artifact)).precisions["q4"].recipe.rules[0].method == "clipped"
    with Transcriber(artifact) as transcriber:
        assert transcriber.transcribe(CLIP).text == TEXT


# `.ci/install-cpp` writes the second
ROOTS = (Path("/usr/include"), FOLDER.parent / "build" / "include")
INCLUDE = [root / name for root in ROOTS for name in ("", "onnxruntime")]
# As tests/test_tiny.py: decisions with a larger margin survive the rounding of other kernels
FIRM = 0.2
DRIVER = """
import { load, readWav, transcribe } from './transcribe.js'
const [folder, precision, ...files] = process.argv.slice(2)
const model = await load(folder, precision)
for (const file of files) {
  const ids = []
  const samples = await readWav(file, model.manifest.config.audio)
  for await (const { id } of transcribe(model, samples)) ids.push(id)
  console.log(JSON.stringify(ids))
}
"""


OUTSIDE = ("/etc/passwd", "../mel.onnx", "onnx/../../mel.onnx", "onnx/..", "")


def renamed(artifact: Path, folder: Path, name: str) -> Path:
    """Return a folder whose manifest, and no more, is a stranger's."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(artifact / "tekken.json", folder / "tekken.json")
    values = json.loads((artifact / FILE_NAME).read_bytes())
    values["mel"]["path"] = name
    (folder / FILE_NAME).write_text(json.dumps(values))
    return folder


OLD_LIBRARY = """
#include <dlfcn.h>
struct Base { const void* (*api)(unsigned); const char* (*version)(); };
extern "C" const Base* OrtGetApiBase() {
  static auto real = reinterpret_cast<const Base* (*)()>(dlsym(RTLD_NEXT, "OrtGetApiBase"));
  static Base base = {real()->api, [] { return "1.29.3"; }};
  return &base;
}
"""


@pytest.fixture
def node_example(tmp_path):
    """The example for Node.js, beside the packages that `make web` brings."""
    need_node("onnxruntime-node")
    for file in (FOLDER / "node").glob("*.js*"):
        shutil.copyfile(file, tmp_path / file.name)
    (tmp_path / "node_modules").symlink_to(WEB / "node_modules")
    (tmp_path / "driver.js").write_text(DRIVER)
    return tmp_path


def node(folder: Path, *arguments: object) -> str:
    """Return what a script prints that leaves nothing in the user's home.

    A library that reports to its maker begins with an id there.
    """
    environment = clean_environment(folder, HOME=str(folder / "home"))
    command, options = ["node", *map(str, arguments)], {"cwd": folder, "env": environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stderr
    assert not (folder / "home").exists()
    return done.stdout


@dataclass(frozen=True)
class Expected:
    """What Python makes of a file in q4."""

    token_ids: list[int]
    leads: list[float]  # by how much the best logit leads the next at each


@pytest.fixture(scope="module")
def expected(tiny_artifact, tmp_path_factory) -> dict[Path, Expected]:
    """Five clips and a joined one longer than a minute, in which both windows roll.

    They hold 3 and 10 seconds.
    """
    files = [SAMPLES / clip for clip in SHORT_CLIPS]
    parts, rates = zip(
        *(soundfile.read(file) for file in (*files, LONG_CLIP, LONG_CLIP)), strict=True
    )
    files.append(tmp_path_factory.mktemp("joined") / "joined.wav")
    soundfile.write(files[-1], np.concatenate(parts), rates[0])
    assert soundfile.info(files[-1]).duration > 60
    found = {}
    with Transcriber(
        tiny_artifact, precision="q4", device="cpu", blank_guard=False, alternatives=2
    ) as transcriber:
        for file in files:
            tokens = []
            ids = list(transcriber.transcribe(file, on_token=tokens.append).token_ids)
            found[file] = Expected(
                ids, [min(abs(token.blank_margin), lead_of(token)) for token in tokens]
            )
    return found


def assert_tokens(expected: dict[Path, Expected], found: Iterable[list[int]]) -> None:
    """Token ids are Python's, up to decisions that are not firm; prints the share."""
    equal = total = 0
    for (file, python), ids in zip(expected.items(), found, strict=True):
        others = [
            i for i, pair in enumerate(zip(python.token_ids, ids, strict=True)) if len({*pair}) > 1
        ]
        equal, total = equal + len(ids) - len(others), total + len(ids)
        if others:  # from there on each goes on from tokens of its own
            lead = python.leads[others[0]]
            assert lead < FIRM, f"{file.name}: token {others[0]}, {lead} ahead, is another"
    print(f"{equal} of {total} tokens")
    assert equal > 0.95 * total


@pytest.mark.node
def test_node_gives_the_tokens_of_python(tiny_artifact, node_example, expected):
    assert_tokens(
        expected,
        map(
            json.loads, node(node_example, "driver.js", tiny_artifact, "q4", *expected).splitlines()
        ),
    )


@pytest.mark.node
def test_node_writes_words(tiny_artifact, node_example):
    assert node(node_example, "transcribe.js", tiny_artifact, CLIP) == f"{TEXT}\n"


@pytest.mark.node
def test_node_refuses_what_it_cannot_run(tiny_artifact, node_example):
    def refusal(*arguments) -> str:
        done = subprocess.run(
            ["node", "transcribe.js", *arguments], cwd=node_example, capture_output=True, text=True
        )
        assert done.returncode == 1
        return done.stderr

    assert (
        f"not q9; add it: voxtral-onnx export SOURCE -o {tiny_artifact} --precision q9"
        in refusal(tiny_artifact, CLIP, "q9")
    )
    assert "run: ffmpeg" in refusal(tiny_artifact, tiny_artifact / "tekken.json")
    for name in OUTSIDE:
        strange = renamed(tiny_artifact, node_example / "strange", name)
        assert f"no file below it is named {json.dumps(name)}" in refusal(strange, CLIP)
    (node_example / "node_modules").unlink()
    old_package(
        node_example, "onnxruntime-node", "export const env = { versions: { node: '1.29.3' } }"
    )
    assert "onnxruntime-node 1.29.3: needed is 1.30 or newer" in refusal(tiny_artifact, CLIP)


def test_node_is_one_short_file():
    assert len((FOLDER / "node" / "transcribe.js").read_text().splitlines()) <= 152


def test_all_name_the_same_onnxruntime():
    least = ".".join(map(str, MIN_ONNXRUNTIME))
    assert f"['{least}'" in (FOLDER / "node" / "transcribe.js").read_text()
    assert f'NEEDED = "{least}"' in (FOLDER / "cpp" / "transcribe.cpp").read_text()
    assert f"onnxruntime {least} or newer" in (FOLDER.parent / "docs" / "artifact.md").read_text(
        "utf-8"
    )


@pytest.fixture(scope="module")
def cpp_example(tmp_path_factory):
    """The example in C++, built with the library that onnxruntime-node brings."""
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), "")
    library = (
        WEB / "node_modules/onnxruntime-node/bin/napi-v6/linux" / machine / "libonnxruntime.so.1"
    )
    require(
        "cpp",
        {
            "g++": shutil.which("g++") is not None,
            "onnxruntime_cxx_api.h (Debian 13's libonnxruntime-dev, or .ci/install-cpp)": has(
                "onnxruntime_cxx_api.h"
            ),
            "nlohmann/json.hpp (nlohmann-json3-dev)": has("nlohmann/json.hpp"),
            "libonnxruntime.so.1 (make web)": library.is_file(),
        },
    )
    program = tmp_path_factory.mktemp("cpp") / "transcribe"
    include = [option for folder in INCLUDE for option in ("-idirafter", folder)]
    options = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-Wl,-rpath,{library.parent}"]
    source = FOLDER / "cpp" / "transcribe.cpp"
    subprocess.run(["g++", *options, *include, source, library, "-o", program], check=True)
    return program


def has(header: str) -> bool:
    return any((folder / header).is_file() for folder in INCLUDE)


@pytest.mark.cpp
def test_cpp_gives_the_tokens_of_python(tiny_artifact, cpp_example, expected):
    """Fed a tenth of a second at a time."""
    commands = ([cpp_example, tiny_artifact, file, "q4", "--ids"] for file in expected)
    runs = (subprocess.run(command, capture_output=True, check=True) for command in commands)
    assert_tokens(expected, ([*map(int, done.stdout.split())] for done in runs))


@pytest.mark.cpp
def test_cpp_writes_words_and_errors(tiny_artifact, cpp_example, tmp_path):
    environment = clean_environment(tmp_path, HOME=str(tmp_path / "home"))
    done = subprocess.run(
        [cpp_example, tiny_artifact, CLIP], capture_output=True, check=True, env=environment
    )
    assert done.stdout.decode() == f"{TEXT}\n"
    assert not (tmp_path / "home").exists()  # where a report to onnxruntime's maker would begin
    old = tmp_path / "old.so"
    source = "-shared", "-fPIC", "-x", "c++", "-", "-o", old, "-ldl"
    subprocess.run(["g++", *source], input=OLD_LIBRARY, check=True, text=True)
    for arguments, message, library in (
        ([], "usage:", ""),
        ([tiny_artifact, tmp_path / "no.wav"], "expected a WAV file", ""),
        ([tiny_artifact, CLIP, "q9"], "no q9; add it: voxtral-onnx export SOURCE", ""),
        *(
            ([renamed(tiny_artifact, tmp_path / f"{i}", name), CLIP], "not below it", "")
            for i, name in enumerate(OUTSIDE)
        ),
        ([tiny_artifact, CLIP], "onnxruntime 1.29.3: needed is 1.30 or newer", old),
    ):
        environment = {**clean_environment(tmp_path), "LD_PRELOAD": str(library)}
        done = subprocess.run([cpp_example, *arguments], capture_output=True, env=environment)
        assert done.returncode == 1 and message in done.stderr.decode()
