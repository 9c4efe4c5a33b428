"""The folders, and which of them may import which.

`hub` stands below exporter and runtime, because checkpoints and artifacts are downloaded by the
same rules.
"""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from voxtral_onnx.cli import app

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
    "cli": {
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
COMMANDS = [command.callback for command in app.app.registered_commands if command.callback]
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


@pytest.mark.parametrize(
    "name", [*(name for name in IDS if name.startswith("cli/")), "__init__.py", "__main__.py"]
)
def test_command_line_imports_heavy_things_late(name):
    names = imports(ROOT / name, at_load=True)
    assert not foreign(names) & HEAVY
    assert not own(names) & {"verify", "exporter", "quant", "runtime", "manifest"}


@pytest.mark.parametrize("name", [command.__name__ for command in COMMANDS])
def test_a_command_is_a_file_of_its_own(name):
    """Its options are declared elsewhere, once; what it does is called."""
    text = (ROOT / "cli" / f"{name}.py").read_text()
    assert len(text.splitlines()) < 80
    assert "Annotated" not in text and "typer.Option" not in text


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
