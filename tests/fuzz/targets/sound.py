"""Audio and video files, as libsndfile and PyAV read them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from support.commands import CLIP

from voxtral_onnx.errors import AudioError
from voxtral_onnx.runtime.audio.files import open_audio
from voxtral_onnx.runtime.audio.pipes import raw_blocks

SECONDS = 0.3
LIBSNDFILE = {
    "wav": ("WAV", "PCM_16"),
    "wav-float": ("WAV", "FLOAT"),
    "wav-ima": ("WAV", "IMA_ADPCM"),
    "wav-ms": ("WAV", "MS_ADPCM"),
    "wav-gsm": ("WAV", "GSM610"),
    "wavex": ("WAVEX", "PCM_24"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "aiff-ima": ("AIFF", "IMA_ADPCM"),
    "au": ("AU", "ULAW"),
    "caf": ("CAF", "PCM_16"),
    "caf-alac": ("CAF", "ALAC_16"),
}
MEDIA = {
    "m4a": ("mp4", "aac", None),
    "mp4": ("mp4", "aac", "mpeg4"),
    "mov": ("mov", "alac", None),
    "mkv": ("matroska", "pcm_s16le", "mpeg4"),
    "mka": ("matroska", "flac", None),
    "webm": ("webm", "libopus", "libvpx"),
    "avi": ("avi", "pcm_s16le", "mpeg4"),
    "flv": ("flv", "aac", None),
    "ts": ("mpegts", "aac", None),
    "mpg": ("mpeg", "mp2", None),
    "aac": ("adts", "aac", None),
    "ac3": ("ac3", "ac3", None),
    "wma": ("asf", "wmav2", None),
    "wv": ("wv", "wavpack", None),
}


def seeds() -> dict[str, bytes]:
    """The beginning of a clip in every kind of file."""
    samples = soundfile.read(CLIP, dtype="float32")[0][: int(SECONDS * 16000)]
    found = {}
    for name, (container, codec) in LIBSNDFILE.items():
        soundfile.write(file := io.BytesIO(), samples, 16000, codec, format=container)
        found[name] = file.getvalue()
    for name, (container, codec, video) in MEDIA.items():
        found[name] = _media(samples, container, codec, video)
    # Recordings behind each other, and headers that nobody went back to
    for name in ("wav", "ogg", "opus", "flac", "mp3", "aiff", "m4a", "mka", "wma"):
        found[f"joined-{name}"] = 2 * found[name]
    for name, mark, behind in (
        ("wav", b"data", 4),
        ("caf", b"data", 4),
        ("w64", b"data", 16),
        ("au", b".snd", 8),
    ):
        at = found[name].rindex(mark) + behind
        found[f"unsized-{name}"] = found[name][:at] + bytes(4) + found[name][at + 4 :]
    return found


def parse(data: bytes, folder: Path) -> None:
    """Read all of a file, and the same as it comes through a pipe."""
    file = folder / "sound"
    file.write_bytes(data)
    refusal = None
    try:
        _check(open_audio(file, 16000).blocks())
    except AudioError as error:
        refusal = error
    with suppress(AudioError):
        _check(raw_blocks(io.BytesIO(data), "s16le", 16000, 16000))  # pyright: ignore[reportArgumentType]
    if refusal is not None:
        raise refusal


def _check(blocks: Iterable[np.ndarray]) -> None:
    for block in blocks:
        assert block.dtype == np.float32 and block.ndim == 1


def _media(samples: np.ndarray, container: str, codec: str, video: str | None) -> bytes:
    file, rate = io.BytesIO(), 48000 if codec in ("libopus", "ac3") else 16000
    output: Any  # whose streams are of kinds that only we know
    with av.open(file, "w", format=container) as output:
        picture = output.add_stream(video, rate=10) if video else None
        sound = output.add_stream(codec, rate=rate, layout="mono")
        sound.bit_rate = 48000  # all of them have it
        if picture:
            picture.width = picture.height = 32
            picture.pix_fmt = "yuv420p"
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = 16000
        resampler, queue = av.AudioResampler(sound.format, "mono", rate), av.AudioFifo()
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            part.pts = None
            queue.write(part)
        for part in queue.read_many(sound.codec_context.frame_size or 1024, partial=True):
            output.mux(sound.encode(part))
        output.mux(sound.encode())
        if picture:
            for number in range(3):
                image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
                image.pts = number
                output.mux(picture.encode(image))
            output.mux(picture.encode())
    return file.getvalue()
