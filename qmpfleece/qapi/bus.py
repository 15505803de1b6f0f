"""The one bus that carries events, passed in at construction.

Nobody below ``control`` knows that QMP exists. It knows no event either: their models are
imported with the code that emits them.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from qmpfleece.qapi.events import Event

#: Receives the event and the wall-clock time of its emission in microseconds.
Listener: TypeAlias = "Callable[[Event, int], None]"


class EventBus:
    """Delivers each event to every listener, synchronously and in order."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener; the returned function removes it. Listeners must not raise."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def emit(self, event: "Event") -> None:
        """Deliver ``event`` to every listener before returning."""
        now_us = time.time_ns() // 1000
        for listener in tuple(self._listeners):
            listener(event, now_us)
