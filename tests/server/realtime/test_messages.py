"""5,000 random messages to each dialect; `make soak` sends 100,000."""

from __future__ import annotations

import asyncio
from threading import Thread

import pytest
from messages import mistral, openai, vllm
from messages.grammar import torment
from support.commands import CLIP, TEXT
from support.openai_client import connected
from support.servers import until

SEED, COUNT = 22, 5000


@pytest.mark.parametrize("dialect", [mistral, openai, vllm])
def test_random_messages(api, dialect):
    """None ends a connection or changes what another client hears; all slots are free after."""
    address, found = f"ws://127.0.0.1:{api.port}{dialect.PATH}", list[int]()
    sent = torment(address, dialect.GRAMMAR, SEED, COUNT)
    thread = Thread(target=lambda: found.append(asyncio.run(sent)))
    texts = []
    with connected(api.port) as client:
        thread.start()
        while thread.is_alive() or not texts:
            texts.append(client.transcript(CLIP))
    thread.join()
    assert found and found[0] > COUNT / 4
    assert set(texts) == {TEXT}
    until(lambda: not api.engines.live and not api.engines.engines[0].metrics.streams)
