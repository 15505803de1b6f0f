"""query-qmp-schema: commands, events and their types, derived from the models.

Commands and events go by their names; types have none that clients could rely on: object,
enum and alternate types are numbered in the order of first use, an array is its element's
name in brackets, all integers are ``int``. The empty object is ``0``.

Source: QAPI ``SchemaInfo``; QEMU's docs/devel/qapi-code-gen, "Client JSON Protocol
introspection".
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from qmpfleece.control.command import Command
from qmpfleece.control.shape import (
    Alternate,
    Array,
    Builtin,
    Enum,
    Integer,
    Member,
    Shape,
    Struct,
    Union,
    shape_of,
    struct_of,
)
from qmpfleece.qapi.events import Event

_JSON_TYPES: Final = {
    "str": "string",
    "bool": "boolean",
    "int": "int",
    "number": "number",
    "null": "null",
    "any": "value",
}
_EMPTY: Final = "0"

Info = dict[str, Any]


class _Schema:
    """Collects entities; each type is described once, after what refers to it first."""

    def __init__(self) -> None:
        self.entities: list[Info] = []
        self._names: dict[Any, str] = {}
        self._numbers = 1
        self._pending: list[tuple[str, Shape | tuple[Member, ...]]] = []

    def name(self, shape: Shape | tuple[Member, ...]) -> str:
        """Return the name of a type; describe it later if it is new."""
        if isinstance(shape, Integer):
            shape = Builtin("int")
        elif shape == Builtin("dict"):
            shape = Builtin("any")
        elif shape == () or (isinstance(shape, Struct) and not shape.members):
            shape = ()
        known = self._names.get(shape)
        if known is not None:
            return known
        if isinstance(shape, Builtin):
            name = shape.name
        elif isinstance(shape, Array):
            name = f"[{self.name(shape.element)}]"
        elif shape == ():
            name = _EMPTY
        else:
            name = str(self._numbers)
            self._numbers += 1
        self._names[shape] = name
        self._pending.append((name, shape))
        return name

    def describe_types(self) -> None:
        """Describe all types that are referred to."""
        for name, shape in self._pending:  # grows meanwhile
            self.entities.append(self._describe(name, shape))

    def _describe(self, name: str, shape: Shape | tuple[Member, ...]) -> Info:
        match shape:
            case Builtin():
                details: Info = {"json-type": _JSON_TYPES[name], "meta-type": "builtin"}
            case Array():
                details = {"element-type": self.name(shape.element), "meta-type": "array"}
            case Enum():
                details = {
                    "members": [{"name": value} for value in shape.values],
                    "meta-type": "enum",
                    "values": list(shape.values),
                }
            case Alternate():
                arms = [{"type": self.name(arm)} for arm in shape.arms]
                details = {"members": arms, "meta-type": "alternate"}
            case Union():
                details = self._union(shape)
            case Struct():
                details = {"members": self._members(shape.members), "meta-type": "object"}
            case Integer():
                raise AssertionError("an integer is a builtin here")
            case _:
                details = {"members": self._members(shape), "meta-type": "object"}
        return {"name": name} | details

    def _members(self, members: Iterable[Member]) -> list[Info]:
        described = []
        for member in members:
            info: Info = {"name": member.wire}
            if not member.required:
                info["default"] = None
            described.append(info | {"type": self.name(member.shape)})
        return described

    def _union(self, union: Union) -> Info:
        variants = union.variants
        common = _common(union, variants)
        members = []
        for member in next(iter(variants.values())).members:
            if member.wire == union.tag:
                tag = Enum(f"{union.name}-{union.tag}", tuple(variants))
                members.append(Member(member.field, member.wire, tag, required=True))
            elif member.wire in common:
                members.append(member)
        cases = []
        for value, struct in variants.items():
            own = tuple(m for m in struct.members if m.wire not in common and m.wire != union.tag)
            cases.append({"case": value, "type": self.name(own)})
        return {
            "tag": union.tag,
            "variants": cases,
            "members": self._members(members),
            "meta-type": "object",
        }


def _common(union: Union, variants: Mapping[str, Struct]) -> set[str]:
    """Return the wire names of the members that all variants share."""
    first, *others = variants.values()
    return {
        wire
        for wire, member in first.by_wire.items()
        if wire != union.tag and all(other.by_wire.get(wire) == member for other in others)
    }


def schema(commands: Mapping[str, Command], events: Mapping[str, type[Event]]) -> list[Info]:
    """Return the array of QAPI ``SchemaInfo`` for the given commands and events."""
    found = _Schema()
    for name, command in commands.items():
        found.entities.append(
            {
                "name": name,
                "ret-type": found.name(_result(command)),
                "meta-type": "command",
                "arg-type": found.name(command.arguments),
            }
        )
    for name, event in sorted(events.items()):
        arguments = found.name(struct_of(event))
        found.entities.append({"name": name, "meta-type": "event", "arg-type": arguments})
    found.describe_types()
    return found.entities


def _result(command: Command) -> Shape | tuple[Member, ...]:
    return () if command.result in {None, type(None)} else shape_of(command.result)
