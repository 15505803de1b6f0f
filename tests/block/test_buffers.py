"""Bounded memory for copies."""

import asyncio

from qmpfleece.base.units import KIB, MIB
from qmpfleece.block.buffers import Buffers


async def test_buffer_is_used_again() -> None:
    buffers = Buffers(MIB)
    first = await buffers.wait_for(64 * KIB)
    buffers.give(first)
    assert await buffers.wait_for(64 * KIB) is first
    assert await buffers.wait_for(64 * KIB) is not first


async def test_buffers_have_the_length_asked_for() -> None:
    buffers = Buffers(MIB)
    buffers.give(await buffers.wait_for(64 * KIB))
    assert len(await buffers.wait_for(4 * KIB)) == 4 * KIB


async def test_taker_waits_until_enough_is_given_back() -> None:
    buffers = Buffers(100)
    first, second = await buffers.wait_for(60), await buffers.wait_for(40)
    waiting = asyncio.ensure_future(buffers.wait_for(80))
    await asyncio.sleep(0)
    assert not waiting.done()
    buffers.give(second)
    await asyncio.sleep(0)
    assert not waiting.done()
    buffers.give(first)
    assert len(await waiting) == 80


async def test_cancelled_taker_takes_nothing() -> None:
    buffers = Buffers(100)
    first = await buffers.wait_for(100)
    waiting = asyncio.ensure_future(buffers.wait_for(1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    buffers.give(first)
    assert len(await buffers.wait_for(100)) == 100


async def test_only_a_few_mebibytes_are_kept() -> None:
    buffers = Buffers(64 * MIB)
    taken = [await buffers.wait_for(MIB) for _ in range(64)]
    for buffer in taken:
        buffers.give(buffer)
    again = [await buffers.wait_for(MIB) for _ in range(64)]
    assert len([buffer for buffer in again if any(buffer is old for old in taken)]) == 8
