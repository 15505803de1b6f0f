"""The stream functions of the system's libzstd."""

import ctypes
import ctypes.util
from functools import cache
from typing import Any, ClassVar


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer, which are alike."""

    _fields_: ClassVar[Any] = [
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("pos", ctypes.c_size_t),
    ]


@cache
def library() -> Any:
    """Return the library, None if it is not installed."""
    for name in ("libzstd.so.1", ctypes.util.find_library("zstd")):
        if name is None:
            continue
        try:
            found = ctypes.CDLL(name)
        except OSError:
            continue
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        found.ZSTD_createDCtx.restype = pointer
        found.ZSTD_freeDCtx.argtypes = [pointer]
        found.ZSTD_decompressStream.argtypes = [pointer, pointer, pointer]
        found.ZSTD_decompressStream.restype = size
        found.ZSTD_compress.argtypes = [pointer, size, pointer, size, ctypes.c_int]
        found.ZSTD_compress.restype = size
        found.ZSTD_compressBound.argtypes = [size]
        found.ZSTD_compressBound.restype = size
        found.ZSTD_isError.argtypes = [size]
        return found
    return None


def decompress(data: bytearray, size: int) -> bytes:
    """Return the ``size`` bytes that ``data`` begins with.

    Raises:
        ValueError: It is not compressed data of at least that size.
    """
    zstd = library()
    out = ctypes.create_string_buffer(size)
    source = (ctypes.c_char * len(data)).from_buffer(data)
    taken = _Buffer(ctypes.addressof(source), len(data), 0)
    given = _Buffer(ctypes.addressof(out), size, 0)
    context = zstd.ZSTD_createDCtx()
    try:
        while given.pos < size:
            before = taken.pos, given.pos
            code = zstd.ZSTD_decompressStream(context, ctypes.byref(given), ctypes.byref(taken))
            if zstd.ZSTD_isError(code) or before == (taken.pos, given.pos):
                raise ValueError("damaged data")
    finally:
        zstd.ZSTD_freeDCtx(context)
    return out.raw


def compress(data: bytes) -> bytes:
    """Return ``data`` compressed, or as it is if that fails."""
    zstd = library()
    bound = zstd.ZSTD_compressBound(len(data))
    out = ctypes.create_string_buffer(bound)
    # Level 3, the library's default.
    size = zstd.ZSTD_compress(out, bound, data, len(data), 3)
    if zstd.ZSTD_isError(size):
        return data
    return out.raw[:size]
