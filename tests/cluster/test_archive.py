"""Archives on a cluster of this machine, while nodes, workers and drivers are killed."""

# Packages that have an environment of their own, see make test-ray
# pyright: reportMissingImports=false
from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from support.archives import hashes, read_table, unexpected

pytestmark = pytest.mark.ray


def find_workers(cluster) -> list[int]:
    """The processes of this cluster's workers."""
    raylets = {node.all_processes["raylet"][0].process.pid for node in cluster.worker_nodes}
    command = ["ps", "-eo", "pid,ppid,args"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = [line.split(None, 2) for line in listed.splitlines()[1:]]
    return [
        int(pid)
        for pid, parent, name in found
        if name.startswith("ray::MapWorker(") and int(parent) in raylets
    ]


def test_a_node_is_killed(start, clips, texts, cluster, chance, tmp_path):
    run = start(clips, tmp_path / "out")
    run.wait_for_rows(chance.randrange(1, len(texts) // 2))
    nodes = sorted(cluster.worker_nodes, key=lambda node: node.unique_id)
    cluster.remove_node(chance.choice(nodes), allow_graceful=False)
    result = run.wait()
    cluster.add_node(num_cpus=2)
    assert result.code == 0, result.err
    assert hashes(tmp_path / "out") == texts


def test_the_driver_is_killed(start, clips, texts, chance, tmp_path):
    run = start(clips, tmp_path / "out")
    run.wait_for_rows(chance.randrange(1, len(texts) // 2))
    run.process.send_signal(signal.SIGKILL)
    run.process.communicate()
    assert not (tmp_path / "out" / "transcripts.jsonl").exists()

    before = {row: row.stat().st_ino for row in run.rows}
    result = start(clips, tmp_path / "out").wait()
    assert result.code == 0, result.err
    assert "done before" in result.err
    assert hashes(tmp_path / "out") == texts
    again = [row for row, inode in before.items() if row.stat().st_ino != inode]
    assert len(again) <= 2 * 16  # what workers of the first run still had at hand


def test_a_worker_is_killed(start, clips, texts, cluster, chance, tmp_path):
    """As the kernel does where memory is short; Ray repeats its batch elsewhere."""
    run = start(clips, tmp_path / "out")
    run.wait_for_rows(chance.randrange(1, len(texts) // 2))
    os.kill(chance.choice(find_workers(cluster)), signal.SIGKILL)
    result = run.wait()
    assert result.code == 0, result.err
    assert hashes(tmp_path / "out") == texts


def test_faults_stay_with_their_files(clips, texts, cluster, tiny_artifact, tmp_path):
    """What is no sound, what is not there, and a pipe that nobody writes into."""
    from voxtral_onnx.cluster.archive import Archive
    from voxtral_onnx.cluster.manifest import list_recordings
    from voxtral_onnx.cluster.place import Place
    from voxtral_onnx.cluster.session import connected
    from voxtral_onnx.cluster.worker import Job

    folder = tmp_path / "in"
    shutil.copytree(clips / "0", folder)
    (folder / "noise.wav").write_bytes(b"no sound" * 100)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "lost.wav").symlink_to("nowhere")
    os.mkfifo(tmp_path / "stuck.wav")
    table = list_recordings([str(folder), str(tmp_path / "stuck.wav")], unexpected, unexpected)
    archive = Archive(Place(str(tmp_path / "out")), table, "jsonl")
    assert archive.begin({}) == len(table)
    options = {"model": str(tiny_artifact), "precision": "fp32", "batch_size": 4}
    options |= {"device": "auto", "threads": None}
    done = []
    with connected(cluster.address):
        job = Job(archive.place, options, {}, split=True, formats=("srt",), stuck_seconds=5)
        archive.run(job, done.extend)
    failures = archive.end()

    rows = {Path(row["path"]).name: row for row in read_table(tmp_path / "out")}
    failed = {name: row["error"]["name"] for name, row in rows.items() if row["error"]}
    assert failed == {
        "noise.wav": "AudioError",
        "empty.wav": "AudioError",
        "lost.wav": "AudioError",
        "stuck.wav": "DeviceError",
    }
    assert len(failures) == 4 and len(done) == len(rows) == len(table)
    assert "did nothing for 5 s" in rows["stuck.wav"]["error"]["message"]
    whole = {row["sha256"] for name, row in rows.items() if name not in failed}
    assert whole <= {sha256 for _, sha256 in texts}
    assert len(list((tmp_path / "out").glob("*.srt"))) == len(rows) - 4


def test_a_full_disk_ends_the_run(start, clips, texts, tmpfs):
    """And with room, it is continued."""
    folder = tmpfs("size=64k")
    result = start(clips, folder / "out").wait()
    result.assert_refused(9, "No space left on device")
    assert not (folder / "out" / "transcripts.jsonl").exists()
    subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
    assert start(clips, folder / "out").wait().code == 0
    assert hashes(folder / "out") == texts


def test_a_wrong_model_ends_the_run(start, clips, tmp_path):
    result = start(clips, tmp_path / "out", "--model", tmp_path / "nothing").wait()
    result.assert_refused(4, "nothing")


def test_a_bucket(start, clips, texts, bucket, tmp_path):
    """Recordings and outputs are in it; ids are those of the same folder here."""
    from pyarrow import fs

    fs.copy_files(str(clips), f"{bucket}/in")
    result = start(f"{bucket}/in", f"{bucket}/out").wait()
    assert result.code == 0, result.err
    assert result.out == f"{bucket}/out/transcripts.jsonl\n"
    fs.copy_files(f"{bucket}/out", str(tmp_path / "out"))
    assert hashes(tmp_path / "out") == texts
    again = start(f"{bucket}/in", f"{bucket}/out").wait()
    assert again.code == 0 and f"{len(texts)} done before" in again.err
