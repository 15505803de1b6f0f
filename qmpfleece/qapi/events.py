"""Typed events.

An event is a pydantic model beside the code that emits it::

    class BlockExportDeleted(Event, name="BLOCK_EXPORT_DELETED"):
        id: str

``bus`` carries them.
"""

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
