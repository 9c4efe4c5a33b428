"""Long recordings in pieces, and faults that end one recording of many, or all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from conftest import copy_artifact
from support.commands import SAMPLES
from support.devices import Imitation
from support.recordings import (
    RATE,
    alone,
    babble,
    by_length,
    cut_shorter,
    transcriber_on,
    with_silences,
    within_time,
)

from voxtral_onnx.errors import ArtifactError, AudioError, DeviceError
from voxtral_onnx.manifest import Manifest
from voxtral_onnx.memory import resident_memory
from voxtral_onnx.runtime.audio.container import frames
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.decoder import Decoder
from voxtral_onnx.runtime.device.cpu import Cpu
from voxtral_onnx.runtime.engine.encoding import Encoding
from voxtral_onnx.runtime.engine.slots import Slots
from voxtral_onnx.runtime.kept import NOTHING, keep
from voxtral_onnx.runtime.pieces import cutter

DEVICES = {"cpu": Cpu, "imitation": Imitation}


def speech() -> np.ndarray:
    """Return four short sentences with silences of 1.6 seconds around them, 21 s."""
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted(SAMPLES.glob("*.wav"))]
    return with_silences([clip for clip in clips if len(clip) < 3 * RATE][:4], 1.6)


@pytest.fixture(params=DEVICES)
def kind(request):
    return request.param


@pytest.fixture
def tiny(kind, tiny_artifact, monkeypatch):
    """A transcriber of *tiny* in float32, which cuts what is longer than two seconds."""
    cut_shorter(monkeypatch)
    device = DEVICES[kind]()
    with transcriber_on(
        device, monkeypatch, tiny_artifact, precision="fp32", batch_size=4
    ) as found:
        yield found


@pytest.fixture
def toy(kind, toy_artifact, monkeypatch):
    """A transcriber of a model that writes text everywhere, in silence too."""
    cut_shorter(monkeypatch)
    device = DEVICES[kind]()
    with transcriber_on(device, monkeypatch, toy_artifact, precision="fp32", batch_size=4) as found:
        yield found


def test_pieces_are_the_whole(tiny):
    """Words, times and indices are those of one decoder that runs through."""
    samples, written = speech(), []
    whole = tiny.transcribe(samples)
    [found] = tiny.transcribe_many([samples], on_token=lambda source, token: written.append(token))
    batch = found.info["batch"]
    assert batch["pieces"] >= 3 and not batch["joined"] and batch["whole_from"] is None
    assert found.token_ids == whole.token_ids
    assert [(each.start, each.end, each.text) for each in found] == [
        (each.start, each.end, each.text) for each in whole
    ]
    assert [token.index for token in written] == list(range(len(whole.token_ids)))
    assert [token.end for token in written] == pytest.approx(
        0.08 * np.arange(1, len(written) + 1), abs=1e-9
    )
    [kept_whole] = tiny.transcribe_many([samples], split=False)
    assert kept_whole.info["batch"]["pieces"] == 1
    assert kept_whole.token_ids == whole.token_ids


def test_text_across_cuts_joins_pieces(toy):
    """All are joined, and the run is the uncut one, whatever is decoded at the same time."""
    samples = with_silences([babble(16_000 + n) for n in range(9)])
    found = dict(by_length(toy.transcribe_many([samples, babble(50_000), samples[:120_000]])))
    expected = {
        len(each): alone(toy, each) for each in (samples, babble(50_000), samples[:120_000])
    }
    assert found == expected
    [transcript] = toy.transcribe_many([samples])
    batch = transcript.info["batch"]
    assert batch["joined"] >= 3 and batch["pieces"] == 1


def test_the_end_of_text_ends_a_piece_only(tiny, monkeypatch):
    """It is counted, blanks stand for the rest, and the other pieces' tokens are in their place."""
    samples = speech()
    whole = tiny.transcribe(samples).token_ids
    at = next(i for i in range(20, 40) if whole[i] >= 1000 and whole.count(whole[i]) == 1)
    init = Slots.__init__

    def with_eos(slots, *arguments, **options):
        init(slots, *arguments, **options)
        slots._ids = replace(slots._ids, eos=whole[at])

    monkeypatch.setattr(Slots, "__init__", with_eos)
    written = []
    [found] = tiny.transcribe_many([samples], on_token=lambda source, token: written.append(token))
    assert found.info["batch"]["end_of_text"] == 1
    last = max(n for n in range(len(whole)) if found.token_ids[n] != whole[n])
    assert last > at and found.token_ids[: at + 1] == whole[: at + 1]
    assert set(found.token_ids[at + 1 : last + 1]) == {tiny.manifest.tokens.streaming_pad}
    assert last < len(whole) / 2
    assert [token.index for token in written] == list(range(len(whole)))


def test_no_silence_no_cut(toy):
    samples = babble(200_000)
    [found] = toy.transcribe_many([samples])
    assert found.info["batch"]["pieces"] == 1 and not found.info["batch"]["joined"]
    assert found.token_ids == alone(toy, samples)


def test_a_recording_goes_on_whole_where_silence_ends(toy, monkeypatch):
    monkeypatch.setattr(cutter, "WHOLE_AFTER_SECONDS", 8.0)
    monkeypatch.setattr(cutter, "LONGEST_SECONDS", 6.0)
    samples = np.concatenate(
        [with_silences([babble(16_000 + n) for n in range(3)]), babble(300_000)]
    )
    [found] = toy.transcribe_many([samples])
    assert 2 < found.info["batch"]["whole_from"] < len(samples) / RATE - 8
    assert found.token_ids == alone(toy, samples)


@pytest.mark.parametrize("num_known", [60, 130])
@pytest.mark.parametrize("model", ["toy", "tiny"])
def test_a_resumed_recording_in_pieces(request, kind, model, num_known):
    """Also where it is cut in what is known already."""
    transcriber, sounds = request.getfixturevalue(model), [babble(16_000 + n) for n in range(7)]
    samples = with_silences(sounds) if model == "toy" else speech()
    whole = transcriber.transcribe(samples).token_ids
    known = keep(transcriber.manifest, transcriber.model.grid, (), whole[:num_known], ())
    written = []
    [found] = transcriber.transcribe_many(
        [samples],
        on_token=lambda source, token: written.append(token),
        kept=lambda source: known,
    )
    assert found.token_ids == whole
    assert [token.index for token in written] == list(range(num_known, len(whole)))
    assert found.info["batch"]["pieces"] + found.info["batch"]["joined"] > 1


def test_the_speech_filter_and_channels(tiny_artifact, monkeypatch):
    cut_shorter(monkeypatch)
    samples = speech()
    both = np.stack([samples, np.roll(samples, 40_000)], 1), RATE
    with transcriber_on(
        Imitation(), monkeypatch, tiny_artifact, precision="fp32", batch_size=3, vad="energy"
    ) as tiny:
        [found] = tiny.transcribe_many([both], channels="split")
        expected = tiny.transcribe(both, channels="split")
        assert [part.token_ids for part in found.parts] == [p.token_ids for p in expected.parts]
        assert found.text == expected.text
        assert found.info["vad"] == expected.info["vad"]
        assert all(part.info["batch"]["pieces"] > 1 for part in found.parts)


def test_damage_ends_one_recording(toy, tmp_path, monkeypatch):
    """A file that is changed behind the reader's back, and is too large to be kept in memory."""
    monkeypatch.setattr(frames, "KEPT_SAMPLES", 0)
    path = tmp_path / "damaged.wav"
    soundfile.write(path, babble(144_000), 16000, "FLOAT")
    source = open_audio(path, 16000)
    content = bytearray(path.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(content)
    sounds = [babble(50_000), babble(1)]
    found = {t.duration: t for t in toy.transcribe_many([source, *sounds], split=False)}
    with pytest.raises(AudioError, match="changed while it was read"):
        _ = found.pop(9.0).text
    assert by_length(found.values()) == sorted((len(each), alone(toy, each)) for each in sounds)


class FaultError(Exception):
    """What a test raises."""


SOUNDS = (16_000, 50_000, 12_800, 1280, 30_000)


@pytest.fixture
def others(toy):
    """What remains of a list of recordings, of which that of 50,000 samples is lost."""
    expected = sorted((n, alone(toy, babble(n))) for n in SOUNDS if n != 50_000)

    def check(error, match):
        found = within_time(lambda: list(toy.transcribe_many(map(babble, SOUNDS), split=False)))
        [lost] = [each for each in found if each.duration == 50_000 / RATE]
        with pytest.raises(error, match=match):
            _ = lost.text
        assert by_length(each for each in found if each is not lost) == expected

    return check


def is_lost(recording) -> bool:
    return recording.sound.source.duration == 50_000 / RATE


def test_numbers_that_are_not_finite_end_one_recording(others, monkeypatch):
    sample = Slots._sample

    def spoilt(slots, *arguments):
        sampled = sample(slots, *arguments)
        for slot, run in enumerate(slots.runs):
            if is_lost(run.recording):
                sampled[slot, 1:] = np.nan  # as the graph does of such logits
        return sampled

    monkeypatch.setattr(Slots, "_sample", spoilt)
    others(DeviceError, "numbers that are not finite")


def test_a_call_of_the_encoder_that_fails_ends_one_recording(others, monkeypatch):
    encode = Encoding.encode

    def failing(self, recording):
        if is_lost(recording):
            raise FaultError("encoder")
        return encode(self, recording)

    monkeypatch.setattr(Encoding, "encode", failing)
    others(FaultError, "encoder")


def test_an_error_of_on_token_ends_one_recording(toy):
    def on_token(source, token):
        if source.duration == 50_000 / RATE and token.index == 3:
            raise FaultError("listener")

    found = list(toy.transcribe_many(map(babble, SOUNDS), on_token=on_token))
    [lost] = [each for each in found if each.duration == 50_000 / RATE]
    with pytest.raises(FaultError, match="listener"):
        _ = lost.text
    rest = [each for each in found if each is not lost]
    assert by_length(rest) == sorted((n, alone(toy, babble(n))) for n in SOUNDS if n != 50_000)


@pytest.mark.parametrize("where", ["audio", "kept"])
def test_errors_of_the_callers_come_after_the_recordings_before(toy, where):
    def audio():
        yield from map(babble, SOUNDS[:3])
        if where == "audio":
            raise FaultError("the caller's")
        yield babble(1)

    def kept(source):
        if source.duration == 1 / RATE:
            raise FaultError("the caller's")
        return NOTHING

    found = []
    with pytest.raises(FaultError, match="the caller's"):
        for transcript in toy.transcribe_many(audio(), kept=kept, split=False):
            found += [transcript]
    assert by_length(found) == sorted((n, alone(toy, babble(n))) for n in SOUNDS[:3])
    assert not engine_threads()


def test_a_call_of_the_decoder_that_fails_ends_those_in_slots(toy, monkeypatch):
    """Each says so, and those that had no slot yet go on."""
    step, calls = Decoder.step_batch, []

    def failing(*arguments):
        calls.append(True)
        if len(calls) == 30:
            raise DeviceError("the device has failed")
        return step(*arguments)

    monkeypatch.setattr(Decoder, "step_batch", failing)
    lengths = [30_000 + n for n in range(9)]
    found = within_time(lambda: list(toy.transcribe_many(map(babble, lengths), split=False)))
    assert len(found) == len(lengths)
    lost, rest = [], []
    for each in found:
        try:
            rest.append((round(RATE * each.duration), each.token_ids))
        except DeviceError as error:
            lost.append(str(error))
    assert set(lost) == {"the device has failed"} and len(lost) <= 4
    assert all(ids == alone(toy, babble(length)) for length, ids in rest)


@pytest.mark.parametrize("most", [3, 1, 0])
def test_slots_for_which_there_is_no_memory(toy, monkeypatch, most):
    new_batch = Decoder.new_batch

    def limited(decoder, spec, count):
        if count > most:
            raise DeviceError("out of memory")
        return new_batch(decoder, spec, count)

    monkeypatch.setattr(Decoder, "new_batch", limited)
    found = within_time(lambda: list(toy.transcribe_many(map(babble, SOUNDS), split=False)))
    notes = [note for note in toy.notes if note.startswith("slots of 31 positions: ")]
    if most:
        assert by_length(found) == sorted((n, alone(toy, babble(n))) for n in SOUNDS)
        assert notes[0] == "slots of 31 positions: 2 instead of 4 (out of memory)"
        return
    for each in found:
        with pytest.raises(DeviceError, match="out of memory"):
            _ = each.text
    assert len(found) == len(SOUNDS)


def test_a_changed_weight_file_ends_all(tiny_artifact, tmp_path, monkeypatch):
    """Before anything is yielded that was computed since."""
    folder = copy_artifact(tiny_artifact, tmp_path / "artifact", "q4f16")
    weights = folder / min(Manifest.read(folder).weights)
    yielded, changed = [], bytes([weights.read_bytes()[-1] ^ 1])

    def change(source, token):
        with weights.open("r+b") as file:  # in place, because it is mapped
            file.seek(-1, os.SEEK_END)
            file.write(changed)

    def work():
        with (
            transcriber_on(Cpu(), monkeypatch, folder, batch_size=3) as transcriber,
            pytest.raises(ArtifactError, match="changed while it was in use"),
        ):
            many = transcriber.transcribe_many(map(babble, SOUNDS), on_token=change)
            yielded.extend(many)

    within_time(work)
    assert not yielded and not engine_threads()


def engine_threads() -> list[str]:
    """Return the threads that engines have started and that still run."""
    names = [thread.name for thread in threading.enumerate()]
    return [n for n in names if "_loop" in n or n.startswith(("reader", "Thread-"))]


def test_an_iterator_that_is_closed_leaves_no_thread(toy):
    many = toy.transcribe_many(map(babble, SOUNDS))
    next(many)
    assert engine_threads()
    many.close()
    assert not engine_threads()
    toy.close()  # what is begun before goes on


HURT = """
import sys, threading
import numpy as np
from voxtral_onnx import Transcriber
rng = np.random.default_rng(0)
many = Transcriber(sys.argv[1], "cpu", precision="fp32", batch_size=3).transcribe_many(
    (0.1 * rng.standard_normal(16000).astype(np.float32) for _ in range(10**6)))
try:
    for number, each in enumerate(many):
        if number == 0:
            print("begun", flush=True)
        {}
except KeyboardInterrupt:
    many.close()
    print([thread.name for thread in threading.enumerate()])
"""
ENDINGS = {  # what it does after the first recording, its exit code, and what it prints
    "abandoned": ("break", 0, b""),
    "raised": ("raise SystemExit(3)", 3, b""),
    "interrupted": ("pass", 0, b"['MainThread']\n"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_process_ends(toy_artifact, ending):
    last, code, printed = ENDINGS[ending]
    command = [sys.executable, "-c", HURT.format(last), str(toy_artifact)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout and process.stdout.readline() == b"begun\n"
            if ending == "interrupted":
                process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out) == (code, printed)


def test_many_short_recordings_take_no_more_memory(toy_artifact, monkeypatch):
    with transcriber_on(
        Cpu(), monkeypatch, toy_artifact, precision="fp32", batch_size=16
    ) as transcriber:
        many = transcriber.transcribe_many(babble(1 + n % 1280) for n in range(400))
        count, at = 0, dict[int, int]()
        for transcript in many:
            count += 1
            assert len(transcript.token_ids) == 11
            if count in (100, 400):
                at[count] = resident_memory()
    assert count == 400
    assert at[400] - at[100] < 8 << 20
