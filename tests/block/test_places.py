"""What locate says of a read is what pread reads, through every driver that can tell."""

import os
import random

import pytest

from qmpfleece.base.errors import BlockError
from qmpfleece.block.backend import Backend
from qmpfleece.block.perm import Perm
from tests.tools.disk import qemu_img, qemu_io
from tests.tools.graphs import add

CLUSTER = 64 << 10
SIZE = 16 * CLUSTER
DATA = random.Random(5).randbytes(SIZE)


def there(places):
    """Read what the places say, then let go of them."""
    data = b"".join(os.pread(fd, length, offset) for fd, offset, length in places.runs)
    places.release()
    return data


async def read(backend, offset, length):
    got = memoryview(bytearray(length))
    await backend.pread(offset, got)
    return bytes(got)


async def check(graph, node):
    """Compare at many places; return how often locate could tell."""
    backend = Backend(graph, perm=Perm.CONSISTENT_READ)
    backend.attach(graph.find(node))
    rng = random.Random(9)
    told = 0
    for _ in range(100):
        offset = rng.randrange(backend.length // 512) * 512
        length = rng.randrange(512, min(5 * CLUSTER, backend.length - offset) + 1)
        places = backend.locate(offset, length)
        if places is not None:
            told += 1
            assert there(places) == await read(backend, offset, length)
    assert not [node.name for node in graph.nodes() if node.in_flight]
    assert backend.locate(backend.length - 512, 1024) is None
    await backend.detach()
    return told


@pytest.fixture
def disk(tmp_path):
    (tmp_path / "disk").write_bytes(DATA)
    return str(tmp_path / "disk")


async def test_a_file(graph, disk):
    await add(graph, "file", "disk", filename=disk)
    assert await check(graph, "disk") == 100


async def test_a_window_of_a_file(graph, disk):
    await add(graph, "file", "disk", filename=disk)
    await add(graph, "raw", "raw", file="disk", offset=3 * 512, size=9 * CLUSTER)
    assert await check(graph, "raw") == 100


async def test_a_file_without_page_cache_can_not_tell(graph, disk):
    await add(graph, "file", "disk", filename=disk, cache={"direct": True})
    assert await check(graph, "disk") == 0


async def test_behind_io_limits_nothing_is_told(graph, disk):
    await add(graph, "file", "disk", filename=disk)
    backend = Backend(graph)
    backend.attach(graph.find("disk"))
    backend.drained_begin()
    assert backend.locate(0, 512) is None
    backend.drained_end()
    places = backend.locate(0, 512)
    assert there(places) == DATA[:512]
    await backend.detach()


async def test_a_snapshot_half_of_which_was_overwritten(graph, disk, tmp_path):
    await add(graph, "file", "disk", filename=disk)
    (tmp_path / "temp").write_bytes(bytes(SIZE))
    await add(graph, "file", "temp", filename=str(tmp_path / "temp"))
    await add(graph, "copy-before-write", "cbw", file="disk", target="temp")
    await add(graph, "snapshot-access", "snapshot", file="cbw")
    guest = Backend(graph, perm=Perm.CONSISTENT_READ | Perm.WRITE)
    guest.attach(graph.find("cbw"))
    for cluster in random.Random(2).sample(range(16), 8):
        await guest.pwrite(cluster * CLUSTER, memoryview(bytearray(CLUSTER)))
    assert await check(graph, "snapshot") == 100
    assert await check(graph, "cbw") == 100
    snapshot = Backend(graph)
    snapshot.attach(graph.find("snapshot"))
    places = snapshot.locate(0, SIZE)
    assert len(places.runs) > 2
    assert there(places) == DATA
    graph.find("cbw").driver.snapshot.error = OSError(28, "full")
    assert snapshot.locate(0, 512) is None
    await snapshot.detach()
    await guest.detach()


@pytest.fixture
def image(disk, tmp_path):
    """Five clusters of data and one of zeroes over a backing file."""
    path = str(tmp_path / "image")
    qemu_img("create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk, path)
    qemu_io(path, f"write -P 7 0 {5 * CLUSTER}", f"write -z {8 * CLUSTER} {CLUSTER}")
    return path


async def test_a_qcow2_image_tells_of_its_data_alone(graph, disk, image):
    await add(graph, "file", "file", filename=image)
    await add(graph, "file", "disk", filename=disk)
    await add(graph, "raw", "raw", file="disk")
    await add(graph, "qcow2", "q", file="file", backing="raw")
    backend = Backend(graph)
    backend.attach(graph.find("q"))
    assert backend.locate(0, 512) is None  # the tables are not in memory
    assert await read(backend, 0, 512) == b"\x07" * 512
    places = backend.locate(0, 5 * CLUSTER)
    epoch = graph.find("q").driver.image.journal.epoch
    assert epoch.users == 1  # so the clusters are not used for anything else
    assert there(places) == b"\x07" * 5 * CLUSTER
    assert epoch.users == 0
    for cluster in (5, 8):  # the backing file's, zeroes
        assert backend.locate(cluster * CLUSTER, 512) is None
    assert backend.locate(4 * CLUSTER, 2 * CLUSTER) is None  # in part
    await backend.detach()
    assert 0 < await check(graph, "q") < 100


async def test_a_corrupt_qcow2_image_can_not_tell_and_holds_nothing(graph, image):
    with open(image, "r+b") as file:  # noqa: ASYNC230 - the page cache has it
        file.seek(40)
        l1 = int.from_bytes(file.read(8))
        file.seek(l1)
        l2 = int.from_bytes(file.read(8)) & (1 << 56) - 512
        file.seek(l2 + 3 * 8)
        file.write((1 << 63 | 777).to_bytes(8))  # the fourth cluster lies nowhere
    await add(graph, "file", "file", filename=image)
    await add(graph, "qcow2", "q", file="file", backing=None)
    backend = Backend(graph, perm=Perm.CONSISTENT_READ | Perm.WRITE)
    backend.attach(graph.find("q"))
    await read(backend, 0, 512)
    assert there(backend.locate(0, CLUSTER)) == b"\x07" * CLUSTER
    assert backend.locate(0, 4 * CLUSTER) is None
    assert not graph.find("file").in_flight
    with pytest.raises(BlockError):
        await read(backend, 0, 4 * CLUSTER)
    assert backend.locate(0, CLUSTER) is None  # it is known to be corrupt
    await backend.detach()
