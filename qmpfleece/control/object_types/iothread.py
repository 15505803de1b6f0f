"""iothread: taken for compatibility; all I/O is on one event loop here."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from qmpfleece.base.errors import QmpError
from qmpfleece.control.object_options import ObjectOptions
from qmpfleece.control.objects import UserObject
from qmpfleece.control.shape import INT64
from qmpfleece.control.visitor import visit
from qmpfleece.qapi.model import Int64

if TYPE_CHECKING:
    from qmpfleece.control.system import System

_MAX: Final = (1 << 63) - 1
_MAX_THREADS: Final = (1 << 31) - 1
_DEFAULTS: Final = {
    "aio-max-batch": 0,
    "poll-grow": 0,
    "poll-max-ns": 32768,
    "poll-shrink": 0,
    "thread-pool-max": 64,
    "thread-pool-min": 0,
}


class IothreadOptions(ObjectOptions):
    """QAPI ``IothreadProperties``."""

    qom_type: Literal["iothread"]
    aio_max_batch: Int64 | None = None
    thread_pool_min: Int64 | None = None
    thread_pool_max: Int64 | None = None
    poll_max_ns: Int64 | None = None
    poll_grow: Int64 | None = None
    poll_shrink: Int64 | None = None


class IothreadObject(UserObject, qom_type="iothread"):
    """What remembers the properties of an I/O thread."""

    properties: ClassVar[Mapping[str, str]] = dict.fromkeys(_DEFAULTS, "int")

    def __init__(self, system: "System", name: str) -> None:
        super().__init__(system, name)
        self._values = dict(_DEFAULTS)
        self._complete = False

    def _get(self, name: str) -> Any:
        return self._values[name]

    def _set(self, name: str, value: Any) -> None:
        visit(INT64, value, name, name)
        if value < 0:
            raise QmpError(f"{name} value must be in range [0, {_MAX}]")
        values = self._values | {name: value}
        if self._complete:  # before, they are set one by one
            _check_threads(values)
        self._values = values

    async def complete(self) -> None:
        """Check what must fit together."""
        _check_threads(self._values)
        self._complete = True


def _check_threads(values: Mapping[str, int]) -> None:
    least, most = values["thread-pool-min"], values["thread-pool-max"]
    if not 0 < most <= _MAX_THREADS or least > most:
        raise QmpError("bad thread-pool-min/thread-pool-max values")
