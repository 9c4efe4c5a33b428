"""Tokens on their way from the thread of an engine to those that read them, asyncio's included."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from threading import Condition

from ..tokens import Token


class TokenQueue:
    """The tokens of one live stream that nobody has taken yet: `for` or `async for` takes them.

    It ends when the stream ends, and raises the error that has ended it. Each token is taken once,
    by whichever thread or task asks first.
    """

    def __init__(self):
        self._tokens = deque[Token]()
        self._change = Condition()
        self._sleepers: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._is_ended, self._error = False, None

    def __len__(self) -> int:
        """Return how many tokens wait."""
        return len(self._tokens)

    def put(self, token: Token) -> None:
        """Append a token."""
        with self._change:
            self._tokens.append(token)
            self._wake()

    def end(self, error: Exception | None = None) -> None:
        """End the queue behind its tokens, or with an error; later ends change nothing."""
        with self._change:
            if not self._is_ended:
                self._is_ended, self._error = True, error
            self._wake()

    def _wake(self) -> None:
        self._change.notify_all()
        sleepers, self._sleepers = self._sleepers, []
        for loop, future in sleepers:
            # A closed loop raises RuntimeError: nobody waits there any more
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_set, future)

    def _take(self) -> Token | None:
        """Return the next token; None if there is none yet.

        Raises:
            StopIteration: there will be none.
            Exception: what has ended the stream.
        """
        if self._tokens:
            return self._tokens.popleft()
        if self._error:
            raise self._error
        if self._is_ended:
            raise StopIteration
        return None

    def __iter__(self) -> TokenQueue:
        return self

    def __next__(self) -> Token:
        with self._change:
            while (token := self._take()) is None:
                self._change.wait()
        return token

    def __aiter__(self) -> TokenQueue:
        return self

    async def __anext__(self) -> Token:
        loop = asyncio.get_running_loop()
        while True:
            with self._change:
                try:
                    if (token := self._take()) is not None:
                        return token
                except StopIteration:
                    raise StopAsyncIteration from None
                future = loop.create_future()
                self._sleepers.append((loop, future))
            await future


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
