"""What a qemu-io command is, and how a line becomes a call of one."""

import errno
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final, NamedTuple

from qmpfleece.base.errors import BlockError, QmpError
from qmpfleece.base.registry import Registry
from qmpfleece.block.backend import Backend
from qmpfleece.block.perm import Perm
from qmpfleece.control.qemu_io.background import Background


class RefusedError(QmpError):
    """What the monitor says to whoever asks, instead of being output."""


class ComplaintError(QmpError):
    """What goes to the program's standard error instead of its output.

    Args:
        desc: That.
        usage: What is output after it.
    """

    def __init__(self, desc: str, usage: str = "") -> None:
        super().__init__(desc)
        self.usage: Final = usage


class Call:
    """One command with its options.

    Args:
        backend: What it acts through.
        options: Values by letter, ``""`` for those without one.
        words: The other arguments.
        background: Takes requests that go on after the command; None if none may, because
            the handle does not outlive it.
        first: The first of the arguments, after C's getopt has moved those with options ahead.
        tray_open: The medium is out, so that requests can't reach it.

    Attributes:
        replies: Takes what is said to whoever asks instead of being output.
    """

    def __init__(
        self,
        backend: Backend,
        options: dict[str, str],
        words: list[str],
        background: Background | None = None,
        first: str = "",
        *,
        tray_open: bool = False,
    ) -> None:
        self.backend: Final = backend
        self._tray_open: Final = tray_open
        self.first: Final = first
        self.options: Final = options
        self.words: Final = words
        self.background: Final = background
        self.replies: Final[list[str]] = []

    @property
    def available(self) -> bool:
        """Whether there is a medium that requests can reach."""
        return self.backend.node is not None and not self._tray_open

    def check_available(self) -> None:
        """Make sure of that.

        Raises:
            OSError: ENOMEDIUM.
        """
        if not self.available:
            raise BlockError(errno.ENOMEDIUM)

    def has(self, letter: str) -> bool:
        """Tell whether the option was given."""
        return letter in self.options


Handler = Callable[[Call], Awaitable[str]]
#: Refuses an option with a QmpError; it is given what the command acts through, and the value.
Check = Callable[[Backend, str], object]


class IoCommand(NamedTuple):
    """A command of qemu-io.

    Attributes:
        name: What it is called.
        handler: Does it and returns the output. A ``QmpError`` is output, too.
        usage: Its arguments and what it does, as help and errors say.
        letters: Its options, in the way of getopt.
        least: The fewest arguments, options included.
        most: The most of them, None: any number.
        words: The fewest and most arguments that are no options, None: any number.
        perm: What it needs of the node.
        checks: Functions that refuse options, or wrong values of them, by their letters.
    """

    name: str
    handler: Handler
    usage: str
    letters: str = ""
    least: int = 0
    most: int | None = 0
    words: tuple[int, int] | None = None
    perm: Perm = Perm.NONE
    checks: Mapping[str, Check] = {}

    @property
    def line(self) -> str:
        """What is said of it in one line."""
        return f"{self.name} {self.usage}"


#: Every command by its name and by its short one.
IO_COMMANDS: Final[Registry[IoCommand]] = Registry("qemu-io command")


def register(command: IoCommand, short: str = "") -> None:
    """Add a command, also under a short name."""
    IO_COMMANDS.add(command.name, command)
    if short:
        IO_COMMANDS.add(short, command)


def find(line: str) -> tuple[IoCommand, list[str]] | None:
    """Return the command of a line and its arguments, None for an empty line.

    Raises:
        ComplaintError: There is no such command, or the number of arguments is wrong.
    """
    words = [word for word in line.split(" ") if word]
    if not words:
        return None
    name, arguments = words[0], words[1:]
    command = IO_COMMANDS.get(name)
    if command is None:
        raise ComplaintError(f'command "{name}" not found')
    count, least, most = len(arguments), command.least, command.most
    if count < least or (most is not None and count > most):
        if most is None:
            wanted = f"at least {least}"
        elif least == most:
            wanted = f"{least}"
        else:
            wanted = f"between {least} and {most}"
        raise ComplaintError(f"bad argument count {count} to {name}, expected {wanted} arguments")
    return command, arguments


def call(
    command: IoCommand,
    arguments: list[str],
    backend: Backend,
    background: Background | None = None,
    *,
    tray_open: bool = False,
) -> Call:
    """Read the options; they may also follow the other arguments.

    Raises:
        QmpError: They are wrong.
    """
    if not command.letters:
        return Call(backend, {}, arguments, background, tray_open=tray_open)
    words: list[str] = []
    options: dict[str, str] = {}
    for letter, value in _options(command, arguments, words):
        if (check := command.checks.get(letter)) is not None:
            check(backend, value)
        options[letter] = value
    if command.words is not None and not command.words[0] <= len(words) <= command.words[1]:
        raise QmpError(command.line)
    moved = [argument for argument in arguments if argument[:1] == "-" != argument]
    first = (moved or words or [""])[0]
    return Call(backend, options, words, background, first, tray_open=tray_open)


def _options(
    command: IoCommand, arguments: list[str], words: list[str]
) -> Iterator[tuple[str, str]]:
    """Give one option after the other, with its value, as C's getopt does.

    The module of that name reads all of them first, and the first wrong one decides here.

    Args:
        command: Has the letters.
        arguments: What to read.
        words: Takes what is no option.

    Raises:
        ComplaintError: There is no such option, or it lacks its value.
    """
    left = iter(arguments)
    for argument in left:
        if argument == "--":
            words += left
        elif not argument.startswith("-") or argument == "-":
            words.append(argument)
        else:
            for at, letter in enumerate(argument[1:], 2):
                _, known, after = command.letters.partition(letter)
                if not known or letter == ":":
                    raise _complaint(command, f"invalid option -- '{letter}'")
                if not after.startswith(":"):
                    yield letter, ""
                    continue
                value = argument[at:] or next(left, None)
                if value is None:
                    raise _complaint(command, f"option requires an argument -- '{letter}'")
                yield letter, value
                break


def _complaint(command: IoCommand, what: str) -> ComplaintError:
    return ComplaintError(f"{command.name}: {what}", command.line)
