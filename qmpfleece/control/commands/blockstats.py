"""query-blockstats: how much was read and written, in the shape that QEMU gives.

Of nodes only the highest offset written is counted, of disks what their users ask for: the aio
commands of qemu-io, as in QEMU, and clients of an export of a device, who are its guest. Times are
known of the former only; nobody looks at a clock for each request of a client.

Source: QAPI ``BlockStats``, ``BlockDeviceStats``; which members there are is as QEMU 7.2 has it.
"""

from typing import Any, Final

from pydantic import Field

from qmpfleece.block.accounting import Accounting
from qmpfleece.block.backend import Backend
from qmpfleece.block.node import Node
from qmpfleece.control.command import command
from qmpfleece.control.commands.query_block import disks
from qmpfleece.control.describe import filtered_or_backing
from qmpfleece.control.system import System
from qmpfleece.qapi.model import Int64, Model

#: Requests are not merged, and no intervals can be asked for.
_NOT_COUNTED: Final[dict[str, Any]] = {
    "rd_merged": 0,
    "wr_merged": 0,
    "unmap_merged": 0,
    "timed_stats": [],
}
_NO_REQUESTS: Final[dict[str, Any]] = Accounting().counters()


class BlockDeviceStats(Model):
    """QAPI ``BlockDeviceStats``."""

    rd_bytes: Int64 = Field(alias="rd_bytes")
    wr_bytes: Int64 = Field(alias="wr_bytes")
    unmap_bytes: Int64 = Field(alias="unmap_bytes")
    rd_operations: Int64 = Field(alias="rd_operations")
    wr_operations: Int64 = Field(alias="wr_operations")
    flush_operations: Int64 = Field(alias="flush_operations")
    unmap_operations: Int64 = Field(alias="unmap_operations")
    rd_total_time_ns: Int64 = Field(alias="rd_total_time_ns")
    wr_total_time_ns: Int64 = Field(alias="wr_total_time_ns")
    flush_total_time_ns: Int64 = Field(alias="flush_total_time_ns")
    unmap_total_time_ns: Int64 = Field(alias="unmap_total_time_ns")
    wr_highest_offset: Int64 = Field(alias="wr_highest_offset")
    rd_merged: Int64 = Field(alias="rd_merged")
    wr_merged: Int64 = Field(alias="wr_merged")
    unmap_merged: Int64 = Field(alias="unmap_merged")
    idle_time_ns: Int64 | None = Field(None, alias="idle_time_ns")
    failed_rd_operations: Int64 = Field(alias="failed_rd_operations")
    failed_wr_operations: Int64 = Field(alias="failed_wr_operations")
    failed_flush_operations: Int64 = Field(alias="failed_flush_operations")
    failed_unmap_operations: Int64 = Field(alias="failed_unmap_operations")
    invalid_rd_operations: Int64 = Field(alias="invalid_rd_operations")
    invalid_wr_operations: Int64 = Field(alias="invalid_wr_operations")
    invalid_flush_operations: Int64 = Field(alias="invalid_flush_operations")
    invalid_unmap_operations: Int64 = Field(alias="invalid_unmap_operations")
    account_invalid: bool = Field(alias="account_invalid")
    account_failed: bool = Field(alias="account_failed")
    timed_stats: list[dict[str, Any]] = Field(alias="timed_stats")


class BlockStats(Model):
    """QAPI ``BlockStats``."""

    device: str | None = None
    qdev: str | None = None
    node_name: str | None = None
    stats: BlockDeviceStats
    driver_specific: dict[str, Any] | None = None
    parent: "BlockStats | None" = None
    backing: "BlockStats | None" = None


def _of_node(node: Node, *, backing: bool) -> BlockStats:
    """Return what is said of a node, and of those below: ``parent`` is where its data is."""
    stats = BlockDeviceStats(
        **_NOT_COUNTED,
        **_NO_REQUESTS,
        wr_highest_offset=node.wr_highest_offset,
        account_invalid=False,
        account_failed=False,
    )
    found = BlockStats(node_name=node.name, stats=stats)
    if (known := node.driver.statistics()) is not None:
        found.driver_specific = {"driver": node.driver.driver_name} | known
    below = node.primary_child or node.children.get("file")
    if below is not None:
        found.parent = _of_node(below.node, backing=backing)
    shown = filtered_or_backing(node)
    if backing and shown is not None:
        found.backing = _of_node(shown, backing=True)
    return found


def _of_disk(backend: Backend) -> BlockDeviceStats:
    node, accounting = backend.node, backend.accounting
    return BlockDeviceStats(
        **_NOT_COUNTED,
        **accounting.counters(),
        idle_time_ns=accounting.idle_ns(),
        wr_highest_offset=node.wr_highest_offset if node is not None else 0,
        account_invalid=True,
        account_failed=True,
    )


@command("query-blockstats")
async def query_blockstats(
    system: System,
    query_nodes: bool | None = None,  # noqa: FBT001 - members come by name
) -> list[BlockStats]:
    """Tell how much was read from and written to the disks.

    Args:
        system: What to look at.
        query_nodes: Tell it of all nodes instead, the oldest first.
    """
    if query_nodes:
        return [_of_node(node, backing=False) for node in reversed(system.graph.nodes())]
    found = []
    for disk in disks(system):
        node = disk.backend.node
        counted = _of_disk(disk.backend)
        stats = _of_node(node, backing=True) if node is not None else BlockStats(stats=counted)
        stats.stats = counted
        stats.device = disk.backend.name
        stats.qdev = disk.device.name if disk.device is not None else None
        found.append(stats)
    return found
