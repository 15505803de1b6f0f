"""The commands on block nodes."""

from typing import Annotated

from qmpfleece.block import reopen
from qmpfleece.control.command import Boxed, command
from qmpfleece.control.describe import told
from qmpfleece.control.system import System
from qmpfleece.qapi.blockdev import BlockdevOptions
from qmpfleece.qapi.encode import Printed
from qmpfleece.qapi.nodes import BlockDeviceInfo


@command("query-named-block-nodes", result=list[BlockDeviceInfo])
async def query_named_block_nodes(system: System, *, flat: bool = False) -> list[Printed]:
    """Describe all nodes, newest first.

    Args:
        system: What to look at.
        flat: Leave out the images that show through each node.
    """
    # The oldest is asked first: which failure is told depends on it.
    return [await told(node, flat=flat) for node in reversed(system.graph.nodes())][::-1]


@command("blockdev-del")
async def blockdev_del(system: System, node_name: str) -> None:
    """Close a node that nobody uses, and what only it used."""
    await system.graph.delete(node_name)


@command("blockdev-add")
async def blockdev_add(system: System, options: Annotated[BlockdevOptions, Boxed]) -> None:
    """Open a node with everything nested in its definition, or nothing of it."""
    await system.graph.add(options)


@command("blockdev-reopen")
async def blockdev_reopen(system: System, options: list[BlockdevOptions]) -> None:
    """Give nodes other options, all of them or none."""
    await reopen.reopen(system.graph, options)
