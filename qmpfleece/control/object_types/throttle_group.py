"""throttle-group: I/O limits that some nodes share; see ``block.throttle_group``."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import create_model

from qmpfleece.base.errors import QmpError
from qmpfleece.block.throttle_group import ThrottleGroup
from qmpfleece.block.throttling import NAMES, Limits
from qmpfleece.control.object_options import ObjectOptions
from qmpfleece.control.objects import UserObject
from qmpfleece.control.shape import INT64, struct_of
from qmpfleece.control.visitor import visit
from qmpfleece.qapi.model import Int64, Model

if TYPE_CHECKING:
    from qmpfleece.control.system import System

_MAX_LENGTH: Final = (1 << 32) - 1
_QOM_TYPE: Final[Any] = Literal["throttle-group"]


def _members(prefix: str) -> dict[str, Any]:
    """Return a field for each limit."""
    return {f"{prefix}{name}".replace("-", "_"): (Int64 | None, None) for name in NAMES}


#: QAPI ``ThrottleLimits``.
ThrottleLimits: Final[type[Model]] = create_model("ThrottleLimits", __base__=Model, **_members(""))


#: QAPI ``ThrottleGroupProperties``.
ThrottleGroupOptions: Final = create_model(
    "ThrottleGroupOptions",
    __base__=ObjectOptions,
    qom_type=(_QOM_TYPE, ...),
    limits=(ThrottleLimits | None, None),
    **_members("x-"),
)


class ThrottleGroupObject(UserObject, qom_type="throttle-group"):
    """A throttle group and its limits."""

    properties: ClassVar[Mapping[str, str]] = {
        "limits": "ThrottleLimits",
        **{f"x-{name}": "int" for name in NAMES},
    }

    def __init__(self, system: "System", name: str) -> None:
        super().__init__(system, name)
        self._limits = Limits()
        self._group: ThrottleGroup | None = None

    def _get(self, name: str) -> Any:
        if name == "limits":
            return self._current().to_wire()
        return self._current().value(name.removeprefix("x-"))

    def _current(self) -> Limits:
        """Return the limits: disks of the group may have been given others."""
        return self._limits if self._group is None else self._group.limits

    def _set(self, name: str, value: Any) -> None:
        if name == "limits":
            given = visit(struct_of(ThrottleLimits), value, name, name).to_wire()
            limits = self._current().changed(given)
            limits.check()
            self._limits = limits
            if self._group is not None:
                self._group.configure(limits)
            return
        if self._group is not None:
            raise QmpError("Property cannot be set after initialization")
        visit(INT64, value, name, name)
        if value < 0:
            raise QmpError("Property values cannot be negative")
        if name.endswith("-length") and value > _MAX_LENGTH:
            raise QmpError(f"{name} value must be in therange [0, {_MAX_LENGTH}]")
        self._limits = self._limits.changed({name.removeprefix("x-"): value})

    async def complete(self) -> None:
        """Let nodes join."""
        if self.name in self.system.graph.throttle_groups:  # one that a command has made
            raise QmpError("A group with this name already exists")
        self._limits.check()
        self._group = ThrottleGroup(self.name, self._limits, asyncio.get_running_loop())
        self.system.graph.throttle_groups[self.name] = self._group

    def removable(self) -> bool:
        """Tell whether no node is a member."""
        return self._group is None or not self._group.members

    def removed(self) -> None:
        """Let no node join any more."""
        del self.system.graph.throttle_groups[self.name]
