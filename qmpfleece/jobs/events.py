"""What jobs say while they live."""

from typing import Literal

from qmpfleece.jobs.status import JobStatus
from qmpfleece.qapi.events import Event
from qmpfleece.qapi.model import Int64

#: QAPI ``BlockErrorAction``.
ErrorAction = Literal["ignore", "report", "stop"]


class JobStatusChange(Event, name="JOB_STATUS_CHANGE"):
    """A job has entered another state."""

    id: str
    status: JobStatus


class BlockJobCompleted(Event, name="BLOCK_JOB_COMPLETED"):
    """A block job has ended, well or with an error. Progress is in bytes."""

    type: str
    device: str
    len: Int64
    offset: Int64
    speed: Int64
    error: str | None = None


class BlockJobCancelled(Event, name="BLOCK_JOB_CANCELLED"):
    """A block job was cancelled. Progress is in bytes."""

    type: str
    device: str
    len: Int64
    offset: Int64
    speed: Int64


class BlockJobReady(Event, name="BLOCK_JOB_READY"):
    """A block job can be completed."""

    type: str
    device: str
    len: Int64
    offset: Int64
    speed: Int64


class BlockJobPending(Event, name="BLOCK_JOB_PENDING"):
    """A block job waits to be finalised by the user."""

    type: str
    id: str


class BlockJobError(Event, name="BLOCK_JOB_ERROR"):
    """A request of a block job has failed."""

    device: str
    operation: Literal["read", "write"]
    action: ErrorAction
