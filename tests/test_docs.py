"""The pages of docs against the graphs, the manifest and the table of hosts that they describe."""

from __future__ import annotations

import re
from dataclasses import fields
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import onnx
import pytest
from fuzz.runner import TARGETS
from support.checker import STANDARD, refused_operators

from voxtral_onnx import files, manifest
from voxtral_onnx.config import RELEASED, AudioConfig
from voxtral_onnx.exporter.checkpoint.names import quantizable_modules
from voxtral_onnx.manifest import Manifest, TensorSpec
from voxtral_onnx.quant.methods import METHODS
from voxtral_onnx.quant.recipe import load_recipe
from voxtral_onnx.verification import thresholds

DOCS = Path(__file__).parent.parent / "docs"
ROOT_PAGES = ("README.md", "SECURITY.md", "MODEL.md", "CONTRIBUTING.md")
PAGES = [*(DOCS.parent / name for name in ROOT_PAGES), *sorted(DOCS.rglob("*.md"))]
PAGE = (DOCS / "artifact.md").read_text("utf-8")


@pytest.fixture(scope="module")
def make_docs():
    spec = spec_from_file_location("make_docs", DOCS.parent / "scripts" / "make_docs.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_made_by_the_script(make_docs):
    pages = make_docs.renewed()
    names = ("artifact", "checking", "cli", "hosts", "performance", "verification")
    assert pages.keys() == {f"{name}.md" for name in names}
    assert pages == {page: (DOCS / page).read_text("utf-8") for page in pages}


def test_every_budget_is_in_the_table(make_docs):
    table = make_docs.budgets()
    assert "| manifest | 1 MB |" in table and "| hotwords | 64 KB |" in table
    assert len(table.splitlines()) > 10


def test_every_limit_of_verify_is_in_the_table(make_docs):
    table = make_docs.judged()
    assert "| KL divergence | 0.05 | nats a token" in table
    assert "| characters lost | 0.02 | character error rate above" in table
    assert len(table.splitlines()) == 2 + len(thresholds.ALL)


def test_the_recipe_that_is_shown_can_be_used(tmp_path):
    page = (DOCS / "export" / "recipes.md").read_text("utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.toml").write_text(text, "utf-8")
    recipe = load_recipe(str(tmp_path / "mine.toml"))
    modules = quantizable_modules(RELEASED)
    recipe.check_patterns(modules)
    rules = {name: recipe.rule_for(name) for name in modules}
    floats = [name for name, rule in rules.items() if rule is None]
    assert {".".join(name.split(".")[:3]) for name in floats if "layers" in name} == {
        "language_model.layers.0"
    }
    for method in METHODS:
        assert f"`{method}`" in page
    for packaged in (DOCS.parent / "quant" / "recipes").glob("*.toml"):
        assert f"| `{packaged.stem}` |" in page


def test_results_that_do_not_say_how_they_were_measured_are_listed(
    make_docs, tmp_path, monkeypatch
):
    (tmp_path / "whole.json").write_text(
        '{"date": "", "command": "", "voxtral_onnx": "", "machine": {}}'
    )
    (tmp_path / "rows.json").write_text("[]")
    (tmp_path / "undated.json").write_text('{"command": "", "voxtral_onnx": "", "machine": {}}')
    monkeypatch.setattr(make_docs, "RESULTS", tmp_path)
    assert "| date | rows.json, undated.json |" in make_docs.lacking()
    assert "| machine | rows.json |" in make_docs.lacking()


def test_figures_of_fuzzing_are_of_targets_and_find_nothing():
    page = (DOCS / "verification.md").read_text("utf-8")
    assert len(page.splitlines()) <= 100
    part = page.partition("<!-- fuzz -->\n")[2].partition("<!-- end -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()[2:]]
    assert rows and {row[0] for row in rows} <= {*TARGETS, "all"}
    assert {row[4] for row in rows} == {"0"}


def test_tables_are_of_the_graphs(make_docs, tiny_artifact):
    """The same function, for tiny's hyperparameters, gives what stands in tiny's files."""
    manifest = Manifest.read(tiny_artifact)
    for name in ("q4f16", "q4"):
        precision = manifest.precisions[name]
        found = {"mel": manifest.mel, **precision.native}
        planned = make_docs.planned(manifest.config, precision.activation_dtype)
        assert {
            role: in_file(tiny_artifact / graph.path) for role, graph in found.items()
        } == planned
        assert {role: (graph.inputs, graph.outputs) for role, graph in found.items()} == planned


def test_the_checker_refuses_what_the_page_says(tiny_artifact):
    """One node of encoders and decoder, in every precision, and nothing else of them."""
    found = Manifest.read(tiny_artifact)
    assert refused_operators(tiny_artifact / found.mel.path) == {}
    for kind in found.precisions.values():
        for graph in kind.native.values():
            refused = refused_operators(tiny_artifact / graph.path)
            assert refused == {"SimplifiedLayerNormalization": 1}
    part = PAGE.partition("`onnx.checker`")[2].partition("\n* ")[0]
    for name in (*STANDARD, *STANDARD.values()):
        assert f"`{name}`" in part


def in_file(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the ONNX file states them."""
    graph = onnx.load(path, load_external_data=False).graph

    def spec(value: onnx.ValueInfoProto) -> TensorSpec:
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
        return TensorSpec(
            value.name, dtype, tuple(axis.dim_param or axis.dim_value for axis in kind.shape.dim)
        )

    return tuple(map(spec, graph.input)), tuple(map(spec, graph.output))


@pytest.mark.parametrize(
    "part",
    [
        manifest.Manifest,
        manifest.GraphSpec,
        manifest.TensorSpec,
        manifest.Precision,
        manifest.CacheSpec,
        manifest.Tokens,
        manifest.Streaming,
        files.FileSpec,
        AudioConfig,
    ],
)
def test_every_field_of_the_manifest_is_explained(part):
    words = set(re.findall(r"[a-z_0-9]+", " ".join(re.findall("`([^`]*)`", PAGE))))
    assert {field.name for field in fields(part)} <= words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS.parent)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


def test_readme_is_read_to_its_end():
    assert len((DOCS.parent / "README.md").read_text("utf-8").splitlines()) <= 150


def test_every_page_is_in_the_navigation():
    named = re.findall(r"(\S+\.md)$", (DOCS.parent / "mkdocs.yml").read_text("utf-8"), re.M)
    assert sorted(named) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
