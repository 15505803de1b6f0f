"""What random NBD sessions say: options and requests, right, odd and wrong."""

import struct
from collections.abc import Sequence
from typing import Final

from tests.oracle.nbd_peer import READ, WRITE, Asked
from tests.oracle.random_draws import KIB, SIZE, Dice

EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META = (
    *range(1, 4),
    *range(5, 11),
)
FLUSH, TRIM, CACHE, ZEROES, STATUS = range(3, 8)
#: The commands that change what is on the disk.
CHANGING: Final = frozenset({WRITE, TRIM, ZEROES})

_MIB: Final = KIB * KIB
_LIMIT: Final = 32 * _MIB
#: Most data of a write, mostly.
_MOST_DATA: Final = 128 * KIB
_QUERIES: Final = (
    *("base:allocation", "base:allocation", "base:", "base", "base:zzz", "base:allocation:"),
    *("qemu:", "qemu", "qemu:allocation-depth", "qemu:allocation-depth", "qemu:allocation"),
    *("qemu:dirty-bitmap:", "qemu:dirty-bitmap", "qemu:zzz", "", ":", "zzz:", "zzz", "\xe9"),
    *("qemu:dirty-bitmap:b0", "qemu:dirty-bitmap:b1", "qemu:dirty-bitmap:b", "b0"),
)


def named(text: str | bytes) -> bytes:
    """Return a string with its length in front."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack(">I", len(data)) + data


class NbdDraws(Dice):
    """Draws what a client sends.

    Attributes:
        holes: Zeroes may always be holes.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.holes = self.often(0.6)

    def flags(self) -> bytes:
        """Return a client's flags."""
        odd = self.any(0, 2, 4, 7, 1 << 31, (1 << 32) - 1)
        return struct.pack(">I", odd if self.often(0.08) else self.any(1, 3, 3))

    # -- options ----------------------------------------------------------------------------

    def name(self, names: Sequence[str]) -> bytes:
        """Return the name of an export, mostly one of ``names``."""
        if names and self.often(0.85):
            name = str(self.any(*names))
            return (name + self.any("x", "\0", "\0x") if self.often(0.05) else name).encode()
        lengths = (0, 0, 1, 79, 80, 81, 255, 256, 4095, 4096, 4097, 5000)
        return bytes(self.any(b"none", b"\xff\xfe", b"", b"a\0b", b"x" * self.any(*lengths)))

    def option(self, names: Sequence[str]) -> tuple[int, bytes]:
        """Return an option's number and its data.

        EXPORT_NAME, which ends the negotiation, is not drawn, nor is what is sent like it.
        """
        kind = self.any(
            *(LIST, STARTTLS, INFO, INFO, INFO, GO, STRUCTURED, STRUCTURED, STRUCTURED),
            *(LIST_META, LIST_META, SET_META, SET_META, SET_META, SET_META),
            *(0, 4, 11, 99, (1 << 32) - 1),
        )
        if kind in {INFO, GO}:
            data = self.info(self.name(names))
        elif kind in {LIST_META, SET_META}:
            data = self.contexts(self.name(names))
        else:
            data = self.any(b"x", b"data" * 100, bytes(70000)) if self.often(0.15) else b""
        return kind, self._spoilt(data) if self.often(0.12) else data

    def info(self, name: bytes) -> bytes:
        """Return the data of INFO and GO."""
        count = self.any(0, 0, 1, 1, 2, 3, 5, 300)
        wanted = [self.any(0, 1, 2, 3, 3, 4, 99, 0xFFFF) for _ in range(count)]
        return named(name) + struct.pack(f">H{count}H", count, *wanted)

    def contexts(self, name: bytes) -> bytes:
        """Return the data of LIST_META_CONTEXT and SET_META_CONTEXT."""
        count = self.any(0, 1, 1, 2, 3, 4, 60)
        return (
            named(name)
            + struct.pack(">I", count)
            + b"".join(named(self.query()) for _ in range(count))
        )

    def query(self) -> str:
        """Return the name of a metadata context, or something like it."""
        if self.often(0.05):
            prefix = self.any("", "base:", "qemu:", "qemu:dirty-bitmap:")
            return str(prefix) + "x" * self.any(1, 255, 4095, 4096, 4097, 9000)
        return str(self.any(*_QUERIES))

    def _spoilt(self, data: bytes) -> bytes:
        """Return data that is cut, goes on, or says other numbers."""
        match self.any("cut", "cut", "longer", "number", "noise"):
            case "cut":
                return data[: self.random.randrange(len(data) + 1)]
            case "longer":
                return data + self.random.randbytes(self.any(1, 2, 4, 100))
            case "noise":
                return self.random.randbytes(self.any(1, 4, 8, 40))
            case _:
                at = self.random.randrange(len(data) + 1)
                number = self.any(0, 1, 2, 4096, 4097, (1 << 31) - 1, (1 << 32) - 1)
                return data[:at] + struct.pack(">I", number) + data[at + 4 :]

    def noise(self, names: Sequence[str]) -> bytes:
        """Return what is no option, or one whose length is wrong; nothing can follow it."""
        kind, data = self.option(names)
        magic = self.any(b"IHAVEOPT", b"IHAVEOPT", b"IHAVEOPX", b"GET / HT")
        length = self.any(len(data), len(data) + 1, len(data) + 1000, _LIMIT, _LIMIT + 1, 0)
        if kind in {LIST_META, SET_META}:  # QEMU goes on where it has read all queries
            length = len(data)
        packed = magic + struct.pack(">II", self.any(kind, kind, EXPORT_NAME), length) + data
        return packed[: self.random.randrange(len(packed))] if self.often(0.3) else packed

    # -- requests ---------------------------------------------------------------------------

    def requests(self, size: int, commands: Sequence[int]) -> list[Asked]:
        """Return requests to be sent together, of an export of this size.

        As the order in which they are done is open, all change something, each another 64 KiB,
        or nothing.
        """
        changing = self.any(*commands) in CHANGING
        wanted = [command for command in commands if (command in CHANGING) == changing]
        drawn = [self.request(size, wanted) for _ in range(self.any(1, 1, 1, 2, 3, 8, 20))]
        kept: list[Asked] = []
        for request in drawn:
            if not changing or all(_apart(request, other) for other in kept):
                kept.append(request)
        return kept

    def request(self, size: int, commands: Sequence[int]) -> Asked:
        """Return one request, mostly with one of ``commands``."""
        command = self.any(*commands)
        if self.often(0.04):
            command = self.any(8, 9, 99, 0xFFFF)
        offset, length = self._range(size)
        if command == STATUS and self.often(0.5):
            offset, length = 0, size
        data = b""
        if command == WRITE:
            length = min(length, _LIMIT if size > _LIMIT and self.often(0.1) else _MOST_DATA)
            data = self.any(b"\0", b"\x01", b"\x55") * length
        cookie = self.random.getrandbits(64)
        return Asked(command, offset, length, self._flags(command), cookie, data)

    def _range(self, size: int) -> tuple[int, int]:
        unit = self.any(512, 512, 4 * KIB, 4 * KIB, 64 * KIB, 1)
        if self.often(0.85):
            offset = self.random.randrange(0, max(size, 1), unit)
            length = self.any(1, 2, 8, 16, 64) * unit if self.often(0.7) else size
            return offset, min(length, size - offset) if self.often(0.95) else length
        offset = self.any(0, 1, size - 1, size, size + 1, SIZE, 1 << 40, 1 << 63, (1 << 64) - 1)
        length = self.any(0, 0, 1, 512, size, size + 1, _LIMIT, _LIMIT + 1, (1 << 32) - 1)
        return max(offset, 0), min(length, (1 << 32) - 1)

    def _flags(self, command: int) -> int:
        known = {READ: (4,), WRITE: (1,), ZEROES: (2, 2, 16, 1, 3, 18), STATUS: (8,), TRIM: (1,)}
        if self.often(0.5):
            return 0
        flags = int(self.any(1, 2, 4, 8, 16, 32, 0x8000, 5, 12))
        if self.often(0.85):
            flags = int(self.any(0, *known.get(command, (1,))))
        return flags & ~2 if self.holes else flags


def _apart(one: Asked, other: Asked) -> bool:
    unit = 64 * KIB
    first, last = one.offset // unit, (one.offset + one.length) // unit
    return last < other.offset // unit or first > (other.offset + other.length) // unit
