"""A job that works on nodes: speed, what to do about failed requests, and block job events.

Source: QEMU's ``BlockJob``; QAPI ``BlockJobInfo``, ``BlockdevOnError``.
"""

import asyncio
import errno
from collections.abc import Callable
from typing import Final, Literal

from qmpfleece.base.errors import QmpError, errno_of
from qmpfleece.block.child import Child
from qmpfleece.block.graph import Graph
from qmpfleece.block.node import Node
from qmpfleece.block.perm import Perm, Role
from qmpfleece.jobs.events import (
    BlockJobCancelled,
    BlockJobCompleted,
    BlockJobError,
    BlockJobPending,
    ErrorAction,
)
from qmpfleece.jobs.job import Job
from qmpfleece.jobs.ratelimit import RateLimit
from qmpfleece.jobs.status import JobStatus, JobVerb

#: QAPI ``BlockdevOnError``.
OnError = Literal["report", "ignore", "enospc", "stop", "auto"]
#: QAPI ``BlockDeviceIoStatus``.
IoStatus = Literal["ok", "failed", "nospace"]


def error_action(policy: OnError, code: int) -> ErrorAction:
    """Return what a policy says about an errno. ``auto`` means ``enospc`` for jobs."""
    if policy in {"enospc", "auto"}:
        return "stop" if code == errno.ENOSPC else "report"
    return "ignore" if policy == "ignore" else "stop" if policy == "stop" else "report"


class BlockJob(Job):
    """A job on nodes.

    Args:
        graph: Where the nodes live.
        job_id: As ``Job``.
        auto_finalize: As ``Job``.
        auto_dismiss: As ``Job``.

    Attributes:
        speed: Bytes per second, 0 for no limit.
        io_status: Whether an error has stopped the job.
        ready: The job can be completed.
        limit: Keeps the speed.
    """

    def __init__(
        self, graph: Graph, job_id: str, *, auto_finalize: bool = True, auto_dismiss: bool = True
    ) -> None:
        super().__init__(job_id, auto_finalize=auto_finalize, auto_dismiss=auto_dismiss)
        self.graph: Final = graph
        self.speed = 0
        self.io_status: IoStatus = "ok"
        self.ready = False
        # The clock of the loop is looked up late: jobs are made where one runs.
        clock: Callable[[], float] = asyncio.get_running_loop().time
        self.limit: Final = RateLimit(clock)
        self._edges: list[Child] = []

    # -- nodes --------------------------------------------------------------------------------

    @property
    def edges(self) -> list[Child]:
        """The edges to the nodes that it keeps."""
        return list(self._edges)

    @property
    def home(self) -> Node | None:
        """The first node."""
        return self._edges[0].node if self._edges else None

    @property
    def _blocker(self) -> str:
        return f"block device is in use by block job: {self.kind}"

    def hold(self, name: str, node: Node) -> None:
        """Keep a node, and keep commands away from it, until ``let_go``.

        Needs no permissions: what reads and writes holds an edge of its own.
        """
        edge = Child(name, Role.NONE, self, node)
        self.graph.attach(edge, Perm.NONE, Perm.ALL)
        self._edges.append(edge)
        node.blockers.insert(0, self._blocker)

    def let_go(self) -> list[Node]:
        """Keep the nodes no longer; the caller releases those that it returns."""
        edges, self._edges = self._edges, []
        for edge in edges:
            edge.node.blockers.remove(self._blocker)
            self.graph.detach(edge)
        return [edge.node for edge in edges]

    # -- speed --------------------------------------------------------------------------------

    def set_speed(self, speed: int) -> None:
        """Change the speed, from the next request on.

        Raises:
            QmpError: The state does not allow it, or it is negative.
        """
        self.check_verb(JobVerb.SET_SPEED)
        if speed < 0:
            raise QmpError("Parameter 'speed' expects a non-negative value")
        self.speed = speed
        self.limit.set_speed(speed)

    # -- errors -------------------------------------------------------------------------------

    def on_error(self, error: OSError, policy: OnError, *, is_read: bool) -> ErrorAction:
        """Decide about a failed request and tell so; ``stop`` asks the job to pause."""
        code = errno_of(error)
        action = error_action(policy, code)
        self._bus.emit(
            BlockJobError(device=self.id, operation="read" if is_read else "write", action=action)
        )
        if action == "stop":
            if not self.user_paused:
                self.user_paused = True
                self.pause()
            if self.io_status == "ok":
                self.io_status = "nospace" if code == errno.ENOSPC else "failed"
        return action

    def on_user_resume(self) -> None:
        """Forget the error that stopped the job."""
        self.io_status = "ok"

    # -- events -------------------------------------------------------------------------------

    def on_pending(self) -> None:
        """Ask to be finalised."""
        self._bus.emit(BlockJobPending(type=self.kind, id=self.id))

    def on_ended(self) -> None:
        """Tell how it ended."""
        if self.cancelled:
            self._bus.emit(
                BlockJobCancelled(
                    type=self.kind,
                    device=self.id,
                    len=self.total,
                    offset=self.current,
                    speed=self.speed,
                )
            )
            return
        self._bus.emit(
            BlockJobCompleted(
                type=self.kind,
                device=self.id,
                len=self.total,
                offset=self.current,
                speed=self.speed,
                error=self.error,
            )
        )

    def check_force(self, *, force: bool) -> None:
        """Refuse to cancel a job that the user has paused, unless by force.

        Raises:
            QmpError: It is paused. Source: QAPI ``block-job-cancel``.
        """
        if self.user_paused and not force and self.status is not JobStatus.CONCLUDED:
            raise QmpError(f"The block job for device '{self.id}' is currently paused")
