"""What a transcriber gives out lives longer than it; what is begun later is refused."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import threading
import weakref

import numpy as np
import pytest
import soundfile
from support.commands import CLIP, LONG_CLIP, TEXT
from support.commands import SAMPLES as SAMPLES_FOLDER

import voxtral_onnx
from voxtral_onnx import Transcriber
from voxtral_onnx.errors import AudioError, DeviceError, UsageError, VoxtralOnnxError
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.decoder import Decoder
from voxtral_onnx.runtime.encoder import Encoder
from voxtral_onnx.runtime.engine.sound import Sound

SAMPLES = soundfile.read(CLIP, dtype="float32")[0]
DATE = SAMPLES_FOLDER / "date-hibari.wav"
HALVES = np.array_split(SAMPLES, 2)


@pytest.fixture(scope="module")
def model(tiny_artifact):
    return lambda **options: Transcriber(tiny_artifact, "cpu", precision="q4", **options)


@pytest.fixture(scope="module")
def transcriber(model):
    with model() as transcriber:
        yield transcriber


@pytest.fixture(scope="module")
def tokens(transcriber):
    stream = transcriber.stream()
    return stream.feed(SAMPLES) + stream.finish()


def text_of(tokens):
    return "".join(token.text for token in tokens).strip()


def ids(tokens):
    """All that does not depend on the sizes of the chunks by rounding."""
    return [(token.index, token.token_id, token.text) for token in tokens]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_what_was_begun_goes_on_behind_the_end_of_with(model, batch_size, tmp_path):
    with model(batch_size=batch_size) as transcriber:
        transcript, stream = transcriber.transcribe(CLIP), transcriber.stream()
        begun, late = stream.feed(HALVES[0]), transcriber.transcribe_many([CLIP, SAMPLES, CLIP])
    assert transcript.text.strip() == TEXT
    begun += stream.feed(HALVES[1])
    stream.save(tmp_path / "stream")
    assert text_of(begun + stream.finish()) == TEXT
    assert [each.text.strip() for each in late] == 3 * [TEXT]
    assert transcript.info["precision"] == "q4" and repr(transcriber).endswith(", closed>")
    with pytest.raises(UsageError, match="finished and its transcriber is closed"):
        stream.save(tmp_path / "stream")


NEW = {
    "transcribe": lambda transcriber: transcriber.transcribe(CLIP),
    "transcribe_many": lambda transcriber: transcriber.transcribe_many([CLIP]),
    "stream": lambda transcriber: transcriber.stream(),
    "load_stream": lambda transcriber: transcriber.load_stream("stream"),
    "encoder": lambda transcriber: transcriber.model.encoder,
    "with": lambda transcriber: transcriber.__enter__(),
}


@pytest.mark.parametrize("name", NEW)
def test_a_closed_one_begins_nothing(name, model):
    transcriber = model()
    transcriber.close()
    transcriber.close()
    with pytest.raises(UsageError, match="the transcriber is closed: "):
        NEW[name](transcriber)


def test_sessions_go_with_the_last_that_needs_them(model):
    with model() as transcriber:
        sessions = [
            weakref.ref(each.session)
            for each in (transcriber.model.encoder, transcriber.model.decoder)
        ]
        done, late = transcriber.transcribe(CLIP), transcriber.transcribe(CLIP)
        assert done.text.strip() == TEXT
    gc.collect()
    assert all(session() for session in sessions)
    assert late.text.strip() == TEXT
    gc.collect()
    assert not any(session() for session in sessions), "though both transcripts are kept"
    assert done.text == late.text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_is_told_to_load_its_own(transcriber):
    stream, transcript = transcriber.stream(), transcriber.transcribe(CLIP)
    said, say = os.pipe()
    if (child := os.fork()) == 0:
        for work in (lambda: stream.feed(SAMPLES), lambda: transcript.text, transcriber.stream):
            try:
                work()
            except UsageError as error:
                os.write(say, b"refused " if "forked off" in str(error) else b"another ")
        os._exit(0)
    os.close(say)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(said, 100) == b"refused refused refused "
    os.close(said)
    assert transcript.text.strip() == TEXT


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_none_is_copied(copied, transcriber):
    for one in (transcriber, transcriber.stream(), transcriber.transcribe(CLIP)):
        with pytest.raises(UsageError, match=f"a {type(one).__name__} is neither copied nor"):
            copied(one)


def test_what_they_are_is_shown(transcriber, tokens):
    name = f"{transcriber.folder}"
    assert repr(transcriber) == (
        f"<Transcriber of {name!r}: q4 on cpu, delay 480 ms, context 8192>"
    )
    stream, transcript = transcriber.stream(), transcriber.transcribe(CLIP)
    shown = f"<Transcript of {str(CLIP)!r}: {transcript.duration:.2f} s, 0 segments so far, ''>"
    assert repr(transcript) == shown and not transcript.decoded, "nothing is decoded to show it"
    first = next(iter(transcript))
    assert repr(first) == f"Segment(0: {first.start:.2f}-{first.end:.2f} s {first.text!r})"
    assert repr(transcript).endswith(f"1 segments so far, {first.text.strip()!r}>")
    assert repr(stream) == "<Stream, open: 0.00 s fed, 0 tokens>"
    stream.feed(SAMPLES[:16000])
    stream.finish()
    assert repr(stream) == f"<Stream, finished: 1.00 s fed, {stream.num_generated} tokens>"
    assert len(repr(open_audio((np.zeros((9, 70)), 16000), 16000))) < 200


def test_public_names():
    assert {"Transcriber", "Stream", "Transcript", "errors"} <= set(dir(voxtral_onnx))
    assert voxtral_onnx.errors.UsageError is UsageError


class TestTranscript:
    def test_it_may_be_left_and_taken_up_again(self, transcriber):
        transcript = transcriber.transcribe(CLIP)
        for segment in transcript:
            assert transcript.decoded == [segment]
            break
        one, other = iter(transcript), iter(transcript)
        assert next(one) == next(other) == transcript.decoded[0]
        assert list(transcript) == transcript.segments == [transcript.decoded[0], *other]
        assert transcript.text.strip() == TEXT

    def test_threads_may_share_it(self, transcriber):
        transcript, found = transcriber.transcribe(CLIP), []
        threads = [
            threading.Thread(target=lambda: found.append(list(transcript))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == 4 * [transcriber.transcribe(CLIP).segments]

    @pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
    def test_a_text_that_broke_off_is_none(self, kind, transcriber):
        """Or it would be taken for a whole one when it is asked for again."""

        def on_token(token):
            if token.index == 20:
                raise kind("in the middle")

        transcript = transcriber.transcribe(CLIP, on_token=on_token)
        with pytest.raises(kind, match="in the middle"):
            _ = transcript.text
        again = kind if kind is ValueError else VoxtralOnnxError
        for ask in (transcript.to_srt, lambda: transcript.text, lambda: list(transcript)):
            with pytest.raises(again, match=r"in the middle|interrupted"):
                ask()
        assert transcript.decoded and transcript.info

    def test_it_cannot_be_asked_for_what_it_is_just_decoding(self, transcriber):
        transcript = transcriber.transcribe(CLIP, on_token=lambda token: transcript.text)
        with pytest.raises(UsageError, match="on_token: segments that are not decoded yet"):
            _ = transcript.text

    def test_its_forms(self, transcriber):
        transcript = transcriber.transcribe(CLIP)
        assert transcript.to_srt().startswith("1\n00:00:0") and TEXT in transcript.to_srt()
        assert transcript.to_vtt().startswith("WEBVTT\n") and TEXT in transcript.to_vtt()
        assert transcript.to_tsv().splitlines()[1].endswith(TEXT)
        assert f'"text": "{transcript.text}"' in transcript.to_json()


class TestStream:
    def test_tokens_that_were_not_taken_come_first_in_the_next_call(self, transcriber, tokens):
        stream, found = transcriber.stream(), []
        stream.iter_feed(HALVES[0])  # and nobody iterates
        for samples in np.array_split(HALVES[1], 3):
            for token in stream.iter_feed(samples):
                found.append(token)
                break
        for token in stream.iter_finish():
            found.append(token)
            break
        assert not stream.finished
        with pytest.raises(AudioError, match="finished"):
            stream.feed(SAMPLES)
        assert ids(found + stream.finish()) == ids(tokens)
        assert stream.finish() == [] and stream.finished

    def test_threads_that_feed_take_turns(self, transcriber):
        stream, silence = transcriber.stream(), np.zeros(3000, np.float32)
        found = []

        def feed():
            for _ in range(5):
                found.extend(stream.feed(silence))

        threads = [threading.Thread(target=feed) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found += stream.finish()
        assert stream.num_samples == 20 * 3000
        assert sorted(token.index for token in found) == [*range(-(-20 * 3000 // 1280) + 10)]

    @pytest.mark.parametrize("stage", [Encoder, Decoder])
    def test_a_step_that_failed_is_the_end(self, stage, transcriber, tmp_path, monkeypatch):
        stream = transcriber.stream()
        stream.feed(HALVES[0])
        with monkeypatch.context() as patch:
            patch.setattr(stage, "encode" if stage is Encoder else "step", failing(DeviceError))
            with pytest.raises(DeviceError, match="unplugged"):
                stream.feed(HALVES[1])
        for work in (lambda: stream.feed(HALVES[1]), stream.finish, lambda: stream.save(tmp_path)):
            with pytest.raises(DeviceError, match="unplugged"):
                work()
        assert repr(stream).startswith("<Stream, failed")

    def test_an_interrupted_step_is_the_end(self, transcriber, monkeypatch):
        stream = transcriber.stream()
        with monkeypatch.context() as patch:
            patch.setattr(Encoder, "encode", failing(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                stream.feed(SAMPLES)
        with pytest.raises(VoxtralOnnxError, match="interrupted in a step and cannot go on"):
            stream.finish()

    def test_lists_and_tensors_are_fed(self, transcriber, tokens):
        import torch

        stream = transcriber.stream()
        found = stream.feed(HALVES[0].tolist()) + stream.feed(torch.from_numpy(HALVES[1]))
        assert ids(found + stream.finish()) == ids(tokens)

    @pytest.mark.parametrize("samples", [None, b"RIFF", "a.wav", CLIP, (SAMPLES, 16000)])
    def test_only_samples_are_fed(self, samples, transcriber):
        with pytest.raises(AudioError, match="samples: ") as refused:
            transcriber.stream().feed(samples)
        assert len(str(refused.value)) < 300


def failing(kind):
    def fail(*arguments, **options):
        raise kind("unplugged")

    return fail


class TestReaders:
    """`async for` over a stream, while a thread feeds."""

    def read(self, stream, feed, readers=1):
        """Feed in a thread; return what each reader got, and the error that ended it."""

        async def one(reader):
            found = []
            try:
                async for token in reader:
                    found.append(token)  # noqa: PERF401, for the error may come behind some
            except Exception as error:
                return found, error
            return found, None

        async def main():
            reading = [one(aiter(stream)) for _ in range(readers)]
            loop = asyncio.get_running_loop()
            feeding = loop.run_in_executor(None, feed)
            async with asyncio.timeout(60):
                results = await asyncio.gather(*reading)
            await asyncio.gather(feeding, return_exceptions=True)
            return results

        return asyncio.run(main())

    def test_each_gets_all(self, transcriber, tokens):
        stream = transcriber.stream()
        results = self.read(stream, lambda: (stream.feed(SAMPLES), stream.finish()), readers=3)
        assert results == 3 * [(tokens, None)]

    @pytest.mark.parametrize(
        ("kind", "raised"),
        [(DeviceError, DeviceError), (ValueError, ValueError), (SystemExit, VoxtralOnnxError)],
    )
    def test_they_hear_of_a_step_that_failed(self, kind, raised, transcriber, monkeypatch):
        stream, step = transcriber.stream(), Decoder.step

        def feed():
            begun.extend(stream.feed(HALVES[0]))
            monkeypatch.setattr(Decoder, "step", failing(kind))
            try:
                stream.finish()
            except BaseException as error:
                ended.append(error)

        begun, ended = [], []
        results = self.read(stream, feed, readers=2)
        monkeypatch.setattr(Decoder, "step", step)
        for found, error in results:
            assert found == begun and type(error) is raised
        assert type(ended[0]) is kind
        assert type(self.read(stream, lambda: None)[0][1]) is raised, "one that comes later too"

    def test_they_hear_of_samples_that_were_refused(self, transcriber, tokens):
        stream = transcriber.stream()
        [(found, error)] = self.read(stream, lambda: stream.feed(SAMPLES * np.nan))
        assert found == [] and isinstance(error, AudioError)
        [(found, late)] = self.read(stream, lambda: None)
        assert found == [] and late is error, "who comes later would wait for ever"
        stream.feed(SAMPLES[:0])  # the stream is as it was
        assert self.read(stream, lambda: (stream.feed(SAMPLES), stream.finish())) == [
            (tokens, None)
        ]

    def test_one_that_leaves_is_no_matter_of_who_feeds(self, transcriber, tokens):
        stream, found = transcriber.stream(), []

        async def first():
            async for token in stream:
                return token
            return None

        async def main():
            reading = asyncio.create_task(first())
            await asyncio.sleep(0)
            found.extend(await asyncio.to_thread(stream.feed, HALVES[0]))
            assert await reading == found[0]
            reading = asyncio.create_task(first())
            await asyncio.sleep(0)
            reading.cancel()

        asyncio.run(main())
        reader = asyncio.run(self.begin(stream))  # of a loop that is closed since
        found += stream.feed(HALVES[1]) + stream.finish()
        assert ids(found) == ids(tokens) and reader is not None
        assert self.read(stream, lambda: None) == [([], None)]

    async def begin(self, stream):
        return aiter(stream)

    def test_tasks_share_an_iterator_and_all_see_its_end(self, transcriber, tokens):
        stream = transcriber.stream()

        async def take(reader):
            return [token async for token in reader]

        async def main():
            reader = aiter(stream)
            tasks = [asyncio.create_task(take(reader)) for _ in range(2)]
            await asyncio.to_thread(lambda: (stream.feed(SAMPLES), stream.finish()))
            async with asyncio.timeout(60):
                return await asyncio.gather(*tasks)

        one, other = asyncio.run(main())
        assert sorted(one + other, key=lambda token: token.index) == tokens


class TestBatch:
    def test_whatever_one_file_raises_is_its_own(self, model, monkeypatch):
        samples, made = soundfile.read(LONG_CLIP, dtype="float32")[0], Sound._made

        def breaking(sound):
            for number, chunk in enumerate(made(sound)):
                if number and len(SAMPLES) != round(16000 * sound.source.duration):
                    raise OSError("the disk is gone")
                yield chunk

        monkeypatch.setattr(Sound, "_made", breaking)
        with model(batch_size=2) as transcriber:
            found = list(transcriber.transcribe_many([SAMPLES, samples, SAMPLES]))
        [broken] = [each for each in found if each.duration > 5]
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is gone"):
                _ = broken.text
        assert [each.text.strip() for each in found if each is not broken] == 2 * [TEXT]

    def test_a_call_that_fails_fails_those_that_share_it(self, model, monkeypatch):
        step = Decoder.step_batch

        def breaking(decoder, batch, positions, *inputs):
            if len(positions) == 2:
                raise DeviceError("unplugged")
            return step(decoder, batch, positions, *inputs)

        monkeypatch.setattr(Decoder, "step_batch", breaking)
        with model(batch_size=2) as transcriber:
            found = list(transcriber.transcribe_many([SAMPLES, SAMPLES, SAMPLES]))
            assert len(found) == 3
            for each in found[:2]:
                with pytest.raises(DeviceError, match="unplugged"):
                    _ = each.text
            assert found[2].text.strip() == TEXT

    def test_files_begun_come_before_the_error_of_one_that_cannot_be_opened(self, model):
        found = []
        with (
            model(batch_size=2) as transcriber,
            pytest.raises(AudioError, match=r"none\.wav: no such file"),
        ):
            found.extend(transcriber.transcribe_many([SAMPLES, DATE, "none.wav", SAMPLES]))
        assert found[0].text.strip() == TEXT and len(found) == 2
