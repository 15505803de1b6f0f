"""How a verb runs on the event loop and how it ends: one message on stderr, one exit status."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from qmpfleece.base import signals, together
from qmpfleece.base.errors import QmpError
from qmpfleece.base.loop import loop_factory
from qmpfleece.cli.words import complain
from qmpfleece.nbdclient.uri import UriError
from qmpfleece.nbdproto.codec import NbdProtocolError, NbdRefused

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: How the hint begins that QEMU gives besides at a terminal. Other lines are those of names.
_HINT: Final = "\nPath must be less than "


class Failure(Exception):  # noqa: N818 - the end of a verb, in words
    """The verb can't go on; the text is what the user reads.

    Args:
        text: One line, without the program's name.
        status: The exit status.
    """

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status: Final = status


def run(program: str, verb: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run a verb to its end and return the exit status; failures become one line."""
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(verb())
    except Failure as failure:
        complain(program, str(failure))
        return failure.status
    except (QmpError, OSError, UriError, NbdRefused, NbdProtocolError, ValueError) as error:
        complain(program, words(error))
        return 1


def words(error: BaseException) -> str:
    """Return an error as a person reads it."""
    if isinstance(error, QmpError):
        return error.desc.partition(_HINT)[0]
    if isinstance(error, OSError) and error.strerror:
        if error.filename is not None:
            return f"'{error.filename}': {error.strerror}"
        return error.strerror
    return str(error)


class Interrupted:
    """Tells which signals asked for the end.

    Attributes:
        event: Set when one has.
        number: That of the last one, 0 while there is none.
    """

    def __init__(self) -> None:
        self.event: Final = asyncio.Event()
        self.number = 0
        self._numbers: list[int] = []

    def take(self, number: int) -> None:
        """Note a signal."""
        self.number = number
        self._numbers.append(number)
        self.event.set()

    def pop(self) -> list[int]:
        """Return those that have come since the last call; the event waits for the next one."""
        numbers, self._numbers = self._numbers, []
        self.event.clear()
        return numbers

    def failure(self) -> "Failure":
        """Return the end of a verb that goes no further; the status says why, as shells do."""
        return Failure("interrupted", 128 + self.number)


def ignored() -> set[signal.Signals]:
    """Return which of the signals that ask for the end were ignored when the process began."""
    return {number for number in _SIGNALS if signal.getsignal(number) == signal.SIG_IGN}


@contextlib.contextmanager
def catching_signals() -> Iterator[Interrupted]:
    """Let SIGINT, SIGTERM and SIGHUP set an event instead of ending the process.

    One that was ignored when the process began, as under nohup, stays so.
    """
    interrupted = Interrupted()
    with signals.handled(sorted(set(_SIGNALS) - ignored()), interrupted.take):
        yield interrupted


async def unless_interrupted(work: Coroutine[Any, Any, Any], interrupted: Interrupted) -> None:
    """Run ``work``, cancelling it when a signal comes.

    Raises:
        Failure: A signal came; the status says which, as shells do.
        Exception: What ``work`` raised, also when a signal had come.
    """
    if not await together.unless(interrupted.event.wait(), work):
        raise interrupted.failure()
