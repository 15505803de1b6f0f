"""Typed events and the one bus that carries them.

An event is a pydantic model beside the code that emits it::

    class BlockExportDeleted(Event, name="BLOCK_EXPORT_DELETED"):
        id: str

The bus is passed in at construction; nobody below ``control`` knows that QMP exists.
"""

import time
from collections.abc import Callable
from typing import Any, ClassVar, Final

from qmpfleece.base.registry import Registry
from qmpfleece.qapi.model import Model

#: Every event class by its QAPI name.
EVENTS: Final[Registry[type["Event"]]] = Registry("event")


class Event(Model):
    """Base of all events; the fields are the event's ``data``."""

    event_name: ClassVar[str]

    def __init_subclass__(cls, *, name: str, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.event_name = name
        EVENTS.add(name, cls)


#: Receives the event and the wall-clock time of its emission in microseconds.
Listener = Callable[[Event, int], None]


class EventBus:
    """Delivers each event to every listener, synchronously and in order."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener; the returned function removes it. Listeners must not raise."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def emit(self, event: Event) -> None:
        """Deliver ``event`` to every listener before returning."""
        now_us = time.time_ns() // 1000
        for listener in tuple(self._listeners):
            listener(event, now_us)
