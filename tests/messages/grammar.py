"""Random messages to a dialect of live speech: right ones, nearly right ones, and no messages.

`torment` sends them to a server, and sees that every wrong one is answered with an error, that no
connection dies of one, and that nothing comes of the rest but the dialect's own events.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

Message = dict[str, Any]
PER_CONNECTION = 500  # messages, then the next connection
TIMEOUT = 120  # seconds; an answer takes milliseconds
VALUES = (
    *(None, True, False, 0, -1, 1e308, 2**70, "", "é\ud800\0", "x" * 5000, "realtime"),
    *([], [None], {}, {"": {}}, [[[[[[]]]]]], {"type": "server_vad"}),
)
FRAMES = (
    *("", " ", "{", "}", "[]", "5", "nul", '"text"', '{"type": }', '{"type": 5}', '{"type": null}'),
    *('{"no": "type"}', '{"type": "a"', "[" * 5000, '{"a":' * 5000, "\0", "é", "NaN"),
    *(b"", b"\0\1\2", b'{"type": "a"}'),
)


@dataclass(frozen=True)
class Grammar:
    """What a dialect's clients say.

    Attributes:
        right: makers of messages that the dialect knows, and how often each comes.
        wrong: messages that it must refuse, whatever came before.
        check: asserts that an event is one of the dialect's.
        opening: messages that come first on each connection; they have no answers.
        is_error: tells whether an event is an error.
        is_strict: whether a field that it does not know makes a message wrong.
    """

    right: Mapping[Callable[[Random], Message], int]
    wrong: Sequence[Message]
    check: Callable[[Message], None]
    opening: Sequence[Message] = ()
    is_error: Callable[[Message], bool] = lambda event: event["type"] == "error"
    is_strict: bool = True


def frames(grammar: Grammar, rng: Random) -> Iterator[tuple[str | bytes, bool]]:
    """Yield frames without end, and whether each must be refused."""
    makers, weights = list(grammar.right), list(grammar.right.values())
    while True:
        message = rng.choices(makers, weights)[0](rng)
        match rng.randrange(10):
            case 0:
                yield rng.choice(FRAMES), True
            case 1:
                text = json.dumps(message)
                yield text[: rng.randrange(1, len(text))], True
            case 2:
                yield json.dumps(rng.choice(grammar.wrong)), True
            case 3:
                message[f"x{rng.randrange(100)}"] = rng.choice(VALUES)
                yield json.dumps(message), grammar.is_strict
            case 4 | 5 | 6:
                damage(message, rng)
                yield json.dumps(message), not isinstance(message.get("type"), str)
            case _:
                yield json.dumps(message), False


def damage(message: Message, rng: Random) -> None:
    """Replace or remove a value somewhere in a message."""
    places = [(message, name) for name in message]
    for parent, name in places:
        if isinstance(parent[name], dict):
            places += [(parent[name], inner) for inner in parent[name]]
    parent, name = rng.choice(places)
    if rng.randrange(3):
        parent[name] = rng.choice(VALUES)
    else:
        del parent[name]


def random_sound(rng: Random) -> str:
    """Return a few milliseconds of noise in base64, sometimes a part of a sample too many."""
    return base64.b64encode(rng.randbytes(rng.choice((0, 2, 320, 321, 960)))).decode()


async def torment(address: str, grammar: Grammar, seed: int, count: int) -> int:
    """Send so many frames, on one connection after the other; return how many were wrong.

    Each connection is left in another way: closed, or just dropped.
    """
    rng = Random(seed)
    source, num_wrong = frames(grammar, rng), 0
    for first in range(0, count, PER_CONNECTION):
        batch = [next(source) for _ in range(min(PER_CONNECTION, count - first))]
        async with connect(address, max_size=None) as socket:
            reader = asyncio.create_task(answers(socket, grammar, len(batch)))
            for message in grammar.opening:
                await socket.send(json.dumps(message))
            for number, (frame, _) in enumerate(batch):
                await socket.send(frame)
                await socket.send(json.dumps({"type": probe(number)}))
            found = await asyncio.wait_for(reader, TIMEOUT)
            if rng.randrange(2):
                socket.transport.abort()
        for (frame, is_wrong), num_errors in zip(batch, found, strict=True):
            assert num_errors or not is_wrong, f"taken: {frame[:500]!r}"
            num_wrong += is_wrong
    return num_wrong


def probe(number: int) -> str:
    """Return a type that no dialect has, which its error repeats."""
    return f"probe.{number}."


async def answers(socket: ClientConnection, grammar: Grammar, count: int) -> list[int]:
    """Return how many errors came for each of so many frames, which probes follow."""
    found, errors = list[int](), 0
    async for text in socket:
        event = json.loads(text)
        grammar.check(event)
        assert "internal_error" not in str(text), text
        if grammar.is_error(event):
            if probe(len(found)) in str(text):
                found.append(errors)
                errors = 0
            else:
                errors += 1
        if len(found) == count:
            break
    assert len(found) == count, f"the connection ended: {socket.close_code} {socket.close_reason}"
    return found
