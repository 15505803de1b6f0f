"""A graph in tests: nodes added in short, its shape to compare, what must always hold."""

from qmpfleece.block.node import Node
from qmpfleece.control.describe import filename
from qmpfleece.qapi.blockdev import validate_blockdev


def add(graph, driver, name, **options: object):
    wire = {key.replace("_", "-"): value for key, value in options.items()}
    return graph.add(validate_blockdev({"driver": driver, "node-name": name, **wire}))


def snapshot(graph):
    """Return everything about the shape of a graph, to compare."""
    return [
        (
            node.name,
            node.monitor_owned,
            [(c.name, c.node.name, c.perm, c.shared) for c in node.children.values()],
            [(id(edge), edge.perm, edge.shared, edge.node is node) for edge in node.parents],
        )
        for node in graph.nodes()
    ]


def check_invariants(graph):
    """Check that edges are symmetric, and what is kept what a computation from scratch gives.

    That is permissions and names.
    """
    nodes = graph.nodes()
    kept = [(filename(node), node.exact_filename) for node in nodes]
    for node in nodes:
        node.known_filename = node._exact_filename = None
    assert kept == [(filename(node), node.exact_filename) for node in nodes]
    assert len({node.name for node in nodes}) == len(nodes)
    for node in nodes:
        for name, child in node.children.items():
            assert (child.name, child.parent) == (name, node)
            assert child.node.parents.count(child) == 1
            assert child.node in nodes
        for edge in node.parents:
            assert edge.node is node
            if isinstance(edge.parent, Node):
                assert edge.parent.children[edge.name] is edge
                assert edge.parent in nodes
            expected = edge.perm, edge.shared
            if isinstance(edge.parent, Node):
                above = edge.parent.users_perm()
                expected = edge.parent.driver.child_perms(edge.name, edge.role, *above)
            assert (edge.perm, edge.shared) == expected
        for first in node.parents:
            for second in node.parents:
                assert first is second or not first.perm & ~second.shared
