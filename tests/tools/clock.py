"""A clock that stands still until the test moves it; what is due then is called."""

import heapq
from collections.abc import Callable


class _Timer:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class StillClock:
    """Stands in for an event loop where only its time and its timers are needed."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, int, _Timer]] = []
        self._made = 0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None], /) -> _Timer:
        timer = _Timer(when, callback)
        self._made += 1
        heapq.heappush(self._timers, (when, self._made, timer))
        return timer

    @property
    def armed(self) -> list[float]:
        """When the timers that were not cancelled go off."""
        return sorted(when for when, _, timer in self._timers if timer.callback is not None)

    def tick(self) -> bool:
        """Go to the next timer and let it go off; False if there is none."""
        while self._timers:
            when, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                self.now = max(self.now, when)
                timer.callback()
                return True
        return False

    def advance(self, seconds: float) -> None:
        """Let time pass; timers go off in order, each at its own time."""
        end = self.now + seconds
        while self.armed and self.armed[0] <= end:
            self.tick()
        self.now = end
