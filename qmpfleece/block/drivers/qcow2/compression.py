"""Compressed clusters: deflate without header, or zstd by the system's library.

zstd is found when it is first needed, so that images without it need no library. Everything
here is called on worker threads; both libraries let other threads run meanwhile.
"""

import ctypes
import ctypes.util
import zlib
from functools import cache
from typing import Any, ClassVar, Final

DEFLATE: Final = 0
ZSTD: Final = 1
#: Names in QAPI ``Qcow2CompressionType``.
NAMES: Final = ("zlib", "zstd")
_WINDOW_BITS: Final = -12


def available(method: int) -> bool:
    """Return whether clusters of this method can be read and written."""
    return method == DEFLATE or (method == ZSTD and _zstd() is not None)


def decompress(method: int, data: bytearray, size: int) -> bytes:
    """Return the ``size`` bytes that ``data`` begins with; what follows them is ignored.

    Raises:
        ValueError: It is not compressed data of at least that size.
    """
    if method == ZSTD:
        return _unzstd(data, size)
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
        packed = _to_zstd(data)
    else:
        engine = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, _WINDOW_BITS, 9)
        packed = engine.compress(data) + engine.flush()
    return packed if len(packed) < len(data) else None


# -- zstd: the stream functions of libzstd --------------------------------------------------


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer, which are alike."""

    _fields_: ClassVar[Any] = [
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("pos", ctypes.c_size_t),
    ]


@cache
def _zstd() -> Any:
    """Return the library, None if it is not installed."""
    for name in ("libzstd.so.1", ctypes.util.find_library("zstd")):
        if name is None:
            continue
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        library.ZSTD_createDCtx.restype = pointer
        library.ZSTD_freeDCtx.argtypes = [pointer]
        library.ZSTD_decompressStream.argtypes = [pointer, pointer, pointer]
        library.ZSTD_decompressStream.restype = size
        library.ZSTD_compress.argtypes = [pointer, size, pointer, size, ctypes.c_int]
        library.ZSTD_compress.restype = size
        library.ZSTD_compressBound.argtypes = [size]
        library.ZSTD_compressBound.restype = size
        library.ZSTD_isError.argtypes = [size]
        return library
    return None


def _unzstd(data: bytearray, size: int) -> bytes:
    library = _zstd()
    out = ctypes.create_string_buffer(size)
    source = (ctypes.c_char * len(data)).from_buffer(data)
    taken = _Buffer(ctypes.addressof(source), len(data), 0)
    given = _Buffer(ctypes.addressof(out), size, 0)
    context = library.ZSTD_createDCtx()
    try:
        while given.pos < size:
            before = taken.pos, given.pos
            code = library.ZSTD_decompressStream(context, ctypes.byref(given), ctypes.byref(taken))
            if library.ZSTD_isError(code) or before == (taken.pos, given.pos):
                raise ValueError("damaged data")
    finally:
        library.ZSTD_freeDCtx(context)
    return out.raw


def _to_zstd(data: bytes) -> bytes:
    library = _zstd()
    bound = library.ZSTD_compressBound(len(data))
    out = ctypes.create_string_buffer(bound)
    # Level 3, the library's default.
    size = library.ZSTD_compress(out, bound, data, len(data), 3)
    if library.ZSTD_isError(size):
        return data
    return out.raw[:size]
