"""What is needed of an event loop by those who only need its time and its timers."""

from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """What is needed of its timers."""

    def cancel(self) -> None:
        """Don't go off."""
        ...


class Clock(Protocol):
    """What is needed of an event loop."""

    def time(self) -> float:
        """Return seconds that never go backwards."""
        ...

    def call_at(self, when: float, callback: Callable[[], None], /) -> Timer:
        """Call back once it is ``when``."""
        ...
