"""The commands of qemu-io that are requests: read, write, discard, flush."""

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import Coroutine
from typing import Any, Final, Self

from qmpfleece.base.errors import BlockError, QmpError
from qmpfleece.base.files import c_string
from qmpfleece.base.units import MIB, SECTOR
from qmpfleece.block.accounting import FLUSH, READ, WRITE
from qmpfleece.block.backend import Backend
from qmpfleece.block.driver import ReqFlags
from qmpfleece.block.perm import Perm
from qmpfleece.control.monitor.output import print_out
from qmpfleece.control.qemu_io.command import Call, ComplaintError, IoCommand, register
from qmpfleece.control.qemu_io.numbers import dump, parse_pattern, parse_size, report

#: The longest request in bytes. Source: QEMU, BDRV_REQUEST_MAX_BYTES.
_MAX_REQUEST: Final = 2147483136
#: Longer dumps, in characters, are printed in pieces; then others may come in between.
_MUCH_TEXT: Final = 4 * MIB
_DEFAULT_PATTERN: Final = 0xCD
#: Lengths of several vectors follow each other.
_ANY: Final = (2, 1 << 20)


def _length(text: str, excuse: str = "") -> int:
    """Return a length; ``excuse`` is said of what would let it be longer."""
    length = parse_size(text)
    if length > _MAX_REQUEST:
        raise QmpError(f"length cannot exceed {_MAX_REQUEST}{excuse}, given {text}")
    return length


def _part(text: str) -> int:
    """Return the length of one of several buffers, which has an error of its own."""
    length = parse_size(text)
    if length > _MAX_REQUEST:
        raise QmpError(f"Argument '{text}' exceeds maximum size {_MAX_REQUEST}")
    return length


class _Count:
    """Counts a request as one of the disk's user; QEMU does so for the aio commands only.

    A context for the time that it takes; an OSError in it means that the request has failed.
    """

    def __init__(self, backend: Backend, kind: str) -> None:
        self._accounting = backend.accounting
        self._kind = kind
        self._length = 0
        self._began_ns = 0

    def invalid(self) -> None:
        """Count a request that is refused before it begins."""
        self._accounting.invalid(self._kind)

    def begin(self, length: int) -> Self:
        """Count a request of so many bytes."""
        self._length = length
        self._began_ns = time.monotonic_ns()
        self._accounting.begin(self._kind, length)
        return self

    def __enter__(self) -> None:
        """Go on."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Note how it has ended."""
        if kind is not None:
            self._accounting.failed(self._kind, self._length)
        self._accounting.took(self._kind, self._began_ns)


def _total(call: Call, count: _Count | None = None) -> int:
    """Return the sum of the lengths that are given."""
    total = 0
    try:
        for word in call.words[1:]:
            total = _sum(total, _part(word))
    except QmpError:
        if count is not None:
            count.invalid()
        raise
    return total


def _sum(total: int, length: int) -> int:
    if total + length > _MAX_REQUEST:
        raise QmpError(f"The total number of bytes exceed the maximum size {_MAX_REQUEST}")
    return total + length


def _check_range(call: Call, offset: int, length: int) -> None:
    call.check_available()
    if offset + length > call.backend.length:
        raise BlockError(errno.EIO)


def _check_sectors(offset: int, length: int) -> None:
    for value, name in ((offset, "offset"), (length, "count")):
        if value % SECTOR:
            raise QmpError(f"{value} is not a sector-aligned value for '{name}'")


def _done(call: Call, verb: str, offset: int, length: int, started: float) -> str:
    seconds = time.monotonic() - started
    return report(verb, offset, length, seconds, quiet=call.has("q"), machine=call.has("C"))


async def _verify(call: Call, data: bytearray, offset: int) -> str:
    """Compare what was read with the pattern; return what there is to say."""
    if not call.has("P"):
        return ""
    pattern = parse_pattern(call.options["P"])
    start = parse_size(call.options.get("s", "0"))
    length = parse_size(call.options["l"]) if call.has("l") else len(data) - start
    end, wanted = start + length, bytes([pattern]) * min(length, MIB)
    for at in range(start, end, MIB):
        if data[at : min(at + MIB, end)] != wanted[: end - at]:
            return f"Pattern verification failed at offset {offset + start}, {length} bytes\n"
        await asyncio.sleep(0)  # others have their turn
    return ""


async def _read_vector(call: Call, verb: str, count: _Count | None = None) -> str:
    offset, length = parse_size(call.words[0]), _total(call, count)
    if call.has("P"):
        start = parse_size(call.options.get("s", "0"))
        if start + parse_size(call.options.get("l", "0")) > length:
            raise QmpError("pattern verification range exceeds end of read data")
    if call.has("b"):
        _check_sectors(offset, length)
        why = errno.ENOTSUP if call.available else errno.ENOMEDIUM
        raise QmpError(f"read failed: {os.strerror(why)}")
    started = time.monotonic()
    data = bytearray()
    try:
        with count.begin(length) if count is not None else contextlib.nullcontext():
            _check_range(call, offset, length)  # before memory is taken for what isn't there
            data = bytearray(length)
            await call.backend.pread(offset, memoryview(data))
    except OSError as error:
        raise QmpError(f"{verb} failed: {error.strerror}") from error
    ended = _done(call, "read", offset, length, started)
    text = await _verify(call, data, offset)
    if call.has("v") and not call.has("q"):
        for piece in dump(data, offset):
            text += piece
            if len(text) > _MUCH_TEXT:
                await print_out(call.backend.graph.workers, text)
                text = ""
            await asyncio.sleep(0)  # others have their turn
    return text + ended


async def _read(call: Call) -> str:
    if not call.has("P") and (call.has("s") or call.has("l")):
        raise QmpError(f"read {_READ_USAGE}")
    parse_size(call.words[0])
    _length(call.words[1])
    return await _read_vector(call, "read")


async def _readv(call: Call) -> str:
    return await _read_vector(call, "readv")


def _check_write(call: Call) -> None:
    if call.has("b") and call.has("z"):
        raise QmpError("-b and -z cannot be specified at the same time")
    if call.has("f") and (call.has("b") or call.has("c")):
        raise QmpError("-f and -b or -c cannot be specified at the same time")
    if call.has("n") and not call.has("z"):
        raise QmpError("-n requires -z to be specified")
    if call.has("u") and not call.has("z"):
        raise QmpError("-u requires -z to be specified")


def _flags(call: Call) -> int:
    flags = ReqFlags.FUA if call.has("f") else ReqFlags.NONE
    if call.has("u"):
        flags |= ReqFlags.MAY_UNMAP
    if call.has("n"):
        flags |= ReqFlags.NO_FALLBACK
    return flags


async def _write_vector(
    call: Call, verb: str, *, source: bytes = b"", count: _Count | None = None
) -> str:
    pattern = parse_pattern(call.options["P"]) if call.has("P") else _DEFAULT_PATTERN
    offset = parse_size(call.words[0])
    # Source: QEMU lets a lone length be beyond what a request may have.
    length = parse_size(call.words[1]) if call.has("n") else _total(call, count)
    started = time.monotonic()
    try:
        with count.begin(length) if count is not None else contextlib.nullcontext():
            await _write_range(call, offset, length, source or bytes([pattern]))
    except OSError as error:
        raise QmpError(f"{verb} failed: {error.strerror}") from error
    return _done(call, "wrote", offset, length, started)


async def _write_range(call: Call, offset: int, length: int, source: bytes) -> None:
    """Write ``source``, over and over, in the way that the options say."""
    if call.has("b"):
        call.check_available()
        raise BlockError(errno.ENOTSUP)
    _check_range(call, offset, length)
    if call.has("z"):
        await call.backend.pwrite_zeroes(offset, length, _flags(call))
        return
    data = memoryview(source * -(-length // len(source)))[:length]
    if call.has("c"):
        await call.backend.pwrite_compressed(offset, data)
    else:
        await call.backend.pwrite(offset, data, _flags(call))


def _load(path: str) -> bytes:
    with open(c_string(path), "rb") as file:
        return file.read(_MAX_REQUEST)


async def _write(call: Call) -> str:
    _check_write(call)
    if sum(call.has(letter) for letter in "zPs") > 1:
        raise QmpError("Only one of -z, -P, and -s can be specified at the same time")
    parse_size(call.words[0])
    if not call.has("n"):
        _length(call.words[1], " without -n")
    if call.has("b") or call.has("c"):
        _check_sectors(parse_size(call.words[0]), parse_size(call.words[1]))
    source = b""
    if call.has("s"):
        try:
            queue = call.backend.graph.workers.queue(1)
            source = await queue.submit(_load, call.options["s"])
        except OSError as error:
            raise ComplaintError(f"{call.options['s']}: {error.strerror}") from error
        if not source:
            raise ComplaintError(f"{call.options['s']}: file is empty")
    return await _write_vector(call, "write", source=source)


async def _writev(call: Call) -> str:
    return await _write_vector(call, "writev")


async def _aio_write(call: Call) -> str:
    _check_write(call)
    if call.has("z") and len(call.words) > _ANY[0]:
        raise QmpError("-z supports only a single length parameter")
    count = _Count(call.backend, WRITE)
    # Source: QEMU counts no zeroes.
    counting = None if call.has("z") else count
    return await _perhaps_later(call, _write_vector(call, "aio_write", count=counting))


async def _aio_read(call: Call) -> str:
    count = _Count(call.backend, READ)
    return await _perhaps_later(call, _read_vector(call, "readv", count))


def _inject_read(backend: Backend, _: str) -> None:
    _Count(backend, READ).invalid()
    raise QmpError("injecting invalid read request")


def _inject_write(backend: Backend, _: str) -> None:
    _Count(backend, WRITE).invalid()
    raise QmpError("injecting invalid write request")


async def _perhaps_later(call: Call, request: Coroutine[Any, Any, str]) -> str:
    """Run a request; one that may go on after the command says later what became of it."""
    if call.background is None:
        return await request
    call.background.start(request)
    await asyncio.sleep(0)  # what it tells when it begins comes before the reply
    return ""


async def _discard(call: Call) -> str:
    offset, length = parse_size(call.words[0]), _length(call.words[1])
    started = time.monotonic()
    try:
        call.check_available()
        await call.backend.pdiscard(offset, length)
    except OSError as error:
        raise QmpError(f"discard failed: {error.strerror}") from error
    return _done(call, "discard", offset, length, started)


async def _flush(call: Call) -> str:
    """Flush. Source: QEMU says nothing, whatever comes of it."""
    if call.backend.node is not None:
        with contextlib.suppress(OSError):
            await call.backend.flush()
    return ""


async def _aio_flush(call: Call) -> str:
    """Wait for the requests under way: on a node they have ended with their command."""
    if call.background is not None:
        with _Count(call.backend, FLUSH).begin(0):
            await call.background.flush()
    return ""


_READ_USAGE: Final = (
    "[-abCqv] [-P pattern [-s off] [-l len]] off len"
    " -- reads a number of bytes at a specified offset"
)
_WRITE_USAGE: Final = (
    "[-bcCfnquz] [-P pattern | -s source_file] off len"
    " -- writes a number of bytes at a specified offset"
)
_READV: Final = (
    "[-Cqv] [-P pattern] off len [len..] -- reads a number of bytes at a specified offset"
)
_WRITEV: Final = (
    "[-Cfq] [-P pattern] off len [len..] -- writes a number of bytes at a specified offset"
)
_AIO_READ: Final = "[-Ciqv] [-P pattern] off len [len..] -- asynchronously reads a number of bytes"
_AIO_WRITE: Final = (
    "[-Cfiquz] [-P pattern] off len [len..] -- asynchronously writes a number of bytes"
)
_DISCARD: Final = "[-Cq] off len -- discards a number of bytes at a specified offset"


def _check_pattern(_: Backend, text: str) -> None:
    parse_pattern(text)


def _check_size(_: Backend, text: str) -> None:
    parse_size(text)


_PATTERN: Final = {"P": _check_pattern}
_PART: Final = {"P": _check_pattern, "l": _check_size, "s": _check_size}
_TWO: Final = (2, 2)
_W: Final = Perm.WRITE

for _command, _short in (
    (IoCommand("read", _read, _READ_USAGE, "bCl:pP:qs:v", 2, None, _TWO, checks=_PART), "r"),
    (
        IoCommand(
            "write", _write, _WRITE_USAGE, "bcCfnpP:qs:uz", 2, None, _TWO, _W, checks=_PATTERN
        ),
        "w",
    ),
    (IoCommand("readv", _readv, _READV, "CP:qv", 2, None, _ANY, checks=_PATTERN), ""),
    (IoCommand("writev", _writev, _WRITEV, "CfqP:", 2, None, _ANY, _W, checks=_PATTERN), ""),
    (
        IoCommand(
            "aio_read",
            _aio_read,
            _AIO_READ,
            "CP:iqv",
            2,
            None,
            _ANY,
            checks=_PATTERN | {"i": _inject_read},
        ),
        "",
    ),
    (
        IoCommand(
            "aio_write",
            _aio_write,
            _AIO_WRITE,
            "CfiP:quz",
            2,
            None,
            _ANY,
            _W,
            checks=_PATTERN | {"i": _inject_write},
        ),
        "",
    ),
):
    register(_command, _short)
register(IoCommand("discard", _discard, _DISCARD, "Cq", 2, None, (2, 2), Perm.WRITE), "d")
register(IoCommand("flush", _flush, "-- flush all in-core file state to disk"), "f")
register(IoCommand("aio_flush", _aio_flush, "-- completes all outstanding aio requests"))
