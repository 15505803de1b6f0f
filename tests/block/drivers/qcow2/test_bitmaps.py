"""Persistent bitmaps, made by qemu-img and read by us, and the other way round."""

import asyncio
import contextlib
import errno
import json
import shutil
from itertools import count

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block.drivers.qcow2.bitmaps import Bitmaps
from tests.tools.disk import check, opened, qemu_img, qemu_io, run
from tests.tools.failing import Failing
from tests.tools.hold import hold

MIB = 1 << 20


def bitmaps_of(image):
    data = json.loads(qemu_img("info", "--output=json", image))["format-specific"]["data"]
    return data.get("bitmaps", [])


def dirty_by_qemu(image, name):
    """The dirty areas as an NBD client of qemu-nbd sees them."""
    server = ["[", "qemu-nbd", "-r", "-f", "qcow2", "-B", name, image, "]"]
    text = run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{name}", "--", *server)
    return [(item["offset"], item["length"]) for item in json.loads(text) if item["type"]]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "64M")
    return path


def add(disk, name, granularity=65536, *, enabled=True):
    bitmap = DirtyBitmap(disk.node.length, granularity, name, enabled=enabled, persistent=True)
    disk.node.bitmaps.insert(0, bitmap)
    return bitmap


async def test_bitmaps_of_qemu_img_are_loaded(image):
    qemu_img("bitmap", "--add", "-g", "128k", image, "on")
    qemu_img("bitmap", "--add", "--disable", image, "off")
    qemu_io(image, "write 1M 64k", "write 63M 1M")
    async with opened(image, read_only=True) as disk:
        newest, oldest = disk.node.bitmaps
        assert (newest.name, newest.enabled, newest.granularity) == ("off", False, 65536)
        assert newest.count == 0
        assert (oldest.name, oldest.enabled, oldest.granularity) == ("on", True, 128 * 1024)
        assert list(oldest.bits.areas()) == [(MIB, 128 * 1024), (63 * MIB, MIB)]
        assert oldest.readonly
    assert [item["flags"] for item in bitmaps_of(image)] == [["auto"], []]


async def test_bitmap_in_an_open_image_is_in_use(image, tmp_path):
    qemu_img("bitmap", "--add", image, "b")
    async with opened(image):
        assert bitmaps_of_copy(image, tmp_path) == [["in-use", "auto"]]
    assert [item["flags"] for item in bitmaps_of(image)] == [["auto"]]


def bitmaps_of_copy(image, folder):
    shutil.copy(image, folder / "copy.qcow2")
    return [item["flags"] for item in bitmaps_of(folder / "copy.qcow2")]


@pytest.mark.parametrize("granularity", [512, 65536, 1 << 21])
async def test_bitmap_stored_by_us_is_read_by_qemu(image, granularity):
    async with opened(image) as disk:
        add(disk, "b", granularity)
        await disk.write(5 * MIB, b"x" * MIB)
    start = 5 * MIB // granularity * granularity
    end = -(-6 * MIB // granularity) * granularity
    assert dirty_by_qemu(image, "b") == [(start, end - start)]
    check(image)


async def test_bitmap_goes_on_recording_over_many_reopenings(image):
    async with opened(image) as disk:
        add(disk, "b")
        for number in range(4):
            await disk.write(number * 4 * MIB, b"x" * 65536)
            await disk.reopen(image)
            assert len(disk.node.bitmaps) == 1
        areas = list(disk.node.bitmaps[0].bits.areas())
    assert areas == [(number * 4 * MIB, 65536) for number in range(4)]
    assert dirty_by_qemu(image, "b") == areas
    check(image)


async def test_bitmap_is_inconsistent_after_a_crash(image, tmp_path):
    qemu_img("bitmap", "--add", image, "b")
    async with opened(image) as disk:
        await disk.write(0, b"x" * 65536)
        await disk.guest.flush()
        shutil.copy(image, tmp_path / "crashed.qcow2")
    async with opened(tmp_path / "crashed.qcow2") as disk:
        (bitmap,) = disk.node.bitmaps
        assert bitmap.inconsistent
        assert not bitmap.enabled
        await disk.write(MIB, b"y" * 65536)
        await disk.reopen(tmp_path / "crashed.qcow2")
        assert disk.node.bitmaps[0].inconsistent
        await disk.driver.remove_persistent_bitmap("b")
        disk.node.bitmaps.clear()
    assert bitmaps_of(tmp_path / "crashed.qcow2") == []
    check(tmp_path / "crashed.qcow2")


async def test_removed_bitmap_leaves_the_others(image):
    for name in "abc":
        qemu_img("bitmap", "--add", image, name)
    async with opened(image) as disk:
        await disk.driver.remove_persistent_bitmap("b")
        await disk.driver.remove_persistent_bitmap("unknown")
        disk.node.bitmaps[:] = [item for item in disk.node.bitmaps if item.name != "b"]
    assert [item["name"] for item in bitmaps_of(image)] == ["a", "c"]
    check(image)


async def test_bitmaps_are_dropped_when_somebody_did_not_keep_them(image, capsys):
    qemu_img("bitmap", "--add", image, "b")
    with image.open("r+b") as file:
        file.seek(88)
        file.write(bytes(8))
    async with opened(image) as disk:
        assert disk.node.bitmaps == []
    assert bitmaps_of(image) == []
    assert "a program lacking bitmap support modified this file" in capsys.readouterr().err


async def test_disabled_and_large_bitmaps_survive(image):
    async with opened(image) as disk:
        bitmap = add(disk, "b", 512, enabled=False)
        bitmap.bits.set_all()
        bitmap.bits.reset(32 * MIB, MIB)
        before = bitmap.bits.sha256()
        await disk.reopen(image)
        assert disk.node.bitmaps[0].bits.sha256() == before
    assert dirty_by_qemu(image, "b") == [(0, 32 * MIB), (33 * MIB, 31 * MIB)]


async def test_new_bitmap_is_refused_where_it_could_not_be_stored(image, tmp_path):
    qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", tmp_path / "old.qcow2", "1M")
    async with opened(tmp_path / "old.qcow2") as disk:
        assert disk.driver.bitmap_refusal("b", 65536) == (
            "Cannot store dirty bitmaps in qcow2 v2 files"
        )
    async with opened(image) as disk:
        assert disk.driver.bitmap_refusal("b", 65536) is None
        assert disk.driver.bitmap_refusal("b", 256) == "Granularity is under minimum (512 bytes)"
        assert disk.driver.bitmap_refusal("b" * 1024, 65536) == (
            "Name length exceeds maximum (1023 characters)"
        )


async def test_bitmaps_that_could_not_be_stored_leave_no_leak(image, capsys):
    qemu_img("bitmap", "--add", image, "b")
    async with opened(image) as disk:
        disk.node.bitmaps[0].mark(0, MIB)
        driver = disk.node.children["file"].node.driver
        whole = driver.pwrite

        async def pwrite(offset, buf, flags):
            # Only what is new behind the end of the file can't be written.
            if offset >= image.stat().st_size:
                raise OSError(errno.ENOSPC, "No space left on device")
            await whole(offset, buf, flags)

        driver.pwrite = pwrite
    said = "Failed to write bitmap 'b' to file: No space left on device\n"
    assert capsys.readouterr().err.endswith(said)
    check(image)


@pytest.mark.parametrize("landed", [0, 1, 2])
async def test_directory_that_the_header_may_name_is_not_written_over(image, tmp_path, landed):
    crashed = tmp_path / "crashed.qcow2"
    for number in count():
        qemu_img("create", "-q", "-f", "qcow2", image, "64M")
        for name in "bc":
            qemu_img("bitmap", "--add", image, name)
        failing = Failing(number, 2, landed=landed)
        async with opened(image) as disk:
            failing.begin(disk.node.children["file"].node.driver)
            with contextlib.suppress(QmpError):
                await disk.driver.remove_persistent_bitmap("b")
            failing.end()
            for start in range(4):
                await disk.write(start * MIB, b"x" * MIB)
                await disk.guest.flush()
            shutil.copy(image, crashed)
        assert [item["flags"] for item in bitmaps_of(crashed) if item["name"] == "c"]
        qemu_img("check", "-q", "-r", "leaks", "-f", "qcow2", crashed)
        check(image)
        if not failing.reached:
            break
    assert number


async def test_header_that_fails_while_an_older_one_is_mended_is_mended_later(image, tmp_path):
    for name in "bc":
        qemu_img("bitmap", "--add", image, name)
    crashed = tmp_path / "crashed.qcow2"
    async with opened(image) as disk:
        file = disk.node.children["file"].node.driver
        whole, headers = file.pwrite, []

        async def pwrite(offset, buf, flags):
            done = headers.pop(0) if headers and not offset else "well"
            if done != "not":
                await whole(offset, buf, flags)
            if done != "well":
                raise OSError(errno.EIO, "Input/output error")

        file.pwrite = pwrite
        headers += ["said to have failed", "not"]
        with pytest.raises(QmpError, match="Input/output error"):
            await disk.driver.remove_persistent_bitmap("b")
        gate, let_go = hold(file, "flush")
        mending = await gate.stops(disk.driver.image.header_writer.write_due())
        let_go()
        headers += ["well", "said to have failed", "not"]
        with pytest.raises(QmpError, match="Input/output error"):
            await disk.driver.remove_persistent_bitmap("b")
        assert not headers
        gate.set()
        await mending
        for start in range(4):
            await disk.write(start * MIB, b"x" * MIB)
            await disk.guest.flush()
        shutil.copy(image, crashed)
    qemu_img("check", "-q", "-r", "leaks", "-f", "qcow2", crashed)
    assert [item["name"] for item in bitmaps_of(crashed)]
    check(image)


async def test_others_have_turns_while_a_large_clean_bitmap_is_stored(tmp_path):
    path = tmp_path / "large.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "256G")
    turns, seen = 0, []

    async def others():
        nonlocal turns
        while not seen:
            await asyncio.sleep(0)
            turns += 1

    async with opened(path) as disk:
        add(disk, "b", 512)  # 64 MiB, none of which are written
        driver = disk.node.children["file"].node.driver
        whole = driver.pwrite

        async def pwrite(offset, buf, flags):
            seen.append(turns)
            await whole(offset, buf, flags)

        driver.pwrite = pwrite
        busy = asyncio.ensure_future(others())
    await busy
    assert seen[0] > 60
    assert dirty_by_qemu(path, "b") == []


async def test_others_have_turns_while_a_large_bitmap_is_loaded(tmp_path):
    path = tmp_path / "large.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "256G")
    qemu_img("bitmap", "--add", "-g", "512", path, "b")  # 64 MiB
    async with opened(path, read_only=True) as disk:
        loading, turns = asyncio.create_task(Bitmaps(disk.driver.image).load()), 0
        while not loading.done():
            await asyncio.sleep(0)
            turns += 1
        await loading
    assert turns > 60


async def test_inconsistent_bitmap_forbids_a_resize(image):
    qemu_img("bitmap", "--add", image, "b")
    async with opened(image) as disk:
        disk.node.bitmaps[0].inconsistent = True
        with pytest.raises(OSError, match="Bitmap 'b' is inconsistent and cannot be used"):
            await disk.resize(32 * MIB)
        assert disk.node.length == 64 * MIB


async def test_bitmap_is_gone_from_the_file_as_soon_as_it_is_removed(image, tmp_path):
    qemu_img("bitmap", "--add", image, "b")
    async with opened(image) as disk:
        await disk.driver.remove_persistent_bitmap("b")
        assert bitmaps_of_copy(image, tmp_path) == []
        disk.node.bitmaps.clear()
    assert bitmaps_of(image) == []
    check(image)


@pytest.mark.parametrize("rest", [1, 511])
async def test_bitmap_of_a_disk_that_ends_inside_a_sector_is_loaded_again(tmp_path, rest):
    path = tmp_path / "odd.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, 2 * MIB + 512)
    with path.open("r+b") as file:
        file.seek(24)
        file.write((2 * MIB + rest).to_bytes(8, "big"))  # one cluster of bitmap maps 2 MiB
    async with opened(path) as disk:
        add(disk, "b", 512)
        await disk.write(MIB, b"x" * 512)
    async with opened(path) as disk:
        assert list(disk.node.bitmaps[0].bits.areas()) == [(MIB, 512)]
    assert dirty_by_qemu(path, "b") == [(MIB, 512)]
