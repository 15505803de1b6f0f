"""The base of every model that is said on the wire.

Members are kebab-case on the wire and snake_case in Python; unknown members are refused.
QMP validates strictly (``strict=True`` at the call: no string is taken for an integer);
the command line validates the same models leniently, with ``context={"keyval": True}``.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo


def kebab(name: str) -> str:
    """Return the wire name of a Python field: ``node_name`` -> ``node-name``."""
    return name.rstrip("_").replace("_", "-")


class Model(BaseModel):
    """A QAPI struct. Source: QAPI, the struct of the same name."""

    model_config = ConfigDict(
        extra="forbid",
        defer_build=True,  # at first use, for a fast start
        alias_generator=kebab,
        populate_by_name=True,
        ser_json_inf_nan="constants",
    )

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object, members in schema order, absent optionals left out."""
        return self.model_dump(by_alias=True, exclude_none=True, mode="json")


_SUFFIXES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SUFFIXES |= {"p": 1 << 50, "e": 1 << 60}


def _parse_size(value: object, info: ValidationInfo) -> object:
    """Take ``64k``, ``1.5G`` on the command line; QMP gives integers."""
    if not isinstance(value, str) or not (info.context or {}).get("keyval"):
        return value
    text = value.strip().lower()
    if not text:
        return value
    digits, factor = (text[:-1], _SUFFIXES[text[-1]]) if text[-1] in _SUFFIXES else (text, 1)
    try:
        return int(digits, 0) * factor if "." not in digits else int(float(digits) * factor)
    except ValueError:
        return value


Int64 = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
Uint64 = Annotated[int, Field(ge=0, lt=1 << 64)]
Uint32 = Annotated[int, Field(ge=0, lt=1 << 32)]
Uint16 = Annotated[int, Field(ge=0, lt=1 << 16)]
#: A number of bytes; on the command line with a suffix (k, M, G, T...). QAPI ``size``.
Size = Annotated[int, BeforeValidator(_parse_size), Field(ge=0, lt=1 << 64)]
