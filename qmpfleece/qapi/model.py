"""The base of every model that is said on the wire.

Members are kebab-case on the wire and snake_case in Python; unknown members are refused.
What a client sends is checked by ``control.visitor``, in QEMU's words; pydantic's own validation
is strict where it is used (no string is taken for an integer).
"""

from collections.abc import Collection
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from qmpfleece.qapi.names import kebab


class Model(BaseModel):
    """A QAPI struct. Source: QAPI, the struct of the same name."""

    model_config = ConfigDict(
        extra="forbid",
        defer_build=True,  # at first use, for a fast start
        alias_generator=kebab,
        populate_by_name=True,
        ser_json_inf_nan="constants",
    )

    if not TYPE_CHECKING:  # mypy checks the members by pydantic's own signature

        def __init__(self, /, **members: Any) -> None:
            """Make what we say ourselves, without validation.

            A validator takes milliseconds to build for each model; mypy has checked the types.
            ``model_validate`` validates.
            """
            optional, required = _defaults(type(self))
            if missing := required - members.keys():
                raise TypeError(f"{type(self).__name__} lacks {sorted(missing)}")
            if unknown := members.keys() - required - optional.keys():
                raise TypeError(f"{type(self).__name__} has no {sorted(unknown)}")
            put = object.__setattr__
            put(self, "__dict__", optional | members)
            put(self, "__pydantic_fields_set__", set(members))
            put(self, "__pydantic_extra__", None)
            put(self, "__pydantic_private__", None)

        # Or pydantic would call it in the course of a validation.
        __init__.__pydantic_base_init__ = True

    def given(self, names: Collection[str]) -> dict[str, Any]:
        """Return, as JSON, those members of the (Python) names that were given."""
        return {
            wire: _to_wire(value)
            for name, wire in _wire_names(type(self))
            if name in names
            and name in self.__pydantic_fields_set__
            and (value := getattr(self, name)) is not None
        }

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object, members in schema order, absent optionals left out."""
        # Not model_dump: that has a serializer built for each model first, 0.5 ms apiece.
        return {
            wire: _to_wire(value)
            for name, wire in _wire_names(type(self))
            if (value := getattr(self, name)) is not None
        }


@cache
def _defaults(model: type[Model]) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the optional fields of a model with their defaults, and the required ones."""
    fields = model.__pydantic_fields__
    required = frozenset(name for name, info in fields.items() if info.is_required())
    return {
        name: info.get_default(call_default_factory=True)
        for name, info in fields.items()
        if name not in required
    }, required


@cache
def _wire_names(model: type[Model]) -> tuple[tuple[str, str], ...]:
    """Return the fields of a model with their names on the wire."""
    return tuple(
        (name, info.alias or kebab(name)) for name, info in model.__pydantic_fields__.items()
    )


def _to_wire(value: Any) -> Any:
    """Return the value of a field as JSON."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Model):
        return value.to_wire()
    if isinstance(value, list | tuple):
        return [_to_wire(item) for item in value]
    if isinstance(value, dict):
        return {key: _to_wire(item) for key, item in value.items()}
    return value.value if isinstance(value, Enum) else value


_PLAIN: Final = frozenset({str, int, bool})

Int64 = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
Int32 = Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)]
Uint64 = Annotated[int, Field(ge=0, lt=1 << 64)]
Uint32 = Annotated[int, Field(ge=0, lt=1 << 32)]
Uint16 = Annotated[int, Field(ge=0, lt=1 << 16)]
#: A number of bytes. QAPI ``size``.
Size = Annotated[int, Field(ge=0, lt=1 << 64)]
