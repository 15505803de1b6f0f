"""blockdev-snapshot-internal-sync; its replies are compared with QEMU's by the oracle."""

import asyncio
import random

import pytest

from tests.control.commands.conftest import SIZE
from tests.tools.disk import check, qemu_img
from tests.tools.hold import hold, start
from tests.tools.until import until


async def test_image_stays_whole_while_others_than_the_device_write_to_it(desk, tmp_path):
    image = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", image, SIZE)
    file = {"driver": "file", "filename": str(image)}
    await desk.say("blockdev-add", driver="qcow2", node_name="image", file=file)
    await desk.say("blockdev-add", driver="raw", node_name="device", file="image")
    guest, rnd, ended = desk.guest("image"), random.Random(1), False

    async def write():
        data = memoryview(bytearray(4096))
        while not ended:
            await guest.pwrite(rnd.randrange(SIZE // 4096) * 4096, data)
            await asyncio.sleep(0)

    writers = [asyncio.create_task(write()) for _ in range(16)]
    for number in range(4):
        one = {"device": "device", "name": f"s{number}"}
        assert await desk.say("blockdev-snapshot-internal-sync", **one) == {}
        if number % 2:
            deleted = await desk.say("blockdev-snapshot-delete-internal-sync", **one)
            assert deleted["name"] == one["name"]
    ended = True
    await asyncio.gather(*writers)
    await guest.detach()
    await desk.say("blockdev-del", node_name="device")
    await desk.say("blockdev-del", node_name="image")
    check(image)


async def test_all_disks_of_a_transaction_stand_still_until_all_have_their_snapshots(
    desk, tmp_path
):
    for name in ("first", "second"):
        image = tmp_path / name
        qemu_img("create", "-q", "-f", "qcow2", image, SIZE)
        file = {"driver": "file", "filename": str(image), "node-name": f"{name}-file"}
        await desk.say("blockdev-add", driver="qcow2", node_name=name, file=file)
    guest = desk.guest("first")
    gate, let_go = hold(desk.system.graph.find("second-file").driver, "flush")
    actions = [
        {"type": "blockdev-snapshot-internal-sync", "data": {"device": name, "name": "s"}}
        for name in ("first", "second")
    ]
    transaction = await start(desk.say("transaction", actions=actions))
    await until(lambda: _snapshots(desk, "first"))
    await gate.reached.wait()
    write = await start(guest.pwrite(0, memoryview(bytearray(4096))))
    assert not transaction.done()
    assert not write.done()
    let_go()
    gate.set()
    assert await transaction == {}
    await write
    await guest.detach()
    for name in ("first", "second"):
        assert await desk.say("blockdev-del", node_name=name) == {}


@pytest.mark.parametrize(
    ("change", "data"),
    [
        ("clear", {"name": "b"}),
        ("disable", {"name": "b"}),
        ("merge", {"target": "b", "bitmaps": ["other"]}),
    ],
)
async def test_write_during_a_transaction_that_fails_is_in_the_bitmap_that_it_changed(
    desk, tmp_path, change, data
):
    image = tmp_path / "image"
    qemu_img("create", "-q", "-f", "qcow2", image, SIZE)
    file = {"driver": "file", "filename": str(image), "node-name": "file"}
    await desk.say("blockdev-add", driver="qcow2", node_name="image", file=file)
    desk.disk("disk", bytes(SIZE))
    guest = desk.guest("disk")
    for name in ("other", "b"):
        await desk.say("block-dirty-bitmap-add", node="disk", name=name, granularity=512)
    gate, let_go = hold(desk.system.graph.find("file").driver, "flush")
    actions = [
        {"type": f"block-dirty-bitmap-{change}", "data": {"node": "disk", **data}},
        {
            "type": "blockdev-snapshot-internal-sync",
            "data": {"device": "image", "name": "s"},
        },
        {"type": "abort", "data": {}},
    ]
    transaction = await gate.stops(desk.say("transaction", actions=actions))
    write = await start(guest.pwrite(512, memoryview(bytearray(512))))
    assert not transaction.done()
    let_go()
    gate.set()
    assert await transaction == "Transaction aborted using Abort action"
    await write
    bitmap = desk.system.graph.find("disk").bitmaps[0]
    assert bitmap.name == "b"
    assert list(bitmap.bits.areas()) == [(512, 512)]
    await guest.detach()
    assert await desk.say("blockdev-del", node_name="image") == {}


def _snapshots(desk, name):
    return desk.system.graph.find(name).driver.internal_snapshots()
