"""Where things are, and which of them may import which: rooms stand on those below them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from voxtral_onnx.cli import app

ROOT = Path(__file__).parent.parent
LAYERS = (  # rooms and files; each may import from those above it in this list, and from itself
    ("_version", "errors", "escaping", "limits"),
    ("decode", "arguments"),
    ("config", "memory", "assets", "files", "threads"),
    ("contents",),
    ("manifest", "download", "tekken", "addresses"),
    ("quant", "hub"),
    ("exporter.checkpoint.names", "exporter.checkpoint.tensors"),
    ("exporter.checkpoint.schemes",),
    ("exporter.checkpoint.formats",),
    ("exporter.checkpoint", "exporter.memory", "exporter.packages"),
    ("exporter.model", "exporter.precisions"),
    ("exporter.graph",),
    ("exporter.binding", "exporter.output", "exporter.sources"),
    ("exporter.earlier",),
    ("exporter.planned",),
    ("exporter.plan",),
    ("exporter.export",),
    ("exporter.quantize",),
    ("runtime.tokens", "runtime.decision", "runtime.delay", "runtime.guard", "runtime.locate"),
    ("runtime.text",),
    ("runtime.device",),
    ("runtime.audio.losses",),
    ("runtime.audio.samples",),
    ("runtime.audio.container",),
    ("runtime.audio",),
    ("runtime.hotwords", "runtime.machine", "runtime.memory", "runtime.pieces"),
    ("runtime.encoder", "runtime.decoder", "runtime.sampler", "runtime.stream_state"),
    ("runtime.grid",),
    ("runtime.feeding", "runtime.opening", "runtime.options", "runtime.model", "runtime.kept"),
    ("runtime.starts", "runtime.writer"),
    ("runtime.stream",),
    ("runtime.journal", "runtime.live", "runtime.transcript"),
    ("runtime.engine",),
    ("runtime.channels",),
    ("runtime.recordings",),
    ("runtime.transcriber",),
    ("runtime.many",),
    ("runtime.bench", "runtime.doctor"),
    ("runtime.forecast",),
    ("verification",),
    ("server",),
    ("cluster",),
    ("publish",),
    ("cli",),
    ("__main__", "__init__"),
)
STRANGERS = ("exporter", "runtime")  # neither may import the other
NO_STORY = {"exporter", "runtime"}  # folders whose `__init__.py` holds a sentence
MOST_LINES = 450  # of a file: a longer one has two stories
PAGE_SOURCES = ROOT / "web" / "src"
PAGE_ROOMS = {  # room: the rooms that it may load
    "shared": set(),
    "engine": {"shared"},
    "client": {"shared", "engine"},
    "page": {"shared", "engine", "client"},
}
EXPORT_ONLY = {"torch", "onnx", "onnx_ir", "onnxscript", "gguf", "safetensors"}
HEAVY = {"numpy", "onnxruntime", "soundfile", "soxr", *EXPORT_ONLY}
NEEDS_EXPORT_PACKAGES = ("exporter", "quant", "verification")
FOLDERS = ("cli", "cluster", "exporter", "quant", "runtime", "verification", "server", "publish")
ROOMS = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def source_files() -> list[Path]:
    folders = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    return sorted([*ROOT.glob("*.py"), *folders])


FILES = source_files()
COMMANDS = [command.callback for command in app.app.registered_commands if command.callback]
IDS = [str(file.relative_to(ROOT)) for file in FILES]


def module_of(file: Path) -> str:
    name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def room_of(module: str) -> str:
    """Return the room that a module is in, or is."""
    return next((room for room in ROOMS if module == room or module.startswith(f"{room}.")), module)


def imports(file: Path, *, at_load: bool = False) -> set[str]:
    """Dotted names that a file imports: our own as `.part.…`.

    With `at_load` only what merely loading it imports.
    """
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if at_load and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if at_load and isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.level == 0:
                found.add(str(child.module))
            elif isinstance(child, ast.ImportFrom):
                package = file.relative_to(ROOT).parent.parts
                base = package[: len(package) - child.level + 1]
                path = [*base, *(child.module.split(".") if child.module else [])]
                for alias in child.names:
                    whole = ROOT.joinpath(*path, alias.name)
                    is_module = whole.is_dir() or whole.with_suffix(".py").is_file()
                    found.add("." + ".".join([*path, alias.name] if is_module else path))
            walk(child)

    walk(ast.parse(file.read_text()))
    return found


def own(names: set[str]) -> set[str]:
    """Return the rooms of our own modules."""
    return {room_of(name[1:]) for name in names if name.startswith(".")}


def foreign(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names if not name.startswith(".")}


def test_every_file_is_in_a_room():
    assert {room_of(module_of(file)) for file in FILES} - NO_STORY == ROOMS.keys()
    for folder in NO_STORY:
        body = ast.parse((ROOT / folder / "__init__.py").read_text()).body
        assert len(body) == 1, f"{folder}/__init__.py: more than a sentence"


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_imports_point_one_way(file):
    room = room_of(module_of(file))
    top = room.partition(".")[0]
    for other in own(imports(file)) - {room}:
        assert other in ROOMS, f"imports {other}, which is no room"
        assert ROOMS[other] < ROOMS[room], f"{room} imports {other}"
        assert {top, other.partition(".")[0]} != set(STRANGERS), f"{room} imports {other}"


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_files_have_one_story(file):
    assert len(file.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_package_imports_itself_relatively(file):
    assert "voxtral_onnx" not in foreign(imports(file))


@pytest.mark.parametrize(
    "file",
    [file for file in FILES if not module_of(file).startswith(NEEDS_EXPORT_PACKAGES)],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_running_needs_no_export_packages(file):
    assert not foreign(imports(file)) & EXPORT_ONLY


@pytest.mark.parametrize(
    "name", [*(name for name in IDS if name.startswith("cli/")), "__init__.py", "__main__.py"]
)
def test_command_line_imports_heavy_things_late(name):
    names = imports(ROOT / name, at_load=True)
    assert not foreign(names) & HEAVY
    tops = {room.partition(".")[0] for room in own(names)}
    assert not tops & {"verification", "exporter", "quant", "runtime", "manifest", "cluster"}


def test_public_names_are_listed_before_they_are_used():
    code = "import voxtral_onnx as v; print(sorted(set(v.__all__) - set(dir(v))))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", [command.__name__ for command in COMMANDS])
def test_a_command_is_a_file_of_its_own(name):
    """Its options are declared elsewhere, once; what it does is called."""
    text = (ROOT / "cli" / f"{name}.py").read_text()
    assert len(text.splitlines()) < 80
    assert "Annotated" not in text and "typer.Option" not in text


@pytest.mark.parametrize("name", ["__init__.py", "certificate.py", "certificate_html.py"])
def test_a_certificate_is_read_without_export_packages(name):
    assert not foreign(imports(ROOT / "verification" / name, at_load=True)) & EXPORT_ONLY


def test_ray_is_imported_for_clusters_alone():
    for file in FILES:
        if foreign(imports(file)) & {"ray", "pyarrow"}:
            assert module_of(file).startswith("cluster."), file


def test_onnxruntime_is_imported_late():
    for file in FILES:
        assert "onnxruntime" not in foreign(imports(file, at_load=True)), file


def test_onnxruntime_is_imported_behind_this_package():
    """Which tells it not to report; what imports a file of the package imports the package."""
    assert "voxtral_onnx" in foreign(imports(ROOT / "tests" / "conftest.py", at_load=True))
    for folder in ("bench", "scripts", "examples"):
        for file in (ROOT / folder).rglob("*.py"):
            if "onnxruntime" in foreign(imports(file)):
                at_load = foreign(imports(file, at_load=True))
                assert "voxtral_onnx" in at_load and "onnxruntime" not in at_load, file


def test_packages_are_the_folders_with_an_init():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    aside = {"tests", "bench", "build", "dist", "node_modules"}
    found = {
        ".".join(("voxtral_onnx", *init.parent.relative_to(ROOT).parts))
        for folder in (ROOT, *ROOT.iterdir())
        if folder.name not in aside and not folder.name.startswith(".")
        for init in folder.glob("__init__.py" if folder == ROOT else "**/__init__.py")
        if not aside & set(init.relative_to(ROOT).parts)
    }
    assert set(project["tool"]["setuptools"]["packages"]) == found


def loads(file: Path) -> set[Path]:
    """Return the files of the page that a module imports or names by address.

    Comments, in which types are imported, are left aside.
    """
    code = re.sub(r"/\*.*?\*/", "", file.read_text(), flags=re.DOTALL)
    names = re.findall(r"""\b(?:from |import |import\(|URL\()['"`](\.[^'"`]+\.js)['"`]""", code)
    return {(file.parent / name).resolve() for name in names}


def test_every_source_of_the_page_is_in_a_room():
    found = [file.relative_to(PAGE_SOURCES).parts for file in PAGE_SOURCES.rglob("*.js")]
    assert {parts[0] for parts in found} == PAGE_ROOMS.keys()
    assert all(len(parts) == 2 for parts in found)


@pytest.mark.parametrize("room", PAGE_ROOMS)
def test_rooms_of_the_page_load_one_way(room):
    for file in sorted((PAGE_SOURCES / room).glob("*.js")):
        for found in loads(file):
            assert found.is_file(), f"{file.name}: no {found}"
            assert found.parent.name in {room, *PAGE_ROOMS[room]}, f"{file.name} loads {found}"
