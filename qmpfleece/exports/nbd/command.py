"""What a command of the transmission phase is, and the checks before it is run.

A command is a function in ``commands/``::

    @command(const.CMD_FLUSH, "flush", "flush failed")
    async def flush(client: Client, request: Request) -> None: ...

It answers by ``client``, or raises OSError, which becomes an error reply with the given text.
One that is often over at once may be a plain function that returns ``DONE`` then, and else
a coroutine.
"""

import errno
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

from qmpfleece.base.eager import Done
from qmpfleece.base.registry import Registry
from qmpfleece.exports.nbd.client import Client
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.transmission import Request

#: What is left to do of a command: nothing, or a coroutine.
Rest: TypeAlias = Coroutine[Any, Any, None] | Done
Run: TypeAlias = Callable[[Client, Request], Rest]


class Command:
    """One NBD_CMD_*.

    Attributes:
        number: NBD_CMD_*.
        name: QEMU's name for it in messages.
        failure: QEMU's words when the request fails.
        run: Does it and answers.
        flags: The NBD_CMD_FLAG_* that it takes; FUA is always allowed.
        writes: Refused on a read-only export.
        payload: Its length is limited, as the data travels.
        ranged: Offset and length must lie inside of the export.
        counts_as: The kind of request that it is for ``Accounting``, None if it is not counted.
            The command counts itself when it begins.
    """

    __slots__ = (
        "counts_as",
        "failure",
        "flags",
        "name",
        "number",
        "payload",
        "ranged",
        "run",
        "writes",
    )

    def __init__(
        self,
        number: int,
        name: str,
        failure: str,
        run: Run,
        *,
        flags: int,
        writes: bool,
        payload: bool,
        ranged: bool,
        counts_as: str | None,
    ) -> None:
        self.number: Final = number
        self.name: Final = name
        self.failure: Final = failure
        self.run: Final = run
        self.flags: Final = flags
        self.writes: Final = writes
        self.payload: Final = payload
        self.ranged: Final = ranged
        self.counts_as: Final = counts_as


#: All commands; the keys are their numbers as decimal text.
COMMANDS: Final[Registry[Command]] = Registry("NBD command")


def command(
    number: int,
    name: str,
    failure: str,
    *,
    flags: int = 0,
    writes: bool = False,
    payload: bool = False,
    ranged: bool = True,
    counts_as: str | None = None,
) -> Callable[[Run], Run]:
    """Register the decorated function as NBD_CMD_* ``number``; see ``Command``."""

    def register(run: Run) -> Run:
        allowed = flags | const.CMD_FLAG_FUA
        COMMANDS.add(
            str(number),
            Command(
                number,
                name,
                failure,
                run,
                flags=allowed,
                writes=writes,
                payload=payload,
                ranged=ranged,
                counts_as=counts_as,
            ),
        )
        return run

    return register


def refusal(client: Client, request: Request, known: Command | None) -> tuple[int, str] | None:
    """Return why a request is refused, as (errno, text); None if it may run.

    The order of the checks and the texts are those of QEMU 7.2, as seen on the wire.
    """
    length = request.length
    if known is not None:
        if known.payload and length > const.MAX_PAYLOAD:
            text = f"len ({length} ) is larger than max len ({const.MAX_PAYLOAD})"
            return errno.EINVAL, text
        if known.writes and client.read_only:
            return errno.EACCES, "Export is read-only"
    offset = request.offset
    if (known is None or known.ranged) and offset + length > client.size:
        text = f"operation past EOF; From: {offset}, Len: {length}, Size: {client.size}"
        return errno.EINVAL, text
    allowed = const.CMD_FLAG_FUA if known is None else known.flags
    if not client.structured:
        allowed &= ~const.CMD_FLAG_DF
    if request.flags & ~allowed:
        name = "<unknown>" if known is None else known.name
        return errno.EINVAL, f"unsupported flags for command {name} (got {request.flags:#x})"
    if known is None:
        return errno.EINVAL, f"invalid request type ({request.type}) received"
    return None
