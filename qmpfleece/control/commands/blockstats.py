"""query-blockstats: how much was read and written, in the shape that QEMU gives.

The numbers are all zero, as after the start of QEMU: nobody counts here, because each request
would pay for it. Of nodes QEMU itself counts nothing but the highest offset written.

Source: QAPI ``BlockStats``, ``BlockDeviceStats``; which members there are is as QEMU 7.2 has it.
"""

from typing import Any, Final

from pydantic import Field

from qmpfleece.block.node import Node
from qmpfleece.control.command import command
from qmpfleece.control.commands.query_block import disks
from qmpfleece.control.describe import filtered_or_backing
from qmpfleece.control.system import System
from qmpfleece.qapi.model import Int64, Model

#: What the drivers of host files tell besides.
_OF_FILES: Final = frozenset({"file", "host_device"})


class BlockDeviceStats(Model):
    """QAPI ``BlockDeviceStats``."""

    rd_bytes: Int64 = Field(0, alias="rd_bytes")
    wr_bytes: Int64 = Field(0, alias="wr_bytes")
    unmap_bytes: Int64 = Field(0, alias="unmap_bytes")
    rd_operations: Int64 = Field(0, alias="rd_operations")
    wr_operations: Int64 = Field(0, alias="wr_operations")
    flush_operations: Int64 = Field(0, alias="flush_operations")
    unmap_operations: Int64 = Field(0, alias="unmap_operations")
    rd_total_time_ns: Int64 = Field(0, alias="rd_total_time_ns")
    wr_total_time_ns: Int64 = Field(0, alias="wr_total_time_ns")
    flush_total_time_ns: Int64 = Field(0, alias="flush_total_time_ns")
    unmap_total_time_ns: Int64 = Field(0, alias="unmap_total_time_ns")
    wr_highest_offset: Int64 = Field(0, alias="wr_highest_offset")
    rd_merged: Int64 = Field(0, alias="rd_merged")
    wr_merged: Int64 = Field(0, alias="wr_merged")
    unmap_merged: Int64 = Field(0, alias="unmap_merged")
    idle_time_ns: Int64 | None = Field(None, alias="idle_time_ns")
    failed_rd_operations: Int64 = Field(0, alias="failed_rd_operations")
    failed_wr_operations: Int64 = Field(0, alias="failed_wr_operations")
    failed_flush_operations: Int64 = Field(0, alias="failed_flush_operations")
    failed_unmap_operations: Int64 = Field(0, alias="failed_unmap_operations")
    invalid_rd_operations: Int64 = Field(0, alias="invalid_rd_operations")
    invalid_wr_operations: Int64 = Field(0, alias="invalid_wr_operations")
    invalid_flush_operations: Int64 = Field(0, alias="invalid_flush_operations")
    invalid_unmap_operations: Int64 = Field(0, alias="invalid_unmap_operations")
    account_invalid: bool = Field(alias="account_invalid")
    account_failed: bool = Field(alias="account_failed")
    timed_stats: list[dict[str, Any]] = Field([], alias="timed_stats")


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
    found = BlockStats(node_name=node.name, stats=_zero(accounts=False))
    if node.driver.driver_name in _OF_FILES:
        found.driver_specific = {
            "driver": node.driver.driver_name,
            "discard-nb-ok": 0,
            "discard-nb-failed": 0,
            "discard-bytes-ok": 0,
        }
    below = node.primary_child or node.children.get("file")
    if below is not None:
        found.parent = _of_node(below.node, backing=backing)
    shown = filtered_or_backing(node)
    if backing and shown is not None:
        found.backing = _of_node(shown, backing=True)
    return found


def _zero(*, accounts: bool) -> BlockDeviceStats:
    return BlockDeviceStats(account_invalid=accounts, account_failed=accounts)


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
        stats = (
            _of_node(node, backing=True)
            if node is not None
            else BlockStats(stats=_zero(accounts=True))
        )
        stats.stats = _zero(accounts=True)
        stats.device = disk.backend.name
        stats.qdev = disk.device.name if disk.device is not None else None
        found.append(stats)
    return found
