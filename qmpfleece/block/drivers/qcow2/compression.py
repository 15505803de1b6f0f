"""Compressed clusters: deflate without header, or zstd by the system's library.

zstd is found when it is first needed, so that images without it need no library. Everything
here is called on worker threads; both libraries let other threads run meanwhile.
"""

import zlib
from typing import Final

DEFLATE: Final = 0
ZSTD: Final = 1
#: Names in QAPI ``Qcow2CompressionType``.
NAMES: Final = ("zlib", "zstd")
_WINDOW_BITS: Final = -12


def available(method: int) -> bool:
    """Return whether clusters of this method can be read and written."""
    if method == ZSTD:
        from qmpfleece.block.drivers.qcow2 import zstd

        return zstd.library() is not None
    return method == DEFLATE


def decompress(method: int, data: bytearray, size: int) -> bytes:
    """Return the ``size`` bytes that ``data`` begins with; what follows them is ignored.

    Raises:
        ValueError: It is not compressed data of at least that size.
    """
    if method == ZSTD:
        from qmpfleece.block.drivers.qcow2 import zstd

        return zstd.decompress(data, size)
    engine = zlib.decompressobj(_WINDOW_BITS)
    try:
        cluster = engine.decompress(data, size)
    except zlib.error as error:
        raise ValueError("damaged data") from error
    if len(cluster) != size:
        raise ValueError("too little data")
    return cluster


def compress(method: int, data: bytes) -> bytes | None:
    """Return ``data`` compressed, None if that does not make it smaller."""
    if method == ZSTD:
        from qmpfleece.block.drivers.qcow2 import zstd

        packed = zstd.compress(data)
    else:
        engine = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, _WINDOW_BITS, 9)
        packed = engine.compress(data) + engine.flush()
    return packed if len(packed) < len(data) else None
