"""Registering a QMP command: a decorated coroutine function whose signature says everything.

::

    @command("block-dirty-bitmap-clear")
    async def clear(system: System, node: str, name: str) -> None:
        system.graph.find(node).bitmaps...

    @command("blockdev-add")
    async def add(system: System, options: Annotated[BlockdevOptions, Boxed]) -> None: ...

    @command("query-block-exports")
    async def query(system: System) -> list[BlockExportInfo]: ...

- The first parameter is the ``System``. Every other one is a member of ``arguments``,
  ``node_name`` being ``node-name`` on the wire; one with a default is optional.
- A parameter marked ``Boxed`` takes the whole arguments object: a model or a union of models.
- One marked ``Unchecked`` takes it as it came; the mark says what the schema has.
- What is returned (a model, a list of models, a JSON value, None) is the reply's ``return``.
- Refuse with ``QmpError``; let ``OSError`` through, the dispatcher words it.

Signatures are read when a command is first called, because a start must be quick.
"""

import inspect
import typing
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

from qmpfleece.base.registry import Folder, Registry
from qmpfleece.control.shape import Shape, shape_of, struct_of, struct_of_parameters
from qmpfleece.control.visitor import visit

if TYPE_CHECKING:
    from qmpfleece.control.system import System
    from qmpfleece.qapi.model import Model

F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


class Unchecked:
    """Marks the parameter that takes the whole arguments object as it is: QEMU does not look.

    Args:
        model: What the schema says of it.
    """

    def __init__(self, model: "type[Model]") -> None:
        self.model: Final = model


class Boxed:
    """Marks the parameter that takes the whole arguments object."""


class Command:
    """A QMP command.

    Args:
        name: On the wire.
        handler: The decorated function.
        exclusive: Whether it waits for its turn, see ``command``.
        machine: Whether only a program with a machine has it.
        result: What is returned, where the annotation does not say it.
    """

    def __init__(
        self,
        name: str,
        handler: Callable[..., Awaitable[Any]],
        *,
        exclusive: bool,
        machine: bool = False,
        result: Any = None,
    ) -> None:
        self.name: Final = name
        self.handler: Final = handler
        self.exclusive: Final = exclusive
        self.machine: Final = machine
        self._result: Final = result

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return typing.get_type_hints(self.handler, include_extras=True)

    @cached_property
    def _parameters(self) -> list[inspect.Parameter]:
        return list(inspect.signature(self.handler).parameters.values())[1:]

    @cached_property
    def boxed(self) -> str | None:
        """The parameter that takes the whole arguments object, if there is one."""
        for parameter in self._parameters:
            if Boxed in getattr(self._hints[parameter.name], "__metadata__", ()):
                return parameter.name
        return None

    @cached_property
    def unchecked(self) -> "tuple[str, type[Model]] | None":
        """The parameter that takes the arguments object as it is, and what should be in it."""
        for parameter in self._parameters:
            for mark in getattr(self._hints[parameter.name], "__metadata__", ()):
                if isinstance(mark, Unchecked):
                    return parameter.name, mark.model
        return None

    @cached_property
    def arguments(self) -> Shape:
        """The shape of the arguments object: a struct, or a union for boxed ones."""
        if self.unchecked is not None:
            return struct_of(self.unchecked[1])
        if self.boxed is not None:
            return shape_of(self._hints[self.boxed])
        return struct_of_parameters(self.handler, skip=1)

    @cached_property
    def result(self) -> Any:
        """The annotation of what is returned; NoneType for an empty object."""
        return self._result or self._hints.get("return", type(None))

    def parse(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments for the handler.

        Raises:
            QmpError: The arguments are not what the signature says.
        """
        if self.unchecked is not None:
            return {self.unchecked[0]: dict(arguments)}
        given = visit(self.arguments, arguments)
        return given if self.boxed is None else {self.boxed: given}


#: Every command by its name.
COMMANDS: Final[Registry[Command]] = Registry(
    "QMP command", Folder("qmpfleece.control.commands", r'^@command\(\s*"([\w-]+)"')
)


def command(
    name: str, *, exclusive: bool | None = None, machine: bool = False, result: Any = None
) -> Callable[[F], F]:
    """Register the decorated coroutine function as QMP command ``name``.

    Args:
        name: On the wire.
        exclusive: Commands that change something run one at a time, over all sessions, in the
            order of their arrival: QEMU does nothing else on its main loop meanwhile. False
            is for those that only look, or act in one step without awaiting: they are
            answered at once also while another command waits for a hung disk. By default
            ``query-*`` is not exclusive and everything else is.
        machine: Only a program with a machine has the command.
        result: The model that is returned, or the list of models, where the function returns it
            as JSON, for speed.
    """

    def register(handler: F) -> F:
        turn = not name.startswith("query-") if exclusive is None else exclusive
        known = Command(name, handler, exclusive=turn, machine=machine, result=result)
        COMMANDS.add(name, known, handler.__module__)
        return handler

    return register


class _WithoutMachine(Mapping[str, Command]):
    """The commands of a program without a machine."""

    def __getitem__(self, name: str) -> Command:
        known = COMMANDS[name]
        if known.machine:
            raise KeyError(name)
        return known

    def __iter__(self) -> Iterator[str]:
        return (name for name, known in COMMANDS.items() if not known.machine)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def commands_of(system: "System") -> Mapping[str, Command]:
    """Return the commands that a program has, by name."""
    return COMMANDS if system.has_machine else _WithoutMachine()
