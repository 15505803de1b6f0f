"""Opening, connecting, replacing and deleting nodes; what fails leaves no trace."""

import asyncio
import os

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.base.workers import Workers
from qmpfleece.block.backend import Backend
from qmpfleece.block.driver import DRIVERS
from qmpfleece.block.graph import Graph
from qmpfleece.block.perm import Perm, Role
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.block.conftest import open_files
from tests.tools.graphs import add, check_invariants, snapshot
from tests.tools.hold import cancelled_after
from tests.tools.hostfile import locked_bytes
from tests.tools.memory import User, add_memory, hold

R, W, U, Z, ALL = Perm.CONSISTENT_READ, Perm.WRITE, Perm.WRITE_UNCHANGED, Perm.RESIZE, Perm.ALL


# -- finding and naming ---------------------------------------------------------------------


async def test_nodes_are_listed_newest_first_children_before_their_users(graph):
    await add(graph, "null-co", "a")
    await add(graph, "raw", "b", file={"driver": "null-co", "node-name": "c"})
    assert [node.name for node in graph.nodes()] == ["b", "c", "a"]
    assert graph.get("c").driver.driver_name == "null-co"
    assert graph.get("d") is None
    with pytest.raises(QmpError, match="Cannot find device='d' nor node-name='d'"):
        graph.find("d")


async def test_nested_nodes_without_a_name_are_numbered(graph):
    await add(graph, "raw", "b", file={"driver": "raw", "file": {"driver": "null-co"}})
    names = [node.name for node in graph.nodes()]
    assert names[0] == "b"
    assert names[1].startswith("#block1")
    assert names[2].startswith("#block0")
    assert all(len(name) == len("#block000") for name in names[1:])


BAD_NAMES = {
    "": "Invalid node-name: ''",
    "1a": "Invalid node-name: '1a'",
    "#block1": "Invalid node-name: '#block1'",
    "a b": "Invalid node-name: 'a b'",
    "taken": "Duplicate nodes with node-name='taken'",
    "x" * 32: "Node name too long",
}


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_bad_name_is_refused(graph, name):
    await add(graph, "null-co", "taken")
    before = snapshot(graph)
    with pytest.raises(QmpError) as caught:
        await add(graph, "null-co", name)
    assert caught.value.desc == BAD_NAMES[name]
    assert snapshot(graph) == before


async def test_longest_name_is_taken(graph):
    assert (await add(graph, "null-co", "x" * 31)).name == "x" * 31


async def test_node_needs_a_name(graph):
    with pytest.raises(QmpError, match="'node-name' must be specified for the root node"):
        await graph.add(validate_blockdev({"driver": "null-co"}))


# -- what fails leaves no trace -------------------------------------------------------------


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(os.urandom(65536))
    return path


FILE = {"driver": "file", "node-name": "f"}
FAILING = {
    "the window begins past the end": (
        {"driver": "raw", "offset": 1 << 20, "file": FILE},
        "Offset (1048576) cannot be greater than size of the containing file (65536)",
    ),
    "a nested name is that of the node": (
        {"driver": "raw", "node-name": "f", "file": FILE},
        "Duplicate nodes with node-name='f'",
    ),
    "a nested name is taken": (
        {"driver": "raw", "file": {**FILE, "node-name": "taken"}},
        "Duplicate nodes with node-name='taken'",
    ),
    "the node's own name is taken": (
        {"driver": "raw", "node-name": "taken", "file": FILE},
        "Duplicate nodes with node-name='taken'",
    ),
    "it refers to itself": (
        {"driver": "raw", "file": "n"},
        "Cannot find device='n' nor node-name='n'",
    ),
    "it refers to itself from within": (
        {"driver": "raw", "file": {"driver": "raw", "file": "n"}},
        "Cannot find device='n' nor node-name='n'",
    ),
    "a filter's target is itself": (
        {"driver": "copy-before-write", "file": FILE, "target": "n"},
        "Making 'n' a target child of 'n' would create a cycle",
    ),
    "a filter's target uses the filter": (
        {
            "driver": "copy-before-write",
            "file": FILE,
            "target": {"driver": "raw", "node-name": "t", "file": "n"},
        },
        "Making 't' a target child of 'n' would create a cycle",
    ),
    "the second child does not exist": (
        {"driver": "copy-before-write", "file": FILE, "target": "none"},
        "Cannot find device='none' nor node-name='none'",
    ),
    "the second child can not be opened": (
        {
            "driver": "copy-before-write",
            "file": FILE,
            "target": {"driver": "raw", "size": 100, "file": {"driver": "null-co"}},
        },
        "Specified size is not multiple of 512",
    ),
    "a bitmap of the filter does not exist": (
        {
            "driver": "copy-before-write",
            "file": FILE,
            "target": {"driver": "null-co"},
            "bitmap": {"node": "f", "name": "none"},
        },
        "Dirty bitmap 'none' not found",
    ),
    "permissions conflict deep down": (
        {
            "driver": "raw",
            "file": {"driver": "raw", "node-name": "m", "size": 512, "file": "held"},
        },
        "Permission conflict on node 'held': permissions 'resize' are both required by user "
        "(uses node 'held' as 'root' child) and unshared by node 'm' (uses node 'held' as 'file' "
        "child).",
    ),
}


async def test_node_that_is_used_below_itself_while_it_opens_is_refused(graph):
    await add(graph, "null-co", "disk", size=1 << 20)
    before = snapshot(graph)
    inner = {"driver": "copy-before-write", "file": "disk", "target": "outer"}
    target = {"driver": "raw", "file": inner}
    with pytest.raises(QmpError, match=r"Target 'outer' .* is smaller than source 'disk'"):
        await add(graph, "copy-before-write", "outer", file="disk", target=target)
    assert snapshot(graph) == before


@pytest.mark.parametrize("why", FAILING)
async def test_failed_opening_leaves_no_trace(graph, image, why):
    definition, text = FAILING[why]
    definition = {"node-name": "n", **definition}
    if definition.get("file") is FILE or "node-name" in definition.get("file", ""):
        nested = definition["file"]
        if nested["driver"] == "file":
            definition["file"] = {**nested, "filename": str(image)}
    await add(graph, "null-co", "taken")
    user = User()
    hold(graph, add_memory(graph, "held").node, R | Z, ALL, user)
    before, files, tasks = snapshot(graph), open_files(), asyncio.all_tasks()
    for _ in range(2):
        with pytest.raises(QmpError) as caught:
            await graph.add(validate_blockdev(definition))
        assert caught.value.desc == text
        assert snapshot(graph) == before
        assert open_files() == files
        assert locked_bytes(image) == set()
        assert asyncio.all_tasks() == tasks
        assert user.quiesced == 0
        check_invariants(graph)
    # The names are free again.
    await add(graph, "null-co", "n")
    await add(graph, "file", "f", filename=str(image))


async def test_node_is_seen_by_others_only_when_it_is_open(graph, image):
    opening = asyncio.ensure_future(add(graph, "file", "f", filename=str(image)))
    for _ in range(3):
        await asyncio.sleep(0)
        if not opening.done():
            assert graph.nodes() == []
            assert graph.get("f") is None
            with pytest.raises(QmpError, match="Duplicate nodes"):
                await add(graph, "null-co", "f")
            with pytest.raises(QmpError, match="Cannot find device='f'"):
                await add(graph, "raw", "r", file="f")
            with pytest.raises(QmpError, match="Failed to find node with node-name='f'"):
                await graph.delete("f")
    node = await opening
    assert graph.nodes() == [node]


async def test_cancelled_opening_leaves_no_trace(graph, image):
    files = open_files()
    nested = {"driver": "file", "node-name": "f", "filename": str(image)}
    cancelled = 0
    for turns in range(1, 9):
        task = await cancelled_after(turns, add(graph, "raw", "n", file=nested))
        if task.cancelled():
            cancelled += 1
            assert graph.nodes() == []
            assert open_files() == files
            await add(graph, "raw", "n", file=nested)
        await graph.delete("n")
    assert cancelled


async def test_driver_that_is_open_is_closed_when_permissions_are_refused(graph, monkeypatch):
    """The last look at the permissions, after the driver has been opened, is refused."""
    below = add_memory(graph, "below")
    real = type((await add(graph, "raw", "first", file="below")).driver)
    seen = []

    class Fussy(real):
        def check_perm(self, perm, shared):
            seen.append("check")
            if len(seen) > 1:
                raise QmpError("no")

        async def close(self):
            seen.append("close")

    monkeypatch.setitem(DRIVERS._items, "raw", Fussy)
    with pytest.raises(QmpError, match="no"):
        await add(graph, "raw", "second", file="below")
    assert seen == ["check", "check", "close"]
    assert [edge.parent.name for edge in below.node.parents] == ["first"]
    check_invariants(graph)


# -- deleting -------------------------------------------------------------------------------


async def test_deleting_says_why_it_can_not_be(graph):
    await add(graph, "raw", "top", file={"driver": "null-co", "node-name": "nested"})
    await add(graph, "null-co", "below")
    await add(graph, "raw", "user", file="below")
    backend = Backend(graph, "guest")
    backend.attach(graph.find("top"))
    texts = {
        "none": "Failed to find node with node-name='none'",
        "top": "Node top is in use",
        "nested": "Node nested is not owned by the monitor",
        "below": "Block device below is in use",
    }
    before = snapshot(graph)
    for name, text in texts.items():
        with pytest.raises(QmpError) as caught:
            await graph.delete(name)
        assert caught.value.desc == text
        assert snapshot(graph) == before


async def test_deleting_closes_what_is_nested_and_leaves_what_is_named(graph):
    disk = add_memory(graph, "below")
    await add(graph, "raw", "top", file={"driver": "raw", "file": "below"})
    await graph.delete("top")
    assert [node.name for node in graph.nodes()] == ["below"]
    assert not disk.closed
    await graph.delete("below")
    assert disk.closed
    assert graph.nodes() == []


async def test_node_that_is_nested_lives_on_with_another_user(graph):
    await add(graph, "raw", "top", file={"driver": "null-co", "node-name": "nested"})
    await add(graph, "raw", "other", file="nested")
    await graph.delete("top")
    assert [node.name for node in graph.nodes()] == ["other", "nested"]
    await graph.delete("other")
    assert graph.nodes() == []


async def test_close_that_fails_still_lets_go_of_the_children(graph, monkeypatch):
    disk = add_memory(graph, "below")
    top = await add(graph, "raw", "top", file="below")

    async def fail():
        raise OSError(5, "broken")

    monkeypatch.setattr(top.driver, "close", fail)
    await graph.delete("top")
    assert disk.node.parents == []
    await graph.delete("below")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyError("bug")])
async def test_close_that_fails_lets_all_others_be_closed(graph, monkeypatch, caplog, error):
    disks = [add_memory(graph, f"n{number}") for number in range(3)]
    top = await add(graph, "raw", "top", file="n0")
    graph.attach_child(top, "other", Role.FILTERED, disks[1].node)

    async def fail():
        raise error

    for driver in (top.driver, disks[0]):
        monkeypatch.setattr(driver, "close", fail)
    await graph.close()
    assert graph.nodes() == []
    assert [disk.closed for disk in disks] == [False, True, True]
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "node 'top' was not closed properly",
        "node 'n0' was not closed properly",
    ]


async def test_everything_is_closed_users_before_what_they_use():
    workers = Workers()
    graph = Graph(workers)
    order = []
    disks = [add_memory(graph, f"n{number}") for number in range(5)]
    for disk in disks:

        async def close(name=disk.node.name):
            order.append(name)

        disk.close = close
    for above, below in ((3, 0), (3, 1), (1, 0), (2, 3)):
        graph.attach_child(disks[above].node, f"file{below}", Role.FILTERED, disks[below].node)
    await graph.close()
    assert graph.nodes() == []
    assert sorted(order) == [f"n{number}" for number in range(5)]
    for above, below in ((3, 0), (3, 1), (1, 0), (2, 3)):
        assert order.index(f"n{above}") < order.index(f"n{below}")
    workers.close()
