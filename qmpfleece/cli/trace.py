"""``--trace``: what its argument says, and that there are no trace events.

Source: QEMU's behaviour, observed on qemu-storage-daemon 7.2.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from qmpfleece.base.errors import QmpError
from qmpfleece.cli import keyval, qemuopts
from qmpfleece.cli.words import Informed

_KNOWN: Final[Mapping[str, str]] = {"enable": "str", "events": "str", "file": "str"}


class NoFileError(Exception):
    """The file that names events can't be read; the text goes without the option's place."""


def trace(value: str) -> Iterator[tuple[str, str]]:
    """Do what an argument says; yield warnings, each with the place in a file that it is about.

    Args:
        value: The argument of the option.

    Raises:
        QmpError: It is malformed, or the log can't be written.
        Informed: It asks for a list.
        NoFileError: The file that names events can't be read.
    """
    given = qemuopts.parse(value, "enable", _KNOWN, "trace")
    if (pattern := given.get("enable")) is not None:
        yield from _enable(pattern, "")
    if (name := given.get("events")) is not None:
        try:
            with open(name, errors="replace") as file:
                lines = file.read().splitlines()
        except IsADirectoryError:
            lines = []
        except OSError as error:
            raise NoFileError(f"{name}: {error.strerror}") from error
        for number, line in enumerate(lines, 1):
            if line and not line.startswith("#"):
                yield from _enable(line, f"{name}:{number}")
    if (name := given.get("file")) is not None:
        try:
            with open(name, "ab"):
                pass
        except OSError as error:
            raise QmpError(f"Error opening logfile {name}: {error.strerror}") from error


def _enable(pattern: str, place: str) -> Iterator[tuple[str, str]]:
    """Yield the warning about a name that no event has; patterns may match nothing."""
    if keyval.is_help(pattern):
        raise Informed("")
    name = pattern.removeprefix("-")
    if "*" not in name:
        yield place, f"warning: trace event '{name}' does not exist"
