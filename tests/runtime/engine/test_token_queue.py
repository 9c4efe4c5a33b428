"""The queue between an engine and the readers of a stream, in threads and in asyncio."""

from __future__ import annotations

import asyncio
import threading
from itertools import chain

import pytest

from voxtral_onnx.errors import DeviceError
from voxtral_onnx.runtime.engine.token_queue import TokenQueue
from voxtral_onnx.runtime.tokens import Token


def token(index: int) -> Token:
    return Token(index, 32, "", 0.08 * (index + 1), 0.0, 0.0)


def test_tokens_come_in_order_and_each_once():
    queue, taken = TokenQueue(), list[list[int]]()

    def read():
        taken.append([each.index for each in queue])

    readers = [threading.Thread(target=read) for _ in range(3)]
    for each in readers:
        each.start()
    for index in range(1000):
        queue.put(token(index))
    queue.end()
    for each in readers:
        each.join(20)
        assert not each.is_alive()
    assert sorted(chain(*taken)) == list(range(1000))
    assert all(part == sorted(part) for part in taken)
    assert list(queue) == []  # ended for good


def test_an_error_comes_behind_the_tokens_and_to_every_reader():
    queue = TokenQueue()
    queue.put(token(0))
    queue.end(DeviceError("lost"))
    queue.end()  # changes nothing
    assert next(queue).index == 0 and len(queue) == 0
    for _ in range(2):
        with pytest.raises(DeviceError, match="lost"):
            next(queue)


def test_tasks_wait_without_blocking_their_loop():
    async def main() -> tuple[list[int], int]:
        queue, turns = TokenQueue(), 0

        async def read() -> list[int]:
            return [each.index async for each in queue]

        reader = asyncio.create_task(read())
        thread = threading.Thread(target=lambda: [queue.put(token(i)) for i in range(200)])
        for _ in range(20):  # the loop goes on while the task waits
            await asyncio.sleep(0)
            turns += 1
        thread.start()
        await asyncio.to_thread(thread.join)
        queue.end()
        return await reader, turns

    assert asyncio.run(main()) == (list(range(200)), 20)


def test_a_task_that_is_cancelled_takes_no_token():
    async def main() -> int:
        queue = TokenQueue()
        reader = asyncio.create_task(anext(queue))
        await asyncio.sleep(0)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        queue.put(token(7))
        return (await anext(queue)).index

    assert asyncio.run(main()) == 7


def test_a_reader_whose_loop_is_closed_harms_nobody():
    queue, loop = TokenQueue(), asyncio.new_event_loop()
    task = loop.create_task(queue.__anext__())
    loop.run_until_complete(asyncio.sleep(0))
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    queue.put(token(1))
    assert next(queue).index == 1
