"""Opening, connecting, replacing and deleting nodes; what fails leaves no trace."""

import asyncio
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmpfleece.base.errors import QmpError
from qmpfleece.base.workers import Workers
from qmpfleece.block.backend import Backend
from qmpfleece.block.child import Child
from qmpfleece.block.drain import drained
from qmpfleece.block.driver import DRIVERS
from qmpfleece.block.graph import Graph
from qmpfleece.block.node import Node
from qmpfleece.block.perm import Perm, Role
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.block.conftest import open_files
from tests.tools.hostfile import locked_bytes
from tests.tools.memory import User, add_memory, hold, settle

R, W, U, Z, ALL = Perm.CONSISTENT_READ, Perm.WRITE, Perm.WRITE_UNCHANGED, Perm.RESIZE, Perm.ALL


def add(graph, driver, name, **options: object):
    wire = {key.replace("_", "-"): value for key, value in options.items()}
    return graph.add(validate_blockdev({"driver": driver, "node-name": name, **wire}))


def snapshot(graph):
    """Return everything about the shape of a graph, to compare."""
    return [
        (
            node.name,
            node.monitor_owned,
            [(c.name, c.node.name, c.perm, c.shared) for c in node.children.values()],
            [(id(edge), edge.perm, edge.shared, edge.node is node) for edge in node.parents],
        )
        for node in graph.nodes()
    ]


def check_invariants(graph):
    """Check that edges are symmetric, and permissions what a computation from scratch gives."""
    nodes = graph.nodes()
    assert len({node.name for node in nodes}) == len(nodes)
    for node in nodes:
        for name, child in node.children.items():
            assert (child.name, child.parent) == (name, node)
            assert child.node.parents.count(child) == 1
            assert child.node in nodes
        for edge in node.parents:
            assert edge.node is node
            if isinstance(edge.parent, Node):
                assert edge.parent.children[edge.name] is edge
                assert edge.parent in nodes
            expected = edge.perm, edge.shared
            if isinstance(edge.parent, Node):
                above = edge.parent.users_perm()
                expected = edge.parent.driver.child_perms(edge.name, edge.role, *above)
            assert (edge.perm, edge.shared) == expected
        for first in node.parents:
            for second in node.parents:
                assert first is second or not first.perm & ~second.shared


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


@pytest.mark.parametrize("turns", range(8))
async def test_cancelled_opening_leaves_no_trace(graph, image, turns):
    files = open_files()
    nested = {"driver": "file", "node-name": "f", "filename": str(image)}
    task = asyncio.ensure_future(add(graph, "raw", "n", file=nested))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if task.cancelled():
        assert graph.nodes() == []
        assert open_files() == files
        await add(graph, "raw", "n", file=nested)


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
    with pytest.raises(OSError, match="broken"):
        await graph.delete("top")
    assert disk.node.parents == []
    await graph.delete("below")


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


# -- connecting -----------------------------------------------------------------------------


async def test_circle_is_refused(graph):
    a, b, c = (add_memory(graph, name).node for name in "abc")
    graph.attach_child(a, "file", Role.FILTERED, b)
    graph.attach_child(b, "file", Role.FILTERED, c)
    before = snapshot(graph)
    for above, below in ((c, a), (c, b), (b, a), (a, a)):
        with pytest.raises(QmpError) as caught:
            graph.attach_child(above, "x", Role.FILTERED, below)
        assert caught.value.desc == (
            f"Making '{below.name}' a x child of '{above.name}' would create a cycle"
        )
    assert snapshot(graph) == before


async def test_conflict_names_both_users_and_changes_nothing(graph):
    disk = add_memory(graph, "disk")
    await add(graph, "raw", "raw", file="disk")
    guest = Backend(graph, "guest", R | W, ALL & ~W)
    guest.attach(graph.find("raw"))
    before = snapshot(graph)
    for user, text in (
        (Backend(graph, "", W), "an unnamed block device"),
        (Backend(graph, "x", W), "block device 'x'"),
    ):
        with pytest.raises(QmpError) as caught:
            user.attach(disk.node)
        assert caught.value.desc == (
            f"Permission conflict on node 'disk': permissions 'write' are both required by {text} "
            "(uses node 'disk' as 'root' child) and unshared by node 'raw' (uses node 'disk' as "
            "'file' child)."
        )
        assert user.node is None
        assert snapshot(graph) == before


async def test_refused_change_gives_back_what_drivers_have_prepared(graph):
    """Of two drivers on the way down the second refuses; the first hears of it."""
    log = []
    upper, lower = add_memory(graph, "upper"), add_memory(graph, "lower")
    graph.attach_child(upper.node, "file", Role.FILTERED, lower.node)

    def watch(disk, *, refuses=False):
        def check_perm(perm, shared):
            log.append(f"check {disk.node.name}")
            if refuses:
                raise QmpError("no")

        disk.check_perm = check_perm
        disk.abort_perm = lambda: log.append(f"abort {disk.node.name}")
        disk.set_perm = lambda: log.append(f"set {disk.node.name}")

    watch(upper)
    watch(lower)
    edge = hold(graph, upper.node, R | W, R)
    assert log == ["check upper", "check lower", "set upper", "set lower"]
    watch(lower, refuses=True)
    log.clear()
    before = snapshot(graph)
    with pytest.raises(QmpError, match="no"):
        hold(graph, upper.node, R, R | W)
    assert log == ["check upper", "check lower", "abort lower", "abort upper"]
    assert snapshot(graph) == before
    check_invariants(graph)
    graph.detach(edge)  # never fails
    assert upper.node.parents == []


async def test_requests_held_back_go_to_the_node_that_has_replaced_the_first(graph):
    first, second = add_memory(graph, "first"), add_memory(graph, "second")
    backend = Backend(graph, "guest", R | W)
    backend.attach(first.node)
    async with drained(first.node):
        held = asyncio.ensure_future(backend.pwrite(0, memoryview(b"x")))
        await settle()
        async with drained(second.node):
            graph.replace_node([backend._root], second.node)
            assert backend.node is second.node
            assert backend._quiesced == 1
        await settle()
    await held
    assert first.calls == []
    assert second.data[:1] == b"x"
    assert backend._quiesced == 0
    assert first.node.parents == []


async def test_requests_stay_held_while_the_new_node_is_drained(graph):
    first, second = add_memory(graph, "first"), add_memory(graph, "second")
    backend = Backend(graph, "guest", R | W)
    backend.attach(first.node)
    second.node.drained_begin()
    first.node.drained_begin()
    held = asyncio.ensure_future(backend.pwrite(0, memoryview(b"x")))
    graph.replace_node([backend._root], second.node)
    first.node.drained_end()
    await settle()
    assert not held.done()
    second.node.drained_end()
    await held


async def test_refused_replacement_changes_nothing(graph):
    first, second = add_memory(graph, "first"), add_memory(graph, "second")
    edges = [hold(graph, first.node, R | W, ALL), hold(graph, first.node, R, ALL)]
    hold(graph, second.node, R, ALL & ~W)
    before = snapshot(graph)
    with pytest.raises(QmpError, match="Permission conflict on node 'second'"):
        graph.replace_node(reversed(edges), second.node)
    assert snapshot(graph) == before
    graph.replace_node(edges[1:], second.node)
    check_invariants(graph)
    assert [edge.node.name for edge in edges] == ["first", "second"]


PERMS = st.integers(0, 15).map(Perm)


class RandomChanges:
    """A graph, and changes of all kinds to it."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.workers = Workers()
        self.graph = Graph(self.workers)
        self.edges: list[Child] = []
        self.users: list[User] = []
        self.drained: list[Node] = []
        self.number = 0

    def node(self):
        return self.data.draw(st.sampled_from(self.graph.nodes()))

    async def add_disk(self):
        add_memory(self.graph, f"m{self.number}", read_only=self.data.draw(st.booleans()))

    async def add_raw(self):
        window = self.data.draw(st.sampled_from([{}, {"size": 512}]))
        await add(self.graph, "raw", f"r{self.number}", file=self.node().name, **window)

    async def attach_child(self):
        roles = [Role.FILTERED, Role.COW, Role.DATA, Role.METADATA]
        role = self.data.draw(st.sampled_from(roles))
        self.graph.attach_child(self.node(), f"x{self.number}", role, self.node())

    async def attach_user(self):
        self.users.append(user := User())
        perm, shared = self.data.draw(PERMS), self.data.draw(PERMS)
        self.edges.append(hold(self.graph, self.node(), perm, shared, user))

    async def detach_user(self):
        if self.edges:
            index = self.data.draw(st.integers(0, len(self.edges) - 1))
            edge = self.edges.pop(index)
            self.graph.detach(edge)
            assert edge.parent.quiesced == 0

    async def replace(self):
        if self.edges:
            chosen = self.data.draw(st.lists(st.sampled_from(self.edges), unique_by=id))
            self.graph.replace_node(chosen, self.node())

    async def delete(self):
        await self.graph.delete(self.node().name)

    async def drain(self):
        self.drained.append(self.node())
        self.drained[-1].drained_begin()

    async def undrain(self):
        if self.drained:
            self.drained.pop().drained_end()

    async def step(self):
        self.number += 1
        graph = self.graph
        if not graph.nodes():
            await self.add_disk()
        changes = [self.add_disk, self.add_raw, self.attach_child, self.attach_user]
        changes += [self.detach_user, self.replace, self.delete, self.drain, self.undrain]
        change = self.data.draw(st.sampled_from(changes))
        before, held = snapshot(graph), [user.quiesced for user in self.users]
        try:
            await change()
        except QmpError:
            assert snapshot(graph) == before
            assert [user.quiesced for user in self.users][: len(held)] == held
        check_invariants(graph)
        for edge in self.edges:
            assert edge.parent.quiesced == edge.node.quiesced
        self.drained = [node for node in self.drained if graph.get(node.name) is node]

    async def finish(self):
        for edge in self.edges:
            self.graph.detach(edge)
        for node in self.drained:
            node.drained_end()
        assert all(user.quiesced == 0 for user in self.users)
        await self.graph.close()
        self.workers.close()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_changes_keep_the_graph_sound_and_refused_ones_change_nothing(data):
    async def main():
        changes = RandomChanges(data)
        for _ in range(data.draw(st.integers(1, 25))):
            await changes.step()
        await changes.finish()

    asyncio.run(main())
