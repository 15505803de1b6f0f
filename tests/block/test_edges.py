"""Connecting nodes and leading their users elsewhere; what is refused changes nothing."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmpfleece.base.errors import QmpError
from qmpfleece.base.workers import Workers
from qmpfleece.block.backend import Backend
from qmpfleece.block.child import Child
from qmpfleece.block.drain import drained
from qmpfleece.block.graph import Graph
from qmpfleece.block.node import Node
from qmpfleece.block.perm import Perm, Role
from tests.tools.graphs import add, check_invariants, snapshot
from tests.tools.memory import User, add_memory, hold
from tests.tools.until import settle

R, W, U, Z, ALL = Perm.CONSISTENT_READ, Perm.WRITE, Perm.WRITE_UNCHANGED, Perm.RESIZE, Perm.ALL


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


@settings(max_examples=150)
@given(st.data())
def test_random_changes_keep_the_graph_sound_and_refused_ones_change_nothing(data):
    async def main():
        changes = RandomChanges(data)
        for _ in range(data.draw(st.integers(1, 25))):
            await changes.step()
        await changes.finish()

    asyncio.run(main())
