"""WebSockets of uvicorn, whose pings give a client the time that the server itself needs."""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class PatientProtocol(WebSocketsSansIOProtocol):
    """A protocol that does not take a client for gone whose answer is not read yet.

    While much of its sound waits for the engine nothing more is read from a client, and its answer
    to a ping lies behind the sound. One that has vanished is then found by the system's own probes.
    """

    def keepalive_timeout(self) -> None:
        """End the connection, or wait once more."""
        if self.read_paused and self.ping_timeout is not None:
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
            return
        super().keepalive_timeout()
