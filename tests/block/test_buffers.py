"""Bounded memory for copies."""

import asyncio

from qmpfleece.base.units import KIB, MIB
from qmpfleece.block.buffers import Buffers


async def test_buffer_is_used_again() -> None:
    buffers = Buffers(MIB)
    first = await buffers.take(64 * KIB)
    buffers.give(first)
    assert await buffers.take(64 * KIB) is first
    assert await buffers.take(64 * KIB) is not first


async def test_buffers_have_the_length_asked_for() -> None:
    buffers = Buffers(MIB)
    buffers.give(await buffers.take(64 * KIB))
    assert len(await buffers.take(4 * KIB)) == 4 * KIB


async def test_taker_waits_until_enough_is_given_back() -> None:
    buffers = Buffers(100)
    first, second = await buffers.take(60), await buffers.take(40)
    waiting = asyncio.ensure_future(buffers.take(80))
    await asyncio.sleep(0)
    assert not waiting.done()
    buffers.give(second)
    await asyncio.sleep(0)
    assert not waiting.done()
    buffers.give(first)
    assert len(await waiting) == 80


async def test_cancelled_taker_takes_nothing() -> None:
    buffers = Buffers(100)
    first = await buffers.take(100)
    waiting = asyncio.ensure_future(buffers.take(1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    buffers.give(first)
    assert len(await buffers.take(100)) == 100


async def test_only_a_few_mebibytes_are_kept() -> None:
    buffers = Buffers(64 * MIB)
    taken = [await buffers.take(MIB) for _ in range(64)]
    for buffer in taken:
        buffers.give(buffer)
    again = [await buffers.take(MIB) for _ in range(64)]
    assert len([buffer for buffer in again if any(buffer is old for old in taken)]) == 4
