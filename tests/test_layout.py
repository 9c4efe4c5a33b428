"""The folders, and which of them may import which.

`hub` stands below exporter and runtime, because checkpoints and artifacts are downloaded by the
same rules.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {  # part: the parts that it may import
    "errors": set(),
    "config": {"errors"},
    "manifest": {"config", "errors"},
    "memory": set(),
    "hub": {"manifest", "errors"},
    "quant": {"manifest", "config", "errors"},
    "exporter": {"quant", "hub", "manifest", "memory", "config", "errors"},
    "runtime": {"hub", "manifest", "memory", "config", "errors"},
    "verify": {"exporter", "quant", "runtime", "manifest", "config", "errors"},
    "web": {"verify", "hub", "manifest", "config", "errors"},
    "terminal": {"exporter", "runtime", "hub", "errors"},  # to name what it shows
    "cli": {
        "terminal",
        "web",
        "verify",
        "exporter",
        "quant",
        "runtime",
        "hub",
        "manifest",
        "memory",
        "config",
        "errors",
    },
    "__main__": {"cli"},
    "__init__": {"verify", "web", "exporter", "runtime"},
}
PAGE_SOURCES = ROOT / "web" / "src"
PAGE_ROOMS = {
    "shared": set(),
    "engine": {"shared"},
    "page": {"shared", "engine"},
}  # room: the rooms that it may load
EXPORT_ONLY = {"torch", "onnx", "onnx_ir", "onnxscript", "gguf"}
HEAVY = {"numpy", "onnxruntime", "soundfile", "soxr", *EXPORT_ONLY}
PARTS_WITHOUT_EXPORT_PACKAGES = (
    "errors",
    "config",
    "manifest",
    "memory",
    "hub",
    "runtime",
    "web",
    "terminal",
    "cli",
    "__main__",
    "__init__",
)


def source_files() -> list[Path]:
    folders = [ROOT / part for part in ALLOWED if (ROOT / part).is_dir()]
    return sorted(
        [*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))]
    )


FILES = source_files()
IDS = [str(file.relative_to(ROOT)) for file in FILES]


def part_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


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
                found.update("." + ".".join(path or [alias.name]) for alias in child.names)
            walk(child)

    walk(ast.parse(file.read_text()))
    return found


def own(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith(".")} - {"__version__"}


def foreign(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names if not name.startswith(".")}


def test_every_part_has_a_rule():
    assert {part_of(file) for file in FILES} == ALLOWED.keys()


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_imports_point_one_way(file):
    part = part_of(file)
    assert own(imports(file)) - {part} <= ALLOWED[part]


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_package_imports_itself_relatively(file):
    assert "voxtral_onnx" not in foreign(imports(file))


@pytest.mark.parametrize(
    "file", [file for file in FILES if part_of(file) in PARTS_WITHOUT_EXPORT_PACKAGES], ids=str
)
def test_running_needs_no_export_packages(file):
    assert not foreign(imports(file)) & EXPORT_ONLY


@pytest.mark.parametrize("name", ["cli.py", "terminal.py", "__init__.py", "__main__.py"])
def test_command_line_imports_heavy_things_late(name):
    names = imports(ROOT / name, at_load=True)
    assert not foreign(names) & HEAVY
    assert not own(names) & {"verify", "exporter", "quant", "runtime", "manifest"}


@pytest.mark.parametrize("name", ["__init__.py", "certificate.py", "page.py"])
def test_a_certificate_is_read_without_export_packages(name):
    assert not foreign(imports(ROOT / "verify" / name, at_load=True)) & EXPORT_ONLY


def test_onnxruntime_is_imported_late():
    for file in FILES:
        assert "onnxruntime" not in foreign(imports(file, at_load=True)), file


def test_packages_are_the_folders_with_an_init():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    aside = {"tests", "bench", "build", "dist", ".venv", ".link", "node_modules"}
    found = {
        ".".join(("voxtral_onnx", *init.parent.relative_to(ROOT).parts))
        for folder in (ROOT, *ROOT.iterdir())
        if folder.name not in aside
        for init in folder.glob("__init__.py" if folder == ROOT else "**/__init__.py")
        if not aside & set(init.relative_to(ROOT).parts)
    }
    assert set(project["tool"]["setuptools"]["packages"]) == found


def loads(file: Path) -> set[Path]:
    """Files of the page that a module imports or names by address; comments, where types are imported, aside."""
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
