"""Guest and backup client against a model of plain byte arrays, interleaved at every await.

Each request runs in a task of its own, and all requests of both disks stop at a gate. A rule
starts a request, or lets one stopped request go on, or makes it fail; so Hypothesis chooses
the order in which everything happens. After every step the tasks have run as far as they can,
and what has ended is compared with the model, what has not must have a reason to wait.
"""

import asyncio
import errno
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from qmpfleece.block.driver import Status
from tests.tools.fleecing import CLUSTER, Fleece, pattern
from tests.tools.gate import OWNER, GateDisk, Stopped
from tests.tools.until import settle

GUEST = ("write", "zero", "discard")
SIZES = (3 * CLUSTER, 3 * CLUSTER + 512, 2 * CLUSTER - 512, 4 * CLUSTER - 4096)


@dataclass
class Ticket:
    """Tells which operation a request at a gate belongs to."""

    injected: bool = False


@dataclass(eq=False)
class Op:
    """A request of the guest (write, zero, discard) or of the client (read, status, give-up)."""

    kind: str
    offset: int
    length: int
    task: asyncio.Task[object]
    ticket: Ticket
    payload: bytes = b""
    refused: bool = False
    clusters: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        last = (self.offset + self.length - 1) // CLUSTER
        self.clusters = frozenset(range(self.offset // CLUSTER, last + 1))

    def overlaps(self, other: "Op") -> bool:
        return (
            self.offset < other.offset + other.length and other.offset < self.offset + self.length
        )


class FleecingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Op] = []
        self.next_byte = 0

    # -- setting up and tearing down

    @initialize(
        size=st.sampled_from(SIZES),
        zero=st.sets(st.integers(0, 3), max_size=2),
        admitted=st.none() | st.sets(st.integers(0, 3)),
        breaks_snapshot=st.booleans(),
    )
    def build(self, size, zero, admitted, breaks_snapshot):
        data = bytearray(pattern(size))
        for cluster in zero:
            data[cluster * CLUSTER : (cluster + 1) * CLUSTER] = bytes(
                len(data[cluster * CLUSTER : (cluster + 1) * CLUSTER])
            )
        self.size = size
        self.before = bytes(data)
        self.breaks_snapshot = breaks_snapshot
        self.readable = set(range(-(-size // CLUSTER)))
        self.freed: set[int] = set()
        self.may_break = False
        self.broken = False
        self.copied: list[int] = []
        self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(self._build(admitted))

    async def _build(self, admitted):
        self.fleece = Fleece(self.before)
        options = {"on-cbw-error": "break-snapshot"} if self.breaks_snapshot else {}
        if admitted is not None:
            self.readable &= admitted
            bitmap = self.fleece.add_bitmap("b", 512)
            for cluster in self.readable:
                bitmap.mark(cluster * CLUSTER, 1)
            options["bitmap"] = {"node": "disk", "name": "b"}
        await self.fleece.start(**options)
        self.disks: tuple[GateDisk, GateDisk] = (self.fleece.disk, self.fleece.temp)
        for disk in self.disks:
            disk.stops = lambda *_: True

    def teardown(self):
        if not hasattr(self, "loop"):
            return
        try:
            if hasattr(self, "disks"):
                self.loop.run_until_complete(self._finish())
        finally:
            self.loop.close()

    async def _finish(self):
        """Let all end; what may still be read is as it was."""
        for disk in self.disks:
            disk.release()
        while any(not op.task.done() for op in self.ops):
            await settle()
            for disk in self.disks:
                disk.release()
        await self._step()
        assert not self.fleece.disk.applied
        for cluster in range(-(-self.size // CLUSTER)):
            start = cluster * CLUSTER
            length = min(CLUSTER, self.size - start)
            reading = self.fleece.read(start, length)
            if self.broken or cluster not in self.readable:
                with pytest.raises(OSError, match="Permission denied"):
                    await reading
            else:
                assert await reading == self.before[start : start + length]
        await self.fleece.close()

    # -- starting requests

    def span(self, data):
        """Draw a range: that of a request in flight, or one often at the edges of clusters."""
        if self.ops and data.draw(st.booleans()):
            busy = data.draw(st.sampled_from(self.ops))
            return busy.offset, busy.length
        near = st.sampled_from([0, 1, 511, 512, CLUSTER - 512, CLUSTER - 1])
        point = st.builds(
            lambda cluster, delta: cluster * CLUSTER + delta,
            st.integers(0, 3),
            near | st.integers(0, CLUSTER - 1),
        )
        first, second = sorted((data.draw(point), data.draw(point)))
        first = min(first, self.size - 1)
        second = min(max(second, first + 1), self.size)
        return first, second - first

    def launch(self, kind, offset, length, request, payload=b""):
        async def start():
            ticket = Ticket()
            OWNER.set(ticket)  # also for the tasks that the request creates
            op = Op(kind, offset, length, asyncio.ensure_future(request), ticket, payload)
            op.refused = self.broken or not op.clusters <= self.readable
            self.ops.append(op)
            if kind == "give-up":
                self.readable -= self.whole(offset, length)
            await self._step()

        self.loop.run_until_complete(start())

    def whole(self, offset, length):
        """Return the clusters that lie wholly in a range."""
        end = offset + length
        last = -(-end // CLUSTER) if end == self.size else end // CLUSTER
        return set(range(-(-offset // CLUSTER), last))

    @rule(data=st.data())
    def guest_writes(self, data):
        offset, length = self.span(data)
        self.next_byte = self.next_byte % 255 + 1
        payload = bytes([self.next_byte]) * length
        request = self.fleece.guest.pwrite(offset, memoryview(payload))
        self.launch("write", offset, length, request, payload)

    @rule(data=st.data())
    def guest_writes_zeroes(self, data):
        offset, length = self.span(data)
        request = self.fleece.guest.pwrite_zeroes(offset, length)
        self.launch("zero", offset, length, request, bytes(length))

    @rule(data=st.data())
    def guest_discards(self, data):
        offset, length = self.span(data)
        request = self.fleece.guest.pdiscard(offset, length)
        self.launch("discard", offset, length, request, bytes(length))

    @rule(data=st.data())
    def client_reads(self, data):
        offset, length = self.span(data)
        self.launch("read", offset, length, self.fleece.read(offset, length))

    @rule(data=st.data())
    def client_asks_for_status(self, data):
        offset, length = self.span(data)
        request = self.fleece.client.block_status(offset, length, 100)
        self.launch("status", offset, length, request)

    @rule(data=st.data())
    def client_gives_up(self, data):
        offset, length = self.span(data)
        self.launch("give-up", offset, length, self.fleece.client.pdiscard(offset, length))

    # -- letting requests go on

    @property
    def stopped(self) -> list[Stopped]:
        return [request for disk in self.disks for request in disk.waiting]

    @precondition(lambda self: self.stopped)
    @rule(data=st.data())
    def let_one_go(self, data):
        request = data.draw(st.sampled_from(self.stopped))

        async def go():
            request.go()
            await self._step()

        self.loop.run_until_complete(go())

    @precondition(lambda self: self.stopped)
    @rule(data=st.data(), code=st.sampled_from([errno.EIO, errno.ENOSPC]))
    def let_one_fail(self, data, code):
        """Make a request fail, but no change that the guest asked for."""
        request = data.draw(st.sampled_from(self.stopped))
        op = next(op for op in self.ops if op.ticket is request.owner)
        guests = request in self.fleece.disk.waiting and request.verb in GUEST
        if guests:
            return

        async def fail():
            request.fail(code)
            if op.kind not in GUEST:
                op.ticket.injected = True
            elif request.verb not in {"status", "answer"}:  # without a status the copy reads
                op.ticket.injected = True
                self.may_break = self.breaks_snapshot
            await self._step()

        self.loop.run_until_complete(fail())

    # -- what must hold

    async def _step(self):
        await settle()
        self.broken = self.fleece.cbw.snapshot.broken_because is not None
        assert self.may_break or not self.broken
        self._reap()
        self._nobody_waits_without_reason()

    def _reap(self):
        """Compare what has ended with the model."""
        for verb, offset, data in self.fleece.temp.applied:
            if verb != "discard":
                last = (offset + len(data) - 1) // CLUSTER
                self.copied += range(offset // CLUSTER, last + 1)
                # Nobody reads what is copied for a snapshot that is broken.
                assert self.broken or data == self.before[offset : offset + len(data)]
        self.fleece.temp.applied.clear()
        for op in [op for op in self.ops if op.task.done()]:
            self.ops.remove(op)
            getattr(self, f"_check_{'guest' if op.kind in GUEST else op.kind.replace('-', '_')}")(
                op
            )

    def _check_guest(self, op):
        applied = self.fleece.disk.applied
        if op.task.exception() is None:
            assert self.broken or not op.ticket.injected
            applied.remove((op.kind, op.offset, op.payload))
        else:
            assert op.ticket.injected
            assert not self.breaks_snapshot
            assert (op.kind, op.offset, op.payload) not in applied or op.kind != "write"

    def _check_read(self, op):
        if (error := op.task.exception()) is not None:
            self._check_error(op, error)
            return
        assert not op.refused
        data = op.task.result()
        for cluster in op.clusters & self.readable:
            start = max(op.offset, cluster * CLUSTER)
            end = min(op.offset + op.length, (cluster + 1) * CLUSTER)
            assert data[start - op.offset : end - op.offset] == self.before[start:end]

    def _check_status(self, op):
        if (error := op.task.exception()) is not None:
            self._check_error(op, error)
            return
        offset = op.offset
        for extent in op.task.result():
            assert extent.length > 0
            end = offset + extent.length
            if extent.flags & Status.ZERO:
                for cluster in self.readable:  # what was given up meanwhile does not count
                    start = max(offset, cluster * CLUSTER)
                    assert not any(self.before[start : min(end, (cluster + 1) * CLUSTER)])
            offset = end
        assert offset <= op.offset + op.length

    def _check_error(self, op, error):
        if error.errno == errno.EACCES:
            assert self.broken or not op.clusters <= self.readable
        else:
            assert op.ticket.injected

    def _check_give_up(self, op):
        if op.task.exception() is None:
            self.freed |= self.whole(op.offset, op.length)
        else:
            assert op.ticket.injected

    def _nobody_waits_without_reason(self):
        at_gate = [request.owner for request in self.stopped]
        for op in self.ops:
            if any(op.ticket is owner for owner in at_gate):
                continue
            others = [other for other in self.ops if other is not op]
            assert op.kind not in {"read", "status"}, "a snapshot read waits for somebody else"
            copies = any(other.kind in GUEST and other.clusters & op.clusters for other in others)
            frozen = op.kind in GUEST and any(
                other.kind == "read" and other.overlaps(op) for other in others
            )
            assert copies or frozen, "a request waits for nothing that overlaps it"

    @invariant()
    def each_cluster_is_copied_once(self):
        if hasattr(self, "disks"):
            assert len(self.copied) == len(set(self.copied))

    @invariant()
    def space_given_up_stays_free(self):
        if hasattr(self, "disks"):
            for cluster in self.freed:
                start = cluster * CLUSTER
                length = min(CLUSTER, self.size - start)
                assert not self.fleece.temp.allocated.any(start, length)


TestFleecingMachine = pytest.mark.timeout(180)(FleecingMachine.TestCase)
TestFleecingMachine.settings = settings(max_examples=100, stateful_step_count=40)
