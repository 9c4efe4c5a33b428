"""Addresses that users copy from a browser or a page, and those that lead to no model."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import CLIP

from voxtral_onnx import hub
from voxtral_onnx.addresses import Address, read_address, read_name
from voxtral_onnx.errors import UsageError
from voxtral_onnx.exporter.checkpoint.remote import find_remote
from voxtral_onnx.runtime.locate import find_artifact

NAME = "ORG-1/The.Model"


@pytest.mark.parametrize(
    "host", ["https://huggingface.co", "http://www.hf.co", "HF.co", "HTTPS://Hf.Co"]
)
@pytest.mark.parametrize(
    ("path", "revision", "file"),
    [
        ("", None, None),
        ("/", None, None),
        ("?library=transformers#top", None, None),
        ("/tree/main", "main", None),
        ("/tree/v1.0/", "v1.0", None),
        ("/tree/refs%2Fpr%2F1", "refs/pr/1", None),
        ("/tree/refs/pr/1", "refs/pr/1", None),
        ("/blob/main/model.gguf", "main", "model.gguf"),
        ("/blob/main/deep/er/The%20Model.GGUF", "main", "deep/er/The Model.GGUF"),
        ("/blob/refs/pr/1/model.gguf", "refs/pr/1", "model.gguf"),
        ("/resolve/v1/model.gguf?download=true", "v1", "model.gguf"),
        ("/raw/main/config.json", "main", "config.json"),
    ],
)
def test_addresses_of_the_hub(host, path, revision, file):
    assert read_address(f"{host}/{NAME}{path}") == Address(NAME, revision, file)


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:8000", "https://mirror.example/hf/", "https://hf-mirror.com"]
)
def test_addresses_of_a_mirror(endpoint, monkeypatch):
    monkeypatch.setattr(hub.constants, "ENDPOINT", endpoint.rstrip("/"))
    address = f"{endpoint.rstrip('/')}/{NAME}/blob/v1/a.gguf"
    assert read_address(address) == Address(NAME, "v1", "a.gguf")
    assert read_address(f"https://huggingface.co/{NAME}") == Address(NAME)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "tiny",
        "org/name",
        "org/name@v1",
        "a/b/c.gguf",
        "C:\\models\\a",
        "huggingface.co",
        "hf.co/",
    ],
)
def test_paths_and_names_are_no_addresses(source):
    assert read_address(source) is None


def test_a_path_that_looks_like_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf.co" / "org" / "name").mkdir(parents=True)
    assert read_address("hf.co/org/name") is None
    assert read_address(Path("hf.co/org/other")) is None
    assert read_name("hf.co/org/other") == Address("org/other")


@pytest.mark.parametrize(
    ("address", "part"),
    [
        (f"https://example.com/{NAME}", "got the address of another server; download what it"),
        ("https://huggingface.co.example.com/a/b", "got the address of another server"),
        ("https://user@example.com/a/b", "got the address of another server"),
        (f"ftp://huggingface.co/{NAME}", "got the address of another server"),
        (f"s3://bucket/{NAME}/model.gguf", "got the address of another server"),
        ("https://huggingface.co", "got no repository"),
        ("https://huggingface.co/gpt2", "got no repository"),
        ("https://huggingface.co/org/na%2Fme", "got no repository"),
        ("https://huggingface.co/../etc", "got no repository"),
        ("https://huggingface.co/datasets/org/name", "got a page under /datasets, which is no"),
        ("https://huggingface.co/spaces/org/name", "got a page under /spaces"),
        (f"https://hf.co/{NAME}/discussions/3", f"got another page of {NAME}; name {NAME}"),
        (f"https://hf.co/{NAME}/tree", f"got another page of {NAME}"),
        (f"https://hf.co/{NAME}/tree/v1/onnx", f"got a folder of it; name {NAME}@v1"),
        (f"https://hf.co/{NAME}/blob/v1", f"got a file without its name; name {NAME}@v1"),
        ("https://[huggingface.co/a/b", "got no address"),
    ],
)
def test_addresses_that_are_no_models(address, part, hub_server):
    for find in (read_address, find_remote, find_artifact):
        with pytest.raises(UsageError) as refused:
            find(address)
        assert str(refused.value).startswith(f"{address}: expected https://huggingface.co/ORG/NAME")
        assert part in str(refused.value)
    assert hub_server.requests == []


def test_one_revision_in_an_address_or_beside_it():
    address = f"https://huggingface.co/{NAME}"
    assert hub.find_repository(address, "v2") == hub.Repository(NAME, "v2")
    assert hub.find_repository(f"{address}/tree/v1") == hub.Repository(NAME, "v1")
    assert str(hub.find_repository(f"{address}/tree/main")) == NAME
    with pytest.raises(UsageError, match="expected one, got 'v1' and 'v2'"):
        hub.find_repository(f"{address}/tree/v1", "v2")


def test_the_address_of_a_file_is_no_model_to_run(run):
    address = f"https://hf.co/{NAME}/blob/main/a.gguf"
    run("transcribe", "--model", address, CLIP).assert_refused(
        2, "the address of a file", f"name {NAME}", f"voxtral-onnx export {address}"
    )
