"""Find the artifact that a user names, and load it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .progress import DownloadProgress
from .terminal import info

if TYPE_CHECKING:
    from ..runtime.audio.container.formats import RawSound
    from ..runtime.transcriber import Transcriber


def find_model(artifact: str | None, precisions: list[str] | None, offline: bool) -> Path:
    """Return the folder of an artifact, downloaded first if it is named as a hub repository."""
    from ..runtime.locate import find_artifact

    with DownloadProgress() as download:
        return find_artifact(artifact, precisions, offline=offline, on_download=download.update)


@contextmanager
def open_transcriber(model: str | None, options: dict[str, Any]) -> Iterator[Transcriber]:
    """Load a model with `Transcriber`'s options, and print how it runs to stderr."""
    from ..runtime.transcriber import Transcriber

    with DownloadProgress() as download:
        loaded = Transcriber(model, **options, on_download=download.update)
    with loaded as transcriber:
        _introduce(transcriber)
        yield transcriber


def _introduce(transcriber: Transcriber) -> None:
    """Print a model's folder, precision, device and delay, and notes on it."""
    from ..runtime.delay import delay_ms, untrained_delay

    manifest, tokens = transcriber.manifest, transcriber.num_delay_tokens
    is_short = transcriber.context < manifest.config.decoder.sliding_window
    context = f", context {transcriber.context}" if is_short else ""
    info(
        f"{transcriber.folder}: {transcriber.precision} on {transcriber.device_name}, "
        f"delay {delay_ms(manifest, tokens)} ms{context}"
    )
    for note in (*transcriber.notes, manifest.scope, untrained_delay(manifest, tokens)):
        if note:
            info(f"note: {note}")


def hotword_options(file: Path | None, bias: float | None) -> dict[str, Any]:
    """Return `Transcriber`'s options for a file of hotwords.

    Raises:
        UsageError: a bias without a file.
    """
    from ..runtime.hotwords import DEFAULT_BIAS, read_hotwords

    if bias is not None and file is None:
        raise UsageError("--hotword-bias belongs to --hotwords FILE: add the file")
    return {
        "hotwords": read_hotwords(file) if file else (),
        "hotword_bias": DEFAULT_BIAS if bias is None else bias,
    }


def vad_option(by_loudness: bool, model: Path | None) -> str | Path | None:
    """Return `Transcriber`'s option `vad`: a model's path, else loudness or None."""
    from ..runtime.audio.vad import ENERGY

    return model or (ENERGY if by_loudness else None)


def raw_sound(encoding: str | None, rate: int | None, channels: int | None) -> RawSound | None:
    """Return the sample format of files without a header, as --raw names it; None without --raw.

    Raises:
        UsageError: an unknown encoding, or an option of --raw without it.
    """
    from ..runtime.audio.container.formats import RawSound

    if encoding is None:
        for name, value in (("--rate", rate), ("--raw-channels", channels)):
            if value is not None:
                raise UsageError(f"{name} belongs to --raw FORMAT; others have it in a header")
        return None
    return RawSound(encoding, 16000 if rate is None else rate, 1 if channels is None else channels)
