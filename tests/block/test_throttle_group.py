"""Who may go when: turns, queues, drains and changes of limits, on a clock that we move."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmpfleece.block.throttle_group import ThrottleGroup
from qmpfleece.block.throttling import Limits
from tests.tools.clock import StillClock
from tests.tools.until import settle


class Talk:
    """A group and what it has let through: names in order, with the time where asked."""

    def __init__(self, **values: int) -> None:
        self.clock = StillClock()
        self.group = ThrottleGroup("g", limits(**values), self.clock)
        self.went = []
        self.times = []
        self.tasks = {}

    async def _ask(self, name, member, length, *, write):
        await self.group.admit(member, length, write=write)
        self.went.append(name)
        self.times.append(self.clock.now)

    async def ask(self, member, *names: object, length=512, write=False):
        for name in names:
            request = self._ask(name, member, length, write=write)
            self.tasks[name] = asyncio.ensure_future(request)
        await settle()

    async def later(self, seconds):
        """What goes within the next seconds."""
        before = len(self.went)
        end = self.clock.now + seconds
        while self.clock.armed and self.clock.armed[0] <= end:
            self.clock.tick()
            await settle()
        self.clock.now = end
        await settle()
        return self.went[before:]

    async def close(self):
        self.group.configure(Limits())
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        assert not self.clock.armed
        assert not [member for member in self.group.members if any(member.queues)]


def limits(**values: int):
    found = Limits().changed({name.replace("_", "-"): value for name, value in values.items()})
    found.check()
    return found


def named(letter, count, start=0):
    return [f"{letter}{number}" for number in range(start, start + count)]


@pytest.fixture
async def twenty():
    """Twenty operations a second, and as many at once."""
    talk = Talk(iops_total=20, iops_total_max=20)
    yield talk
    await talk.close()


async def test_what_is_too_much_goes_one_by_one_at_the_rate(twenty):
    member = twenty.group.join()
    await twenty.ask(member, *named("a", 25))
    assert twenty.went == named("a", 21)
    assert await twenty.later(0.2) == named("a", 4, 21)
    assert twenty.times[21:] == pytest.approx([0.05, 0.10, 0.15, 0.20])


async def test_members_take_turns_as_in_qemu(twenty):
    """The order was seen on qemu-storage-daemon: three nodes, made as a, b, c."""
    a, b, c = (twenty.group.join() for _ in range(3))
    await twenty.ask(a, *named("a", 24))
    await twenty.later(0.05)
    await twenty.ask(c, *named("c", 4))
    await twenty.ask(b, *named("b", 4))
    assert twenty.went == named("a", 22)
    assert " ".join(await twenty.later(1.0)) == "a22 c0 b0 a23 c1 b1 c2 b2 c3 b3"


async def test_reads_and_writes_wait_apart_under_their_total(twenty):
    member = twenty.group.join()
    await twenty.ask(member, *named("r", 24))
    await twenty.ask(member, *named("w", 3), write=True)
    assert twenty.went == named("r", 21)
    assert sorted(await twenty.later(0.05)) == ["r21", "w0"]
    assert sorted(await twenty.later(0.11)) == ["r22", "w1"]


async def test_a_limit_on_reads_lets_writes_pass():
    talk = Talk(iops_read=1)
    member = talk.group.join()
    await talk.ask(member, *named("r", 3))
    await talk.ask(member, *named("w", 30), write=True)
    assert talk.went == ["r0", *named("w", 30)]
    await talk.close()


async def test_a_drained_member_s_requests_go_at_once_and_count(twenty):
    a, b = (twenty.group.join() for _ in range(2))
    await twenty.ask(a, *named("a", 41))
    await twenty.ask(b, "b0")
    twenty.group.drain_begin(a)
    await settle()
    assert twenty.went == named("a", 41)
    await twenty.ask(a, "later")
    assert twenty.went[-1] == "later"
    twenty.group.drain_end(a)
    await twenty.ask(a, "limited")
    assert await twenty.later(1.04) == []
    assert await twenty.later(0.02) == ["b0"]
    assert await twenty.later(0.08) == []
    assert await twenty.later(0.02) == ["limited"]


async def test_draining_another_member_does_not_let_one_s_own_go(twenty):
    a, b = (twenty.group.join() for _ in range(2))
    await twenty.ask(a, *named("a", 23))
    twenty.group.drain_begin(b)
    await settle()
    assert twenty.went == named("a", 21)
    twenty.group.drain_end(b)


async def test_a_cancelled_request_is_forgotten_and_does_not_count(twenty):
    member = twenty.group.join()
    await twenty.ask(member, *named("a", 24))
    twenty.tasks["a21"].cancel()
    twenty.tasks["a22"].cancel()
    await settle()
    assert await twenty.later(0.05) == ["a23"]
    await twenty.ask(member, "next")
    assert await twenty.later(0.05) == ["next"]


async def test_a_request_cancelled_as_its_time_comes_harms_nobody(twenty):
    member = twenty.group.join()
    await twenty.ask(member, *named("a", 23))
    twenty.tasks["a21"].cancel()
    twenty.clock.tick()  # before the task knows
    await settle()
    assert twenty.tasks["a21"].cancelled()
    assert twenty.went[-1] == "a22"
    assert not member.queues[False]


async def test_new_limits_hold_at_once_with_empty_buckets():
    talk = Talk(bps_total=1, bps_total_max=1024)
    a, b = (talk.group.join() for _ in range(2))
    await talk.ask(a, *named("a", 6))
    await talk.ask(b, *named("b", 2))
    assert talk.went == named("a", 3)
    talk.group.configure(limits(bps_total=512, bps_total_max=512))
    await settle()
    assert talk.went[3:] == ["b0", "a3"]
    assert await talk.later(1) == ["b1"]
    talk.group.configure(Limits())
    await settle()
    assert talk.went[6:] == ["a4", "a5"]
    assert not talk.group.limited
    await talk.close()


async def test_a_member_may_leave_while_others_wait(twenty):
    a, b = (twenty.group.join() for _ in range(2))
    await twenty.ask(a, *named("a", 20))
    await twenty.ask(b, *named("b", 3))
    twenty.tasks["b1"].cancel()
    await twenty.ask(a, "late")
    await settle()
    twenty.tasks["b2"].cancel()
    await settle()
    twenty.group.leave(b)
    assert await twenty.later(0.1) == ["late"]
    twenty.group.leave(a)
    assert twenty.group.members == []
    assert not twenty.clock.armed


steps = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 2), st.booleans(), st.integers(1, 4096)),
    st.tuples(st.just("time"), st.floats(0, 3)),
    st.tuples(st.just("drain"), st.integers(0, 2)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("limits"), st.integers(0, 4096), st.integers(0, 3)),
)


async def play(script):
    talk = Talk(bps_total=1000, iops_read=3)
    members = [talk.group.join() for _ in range(3)]
    asked = []
    for step, *what in script:
        if step == "ask":
            index, write, length = what
            asked.append((index, write, len(asked)))
            await talk.ask(members[index], asked[-1], length=length, write=write)
        elif step == "time":
            await talk.later(what[0])
        elif step == "drain":
            talk.group.drain_begin(members[what[0]])
            await settle()
            assert not any(members[what[0]].queues)
            talk.group.drain_end(members[what[0]])
        elif step == "cancel" and what[0] < len(asked):
            talk.tasks[asked[what[0]]].cancel()
            await settle()
        elif step == "limits":
            talk.group.configure(limits(bps_total=what[0], iops_write=what[1]))
            await settle()
        for write in (False, True):
            waits = any(member.queues[write] for member in members)
            assert not waits or talk.group._timers[write] is not None
    while talk.clock.tick():
        await settle()
    return talk, asked


@given(st.lists(steps, max_size=40))
def test_whatever_happens_all_go_in_order_and_nobody_is_forgotten(script):
    async def run():
        talk, asked = await play(script)
        gone = [name for name in asked if not talk.tasks[name].cancelled()]
        assert sorted(talk.went, key=lambda name: name[2]) == gone
        for queue in {name[:2] for name in asked}:
            order = [name[2] for name in talk.went if name[:2] == queue]
            assert order == sorted(order)
        await talk.close()

    asyncio.run(run())


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(1, 4096)), max_size=40))
def test_readers_and_writers_together_stay_below_the_rate_but_for_a_burst(requests):
    """Of each direction one request may come on top of what the buckets hold."""

    async def run():
        talk = Talk(bps_total=1000, bps_total_max=2000)
        members = [talk.group.join() for _ in range(3)]
        for number, (index, write, length) in enumerate(requests):
            await talk.ask(members[index], (number, length), length=length, write=write)
        while talk.clock.tick():
            await settle()
        passed, most = 0, max((length for _, _, length in requests), default=0)
        for (_, length), when in zip(talk.went, talk.times, strict=True):
            passed += length
            assert passed <= 2000 + 1000 * when + 2 * most + 1e-3
        total = sum(length for _, _, length in requests)
        last = talk.times[-1] if talk.times else 0
        assert last <= max(0, total - 2000) / 1000 + 1e-6
        await talk.close()

    asyncio.run(run())
