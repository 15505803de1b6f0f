"""query-qmp-schema: commands, events and their types, derived from the models.

Commands and events go by their names; types have none that clients could rely on: object,
enum and alternate types are numbered in the order of first use, an array is its element's
name in brackets, all integers are ``int``. The empty object is ``0``. Features are QEMU's, by
which clients learn what it can do besides: where it has one, so have we.

Source: QAPI ``SchemaInfo``; QEMU's docs/devel/qapi-code-gen, "Client JSON Protocol
introspection".
"""

from collections.abc import Container, Iterable, Mapping
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
#: What begins so is not promised to stay.
_UNSTABLE: Final = "x-"
_DEPRECATED: Final = ["deprecated"]
_OF_COMMANDS: Final = {
    "blockdev-snapshot": ["allow-write-only-overlay"],
    "device_add": ["json-cli", "json-cli-hotplug"],
    "drive-backup": _DEPRECATED,
    "human-monitor-command": ["savevm-monitor-nodes"],
    "nbd-server-add": _DEPRECATED,
    "nbd-server-remove": _DEPRECATED,
}
#: The commands whose ``device`` is deprecated in favour of ``id``.
_BY_ID: Final = frozenset(
    {
        "block_set_io_throttle",
        "blockdev-change-medium",
        "blockdev-close-tray",
        "blockdev-open-tray",
        "eject",
    }
)
#: Features of what belongs to a tag's value, by the union and that value.
_OF_VARIANTS: Final = {
    ("BlockdevOptions", "file"): ["dynamic-auto-read-only"],
    ("BlockdevOptions", "host_device"): ["dynamic-auto-read-only"],
}
_OF_TAGS: Final = {("TransactionAction", "drive-backup"): _DEPRECATED}
#: Deprecated members, by the union and the tag's value.
_OLD_IN_VARIANTS: Final = {("ObjectOptions", "secret"): {"loaded"}}

Info = dict[str, Any]


class _Schema:
    """Collects entities; each type is described once, after what refers to it first."""

    def __init__(self) -> None:
        self.entities: list[Info] = []
        self._names: dict[Any, str] = {}
        self._numbers = 1
        self._pending: list[tuple[str, Shape | tuple[Member, ...]]] = []
        self._features: dict[str, list[str]] = {}
        self._deprecated: dict[str, set[str]] = {}

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

    def deprecate(self, name: str, members: set[str]) -> None:
        """Say of members of a type, which is not described yet, that they are deprecated."""
        self._deprecated.setdefault(name, set()).update(members)

    def describe_types(self) -> None:
        """Describe all types that are referred to."""
        for name, shape in self._pending:  # grows meanwhile
            self.entities.append(self._describe(name, shape) | _featured(self._features.get(name)))

    def _describe(self, name: str, shape: Shape | tuple[Member, ...]) -> Info:
        match shape:
            case Builtin():
                details: Info = {"json-type": _JSON_TYPES[name], "meta-type": "builtin"}
            case Array():
                details = {"element-type": self.name(shape.element), "meta-type": "array"}
            case Enum():
                union = shape.name.partition("-")[0]
                details = {
                    "members": [
                        {"name": value} | _featured(_OF_TAGS.get((union, value)))
                        for value in shape.values
                    ],
                    "meta-type": "enum",
                    "values": list(shape.values),
                }
            case Alternate():
                arms = [{"type": self.name(arm)} for arm in shape.arms]
                details = {"members": arms, "meta-type": "alternate"}
            case Union():
                details = self._union(shape)
            case Integer():
                raise AssertionError("an integer is a builtin here")
            case _:
                members = shape.members if isinstance(shape, Struct) else shape
                old = self._deprecated.get(name, set())
                details = {"members": self._members(members, old), "meta-type": "object"}
        return {"name": name} | details

    def _members(self, members: Iterable[Member], deprecated: Container[str] = ()) -> list[Info]:
        described = []
        for member in members:
            info: Info = {"name": member.wire}
            if not member.required:
                info["default"] = None
            features = _DEPRECATED if member.wire in deprecated else _stability(member.wire)
            described.append(info | {"type": self.name(member.shape)} | _featured(features))
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
            name = self.name(own)
            cases.append({"case": value, "type": name})
            if (features := _OF_VARIANTS.get((union.name, value))) is not None:
                self._features[name] = features
            self.deprecate(name, _OLD_IN_VARIANTS.get((union.name, value), set()))
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
        arguments = found.name(command.arguments)
        if name in _BY_ID:
            found.deprecate(arguments, {"device"})
        found.entities.append(
            {
                "name": name,
                "ret-type": found.name(_result(command)),
                "meta-type": "command",
                "arg-type": arguments,
            }
            | _featured(_OF_COMMANDS.get(name) or _stability(name))
        )
    for name, event in sorted(events.items()):
        arguments = found.name(struct_of(event))
        found.entities.append({"name": name, "meta-type": "event", "arg-type": arguments})
    found.describe_types()
    return found.entities


def _stability(name: str) -> list[str] | None:
    return ["unstable"] if name.startswith(_UNSTABLE) else None


def _featured(features: list[str] | None) -> Info:
    return {} if features is None else {"features": features}


def _result(command: Command) -> Shape | tuple[Member, ...]:
    return () if command.result in {None, type(None)} else shape_of(command.result)
