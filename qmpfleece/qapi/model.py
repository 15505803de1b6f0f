"""The base of every model that is said on the wire.

Members are kebab-case on the wire and snake_case in Python; unknown members are refused.
What a client sends is checked by ``control.visitor``, in QEMU's words; pydantic's own validation
is strict where it is used (no string is taken for an integer).
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


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


Int64 = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
Int32 = Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)]
Uint64 = Annotated[int, Field(ge=0, lt=1 << 64)]
Uint32 = Annotated[int, Field(ge=0, lt=1 << 32)]
Uint16 = Annotated[int, Field(ge=0, lt=1 << 16)]
#: A number of bytes. QAPI ``size``.
Size = Annotated[int, Field(ge=0, lt=1 << 64)]
