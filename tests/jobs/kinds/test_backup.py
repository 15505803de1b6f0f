"""Backups under guest writes, in random interleavings: the target is the disk of the start."""

import asyncio
import contextlib
import errno
import random
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qmpfleece.base.errors import BlockError
from qmpfleece.bitmap.dirty import DirtyBitmap
from tests.tools.desk import Desk
from tests.tools.fleecing import CLUSTER, pattern
from tests.tools.until import settle

CLUSTERS = 6
SIZE = CLUSTERS * CLUSTER
ALL = {"device": "disk", "target": "target", "job_id": "j"}
writes = st.lists(
    st.tuples(
        st.integers(0, SIZE // 512 - 1), st.integers(1, 300), st.sampled_from(["write", "zero"])
    ),
    max_size=6,
)


@dataclass(eq=False)
class Write:
    """A guest write.

    Attributes:
        after: The writes that had ended when it began.
    """

    task: asyncio.Future[None]
    offset: int
    data: bytes
    after: list["Write"]

    def at(self, offset: int) -> bytes:
        """What it writes to a sector; nothing if that lies elsewhere."""
        start = offset - self.offset
        return self.data[start : start + 512] if start >= 0 else b""


class Interleaving:
    """A desk whose disks stop every request; a seed decides which one goes on."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.desk = Desk()
        self.disks = [self.desk.disk("disk", pattern(SIZE)), self.desk.disk("target", bytes(SIZE))]
        self.guest = self.desk.guest("disk")
        self.written = []
        self.failed = False

    def stop_all(self):
        for disk in self.disks:
            disk.stops = lambda *_: True

    def write(self, sector, sectors, kind):
        """Start a guest write."""
        offset = sector * 512
        length = min(sectors * 512, SIZE - offset)
        data = self.random.randbytes(length) if kind == "write" else bytes(length)
        if kind == "write":
            request = self.guest.pwrite(offset, memoryview(data))
        else:
            request = self.guest.pwrite_zeroes(offset, length)
        ended = [earlier for earlier in self.written if earlier.task.done()]
        self.written.append(Write(self.desk.later(request), offset, data, ended))
        return self.written[-1].task

    async def go_on(self, *, may_fail=0.0):
        """Let one request go, or fail."""
        await settle()
        waiting = [request for disk in self.disks for request in disk.waiting]
        if not waiting:
            return False
        request = self.random.choice(waiting)
        if self.random.random() < may_fail and request.verb in {"read", "write", "zero"}:
            request.fail(errno.EIO)
            self.failed = True
        else:
            request.go()
        await settle()
        return True

    async def finish(self):
        """Let everything go; the disk must hold then what the guest has written."""
        while await self.go_on():
            pass
        for disk in self.disks:
            disk.release()
        for write in self.written:
            with contextlib.suppress(*[BlockError] * self.failed):
                await write.task
        data = self.disks[0].data
        places = range(0, SIZE, 512)
        assert [at for at in places if data[at : at + 512] not in self._may_hold(at)] == []

    def _may_hold(self, offset):
        """What a sector may hold: of what has been written to it nothing that is over."""
        here = [write for write in self.written if write.at(offset)]
        done = [write for write in here if not write.task.exception()]
        over = [old for write in done for old in write.after]
        before = [] if done else [pattern(SIZE)[offset : offset + 512]]
        return before + [write.at(offset) for write in here if write not in over]


def run(test):
    asyncio.run(test)


@settings(max_examples=60)
@given(st.integers(0, 1 << 32), writes, st.sampled_from([1, 2, 64]))
def test_target_holds_the_disk_of_the_start(seed, given_writes, workers):
    async def test():
        i = Interleaving(seed)
        perf = {"max-workers": workers, "max-chunk": CLUSTER}
        i.stop_all()
        await i.desk.say("blockdev-backup", {"x-perf": perf}, sync="full", **ALL)
        for write in given_writes:
            for _ in range(i.random.randrange(4)):
                await i.go_on()
            i.write(*write)
        await i.finish()
        await i.desk.until("j null")
        assert i.desk.disks["target"].data == pattern(SIZE)
        await i.desk.close()

    run(test())


@settings(max_examples=60)
@given(st.integers(0, 1 << 32), writes, st.sampled_from(["job-pause", "blockdev-backup", None]))
def test_pauses_and_other_backups_change_nothing(seed, given_writes, disturbance):
    async def test():
        i = Interleaving(seed)
        desk = i.desk
        desk.disk("second", bytes(SIZE))
        await desk.say("blockdev-backup", {"x-perf": {"max-chunk": CLUSTER}}, sync="full", **ALL)
        i.stop_all()
        second = None
        for write in given_writes:
            await i.go_on()
            i.write(*write)
            if disturbance == "job-pause":
                await desk.say("job-pause", id="j")
                await i.go_on()
                await desk.say("job-resume", id="j")
        if disturbance == "blockdev-backup":
            more = {"device": "disk", "target": "second", "job-id": "k", "sync": "none"}
            second = desk.later(desk.say("blockdev-backup", more))
        await i.finish()
        await desk.until("j null")
        assert desk.disks["target"].data == pattern(SIZE)
        if second is not None:
            assert await second == {}
        await desk.close()

    run(test())


@settings(max_examples=100)
@example(
    seed=0,
    given_writes=[
        (0, 1, "zero"),
        (0, 129, "zero"),
        (0, 1, "write"),
        (0, 129, "zero"),
        (0, 1, "write"),
    ],
    mode="always",
    may_fail=0.25,
)
@given(
    st.integers(0, 1 << 32),
    writes,
    st.sampled_from(["on-success", "always", "never"]),
    st.floats(0, 0.3),
)
def test_bitmap_and_target_together_never_lose_a_write(seed, given_writes, mode, may_fail):
    """Applying the target, then what is dirty from the disk, must give the disk.

    Whatever fails: with on-success and never a failed job's target does not count.
    """

    async def test():
        i = Interleaving(seed)
        desk = i.desk
        disk, target = desk.disks["disk"], desk.disks["target"]
        bitmap = DirtyBitmap(SIZE, CLUSTER, "b")
        disk.node.bitmaps.insert(0, bitmap)
        base = bytes(disk.data)  # what an earlier backup holds
        first = [i.write(*write) for write in given_writes[:2]]
        await asyncio.gather(*first)
        start = bytes(disk.data)
        perf = {"max-workers": 2, "max-chunk": CLUSTER}
        given_ = {"x-perf": perf, "bitmap-mode": mode}
        await desk.say("blockdev-backup", given_, bitmap="b", sync="bitmap", **ALL)
        wanted = [n for n in range(CLUSTERS) if bitmap.bits.get(n * CLUSTER)]
        i.stop_all()
        for write in given_writes[2:]:
            i.write(*write)
            await i.go_on(may_fail=may_fail)
        while await i.go_on(may_fail=may_fail):
            pass
        await i.finish()
        await desk.until("j null")
        failed = any("error" in event for event in desk.events)
        bitmap = desk.bitmap("disk", "b")
        dirty = {n for n in range(CLUSTERS) if bitmap.bits.get(n * CLUSTER)}
        restored = bytearray(base)
        for n in wanted if not failed or mode == "always" else []:
            place = slice(n * CLUSTER, (n + 1) * CLUSTER)
            if not (failed and n in dirty):
                restored[place] = target.data[place]
                assert restored[place] == start[place]
        for n in dirty:
            place = slice(n * CLUSTER, (n + 1) * CLUSTER)
            restored[place] = disk.data[place]
        assert restored == disk.data
        await desk.close()

    run(test())


@pytest.mark.parametrize("where", ["disk", "target"])
def test_guest_requests_are_never_lost_when_the_job_is_cancelled(where):
    async def test():
        i = Interleaving(1)
        desk = i.desk
        await desk.say("blockdev-backup", sync="full", **ALL)
        desk.disks[where].stops = lambda *_: True
        write = i.write(0, 8, "write")
        await settle()
        await desk.say("job-cancel", id="j")
        await settle()
        await i.finish()
        await write
        await desk.until("j null")
        assert i.guest.node.name == "disk"
        await desk.close()

    run(test())
