"""The file below an image grows while that is open: what is new there is not zero."""

import os
import shutil

import pytest

from qmpfleece.block import reopen
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.tools.disk import check, opened, qemu_img, qemu_io, run

MIB = 1 << 20
CLUSTER = 65536
STALE = b"\xff" * 4 * MIB


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "16M")
    return path


async def write_here_and_there(disk):
    """Write parts of clusters, so that there are clusters in what is new."""
    for number in range(8):
        await disk.write(number * CLUSTER + 512, b"a" * 512)
    expected = (bytes(512) + b"a" * 512 + bytes(CLUSTER - 1024)) * 8
    assert await disk.read(0, 8 * CLUSTER) == expected


def append(path):
    with path.open("ab") as file:
        file.write(STALE)


@pytest.mark.parametrize("above", [None, "raw", "offset", "blkdebug", "copy-before-write"])
async def test_new_clusters_in_a_file_that_another_has_made_longer_are_zero(
    tmp_path, image, above
):
    file = {"driver": "file", "filename": str(image)}
    if above == "offset":
        image.write_bytes(bytes(MIB) + image.read_bytes())
        file = {"driver": "raw", "offset": MIB, "file": file}
    elif above == "blkdebug":
        file = {"driver": above, "image": file}
    elif above == "copy-before-write":
        target = {"driver": "null-co", "size": image.stat().st_size}
        file = {"driver": above, "file": file, "target": target}
    elif above is not None:
        file = {"driver": above, "file": file}
    async with opened(image, file=file) as disk:
        append(image)
        await write_here_and_there(disk)


@pytest.fixture
def device(image, loop_device):
    os.truncate(image, MIB)
    return str(loop_device(image))


async def test_new_clusters_on_a_device_that_has_grown_are_zero(image, device):
    async with opened(image, file={"driver": "host_device", "filename": device}) as disk:
        append(image)
        run("losetup", "-c", device)
        await disk.write(8 * MIB, b"x" * MIB)  # what had been there
        await write_here_and_there(disk)
    check(image)


async def test_new_clusters_in_a_window_that_was_made_larger_are_zero(image):
    os.truncate(image, 4 * CLUSTER)  # as it is now, but for the end of the last cluster
    append(image)
    file = {"driver": "file", "filename": str(image)}
    window = {"driver": "raw", "node-name": "window", "size": 4 * CLUSTER, "file": file}
    async with opened(image, file=window) as disk:
        larger = {**window, "size": image.stat().st_size}
        await reopen.reopen(disk.graph, [validate_blockdev(larger)])
        await write_here_and_there(disk)
    check(image)


async def test_new_clusters_in_a_longer_file_that_took_the_place_are_zero(tmp_path, image):
    other = tmp_path / "other.qcow2"
    shutil.copy(image, other)
    append(other)
    async with opened(image) as disk:
        longer = {"driver": "file", "node-name": "longer", "filename": str(other)}
        await disk.graph.add(validate_blockdev(longer))
        again = {"driver": "qcow2", "node-name": "disk", "discard": "unmap", "file": "longer"}
        await reopen.reopen(disk.graph, [validate_blockdev(again)])
        await write_here_and_there(disk)
    qemu_io(other, "read -P 0 1M 15M")


@pytest.mark.parametrize("above", [None, "raw"])
async def test_small_write_to_a_file_of_our_own_is_not_made_larger(image, above):
    file = {"driver": "file", "filename": str(image)}
    async with opened(image, file={"driver": above, "file": file} if above else file) as disk:
        await disk.write(0, b"a" * 512)
        occupied = image.stat().st_blocks * 512
        for number in range(1, 16):
            await disk.write(number * CLUSTER, b"a" * 512)
        assert image.stat().st_blocks * 512 - occupied <= 16 * 4096
