"""Block devices, and images that QEMU holds."""

import os
import stat
import subprocess

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.block import pipeline
from qmpfleece.block.backend import Backend
from qmpfleece.block.driver import ReqFlags, Status
from qmpfleece.block.perm import Perm
from qmpfleece.control.resize import resize
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.block.drivers.file.conftest import R, W, locks_of, read
from tests.tools.hostfile import add_file, buffer, needs_qemu, qemu_holds
from tests.tools.memory import hold

# -- block devices -------------------------------------------------------------------------


async def test_device_is_no_hole_though_its_file_is_empty(graph, tmp_path):
    path = tmp_path / "zero"
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
        path.open("rb").close()
    except PermissionError:
        pytest.skip("no devices may be made here")
    given = {"driver": "host_device", "node-name": "n", "filename": str(path)}
    node = await graph.add(validate_blockdev(given))
    extents = await node.driver.block_status(0, 1 << 20, 10)
    assert [(e.length, bool(e.flags & Status.DATA)) for e in extents] == [(1 << 20, True)]


@pytest.fixture(params=[512, 4096])
def device(request, tmp_path, loop_device):
    path = tmp_path / "device"
    path.write_bytes(os.urandom(1 << 20))
    return request.param, path, str(loop_device(path, "--sector-size", request.param))


@pytest.mark.parametrize("direct", [False, True])
async def test_block_device_is_read_and_written_like_a_file(graph, device, direct):
    sector, path, name = device
    model = bytearray(path.read_bytes())
    given = {"driver": "host_device", "node-name": "n", "filename": name, "discard": "unmap"}
    node = await graph.add(validate_blockdev({**given, "cache": {"direct": direct}}))
    assert node.request_alignment == (sector if direct else 1)
    assert node.length == 1 << 20
    backend = Backend(graph, "guest", R | W)
    backend.attach(node)
    assert await read(backend, 1000, 5000) == model[1000:6000]
    await backend.pwrite(1000, buffer(b"x" * 5000), ReqFlags.FUA)
    model[1000:6000] = b"x" * 5000
    await backend.pwrite_zeroes(10_000, 20_000)
    model[10_000:30_000] = bytes(20_000)
    await backend.pwrite_zeroes(65536, 65536, ReqFlags.MAY_UNMAP)
    await backend.pdiscard(131072, 65536)
    model[65536:196608] = bytes(131072)
    await backend.flush()
    assert await read(backend, 0, 1 << 20) == model
    extents = await backend.block_status(0, 1 << 20, 10)
    assert [(e.length, bool(e.flags & Status.DATA)) for e in extents] == [(1 << 20, True)]
    await backend.detach()
    await graph.delete("n")
    assert path.read_bytes() == model


@pytest.mark.parametrize("direct", [False, True])
async def test_device_says_that_it_discards_no_parts_of_sectors(graph, device, direct):
    """As QEMU has it; found by asking it, since it would take a device of the system's."""
    sector, path, name = device
    before = path.read_bytes()
    given = {"driver": "host_device", "node-name": "n", "filename": name, "discard": "unmap"}
    node = await graph.add(validate_blockdev({**given, "cache": {"direct": direct}}))
    edge = hold(graph, node, W)
    for offset, length in ((0, 100), (sector + 1, 4 * sector), (8 * sector - 1, sector)):
        with pytest.raises(OSError, match="Invalid argument"):
            await pipeline.pdiscard(edge, offset, length)
    assert path.read_bytes() == before
    await pipeline.pdiscard(edge, 0, 2 * sector)
    assert path.read_bytes() == bytes(2 * sector) + before[2 * sector :]


# -- with QEMU -----------------------------------------------------------------------------


@needs_qemu
async def test_image_that_qemu_writes_is_not_written_by_us(attach, graph, image):
    options = f"raw,node-name=r,size=512,file.driver=file,file.filename={image}"
    with qemu_holds("--blockdev", options):
        with pytest.raises(QmpError, match='Failed to get "resize" lock'):
            await attach(image, perm=R | Perm.RESIZE)
        assert graph.find("file").parents == []


async def test_locks_are_on_a_descriptor_of_their_own(graph, image):
    """Or io_uring, which lets go of files late, would keep them after a kill."""
    node = await add_file(graph, image)
    hold(graph, node, R | W)
    assert not locks_of(node.driver._fd)
    assert locks_of(node.driver._lock_fd)


def _grow(path, name, length):
    os.truncate(path, length)
    subprocess.run(["losetup", "-c", name], check=True)


@pytest.mark.parametrize("above", [None, "raw"])
async def test_device_can_not_be_made_longer_and_need_not_be_made_shorter(graph, device, above):
    """As QEMU has it; found by asking it. So a format can shrink its disk on a device."""
    _, path, name = device
    given = {"driver": "host_device", "node-name": "n", "filename": name}
    node = await graph.add(validate_blockdev(given))
    if above is not None:
        given = {"driver": above, "node-name": "above", "file": "n"}
        node = await graph.add(validate_blockdev(given))
    backend = Backend(graph, "guest", R | W | Perm.RESIZE)
    backend.attach(node)
    for length in (1 << 20, 1 << 19, (1 << 20) - 100, 0):
        await resize(backend, length)
        assert node.length == 1 << 20
    with pytest.raises(QmpError, match="Cannot grow device files"):
        await resize(backend, (1 << 20) + 512)
    _grow(path, name, 1 << 22)
    await resize(backend, 1 << 21)
    assert node.length == 1 << 22
    assert await read(backend, (1 << 22) - 10, 10) == bytes(10)
