"""What a qemu-io command is, and how a line becomes a call of one."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

from qmpfleece.base.errors import QmpError
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

    Attributes:
        replies: Takes what is said to whoever asks instead of being output.
    """

    def __init__(
        self,
        backend: Backend,
        options: dict[str, str],
        words: list[str],
        background: Background | None = None,
    ) -> None:
        self.backend: Final = backend
        self.options: Final = options
        self.words: Final = words
        self.background: Final = background
        self.replies: Final[list[str]] = []

    def has(self, letter: str) -> bool:
        """Tell whether the option was given."""
        return letter in self.options


Handler = Callable[[Call], Awaitable[str]]


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
        checks: Functions that refuse wrong values of options, by their letters.
    """

    name: str
    handler: Handler
    usage: str
    letters: str = ""
    least: int = 0
    most: int | None = 0
    words: tuple[int, int] | None = None
    perm: Perm = Perm.NONE
    checks: Mapping[str, Callable[[str], object]] = {}


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
    words = line.split()
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
) -> Call:
    """Read the options; they may also follow the other arguments.

    Raises:
        QmpError: They are wrong.
    """
    if not command.letters:
        return Call(backend, {}, arguments, background)
    import getopt

    usage = f"{command.name} {command.usage}"
    try:
        pairs, words = getopt.gnu_getopt(arguments, command.letters)
    except getopt.GetoptError as error:
        letter = "-" if error.msg.startswith("option --") else error.opt
        given = f"{letter}:" in command.letters
        what = "option requires an argument" if given else "invalid option"
        raise ComplaintError(f"{command.name}: {what} -- '{letter}'", usage) from error
    for option, value in pairs:
        if (check := command.checks.get(option[1:])) is not None:
            check(value)
    if command.words is not None and not command.words[0] <= len(words) <= command.words[1]:
        raise QmpError(usage)
    options = {letter[1:]: value for letter, value in pairs}
    return Call(backend, options, words, background)
