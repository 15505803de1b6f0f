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
        pair, text = _split(text, implied)
        if pair is None:
            asked = True
        else:
            _put(root, _fragments(pair[0]), pair[1])
        implied = None
    return {key: _listed(value, f"{key}.") for key, value in root.items()}, asked


def tree_of(pairs: Iterable[tuple[str, str]]) -> dict[str, Tree]:
    """Return the tree that dotted keys and their values describe.

    Raises:
        QmpError: Keys are malformed or contradict each other; QEMU's words.
    """
    root: dict[str, Tree] = {}
    for key, value in pairs:
        _put(root, _fragments(key), value)
    return {key: _listed(value, f"{key}.") for key, value in root.items()}


def is_help(text: str) -> bool:
    """Tell whether a lone word asks for help."""
    return text in {"help", "?"}


def _split(text: str, implied: str | None) -> tuple[tuple[str, str] | None, str]:
    """Split off the first pair of key and value, None if it asks for help; and what follows."""
    match = re.match(r"[^=,]*", text)
    assert match is not None
    key, rest = match.group(), text[match.end() :]
    if not rest.startswith("="):
        if is_help(key):
            return None, rest[1:]
        if implied is not None and key:
            return (implied, key), rest[1:]
        _fragments(key)
        raise QmpError(f"Expected '=' after parameter '{key}'")
    _fragments(key)
    value, rest = split_value(rest[1:])
    return (key, value), rest


def split_value(text: str) -> tuple[str, str]:
    """Return the value at the start of ``text``, ``,,`` standing for a comma, and the rest."""
    match = re.match(r"(?:[^,]|,,)*", text, re.DOTALL)
    assert match is not None
    return match.group().replace(",,", ","), text[match.end() + 1 :]


def _fragments(key: str) -> list[str]:
    """Return the parts of a dotted key.

    Raises:
        QmpError: It is no key.
    """
    fragments = []
    start = 0
    while True:
        # An index can't come first; names may themselves hold dots only in a ``__domain_``.
        match = (start > 0 and _INDEX.match(key, start)) or _FRAGMENT.match(key, start)
        if not match or (match.end() < len(key) and key[match.end()] != "."):
            raise QmpError(f"Invalid parameter '{key}'")
        fragment = match.group()
        if len(fragment) > _MAX_FRAGMENT:
            whole = fragment == key
            raise QmpError(f"Parameter{'' if whole else ' fragment'} '{fragment}' is too long")
        fragments.append(fragment)
        if len(fragments) > MAX_DEPTH + 1:
            raise QmpError("JSON nesting depth limit exceeded")
        if match.end() == len(key):
            return fragments
        start = match.end() + 1


def _put(root: dict[str, Tree], fragments: list[str], value: str) -> None:
    node = root
    for depth, fragment in enumerate(fragments[:-1], 1):
        below = node.setdefault(fragment, {})
        if not isinstance(below, dict):
            raise _inconsistent(".".join(fragments[:depth]) + ".")
        node = below
    if isinstance(node.get(fragments[-1]), dict):
        raise _inconsistent(".".join(fragments) + ".")
    node[fragments[-1]] = value  # the last one of several wins


def _inconsistent(prefix: str) -> QmpError:
    return QmpError(f"Parameters '{prefix}*' used inconsistently")


def _listed(tree: Tree, prefix: str) -> Tree:
    """Turn objects whose keys are all indexes into lists.

    Raises:
        QmpError: Some keys are indexes and some are not, or an index is missing.
    """
    if not isinstance(tree, dict):
        return tree
    below = {key: _listed(value, f"{prefix}{key}.") for key, value in tree.items()}
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
