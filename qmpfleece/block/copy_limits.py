"""The limits of a copy: its clusters, how fast it may be, when it stops."""

from typing import Final, Protocol

from qmpfleece.base.errors import QmpError
from qmpfleece.base.units import KIB
from qmpfleece.block.node import Node

#: The smallest cluster.
MIN_CLUSTER_SIZE: Final = 64 * KIB


class Halt(Protocol):
    """What may stop a copy."""

    @property
    def stopping(self) -> bool:
        """Whether no new request is to begin; those in flight are finished."""
        ...


class Throttle(Halt, Protocol):
    """What limits the rate of a copy, and may stop it."""

    def delay_s(self) -> float:
        """Return the seconds to wait before the next request, 0 to go on."""
        ...

    def account(self, length: int) -> None:
        """Count bytes that are about to be copied."""
        ...

    async def pause(self, seconds: float) -> None:
        """Wait that long, or less when the limit is changed meanwhile."""
        ...


def cluster_size_for(target: Node, min_cluster_size: int = 0) -> int:
    """Return the cluster size for copies to ``target``, in bytes.

    Args:
        target: A cluster should not be smaller than its own, or each of its clusters would be
            written several times.
        min_cluster_size: What the user asks for at least, 0 for no wish.

    Raises:
        QmpError: ``min_cluster_size`` is no power of two.
    """
    if min_cluster_size & (min_cluster_size - 1):
        raise QmpError("min-cluster-size needs to be a power of 2")
    return max(MIN_CLUSTER_SIZE, target.driver.cluster_size, min_cluster_size)
