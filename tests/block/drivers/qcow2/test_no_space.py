"""Where the file can't grow, what was given up is used again, by whoever needs it."""

import asyncio
import errno
import os
import random
from contextlib import asynccontextmanager

import pytest

from tests.tools.disk import check, opened, qemu_img
from tests.tools.hold import hold, start
from tests.tools.hostfile import buffer

MIB = 1 << 20
UNIT = 64 << 10


@asynccontextmanager
async def opened_in_a_megabyte(image, creation, size):
    """A new image whose file can't grow past 1 MiB."""
    qemu_img("create", "-q", "-f", "qcow2", "-o", creation, image, size)
    os.truncate(image, MIB)
    window = {"driver": "raw", "size": MIB, "file": {"driver": "file", "filename": str(image)}}
    async with opened(image, file=window, pass_discard_request=False) as disk:
        yield disk
    check(image)


async def fill(disk, step):
    """Write until there is no space left."""
    for offset in range(0, disk.node.length, step):
        await disk.write(offset, b"1" * step)


async def test_write_without_space_waits_for_who_still_uses_clusters_that_were_freed(tmp_path):
    async with opened_in_a_megabyte(tmp_path / "a.qcow2", "compat=1.1", MIB // 2) as disk:
        await disk.write(0, b"1" * (MIB // 2))
        file, full = disk.node.children["file"].node.driver, asyncio.Event()
        gate, let_go = hold(file, "pread")
        reading = await gate.stops(disk.read(0, 65536))
        let_go()
        whole = file.pwrite

        async def pwrite(*arguments: object):
            try:
                await whole(*arguments)
            except OSError:
                full.set()
                raise

        file.pwrite = pwrite
        await disk.guest.pdiscard(0, MIB // 2)
        writing = asyncio.create_task(disk.write(0, b"2" * (MIB // 2)))
        await full.wait()
        await asyncio.sleep(0)
        gate.set()
        assert set(await reading) == {ord("1")}
        await writing
        assert set(await disk.read()) == {ord("2")}


async def test_all_writes_at_once_find_the_clusters_that_were_freed(tmp_path):
    async with opened_in_a_megabyte(tmp_path / "a.qcow2", "compat=1.1", MIB // 2) as disk:
        await disk.write(0, b"1" * (MIB // 2))
        for _ in range(5):
            await disk.guest.pdiscard(0, MIB // 2)
            writes = (disk.write(offset, b"2" * 65536) for offset in range(0, MIB // 2, 65536))
            await asyncio.gather(*writes)


async def test_table_without_space_is_put_where_clusters_were_freed(tmp_path):
    async with opened_in_a_megabyte(tmp_path / "a.qcow2", "cluster_size=4k", 64 * MIB) as disk:
        with pytest.raises(OSError, match="No space left"):
            await fill(disk, 4096)
        await disk.guest.pdiscard(0, 65536)
        await disk.write(32 * MIB, b"2" * 4096)
        assert await disk.read(32 * MIB, 4096) == b"2" * 4096


async def test_compressed_data_without_space_is_put_where_clusters_were_freed(tmp_path):
    async with opened_in_a_megabyte(tmp_path / "a.qcow2", "cluster_size=4k", 2 * MIB) as disk:
        with pytest.raises(OSError, match="No space left"):
            await fill(disk, 4096)
        await disk.guest.pdiscard(0, 65536)
        await disk.guest.pwrite_compressed(MIB + MIB // 2, buffer(b"2" * 4096))
        assert await disk.read(MIB + MIB // 2, 4096) == b"2" * 4096


async def test_write_without_space_waits_for_nobody_who_uses_other_clusters(tmp_path):
    async with opened_in_a_megabyte(tmp_path / "a.qcow2", "compat=1.1", MIB) as disk:
        await disk.write(0, b"1" * (11 * UNIT))
        file, reads = disk.node.children["file"].node.driver, []
        for offset in (0, UNIT):
            gate, let_go = hold(file, "pread")
            reads.append((gate, await gate.stops(disk.read(offset, UNIT))))
            let_go()
            await disk.guest.pdiscard(offset, UNIT)
            await disk.guest.flush()
        (first, early), (second, late) = reads
        first.set()
        await early
        await disk.write(11 * UNIT, b"2" * UNIT)
        assert not late.done()
        second.set()
        assert set(await late) == {ord("1")}


async def test_who_has_no_space_waits_for_another_one_that_is_giving_clusters_back(tmp_path):
    async with opened_in_a_megabyte(tmp_path / "a.qcow2", "compat=1.1", MIB) as disk:
        image = disk.driver.image
        await disk.write(0, b"1" * (11 * UNIT))
        await disk.guest.pdiscard(0, 2 * UNIT)
        gate, let_go = hold(image.refcounts, "release")
        writing = await gate.stops(disk.write(11 * UNIT, b"2" * UNIT))
        let_go()
        full = OSError(errno.ENOSPC, "No space left on device")
        finding = await start(image.journal.found_room(full, image.refcounts.hint))
        gate.set()
        assert await finding
        await writing


async def test_compressed_data_without_space_is_tried_once_in_a_cluster(tmp_path):
    image, rnd, failed = tmp_path / "a.qcow2", random.Random(1), 0
    qemu_img("create", "-q", "-f", "qcow2", image, "2M")
    end = MIB - UNIT + 4096  # behind the beginning of a cluster
    os.truncate(image, end)
    window = {"driver": "raw", "size": end, "file": {"driver": "file", "filename": str(image)}}
    async with opened(image, file=window, pass_discard_request=False) as disk:
        await disk.write(0, b"1" * (10 * UNIT))
        small = [buffer(rnd.randbytes(3000) + bytes(UNIT - 3000)) for _ in range(2)]
        await disk.guest.pwrite_compressed(10 * UNIT, small[0])
        await disk.guest.pdiscard(0, UNIT)
        await disk.guest.flush()
        file = disk.node.children["file"].node.driver
        whole = file.pwrite

        async def pwrite(*arguments: object):
            nonlocal failed
            try:
                await whole(*arguments)
            except OSError:
                failed += 1
                raise

        file.pwrite = pwrite
        await disk.guest.pwrite_compressed(11 * UNIT, small[1])
        file.pwrite = whole
        assert await disk.read(11 * UNIT, UNIT) == bytes(small[1])
    assert failed == 1
    check(image)
