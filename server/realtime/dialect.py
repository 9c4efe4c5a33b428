"""The base of all dialects of live speech: a client's messages, its speech, and their end."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from ..api_error import ApiError, refusal_of
from ..engines import Engines
from .connection import INTERNAL, POLICY, RESTART, TRY_LATER, ClientConnection
from .speech import LiveSpeech, SpeechEvent, SpeechOptions

log = logging.getLogger(__name__)

MOVE = {"type": "move"}  # stands among a client's messages where the server begins to end
SILENCE = {"type": "silence"}  # likewise where no sound has come for long
MOST_SILENCE = 600.0  # seconds without sound for which a client keeps its stream
RESTARTING = "server_restarting"  # the code of an error: connect anew, to another server


class Dialect(ABC):
    """A dialect as one client speaks it.

    `run` reads the client's messages, one after the other. Its speech is opened when it first has
    sound, so that a client that only waits takes no slot, and is `None` between two utterances in
    dialects that close it. Errors become messages; those of the client's do not end the connection.
    """

    def __init__(self, connection: ClientConnection, engines: Engines, names: Sequence[str]):
        """Begin with a client.

        Args:
            connection: of the client.
            engines: for its speech.
            names: of the model, the server's own first.
        """
        self.connection, self.engines, self.names = connection, engines, tuple(names)
        self.speech: LiveSpeech | None = None
        self._events: asyncio.Task[None] | None = None
        self.is_broken_off = False  # its speech ends in the middle

    # What a dialect is made of
    @abstractmethod
    def greet(self) -> None:
        """Send what comes before the client's first message."""

    @abstractmethod
    async def take(self, message: dict[str, Any]) -> None:
        """Take a client's message, which has a `type`.

        Raises:
            ApiError, VoxtralOnnxError: what is wrong with it.
        """

    @abstractmethod
    def options(self) -> SpeechOptions:
        """Return what the client has asked for."""

    @abstractmethod
    def hear(self, event: SpeechEvent) -> None:
        """Send what the client is to know of an event of its speech."""

    @abstractmethod
    def end_speech(self) -> None:
        """Send what the client is to know when its speech has ended, behind all its events."""

    @abstractmethod
    def refuse(self, error: ApiError, message: dict[str, Any] | None) -> None:
        """Send an error; `message` is the client's that has caused it, if one has."""

    # How it runs
    async def run(self, first: dict[str, Any] | None = None) -> None:
        """Serve the client until it leaves or the connection is closed.

        Args:
            first: message that was read already.
        """
        self.engines.live.add(self)
        self.connection.on_gone = self.close_speech
        try:
            if self.engines.is_draining:
                self.stop()
            message = first
            while True:
                try:
                    message = message or await self.connection.next_message()
                    if message is None or self.connection.is_gone or self.connection.is_closing:
                        break
                    if message is MOVE:
                        await self._break_off(RESTART, moving())
                    elif message is SILENCE:
                        if self.speech and self.speech.silence >= MOST_SILENCE:
                            await self._break_off(POLICY, silent())
                    else:
                        await self.take(message)
                except Exception as error:
                    self._refuse(error, message)
                message = None
        finally:
            self.engines.live.discard(self)
            self.close_speech()

    async def opened(self) -> LiveSpeech:
        """Return the client's speech, which is opened if there is none.

        Raises:
            ApiError: there is no room for it; the connection is closed.
        """
        if self.speech is None:
            try:
                self.speech = await LiveSpeech.open(self.engines, self.options())
            except ApiError as error:
                if error.status == 503:
                    self.end_connection(TRY_LATER, error)
                raise
            self._events = asyncio.create_task(self._hear(self.speech))
        return self.speech

    def end_connection(self, code: int, error: ApiError) -> None:
        """Send an error, and close the connection."""
        self.refuse(error, None)
        self.connection.close(code, (error.code or "error"))

    def close_speech(self) -> None:
        """End the client's speech at once, without its last words."""
        if self.speech:
            self.speech.close()
        if self._events:
            self._events.cancel()
        self.speech = self._events = None

    async def finish_speech(self) -> None:
        """End the client's speech, and wait until its last words have come.

        Raises:
            AudioError: it ends inside a sample; the words before it have come all the same.
        """
        if self.speech and (events := self._events):
            try:
                await self.speech.finish()
            finally:
                await asyncio.wait({events})

    def move(self) -> None:
        """Let the words of what has come follow, and tell the client to move to another server."""
        self.connection.interject(MOVE)

    async def _break_off(self, code: int, error: ApiError) -> None:
        """Let the words of what has come follow, then send an error, and close the connection."""
        self.is_broken_off = True
        try:
            await self.finish_speech()
        except Exception as failure:
            log.info("the speech of a client that is broken off: %s", failure)
        self.end_connection(code, error)

    def stop(self) -> None:
        """End the connection with an error, as the server ends."""
        self.end_connection(RESTART, moving())
        self.close_speech()

    async def stopped(self) -> None:
        """Wait until the client was told, or long enough."""
        await self.connection.sent()

    async def _hear(self, speech: LiveSpeech) -> None:
        """Tell the client of the events of its speech, until that ends."""
        watching = asyncio.create_task(self._watch(speech))
        try:
            async for event in speech.events():
                self.hear(event)
            self.speech = self._events = None
            self.end_speech()
        except Exception as error:
            self.speech = self._events = None
            self.end_connection(INTERNAL, refusal_of(error))
        finally:
            watching.cancel()

    async def _watch(self, speech: LiveSpeech) -> None:
        """Let `SILENCE` come where no sound does, behind the messages that have come."""
        while True:
            left = MOST_SILENCE - speech.silence
            if left <= 0:
                self.connection.interject(SILENCE)
            await asyncio.sleep(left if left > 0 else MOST_SILENCE)

    def _refuse(self, error: Exception, message: dict[str, Any] | None) -> None:
        if not self.connection.is_closing:
            self.refuse(refusal_of(error), message)


def moving() -> ApiError:
    """Return the error that a client is told before the server ends."""
    return ApiError("the server is about to end; connect anew", status=503, code=RESTARTING)


def silent() -> ApiError:
    """Return the error that a client is told whose stream gets no sound."""
    message = f"no sound has come for {MOST_SILENCE:g} s, so the stream has ended; connect anew"
    return ApiError(message, status=408, code="idle_timeout")
