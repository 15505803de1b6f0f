"""Checks input against its shape as QEMU's visitor does, and builds the models.

The order of checks and the texts are QEMU's: members in schema order, each in depth, then
what is unexpected; the first error ends the visit. Some texts use the whole path of the
member (``file.filename``), some its own name, ``null`` for an element of a list: so does QEMU.

Source: QEMU's behaviour, observed on qemu-storage-daemon 7.2.
"""

from typing import Any, Final

from qmpfleece.base.errors import QmpError
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

#: How deep objects of known types may be nested, e.g. definitions of nodes. Differs: QEMU takes
#: what the parser takes, 1024 levels; here each level of a graph costs Python's stack.
MAX_DEPTH: Final = 100

_EXPECTED: Final = {
    "str": (str, "string"),
    "bool": (bool, "boolean"),
    "dict": (dict, "object"),
    "null": (type(None), "null"),
}


def visit(shape: Shape, value: Any, path: str = "", name: str | None = None) -> Any:
    """Return ``value`` as Python objects: models for objects, the rest as it is.

    Args:
        shape: What is expected.
        value: JSON as Python objects; not changed.
        path: The full name of the value, e.g. ``bitmaps[0].node``.
        name: Its own name, None for the root and for elements of lists.

    Raises:
        QmpError: QEMU's text for the first error in QEMU's order.
    """
    match shape:
        case Builtin():
            return _builtin(shape, value, path)
        case Integer():
            return _integer(shape, value, path, name)
        case Enum():
            return _enum(shape, value, path, name)
        case Array():
            if not isinstance(value, list):
                raise _wrong_type(path, "array")
            return [
                visit(shape.element, item, f"{path}[{index}]") for index, item in enumerate(value)
            ]
        case Struct():
            return _struct(shape, value, path)
        case Union():
            return _flat_union(shape, value, path)
        case Alternate():
            return _alternate(shape, value, path, name)


def _wrong_type(path: str, expected: str) -> QmpError:
    return QmpError(f"Invalid parameter type for '{path}', expected: {expected}")


def _builtin(shape: Builtin, value: Any, path: str) -> Any:
    if shape.name == "any":
        return value
    if shape.name == "number":
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong_type(path, "number")
        return float(value)
    kind, text = _EXPECTED[shape.name]
    if not isinstance(value, kind):
        raise _wrong_type(path, text)
    return value


def _integer(shape: Integer, value: Any, path: str, name: str | None) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if shape.signed:
        if not whole or not -(1 << 63) <= value < 1 << 63:
            raise _wrong_type(path, "integer")
    elif not whole or not -(1 << 63) <= value < 1 << 64:
        raise QmpError(f"Parameter '{path or 'null'}' expects uint64")
    elif shape.name == "uint64":
        return int(value % (1 << 64))  # QEMU takes -1 for the largest value
    if not shape.low <= value <= shape.high:
        raise QmpError(f"Parameter '{name or 'null'}' expects {shape.name}")
    return int(value)


def _enum(shape: Enum, value: Any, path: str, name: str | None) -> str:
    if not isinstance(value, str):
        raise _wrong_type(path, "string")
    if value not in shape.values:
        raise QmpError(f"Parameter '{name or 'null'}' does not accept value '{value}'")
    return value


def _struct(shape: Struct, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong_type(path, "object")
    if path.count(".") >= MAX_DEPTH:
        raise QmpError("JSON nesting depth limit exceeded")
    prefix = f"{path}." if path else ""
    members: dict[str, Any] = {}
    for member in shape.members:
        full = prefix + member.wire
        if member.wire in value:
            found = visit(member.shape, value[member.wire], full, member.wire)
            members[member.wire] = found
        elif member.required:
            raise QmpError(f"Parameter '{full}' is missing")
    if not value.keys() <= shape.by_wire.keys():
        key = first_unexpected(value, shape.by_wire)
        raise QmpError(f"Parameter '{prefix}{key}' is unexpected")
    return shape.make(**members)


def _flat_union(shape: Union, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong_type(path, "object")
    full = f"{path}.{shape.tag}" if path else shape.tag
    if shape.tag not in value:
        raise QmpError(f"Parameter '{full}' is missing")
    tag = value[shape.tag]
    if not isinstance(tag, str):
        raise _wrong_type(full, "string")
    variant = shape.variant(tag)
    if variant is None:
        raise QmpError(f"Parameter '{shape.tag}' does not accept value '{tag}'")
    return _struct(variant, value, path)


def _alternate(shape: Alternate, value: Any, path: str, name: str | None) -> Any:
    for arm in shape.arms:
        if _same_json_type(arm, value):
            return visit(arm, value, path, name)
    raise _wrong_type(name or "null", shape.name)


def _same_json_type(shape: Shape, value: Any) -> bool:
    match shape:
        case Struct() | Union():
            return isinstance(value, dict)
        case Array():
            return isinstance(value, list)
        case Enum():
            return isinstance(value, str)
        case Integer():
            return isinstance(value, int) and not isinstance(value, bool)
        case Builtin(name="number"):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case Builtin(name="any"):
            return True
        case Builtin():
            return isinstance(value, _EXPECTED[shape.name][0])
        case Alternate():
            return any(_same_json_type(arm, value) for arm in shape.arms)
