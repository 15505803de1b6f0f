"""Telling that a node is written to beyond some offset, once: time to make what is below larger.

A node that is watched has its writes tracked, so that nothing is asked of others.

Source: QAPI ``block-set-write-threshold``, ``BLOCK_WRITE_THRESHOLD``.
"""

from qmpfleece.block.node import Node
from qmpfleece.qapi.bus import EventBus
from qmpfleece.qapi.events import Event
from qmpfleece.qapi.model import Uint64


class BlockWriteThreshold(Event, name="BLOCK_WRITE_THRESHOLD"):
    """A write has gone beyond the threshold, which is off now; bytes."""

    node_name: str
    amount_exceeded: Uint64
    write_threshold: Uint64


def set_threshold(node: Node, offset: int, bus: EventBus) -> None:
    """Watch for writes that end after ``offset``, 0 for none, instead of what was before."""
    if not offset:
        node.on_write = None
        node.write_threshold = 0
        return

    def look(end: int) -> None:
        if end > offset:
            set_threshold(node, 0, bus)
            bus.emit(
                BlockWriteThreshold(
                    node_name=node.name, amount_exceeded=end - offset, write_threshold=offset
                )
            )

    node.write_threshold = offset
    node.on_write = look
    node.tracks = True
