"""What is told of a node that is reopened: in its definition, by the one above, and before.

Source: QAPI ``blockdev-reopen``, observed.
"""

from typing import Any

from qmpfleece.block.node import Node
from qmpfleece.qapi.blockdev import BlockdevCacheOptions, BlockdevOptions


def told_of(
    node: Node, given: BlockdevOptions, *, keep: bool, above: BlockdevOptions | None
) -> BlockdevOptions:
    """Return what is given of a node, with what it inherits and then what it keeps.

    Source: observed. Only what is told of the node above is inherited: what goes back to its
    default there, because it is left out, stays as it is in a node that follows by its name.
    """
    values = inheritable(given)
    inherited = inheritable(above) if above is not None else {}
    for name, value in values.items():
        if value is None:
            values[name] = inherited.get(name)
        if values[name] is None and keep and name not in node.options.untold:
            values[name] = getattr(node.options, name)
    direct, no_flush = values.pop("cache_direct"), values.pop("cache_no_flush")
    caching = BlockdevCacheOptions(direct=direct, no_flush=no_flush)
    return given.model_copy(update={**values, "cache": caching})


def inheritable(told: BlockdevOptions) -> dict[str, bool | None]:
    """Return what nodes may have from the one that opened them, by names in ``NodeOptions``."""
    cache = told.cache or BlockdevCacheOptions()
    return {
        "read_only": told.read_only,
        "auto_read_only": told.auto_read_only,
        "cache_direct": cache.direct,
        "cache_no_flush": cache.no_flush,
        "force_share": told.force_share,
    }


def joined(earlier: BlockdevOptions, later: BlockdevOptions) -> BlockdevOptions:
    """Return what two definitions of a node tell, the later one first of all.

    What the earlier one tells of nodes that it nests has gone to these already.
    """
    update = {
        name: value
        for name in earlier.model_fields_set - later.model_fields_set
        if not isinstance(value := getattr(earlier, name), BlockdevOptions)
    }
    if earlier.cache is not None and later.cache is not None:
        fields = {name: getattr(later.cache, name) for name in later.cache.model_fields_set}
        update["cache"] = earlier.cache.model_copy(update=fields)
    return later.model_copy(update=update)


def member(child: str) -> str:
    """Return the name of the option that tells of a child."""
    return child.replace("-", "_")


def flat(given: BlockdevOptions, node: Node) -> dict[str, Any]:
    """Return the options by their dotted names, without those that define children."""
    children = {*node.children, "backing"}
    members = {key: value for key, value in given.to_wire().items() if key not in children}
    found: dict[str, Any] = {}
    flatten(members, "", found)
    return found


def flatten(value: Any, name: str, found: dict[str, Any]) -> None:
    """Put the values in ``value`` into ``found``, by dotted names that begin with ``name``."""
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    for key, item in pairs:
        flatten(item, f"{name}.{key}" if name else str(key), found)
    if not pairs and name:
        found[name] = value
