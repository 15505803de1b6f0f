"""The header of an image: parsing with QEMU's refusals, and writing it back.

The first cluster holds the header, its extensions and the name of the backing file. It is
rewritten as a whole when extensions change; unknown fields and extensions are kept.
"""

import errno
import struct
from dataclasses import dataclass, field
from typing import Final

from qmpfleece.base.errors import BlockError, QmpError
from qmpfleece.base.files import c_string
from qmpfleece.block.drivers.qcow2 import extensions
from qmpfleece.block.drivers.qcow2.extensions import Extension
from qmpfleece.block.drivers.qcow2.layout import (
    MAGIC,
    MAX_CLUSTER_BITS,
    MIN_CLUSTER_BITS,
    Incompatible,
)

_V2: Final = struct.Struct(">IIQIIQIIQQIIQ")
_V3: Final = struct.Struct(">QQQII")
#: Bytes of the fields that we know: of version 2, required of 3, and with compression type.
V2_LENGTH: Final = 72
V3_LENGTH: Final = 104
FULL_LENGTH: Final = 112
#: Longest name of a backing file.
MAX_BACKING_NAME: Final = 1023


@dataclass
class Header:
    """Fields of the header, under the names of the specification."""

    version: int = 3
    backing_offset: int = 0
    backing_size: int = 0
    cluster_bits: int = 16
    size: int = 0
    crypt_method: int = 0
    l1_size: int = 0
    l1_offset: int = 0
    refcount_table_offset: int = 0
    refcount_table_clusters: int = 0
    snapshots: int = 0
    snapshots_offset: int = 0
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    header_length: int = V2_LENGTH
    compression: int = 0
    unknown: bytes = b""
    backing_name: str = ""
    extensions: list[Extension] = field(default_factory=list)

    @property
    def extended_l2(self) -> bool:
        """Whether L2 entries have subcluster bitmaps."""
        return bool(self.incompatible & Incompatible.EXTENDED_L2)

    @property
    def data_file(self) -> bool:
        """Whether the data lies in a file of its own."""
        return bool(self.incompatible & Incompatible.DATA_FILE)

    def extension(self, magic: int) -> bytes | None:
        """Return the data of an extension, None if there is none."""
        return next((item.data for item in self.extensions if item.magic == magic), None)

    def extensions_with(self, magic: int, data: bytes | None) -> list[Extension]:
        """Return the extensions with one replaced, added, or with None removed."""
        kept = [item for item in self.extensions if item.magic != magic]
        return kept if data is None else [*kept, Extension(magic, data)]

    def encode(self) -> bytes:
        """Return header, extensions and backing file name.

        Raises:
            BlockError: ENOSPC: they don't fit into a cluster.
        """
        length = V2_LENGTH
        if self.version >= 3:
            length = max(FULL_LENGTH, self.header_length)
        tail = extensions.encode(self.extensions)
        name = c_string(self.backing_name)
        self.backing_offset = length + len(tail) if name else 0
        self.backing_size = len(name)
        image = _V2.pack(
            MAGIC,
            self.version,
            self.backing_offset,
            self.backing_size,
            self.cluster_bits,
            self.size,
            self.crypt_method,
            self.l1_size,
            self.l1_offset,
            self.refcount_table_offset,
            self.refcount_table_clusters,
            self.snapshots,
            self.snapshots_offset,
        )
        if self.version >= 3:
            image += _V3.pack(
                self.incompatible, self.compatible, self.autoclear, self.refcount_order, length
            )
            image += bytes([self.compression]) + bytes(7) + self.unknown
            self.header_length = length
        image += tail + name
        if len(image) > 1 << self.cluster_bits:
            raise BlockError(errno.ENOSPC)
        return image


def parse(raw: bytes) -> Header:
    """Return the fixed fields found in the first bytes of an image.

    Raises:
        QmpError: It is no qcow2 image, or not one that can be opened. QEMU's texts.
    """
    fields = _V2.unpack_from(raw)
    if fields[0] != MAGIC:
        raise QmpError("Image is not in qcow2 format")
    header = Header(*fields[1:])
    if header.version not in {2, 3}:
        raise QmpError(f"Unsupported qcow2 version {header.version}")
    if not MIN_CLUSTER_BITS <= header.cluster_bits <= MAX_CLUSTER_BITS:
        raise QmpError(f"Unsupported cluster size: 2^{header.cluster_bits}")
    if header.version >= 3:
        (
            header.incompatible,
            header.compatible,
            header.autoclear,
            header.refcount_order,
            header.header_length,
        ) = _V3.unpack_from(raw, V2_LENGTH)
        if header.header_length < V3_LENGTH:
            raise QmpError("qcow2 header too short")
        if header.header_length > 1 << header.cluster_bits:
            raise QmpError("qcow2 header exceeds cluster size")
        if header.header_length > V3_LENGTH:
            header.compression = raw[V3_LENGTH]
    if header.backing_offset > 1 << header.cluster_bits:
        raise QmpError("Invalid backing file offset")
    return header
