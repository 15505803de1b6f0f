"""The filter over real files, with temporary images of several formats."""

import random
from typing import Any

import pytest

from qmpfleece.block import pipeline
from qmpfleece.block.backend import Backend
from qmpfleece.block.perm import Perm
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.tools.disk import qemu_img
from tests.tools.hostfile import buffer
from tests.tools.programs import needs

CLUSTER = 65536
SIZE = 40 * CLUSTER + 1536
KINDS = ("file", "raw", pytest.param("qcow2", marks=needs("qemu-img")))


class Images:
    """The guest's and the client's handles, and the files below."""

    guest: Backend
    client: Backend

    def __init__(self, graph, folder) -> None:
        self.graph = graph
        self.disk = folder / "disk"
        self.temp = folder / "temp"
        self.before = random.Random(1).randbytes(SIZE)
        self.disk.write_bytes(self.before)

    async def add(self, **options: Any):
        wire = {key.replace("_", "-"): value for key, value in options.items()}
        return await self.graph.add(validate_blockdev(wire))

    def create_temp(self, kind):
        if kind == "qcow2":
            qemu_img("create", "-q", "-f", "qcow2", self.temp, SIZE)
        else:
            self.temp.touch()
            with self.temp.open("r+b") as file:
                file.truncate(SIZE)

    async def build(self, kind):
        self.create_temp(kind)
        target: dict[str, Any] = {"driver": "file", "filename": str(self.temp)}
        if kind != "file":
            target = {"driver": kind, "file": target}
        await self.add(driver="file", node_name="disk", filename=str(self.disk), discard="unmap")
        node = await self.add(
            driver="copy-before-write",
            node_name="cbw",
            file="disk",
            target=target | {"discard": "unmap", "node-name": "temp"},
            discard="unmap",
        )
        access = await self.add(
            driver="snapshot-access", node_name="snap", file="cbw", discard="unmap"
        )
        self.guest = Backend(self.graph, perm=Perm.CONSISTENT_READ | Perm.WRITE)
        self.guest.attach(node)
        self.client = Backend(self.graph, perm=Perm.CONSISTENT_READ | Perm.WRITE)
        self.client.attach(access)

    async def read(self, backend):
        buf = bytearray(SIZE)
        await backend.pread(0, memoryview(buf))
        return bytes(buf)

    def temp_bytes(self):
        return self.temp.stat().st_blocks * 512


@pytest.fixture
async def images(graph, tmp_path):
    files = Images(graph, tmp_path)
    yield files
    await files.guest.detach()
    await files.client.detach()
    for name in ("snap", "cbw", "disk"):
        await graph.delete(name)


@pytest.mark.parametrize("kind", KINDS)
async def test_snapshot_stays_and_the_disk_changes_whatever_the_temporary_image_is(images, kind):
    await images.build(kind)
    after = bytearray(images.before)
    chance = random.Random(2)
    for _ in range(60):
        offset = chance.randrange(SIZE - 1)
        length = chance.randrange(1, min(3 * CLUSTER, SIZE - offset) + 1)
        if chance.random() < 0.3:
            await images.guest.pwrite_zeroes(offset, length)
            after[offset : offset + length] = bytes(length)
        else:
            data = chance.randbytes(length)
            await images.guest.pwrite(offset, buffer(data))
            after[offset : offset + length] = data
    assert await images.read(images.client) == images.before
    assert await images.read(images.guest) == after
    await images.guest.flush()
    assert images.disk.read_bytes() == after


@pytest.mark.parametrize("kind", KINDS)
async def test_discard_by_the_client_gives_the_space_back_to_the_file_system(images, kind):
    await images.build(kind)
    empty = images.temp_bytes()
    await images.guest.pwrite(0, buffer(b"x" * SIZE))
    if images.temp_bytes() < SIZE:
        pytest.skip("the file system does not count blocks at once")
    await images.client.pdiscard(0, SIZE)
    # A format keeps its tables, and frees for good when these are stable.
    await images.client.flush()
    assert images.temp_bytes() <= empty + 4 * CLUSTER
    with pytest.raises(OSError, match="Permission denied"):
        await images.client.pread(0, memoryview(bytearray(1)))


async def test_disk_of_zeroes_takes_no_space_in_the_temporary_image(images):
    images.before = bytes(SIZE)
    images.disk.write_bytes(b"")
    with images.disk.open("r+b") as file:
        file.truncate(SIZE)
    await images.build("raw")
    await images.guest.pwrite(0, buffer(b"x" * SIZE))
    assert images.temp_bytes() == 0
    assert await images.read(images.client) == images.before


@pytest.mark.parametrize("is_grown_again", [False, True])
async def test_what_is_cut_off_the_disk_is_not_in_the_snapshot_any_more(images, is_grown_again):
    await images.build("file")
    resizer = Backend(images.graph, perm=Perm.RESIZE)
    resizer.attach(images.graph.find("cbw"))
    assert resizer.root is not None
    await pipeline.truncate(resizer.root, CLUSTER + 512)
    if is_grown_again:
        await pipeline.truncate(resizer.root, SIZE)
    await resizer.detach()
    await images.guest.pwrite(CLUSTER, buffer(b"x" * 512))
    end = memoryview(bytearray(CLUSTER + 512))
    await images.client.pread(0, end)
    assert end == images.before[: CLUSTER + 512]
    for offset in (CLUSTER, CLUSTER + 512, SIZE - 512):
        with pytest.raises(OSError, match="Permission denied"):
            await images.client.pread(offset, memoryview(bytearray(1024))[: SIZE - offset])
    with pytest.raises(OSError, match="Permission denied"):
        await images.client.block_status(CLUSTER + 512, 512, 1)
    await images.client.pdiscard(0, SIZE)
    with pytest.raises(OSError, match="Permission denied"):
        await images.client.pread(CLUSTER, memoryview(bytearray(512)))
