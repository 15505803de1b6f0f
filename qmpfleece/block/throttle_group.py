"""Throttle groups: nodes that share one set of I/O limits.

Who is a member asks before each request and may have to wait. Reads and writes wait apart, in
a queue of each member; the members take turns, newest first, as in QEMU. For reads and for
writes there is at most one timer; when it goes off one request is let through, unasked, and
then as many as need not wait.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from functools import partial

from qmpfleece.base.clock import Clock, Timer
from qmpfleece.block.throttling import Buckets, Limits


class _Waiting:
    """A request that waits: its length in bytes, and what is resolved when it may go."""

    __slots__ = ("admitted", "length")

    def __init__(self, length: int) -> None:
        self.length = length
        self.admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Member:
    """One node of a group.

    Changes only in ``ThrottleGroup``.

    Attributes:
        group: The group.
        queues: The reads and the writes that wait, in order.
        draining: How many wait for the requests to end: while anyone does, none is held back.
    """

    __slots__ = ("draining", "group", "queues")

    def __init__(self, group: "ThrottleGroup") -> None:
        self.group = group
        self.queues: tuple[deque[_Waiting], deque[_Waiting]] = (deque(), deque())
        self.draining = 0


class ThrottleGroup:
    """A group.

    Args:
        name: The id of its object.
        limits: The first limits.
        clock: The event loop, but for tests.
        on_empty: Called with the group when the last member has left.

    Attributes:
        limited: Whether there are limits at all; if not, nobody needs to ask.
        limits: They change in ``configure``.
        members: The nodes, newest first.
    """

    def __init__(
        self,
        name: str,
        limits: Limits,
        clock: Clock,
        on_empty: Callable[["ThrottleGroup"], object] | None = None,
    ) -> None:
        self.name = name
        self._on_empty = on_empty
        self.members: list[Member] = []
        self._clock = clock
        self._timers: list[Timer | None] = [None, None]
        # Whose turn it was last, for reads and for writes.
        self._turns: list[Member | None] = [None, None]
        self._set(limits)

    def _set(self, limits: Limits) -> None:
        self.limits = limits
        self.limited = limits.any
        self._buckets = Buckets(limits, self._clock.time())

    def configure(self, limits: Limits) -> None:
        """Change the limits; the buckets are empty then, and who waits is asked again.

        Differs: in QEMU who waits goes on waiting as long as the old limits said.
        """
        self._set(limits)
        for write in (False, True):
            self._disarm(write=write)
            self._go_on(write=write)

    # -- members ------------------------------------------------------------------------------

    def join(self) -> Member:
        """Return a new member."""
        member = Member(self)
        self.members.insert(0, member)
        return member

    def leave(self, member: Member) -> None:
        """Forget a member. No request of it waits."""
        assert not any(member.queues), "a request still waits"
        index = self.members.index(member)
        for write in (False, True):
            if self._turns[write] is member:
                self._turns[write] = self.members[index - 1] if len(self.members) > 1 else None
            if len(self.members) == 1:
                self._disarm(write=write)
        del self.members[index]
        if not self.members and self._on_empty is not None:
            self._on_empty(self)

    async def admit(self, member: Member, length: int, *, write: bool) -> None:
        """Wait until a request of ``length`` bytes may go. Cancellation-safe.

        A request that is cancelled after it was let through, and before it knew, has counted.
        """
        if member.draining or not self._must_wait(member, write=write):
            self._buckets.account(length, self._clock.time(), write=write)
            return
        waiting = _Waiting(length)
        member.queues[write].append(waiting)
        try:
            await waiting.admitted
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):
                member.queues[write].remove(waiting)
            raise

    def drain_begin(self, member: Member) -> None:
        """Let everything of a member go, until ``drain_end``. It counts all the same."""
        member.draining += 1
        for write in (False, True):
            if self._turns[write] is member:
                self._disarm(write=write)
            while member.queues[write]:
                self._let_go(member, write=write)
            self._go_on(write=write)

    def drain_end(self, member: Member) -> None:
        """Undo one ``drain_begin``."""
        member.draining -= 1

    # -- turns --------------------------------------------------------------------------------

    def _must_wait(self, member: Member, *, write: bool) -> bool:
        """Tell whether the next request has to wait; if so, there is a timer afterwards."""
        if self._timers[write] is not None:
            return True
        now = self._clock.time()
        wait_s = self._buckets.wait_s(now, write=write)
        if wait_s <= 0:
            return False
        self._turns[write] = member
        self._timers[write] = self._clock.call_at(
            now + wait_s, partial(self._time_is_up, write=write)
        )
        return True

    def _time_is_up(self, *, write: bool) -> None:
        self._timers[write] = None
        member = self._turns[write]
        if member is not None and member.queues[write]:  # if not, they were cancelled
            self._let_go(member, write=write)
        self._go_on(write=write)

    def _go_on(self, *, write: bool) -> None:
        """Let go who need not wait, in turn; set the timer for the next one."""
        while (member := self._next(write=write)) is not None:
            if self._must_wait(member, write=write):
                return
            self._turns[write] = member
            self._let_go(member, write=write)

    def _next(self, *, write: bool) -> Member | None:
        """Return the next member of which a request waits."""
        last = self._turns[write]
        start = self.members.index(last) + 1 if last is not None else 0
        for member in (*self.members[start:], *self.members[:start]):
            if member.queues[write]:
                return member
        return None

    def _let_go(self, member: Member, *, write: bool) -> None:
        waiting = member.queues[write].popleft()
        if not waiting.admitted.done():  # if it is, that is because it was cancelled
            # Counted now and not when it runs: until then others may ask.
            self._buckets.account(waiting.length, self._clock.time(), write=write)
            waiting.admitted.set_result(None)

    def _disarm(self, *, write: bool) -> None:
        timer, self._timers[write] = self._timers[write], None
        if timer is not None:
            timer.cancel()
