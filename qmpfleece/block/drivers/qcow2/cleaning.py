"""Giving memory back: tables that nobody has used for a while are dropped from the caches.

Source: QEMU 7.2, ``cache-clean-interval``: at each end of the interval goes what was not used
since its last one. Differs: the clock is the host's, also while a machine stands still.
"""

from collections.abc import Callable

from qmpfleece.base.clock import Clock, Timer


class Cleaner:
    """The timer of one image; it has no task.

    Args:
        clock: Whose timers are used.
        clean: Drops what was not used since its last call; synchronous.
    """

    def __init__(self, clock: Clock, clean: Callable[[], None]) -> None:
        self._clock = clock
        self._clean = clean
        self._interval_s = 0
        self._timer: Timer | None = None

    @property
    def running(self) -> bool:
        """Whether the timer is armed."""
        return self._timer is not None

    def start(self, interval_s: int) -> None:
        """Clean every so many seconds from now on, 0 for never, instead of what was before."""
        self.stop()
        self._interval_s = interval_s
        if interval_s:
            self._timer = self._clock.call_at(self._clock.time() + interval_s, self._tick)

    def stop(self) -> None:
        """Clean no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._clean()
        self.start(self._interval_s)
