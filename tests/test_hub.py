"""Downloads from a hub that runs on this machine.

What is asked for, what arrives, and everything that goes wrong.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import EXACT_RECIPE
from huggingface_hub import constants, hf_hub_download
from support.checkpoints import write_hf, write_mistral
from support.commands import CLIP, TEXT, clean_environment
from support.converters import audio_cpp_files, our_tensors, write_audio_cpp, write_llama_cpp
from support.ggufs import config_of, cut, mistral_tensors, write_model
from support.hub_server import HubServer

from voxtral_onnx import Transcriber, hub, limits
from voxtral_onnx.download import BLOCK, RemoteFile
from voxtral_onnx.errors import ArtifactError, CheckpointError, StorageError, UsageError
from voxtral_onnx.exporter.checkpoint.open import open_checkpoint
from voxtral_onnx.exporter.checkpoint.remote import DEFAULT_SOURCE, find_remote
from voxtral_onnx.manifest import FILE_NAME, Manifest
from voxtral_onnx.runtime.locate import find_artifact
from voxtral_onnx.verification.certificate import hash_manifest

BIG = random.Random(0).randbytes(3 * BLOCK + 17)
FILES = {"params.json": b"{}", "deep/er/empty": b"", "model.safetensors": BIG}
ARTIFACT = "some-org/tiny-onnx"


def bring(name: str = "org/name", offline: bool = False, on_progress=lambda progress: None) -> Path:
    """All of a repository; returns its folder."""
    repository = hub.find_repository(name)
    assert repository is not None
    snapshot = hub.look_up(repository, offline=offline)
    folder = snapshot.folder(snapshot.files)
    snapshot.download(snapshot.files, folder, on_progress)
    snapshot.remember()
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@contextmanager
def refused(*parts: str, error: type[Exception] = StorageError) -> Iterator[None]:
    """The block raises an error whose message holds these parts."""
    with pytest.raises(error) as raised:
        yield
    for part in parts:
        assert part in str(raised.value)


@pytest.fixture
def published(hub_server) -> HubServer:
    """A hub with a repository of three files."""
    hub_server.publish("org/name", FILES)
    return hub_server


@pytest.fixture
def published_artifact(hub_server, tiny_artifact) -> HubServer:
    """A hub with an artifact of five precisions."""
    hub_server.publish(ARTIFACT, tiny_artifact)
    return hub_server


@pytest.mark.parametrize(
    ("source", "repo_id", "revision"),
    [
        ("org/name", "org/name", "main"),
        (
            "mistralai/Voxtral-Mini-4B-Realtime-2602",
            "mistralai/Voxtral-Mini-4B-Realtime-2602",
            "main",
        ),
        ("org/name@v1.0", "org/name", "v1.0"),
        ("org/name@refs/pr/1", "org/name", "refs/pr/1"),
        ("0/_", None, None),
        ("a/b/c", None, None),
        ("tiny", None, None),
        ("./org/name", None, None),
        ("../name", None, None),
        ("/org/name", None, None),
        ("org/name.gguf", None, None),
        ("org/name.GGUF", None, None),
        ("https://huggingface.co/org/name/tree/v1.0", "org/name", "v1.0"),
        ("org/", None, None),
        ("org/näme", None, None),
        ("C:\\org/name", None, None),
        ("", None, None),
    ],
)
def test_names_of_repositories(source, repo_id, revision):
    assert hub.find_repository(source) == (repo_id and hub.Repository(repo_id, revision))


def test_path_that_exists_is_no_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert hub.find_repository("org/name") is None
    assert hub.find_repository(Path("org/other")) is None
    assert hub.find_repository("org/other") == hub.Repository("org/other", "main")


def test_revision_given_once_and_of_a_repository():
    assert hub.find_repository("org/name", "v2") == hub.Repository("org/name", "v2")
    with refused("expected one, got 'v1' and 'v2'", error=UsageError):
        hub.find_repository("org/name@v1", "v2")
    with refused("tiny is none", error=UsageError):
        hub.find_repository("tiny", "v2")


def test_download_is_whole_and_asked_for_once(published, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    seen = []
    folder = bring(on_progress=seen.append)
    assert content(folder) == FILES
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    listing, *files = published.requests
    assert listing.path == "/api/models/org/name/revision/main"
    # An empty file needs no request
    assert sorted(published.taken()) == ["model.safetensors", "params.json"]
    assert all(request.agent.startswith("voxtral-onnx/") for request in published.requests)
    # No versions of what is installed
    assert all(" " not in request.agent for request in published.requests)
    tokens = {request.path.split("/")[1]: request.token for request in files}
    assert (listing.token, tokens) == ("Bearer hf_secret", {"org": "Bearer hf_secret", "lfs": None})
    assert seen[0] == hub.Progress("", 0, len(BIG) + 2)
    assert len(seen) <= 2 + len(FILES) + len(BIG) // BLOCK
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == len(BIG) + 2
    count = len(published.requests)
    assert bring() == folder
    assert len(published.requests) == count + 1  # the listing


def test_commit_that_is_known_is_not_asked_for(published):
    commit = published.commit("org/name", "main")
    folder = bring(f"org/name@{commit}")
    published.requests.clear()
    assert bring(f"org/name@{commit}") == folder
    assert published.requests == []


def test_commit_that_changes_nothing_downloads_nothing(published):
    folder = bring()
    published.requests.clear()
    published.publish("org/name", {**dict(reversed(FILES.items()))})
    assert bring() == folder
    assert published.taken() == []
    published.publish("org/name", FILES | {"params.json": b"[]"})
    assert content(bring()) == FILES | {"params.json": b"[]"}
    assert content(folder) == FILES


@pytest.mark.parametrize(
    ("cuts", "knows_ranges"),
    [
        ([0, 0, 0], True),
        ([1, 0, 1], True),
        ([len(BIG) - 1], True),
        ([BLOCK, BLOCK, 0, 1], True),
        ([0, 0, 0], False),
        ([1, 2, 3, len(BIG) - 1], False),
    ],
)
def test_dropped_connection_is_taken_up_again(cuts, knows_ranges, hub_server):
    hub_server.publish("org/name", {"model.safetensors": BIG})
    hub_server.faults.drops = list(cuts)
    hub_server.faults.knows_ranges = knows_ranges
    seen = []
    assert content(bring(on_progress=seen.append)) == {"model.safetensors": BIG}
    starts = [
        int(r.range[6:-1]) if r.range else 0 for r in hub_server.requests if "/lfs/" in r.path
    ]
    if knows_ranges:
        assert starts == [sum(cuts[:n]) for n in range(len(cuts) + 1)]
    assert len(starts) == len(cuts) + 1
    assert len([progress for progress in seen if progress.wait]) == len(cuts)
    assert seen[-1].done == seen[-1].total == len(BIG)


def test_patience_ends_and_what_came_is_kept(published):
    # The first is that of params.json, which comes whole
    published.faults.drops = [2, 1000, 0, 0, 0]
    with refused("org/name: no such path here, and no connection to http", "what has come is kept"):
        bring()
    (unfinished,) = (constants_home() / "org--name").glob("*/*.partial")
    assert unfinished.read_bytes() == BIG[:1000]
    published.requests.clear()
    assert content(bring()) == FILES
    assert [r.range for r in published.requests if "/lfs/" in r.path] == ["bytes=1000-"]


def constants_home() -> Path:
    return Path(constants.HF_ASSETS_CACHE) / "voxtral-onnx"


@pytest.mark.parametrize("name", ["model.safetensors", "params.json"])
def test_wrong_byte_does_not_stay(name, published):
    published.faults.flip = name
    with refused(
        f"{name}: expected ", " bytes with hash ", "; they were removed, download it again"
    ):
        bring()
    assert not [path for path in constants_home().rglob(f"{name}*") if path.suffix != ".json"]
    published.faults.flip = None
    assert content(bring()) == FILES


@pytest.mark.parametrize("left", [b"another file's bytes", BIG + b"more"], ids=["other", "longer"])
def test_unfinished_file_of_other_bytes_is_found_out(left, published):
    folder = bring()
    (folder / "model.safetensors").rename(folder / "model.safetensors.partial")
    (folder / "model.safetensors.partial").write_bytes(left)
    with refused("they were removed"):
        bring()
    assert content(bring()) == FILES


def test_unfinished_file_that_is_whole_needs_no_request(published):
    folder = bring()
    (folder / "model.safetensors").rename(folder / "model.safetensors.partial")
    published.requests.clear()
    assert content(bring()) == FILES
    assert published.taken() == []


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (
            (401, "GatedRepo"),
            [
                "org/name: accept its licence on http",
                "/org/name, then log in (hf auth login) or set HF_TOKEN",
            ],
        ),
        ((403, "GatedRepo"), ["accept its licence"]),
        (
            (401, "RepoNotFound"),
            "neither a path here nor a repository that the hub shows; check the name; if it is "
            "private, log in",
        ),
        ((404, "RepoNotFound"), ["neither a path here nor a repository"]),
        ((404, "RevisionNotFound"), ["org/name: no branch, tag or commit 'main'"]),
        (
            (401, ""),
            ["the hub refuses the token (HTTP 401); log in (hf auth login) or set HF_TOKEN"],
        ),
        ((403, ""), ["the hub refuses the token (HTTP 403)"]),
        ((404, ""), ["the hub answers HTTP 404"]),
        ((500, ""), ["the hub answers HTTP 500; run it again later"]),
        ((429, ""), ["the hub answers HTTP 429; run it again later"]),
    ],
)
@pytest.mark.parametrize("when", ["listing", "file"])
def test_refusals(when, error, parts, published):
    snapshot = hub.look_up(hub.Repository("org/name", "main"))
    published.faults.error = error
    with refused(*parts):
        if when == "listing":
            bring()
        else:
            snapshot.download(snapshot.files, snapshot.folder(snapshot.files))


def test_passing_statuses_are_waited_for(published):
    published.faults.statuses = [503, 429]
    snapshot = hub.look_up(hub.Repository("org/name", "main"))
    published.faults.statuses = [500, 502, 504]
    snapshot.download(snapshot.files, folder := snapshot.folder(snapshot.files))
    assert content(folder) == FILES


def answer(**changes) -> bytes:
    """What a hub says of a repository with one file."""
    sibling = {"rfilename": "a", "size": 1, "blobId": "0" * 40, "lfs": {"sha256": "0" * 64}}
    of_file = {name: value for name, value in changes.items() if name in sibling}
    return json.dumps({"sha": "0" * 40, "siblings": [sibling | of_file]} | changes).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff",
        answer(sha=""),
        answer(sha="../../etc"),
        answer(siblings=[{}]),
        answer(siblings=None),
        answer(rfilename=1),
        answer(size=-1),
        answer(size=1.5),
        answer(size=None),
        answer(size=1 << 60),
        answer(blobId="0" * 39, lfs=None),
        answer(blobId=None),
        answer(lfs=[]),
        answer(lfs={"sha256": "x" * 64}),
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
def test_what_is_no_hub(body, published):
    published.faults.body = body
    with refused("not the answer of a hub (", "check HF_ENDPOINT"):
        hub.look_up(hub.Repository("org/name", "main"))


def test_answer_of_a_hub(published):
    """That of which the ones before are changes, and with more than is read."""
    published.faults.body = answer(lfs=None, private=False, tags=["a", {}])
    snapshot = hub.look_up(hub.Repository("org/name", "main"))
    assert snapshot.files == {"a": RemoteFile(1, "0" * 40)}


def test_answer_without_end(published):
    published.faults.body = answer(more="a" * limits.HUB_ANSWER)
    with refused("expected at most 4,194,304 bytes, got more; check HF_ENDPOINT"):
        bring()


def test_no_connection(hub_server, monkeypatch):
    # Discard, where nothing listens
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with refused(
        "no connection to http://127.0.0.1:9 (", "--offline takes what was downloaded before"
    ):
        bring()


def test_names_that_lead_out_of_the_folder_are_left_out(hub_server):
    bad = ("../up", "a/../../up", "/etc/passwd", "C:/x", "..\\up", "a//b", "a\x1b[2J", "a" * 300)
    hub_server.publish("org/name", {"good.json": b"{}"} | dict.fromkeys(bad, b"bad"))
    assert content(bring()) == {"good.json": b"{}"}


def test_offline_asks_nothing(published, monkeypatch):
    with refused("org/name: offline, and ", " does not have it; run it once without --offline"):
        bring(offline=True)
    folder = bring()
    published.requests.clear()
    assert bring(offline=True) == folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert bring() == folder
    (folder / "params.json").unlink()
    with refused("offline, and not here yet: params.json; run it once without"):
        bring()
    assert published.requests == []


@pytest.mark.parametrize("silence", ["nobody listens", 503, 429])
def test_what_was_downloaded_is_taken_with_a_warning_where_no_hub_answers(
    silence, published, monkeypatch
):
    folder = bring()
    if silence == "nobody listens":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    else:
        published.faults.error = (silence, "")
    with pytest.warns(UserWarning, match=r"org/name: no answer from .*downloaded before is used"):
        assert bring() == folder
    (folder / "params.json").unlink()
    with pytest.warns(UserWarning), refused("offline, and not here yet: params.json"):
        bring()


@pytest.mark.parametrize("error", [(401, ""), (403, ""), (401, "GatedRepo"), (404, "")])
def test_a_hub_that_refuses_has_the_last_word(error, published):
    bring()
    published.faults.error = error
    with refused("org/name"):
        bring()


def test_no_home_to_download_into(published, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", "~/.cache/huggingface/assets")
    with refused("org/name: there is no home folder to keep it in; set HF_HOME"):
        bring()
    assert not (tmp_path / "~").exists()


def test_damaged_record_is_none(published):
    bring()
    record = constants_home() / "org--name" / "main.json"
    sound = record.read_bytes()
    for damage in (
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"files": {"a": 1}}',
        sound.replace(b"params.json", b"../params.json"),
        sound.replace(b'"size":2', b'"size":-2'),
        sound.replace(b'"digest":"', b'"digest":"x'),
        sound.replace(b'"commit":"', b'"commit":"/'),
        sound + b" " * limits.HUB_ANSWER,
    ):
        assert damage != sound
        record.write_bytes(damage)
        with refused("does not have it"):
            bring(offline=True)
    record.write_bytes(sound)
    assert bring(offline=True)


def test_names_of_files_on_their_way_are_left_out(hub_server):
    hub_server.publish("org/name", FILES | {"model.safetensors.partial": b"", "b.partial/c": b"c"})
    assert content(bring()) == FILES | {"b.partial/c": b"c"}


def test_folder_that_leads_elsewhere_is_not_written_into(published, tmp_path):
    folder = bring()
    shutil.rmtree(folder / "deep")
    (tmp_path / "elsewhere").mkdir()
    (folder / "deep").symlink_to(tmp_path / "elsewhere")
    with refused("deep/er: leads out of ", "; remove it"):
        bring()
    assert not any((tmp_path / "elsewhere").iterdir())


def test_no_lock_is_left(published):
    assert not list(bring().parent.glob("*.lock"))


def test_name_that_no_file_can_have(hub_server):
    hub_server.publish("org/name", {"ä" * 200: b"x"})
    with refused("cannot be written (File name too long)"):
        bring()


def test_revision_of_any_characters(published):
    published.publish("org/name", {"a": b"a"}, "ü %")
    with refused("org/name: no branch, tag or commit "):
        bring("org/name@\udcff\x00")
    assert content(bring("org/name@ü %")) == {"a": b"a"}
    assert bring("org/name@ü %", offline=True)


def test_disk_too_small(hub_server, tmpfs, monkeypatch):
    hub_server.publish("org/name", FILES)
    disk = tmpfs("size=1m")
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(disk))
    with refused(
        "3.1 MB of disk are needed, ", " has 1.0 MB free; free space, or choose another disk"
    ):
        bring()
    assert hub_server.taken() == []


def test_disk_that_fills_while_files_come(published, tmpfs, monkeypatch):
    disk = tmpfs("size=4m")
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(disk))

    def fill(progress: hub.Progress) -> None:
        if progress.done > BLOCK and not (disk / "other").exists():
            (disk / "other").write_bytes(bytes(BLOCK))

    with refused("cannot be written (No space left on device); free space, or set HF_HOME"):
        bring(on_progress=fill)
    (disk / "other").unlink()
    assert content(bring()) == FILES


def test_folder_that_cannot_be_written(published, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "file"))
    with refused("file/voxtral-onnx/org--name: cannot be written (Not a directory)"):
        bring()


def test_two_at_once_download_every_file_once(published):
    published.faults.hold = 1000
    folders = []
    first = threading.Thread(target=lambda: folders.append(bring()))
    first.start()
    assert published.held.wait(60)
    seen, waits = [], threading.Event()

    def see(progress: hub.Progress) -> None:
        seen.append(progress)
        waits.set()

    second = threading.Thread(target=lambda: folders.append(bring(on_progress=see)))
    second.start()
    assert waits.wait(60)
    published.resumed.set()
    for thread in (first, second):
        thread.join(60)
    assert folders[0] == folders[1]
    assert content(folders[0]) == FILES
    assert sorted(published.taken()) == ["model.safetensors", "params.json"]
    assert [(progress.file, progress.done == progress.total) for progress in seen] == [
        ("", False),
        ("", True),
    ]


def needed_of(folder: Path, server: HubServer, name: str = "org/name") -> list[str]:
    """Files that an export of a repository with this content would download."""
    server.publish(name, folder)
    remote = find_remote(name)
    assert remote is not None
    remote.fetch()
    assert content(remote.folder).keys() == set(server.taken())
    return sorted(server.taken())


def test_only_what_an_export_needs_is_downloaded(hub_server, tmp_path):
    mistral, both = write_mistral(tmp_path / "mistral"), write_hf(tmp_path / "hf")
    (mistral / "README.md").write_text("a card")
    expected = ["consolidated.safetensors", "params.json", "tekken.json"]
    assert needed_of(mistral, hub_server) == expected
    for path in mistral.iterdir():
        shutil.copyfile(path, both / path.name)
    hub_server.requests.clear()
    assert needed_of(both, hub_server, "org/both") == expected


def test_checkpoint_that_another_program_downloaded_is_taken_as_it_is(hub_server, tmp_path):
    hub_server.publish("org/name", write_mistral(tmp_path / "mistral"))
    names = ("consolidated.safetensors", "params.json", "tekken.json")
    paths = [Path(hf_hub_download("org/name", name, endpoint=hub_server.url)) for name in names]
    assert paths[0].is_symlink()
    hub_server.requests.clear()
    remote = find_remote("org/name")
    assert remote is not None and remote.num_bytes == 0
    assert remote.fetch() == paths[0].parent
    assert hub_server.taken() == ["params.json", "tekken.json"]
    paths[0].unlink()
    paths[0].write_bytes(b"cut short")
    assert (remote := find_remote("org/name")) and remote.fetch() != paths[0].parent
    assert paths[0].read_bytes() == b"cut short"


@pytest.mark.parametrize("with_index", [True, False])
def test_hugging_face_layout_by_its_index(with_index, hub_server, tmp_path):
    folder = write_hf(tmp_path / "hf")
    (folder / "other-00001-of-00001.safetensors").write_bytes(b"of another kind")
    (folder / "pytorch_model.bin").write_bytes(b"of another kind")
    weights = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    if not with_index:
        (folder / weights[2]).unlink()
        weights = ["model.safetensors"]
        (folder / weights[0]).write_bytes(b"weights")
    assert needed_of(folder, hub_server) == [
        "config.json",
        *weights,
        "processor_config.json",
        "tekken.json",
    ]


def gguf_repository(checkpoint: Path, folder: Path) -> Path:
    """Make a repository of a toy model's GGUF, its tokenizer and files an export ignores."""
    folder.mkdir()
    write_model(folder / "toy-q4.gguf", config_of(checkpoint), mistral_tensors(checkpoint), "Q4_0")
    shutil.copyfile(checkpoint / "tekken.json", folder / "tekken.json")
    for name in ("README.md", "config.json", "card.json"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture(scope="session")
def toy_gguf(toy_checkpoint, tmp_path_factory) -> Path:
    return gguf_repository(toy_checkpoint, tmp_path_factory.mktemp("gguf") / "repository")


def test_repository_of_a_gguf(hub_server, toy_gguf, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert needed_of(toy_gguf, hub_server, "org/q4-gguf") == ["tekken.json", "toy-q4.gguf"]
    plan = run("export", "org/q4-gguf", "--dry-run", "--offline")
    assert plan.code == 0, plan.err
    assert "q4-gguf-onnx" in plan.out and "onnx/decoder_model_merged_q4f16.onnx" in plan.out


@pytest.mark.parametrize("stem", ["shard-", "deep/shard-"])
def test_repository_of_a_gguf_in_shards(stem, hub_server, toy_gguf, tmp_path):
    folder = tmp_path / "shards"
    cut(toy_gguf / "toy-q4.gguf", 100_000, folder)
    beside = stem.rpartition("/")[0]
    files = {f"{stem}{path.name[6:]}": path.read_bytes() for path in folder.iterdir()}
    files[f"{beside}/tekken.json".lstrip("/")] = (toy_gguf / "tekken.json").read_bytes()
    hub_server.publish("org/name", files | {"README.md": b"", "shard-notes": b""})
    remote = find_remote("org/name")
    assert remote is not None and remote.fetch() == remote.folder / f"{stem}aa"
    assert sorted(hub_server.taken()) == sorted(files)
    assert (
        open_checkpoint(remote.source).fingerprint()
        == open_checkpoint(toy_gguf / "toy-q4.gguf").fingerprint()
    )
    hub_server.publish(
        "org/hole", {name: body for name, body in files.items() if name != f"{stem}ab"}
    )
    with refused("org/hole: expected params.json", "found none of them", error=CheckpointError):
        find_remote("org/hole")
    hub_server.publish(
        "org/hole", {name: body for name, body in files.items() if name != f"{stem}ac"}
    )
    with refused(
        f"org/hole/{stem}aa: expected the shard {stem}ac after {stem}ab", error=CheckpointError
    ):
        find_remote("org/hole")


def test_one_of_several_ggufs(hub_server, toy_gguf, tmp_path):
    files = content(toy_gguf)
    files |= {"other.gguf": b"GGUF", "shard-aa": b"GG", "shard-ab": b"UF"}
    hub_server.publish("org/name", files, "v2")
    hub_server.publish("org/name", files | {"README.md": b"newer"})
    names = "toy-q4.gguf, other.gguf, shard-aa"
    with refused(
        "org/name@v2: several GGUFs: ",
        *names.split(", "),
        "one of them: org/name/",
        error=CheckpointError,
    ):
        find_remote("org/name@v2")
    for source, revision in (("org/name/toy-q4.gguf@v2", None), ("org/name/toy-q4.gguf", "v2")):
        remote = find_remote(source, revision)
        assert remote is not None and str(remote.snapshot.repository) == "org/name@v2"
        assert remote.weights.keys() == {"toy-q4.gguf"}
    remote = find_remote("org/name/shard-aa")
    assert remote is not None and list(remote.weights) == ["shard-aa", "shard-ab"]
    with refused(
        "org/name: third.gguf: not a GGUF of this repository; found ",
        *names.split(", "),
        error=CheckpointError,
    ):
        find_remote("org/name/third.gguf")


def test_gguf_without_a_tokenizer_gets_the_released_one(hub_server, toy_gguf):
    files = content(toy_gguf)
    tokenizer = files.pop("tekken.json")
    hub_server.publish("org/name", files)
    hub_server.publish(DEFAULT_SOURCE, {"tekken.json": tokenizer})
    remote = find_remote("org/name")
    assert remote is not None and str(remote.lender) == DEFAULT_SOURCE
    assert open_checkpoint(remote.fetch()).tokenizer == tokenizer
    first_bytes = "toy-q4.gguf"  # where the tokenizer would be
    assert hub_server.taken() == [first_bytes, "tekken.json", "toy-q4.gguf"]
    hub_server.requests.clear()
    again = find_remote("org/name", offline=True)
    assert again is not None and again.fetch() == remote.source and hub_server.requests == []


def test_gguf_without_a_tokenizer_takes_one_from_here(hub_server, toy_gguf):
    files = content(toy_gguf)
    tokenizer = files.pop("tekken.json")
    hub_server.publish("org/name", files)
    with refused(
        "org/name: its checkpoint lacks tekken.json, and that of mistralai/",
        "cannot be had",
        "--tokenizer FILE",
        error=CheckpointError,
    ):
        find_remote("org/name")
    assert not list(hub._home(hub.Repository("org/name", "main")).rglob("*.gguf*"))
    hub_server.requests.clear()
    remote = find_remote("org/name", tokenizer=toy_gguf / "tekken.json")
    assert remote is not None
    assert open_checkpoint(remote.fetch(), toy_gguf / "tekken.json").tokenizer == tokenizer
    assert hub_server.taken() == ["toy-q4.gguf"]


def test_gguf_with_its_tokenizer_inside(hub_server, toy_checkpoint, tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, tokenizer = config_of(toy_checkpoint), (toy_checkpoint / "tekken.json").read_bytes()
    files, tensors = audio_cpp_files(config, tokenizer), our_tensors(toy_checkpoint, config)
    path = write_audio_cpp(tmp_path / "The Toy.GGUF", tensors, files, "Q8_0")
    hub_server.publish("org/name", {path.name: path.read_bytes()})
    address = "https://huggingface.co/org/name/blob/main/The%20Toy.GGUF"
    for source in ("org/name", "org/name/The Toy.GGUF", address):
        remote = find_remote(source)
        assert remote is not None and list(remote.weights) == [path.name]
    checkpoint = open_checkpoint(remote.fetch())
    assert (checkpoint.tokenizer, checkpoint.config) == (tokenizer, config)
    hub_server.requests.clear()
    assert find_remote(address) and not hub_server.taken()
    plan = run("export", address, "--dry-run", "--offline")
    assert plan.code == 0 and "name-onnx" in plan.out, plan.err


def test_repository_of_a_model_that_llama_cpp_has_split(hub_server, tmp_path):
    files = {path.name: path.read_bytes() for path in write_llama_cpp(tmp_path)}
    hub_server.publish("org/name", files | {"tekken.json": b"{}"})
    decoder, encoder = files
    for source in ("org/name", f"org/name/{encoder}"):
        with refused("org/name: a model that llama.cpp has split", error=CheckpointError):
            find_remote(source)
    assert not hub_server.taken()
    remote = find_remote(f"org/name/{decoder}")  # a name may lie, so it is looked into
    assert remote is not None
    with refused("blk.0.ffn_ada_norm_up.weight: a model that llama.cpp", error=CheckpointError):
        open_checkpoint(remote.fetch())


def test_addresses_name_what_names_do(hub_server, toy_gguf):
    files = content(toy_gguf) | {"Other.GGUF": b"GGUF"}
    hub_server.publish("org/name", files, "v2")
    hub_server.publish("org/name", files | {"README.md": b"newer"})
    page = "https://huggingface.co/org/name"
    for address in (f"{page}/blob/v2/toy-q4.gguf", f"{hub_server.url}/org/name/raw/v2/toy-q4.gguf"):
        remote = find_remote(address)
        assert remote is not None and str(remote.snapshot.repository) == "org/name@v2"
        assert remote.source.name == "toy-q4.gguf" and remote.output == Path("name-onnx")
    with refused("several GGUFs: ", "Other.GGUF", "toy-q4.gguf", error=CheckpointError):
        find_remote(f"{page}/tree/v2")
    with refused("got another file; name org/name@v2, of which", error=UsageError):
        find_remote(f"{page}/blob/v2/config.json")


@pytest.mark.parametrize(
    "source", ["a/b/c", "./a/b.gguf", "../a/b/c.gguf", "/a/b/c.gguf", "a/b.gguf", "a/b/c.txt"]
)
def test_path_to_a_file_is_no_repository(source, hub_server):
    assert find_remote(source) is None
    assert hub_server.requests == []


def test_path_of_a_gguf_that_is_here_is_no_repository(hub_server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c.gguf").write_bytes(b"GGUF")
    assert find_remote("a/b/c.gguf") is None
    assert find_remote("a/b/missing.gguf") is None  # nor is one beside it
    assert hub_server.requests == []


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (
            ["README.md"],
            "expected params.json and consolidated.safetensors (Mistral's layout), config.json "
            "(Hugging Face's) or a",
        ),
        (
            ["params.json", "consolidated.safetensors"],
            "its checkpoint lacks tekken.json; choose another --revision",
        ),
        (["config.json", "tekken.json"], "its checkpoint lacks processor_config.json"),
        (
            ["config.json", "processor_config.json", "tekken.json"],
            "its checkpoint lacks model.safetensors",
        ),
        (
            [FILE_NAME, "config.json"],
            "an exported artifact, not a checkpoint; run: voxtral-onnx transcribe --model org/name",
        ),
    ],
)
def test_repository_that_is_no_checkpoint(names, part, hub_server):
    hub_server.publish("org/name", dict.fromkeys(names, b"{}"))
    with refused(part, error=CheckpointError):
        find_remote("org/name")


@pytest.fixture
def toy_repository(hub_server, toy_checkpoint) -> HubServer:
    hub_server.publish("org/toy", toy_checkpoint)
    hub_server.publish(DEFAULT_SOURCE, toy_checkpoint)
    return hub_server


def test_export_gives_the_bytes_of_the_local_checkpoint(
    toy_repository, toy_artifact, run, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    result = run("export", "org/toy", "--precision", "q4", "--recipe", EXACT_RECIPE)
    assert (result.code, result.out) == (0, "toy-onnx\n")
    made, local = Manifest.read(tmp_path / "toy-onnx"), Manifest.read(toy_artifact)
    files = {name: local.files[name] for name in made.files}
    assert made == replace(local, precisions={"q4": local.precisions["q4"]}, files=files)
    made.check_files(tmp_path / "toy-onnx", hashes=True)
    assert toy_repository.taken() == ["params.json", "tekken.json", "consolidated.safetensors"]
    for part in (
        "org/toy at ",
        " to download, 0 B here already",
        "memory: about 600 MB",
        "consolidated.safetensors",
    ):
        assert part in result.err
    toy_repository.requests.clear()
    plan = run("export", "org/toy", "--dry-run", "--offline", "-o", "other")
    assert plan.code == 0
    assert "onnx/decoder_model_merged_q4f16.onnx" in plan.out
    assert toy_repository.requests == []


def test_dry_run_downloads_no_weights(toy_repository, run, tmp_path, toy_checkpoint):
    result = run("export", "--dry-run", "--revision", "main", "-o", tmp_path / "out")
    assert result.code == 0
    assert result.out.startswith(f"{DEFAULT_SOURCE} at ")
    assert toy_repository.taken() == ["params.json", "tekken.json"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "size"), [("params.json", limits.PARAMS), ("tekken.json", limits.TOKENIZER)]
)
def test_small_files_are_small(name, size, toy_repository):
    toy_repository.faults.sizes = {name: size + 1}
    with refused(
        f"{name}: expected at most {size:,} bytes, the hub announces {size + 1:,}; choose",
        error=CheckpointError,
    ):
        find_remote("org/toy")
    assert toy_repository.taken() == []


def test_arguments_are_looked_at_before_the_download(toy_repository, run, tmp_path):
    run("export", "org/toy", "--precision", "q3").assert_refused(2, "precision: expected some of")
    result = run("export", "org/toy", "--recipe", "nothing", "-o", tmp_path / "out")
    assert result.code == 5
    assert "consolidated.safetensors" not in toy_repository.taken()


def files_of(precision: str) -> list[str]:
    manifest = Manifest.read(find_artifact(ARTIFACT, []))
    return list(manifest.precisions[precision].files)


def test_artifact_is_run_by_its_name(published_artifact, run):
    result = run("transcribe", "--model", ARTIFACT, CLIP)
    assert (result.code, result.out) == (0, TEXT + "\n")
    assert published_artifact.taken() == [
        FILE_NAME,
        "tekken.json",
        "onnx/mel.onnx",
        *files_of("q4f16"),
    ]
    published_artifact.requests.clear()
    for name in (f"{ARTIFACT}@main", f"https://huggingface.co/{ARTIFACT}/tree/main"):
        result = run("transcribe", "--model", name, "--offline", CLIP)
        assert (result.code, result.out) == (0, TEXT + "\n")
        assert len(result.err.splitlines()) == 3  # nothing of downloads
    refused = run("transcribe", "--model", ARTIFACT, "--offline", "--precision", "q8", CLIP)
    refused.assert_refused(9, "offline, and not here yet: onnx/encoder_quantized.onnx, ")
    assert (
        "\nnot in this folder: q4, q8, fp16, fp32\n"
        in run("inspect", "--check", "--offline", ARTIFACT).out
    )
    assert published_artifact.requests == []


def test_artifact_in_python_and_by_the_environment(published_artifact, monkeypatch):
    monkeypatch.setenv("VOXTRAL_ONNX_MODEL", f"{ARTIFACT}@main")
    seen = []
    with Transcriber(precision="q4", on_download=seen.append) as transcriber:
        assert transcriber.transcribe(CLIP).text == TEXT
    assert seen[-1].done == seen[-1].total
    assert published_artifact.taken()[3:] == files_of("q4")
    manifest = Manifest.read(find_artifact(ARTIFACT, ["all"]))
    assert sorted(published_artifact.taken()) == sorted(
        [FILE_NAME, *manifest.files_of(manifest.precisions)]
    )


def test_certificate_comes_with_the_artifact(hub_server, artifact, run):
    files = content(artifact)
    facts = {
        "created": "2026-01-02T03:04:05Z",
        "rungs": [0, 5],
        "precisions": ["q4f16"],
        "findings": [
            {"rung": 5, "check": "a", "precision": "q4f16", "status": "passed", "summary": "b"}
        ],
        "details": {},
    }
    facts |= {"manifest_sha256": hash_manifest(artifact)}
    hub_server.publish(
        ARTIFACT,
        files | {"certificate.json": json.dumps(facts).encode(), "certificate.html": b"<p>"},
    )
    says = (
        f"its publisher, {ARTIFACT}, says: PARTLY VERIFIED (1 of 7) on 2026-01-02: q4f16 on rung "
    )
    verdict = f"\ncertificate: {says}5; rung 0: not run (nothing is said of it); rungs 1, 2, 3, 4 "
    assert verdict in run("inspect", ARTIFACT).out
    assert sorted(hub_server.taken()[1:]) == [
        "certificate.html",
        "certificate.json",
        "onnx/mel.onnx",
        "tekken.json",
    ]
    folder = find_artifact(ARTIFACT, [])
    assert (folder / "certificate.html").read_bytes() == b"<p>"
    facts["findings"][0]["rung"] = 6
    (folder / "certificate.json").write_text(json.dumps(facts))  # written here
    assert f"{says}6; " in run("inspect", ARTIFACT).out
    (folder / "certificate.json").unlink()
    assert "certificate: not verified\n" in run("inspect", "--offline", ARTIFACT).out
    assert verdict in run("inspect", ARTIFACT).out
    other = facts | {"manifest_sha256": "0" * 64}
    hub_server.publish("org/other", files | {"certificate.json": json.dumps(other).encode()})
    stale = run("inspect", "org/other")
    assert stale.code == 8
    assert "not verified: the certificate is of another artifact" in stale.out


def test_manifest_and_certificate_are_small(hub_server, artifact):
    hub_server.publish(ARTIFACT, content(artifact) | {"certificate.html": b"<p>"})
    for name, size in ((FILE_NAME, limits.MANIFEST), ("certificate.html", limits.CERTIFICATE)):
        hub_server.faults.sizes = {name: size + 1}
        with refused(f"{name}: expected at most {size:,} bytes, ", error=ArtifactError):
            find_artifact(ARTIFACT, [])
    assert hub_server.taken() == [FILE_NAME]


def test_inspect_shows_what_could_be_downloaded(published_artifact, run):
    result = run("inspect", ARTIFACT)
    assert result.code == 0
    assert published_artifact.taken() == [FILE_NAME, "tekken.json", "onnx/mel.onnx"]
    assert "q4f16 " in result.out
    assert "\nnot in this folder: q4f16, q4, q8, fp16, fp32\n" in result.out
    assert json.loads(run("inspect", "--json", ARTIFACT).out)["held"] == []


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (
            ["params.json"],
            "org/name: a checkpoint, not an artifact; run: voxtral-onnx export org/name",
        ),
        (["config.json"], "run: voxtral-onnx export org/name"),
        (["README.md"], f"org/name: no {FILE_NAME}: not an exported artifact"),
        ([FILE_NAME], "expected format 1 or 2, got null"),
    ],
)
def test_repository_that_is_no_artifact(names, part, hub_server, run):
    hub_server.publish("org/name", dict.fromkeys(names, b"{}"))
    run("transcribe", "-m", "org/name", CLIP).assert_refused(4, part)
    run("inspect", "org/name").assert_refused(4, part)


def test_repository_that_its_manifest_does_not_describe(hub_server, artifact, run):
    files = content(artifact)
    graph = "onnx/encoder_q4f16.onnx"
    for changed in (
        files | {graph: files[graph] + b"x"},
        {n: b for n, b in files.items() if n != graph},
    ):
        hub_server.publish("org/name", changed)
        run("transcribe", "-m", "org/name", CLIP).assert_refused(
            4, f"names other files than it holds: {graph}; "
        )
    tekken = files["tekken.json"]
    hub_server.publish("org/name", files | {"tekken.json": tekken.replace(b"{", b" ", 1)})
    # No LFS file: only the manifest knows its sha256
    result = run("transcribe", "-m", "org/name", CLIP)
    assert result.code == 9
    assert "tekken.json: expected" in result.err


def test_download_that_was_killed_goes_on(hub_server, artifact, tmp_path):
    hub_server.publish(ARTIFACT, artifact)
    hub_server.faults.hold = 1_500_000
    environment = clean_environment(
        tmp_path, HF_ENDPOINT=hub_server.url, HF_HOME=str(tmp_path / "home")
    )
    command = [sys.executable, "-m", "voxtral_onnx", "transcribe", "-m", ARTIFACT, str(CLIP)]
    killed = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert hub_server.held.wait(60)
    deadline = time.monotonic() + 60
    while not (parts := [p for p in tmp_path.rglob("*.partial") if p.stat().st_size > 1_000_000]):
        assert time.monotonic() < deadline
    killed.kill()
    killed.wait()
    hub_server.resumed.set()
    (unfinished,) = parts
    size, name = unfinished.stat().st_size, f"onnx/{unfinished.stem}"
    assert not unfinished.with_suffix("").exists()
    hub_server.requests.clear()
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == TEXT + "\n"
    assert f"bytes={size}-" in [request.range for request in hub_server.requests]
    assert hub_server.taken()[0] == name  # nothing that had come whole
    hub_server.requests.clear()
    done = subprocess.run(
        command,
        env=environment | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, hub_server.requests) == (TEXT + "\n", [])
