import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.block.drivers.qcow2 import compression
from tests.tools.disk import check, content, opened, qemu_img, qemu_io

METHODS = [compression.DEFLATE, compression.ZSTD]
CLUSTER = 65536


@pytest.mark.parametrize("method", METHODS)
@given(st.binary(min_size=1, max_size=100), st.binary(max_size=600))
def test_cluster_comes_back_whatever_follows_it(method, unit, behind):
    data = (unit * (CLUSTER // len(unit) + 1))[:CLUSTER]
    packed = compression.compress(method, data)
    assert packed is not None
    assert compression.decompress(method, bytearray(packed + behind), CLUSTER) == data


@pytest.mark.parametrize("method", METHODS)
def test_what_does_not_get_smaller_is_not_compressed(method):
    assert compression.compress(method, random.Random(1).randbytes(CLUSTER)) is None


@pytest.mark.parametrize("method", METHODS)
@given(data=st.binary(min_size=1, max_size=1000))
def test_damaged_data_is_an_error(method, data):
    try:
        found = compression.decompress(method, bytearray(data), CLUSTER)
    except ValueError:
        return
    assert len(found) == CLUSTER


@pytest.mark.parametrize("method", METHODS)
def test_too_little_data_is_an_error(method):
    packed = compression.compress(method, bytes(CLUSTER))
    with pytest.raises(ValueError, match="data"):
        compression.decompress(method, bytearray(packed), CLUSTER + 1)


@pytest.mark.parametrize("name", compression.NAMES)
async def test_clusters_compressed_by_us_are_read_by_qemu_img(tmp_path, name):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"compression_type={name}", image, "2049k")
    data = b"".join(bytes([number]) * 1000 for number in range(1, 250)) * 9
    data = data[: 2049 * 1024].ljust(2049 * 1024, b"z")
    async with opened(image) as disk:
        await disk.driver.pwrite_compressed(0, memoryview(data))
        assert await disk.read() == data
        with pytest.raises(OSError, match="Invalid argument"):
            await disk.driver.pwrite_compressed(512, memoryview(bytes(CLUSTER)))
        await disk.write(CLUSTER + 512, b"x" * 512)
        data = data[: CLUSTER + 512] + b"x" * 512 + data[CLUSTER + 1024 :]
    check(image)
    assert content(image, tmp_path) == data
    assert image.stat().st_size < 1 << 20


@pytest.mark.parametrize("there", ["write -c 0 64k", "write 0 64k", "write -z 0 64k"])
async def test_compressed_data_replaces_nothing_that_has_a_cluster(tmp_path, there):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    qemu_io(image, "write 0 64k" if "-z" in there else "read 0 64k", there)
    async with opened(image) as disk:
        before = await disk.read()
        with pytest.raises(OSError, match="Input/output error"):
            await disk.driver.pwrite_compressed(0, memoryview(b"y" * CLUSTER))
        assert await disk.read() == before
        # What can't be compressed is written as any other data.
        data = random.Random(1).randbytes(CLUSTER)
        await disk.driver.pwrite_compressed(0, memoryview(data))
        assert await disk.read(0, CLUSTER) == data
    check(image)


async def test_compressed_data_goes_where_zeroes_are_without_a_cluster(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    qemu_io(image, "write -z 0 64k")
    async with opened(image) as disk:
        await disk.driver.pwrite_compressed(0, memoryview(b"y" * CLUSTER))
        assert await disk.read(0, CLUSTER) == b"y" * CLUSTER
    check(image)
