"""Many requests at once on the same clusters: each sees what it wrote."""

import asyncio
import os
import random
from itertools import count

import pytest

from qmpfleece.block.driver import ReqFlags
from qmpfleece.block.drivers.qcow2 import journal
from qmpfleece.block.drivers.qcow2.layout import OFFSET_MASK
from tests.tools.disk import check, content, opened, qemu_img, qemu_io
from tests.tools.hold import Gate, hold, start
from tests.tools.snapshots import delete, take

MIB = 1 << 20
SIZE = 4 * MIB
WORKERS = 12
STRIPE = 1024
IMAGES = {
    "64 KiB": ("cluster_size=64k", {}),
    "512 B, small caches": ("cluster_size=512,refcount_bits=32", {"cache_size": 4096}),
    "2 MiB": ("cluster_size=2M", {}),
    "subclusters": ("cluster_size=16k,extended_l2=on", {}),
    "narrow refcounts": ("cluster_size=4k,refcount_bits=2", {"cache_size": 32768}),
    "lazy": ("cluster_size=4k,lazy_refcounts=on", {"l2_cache_entry_size": 512}),
}


async def work(disk, mine, seed, rounds):
    """Use the stripes that belong to one worker; nobody else touches them."""
    rnd = random.Random(seed)
    model = {}
    for _ in range(rounds):
        stripe = rnd.choice(mine)
        match rnd.choice(["write", "write", "zero", "read", "flush"]):
            case "write":
                model[stripe] = rnd.randbytes(STRIPE)
                await disk.write(stripe * STRIPE, model[stripe])
            case "zero":
                model[stripe] = bytes(STRIPE)
                flags = rnd.choice([0, ReqFlags.MAY_UNMAP])
                await disk.guest.pwrite_zeroes(stripe * STRIPE, STRIPE, flags)
            case "read":
                if stripe in model:
                    assert await disk.read(stripe * STRIPE, STRIPE) == model[stripe]
            case "flush":
                await disk.guest.flush()
    return model


async def discard_and_rewrite(disk, start, seed):
    """Free whole clusters and take them again, so that they change hands."""
    rnd = random.Random(seed)
    model = bytes(MIB)
    for _ in range(10):
        await disk.guest.pdiscard(start, MIB)
        model = rnd.randbytes(MIB)
        await disk.write(start, model)
        assert await disk.read(start, MIB) == model
    return model


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("creation", "node"), IMAGES.values(), ids=IMAGES)
async def test_requests_on_the_same_clusters_keep_their_data(tmp_path, creation, node, seed):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", creation, image, SIZE + MIB)
    async with opened(image, **node) as disk:
        stripes = list(range(SIZE // STRIPE))[: 40 * WORKERS]
        models = await asyncio.gather(
            discard_and_rewrite(disk, SIZE, seed),
            *(
                work(disk, stripes[number::WORKERS], seed * 100 + number, 80)
                for number in range(WORKERS)
            ),
        )
        expected = bytearray(SIZE)
        for model in models[1:]:
            for stripe, data in model.items():
                expected[stripe * STRIPE : (stripe + 1) * STRIPE] = data
        expected += models[0]
        assert await disk.read() == expected
    check(image)
    assert content(image, tmp_path) == expected


async def test_cluster_is_not_used_again_while_it_is_read(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "4M")
    async with opened(image, pass_discard_request=False) as disk:
        await disk.write(0, b"1" * 65536)
        file = disk.node.children["file"].node.driver
        gate, let_go = hold(file, "pread")
        reading = await gate.stops(disk.read(0, 65536))
        let_go()
        await disk.guest.pdiscard(0, 65536)
        for number in range(1, 5):
            await disk.guest.flush()
            await disk.write(number * 65536, b"2" * 65536)
        gate.set()
        assert await reading == b"1" * 65536


async def test_late_write_does_not_hit_a_cluster_that_changed_hands(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "4M")
    async with opened(image) as disk:
        await disk.write(0, b"1" * 65536)
        file = disk.node.children["file"].node.driver
        gate, let_go = hold(file, "pwrite")
        writing = await gate.stops(disk.write(0, b"3" * 65536))
        let_go()
        await disk.guest.pdiscard(0, 65536)
        for number in range(1, 5):
            await disk.guest.flush()
            await disk.write(number * 65536, b"2" * 65536)
        gate.set()
        await writing
        assert await disk.read(65536, 4 * 65536) == b"2" * 4 * 65536


async def test_write_to_a_cluster_waits_for_the_one_that_allocates_it(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "4M")
    async with opened(image) as disk:
        await disk.write(MIB, b"0" * 512)  # so that tables exist
        file = disk.node.children["file"].node.driver
        gate, let_go = hold(file, "pwrite")
        first = await gate.stops(disk.write(0, b"1" * 512))
        let_go()
        second = await start(disk.write(512, b"2" * 512))
        other = await start(disk.write(65536, b"3" * 512))
        await other
        assert not second.done()
        assert await disk.read(0, 1024) == bytes(1024)
        gate.set()
        await asyncio.gather(first, second)
        assert await disk.read(0, 1536) == b"1" * 512 + b"2" * 512 + bytes(512)
    check(image)


async def test_write_to_a_shared_cluster_leaves_the_snapshot_alone(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "4M")
    qemu_io(image, "write -P 1 0 4M")
    qemu_img("snapshot", "-c", "before", image)
    async with opened(image) as disk:
        await asyncio.gather(
            *(disk.write(start, b"\2" * 512) for start in range(0, 4 * MIB, 4096))
        )
        assert (await disk.read()).count(2) == 512 * 1024
    check(image)
    qemu_img("snapshot", "-a", "before", image)
    assert content(image, tmp_path) == b"\1" * 4 * MIB
    qemu_img("snapshot", "-d", "before", image)
    check(image)


async def test_clusters_that_were_freed_are_used_again(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "64M")
    async with opened(image) as disk:
        for _ in range(10):
            await disk.write(0, b"x" * 8 * MIB)
            await disk.guest.pdiscard(0, 8 * MIB)
            await disk.guest.flush()
    assert image.stat().st_size < 20 * MIB


async def test_clusters_that_were_freed_are_used_again_at_once_where_there_is_no_other(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "512k")
    os.truncate(image, MIB)
    window = {"driver": "raw", "size": MIB, "file": {"driver": "file", "filename": str(image)}}
    async with opened(image, file=window) as disk:
        for number in range(1, 8):
            data = bytes([number]) * 512 * 1024
            await disk.write(0, data)
            assert await disk.read() == data
            await disk.guest.pdiscard(0, 512 * 1024)
        await disk.write(0, data)
        await disk.resize(2 * MIB)
        with pytest.raises(OSError, match="No space left"):
            await disk.write(512 * 1024, data + data)
        assert await disk.read(0, 512 * 1024) == data
    check(image)


async def test_others_have_turns_while_room_for_a_table_is_looked_for(tmp_path):
    image = tmp_path / "a.qcow2"
    options = "cluster_size=512,refcount_bits=64"  # 64 clusters are counted in a block
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, image, "8M")
    qemu_io(image, "write 0 4M")
    async with opened(image, refcount_cache_size=MIB) as disk:
        refcounts, turns = disk.driver.image.refcounts, 0
        await disk.guest.pdiscard(0, 512)
        await disk.guest.flush()
        looking = asyncio.create_task(refcounts.allocate_table(2))
        while not looking.done():
            await asyncio.sleep(0)
            turns += 1
        disk.driver.image.journal.free(await looking, 2, discard=False)
        assert turns > 60
    check(image)


async def test_many_clusters_that_were_freed_together_are_used_again(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "MANY_CLUSTERS", 100)
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "64M")
    async with opened(image) as disk:
        for _ in range(5):
            await disk.write(0, b"x" * 8 * MIB)
            await disk.guest.pdiscard(0, 8 * MIB)
        assert not disk.driver.image.journal.overfull
    assert image.stat().st_size < 20 * MIB


async def test_unknown_extension_and_header_fields_survive(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "4M")
    with image.open("r+b") as file:
        header = bytearray(file.read(512))
        header[100:104] = (120).to_bytes(4, "big")
        strange = b"\x12\x34\x56\x78" + (5).to_bytes(4, "big") + b"hello\0\0\0"
        file.seek(112)
        file.write(b"unknown!" + strange + bytes(8))
        file.seek(0)
        file.write(header[:112])
        file.seek(88)
        file.write((1 << 40).to_bytes(8, "big"))
    async with opened(image) as disk:
        await disk.write(0, b"x" * 512)
    data = image.read_bytes()[:512]
    assert data[112:120] == b"unknown!"
    assert strange in data
    assert data[88:96] == bytes(8)
    check(image)


async def test_small_writes_to_a_new_cluster_are_surrounded_by_zeroes(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "4M")
    async with opened(image, discard="unmap", pass_discard_request=False) as disk:
        await disk.write(100, b"new")
        # At the end of the file there is nothing that would have to be overwritten.
        assert image.stat().st_blocks * 512 < 6 * 65536
        await disk.write(65536, b"x" * 65536)
        await disk.guest.pdiscard(65536, 65536)
        await disk.guest.flush()
        await disk.guest.flush()
        # The cluster that is free now is full of what was there.
        await disk.write(2 * 65536 + 100, b"old")
        expected = bytes(100) + b"new" + bytes(2 * 65536 - 3) + b"old" + bytes(65536 - 103)
        assert await disk.read(0, 3 * 65536) == expected
    check(image)
    assert content(image, tmp_path)[: 3 * 65536] == expected


async def test_small_write_above_a_backing_file_keeps_what_is_around(tmp_path):
    image = tmp_path / "a.qcow2"
    (tmp_path / "base").write_bytes(b"b" * 100_000)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", image, "1M")
    async with opened(image) as disk:
        await disk.write(512, b"x" * 512)
        # Where the backing file ends, within a cluster.
        await disk.write(2 * 65536 - 512, b"y" * 512)
        await disk.write(3 * 65536, b"z" * 512)
        data = bytearray(b"b" * 100_000 + bytes((1 << 20) - 100_000))
        data[512:1024], data[131_072 - 512 : 131_072] = b"x" * 512, b"y" * 512
        data[196_608 : 196_608 + 512] = b"z" * 512
        data[99_840:100_000] = b"b" * 160
        assert await disk.read() == data
    check(image)


async def test_cancelled_write_that_has_linked_its_clusters_keeps_them(tmp_path):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "4M")
    qemu_io(image, "write -c -P 1 0 64k")
    async with opened(image) as disk:
        told = asyncio.Event()

        async def stop(event):
            if event == "cluster_free":
                told.set()
                await asyncio.Event().wait()

        disk.node.debug = stop
        writing = asyncio.create_task(disk.write(0, b"2" * 65536))
        await told.wait()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        disk.node.debug = None
        await disk.guest.flush()
        await disk.guest.flush()
        await disk.write(MIB, b"3" * 4 * 65536)
        assert await disk.read(0, 65536) == b"2" * 65536
    check(image)


def hold_at_break_point(disk):
    """Let the next one who loads a slice wait before it begins."""
    gate = Gate()

    async def wait(event):
        if event == "l2_load":
            disk.node.debug = None
            await gate.wait()

    disk.node.debug = wait
    return gate


def hold_in_read(disk):
    """Let the next read of the file wait when it is done."""
    gate, file = Gate(), disk.node.children["file"].node.driver
    whole = file.pread

    async def wait(*arguments: object):
        file.pread = whole
        await whole(*arguments)
        await gate.wait()

    file.pread = wait
    return gate


@pytest.mark.parametrize("holding", [hold_at_break_point, hold_in_read])
async def test_slice_of_a_table_that_was_replaced_while_it_was_loaded_is_not_kept(
    tmp_path, holding
):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", image, "64M")
    qemu_io(image, "write -P 1 0 64k")
    async with opened(image, l2_cache_entry_size=512) as disk:
        await take(disk, "s")
        await disk.reopen(image, l2_cache_entry_size=512)
        l1 = disk.driver.image.l1
        old = l1[0] & OFFSET_MASK
        gate = holding(disk)
        reading = await gate.stops(disk.read(0, 65536))
        await disk.write(MIB, b"2" * 65536)
        gate.set()
        assert await reading == b"\1" * 65536
        assert l1[0] & OFFSET_MASK != old
        await delete(disk, "s")
        for number in count(1):
            await disk.write(number * 2 * MIB + MIB, b"3" * 4096)
            if l1[number] & OFFSET_MASK == old:
                break
        assert await disk.read(number * 2 * MIB, MIB) == bytes(MIB)
        await disk.write(number * 2 * MIB, b"4" * 4096)
        assert await disk.read(0, 65536) == b"\1" * 65536
    check(image)
