"""Filters that write down what passes."""

from qmpfleece.block import pipeline
from qmpfleece.block.driver import BlockDriver
from qmpfleece.block.node import Node, NodeOptions
from qmpfleece.block.perm import Role
from qmpfleece.qapi.blockdev import BlockdevOptions
from tests.block.pipeline.requests import F


class Layer(BlockDriver[BlockdevOptions]):
    """A filter that writes down what passes."""

    is_filter = True
    driver_name = "layer"
    write_flags = F.FUA
    zero_flags = F.FUA | F.MAY_UNMAP | F.NO_FALLBACK

    log = None

    def _note(self, verb):
        self.log.append(f"{self.node.name} {verb}")
        return self.node.children["file"]

    def pread(self, offset, buf):
        return pipeline.pread(self._note("read"), offset, buf)

    def pwrite(self, offset, buf, flags):
        return pipeline.pwrite(self._note("write"), offset, buf, flags)

    def pwrite_zeroes(self, offset, length, flags):
        return pipeline.pwrite_zeroes(self._note("zero"), offset, length, flags)

    def pdiscard(self, offset, length):
        return pipeline.pdiscard(self._note("discard"), offset, length)

    async def flush(self):
        self._note("flush")

    def truncate(self, length):
        return pipeline.truncate(self._note("truncate"), length)


def add_layer(graph, name, below, log):
    options = BlockdevOptions(driver="layer", node_name=name, discard="unmap")
    node = Node(name, options, NodeOptions(options))
    node.driver = Layer(node, options)
    node.driver.log = log
    node.length = below.length
    node.monitor_owned = True
    graph._nodes[name] = node
    graph.attach_child(node, "file", Role.FILTERED | Role.PRIMARY, below)
    return node
