"""The commands on objects that users make."""

import threading
from typing import Annotated

from qmpfleece.control.command import Boxed, command
from qmpfleece.control.object_options import ObjectOptions
from qmpfleece.control.object_types.iothread import IothreadObject
from qmpfleece.control.system import System
from qmpfleece.qapi.model import Int64, Model


class IOThreadInfo(Model):
    """QAPI ``IOThreadInfo``."""

    id: str
    thread_id: Int64
    poll_max_ns: Int64
    poll_grow: Int64
    poll_shrink: Int64
    aio_max_batch: Int64


@command("object-add")
async def object_add(system: System, options: Annotated[ObjectOptions, Boxed]) -> None:
    """Make an object, or nothing of it."""
    await system.objects.create(system, options)


@command("object-del")
async def object_del(system: System, id: str) -> None:  # noqa: A002 - its name on the wire
    """Remove an object that nobody uses."""
    system.objects.remove(id)


@command("query-iothreads", machine=True)
async def query_iothreads(system: System) -> list[IOThreadInfo]:
    """List the I/O threads, all of which are the one that runs the event loop."""
    return [
        IOThreadInfo(
            id=name,
            thread_id=threading.get_native_id(),
            poll_max_ns=made.get_property("poll-max-ns"),
            poll_grow=made.get_property("poll-grow"),
            poll_shrink=made.get_property("poll-shrink"),
            aio_max_batch=made.get_property("aio-max-batch"),
        )
        for name, made in system.objects.items()
        if isinstance(made, IothreadObject)
    ]
