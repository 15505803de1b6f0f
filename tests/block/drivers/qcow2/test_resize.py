import asyncio
import errno
import json
import random
from itertools import count

import pytest

from qmpfleece.bitmap.dirty import DirtyBitmap
from tests.tools.disk import check, content, opened, qemu_img, qemu_io, run
from tests.tools.failing import Failing
from tests.tools.hold import Gate, hold, start
from tests.tools.snapshots import take

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
        first = await gate.stops(disk.write(4 * MIB, b"1" * 65536))
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
        gate, whole = Gate(), file.pwrite

        async def fail_once(*_arguments: object) -> None:
            file.pwrite = whole
            await gate.wait()
            raise OSError(errno.EIO, "")

        file.pwrite = fail_once
        first = await gate.stops(disk.write(2 * MIB, b"1" * 512))
        other = await start(disk.write(3 * MIB, b"2" * 512))
        gate.set()
        await asyncio.gather(first, other, return_exceptions=True)
        assert first.exception()
        assert not other.exception()
        assert (await disk.read())[3 * MIB :] == b"2" * 512
    check(image)
    assert content(image, tmp_path)[3 * MIB :] == b"2" * 512


async def test_disk_that_has_grown_for_a_write_that_fails_is_of_one_size(image):
    async with opened(image) as disk:
        disk.node.bitmaps.append(DirtyBitmap(MIB, 512))
        file = disk.node.children["file"].node.driver
        whole = file.pwrite

        async def pwrite(offset, buf, flags):
            if bytes(buf[:1]) == b"1":
                raise OSError(errno.ENOSPC, "")
            await whole(offset, buf, flags)

        file.pwrite = pwrite
        with pytest.raises(OSError, match=f"{errno.ENOSPC}"):
            await disk.write(2 * MIB, b"1" * 512)
        length = disk.node.length
        assert await disk.read() == bytes(length)
        assert disk.node.bitmaps[0].bits.length == length
        await disk.guest.flush()
        assert json.loads(qemu_img("info", "-U", "--output=json", image))["virtual-size"] == length
        disk.node.bitmaps.clear()
    check(image)


async def fail_to_resize(disk, length, failing):
    """Resize a disk while operations of its file fail; whether that failed."""
    failing.begin(disk.node.children["file"].node.driver)
    try:
        await disk.resize(length)
    except OSError:
        return True
    finally:
        failing.end()
    return False


#: How many operations fail in a row, and whether they are done all the same.
FAILURES = [(1, False), (1, True), (3, False), (3, True)]


@pytest.mark.parametrize(("many", "landed"), FAILURES)
@pytest.mark.parametrize(("cluster", "backing"), [(512, False), (4096, True)])
async def test_whatever_fails_when_a_disk_grows_it_can_grow_later(
    tmp_path, many, landed, cluster, backing
):
    image, killed = tmp_path / "a.qcow2", tmp_path / "killed.qcow2"
    (tmp_path / "base").write_bytes(b"b" * 2 * MIB)
    below = ["-b", "base", "-F", "raw"] if backing else []
    for number in count():
        options = ["-f", "qcow2", "-o", f"cluster_size={cluster}", *below]
        qemu_img("create", "-q", *options, image, MIB + 512)
        failing = Failing(number, many, landed=landed)
        async with opened(image) as disk:
            await disk.write(MIB, b"x" * 512)
            failed = await fail_to_resize(disk, 8 * MIB, failing)
            assert disk.node.length == (MIB + 512 if failed else 8 * MIB)
            await take(disk, "s")  # writes the header
            await disk.write(0, b"y" * 70_000)
            await disk.guest.flush()
            killed.write_bytes(image.read_bytes())
            assert len(data := content(killed, tmp_path)) == disk.node.length
            assert data[:70_000] == b"y" * 70_000
            await disk.resize(8 * MIB)
            await disk.write(7 * MIB, b"z" * 512)
        rest = (b"b" if backing else b"\0") * (MIB - 70_000)
        expected = (b"y" * 70_000 + rest + b"x" * 512).ljust(7 * MIB, b"\0") + b"z" * 512
        assert content(image, tmp_path) == expected.ljust(8 * MIB, b"\0")
        assert "ERROR" not in run("qemu-img", "check", "-f", "qcow2", image, may_fail=True)
        if not failing.reached:
            break
    assert number


@pytest.mark.parametrize(("many", "landed"), FAILURES)
async def test_whatever_fails_when_a_disk_shrinks_it_is_of_one_size(tmp_path, many, landed):
    image, killed = tmp_path / "a.qcow2", tmp_path / "killed.qcow2"
    for number in count():
        qemu_img("create", "-q", "-f", "qcow2", image, MIB)
        failing = Failing(number, many, landed=landed)
        async with opened(image) as disk:
            await disk.write(0, b"x" * MIB)
            await disk.guest.flush()
            failed = await fail_to_resize(disk, 100 * 1024, failing)
            length = MIB if failed else 100 * 1024
            assert disk.node.length == length
            await disk.write(0, b"y" * length)
            # It is no end of the disk, so what is behind it in its cluster stays.
            await disk.guest.pdiscard(65536, 36 * 1024 if failed else 512)
            if failed:
                await disk.guest.pdiscard(10 * 65536, 512)
                await disk.guest.pwrite_zeroes(11 * 65536, 512)
            await disk.guest.flush()
            whole = await disk.read()
            killed.write_bytes(image.read_bytes())
        expected = bytearray(b"y" * length)
        if failed:
            expected[11 * 65536 : 11 * 65536 + 512] = bytes(512)
        assert whole == expected
        assert content(killed, tmp_path) == content(image, tmp_path) == expected
        assert "ERROR" not in run("qemu-img", "check", "-f", "qcow2", image, may_fail=True)
        if not failing.reached:
            break
    assert number


async def test_table_of_several_clusters_is_put_near_the_others_though_one_before_is_free(
    tmp_path,
):
    image, other = tmp_path / "a.qcow2", tmp_path / "b.qcow2"
    for path in (image, other):
        qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, "1M")
        qemu_io(path, "write -P 1 0 4k", "discard 0 512")
    async with opened(image) as disk:
        await disk.resize(64 * MIB)
    qemu_img("resize", "-q", other, 64 * MIB)
    assert image.stat().st_size <= other.stat().st_size
    check(image)
