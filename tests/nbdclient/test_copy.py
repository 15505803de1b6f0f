import asyncio
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.base.errors import BlockError
from qmpfleece.base.units import KIB, MIB
from qmpfleece.nbdclient.copy import PIECE, REQUESTS, Plan, Progress, copy
from qmpfleece.nbdclient.sparse import SparseFile
from qmpfleece.nbdproto import const

BITMAP = "qmp:dirty"
UNIT = 64 * KIB


class MemorySource:
    """An export in memory, with the flags of each unit of it."""

    def __init__(self, content, contexts, *, longest=1 << 30) -> None:
        self.content = content
        self.contexts = contexts
        self.longest = longest
        self.in_flight = 0
        self.peak = 0
        self.reads = []
        self.bad_offset = None

    @property
    def size(self):
        return len(self.content)

    async def pread(self, offset, buf):
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        if self.bad_offset is not None and offset <= self.bad_offset < offset + len(buf):
            raise BlockError(5)
        self.reads.append((offset, len(buf)))
        buf[:] = self.content[offset : offset + len(buf)]

    async def block_status(self, offset, length):
        await asyncio.sleep(0)
        return {name: self.runs(flags, offset, length) for name, flags in self.contexts.items()}

    def runs(self, flags, offset, length):
        runs = []
        position = offset
        while position < offset + length and len(runs) < self.longest:
            unit = position // UNIT
            end = min((unit + 1) * UNIT, self.size)
            if not runs or runs[-1][1] != flags[unit]:
                runs.append((end - position, flags[unit]))
            else:
                runs[-1] = (runs[-1][0] + end - position, flags[unit])
            position = end
        return runs


async def pull(source, path, plan, *, update=False):
    progress = Progress()
    sink = SparseFile(path, source.size, update=update)
    try:
        await copy(source, sink, plan, progress)
        await sink.finish()
    finally:
        sink.discard()
    return progress


ZERO = const.STATE_ZERO | const.STATE_HOLE
UNITS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=24)


@given(UNITS, st.integers(1, UNIT), st.integers(1, 3), st.sampled_from(["all", "dirty", "update"]))
def test_what_is_copied_is_what_the_contexts_say(units, tail, longest, mode):
    length = (len(units) - 1) * UNIT + tail
    content = bytearray(length)
    for index, (data, _) in enumerate(units):
        if data:
            content[index * UNIT : (index + 1) * UNIT] = bytes([index + 1]) * len(
                content[index * UNIT : (index + 1) * UNIT]
            )
    contexts = {
        const.CONTEXT_BASE_ALLOCATION: [0 if data else ZERO for data, _ in units],
        BITMAP: [int(dirty) for _, dirty in units],
    }
    if mode == "all":
        del contexts[BITMAP]
    source = MemorySource(content, contexts, longest=longest)
    old = b"\xff" * length if mode == "update" else bytes(length)
    expected = bytearray(old)
    copied = 0
    for index, (data, dirty) in enumerate(units):
        if dirty or mode == "all":
            part = content[index * UNIT : (index + 1) * UNIT]
            expected[index * UNIT : (index + 1) * UNIT] = part
            copied += len(part) * data

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "disk")
        if mode == "update":
            path.write_bytes(old)
        plan = Plan(allocation=True, bitmap="" if mode == "all" else BITMAP)
        progress = asyncio.run(pull(source, path, plan, update=mode == "update"))
        assert path.read_bytes() == expected
    assert progress == Progress(size=length, settled=length, copied=copied)


@pytest.fixture
def device(tmp_path, loop_device):
    """A block device of 256 KiB that is full of old data."""
    (tmp_path / "old").write_bytes(b"\xff" * (4 * UNIT))
    return loop_device(tmp_path / "old")


@pytest.mark.parametrize(("update", "rest"), [(False, b"\0"), (True, b"\xff")])
async def test_what_a_bitmap_does_not_mark_is_zeroed_on_a_device_too(device, update, rest):
    content = bytes(UNIT) + b"\1" * UNIT + b"\2" * (2 * UNIT)
    contexts = {const.CONTEXT_BASE_ALLOCATION: [ZERO, 0, 0, 0], BITMAP: [1, 1, 0, 0]}
    source = MemorySource(content, contexts)
    await pull(source, device, Plan(allocation=True, bitmap=BITMAP), update=update)
    assert device.read_bytes() == content[: 2 * UNIT] + rest * (2 * UNIT)


async def test_requests_are_in_flight_together_and_bounded(tmp_path):
    source = MemorySource(os.urandom(40 * PIECE), {})
    await pull(source, tmp_path / "disk", Plan(allocation=False))
    assert (tmp_path / "disk").read_bytes() == source.content
    assert 1 < source.peak <= REQUESTS


async def test_a_failed_read_fails_the_copy_and_leaves_no_file(tmp_path):
    source = MemorySource(os.urandom(8 * MIB), {})
    source.bad_offset = 5 * MIB + 1
    with pytest.raises(BlockError) as caught:
        await pull(source, tmp_path / "disk", Plan(allocation=False))
    assert caught.value.errno == 5
    assert os.listdir(tmp_path) == []


async def test_an_empty_export_makes_an_empty_file(tmp_path):
    progress = await pull(MemorySource(b"", {}), tmp_path / "disk", Plan(allocation=False))
    assert (tmp_path / "disk").read_bytes() == b""
    assert progress == Progress()
