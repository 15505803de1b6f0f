import errno

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.base.units import KIB, MIB
from qmpfleece.base.workers import Workers
from qmpfleece.block.backend import Backend
from qmpfleece.block.graph import Graph
from qmpfleece.block.perm import Perm
from qmpfleece.control.commands import bitmaps
from qmpfleece.control.dispatch import Client, Dispatcher
from qmpfleece.control.system import System
from qmpfleece.qapi.bitmaps import BlockDirtyBitmap
from qmpfleece.qapi.blockdev import validate_blockdev
from qmpfleece.qapi.bus import EventBus


class Monitor:
    """A client of a system with the nodes ``n`` (1 MiB) and ``m`` (2 MiB)."""

    def __init__(self, system) -> None:
        self.system = system
        self.dispatcher = Dispatcher(system)
        self.client = Client(negotiated=True)

    async def __call__(self, name, arguments) -> object:
        replies = []
        request = {"execute": name, "arguments": arguments}
        await self.dispatcher.serve(request, self.client, replies.append)
        reply = replies[0]
        return reply["return"] if "return" in reply else reply["error"]["desc"]

    async def add(self, name, node="n", **more: object):
        return await self("block-dirty-bitmap-add", {"node": node, "name": name, **more})

    def bitmap(self, name, node="n"):
        return self.system.graph.find_bitmap(node, name)[1]

    async def write(self, offset, length):
        backend = Backend(self.system.graph, perm=Perm.WRITE)
        backend.attach(self.system.graph.find("n"))
        await backend.pwrite(offset, memoryview(bytes(length)))
        await backend.detach()


@pytest.fixture
async def monitor():
    graph = Graph(Workers())
    for name, size in (("n", MIB), ("m", 2 * MIB)):
        await graph.add(validate_blockdev({"driver": "null-co", "node-name": name, "size": size}))
    yield Monitor(System(bus=EventBus(), graph=graph, exports=None))
    await graph.close()
    graph.workers.close()


async def test_new_bitmap_records_writes_in_granules_of_64_kib(monitor):
    assert await monitor.add("b") == {}
    await monitor.write(0, 1)
    bitmap = monitor.bitmap("b")
    assert (bitmap.granularity, bitmap.count, bitmap.recording) == (64 * KIB, 64 * KIB, True)


async def test_newest_bitmap_comes_first(monitor):
    await monitor.add("a")
    await monitor.add("b", granularity=512, disabled=True)
    listed = monitor.system.graph.find("n").bitmaps
    assert [(b.name, b.granularity, b.recording) for b in listed] == [
        ("b", 512, False),
        ("a", 65536, True),
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"node": "nah", "name": ""}, "Bitmap name cannot be empty"),
        (
            {"node": "nah", "name": "x", "granularity": 3},
            "Cannot find device='nah' nor node-name='nah'",
        ),
        (
            {"node": "n", "name": "x", "granularity": 3},
            "Granularity must be power of 2 and at least 512",
        ),
        (
            {"node": "n", "name": "x", "granularity": 256},
            "Granularity must be power of 2 and at least 512",
        ),
        (
            {"node": "n", "name": "x", "granularity": 1 << 32},
            "Parameter 'granularity' expects uint32_t",
        ),
        (
            {"node": "n", "name": "x", "persistent": True},
            "Can't store persistent bitmaps to n: Operation not supported",
        ),
        ({"node": "n", "name": "x"}, "Bitmap already exists: x"),
        ({"node": "n", "name": "y" * 1024}, "Bitmap name too long: " + "y" * 1024),
    ],
)
async def test_bitmap_that_cannot_be_added_is_refused_in_qemus_words(monitor, arguments, text):
    await monitor.add("x")
    assert await monitor("block-dirty-bitmap-add", arguments) == text
    assert len(monitor.system.graph.find("n").bitmaps) == 1


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, 65536), (512, 4096), (4096, 4096), (16384, 16384), (2 * MIB, 65536)],
)
async def test_default_granularity_is_the_cluster_size_within_bounds(monitor, size, expected):
    node = monitor.system.graph.find("n")
    driver = type("Clustered", (type(node.driver),), {"cluster_size": size})
    node.driver.__class__ = driver
    assert bitmaps.default_granularity(node) == expected


async def test_remove_clear_enable_and_disable_do_what_they_say(monitor):
    await monitor.add("b")
    this = {"node": "n", "name": "b"}
    await monitor.write(0, 512)
    assert await monitor("block-dirty-bitmap-disable", this) == {}
    await monitor.write(512 * KIB, 512)
    assert monitor.bitmap("b").count == 64 * KIB
    assert await monitor("block-dirty-bitmap-clear", this) == {}
    assert monitor.bitmap("b").count == 0
    assert await monitor("block-dirty-bitmap-enable", this) == {}
    await monitor.write(512 * KIB, 512)
    assert monitor.bitmap("b").count == 64 * KIB
    assert await monitor("block-dirty-bitmap-remove", this) == {}
    assert monitor.system.graph.find("n").bitmaps == []


VERBS = ("remove", "clear", "enable", "disable")


@pytest.mark.parametrize("verb", VERBS)
async def test_unknown_node_or_bitmap_is_refused(monitor, verb):
    name = f"block-dirty-bitmap-{verb}"
    assert await monitor(name, {"node": "nah", "name": "b"}) == "Node 'nah' not found"
    assert await monitor(name, {"node": "n", "name": "nah"}) == "Dirty bitmap 'nah' not found"


@pytest.mark.parametrize(
    ("flag", "allowed", "text"),
    [
        ("busy", (), "Bitmap 'b' is currently in use by another operation and cannot be used"),
        ("readonly", ("enable", "disable"), "Bitmap 'b' is readonly and cannot be modified"),
        ("inconsistent", ("remove",), "Bitmap 'b' is inconsistent and cannot be used"),
    ],
)
async def test_bitmap_that_must_be_left_alone_is_refused_but_where_it_does_no_harm(
    monitor, flag, allowed, text
):
    for verb in VERBS:
        await monitor.add("b")
        setattr(monitor.bitmap("b"), flag, True)
        reply = await monitor(f"block-dirty-bitmap-{verb}", {"node": "n", "name": "b"})
        assert reply == ({} if verb in allowed else text)
        monitor.system.graph.find("n").bitmaps.clear()


async def test_merge_takes_names_and_bitmaps_of_other_nodes(monitor):
    await monitor.add("t", granularity=512)
    await monitor.add("a")
    monitor.bitmap("t").mark(0, 1)
    monitor.bitmap("a").mark(64 * KIB, 1)
    graph = monitor.system.graph
    await graph.add(validate_blockdev({"driver": "null-co", "node-name": "o", "size": MIB}))
    await monitor.add("b", node="o", granularity=4096)
    monitor.bitmap("b", "o").mark(512 * KIB, 1)
    arguments = {"node": "n", "target": "t", "bitmaps": ["a", {"node": "o", "name": "b"}]}
    assert await monitor("block-dirty-bitmap-merge", arguments) == {}
    areas = [(0, 512), (64 * KIB, 64 * KIB), (512 * KIB, 4096)]
    assert [*monitor.bitmap("t").bits.areas()] == areas


SIZES = (
    "Bitmaps are of different sizes (destination size is 1048576, source size is 2097152) "
    "and can't be merged"
)


@pytest.mark.parametrize(
    ("sources", "text"),
    [
        (["nah"], "Dirty bitmap 'nah' not found"),
        ([{"node": "nah", "name": "b"}], "Node 'nah' not found"),
        ([{"node": "m", "name": "nah"}], "Dirty bitmap 'nah' not found"),
        (["a", {"node": "m", "name": "b"}], SIZES),
        ([{"node": "m", "name": "b"}, "nah"], SIZES),
        (["busy"], "Bitmap 'busy' is currently in use by another operation and cannot be used"),
        ([None], "Invalid parameter type for 'null', expected: BlockDirtyBitmapOrStr"),
        ([{"node": "m"}], "Parameter 'bitmaps[0].name' is missing"),
        ([{"node": "m", "name": "b", "foo": 1}], "Parameter 'bitmaps[0].foo' is unexpected"),
        ("a", "Invalid parameter type for 'bitmaps', expected: array"),
    ],
)
async def test_merge_that_is_refused_changes_nothing(monitor, sources, text):
    for name in ("t", "a", "busy"):
        await monitor.add(name)
    await monitor.add("b", node="m")
    monitor.bitmap("a").mark(0, 1)
    monitor.bitmap("busy").busy = True
    arguments = {"node": "n", "target": "t", "bitmaps": sources}
    assert await monitor("block-dirty-bitmap-merge", arguments) == text
    assert monitor.bitmap("t").count == 0


async def test_merge_looks_at_the_target_once_a_source_is_found(monitor):
    for name in ("t", "s"):
        await monitor.add(name)
    monitor.bitmap("t").busy = True
    arguments = {"node": "n", "target": "t", "bitmaps": ["nah"]}
    name = "block-dirty-bitmap-merge"
    assert await monitor(name, arguments) == "Dirty bitmap 'nah' not found"
    assert "is currently in use" in await monitor(name, arguments | {"bitmaps": ["s"]})


async def test_sha256_is_that_of_the_content(monitor):
    await monitor.add("b")
    reply = await monitor("x-debug-block-dirty-bitmap-sha256", {"node": "n", "name": "b"})
    assert reply == {"sha256": monitor.bitmap("b").bits.sha256()}
    reply = await monitor("x-debug-block-dirty-bitmap-sha256", {"node": "n", "name": "c"})
    assert reply == "Dirty bitmap 'c' not found"


async def test_every_action_can_be_taken_back(monitor):
    await monitor.add("a")
    await monitor.add("b")
    monitor.bitmap("a").mark(0, 1)
    monitor.bitmap("b").mark(64 * KIB, 1)
    system = monitor.system

    def state():
        found = system.graph.find("n").bitmaps
        return [(b.name, b.enabled, b.busy, [*b.bits.areas()]) for b in found]

    before = state()
    named = BlockDirtyBitmap(node="n", name="a")
    sources = ["b", BlockDirtyBitmap(node="n", name="b")]
    actions = [
        bitmaps.AddBitmap(system, bitmaps.BlockDirtyBitmapAdd(node="n", name="c")),
        bitmaps.RemoveBitmap(system, named),
        bitmaps.ClearBitmap(system, named),
        bitmaps.EnableBitmap(system, named),
        bitmaps.DisableBitmap(system, named),
        bitmaps.MergeBitmaps(system, merge_of("a", sources)),
    ]
    for action in actions:
        await action.abort()  # of what has not been done
        await action.prepare()
        await action.abort()
        assert state() == before


def merge_of(target, sources):
    return bitmaps.BlockDirtyBitmapMerge(node="n", target=target, bitmaps=sources)


async def test_merge_that_fails_half_way_changes_nothing(monitor):
    for name in ("t", "a"):
        await monitor.add(name)
    await monitor.add("broken", granularity=4096)
    monitor.bitmap("a").mark(0, 1)
    monitor.bitmap("broken").bits._bits = None
    action = bitmaps.MergeBitmaps(monitor.system, merge_of("t", ["a", "broken"]))
    with pytest.raises(AttributeError):
        await action.prepare()
    await action.abort()
    assert monitor.bitmap("t").count == 0


async def test_bitmap_that_an_image_fails_to_give_up_is_not_busy(monitor):
    await monitor.add("b")
    node = monitor.system.graph.find("n")

    async def fail(_driver, _name):
        raise OSError(errno.EIO, "")

    verbs = {"remove_persistent_bitmap": fail, "bitmap_refusal": fail}
    node.driver.__class__ = type("Keeper", (type(node.driver),), verbs)
    monitor.bitmap("b").persistent = True
    action = bitmaps.RemoveBitmap(monitor.system, BlockDirtyBitmap(node="n", name="b"))
    with pytest.raises(OSError, match=f"{errno.EIO}"):
        await action.run()
    assert not monitor.bitmap("b").busy


async def test_bitmap_being_removed_is_out_of_reach_for_others(monitor):
    await monitor.add("b")
    named = BlockDirtyBitmap(node="n", name="b")
    await bitmaps.RemoveBitmap(monitor.system, named).prepare()
    with pytest.raises(QmpError, match="in use"):
        await bitmaps.ClearBitmap(monitor.system, named).run()
