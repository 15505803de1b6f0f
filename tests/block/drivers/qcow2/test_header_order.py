"""Several write the header at once: what stands there in the end is what each has changed."""

import asyncio
import shutil

import pytest

from qmpfleece.block.drivers.qcow2.layout import Incompatible
from tests.tools.disk import opened, qemu_img
from tests.tools.hold import start
from tests.tools.until import until

MIB = 1 << 20


class Held:
    """Lets whoever writes all of the header wait before that begins."""

    def __init__(self, disk) -> None:
        self._file = disk.node.children["file"].node.driver
        self._pwrite = self._file.pwrite
        self._file.pwrite = self._held
        self._gate = asyncio.Event()
        self.reached = False

    async def _held(self, offset: int, *arguments: object):
        if not offset:
            self.reached = True
            await self._gate.wait()
        await self._pwrite(offset, *arguments)

    def let_go(self):
        self._file.pwrite = self._pwrite
        self._gate.set()


async def remove_bitmap(disk):
    await disk.driver.remove_persistent_bitmap("b")


async def change_backing(disk):
    await disk.driver.change_backing("base", "raw")


@pytest.fixture
def image(tmp_path):
    def make(options):
        path = tmp_path / "a.qcow2"
        qemu_img("create", "-q", "-f", "qcow2", "-o", options, path, "8M")
        qemu_img("bitmap", "--add", path, "b")
        return path

    return make


def written_by_the_journal(disk):
    header = disk.driver.image.header
    return header.refcount_table_offset, header.incompatible


async def write_and_flush(disk, length):
    await disk.write(0, b"a" * length)
    await disk.guest.flush()


async def killed_after_both(disk, image, change, length):
    """Change the header, write and flush; return the file as it is then."""
    copy = image.with_name("killed.qcow2")
    held = Held(disk)
    changing = await start(change(disk))
    await until(lambda: held.reached)
    using = asyncio.create_task(write_and_flush(disk, length))
    before = written_by_the_journal(disk)
    await until(lambda: written_by_the_journal(disk) != before)
    await start(asyncio.sleep(0), 1000)  # as a rule enough for it to be written
    held.let_go()
    await asyncio.gather(changing, using)
    shutil.copy(image, copy)
    return copy


@pytest.mark.parametrize("change", [remove_bitmap, change_backing])
async def test_image_is_marked_dirty_though_all_of_the_header_is_written_meanwhile(image, change):
    path = image("lazy_refcounts=on")
    async with opened(path) as disk:
        copy = await killed_after_both(disk, path, change, 512)
        assert disk.driver.image.header.incompatible & Incompatible.DIRTY
    assert copy.read_bytes()[79] & Incompatible.DIRTY


@pytest.mark.parametrize("change", [remove_bitmap, change_backing])
async def test_header_names_the_refcount_table_that_has_moved_meanwhile(image, change):
    path = image("cluster_size=512,refcount_bits=64")
    async with opened(path) as disk:
        before = disk.driver.image.header.refcount_table_offset
        copy = await killed_after_both(disk, path, change, 3 * MIB)
        now = disk.driver.image.header.refcount_table_offset
    assert now != before
    assert int.from_bytes(copy.read_bytes()[48:56], "big") == now
