import errno
import os

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.block import formats, pipeline, status
from qmpfleece.block.driver import ReqFlags, Status
from qmpfleece.block.perm import Perm
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.tools.hostfile import add_file
from tests.tools.memory import add_memory, hold

SIZE = 8192
DATA = bytes(range(256)) * 32


@pytest.fixture
def disk(graph):
    return add_memory(graph, "disk", DATA, discard="unmap")


def add(graph, name="raw", file="disk", **options: object):
    return graph.add(
        validate_blockdev({"driver": "raw", "node-name": name, "file": file, **options})
    )


async def read(edge, offset, length):
    buf = bytearray(b"\xee" * length)
    await pipeline.pread(edge, offset, memoryview(buf))
    return bytes(buf)


@pytest.mark.parametrize(
    "window", [{}, {"offset": 100}, {"size": 512}, {"offset": 512, "size": 1024}, {"offset": SIZE}]
)
async def test_all_requests_are_shifted_into_the_window(graph, disk, window):
    node = await add(graph, **window, discard="unmap")
    start = window.get("offset", 0)
    size = window.get("size", SIZE - start)
    model = bytearray(DATA)
    assert node.length == -(-size // 512) * 512
    perm = Perm.CONSISTENT_READ | Perm.WRITE
    edge = hold(graph, node, perm)
    assert await read(edge, 0, node.length) == model[start : start + size].ljust(
        node.length, b"\0"
    )
    if not size:
        return
    await pipeline.pwrite(edge, 10, memoryview(b"new"), ReqFlags.FUA)
    model[start + 10 : start + 13] = b"new"
    await pipeline.pwrite_zeroes(edge, 100, 50)
    model[start + 100 : start + 150] = bytes(50)
    await pipeline.pdiscard(edge, 200, 30)
    model[start + 200 : start + 230] = bytes(30)
    await pipeline.flush(edge)
    assert disk.data == model
    assert [call[0] for call in disk.seen()][-5:] == ["write", "flush", "zero", "discard", "flush"]
    extents = await status.block_status(node, 0, node.length, 100)
    assert sum(extent.length for extent in extents) in {size, node.length}
    assert (extents[0].host_offset, extents[0].node) == (start, disk.node)


async def test_end_of_a_window_of_odd_length_reads_as_zeroes(graph, disk):
    node = await add(graph, offset=100)
    edge = hold(graph, node, Perm.CONSISTENT_READ)
    assert await read(edge, SIZE - 110, 110) == DATA[-10:] + bytes(100)
    assert await read(edge, SIZE - 100, 100) == bytes(100)
    for start, length in ((100, 100), (76, 10), (1, 1)):
        extents = await status.block_status(node, SIZE - start, length, 9)
        assert [(extent.length, extent.flags & Status.ZERO) for extent in extents] == [
            (length, Status.ZERO)
        ]


async def test_windows_outside_the_file_are_refused_in_qemus_words(graph, disk):
    texts = {
        (8193, None): "Offset (8193) cannot be greater than size of the containing file (8192)",
        (0, 8704): "The sum of offset (0) and size (8704) has to be smaller or equal to the "
        " actual size of the containing file (8192)",
        (512, 8192): "The sum of offset (512) and size (8192) has to be smaller or equal to the "
        " actual size of the containing file (8192)",
        (0, 100): "Specified size is not multiple of 512",
        (-1, None): "Parameter 'offset' expects a non-negative number below 2^64",
        (0, -512): "Parameter 'size' expects a non-negative number below 2^64",
    }
    for (offset, size), text in texts.items():
        window = {"offset": offset} | ({} if size is None else {"size": size})
        with pytest.raises(QmpError) as caught:
            await add(graph, **window)
        assert caught.value.desc == text
    assert disk.node.parents == []


async def test_plain_name_is_the_files_unless_it_is_a_window(graph, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(os.urandom(1024))
    await add_file(graph, path)
    assert (await add(graph, "a", "file")).exact_filename == str(path)
    assert (await add(graph, "b", "file", offset=0)).exact_filename == str(path)
    assert (await add(graph, "c", "file", offset=512)).exact_filename == ""
    assert (await add(graph, "d", "file", size=1024)).exact_filename == ""


async def test_only_a_whole_file_is_a_filter_and_a_window_is_alone_in_resizing(graph, disk):
    whole = await add(graph, "whole")
    hold(graph, whole, Perm.RESIZE)
    with pytest.raises(QmpError, match="permissions 'resize' are both required by node 'whole'"):
        await add(graph, "window", size=512)
    assert disk.node.users_perm() == (Perm.RESIZE, Perm.ALL)


async def test_disk_grows_with_its_file_unless_its_size_is_given(graph, disk):
    disk.grows = True
    edge = hold(graph, await add(graph))
    await pipeline.pwrite(edge, SIZE - 2, memoryview(b"abcd"))
    await pipeline.pwrite_zeroes(edge, SIZE + 1000, 1000)
    assert edge.node.length == disk.node.length == SIZE + 2048
    assert await read(edge, SIZE - 2, 6) == b"abcd\0\0"
    await pipeline.truncate(edge, 1024)
    assert edge.node.length == disk.node.length == 1024
    assert await read(edge, 0, 1024) == DATA[:1024]


async def test_disk_of_a_given_size_is_full_at_its_end(graph, disk):
    edge = hold(graph, await add(graph, size=512))
    for request in (
        pipeline.pwrite(edge, 510, memoryview(b"abcd")),
        pipeline.pwrite_zeroes(edge, 512, 512),
    ):
        with pytest.raises(OSError, match="No space left on device"):
            await request
    with pytest.raises(OSError, match="not supported"):
        await pipeline.truncate(edge, 1024)
    assert disk.data == DATA
    assert edge.node.length == 512


async def test_window_knows_as_data_what_its_file_does(graph, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(os.urandom(64 * 1024))
    file = await add_file(graph, path)
    window = await add(graph, file=file.name, offset=4096, size=8192)
    assert not window.driver.is_known_data(0, 8192)
    await status.block_status(file, 0, file.length, 1)
    assert window.driver.is_known_data(0, 8192)
    assert not window.driver.is_known_data(0, 8193)


MAGIC = b"QFI\xfb\0\0\0\3"


async def probed(graph, **options: object):
    given = {"driver": "raw", "node-name": "raw", "file": "disk", **options}
    node = await graph.open(validate_blockdev(given), probed=True)
    return hold(graph, node, Perm.CONSISTENT_READ | Perm.WRITE)


@pytest.mark.parametrize("chunk", [1, 4, 8, 512, 4096])
async def test_a_disk_taken_for_raw_never_begins_like_another_format(graph, disk, chunk):
    edge = await probed(graph)
    wanted = MAGIC.ljust(4096, b"\xee")
    refused = 0
    for offset in range(0, 4096 if chunk > 8 else 8, chunk):
        try:
            await pipeline.pwrite(edge, offset, memoryview(wanted[offset : offset + chunk]))
        except OSError as error:
            refused += error.errno == errno.EPERM
    assert refused
    assert formats.probe(bytes(disk.data)) == "raw"


async def test_a_disk_taken_for_raw_is_written_otherwise(graph, disk):
    edge = await probed(graph)
    for offset, data in ((0, b"data"), (512, MAGIC), (510, b"xyz")):
        await pipeline.pwrite(edge, offset, memoryview(data))
        assert await read(edge, offset, len(data)) == data
    await pipeline.pwrite_zeroes(edge, 0, 1024)
    assert await read(edge, 0, 1024) == bytes(1024)


async def test_a_disk_said_to_be_raw_may_begin_with_anything(graph, disk):
    edge = hold(graph, await add(graph), Perm.CONSISTENT_READ | Perm.WRITE)
    await pipeline.pwrite(edge, 0, memoryview(MAGIC))
    assert disk.data.startswith(MAGIC)
