"""Reopening: new options for nodes that are in use, several at once, all or nothing.

First every node is drained and flushed, and its driver gets ready for the new options; then, in
one synchronous step, options and edges change and the permissions of all are checked, or
everything is put back; last the drivers do what needs the new permissions. What a node opened
itself, from a nested definition, follows it.

Source: QAPI ``blockdev-reopen``; QEMU's ``bdrv_reopen_multiple``, observed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from qmpfleece.base.errors import QmpError
from qmpfleece.block import edges, grants, pipeline
from qmpfleece.block.child import Child
from qmpfleece.block.drain import drained
from qmpfleece.block.driver import Reopening
from qmpfleece.block.graph import Graph, check_options
from qmpfleece.block.node import Node, NodeOptions
from qmpfleece.block.perm import Role
from qmpfleece.block.told import flat, flatten, inheritable, joined, member, told_of
from qmpfleece.qapi.blockdev import BlockdevOptions, validate_blockdev
from qmpfleece.qapi.order import ordered

#: What may change in every node; all but the last may also be left out.
_COMMON: Final = frozenset(
    ("read-only", "auto-read-only", "discard", "detect-zeroes", "cache.direct", "cache.no-flush")
)
#: Children that may be replaced.
_REPLACEABLE: Final = ("backing", "file")
_NOTHING: Final[Mapping[str, str]] = {}


async def reopen(graph: Graph, definitions: Sequence[BlockdevOptions]) -> None:
    """Give nodes new options; what is left out goes back to its default.

    Raises:
        QmpError: A node can't have them; nothing has changed.
    """
    queue: dict[Node, Reopening[Any]] = {}
    for given in definitions:
        if given.node_name is None:
            raise QmpError("node-name not specified")
        if (node := graph.get(given.node_name)) is None:
            raise QmpError(f"Failed to find node with node-name='{given.node_name}'")
        _enqueue(graph, queue, node, given, keep=False, above=None)
    await _run(graph, queue)


async def set_read_only(graph: Graph, node: Node, *, read_only: bool) -> None:
    """Change but this of a node, whatever its driver; see ``change``.

    Raises:
        QmpError: It can't be so; nothing has changed.
    """
    given = node.given.model_copy(update={"read_only": read_only})
    queue: dict[Node, Reopening[Any]] = {}
    _enqueue(graph, queue, node, given, keep=True, above=None)
    await _run(graph, queue)


def changeable(node: Node) -> frozenset[str]:
    """Return the options of a node that can have other values."""
    return _COMMON | (node.driver.mutable_options or frozenset())


async def change(
    graph: Graph, node: Node, options: Mapping[str, Any], said: Mapping[str, str] = _NOTHING
) -> None:
    """Change some options of a node and keep the others.

    Those that it opened follow, as far as they inherit.

    Args:
        graph: Where it lives.
        node: The node.
        options: Values by their dotted names.
        said: Those that were said as text, as they were said.

    Raises:
        QmpError: It can't have them; nothing has changed.
        pydantic.ValidationError: A value is not one of its option.
    """
    if options:
        _check_reopens(node)
    moves = _found_moves(graph, node, options)
    free = changeable(node)
    old = flat(node.given, node)
    definition = node.given.to_wire() | {name: found.name for name, found in moves.items()}
    for name, value in options.items():
        child = node.children.get(name)
        if name in moves or (child is not None and value == child.node.name):
            continue
        if name not in free and old.get(name) != value:
            raise QmpError(f"Cannot change the option '{name}'")
        into, (*path, last) = definition, name.split(".")
        for step in path:
            if not isinstance(into.get(step), dict):  # a template, alone or not
                into[step] = {"template": into[step]} if step in into else {}
            into = into[step]
        into[last] = value
    given = validate_blockdev(definition)
    if "backing" in node.given.model_fields_set and "backing" not in definition:
        given = given.model_copy(update={"backing": None})
    queue: dict[Node, Reopening[Any]] = {}
    _enqueue(graph, queue, node, given, keep=True, above=None)
    queue[node].moves |= moves
    queue[node].said |= said
    await _run(graph, queue)


def _found_moves(graph: Graph, node: Node, options: Mapping[str, Any]) -> dict[str, Node]:
    """Return the nodes that are named as other children.

    Raises:
        QmpError: One can't be such a child.
    """
    moves: dict[str, Node] = {}
    for name in _REPLACEABLE:
        if name in options and (found := _replacement(graph, node, name, options[name])):
            moves[name] = found
    return moves


def _replacement(
    graph: Graph, node: Node, name: str, ref: str, moves: edges.Moves = edges.NO_MOVES
) -> Node | None:
    """Return the node that is named as another child; None: it is that child already.

    Raises:
        QmpError: It can't be such a child.
    """
    if (found := graph.get(ref)) is None:
        raise QmpError(f"Cannot find device='' nor node-name='{ref}'")
    edges.check_no_cycle(node, name, found, moves)
    child = node.children.get(name)
    if child is not None and child.node is found:
        return None
    kind = node.driver.driver_name
    if child is None and node.driver.is_filter:
        raise QmpError(
            f"'{node.name}' is a {kind} filter node that does not support a {name} child"
        )
    if name == "backing" and not node.driver.supports_backing:
        raise QmpError(f"Driver '{kind}' of node '{node.name}' does not support backing files")
    if name == "file" and child is None:
        raise QmpError("Cannot set file child to format node without file child")
    return found


def _check_reopens(node: Node) -> None:
    """Refuse a node whose driver has nothing that could change.

    Raises:
        QmpError: It is one.
    """
    if node.driver.mutable_options is None:
        raise QmpError(
            f"Block format '{node.driver.driver_name}' used by node '{node.name}' does not support"
            " reopening files"
        )


async def _run(graph: Graph, queue: dict[Node, Reopening[Any]]) -> None:
    changes = list(queue.values())
    async with drained(*queue):
        await _flush(queue)
        prepared: list[Reopening[Any]] = []
        moves = {node: change.moves for node, change in queue.items()}  # as they are found
        try:
            for change in changes:
                prepared.append(change)
                await _prepare(graph, change, moves)
            left = _apply(graph, changes)
        except BaseException:
            for change in reversed(prepared):
                await change.node.driver.reopen_abort()
            raise
        for change in reversed(changes):
            change.node.driver.reopen_commit()
        # What is below first: only then it can be written to as it has to be by now.
        for node in reversed(grants.reachable(queue)):
            if node in queue:
                await node.driver.reopen_finish()
                node.tracks |= node.request_alignment > 1
    for node in left:
        await graph.release(node)


# -- what is to be done -----------------------------------------------------------------------


def _enqueue(
    graph: Graph,
    queue: dict[Node, Reopening[Any]],
    node: Node,
    given: BlockdevOptions,
    *,
    keep: bool,
    above: BlockdevOptions | None,
) -> None:
    """Note what is to be done to a node and to those that it opened.

    Args:
        graph: Where it lives.
        queue: What is to be done; what it tells of the node counts where ``given`` is silent.
        node: The node.
        given: What is given of it.
        keep: What nobody tells stays as it is, rather than go back to its default.
        above: What is told of the node that opened it, with which this one follows; None:
            this one is named for itself, and inherits nothing.
    """
    earlier = queue.get(node)
    if earlier is not None and type(given) is type(earlier.given):
        given = joined(earlier.given, given)
    told = told_of(node, given, keep=keep, above=above)
    options = NodeOptions(told)
    options.untold = frozenset(k for k, value in inheritable(told).items() if value is None)
    if given.discard is None:  # the one option that QEMU keeps when it is left out
        options.unmap = node.options.unmap
    options.aio = node.options.aio
    unchecked = keep and (earlier is None or earlier.keep)
    nested = above is not None
    queue[node] = Reopening(node, given, options, graph, keep=unchecked, nested=nested)
    for child in node.children.values():
        if child.node.inherits_from is not node or child.node.given is None:
            continue
        ref = getattr(given, member(child.name), None)
        below, keep_below = child.node.given, True
        if not keep and isinstance(ref, BlockdevOptions):
            below, keep_below = ref, False
        elif not keep and ref is not None and ref != child.node.name:
            continue  # it is replaced
        elif not keep and ref is None and member(child.name) in given.model_fields_set:
            continue  # it is taken off
        elif child.node in queue:
            below = queue[child.node].given
        passed = told
        if child.role & Role.COW:
            passed = told.model_copy(update={"read_only": True})
        _enqueue(graph, queue, child.node, below, keep=keep_below, above=passed)


async def _flush(nodes: dict[Node, Reopening[Any]]) -> None:
    for node in nodes:
        try:
            await pipeline.flush_node(node)
        except OSError as error:
            raise QmpError(f"Error flushing drive: {error.strerror}") from error


async def _prepare(graph: Graph, change: Reopening[Any], moves: edges.Moves) -> None:
    node, driver = change.node, change.node.driver
    check_options(change.given, change.options, reopened=True)
    _check_reopens(node)
    if change.keep:
        await driver.reopen_prepare(change)
        return
    new, old = flat(change.given, node), flat(node.given, node)
    free = changeable(node)
    lasting = old.keys() - (free - driver.required_options) - {"node-name"}
    for name in ordered(old):
        if name not in new and name in lasting:
            raise QmpError(f"Option '{name}' cannot be reset to its default value")
    if change.given.driver == node.given.driver:
        await driver.reopen_prepare(change)
    _find_moves(graph, change, moves)
    left = _flat_left(change)
    for name in ordered(left):
        # Source: QEMU refuses force-share even when it stays as it is.
        if name not in free and (name == "force-share" or old.get(name) != left[name]):
            raise QmpError(f"Cannot change the option '{name}'")
    _check_told(change)


def _check_told(change: Reopening[Any]) -> None:
    """Refuse to leave out a child of the node's own, such as a data file that the image names.

    Of the backing file see ``_find_moves``.

    Raises:
        QmpError: There is one; QEMU's text, which misses its first option.
    """
    node = change.node
    for name, child in node.children.items():
        if child.node.inherits_from is not node or child.role & Role.COW:
            continue
        if getattr(change.given, member(name), None) is None:
            raise QmpError("Option 'driver' cannot be reset to its default value")


def _find_moves(graph: Graph, change: Reopening[Any], moves: edges.Moves) -> None:
    """Find out which children are to be replaced.

    Args:
        graph: Where the node lives.
        change: What is to be done to it.
        moves: What is found is done after these.

    Raises:
        QmpError: One can't be.
    """
    node, given = change.node, change.given
    for name in _REPLACEABLE:
        child = node.children.get(name)
        ref = getattr(given, name, None)
        told = name in given.model_fields_set
        if isinstance(ref, BlockdevOptions):
            continue
        if ref is not None:
            if (found := _replacement(graph, node, name, ref, moves)) is not None:
                change.moves[name] = found
        elif name == "backing" and told and child is not None:
            change.moves[name] = None
        elif name == "backing" and not told and (child or node.driver.names_backing):
            raise QmpError(f"backing is missing for '{node.name}'")


def _flat_left(change: Reopening[Any]) -> dict[str, Any]:
    """Return what must be as it was, by dotted names: without what is done for children."""
    node, left = change.node, change.given.to_wire()
    if not change.nested:
        left.pop("node-name", None)
    for name, ref in list(left.items()):
        child = node.children.get(name)
        if isinstance(ref, dict):
            done = child is not None and child.node.inherits_from is node
        else:
            done = name in _REPLACEABLE or (child is not None and ref == child.node.name)
        if done:
            del left[name]
    found: dict[str, Any] = {}
    flatten(left, "", found)
    return found


# -- doing it ---------------------------------------------------------------------------------


def _apply(graph: Graph, changes: list[Reopening[Any]]) -> list[Node]:
    """Change options and edges; return the nodes that have lost a user.

    Raises:
        QmpError: Permissions conflict, or a node is gone; nothing has changed.
    """
    for change in changes:
        for target in change.moves.values():
            if target is not None and graph.get(target.name) is not target:  # its job has ended
                raise QmpError(f"Cannot find device='' nor node-name='{target.name}'")
    nodes = [change.node for change in changes]
    before = [(node, node.given, node.options, node.said) for node in nodes]
    writable = [node for node in nodes if not node.options.read_only]
    places = [(node, list(node.parents)) for node in graph.nodes()]
    undo: list[tuple[Node, Child, Node | None, Node | None]] = []
    try:
        for change in changes:
            change.node.take_options(change.given, change.options, change.said)
            for name, target in change.moves.items():
                undo.append(_move(change.node, name, target))
        gone = [(parent, was) for parent, _, was, _ in undo if was is not None]
        old = [node for _, node in gone]
        grants.refresh([*nodes, *old], were_writable=writable)
    except BaseException:
        for node, given, options, said in before:
            node.take_options(given, options, said)
        for parent, child, was, now in reversed(undo):
            _put_back(parent, child, was, now)
        for node, parents in places:
            node.parents[:] = parents
        raise
    for parent, node in gone:
        edges.forget_inheritance(parent, node)
    return old


def _move(
    node: Node, name: str, target: Node | None
) -> tuple[Node, Child, Node | None, Node | None]:
    child = node.children.get(name)
    if child is None:
        assert target is not None
        child = node.children[name] = Child(name, Role.COW, node, target)
        edges.link(child)
        return node, child, None, target
    was = child.node
    if target is None:
        del node.children[name]
        edges.unlink(child)
    else:
        edges.move(child, target)
    return node, child, was, target


def _put_back(parent: Node, child: Child, was: Node | None, now: Node | None) -> None:
    if was is None:
        del parent.children[child.name]
        edges.unlink(child)
    elif now is None:
        parent.children[child.name] = child
        edges.link(child)
    else:
        edges.move(child, was)
