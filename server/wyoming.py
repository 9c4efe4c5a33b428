"""The Wyoming protocol, by which Home Assistant transcribes: a line of JSON an event, over TCP.

It has no keys. The package wyoming reads and writes the events; lengths are limited here.
"""

from __future__ import annotations

import asyncio
import io
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, Eventable, async_read_event, write_event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info
from wyoming.ping import Ping, Pong

from .._version import __version__
from ..escaping import quoted
from ..limits import KB, MB
from ..runtime.audio.container.encodings import floats_of, sample_bytes
from ..runtime.tokens import Token
from .api_error import ApiError
from .engines import Engines
from .realtime.connection import NORMAL, POLICY, ClientConnection
from .realtime.dialect import Dialect
from .realtime.sound import LEAST_RATE, MOST_RATE, SoundFormat
from .realtime.speech import SpeechEvent, SpeechOptions

log = logging.getLogger(__name__)

MOST_CLIENTS = 256  # connections; Home Assistant opens one for each command
MOST_REFUSED = 64  # that are told so at a time; further ones are closed without a word
MOST_LINE, MOST_BYTES = 64 * KB, 1 * MB  # of an event: its line, and its data or payload
MOST_CHANNELS = 8
SPEECH_SECONDS = 30.0  # between two events of an utterance
IDLE_SECONDS = 600.0  # without one
LEAVE_SECONDS = 2.0  # in which it closes the connection behind the last event
ENCODINGS = {1: "u8", 2: "s16le", 3: "s24le", 4: "s32le"}  # by the bytes of a sample
# Of Voxtral Mini 4B Realtime, as its model card has them
LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pt", "ru", "zh")


class WyomingServer:
    """A server of the Wyoming protocol, in the event loop of the one of HTTP."""

    def __init__(self, engines: Engines, names: Sequence[str], listening: socket.socket):
        """Begin to serve with `start`.

        Args:
            engines: for the speech of clients.
            names: of the model, the server's own first.
            listening: socket, which is closed in the end.
        """
        self.engines, self.names, self._listening = engines, names, listening
        self._server: asyncio.Server | None = None
        self._clients = set[asyncio.Task[None]]()

    async def start(self) -> None:
        """Accept clients."""
        self._server = await asyncio.start_server(
            self._serve, sock=self._listening, limit=MOST_LINE
        )

    async def close(self) -> None:
        """Accept no more clients, and leave those that have not gone."""
        if self._server:
            self._server.close()
        for client in self._clients:
            client.cancel()
        if self._clients:
            await asyncio.wait(self._clients)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client until it leaves."""
        if len(self._clients) >= MOST_CLIENTS + MOST_REFUSED:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task
        self._clients.add(task)
        connection = WyomingConnection(reader, writer)
        client = WyomingClient(connection, self.engines, self.names)
        try:
            self.engines.require_ready()
            if len(self._clients) > MOST_CLIENTS:
                raise ApiError("too many connections are open; try again later", status=503)
            client.greet()
            await client.run()
        except ApiError as error:
            client.refuse(error, None)
        except asyncio.CancelledError:  # the server ends
            connection.abort()
        finally:
            # Some versions of asyncio log a task that ends as a cancelled one
            with suppress(asyncio.CancelledError):
                await connection.end()
            writer.transport.abort()
            self._clients.discard(task)


class WyomingConnection(ClientConnection):
    """A client's connection: events of the Wyoming protocol over TCP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        """Wrap the streams of a client."""
        super().__init__()
        self._reader, self._stream = reader, writer
        self._bounded = _BoundedReader(reader)
        self.is_speaking = False  # so that the next event should come soon

    @property
    def still_listens(self) -> bool:
        """Return whether the client has ended its side alone, as TCP lets it."""
        return self._bounded.is_at_end

    async def receive(self) -> dict[str, Any] | None:
        """Return the next event; None when the client has left.

        Raises:
            ApiError: what came is no event, or is too long, or nothing came for too long.
        """
        # Read it
        if self.is_closing:  # what is not read would make the system throw away what was sent
            with suppress(OSError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    while await self._reader.read(MOST_LINE):
                        pass
            return None
        seconds = SPEECH_SECONDS if self.is_speaking else IDLE_SECONDS
        try:
            async with asyncio.timeout(seconds):
                event = await async_read_event(self._bounded)  # pyright: ignore[reportArgumentType]
        except TimeoutError as error:
            raise ApiError(f"no event has come for {seconds:g} s", code="timeout") from error
        except (asyncio.IncompleteReadError, OSError):  # it left inside an event
            return None
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise _malformed() from error

        # Check it
        if event is None:
            if self._bounded.is_at_end:
                return None
            raise _malformed()
        if not isinstance(event.type, str) or not isinstance(event.data, dict):
            raise _malformed()
        self.received = KB + len(event.payload or b"")
        if AudioStart.is_type(event.type) or AudioStop.is_type(event.type):
            self.is_speaking = AudioStart.is_type(event.type)
        return {"type": event.type, "event": event}

    def encoded(self, message: dict[str, Any]) -> bytes:
        """Return an event as the package writes it."""
        with io.BytesIO() as content:
            write_event(message["event"], content)
            return content.getvalue()

    async def put(self, encoded: str | bytes) -> None:
        """Send an event; wait while the client takes none."""
        assert isinstance(encoded, bytes)
        self._stream.write(encoded)
        await self._stream.drain()

    async def shut(self, code: int, reason: str) -> None:
        """Close the connection when the client has, or after a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                self._stream.write_eof()
                while not self._reader.at_eof():
                    await asyncio.sleep(LEAVE_SECONDS / 100)
        self._stream.close()
        await self._stream.wait_closed()


class _BoundedReader:
    """A reader as the package reads from it, which refuses lengths that a stranger makes up."""

    def __init__(self, reader: asyncio.StreamReader):
        self._reader, self.is_at_end = reader, False

    async def readline(self) -> bytes:
        """Return the line that begins an event; b"" at the end.

        Raises:
            ApiError: it is too long.
        """
        try:
            line = await self._reader.readline()
        except ValueError as error:
            raise ApiError(f"an event's line is longer than {MOST_LINE} bytes") from error
        self.is_at_end = not line
        return line

    async def readexactly(self, length: Any) -> bytes:
        """Return so many bytes that follow the line.

        Raises:
            ApiError: they are too many.
        """
        if not isinstance(length, int) or length > MOST_BYTES:
            raise ApiError(f"an event has {quoted(length)} bytes, more than {MOST_BYTES}")
        return await self._reader.readexactly(length)


def _is_text(value: Any) -> bool:
    """Return whether a value is a text that can be encoded, as half a surrogate pair cannot."""
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False


def _malformed() -> ApiError:
    return ApiError("expected an event of the Wyoming protocol, got something else")


class WyomingClient(Dialect):
    """The Wyoming protocol, as one client speaks it: utterances, one after the other.

    An error ends the connection, because clients wait for a transcript until they lose it.
    """

    connection: WyomingConnection

    def __init__(self, connection: WyomingConnection, engines: Engines, names: Sequence[str]):
        super().__init__(connection, engines, names)
        self._hotwords: tuple[str, ...] = ()
        self._format: AudioStart | None = None  # of an utterance
        self._rest = b""  # less than a sample of each channel
        self._texts, self._has_started, self._has_stopped = list[str](), False, False

    # What the client says
    def greet(self) -> None:
        """Send nothing, because the client asks first."""

    async def take(self, message: dict[str, Any]) -> None:
        """Take an event; those that are not known are left out, as the protocol has it.

        Raises:
            ApiError, VoxtralOnnxError: what is wrong with it.
        """
        event: Event = message["event"]
        try:
            if Describe.is_type(event.type):
                self._send(self._info())
            elif Ping.is_type(event.type):
                text = Ping.from_event(event).text
                if text is not None and not _is_text(text):
                    raise ApiError(f"ping: expected a text, got {quoted(text)}")
                self._send(Pong(text))
            elif Transcribe.is_type(event.type):
                self._transcribe(Transcribe.from_event(event))
            elif AudioStart.is_type(event.type):
                self._start(AudioStart.from_event(event))
            elif AudioChunk.is_type(event.type):
                await self._append(AudioChunk.from_event(event))
            elif AudioStop.is_type(event.type):
                await self._stop()
        except (KeyError, TypeError) as error:
            raise ApiError(f"{event.type}: lacks {error}, or has something else there") from error

    def options(self) -> SpeechOptions:
        """Return what the client has asked for."""
        form = self._format
        assert form
        encoding = ENCODINGS[form.width] if form.channels == 1 else "f32le"
        return SpeechOptions(SoundFormat(encoding, form.rate), hotwords=self._hotwords)

    def _transcribe(self, asked: Transcribe) -> None:
        """Take what is wanted for the next utterances; the language is detected."""
        if self._format:
            raise ApiError("transcribe: expected before audio-start, or after audio-stop")
        if asked.name is not None and asked.name not in self.names:
            known = ", ".join(self.names)
            message = f"transcribe: name {quoted(asked.name)}: expected one of {known}"
            raise ApiError(message, status=404, code="model_not_found")
        words = list[str]()
        for name in ("transcript_names", "transcript_terms"):
            given = getattr(asked, name) or []
            if not isinstance(given, list) or not all(map(_is_text, given)):
                raise ApiError(f"transcribe: {name}: expected a list of texts, got {quoted(given)}")
            words += [word for word in given if word.strip()]
        self._hotwords = tuple(words)

    def _start(self, form: AudioStart) -> None:
        if self._format:
            raise ApiError("audio-start: expected audio-stop before the next utterance")
        limits = {
            "rate": range(LEAST_RATE, MOST_RATE + 1),
            "width": ENCODINGS.keys(),
            "channels": range(1, MOST_CHANNELS + 1),
        }
        for name, allowed in limits.items():
            value = getattr(form, name)
            if type(value) is not int or value not in allowed:
                few = f"{min(allowed)} to {max(allowed)}"
                raise ApiError(f"audio-start: {name}: expected {few}, got {quoted(value)}")
        self._format, self._rest = form, b""
        self._texts, self._has_started, self._has_stopped = [], False, False

    async def _append(self, chunk: AudioChunk) -> None:
        if self._format is None:
            self._start(AudioStart(chunk.rate, chunk.width, chunk.channels))
        form = self._format
        assert form
        if (chunk.rate, chunk.width, chunk.channels) != (form.rate, form.width, form.channels):
            raise ApiError("audio-chunk: expected rate, width and channels of audio-start")
        if chunk.audio:
            speech = await self.opened()
            await speech.append(self._mixed(chunk.audio))

    def _mixed(self, content: bytes) -> bytes:
        """Return sound of several channels as one, float32."""
        form = self._format
        assert form
        if form.channels == 1:
            return content
        encoding = ENCODINGS[form.width]
        content, size = self._rest + content, form.channels * sample_bytes(encoding)
        whole = len(content) - len(content) % size
        self._rest = content[whole:]
        samples = floats_of(encoding, content[:whole]).reshape(-1, form.channels)
        return samples.mean(1, dtype=np.float32).astype("<f4").tobytes()

    async def _stop(self) -> None:
        """End the utterance, and wait until its words have come; without one, do nothing."""
        if self._format is None:
            return
        self._has_stopped = True
        if self._rest:
            raise ApiError(f"audio-stop: {len(self._rest)} bytes are less than a sample")
        if self.speech:
            await self.finish_speech()
        else:
            self.end_speech()

    def _info(self) -> Info:
        """Return what this server is."""
        scope = self.engines.engines[0].transcriber.manifest.scope
        own = Attribution("voxtral-onnx", "")
        mistral = Attribution("Mistral AI", "https://mistral.ai/news/voxtral-transcribe-2")
        model = AsrModel(
            name=self.names[0],
            attribution=own if scope else mistral,
            installed=True,
            description=scope,
            version=None,
            languages=["en"] if scope else list(LANGUAGES),  # one with a scope is the embedded one
        )
        program = AsrProgram(
            name="voxtral-onnx",
            attribution=own,
            installed=True,
            description="Voxtral Mini 4B Realtime on this machine",
            version=__version__,
            models=[model],
            supports_transcript_streaming=True,
            requires_external_vad=True,  # an utterance ends with audio-stop
        )
        return Info(asr=[program])

    # What it is told
    def hear(self, event: SpeechEvent) -> None:
        """Send the words as they come."""
        if isinstance(event, Token):
            text = event.text if self._texts else event.text.removeprefix(" ")
            if text:
                self._begin_transcript()
                self._texts.append(text)
                self._send(TranscriptChunk(text))

    def end_speech(self) -> None:
        """Send the whole text, unless the server ends before the client's utterance."""
        if self._has_stopped:
            self._begin_transcript()
            self._send(Transcript("".join(self._texts)))
            self._send(TranscriptStop())
            self._format = None

    def refuse(self, error: ApiError, message: dict[str, Any] | None) -> None:
        """Send an error, and close the connection."""
        self._send(Error(str(error), error.code or str(error.status)))
        self.connection.close(NORMAL if error.status < 500 else POLICY)

    def _begin_transcript(self) -> None:
        if not self._has_started:
            self._has_started = True
            self._send(TranscriptStart())

    def _send(self, event: Eventable) -> None:
        self.connection.send({"event": event.event()})
