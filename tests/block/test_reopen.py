import errno
import fcntl
import os
from typing import Any

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block import reopen
from qmpfleece.block.backend import Backend
from qmpfleece.block.perm import Perm
from qmpfleece.qapi.blockdev import BlockdevOptions, validate_blockdev
from tests.tools.disk import Disk, check, opened, qemu_img, run
from tests.tools.programs import needs

pytestmark = needs("qemu-img")
MIB = 1 << 20


def definition(**options: Any) -> BlockdevOptions:
    return validate_blockdev({key.replace("_", "-"): value for key, value in options.items()})


def access(disk: Disk) -> tuple[int, bool]:
    """How the file of the disk is open: O_RDONLY or O_RDWR, and whether with O_DIRECT."""
    flags = fcntl.fcntl(disk.node.children["file"].node.driver._fd, fcntl.F_GETFL)
    return flags & os.O_ACCMODE, bool(flags & os.O_DIRECT)


def stored_flags(image) -> str:
    text = run("qemu-img", "info", "-U", image)
    return text.partition("flags:")[2].partition("name:")[0].strip()


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, MIB)
    return path


def add_bitmap(disk: Disk) -> DirtyBitmap:
    bitmap = DirtyBitmap(disk.node.length, 65536, "b", persistent=True)
    disk.node.bitmaps.insert(0, bitmap)
    return bitmap


async def test_the_file_is_open_for_writing_only_while_its_node_is_writable(image):
    async with opened(image, read_only=True) as disk:
        assert access(disk) == (os.O_RDONLY, False)
        await reopen.set_read_only(disk.graph, disk.node, read_only=False)
        assert access(disk) == (os.O_RDWR, False)
        await reopen.change(disk.graph, disk.node, {"read-only": True, "cache.direct": True})
        assert access(disk) == (os.O_RDONLY, True)


async def test_under_auto_read_only_the_file_is_writable_while_somebody_writes(image):
    options = {
        "driver": "file",
        "filename": str(image),
        "auto-read-only": True,
        "read-only": False,
    }
    async with opened(image, file=options, read_only=True) as disk:
        assert access(disk) == (os.O_RDONLY, False)
        assert not disk.node.children["file"].node.read_only
        await reopen.set_read_only(disk.graph, disk.node, read_only=False)
        assert access(disk) == (os.O_RDWR, False)
        await reopen.set_read_only(disk.graph, disk.node, read_only=True)
        assert access(disk) == (os.O_RDONLY, False)


async def test_what_was_written_is_read_through_the_page_cache_and_past_it(image):
    async with opened(image) as disk:
        await disk.write(700, b"x" * 1000)
        for direct in (True, False):
            await reopen.change(disk.graph, disk.node, {"cache.direct": direct})
            assert await disk.read(700, 1000) == b"x" * 1000
            await disk.write(512, b"y" * 10)
            assert await disk.read(512, 10) == b"y" * 10
    check(image)


async def test_bitmaps_of_an_image_that_becomes_read_only_are_stored_and_kept(image):
    async with opened(image, read_only=True) as disk:
        await reopen.set_read_only(disk.graph, disk.node, read_only=False)
        bitmap = add_bitmap(disk)
        bitmap.bits.set(0, 1)
        await reopen.set_read_only(disk.graph, disk.node, read_only=True)
        assert disk.node.bitmaps == [bitmap]
        assert bitmap.readonly
        assert "in-use" not in stored_flags(image)
        await reopen.set_read_only(disk.graph, disk.node, read_only=False)
        assert not bitmap.readonly
        assert "in-use" in stored_flags(image)
    assert "in-use" not in stored_flags(image)
    check(image)


async def test_bitmaps_that_could_not_be_marked_in_use_forbid_writes_until_they_can(image, capsys):
    async with opened(image) as disk:
        add_bitmap(disk)
    async with opened(image, read_only=True) as disk:
        file = disk.node.children["file"].node.driver
        whole = file.pwrite

        async def fail(offset, buf, flags):
            raise OSError(errno.EIO, "Input/output error")

        file.pwrite = fail
        await reopen.set_read_only(disk.graph, disk.node, read_only=False)
        file.pwrite = whole
        assert capsys.readouterr().err == (
            "disk: Failed to make dirty bitmaps writable: Cannot update bitmap directory:"
            " Input/output error\n"
        )
        (bitmap,) = disk.node.bitmaps
        guest = Backend(disk.graph, perm=Perm.WRITE)
        guest.attach(disk.node)
        for request, given in (
            (guest.pwrite, memoryview(bytes(512))),
            (guest.pwrite_zeroes, 512),
            (guest.pdiscard, 65536),
        ):
            with pytest.raises(OSError, match="Operation not permitted"):
                await request(0, given)
        assert "in-use" not in stored_flags(image)
        await reopen.change(disk.graph, disk.node, {"read-only": False})
        assert "in-use" in stored_flags(image)
        await guest.pwrite(0, memoryview(bytes(512)))
        assert bitmap.count == 65536
        await guest.detach()
    assert "in-use" not in stored_flags(image)
    check(image)


async def test_a_refused_change_leaves_bitmaps_in_use_and_the_disk_writable(image):
    async with opened(image) as disk:
        bitmap = add_bitmap(disk)
        with pytest.raises(QmpError, match="cannot support read-write users"):
            await reopen.set_read_only(disk.graph, disk.node, read_only=True)
        assert not bitmap.readonly
        assert "in-use" in stored_flags(image)
        await disk.write(0, b"z" * 4096)
        assert await disk.read(0, 4096) == b"z" * 4096
        assert access(disk) == (os.O_RDWR, False)
    check(image)


async def test_of_several_nodes_all_keep_their_options_when_one_is_refused(tmp_path):
    disk = Disk()
    given = []
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(512))
        given.append({"driver": "file", "node_name": name, "filename": str(tmp_path / name)})
        await disk.graph.add(definition(**given[-1]))
    changes = [
        definition(**given[0], read_only=True, detect_zeroes="on"),
        definition(**given[1], locking="off"),
    ]
    with pytest.raises(QmpError, match="Cannot change the option 'locking'"):
        await reopen.reopen(disk.graph, changes)
    options = disk.graph.find("a").options
    assert (options.read_only, options.detect_zeroes) == (False, "off")
    await disk.graph.close()
    disk.workers.close()


async def test_children_are_put_back_with_their_places_when_permissions_conflict(tmp_path):
    disk = Disk()
    graph = disk.graph
    for name in ("a", "b"):
        await graph.add(definition(driver="null-co", node_name=name, size=MIB))
    await graph.add(definition(driver="null-co", node_name="ro", size=MIB, read_only=True))
    top = await graph.add(definition(driver="raw", node_name="top", file="a"))
    disk.node = top

    guest = Backend(graph, perm=Perm.CONSISTENT_READ | Perm.WRITE)
    guest.attach(top)
    before = list(graph.find("a").parents)
    with pytest.raises(QmpError, match="Block node is read-only"):
        await reopen.reopen(graph, [definition(driver="raw", node_name="top", file="ro")])
    assert graph.find("a").parents == before
    assert not graph.find("ro").parents
    await reopen.reopen(graph, [definition(driver="raw", node_name="top", file="b", size=4096)])
    assert top.length == 4096
    assert graph.find("b").parents
    assert not graph.find("a").parents
    await guest.let_go()
    await graph.close()
    disk.workers.close()


@pytest.mark.parametrize("size", [2 * MIB, 4 * MIB])
async def test_bitmaps_follow_a_raw_window_that_is_resized(tmp_path, size):
    """Differs: qemu-storage-daemon 7.2 aborts in the first write past the old end."""
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(4 * MIB))
    file = {"driver": "file", "filename": str(path)}
    async with opened(path, driver="raw", file=file, size=3 * MIB) as disk:
        bitmap = add_bitmap(disk)
        await disk.write(0, b"x")
        await disk.write(3 * MIB - 1, b"x")
        await reopen.change(disk.graph, disk.node, {"size": size})
        await disk.write(size - 1, b"y")
        areas = {0, size - 65536} | ({3 * MIB - 65536} if size > 3 * MIB else set())
        assert set(bitmap.bits.areas()) == {(start, 65536) for start in areas}


async def test_a_node_that_goes_while_a_reopening_waits_becomes_nobodys_child(
    tmp_path, monkeypatch
):
    disk = Disk()
    graph = disk.graph
    for name in ("a", "b"):
        await graph.add(definition(driver="null-co", node_name=name, size=MIB))
    top = await graph.add(definition(driver="raw", node_name="top", file="a"))
    prepare = top.driver.reopen_prepare

    async def and_b_goes(change):
        await graph.delete("b")
        await prepare(change)

    monkeypatch.setattr(top.driver, "reopen_prepare", and_b_goes)
    with pytest.raises(QmpError, match="Cannot find device='' nor node-name='b'"):
        await reopen.change(graph, top, {"file": "b"})
    assert top.children["file"].node is graph.find("a")
    await graph.close()
    disk.workers.close()
