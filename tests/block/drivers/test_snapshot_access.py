import errno

import pytest

from qmpfleece.block.backend import Backend
from qmpfleece.block.driver import Status
from qmpfleece.block.perm import Perm
from tests.tools.fleecing import CLUSTER, Fleece, pattern

SIZE = 8 * CLUSTER
DATA = pattern(2 * CLUSTER) + bytes(4 * CLUSTER) + pattern(2 * CLUSTER)


@pytest.fixture
async def fleece():
    scheme = Fleece(DATA)
    yield scheme
    await scheme.close()


def kinds(extents):
    """Join extents of equal kind: (length, is zero)."""
    runs = []
    for extent in extents:
        assert extent.flags & Status.ALLOCATED
        zero = bool(extent.flags & Status.ZERO)
        if runs and runs[-1][1] == zero:
            runs[-1] = (runs[-1][0] + extent.length, zero)
        else:
            runs.append((extent.length, zero))
    return runs


async def test_block_status_is_that_of_the_moment_the_filter_was_inserted(fleece):
    await fleece.start()
    expected = [(2 * CLUSTER, False), (4 * CLUSTER, True), (2 * CLUSTER, False)]
    assert kinds(await fleece.client.block_status(0, SIZE, 100)) == expected
    await fleece.write(2 * CLUSTER + 5, b"x" * CLUSTER)
    await fleece.guest.pwrite_zeroes(0, CLUSTER)
    assert kinds(await fleece.client.block_status(0, SIZE, 100)) == expected


async def test_block_status_stops_before_what_may_not_be_read(fleece):
    fleece.add_bitmap("b").mark(CLUSTER, 2 * CLUSTER)
    await fleece.start(bitmap={"node": "disk", "name": "b"})
    extents = await fleece.client.block_status(CLUSTER, SIZE - CLUSTER, 100)
    assert kinds(extents) == [(CLUSTER, False), (CLUSTER, True)]
    with pytest.raises(OSError, match="Permission denied") as refused:
        await fleece.client.block_status(0, SIZE, 100)
    assert refused.value.errno == errno.EACCES


async def test_block_status_gives_no_more_extents_than_asked_for(fleece):
    await fleece.start()
    assert len(await fleece.client.block_status(0, SIZE, 2)) == 2


async def test_guest_write_does_not_wait_for_a_status_request_nor_change_its_answer(fleece):
    await fleece.start()
    fleece.disk.stop("status")
    request = await fleece.started(fleece.client.block_status(0, SIZE, 100))
    fleece.disk.stop()
    await fleece.guest.pwrite_zeroes(0, CLUSTER)
    await fleece.write(2 * CLUSTER, b"x" * CLUSTER)
    fleece.disk.release()
    expected = [(2 * CLUSTER, False), (4 * CLUSTER, True), (2 * CLUSTER, False)]
    assert kinds(await request) == expected


async def test_what_is_saved_while_the_target_is_asked_for_its_status_is_asked_for_again(fleece):
    await fleece.start()
    await fleece.write(0, b"x")
    fleece.temp.stop("answer")
    request = await fleece.started(fleece.client.block_status(0, 2 * CLUSTER, 100))
    await fleece.write(CLUSTER, b"x")
    fleece.temp.release()
    assert kinds(await request) == [(2 * CLUSTER, False)]
    assert len(fleece.temp.seen("status")) == 2


async def test_status_of_many_saved_clusters_takes_one_question_to_each_image(fleece):
    await fleece.start()
    for cluster in (0, 2, 5, 7):
        await fleece.write(cluster * CLUSTER, b"x")
    fleece.disk.log.clear()
    fleece.temp.log.clear()
    expected = [(2 * CLUSTER, False), (4 * CLUSTER, True), (2 * CLUSTER, False)]
    assert kinds(await fleece.client.block_status(0, SIZE, 100)) == expected
    assert len(fleece.disk.seen("status")) == len(fleece.temp.seen("status")) == 1


async def test_known_to_be_data_is_what_whoever_has_the_clusters_knows(fleece, monkeypatch):
    for disk, clusters in ((fleece.disk, {0, 1, 2}), (fleece.temp, {1})):
        monkeypatch.setattr(
            disk,
            "is_known_data",
            lambda offset, length, known=clusters: known.issuperset(
                range(offset // CLUSTER, (offset + length - 1) // CLUSTER + 1)
            ),
        )
    fleece.add_bitmap("b").mark(0, 3 * CLUSTER)
    await fleece.start(bitmap={"node": "disk", "name": "b"})
    assert fleece.client.is_known_data(0, 3 * CLUSTER)
    assert not fleece.client.is_known_data(3 * CLUSTER, 1), "it is not accessible"
    await fleece.write(CLUSTER, b"x")
    assert fleece.client.is_known_data(0, 3 * CLUSTER)
    await fleece.write(2 * CLUSTER, b"x")
    assert fleece.client.is_known_data(0, 2 * CLUSTER)
    assert not fleece.client.is_known_data(0, 3 * CLUSTER), "the target does not know it"
    assert fleece.guest.is_known_data(0, 3 * CLUSTER)


async def test_writing_is_not_supported(fleece):
    await fleece.start()
    for request in (fleece.client.pwrite(0, memoryview(b"x")), fleece.client.pwrite_zeroes(0, 1)):
        with pytest.raises(OSError, match="not supported") as refused:
            await request
        assert refused.value.errno == errno.ENOTSUP
    assert fleece.disk.data == fleece.before


async def test_discard_does_nothing_unless_the_node_was_opened_for_it(fleece):
    await fleece.start()
    node = await fleece.add(driver="snapshot-access", node_name="keep", file="cbw")
    client = Backend(fleece.graph, perm=Perm.WRITE)
    client.attach(node)
    await client.pdiscard(0, SIZE)
    await client.detach()
    await fleece.graph.delete("keep")
    assert fleece.counts()["access"] == SIZE


async def test_child_without_a_snapshot_opens_but_cannot_be_used(fleece):
    await fleece.start()
    node = await fleece.add(
        driver="snapshot-access", node_name="none", file="disk", discard="unmap"
    )
    assert node.length == SIZE
    client = Backend(fleece.graph, perm=Perm.CONSISTENT_READ | Perm.WRITE)
    client.attach(node)
    requests = (
        client.pread(0, memoryview(bytearray(1))),
        client.block_status(0, 1, 1),
    )
    for request in requests:
        with pytest.raises(OSError, match="not supported") as refused:
            await request
        assert refused.value.errno == errno.ENOTSUP
    await client.detach()
    await fleece.graph.delete("none")


async def test_needs_nothing_of_its_child(fleece):
    await fleece.start()
    edge = fleece.access_node.children["file"]
    assert (edge.perm, edge.shared) == (Perm.NONE, Perm.ALL)


async def test_file_name_is_that_of_the_disk(fleece):
    await fleece.start()
    assert fleece.access_node.exact_filename == fleece.disk.node.exact_filename


async def test_flush_after_a_discard_reaches_the_temporary_image(fleece):
    await fleece.start()
    await fleece.write(0, b"x")
    await fleece.client.flush()
    assert fleece.temp.seen("flush") == []
    await fleece.client.pdiscard(0, CLUSTER)
    await fleece.client.flush()
    assert fleece.temp.seen("flush") == [(0, 0)]
    assert fleece.disk.seen("flush") == []
