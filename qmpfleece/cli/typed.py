"""Gives the strings of a command line the types that a command expects.

The walk follows the shape as ``control.visitor`` does, and words errors as QEMU words them for
the command line: full dotted names, ``expects integer``, ``expects 'on' or 'off'``. What comes
out is then visited like any JSON.

Source: QEMU's behaviour, observed on qemu-storage-daemon 7.2.
"""

from typing import Any, Final

from qmpfleece.base.digits import c_number
from qmpfleece.base.errors import QmpError
from qmpfleece.cli.keyval import Tree
from qmpfleece.control.leftover import first_unexpected
from qmpfleece.control.shape import (
    Alternate,
    Array,
    Builtin,
    Enum,
    Integer,
    Shape,
    Struct,
    Union,
)
from qmpfleece.control.visitor import visit

_TRUE: Final = frozenset({"on", "yes", "true", "y"})
_FALSE: Final = frozenset({"off", "no", "false", "n"})


def typed(shape: Shape, tree: Tree, path: str = "") -> Any:
    """Return ``tree`` with its strings made what ``shape`` says.

    Args:
        shape: What the command expects.
        tree: From ``keyval.parse``.
        path: The dotted name of the value.

    Raises:
        QmpError: A member is missing, unexpected or not what is expected.
    """
    match shape:
        case Struct():
            return _struct(shape, tree, path)
        case Union():
            return _union(shape, tree, path)
        case Array():
            if not isinstance(tree, list):
                raise QmpError(f"Invalid parameter type for '{path}', expected: array")
            return [
                typed(shape.element, item, f"{path}.{index}") for index, item in enumerate(tree)
            ]
        case Alternate():
            return _alternate(shape, tree, path)
        case _:
            if not isinstance(tree, str):
                raise QmpError(f"Parameters '{path}.*' are unexpected")
            # Its value is checked here and now: errors come in the order of the members.
            name = path.rpartition(".")[2]
            # What stands in a list has no name of its own.
            name = "null" if isinstance(shape, Enum) and name.isdecimal() else name
            return visit(shape, _scalar(shape, tree, path), path, name)


def _struct(shape: Struct, tree: Tree, path: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise QmpError(f"Invalid parameter type for '{path}', expected: object")
    prefix = f"{path}." if path else ""
    found = {}
    for member in shape.members:
        if member.wire in tree:
            found[member.wire] = typed(member.shape, tree[member.wire], prefix + member.wire)
        elif member.required:
            raise QmpError(f"Parameter '{prefix}{member.wire}' is missing")
    if (key := first_unexpected(tree, shape.by_wire)) is not None:
        raise QmpError(f"Parameter '{prefix}{key}' is unexpected")
    return found


def _union(shape: Union, tree: Tree, path: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise QmpError(f"Invalid parameter type for '{path}', expected: object")
    full = f"{path}.{shape.tag}" if path else shape.tag
    if (tag := tree.get(shape.tag)) is None:
        raise QmpError(f"Parameter '{full}' is missing")
    if not isinstance(tag, str):
        raise QmpError(f"Parameters '{full}.*' are unexpected")
    if (variant := shape.variant(tag)) is None:
        raise QmpError(f"Parameter '{shape.tag}' does not accept value '{tag}'")
    return _struct(variant, tree, path)


def _alternate(shape: Alternate, tree: Tree, path: str) -> Any:
    """Take the arm for objects or the one for strings: a command line knows no other types."""
    for arm in shape.arms:
        if isinstance(tree, dict) and isinstance(arm, Struct | Union):
            return typed(arm, tree, path)
        if isinstance(tree, str) and arm == Builtin("str"):
            return tree
    for arm in shape.arms:
        if isinstance(tree, str) and isinstance(arm, Enum | Integer | Builtin):
            return typed(arm, tree, path)
    name = path.rpartition(".")[2]
    raise QmpError(f"Invalid parameter type for '{name}', expected: {shape.name}")


def _scalar(shape: Builtin | Enum | Integer | Array | Struct, text: str, path: str) -> Any:
    if isinstance(shape, Integer):
        return _integer(text, path, unsigned=shape.high >= 1 << 63)
    if isinstance(shape, Builtin) and shape.name == "bool":
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        raise QmpError(f"Parameter '{path}' expects 'on' or 'off'")
    if isinstance(shape, Builtin) and shape.name == "number":
        try:
            return float(text)
        except ValueError as error:
            raise QmpError(f"Parameter '{path}' expects a number") from error
    return text


def _integer(text: str, path: str, *, unsigned: bool) -> int:
    """Read a number as C does: decimal, 0x hexadecimal, 0 octal."""
    value = c_number(text)
    if value is None or not -(1 << 63) <= value < 1 << (64 if unsigned else 63):
        raise QmpError(f"Parameter '{path}' expects integer")
    return value
