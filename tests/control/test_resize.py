"""Resizing a disk that is in use."""

import asyncio

from qmpfleece.block.backend import Backend
from qmpfleece.block.perm import Perm
from qmpfleece.control.resize import resize
from tests.tools.disk import check, opened, qemu_img
from tests.tools.hold import hold, start

MIB = 1 << 20


async def test_write_that_comes_while_the_disk_shrinks_waits_for_the_new_end(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, MIB)
    async with opened(image) as disk:
        await disk.write(0, b"x" * MIB)
        await disk.guest.flush()
        user, other = (Backend(disk.graph, perm=perm) for perm in (Perm.WRITE, Perm.RESIZE))
        user.attach(disk.node)
        other.attach(disk.node)
        gate, _ = hold(disk.node.children["file"].node.driver, "flush")
        resizing = await start(resize(other, MIB // 2))
        late = await start(user.pwrite(MIB * 3 // 4, memoryview(b"z" * 65536)))
        assert not resizing.done()
        gate.set()
        await resizing
        await asyncio.wait([late])
        assert isinstance(late.exception(), OSError)
        await resize(other, MIB)
        assert await disk.read() == b"x" * (MIB // 2) + bytes(MIB // 2)
        await user.detach()
        await other.detach()
    check(image)
