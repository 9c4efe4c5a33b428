"""Uploads to a hub that runs on this machine.

What arrives, what is not sent twice, and everything that goes wrong.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import copy_artifact
from huggingface_hub import ModelCard, constants
from support.commands import CLIP, TEXT
from support.hub_server import LFS
from support.needs import WEB, need_node, run_script

import voxtral_onnx
from voxtral_onnx import limits
from voxtral_onnx.config import RELEASED, RELEASED_LANGUAGES, RELEASED_NAME
from voxtral_onnx.errors import ArtifactError, StorageError, UsageError
from voxtral_onnx.manifest import FILE_NAME, Manifest
from voxtral_onnx.publish.model_card import BaseModel, model_card
from voxtral_onnx.publish.upload import plan_publication, publish
from voxtral_onnx.server.page import files as server_page

# httpx of huggingface_hub
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
NAME = "some-org/speech"
# Stand-ins, which only browsers run
VENDOR = {"VERSION": b"onnxruntime-web 0\n", "ort.wasm": b"\0asm"}


@pytest.fixture
def hub(hub_server, monkeypatch):
    """A hub that this process may write to, by the protocol that needs no Xet storage."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between huggingface_hub's attempts
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return hub_server


@pytest.fixture
def page(tmp_path, monkeypatch):
    folder = tmp_path / "page"
    shutil.copytree(
        server_page.PAGE,
        folder,
        ignore=shutil.ignore_patterns("node_modules", "vendor", "__pycache__"),
    )
    (folder / "vendor").mkdir()
    for name, content in VENDOR.items():
        (folder / "vendor" / name).write_bytes(content)
    monkeypatch.setattr(server_page, "PAGE", folder)


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def front_matter(card: str) -> dict:
    """As the hub's own library reads it."""
    return ModelCard(card).data.to_dict()


def sent(hub) -> list[str]:
    return [
        request.method
        for request in hub.requests
        if request.method == "PUT" or "/commit/" in request.path
    ]


def held(hub, name: str = NAME) -> dict[str, bytes]:
    """The repository's files, but what the hub itself put there."""
    return {
        name: body
        for name, body in hub.repositories[name]["main"].items()
        if name != ".gitattributes"
    }


def test_what_is_published_is_run_by_its_name(hub, artifact, run):
    result = run("publish", artifact, NAME, "--yes")
    assert (result.code, result.out) == (0, f"{hub.url}/{NAME}\n"), result.err
    files = held(hub)
    card = files.pop("README.md").decode()
    assert files == content(artifact) and "not verified" in card
    # One commit, behind all that is large
    assert sent(hub).count("POST") == 1 and sent(hub)[-1] == "POST"
    assert {
        (request.token, request.agent) for request in hub.requests if request.method == "POST"
    } == {("Bearer hf_secret", f"voxtral-onnx/{voxtral_onnx.__version__}")}
    result = run("transcribe", "--model", NAME, CLIP)
    assert (result.code, result.out) == (0, f"{TEXT}\n")


def test_dry_run_sends_nothing(hub, artifact, run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    result = run("publish", artifact, NAME, "--dry-run")
    assert result.code == 0 and not hub.requests
    publication = plan_publication(artifact, NAME)
    assert result.out.startswith(publication.card + "\n")
    listed = [line.split() for line in result.out[len(publication.card) + 1 :].splitlines()]
    assert {name: int(size.replace(",", "")) for size, name in listed} == publication.sizes
    assert set(publication.sizes) == {"README.md", *content(artifact)}


def test_asks_first(hub, artifact, run):
    run("publish", artifact, NAME).assert_refused(2, "add --yes")
    assert not hub.requests


def test_card_says_what_the_artifact_is(tiny_artifact, hub):
    text = plan_publication(tiny_artifact, NAME, base_model="my-org/mine@v2").card
    front, manifest = front_matter(text), Manifest.read(tiny_artifact)
    assert (
        front["license"] == "apache-2.0" and front["pipeline_tag"] == "automatic-speech-recognition"
    )
    assert front["base_model"] == "my-org/mine" and "language" not in front
    assert {"onnx", "onnxruntime"} <= set(front["tags"]) and front["library_name"] == "voxtral-onnx"
    for fact in (manifest.fingerprint, manifest.generator, str(manifest.scope)[1:], "`v2`", NAME):
        assert fact in text
    for precision in manifest.precisions.values():
        for rule in precision.recipe.rules:
            assert f"| `{rule.tensors}` | {rule.bits} | {rule.block_size} | {rule.method} |" in text
    for name, file in manifest.files.items():
        assert f"| `{name}` | {file.size:,} |" in text
    assert "transformers.js" not in text


def test_card_of_the_released_model(tiny_artifact):
    manifest = replace(Manifest.read(tiny_artifact), config=RELEASED, scope=None)
    manifest = replace(
        manifest, files={**manifest.files, "config.json": manifest.files["tekken.json"]}
    )
    text = model_card(manifest, NAME, {}, "verified", BaseModel.of(manifest, None))
    front = front_matter(text)
    assert (front["base_model"], front["language"]) == (RELEASED_NAME, list(RELEASED_LANGUAGES))
    assert front["library_name"] == "transformers.js" and "verified" in text
    assert (front["base_model_relation"], front["license"]) == ("quantized", "apache-2.0")


def test_layout_of_a_model_for_transformers_js(transformers_js_artifact):
    """What its users know from onnx-community.

    Configuration and tokenizer at the root, graphs in `onnx`.
    """
    publication = plan_publication(transformers_js_artifact, NAME)
    files, card = publication.files, publication.card
    assert files.keys() == {"README.md", *content(transformers_js_artifact)}
    names = (
        "config",
        "generation_config",
        "preprocessor_config",
        "processor_config",
        "tokenizer",
        "tokenizer_config",
    )
    assert {f"{name}.json" for name in names} <= files.keys()
    for graph in ("audio_encoder", "embed_tokens", "decoder_model_merged"):
        assert {f"onnx/{graph}_q4.onnx", f"onnx/{graph}_q4.onnx_data"} <= files.keys()
    front = front_matter(card)
    assert front["library_name"] == "transformers.js" and {"onnx", "transformers.js"} < set(
        front["tags"]
    )
    assert (
        f"from_pretrained(\n  '{NAME}', {{ dtype: 'q4' }}\n)" in card
        and "npm install @huggingface/transformers" in card
    )
    assert "portable" not in card


BY_NAME = """
import {
  env, VoxtralRealtimeForConditionalGeneration, VoxtralRealtimeProcessor
} from '@huggingface/transformers'
import { readWav, transcribe } from '%s'
const [url, cacheDir, name, clip] = process.argv.slice(2)
Object.assign(env, { remoteHost: `${url}/`, allowLocalModels: false, cacheDir })
const processor = await VoxtralRealtimeProcessor.from_pretrained(name)
const model = await VoxtralRealtimeForConditionalGeneration.from_pretrained(name, { dtype: 'q4' })
const ids = await transcribe({ processor, model }, await readWav(clip, 16000))
console.log(processor.tokenizer.decode(ids, { skip_special_tokens: true }))
"""


@pytest.mark.node
def test_transformers_js_runs_what_is_published_by_its_name(
    hub, transformers_js_artifact, tmp_path
):
    need_node("@huggingface/transformers")
    publish(transformers_js_artifact, NAME)
    script = tmp_path / "by_name.mjs"
    script.write_text(BY_NAME % (WEB.parent / "examples" / "transformers_js.mjs").as_uri())
    done = run_script(str(script), hub.url, tmp_path / "cache", NAME, CLIP)
    assert done.stdout.strip() == TEXT, done.stderr


def test_card_names_a_precision_that_the_family_has(tiny_artifact):
    manifest = Manifest.read(tiny_artifact)
    kind = manifest.precisions["q4"]
    families = {"portable": (kind.encoder, kind.decoder), "transformers_js": (kind.encoder,)}
    precisions = {**manifest.precisions, "q4": replace(kind, families=families)}
    assert next(iter(precisions)) != "q4"
    text = model_card(replace(manifest, precisions=precisions), NAME, {}, "verified")
    assert (
        "dtype: 'q4'" in text and f"`{kind.decoder.path}` have the same\ninputs and outputs" in text
    )


def test_card_without_a_licence_claims_none(tiny_artifact):
    manifest = replace(Manifest.read(tiny_artifact), license=None)
    text = model_card(manifest, NAME, {}, "not verified")
    assert (
        "license" not in front_matter(text) and "licence of the checkpoint they come from." in text
    )


def test_what_is_there_is_not_sent_again(hub, artifact):
    publish(artifact, NAME)
    hub.requests.clear()
    seen = []
    publish(artifact, NAME, on_file=lambda *values: seen.append(values))
    assert not sent(hub) and not seen
    (artifact / "certificate.html").write_text("<p>new</p>")
    publish(artifact, NAME, on_file=lambda *values: seen.append(values))
    assert [name for name, _, _ in seen] == ["README.md", "certificate.html"]  # the card lists it
    assert sent(hub) == ["POST"]
    assert held(hub)["certificate.html"] == b"<p>new</p>"


def test_upload_that_breaks_off_is_no_artifact_and_goes_on(hub, artifact, run):
    sizes = plan_publication(artifact, NAME).sizes
    hub.faults.drops = [100_000] * 6  # all attempts for the first large file
    run("publish", artifact, NAME, "--yes").assert_refused(9, NAME, "run it again")
    assert not held(hub)
    publish(artifact, NAME)
    assert sent(hub).count("PUT") == sum(name.endswith(LFS) for name in sizes)
    hub.repositories[NAME]["main"] = hub.repositories[NAME][hub.publish(NAME, {})]
    hub.requests.clear()
    publish(artifact, NAME)  # the storage has all that is large
    assert sent(hub) == ["POST"] and FILE_NAME in held(hub)


def test_an_upload_that_was_interrupted_goes_on(hub, artifact):
    started = []

    def stop(name, done, total):
        started.append(name)
        if sum(each.endswith("_data") for each in started) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(artifact, NAME, on_file=stop)
    assert not held(hub) and 0 < sent(hub).count("PUT") < len(started)
    publish(artifact, NAME)
    large = {name for name in plan_publication(artifact, NAME).sizes if name.endswith(LFS)}
    assert sent(hub).count("PUT") == len(large), "nothing large is sent twice"
    assert held(hub).keys() == {"README.md", *content(artifact)}


def test_lost_connections_and_passing_answers_are_waited_for(hub, artifact):
    hub.faults.drops = [1000, 2000]
    publish(artifact, NAME)
    assert held(hub).keys() == {"README.md", *content(artifact)}


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        ((401, ""), ["refuses the token", "hf auth login"]),
        ((403, ""), ["may not write"]),
        ((404, "RepoNotFound"), ["no such owner"]),
        ((400, ""), ["HTTP 400", "run it again"]),
    ],
)
def test_refusals_of_the_hub(error, parts, hub, artifact, run):
    hub.faults.error = error
    run("publish", artifact, NAME, "--yes").assert_refused(9, NAME, *parts)


def test_a_wrong_token(page, hub, artifact, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    for space in ([], ["--space"]):
        run("publish", artifact, NAME, "--yes", *space).assert_refused(
            9, NAME, "refuses the token", "hf auth login"
        )
    assert not hub.repositories


def test_without_a_token(hub, artifact, run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    run("publish", artifact, NAME, "--yes").assert_refused(9, "hf auth login", "HF_TOKEN")
    assert not hub.requests


def test_without_a_connection(hub, artifact, run, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    run("publish", artifact, NAME, "--yes").assert_refused(9, "no connection to http://127.0.0.1:9")


def test_a_commit_of_someone_else_in_between(hub, artifact):
    publish(artifact, NAME)
    (artifact / "certificate.html").write_text("<p>new</p>")
    hub.faults.commits = [{"notes.txt": b"theirs"}]
    with pytest.raises(StorageError, match="changed the repository meanwhile"):
        publish(artifact, NAME)
    assert "certificate.html" not in held(hub) and "notes.txt" in held(hub)


@pytest.mark.parametrize("damage", ["flip", "missing", "unfinished"])
def test_only_whole_artifacts(damage, hub, artifact, run):
    file = artifact / "onnx" / "mel.onnx"
    body = bytearray(file.read_bytes())
    if damage == "flip":
        body[1000] ^= 1
        file.write_bytes(body)
    elif damage == "missing":
        file.unlink()
    else:
        (artifact / FILE_NAME).unlink()
    part = "its export did not finish" if damage == "unfinished" else "onnx/mel.onnx: "
    for space in ([], ["--space"]) if damage == "unfinished" else ([],):
        run("publish", artifact, NAME, "--yes", *space).assert_refused(4, part)
    assert not hub.requests


def test_a_file_that_changes_on_its_way(hub, artifact):
    def spoil(name, done, total):
        if name == "tekken.json":
            (artifact / name).write_bytes((artifact / name).read_bytes() + b"\n")

    with pytest.raises(ArtifactError, match=r"tekken\.json: changed while it was uploaded"):
        publish(artifact, NAME, on_file=spoil)
    assert not held(hub)


def test_a_repository_of_something_else_is_left_alone(hub, artifact):
    hub.publish(NAME, {"params.json": b"{}", "README.md": b"mine"})
    with pytest.raises(StorageError, match=r"something else than an artifact \(params\.json\)"):
        publish(artifact, NAME)
    assert held(hub) == {"params.json": b"{}", "README.md": b"mine"}


def test_private(hub, artifact, run):
    assert run("publish", artifact, NAME, "--yes", "--private").code == 0
    assert hub.private == {NAME}
    assert run("publish", artifact, NAME, "--yes", "--private").code == 0
    hub.private.clear()
    run("publish", artifact, NAME, "--yes", "--private").assert_refused(9, "exists and is public")


@pytest.mark.parametrize("name", ["speech", "some-org/speech@main", "a/b/c", "/speech", ""])
def test_names_that_no_repository_has(name, artifact):
    with pytest.raises(UsageError, match="ORG/NAME"):
        publish(artifact, name)
    if "@" not in name:
        with pytest.raises(UsageError, match="ORG/NAME@REVISION"):
            publish(artifact, NAME, base_model=name)


def test_files_of_the_artifact_before_are_removed(hub, tiny_artifact, artifact, tmp_path):
    publish(copy_artifact(tiny_artifact, tmp_path / "other", "q4"), NAME)
    mine = {"picture.png": b"mine"}
    hub.publish(NAME, {**held(hub), ".gitattributes": b"", **mine})
    publish(artifact, NAME)
    files = held(hub)
    assert files.pop("README.md") and files == {**content(artifact), **mine}


@pytest.mark.parametrize(
    "damage",
    [
        b"[]",
        b'{"files": 1}',
        b'{"files": {"../x": {}}}',
        b"[" * 100_000,
        b" " * (limits.MANIFEST + 1),
    ],
    ids=["list", "number", "name", "nested", "large"],
)
def test_damaged_manifest_of_the_artifact_before(damage, hub, artifact):
    before = {FILE_NAME: damage}
    hub.publish(NAME, before)
    with pytest.raises(StorageError, match=r"is damaged|expected at most"):
        publish(artifact, NAME)
    assert held(hub) == before


def test_answers_of_what_is_no_hub(hub, artifact):
    for body in (b"[]", b"{}", b"[" * 100_000, b'{"url": 1}'):
        hub.faults.body = body
        with pytest.raises(StorageError, match=f"{NAME}: "):
            publish(artifact, NAME)


def test_space_of_a_model_for_other_hosts(page, transformers_js_artifact):
    """Holds what the page runs, no more."""
    files = plan_publication(transformers_js_artifact, NAME, space=True).files
    assert "artifact/onnx/decoder_q4.onnx" in files and not any(
        "embed_tokens" in name for name in files
    )


def test_space_is_what_bundle_writes(page, hub, tiny_artifact, artifact, tmp_path, run):
    name = f"spaces/{NAME}"
    result = run("publish", tiny_artifact, NAME, "--space", "--yes")
    assert (result.code, result.out) == (0, f"{hub.url}/{name}\n"), result.err
    assert held(hub, name) == content(
        server_page.bundle(tiny_artifact, tmp_path / "site", space=True)
    )
    # One precision: what the other left goes
    assert publish(artifact, NAME, space=True) == f"{hub.url}/{name}"
    assert held(hub, name) == content(
        server_page.bundle(artifact, tmp_path / "smaller", space=True)
    )
    assert set(json.loads(held(hub, name)[f"artifact/{FILE_NAME}"])["precisions"]) == {"q4f16"}
