"""Numbers as qemu-io reads and prints them.

Source: what qemu-io 7.2 accepts and says; the tests ask it.
"""

import re
from collections.abc import Iterator
from typing import Final

from qmpfleece.base.digits import c_integer, decimal
from qmpfleece.base.errors import QmpError

_SIZE: Final = re.compile(
    r"\s*\+?(?:(?P<hex>0[xX][0-9a-fA-F]+)|(?P<whole>[0-9]+)(?:\.(?P<part>[0-9]*))?)"
    r"(?P<unit>[bBkKmMgGtTpPeE]?)",
    re.ASCII,
)
_BYTE: Final = re.compile(r"\s*\+?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)", re.ASCII)
_UNITS: Final = "bkmgtpe"
_MAX: Final = (1 << 63) - 1
_PRINTED: Final = ((60, "EiB"), (50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB"))
#: Bytes of data in a piece of a dump.
_DUMPED: Final = 16 * 832
#: How a dump shows each byte.
_SHOWN: Final = bytes(
    byte if chr(byte).isascii() and chr(byte).isalnum() else ord(".") for byte in range(256)
)
#: From here on a time is printed with hours and minutes, in seconds.
_MINUTE_S: Final = 60


def parse_size(text: str, shown: str | None = None) -> int:
    """Return a number of bytes: decimal or hexadecimal, with a unit, with a fraction.

    Args:
        text: The number.
        shown: What an error names instead of it.

    Raises:
        QmpError: It is none; worded as qemu-io does.
    """
    shown = text if shown is None else shown
    value = read_size(text)
    if value is None:
        raise QmpError(
            f"Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- {shown}"
        )
    if value > _MAX:
        raise QmpError(f"Parsing error: argument too large -- {shown}")
    return value


def read_size(text: str) -> int | None:
    """Return a number of bytes of any size, as ``parse_size``; None for what is none."""
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    number = int(match["hex"], 16) if match["hex"] else decimal(match["whole"])
    if number >> 64 and (match["unit"] or match["part"] is not None):
        return None  # QEMU gives up at the number, and the rest is too much
    power = _UNITS.index(match["unit"].lower() or "b")
    fraction = float(f"0.{match['part'] or 0}")
    if fraction and not power:
        return None
    return (number << 10 * power) + int(fraction * (1 << 10 * power) + 0.5)


def parse_pattern(text: str) -> int:
    """Return a pattern byte; decimal, ``0x`` hexadecimal or octal with a leading zero.

    Raises:
        QmpError: It is none.
    """
    match = _BYTE.fullmatch(text)
    if match is not None:
        value = c_integer(match[1])
        if value <= 0xFF:
            return value
    raise QmpError(f"{text} is not a valid pattern byte")


def size_text(value: float) -> str:
    """Return a number of bytes for people: ``64 KiB``, ``1.500 MiB``, ``3 bytes``."""
    for power, unit in _PRINTED:
        if value >= 1 << power:
            return f"{_trimmed(f'{value / (1 << power):.3f}')} {unit}"
    return f"{_trimmed(f'{value:f}')} bytes"


def _trimmed(text: str) -> str:
    """Cut a fraction off that begins with three zeroes, as QEMU does."""
    return text.partition(".000")[0]


def report(
    verb: str, offset: int, length: int, seconds: float, *, quiet: bool, machine: bool
) -> str:
    """Return the lines about one request that was done.

    Args:
        verb: ``read``, ``wrote``, ``discard``.
        offset: In bytes.
        length: In bytes.
        seconds: How long it took.
        quiet: Say nothing.
        machine: One line of numbers separated by commas.
    """
    if quiet:
        return ""
    seconds = max(seconds, 1e-6)
    minutes, rest = divmod(seconds, 60)
    fixed = (
        f"{int(minutes) // 60}:{int(minutes) % 60:02d}:{int(rest):02d}.{int(rest * 100) % 100:02d}"
    )
    if machine:
        return f"{length},1,{fixed},{length / seconds:.3f},{1 / seconds:.3f}\n"
    took = f"{int(rest):02d}.{int(rest * 100) % 100:02d} sec" if seconds < _MINUTE_S else fixed
    return (
        f"{verb} {length}/{length} bytes at offset {offset}\n"
        f"{size_text(length)}, 1 ops; {took}"
        f" ({size_text(length / seconds)}/sec and {1 / seconds:.4f} ops/sec)\n"
    )


def dump(data: bytes | bytearray, offset: int) -> Iterator[str]:
    """Yield a hexadecimal dump, 16 bytes a line, in pieces of about 64 KiB."""
    for first in range(0, len(data), _DUMPED):
        lines = []
        for start in range(first, min(first + _DUMPED, len(data)), 16):
            part = data[start : start + 16]
            shown = part.translate(_SHOWN).decode("ascii")
            lines.append(f"{offset + start:08x}:  {part.hex(' ')}  {shown}\n")
        yield "".join(lines)
