"""From a request to its reply: the one place where a failure becomes an error reply.

All QMP sessions come here. What a request looks like, when a command may
run, in which order, and how errors are worded is decided here and nowhere else.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from qmpfleece.base.errors import ErrorClass, QmpError
from qmpfleece.control.command import Command, commands_of
from qmpfleece.control.system import RECEIVED, RUNNING, AfterReply, System
from qmpfleece.qapi.order import ordered

log = logging.getLogger(__name__)

Reply: TypeAlias = dict[str, Any]
#: Puts a reply into the outgoing queue of its client; must not raise.
Send: TypeAlias = Callable[[Reply], None]

NEGOTIATION: Final = "qmp_capabilities"


class Client:
    """What is remembered of one client between its commands.

    Args:
        negotiated: The client has left capabilities negotiation mode.
        internal: It is a part of the program, whose commands run also when that has been asked
            to end.

    Attributes:
        oob: It has enabled out-of-band execution. No command of ours supports that, so the
            only effect is that ``exec-oob`` is understood.
        received: Descriptors that it has sent; whoever takes one out owns it.
    """

    __slots__ = ("internal", "negotiated", "oob", "received")

    def __init__(self, *, negotiated: bool = False, internal: bool = False) -> None:
        self.negotiated = negotiated
        self.internal = internal
        self.oob = False
        self.received: list[int] = []


class Request(NamedTuple):
    """A request whose outer form is right."""

    name: str
    arguments: dict[str, Any]
    oob: bool


class Dispatcher:
    """Runs the commands of all clients.

    Args:
        system: What is handed to each command.
        commands: The known commands, by name; by default those that the program has.
    """

    def __init__(self, system: System, commands: Mapping[str, Command] | None = None) -> None:
        self.system: Final = system
        self.commands: Final = commands_of(system) if commands is None else commands
        # Not a lock over data: the turn of commands that change something. It is fair.
        self._turn = asyncio.Lock()

    async def serve(self, request: Any, client: Client, send: Send) -> None:
        """Run one request and send exactly one reply; then do what the command put off.

        Call it for the next request of the same client when this one is done. A cancelled
        call may have sent no reply; nor does one whose turn comes when the program has been
        asked to end.
        """
        extra: Reply = {}
        if isinstance(request, dict) and "id" in request:
            extra["id"] = request["id"]
        try:
            checked = _check(request, oob=client.oob)
            command = self._find(checked, client)
        except QmpError as error:
            send(error_reply(error) | extra)
            return
        except Exception as error:  # the edge: e.g. no descriptor is left to import it by
            log.exception("a command can't be looked up")
            why = error.strerror if isinstance(error, OSError) else None
            send(error_reply(QmpError(why or "Internal error")) | extra)
            return
        if not command.exclusive:
            await self._run(command, checked, client, lambda reply: send(reply | extra))
            return
        async with self._turn:
            if self.system.shutdown.is_set() and not client.internal:
                return
            await self._run(command, checked, client, lambda reply: send(reply | extra))

    async def call(self, name: str, arguments: dict[str, Any] | None = None) -> Reply:
        """Run one command for a caller without a session and return its reply."""
        replies: list[Reply] = []
        request = {"execute": name, "arguments": arguments or {}}
        await self.serve(request, Client(negotiated=True, internal=True), replies.append)
        return replies[0]

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Wait for the command that changes something to end, and let no other one begin."""
        async with self._turn:
            yield

    def _find(self, request: Request, client: Client) -> Command:
        refused = client.negotiated and request.name == NEGOTIATION and not request.oob
        if refused or (not client.negotiated and request.name != NEGOTIATION):
            raise QmpError(
                "Capabilities negotiation is already complete, command ignored"
                if client.negotiated
                else f"Expecting capabilities negotiation with '{NEGOTIATION}'",
                ErrorClass.COMMAND_NOT_FOUND,
            )
        command = self.commands.get(request.name)
        if command is None:
            raise QmpError(
                f"The command {request.name} has not been found", ErrorClass.COMMAND_NOT_FOUND
            )
        if request.oob:
            raise QmpError(f"The command {request.name} does not support OOB")
        return command

    async def _run(self, command: Command, request: Request, client: Client, send: Send) -> None:
        after = AfterReply()
        token = RUNNING.set(after)
        received = RECEIVED.set(client.received)
        try:
            send(await self._reply(command, request, client))
            await after.run()
        finally:
            RUNNING.reset(token)
            RECEIVED.reset(received)

    async def _reply(self, command: Command, request: Request, client: Client) -> Reply:
        """Run the handler; whatever happens there becomes a reply."""
        try:
            arguments = command.parse(request.arguments)
            result = to_wire(await command.handler(self.system, **arguments))
        except QmpError as error:
            return error_reply(error)
        except OSError as error:
            return error_reply(QmpError(error.strerror or str(error)))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            log.exception("%s was cancelled from inside", command.name)
            return error_reply(QmpError("Operation canceled"))
        except Exception:  # the edge: a bug of ours must not harm other clients
            log.exception("%s has failed unexpectedly", command.name)
            return error_reply(QmpError(f"Internal error in {command.name}"))
        if command.name == NEGOTIATION:
            client.negotiated = True
            client.oob = "oob" in (request.arguments.get("enable") or ())
        return {"return": result}


def error_reply(error: QmpError) -> Reply:
    """Return the reply object for a refused command or malformed input."""
    return {"error": {"class": error.error_class.value, "desc": error.desc}}


def to_wire(result: Any) -> Any:
    """Return what a handler returned as a JSON value."""
    if isinstance(result, list | tuple):
        return [to_wire(item) for item in result]
    if hasattr(result, "to_wire"):  # a model; not asked for by its class, which need not be there
        return result.to_wire()
    return {} if result is None else result


def _check(request: Any, *, oob: bool) -> Request:
    """Check the outer form of a request, members in the order in which QEMU meets them.

    Raises:
        QmpError: QEMU's words for the first thing that is wrong.
    """
    if not isinstance(request, dict):
        raise QmpError("QMP input must be a JSON object")
    member = ""
    for key in ordered(request):
        value = request[key]
        if key == "execute" or (key == "exec-oob" and oob):
            if not isinstance(value, str):
                raise QmpError(f"QMP input member '{key}' must be a string")
            if member:
                raise QmpError(f"QMP input member '{key}' clashes with '{member}'")
            member = key
        elif key == "arguments":
            if not isinstance(value, dict):
                raise QmpError("QMP input member 'arguments' must be an object")
        elif key != "id":
            raise QmpError(f"QMP input member '{key}' is unexpected")
    if not member:
        raise QmpError("QMP input lacks member 'execute'")
    return Request(request[member], request.get("arguments", {}), member == "exec-oob")
