"""QEMU's ``key=value,...`` syntax with dotted keys: from an option's argument to a tree.

::

    raw,node-name=a,,b,file.driver=file,bitmaps.0=x
    -> {"driver": "raw", "node-name": "a,b", "file": {"driver": "file"}, "bitmaps": ["x"]}

All leaves are strings; ``typed`` makes them what a command's model says. The simpler syntax of
``--chardev`` is in ``qemuopts``, the JSON form of an argument is read where options are.

Source: QEMU's behaviour, observed on qemu-storage-daemon 7.2.
"""

import re
from collections.abc import Iterable
from typing import Final, TypeAlias

from qmpfleece.base.errors import QmpError
from qmpfleece.control.visitor import MAX_DEPTH
from qmpfleece.qapi.order import ordered

#: A tree of parsed options.
Tree: TypeAlias = "dict[str, Tree] | list[Tree] | str"

_FRAGMENT: Final = re.compile(r"(?:__[A-Za-z0-9.-]+_)?[A-Za-z][A-Za-z0-9_-]*")
_INDEX: Final = re.compile(r"[0-9]+")
_MAX_FRAGMENT: Final = 127


def parse(text: str, implied: str | None = None) -> dict[str, Tree]:
    """Return the tree that ``text`` describes.

    Args:
        text: The argument of an option.
        implied: The key of a first value that stands without one.

    Raises:
        QmpError: It is malformed, or asks for help; QEMU's words.
    """
    tree, asked = parse_or_ask(text, implied)
    if asked:
        raise QmpError("Help is not available for this option")
    return tree


def parse_or_ask(text: str, implied: str | None = None) -> tuple[dict[str, Tree], bool]:
    """Return the tree that ``text`` describes, and whether it asks for help.

    Args:
        text: The argument of an option.
        implied: The key of a first value that stands without one.

    Raises:
        QmpError: It is malformed; QEMU's words.
    """
    root: dict[str, Tree] = {}
    asked = False
    while text:
        pair, text = _split(root, text, implied)
        if pair is None:
            asked = True
        else:
            _put(root, *pair)
        implied = None
    return _below(root, ""), asked


def tree_of(pairs: Iterable[tuple[str, str]]) -> dict[str, Tree]:
    """Return the tree that dotted keys and their values describe.

    Raises:
        QmpError: Keys are malformed or contradict each other; QEMU's words.
    """
    root: dict[str, Tree] = {}
    for key, value in pairs:
        _put(root, key, value)
    return _below(root, "")


def is_help(text: str) -> bool:
    """Tell whether a lone word asks for help."""
    return text in {"help", "?"}


def _split(
    root: dict[str, Tree], text: str, implied: str | None
) -> tuple[tuple[str, str] | None, str]:
    """Split off the first pair of key and value, None if it asks for help; and what follows."""
    match = re.match(r"[^=,]*", text)
    assert match is not None
    key, rest = match.group(), text[match.end() :]
    if not rest.startswith("="):
        if is_help(key):
            return None, rest[1:]
        if implied is not None and key:
            return (implied, key), rest[1:]
        _descend(root, key)
        raise QmpError(f"Expected '=' after parameter '{key}'")
    value, rest = split_value(rest[1:])
    return (key, value), rest


def split_value(text: str) -> tuple[str, str]:
    """Return the value at the start of ``text``, ``,,`` standing for a comma, and the rest."""
    match = re.match(r"(?:[^,]|,,)*", text, re.DOTALL)
    assert match is not None
    return match.group().replace(",,", ","), text[match.end() + 1 :]


def _descend(root: dict[str, Tree], key: str) -> tuple[dict[str, Tree], str]:
    """Return the object that a dotted key leads to, made if need be, and the key's last part.

    Raises:
        QmpError: It is no key, or leads through a value.
    """
    node = root
    name = ""
    start = depth = 0
    while True:
        # An index can't come first; names may themselves hold dots only in a ``__domain_``.
        match = (start > 0 and _INDEX.match(key, start)) or _FRAGMENT.match(key, start)
        if not match or (match.end() < len(key) and key[match.end()] != "."):
            raise QmpError(f"Invalid parameter '{key}'")
        fragment = match.group()
        if len(fragment) > _MAX_FRAGMENT:
            whole = fragment == key
            raise QmpError(f"Parameter{'' if whole else ' fragment'} '{fragment}' is too long")
        depth += 1
        if depth > MAX_DEPTH + 1:
            raise QmpError("JSON nesting depth limit exceeded")
        if start:
            below = node.setdefault(name, {})
            if not isinstance(below, dict):
                raise _inconsistent(key[:start])
            node = below
        name = fragment
        if match.end() == len(key):
            return node, name
        start = match.end() + 1


def _put(root: dict[str, Tree], key: str, value: str) -> None:
    node, name = _descend(root, key)
    if isinstance(node.get(name), dict):
        raise _inconsistent(f"{key}.")
    node[name] = value  # the last one of several wins


def _inconsistent(prefix: str) -> QmpError:
    return QmpError(f"Parameters '{prefix}*' used inconsistently")


def _below(tree: dict[str, Tree], prefix: str) -> dict[str, Tree]:
    """Turn what is in an object into lists, in QEMU's order; its own order stays."""
    listed = {key: _listed(tree[key], f"{prefix}{key}.") for key in ordered(tree)}
    return {key: listed[key] for key in tree}


def _listed(tree: Tree, prefix: str) -> Tree:
    """Turn objects whose keys are all indexes into lists.

    Raises:
        QmpError: Some keys are indexes and some are not, or an index is missing.
    """
    if not isinstance(tree, dict):
        return tree
    below = _below(tree, prefix)
    indexes = [key for key in below if _INDEX.fullmatch(key)]
    if not indexes:
        return below
    if len(indexes) < len(below):
        raise _inconsistent(prefix)
    # What stands for one index twice, as 0 and 00, is the later one in QEMU's order.
    indexed = {int(key): below[key] for key in ordered(indexes)}
    for index in range(len(indexed)):
        if index not in indexed:
            raise QmpError(f"Parameter '{prefix}{index}' missing")
    return [indexed[index] for index in range(len(indexed))]
