import asyncio
import errno
import random

import pytest

from tests.tools.disk import check, content, opened, qemu_img, qemu_io
from tests.tools.hold import hold, start

MIB = 1 << 20


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, "1M")
    return path


async def test_disk_grows_while_it_is_written_to(image, tmp_path):
    async with opened(image) as disk:
        rnd = random.Random(1)
        model = bytearray(MIB)

        async def write():
            for _ in range(200):
                offset = rnd.randrange(MIB - 512)
                data = rnd.randbytes(512)
                model[offset : offset + 512] = data
                await disk.write(offset, data)

        async def grow():
            for size in range(2, 40, 3):
                await disk.resize(size * MIB)
                await disk.guest.flush()

        await asyncio.gather(write(), grow())
        model.extend(bytes(disk.node.length - MIB))
        assert await disk.read() == model
    check(image)
    assert content(image, tmp_path) == model


@pytest.mark.parametrize("compat", ["compat=v3", "compat=v2"])
async def test_grown_disk_does_not_show_more_of_the_backing_file(tmp_path, compat):
    image = tmp_path / "a.qcow2"
    (tmp_path / "base").write_bytes(b"b" * 2 * MIB)
    backing = ["-b", "base", "-F", "raw"]
    qemu_img("create", "-q", "-f", "qcow2", "-o", compat, *backing, image, MIB + 512)
    async with opened(image) as disk:
        await disk.resize(3 * MIB)
        whole = await disk.read()
    assert whole == b"b" * (MIB + 512) + bytes(2 * MIB - 512)
    check(image)
    assert content(image, tmp_path) == whole


@pytest.mark.parametrize("size", [65536, 65536 + 512, 100 * 1024])
async def test_disk_that_grows_past_a_backing_file_that_ends_within_a_cluster(tmp_path, size):
    image = tmp_path / "a.qcow2"
    (tmp_path / "base").write_bytes(b"b" * 27 * 4096)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", image, size)
    async with opened(image) as disk:
        await disk.resize(4 * 65536)
        whole = await disk.read()
    assert whole == (b"b" * size).ljust(4 * 65536, b"\0")
    check(image)
    assert content(image, tmp_path) == whole


async def test_shrunk_disk_gives_its_clusters_back(image, tmp_path):
    async with opened(image) as disk:
        await disk.write(0, b"x" * MIB)
        await disk.resize(64 * 1024)
        await disk.resize(MIB)
        assert await disk.read() == b"x" * 65536 + bytes(MIB - 65536)
        await disk.write(512 * 1024, b"y" * 512)
    check(image)
    assert content(image, tmp_path)[65536:] == bytes(458752) + b"y" * 512 + bytes(523776)


async def test_bitmaps_are_resized_and_kept(image):
    qemu_img("bitmap", "--add", image, "b")
    async with opened(image) as disk:
        await disk.resize(64 * MIB)
        await disk.write(60 * MIB, b"x" * 512)
        await disk.reopen(image)
        (bitmap,) = disk.node.bitmaps
        assert bitmap.bits.length == 64 * MIB
        assert bitmap.bits.get(60 * MIB)
    check(image)


async def test_size_must_be_whole_sectors(image):
    async with opened(image) as disk:
        with pytest.raises(OSError, match="The new size must be a multiple of 512"):
            await disk.resize(1000)
        assert disk.node.length == MIB


async def test_old_image_with_snapshots_can_not_be_resized(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=v2", image, "1M")
    qemu_img("snapshot", "-c", "s", image)
    async with opened(image) as disk:
        with pytest.raises(OSError, match="Can't resize a v2 image which has snapshots"):
            await disk.resize(2 * MIB)


async def test_disk_resized_by_us_is_used_by_qemu_io(image, tmp_path):
    async with opened(image) as disk:
        await disk.resize(100 * MIB)
    qemu_io(image, "write -P 1 99M 1M")
    check(image)
    assert content(image, tmp_path)[99 * MIB :] == b"\1" * MIB


@pytest.mark.parametrize("backing", [False, True])
@pytest.mark.parametrize("second", [3 * MIB, 6 * MIB])
async def test_what_is_written_while_the_disk_grows_is_kept(tmp_path, backing, second):
    image = tmp_path / "a.qcow2"
    (tmp_path / "base").write_bytes(b"b" * 8 * MIB)
    below = ["-b", "base", "-F", "raw"] if backing else []
    qemu_img("create", "-q", "-f", "qcow2", *below, image, MIB + 512)
    async with opened(image) as disk:
        await disk.write(MIB, b"0" * 512)
        gate, _ = hold(disk.node.children["file"].node.driver, "pwrite")
        first = await start(disk.write(4 * MIB, b"1" * 65536))
        other = await start(disk.write(second, b"2" * 65536))
        gate.set()
        await asyncio.gather(first, other)
        length = disk.node.length
        assert length == max(4 * MIB, second) + 65536
        model = bytearray(b"b" * MIB if backing else bytes(MIB)) + bytes(length - MIB)
        for offset, data in ((MIB, b"0" * 512), (4 * MIB, b"1" * 65536), (second, b"2" * 65536)):
            model[offset : offset + len(data)] = data
        assert await disk.read() == model
    check(image)
    assert content(image, tmp_path) == model


async def test_a_write_that_lets_the_disk_grow_and_fails_takes_no_other_with_it(image, tmp_path):
    async with opened(image) as disk:
        file = disk.node.children["file"].node.driver
        gate, whole = asyncio.Event(), file.pwrite

        async def fail_once(*_arguments: object) -> None:
            file.pwrite = whole
            await gate.wait()
            raise OSError(errno.EIO, "")

        file.pwrite = fail_once
        first = await start(disk.write(2 * MIB, b"1" * 512))
        other = await start(disk.write(3 * MIB, b"2" * 512))
        gate.set()
        await asyncio.gather(first, other, return_exceptions=True)
        assert first.exception()
        assert not other.exception()
        assert (await disk.read())[3 * MIB :] == b"2" * 512
    check(image)
    assert content(image, tmp_path)[3 * MIB :] == b"2" * 512
