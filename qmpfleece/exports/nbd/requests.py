"""The requests of one client: begun, run to their end, and answered if they fail.

Each is stepped by hand; what has to wait is resumed when that has happened.
"""

import asyncio
import errno
import logging
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, Protocol, cast

from qmpfleece.base import eager
from qmpfleece.base.errors import errno_of
from qmpfleece.base.registry import import_siblings
from qmpfleece.base.stepper import OVER, Stepper
from qmpfleece.exports.nbd.client import Client
from qmpfleece.exports.nbd.command import COMMANDS, Command, Rest, refusal
from qmpfleece.exports.nbd.commands.read import read_on_loop
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.transmission import Request

import_siblings("qmpfleece.exports.nbd.commands")

log = logging.getLogger(__name__)

_COMMANDS: Final = {known.number: known for known in COMMANDS.values()}
_READ: Final = _COMMANDS[const.CMD_READ]


class Owner(Protocol):
    """The connection."""

    def stop_receiving(self) -> None:
        """Begin nothing more: the client wants to leave."""

    def lose_track(self) -> None:
        """Begin nothing more: where the next request begins is not known."""

    def request_ended(self) -> None:
        """A request that had to wait has ended."""


class Requests:
    """What a client has asked for.

    Args:
        client: The client.
        owner: Is told what concerns the connection.

    Attributes:
        in_flight: How many have to wait.
        bytes: Their payload.
    """

    def __init__(self, client: Client, owner: Owner) -> None:
        self.in_flight = 0
        self.bytes = 0
        self.loop: Final = asyncio.get_running_loop()
        self._client: Final = client
        self._owner: Final = owner

    def begin(self, request: Request) -> None:
        """Check a request, and run it to its end, or until it has to wait."""
        if request.type == const.CMD_DISC:
            self._owner.stop_receiving()
            return
        known = _COMMANDS.get(request.type)
        why = refusal(self._client, request, known)
        if why is not None:
            self._refuse(request, known, *why)
            return
        assert known is not None
        self._run(known, request, known.run)

    def read_after_all(self, request: Request) -> None:
        """Read what the courier could not."""
        self._run(_READ, request, read_on_loop)

    def _run(
        self, known: Command, request: Request, run: Callable[[Client, Request], Rest]
    ) -> None:
        try:
            rest = run(self._client, request)
            if rest is eager.DONE:
                if request.payload is not None:
                    request.release()
                return
            steps = cast("Coroutine[Any, Any, None]", rest).__await__()
            waits_for = next(steps, OVER)
            if waits_for is OVER:
                if request.payload is not None:
                    request.release()
                return
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - becomes the reply
            self._fail(known, request, error)
            request.release()
        else:
            size = request.length if known.payload else 0
            self.in_flight += 1
            self.bytes += size
            _Running(steps, self, known, request, size).wait_for(waits_for)

    def _refuse(self, request: Request, known: Command | None, error: int, text: str) -> None:
        """Answer a request that is not run."""
        client = self._client
        if known is not None and known.counts_as is not None:
            client.accounting.invalid(known.counts_as)
        client.fail(request, error, text)
        if request.type == const.CMD_WRITE and request.payload is None:
            self._owner.lose_track()
        request.release()

    def _fail(self, known: Command, request: Request, error: BaseException) -> None:
        """Answer with an error. This is an edge: nothing that goes wrong goes any further."""
        client = self._client
        if known.counts_as is not None:
            client.accounting.failed(known.counts_as, request.length)
        if isinstance(error, OSError):
            client.fail(request, errno_of(error), known.failure)
        else:  # our bug must not harm other clients
            log.error("NBD %s of %d bytes failed", known.name, request.length, exc_info=error)
            client.fail(request, errno.EIO, known.failure)

    def ended(
        self, known: Command, request: Request, size: int, error: BaseException | None
    ) -> None:
        """Take note of the end of a request that had to wait."""
        if error is not None:
            self._fail(known, request, error)
        self.in_flight -= 1
        self.bytes -= size
        request.release()
        self._owner.request_ended()


class _Running(Stepper):
    """A request on its way."""

    __slots__ = ("_known", "_request", "_requests", "_size")

    def __init__(
        self,
        steps: Generator[Any, Any, None],
        requests: Requests,
        known: Command,
        request: Request,
        size: int,
    ) -> None:
        self._steps = steps  # at once: this is made for every request that waits
        self._loop = requests.loop
        self._requests = requests
        self._known = known
        self._request = request
        self._size = size

    def ended(self, error: BaseException | None) -> None:
        """Tell the others."""
        self._requests.ended(self._known, self._request, self._size, error)
