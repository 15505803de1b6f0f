"""Scans a command line as getopt_long does: options in the order given, abbreviations allowed.

argparse keeps no order between different options and has error texts of its own.

Source: QEMU's behaviour, observed on qemu-storage-daemon 7.2.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from qmpfleece.base.errors import QmpError


class UsageError(QmpError):
    """The command line itself is wrong, before any option is looked at."""


class Spec(NamedTuple):
    """An option that exists.

    Attributes:
        name: Without the dashes.
        argument: It takes one.
        short: Its one-letter form, "" if it has none.
    """

    name: str
    argument: bool = True
    short: str = ""


class Option(NamedTuple):
    """An option that was given.

    Attributes:
        name: The full name, without dashes.
        value: Its argument, "" if it takes none.
        where: As the user wrote it, for messages.
    """

    name: str
    value: str
    where: str


def scan(arguments: Sequence[str], specs: Sequence[Spec]) -> Iterator[Option]:
    """Yield the options in order; everything after ``--`` is ignored, as QEMU does.

    A word that is no option comes as one without a name.

    Raises:
        UsageError: An unknown or ambiguous option, a missing or superfluous argument; raised
            when the scan gets there.
    """
    longs = {spec.name: spec for spec in specs}
    shorts = {spec.short: spec for spec in specs if spec.short}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return
        if word.startswith("--"):
            yield _long(word, rest, longs)
        elif word.startswith("-") and word != "-":
            yield from _letters(word, rest, shorts)
        else:
            yield Option("", "", word)


def _long(word: str, rest: list[str], longs: Mapping[str, Spec]) -> Option:
    name, equals, value = word[2:].partition("=")
    spec = longs.get(name)
    if spec is None:
        close = [spec for full, spec in longs.items() if full.startswith(name)]
        if not close:
            raise UsageError(f"unrecognized option '{word}'")
        if len(close) > 1:
            choices = " ".join(f"'--{found.name}'" for found in close)
            raise UsageError(f"option '{word}' is ambiguous; possibilities: {choices}")
        spec = close[0]
    if not spec.argument:
        if equals:
            raise UsageError(f"option '--{spec.name}' doesn't allow an argument")
        return Option(spec.name, "", word)
    if equals:
        return Option(spec.name, value, word)
    if not rest:
        raise UsageError(f"option '--{spec.name}' requires an argument")
    value = rest.pop(0)
    return Option(spec.name, value, f"{word} {value}")


def _letters(word: str, rest: list[str], shorts: Mapping[str, Spec]) -> Iterator[Option]:
    for index, letter in enumerate(word[1:], 2):
        spec = shorts.get(letter)
        if spec is None:
            raise UsageError(f"invalid option -- '{letter}'")
        if not spec.argument:
            yield Option(spec.name, "", word)
            continue
        value = word[index:]
        if value:
            yield Option(spec.name, value, word)
        elif rest:
            value = rest.pop(0)
            yield Option(spec.name, value, f"{word} {value}")
        else:
            raise UsageError(f"option requires an argument -- '{letter}'")
        return
