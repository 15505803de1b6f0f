"""Header extensions: type, length, data, padded to 8 bytes; unknown ones are kept as they are."""

import struct
from typing import Final, NamedTuple

from qmpfleece.base.errors import QmpError
from qmpfleece.block.drivers.qcow2.layout import named

BACKING_FORMAT: Final = 0xE2792ACA
FEATURE_NAMES: Final = 0x6803F857
BITMAPS: Final = 0x23852875
DATA_FILE: Final = 0x44415441
#: Magic and length of data.
HEAD: Final = struct.Struct(">II")
#: Data of the bitmaps extension.
BITMAPS_DATA: Final = struct.Struct(">IIQQ")
_FEATURE: Final = struct.Struct(">BB46s")


class Extension(NamedTuple):
    """One extension as it is stored."""

    magic: int
    data: bytes


class BitmapsExtension(NamedTuple):
    """The bitmaps extension. Source: qcow2 specification, "Bitmaps extension".

    Attributes:
        bitmaps: Bitmaps in the directory.
        size: Bytes of the directory.
        offset: Where it lies.
    """

    bitmaps: int
    size: int
    offset: int

    def encode(self) -> bytes:
        """Return the extension's data."""
        return BITMAPS_DATA.pack(self.bitmaps, 0, self.size, self.offset)


def bitmaps_extension(data: bytes) -> BitmapsExtension:
    """Parse the data of a bitmaps extension, which has the length of ``BITMAPS_DATA``.

    Raises:
        QmpError: It is malformed.
    """
    count, reserved, size, offset = BITMAPS_DATA.unpack(data)
    if reserved:
        raise QmpError("bitmaps_ext: Reserved field is not zero")
    return BitmapsExtension(count, size, offset)


#: Type and bit of each feature that has a name. Source: what qemu-img create writes.
_FEATURES: Final = (
    (0, 0, b"dirty bit"),
    (0, 1, b"corrupt bit"),
    (0, 2, b"external data file"),
    (0, 3, b"compression type"),
    (0, 4, b"extended L2 entries"),
    (1, 0, b"lazy refcounts"),
    (2, 0, b"bitmaps"),
    (2, 1, b"raw external data"),
)


def feature_table() -> bytes:
    """Return the data of the feature name table."""
    return b"".join(_FEATURE.pack(*feature) for feature in _FEATURES)


def feature_names(data: bytes) -> dict[int, str]:
    """Return the names of the incompatible features, by bit."""
    names: dict[int, str] = {}
    for start in range(0, len(data) - _FEATURE.size + 1, _FEATURE.size):
        kind, bit, name = _FEATURE.unpack_from(data, start)
        if kind == 0 and bit < 64:
            names[bit] = named(name).decode(errors="replace")
    return names


def encode(items: list[Extension]) -> bytes:
    """Return extensions, and the one that ends them, as they are stored."""
    parts = []
    for magic, data in items:
        parts.append(HEAD.pack(magic, len(data)) + data + bytes(-len(data) % 8))
    return b"".join(parts) + HEAD.pack(0, 0)
