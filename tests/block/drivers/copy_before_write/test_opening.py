"""Options, permissions, sizes."""

import resource
from contextlib import contextmanager
from pathlib import Path

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.bitmap.dirty import DirtyBitmap
from qmpfleece.block import pipeline
from qmpfleece.block.backend import Backend
from qmpfleece.block.perm import Perm
from tests.block.drivers.copy_before_write.conftest import DATA, SIZE
from tests.tools.fleecing import CLUSTER, Fleece, pattern
from tests.tools.gate import add_disk
from tests.tools.until import until


async def test_bitmaps_are_listed_newest_first_and_go_with_the_filter(fleece):
    named = fleece.add_bitmap("old")
    await fleece.start()
    assert fleece.disk.node.bitmaps[1:] == [named]
    for bitmap in (*fleece.filter.bitmaps, fleece.disk.node.bitmaps[0]):
        assert (bitmap.name, bitmap.recording, bitmap.granularity) == (None, False, CLUSTER)
    assert [b.count for b in fleece.filter.bitmaps] == [SIZE, 0]


async def test_cluster_follows_the_target_and_the_wish_for_larger_ones(fleece):
    fleece.temp.clusters = 2 * CLUSTER
    await fleece.start()
    assert fleece.cbw._copier.cluster_size == 2 * CLUSTER
    await fleece.write(0, b"x")
    assert fleece.temp.seen("write") == [(0, 2 * CLUSTER)]
    other = add_disk(fleece.graph, "temp2", bytes(SIZE))
    node = await fleece.add(
        driver="copy-before-write",
        node_name="large",
        file="cbw",
        target="temp2",
        min_cluster_size=4 * CLUSTER,
    )
    assert node.bitmaps[0].granularity == 4 * CLUSTER
    await fleece.graph.delete("large")
    assert other.closed is False


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"file": "nah"}, "Cannot find device='nah' nor node-name='nah'"),
        ({"target": "nah"}, "Cannot find device='nah' nor node-name='nah'"),
        ({"bitmap": {"node": "nah", "name": "b"}}, "Node 'nah' not found"),
        ({"bitmap": {"node": "disk", "name": "nah"}}, "Dirty bitmap 'nah' not found"),
        (
            {"bitmap": {"node": "big", "name": "b"}},
            "Cannot create block-copy-state: Failed to merge bitmap 'b' to internal copy-bitmap: "
            "Bitmaps are of different sizes (destination size is 524288, source size is 1048576) "
            "and can't be merged",
        ),
        (
            {"bitmap": {"node": "disk", "name": "busy"}},
            "Cannot create block-copy-state: Failed to merge bitmap 'busy' to internal "
            "copy-bitmap: Bitmap 'busy' is currently in use by another operation and cannot be "
            "used",
        ),
        ({"target": "ro"}, "Block node is read-only"),
        ({"target": "disk"}, "Source and target cannot be the same"),
        (
            {"target": "small"},
            "Target 'small' (512 bytes) is smaller than source 'disk' (524288 bytes)",
        ),
        ({"min-cluster-size": 100000}, "min-cluster-size needs to be a power of 2"),
    ],
)
async def test_bad_options_are_refused_and_leave_no_trace(fleece, options, text):
    add_disk(fleece.graph, "ro", bytes(SIZE), read_only=True)
    add_disk(fleece.graph, "small", bytes(512))
    big = add_disk(fleece.graph, "big", bytes(2 * SIZE))
    fleece.add_bitmap("busy").busy = True
    big.node.bitmaps.append(fleece.add_bitmap("b").__class__(2 * SIZE, CLUSTER, "b"))
    nodes, bitmaps = fleece.graph.nodes(), list(fleece.disk.node.bitmaps)
    with pytest.raises(QmpError) as refused:
        await fleece.start(**options)
    assert refused.value.desc == text
    assert fleece.graph.nodes() == nodes
    assert fleece.disk.node.bitmaps == bitmaps
    assert not fleece.disk.node.parents
    await fleece.start()


async def test_target_may_be_larger_than_the_disk():
    fleece = Fleece(DATA, temp=2 * SIZE)
    await fleece.start()
    await fleece.write(SIZE - 1, b"x")
    assert await fleece.read(0, SIZE) == DATA
    await fleece.close()


async def test_nobody_else_writes_to_the_temporary_image_or_the_disk(fleece):
    await fleece.start()
    other = Backend(fleece.graph, perm=Perm.WRITE)
    for node, child in ((fleece.temp.node, "target"), (fleece.disk.node, "file")):
        with pytest.raises(QmpError) as refused:
            other.attach(node)
        assert refused.value.desc == (
            f"Permission conflict on node '{node.name}': permissions 'write' are both required "
            f"by an unnamed block device (uses node '{node.name}' as 'root' child) and unshared "
            f"by node 'cbw' (uses node '{node.name}' as '{child}' child)."
        )
    reader = Backend(fleece.graph)
    reader.attach(fleece.temp.node)
    await reader.detach()


async def test_image_that_somebody_writes_to_is_no_temporary_image(fleece):
    writer = Backend(fleece.graph, perm=Perm.WRITE)
    writer.attach(fleece.temp.node)
    with pytest.raises(QmpError, match="Permission conflict on node 'temp'"):
        await fleece.start()
    await writer.detach()
    await fleece.start()


async def test_filter_nobody_uses_leaves_the_disk_to_its_writers(fleece):
    writer = Backend(fleece.graph, perm=Perm.WRITE)
    writer.attach(fleece.disk.node)
    node = await fleece.add(
        driver="copy-before-write", node_name="cbw", file="disk", target="temp"
    )
    with pytest.raises(QmpError, match="Permission conflict on node 'disk'"):
        Backend(fleece.graph).attach(node)
    await fleece.graph.delete("cbw")
    await writer.detach()
    await fleece.start()


@pytest.mark.parametrize("length", [SIZE, SIZE - 512])
async def test_disk_may_grow_under_a_format_and_the_snapshot_stays_as_large_as_it_was(length):
    data = pattern(length)
    fleece = Fleece(data)
    await fleece.start()
    await fleece.guest.detach()
    fleece.guest = Backend(fleece.graph, perm=Perm.CONSISTENT_READ | Perm.WRITE | Perm.RESIZE)
    fleece.guest.attach(fleece.filter)
    await fleece.write(length + 4096, b"y" * CLUSTER)
    assert fleece.temp.log == []
    await fleece.write(length - 512, b"x" * 1024)
    assert fleece.disk.data[length - 512 :][:1024] == b"x" * 1024
    assert await fleece.read(0, length) == data
    await fleece.client.pdiscard(0, length)
    assert fleece.counts()["access"] == 0
    await fleece.write(length - 512, b"z" * CLUSTER)
    assert fleece.temp.allocated.count == 0
    await fleece.close()


async def test_reads_of_a_target_above_the_disk_are_tracked_while_there_is_a_filter(fleece):
    above = await fleece.add(driver="raw", node_name="above", file="disk")
    tracked = []
    for name in ("c1", "c2"):
        await fleece.add(driver="copy-before-write", node_name=name, file="disk", target="above")
        tracked.append(bool(above.tracks_reads))
    for name in ("c1", "c2"):
        await fleece.graph.delete(name)
        tracked.append(bool(above.tracks_reads))
    assert tracked == [True, True, True, False]
    await fleece.graph.delete("above")
    await fleece.start()


async def test_disk_may_be_cut_while_the_filter_opens_its_temporary_image(fleece, tmp_path):
    path = tmp_path / "temp"
    path.write_bytes(bytes(SIZE))
    target = {"driver": "file", "filename": str(path)}
    opening = fleece.run(fleece.start(target=target))
    await until(lambda: fleece.disk.node.parents)
    assert not opening.done()
    pipeline.set_length(fleece.disk.node, SIZE - CLUSTER)
    await opening
    assert fleece.filter.length == SIZE - CLUSTER
    assert fleece.counts()["access"] == SIZE - CLUSTER


@contextmanager
def memory_left(length):
    """Let the process map so many bytes more and not all there is."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + length, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


async def test_filter_without_memory_for_its_bitmaps_leaves_no_trace(fleece):
    size = 1 << 50  # three bitmaps of 2 GiB, which nobody touches
    names = ("huge", "huge2")
    for name in names:
        await fleece.add(driver="null-co", node_name=name, size=size, read_zeroes=True)
    huge = fleece.graph.find("huge")
    huge.bitmaps.append(DirtyBitmap(size, 1 << 30, "b"))
    options = {"file": "huge", "target": "huge2", "bitmap": {"node": "huge", "name": "b"}}
    with memory_left(5 << 30), pytest.raises(OSError, match="Cannot allocate memory"):
        await fleece.add(driver="copy-before-write", node_name="c", **options)
    assert [bitmap.name for bitmap in huge.bitmaps] == ["b"]
    for name in names:
        await fleece.graph.delete(name)
    await fleece.start()
