"""NBD_CMD_READ: the payload is read to where it is sent from."""

import os
from typing import Final

from qmpfleece.base.eager import DONE
from qmpfleece.base.errors import errno_of
from qmpfleece.base.units import MIB
from qmpfleece.block.accounting import READ
from qmpfleece.block.driver import Io, Status
from qmpfleece.exports.nbd.client import POOLED_READ, Client
from qmpfleece.exports.nbd.command import Rest, command
from qmpfleece.nbdproto import const, transmission
from qmpfleece.nbdproto.buffers import Buffer
from qmpfleece.nbdproto.transmission import Request

#: Most extents of one read; behind them everything is sent as data.
_MAX_EXTENTS: Final = 64
#: QEMU looks for holes before every structured read. Here reads stop looking after so many
#: that found none,
_PATIENCE: Final = 16
#: and look again after so many bytes: what is sent for a hole then costs little more than
#: the question would have.
_RETRY: Final = 4 * MIB

_DONE: Final = const.REPLY_FLAG_DONE


@command(
    const.CMD_READ,
    "read",
    "reading from file failed",
    flags=const.CMD_FLAG_DF,
    payload=True,
    counts_as=READ,
)
def read(client: Client, request: Request) -> Rest:
    """Answer with the data; holes of large structured reads are told, not sent."""
    if request.flags & const.CMD_FLAG_FUA:
        return _read_flushed(client, request)
    length = request.length
    accounting = client.accounting
    accounting.rd_operations += 1
    accounting.rd_bytes += length
    client.trusted -= length
    if client.trusted <= 0 and client.structured and _looks_for_holes(client, request):
        return _read_sparse(client, request)
    if length >= POOLED_READ:
        return _read_large(client, request)
    if not length:
        return _read_nothing(client, request)
    client.read_here += length
    header = client.header
    reply = client.room(header + length)
    client.pack_header(reply, request.cookie, request.offset, length, _DONE)
    io = client.backend.pread(request.offset, reply[header:])
    if io is not DONE:
        return _send_later(client, reply, client.detach(len(reply)), io)
    client.row_end += header + length
    return DONE


async def _read_flushed(client: Client, request: Request) -> None:
    """Answer when all that has been written is stable, which the protocol does not ask for."""
    try:
        await client.backend.flush()
    except OSError as error:
        client.fail(request, errno_of(error), "flush failed")
        return
    request.flags &= ~const.CMD_FLAG_FUA
    rest = read(client, request)
    if rest is not DONE:
        await rest


async def _read_nothing(client: Client, request: Request) -> None:
    """Answer without data, after asking the driver, which may refuse to read at all.

    As in QEMU, a snapshot that is broken does not refuse: nothing of it is asked for.
    """
    await client.backend.pread(request.offset, memoryview(bytearray()))
    if client.structured:
        client.out.append(transmission.pack_none(request.cookie))
    else:
        client.ok(request)


def _looks_for_holes(client: Client, request: Request) -> bool:
    """Tell whether to ask for the block status first, and put off when to ask again."""
    if not request.length or request.flags & const.CMD_FLAG_DF:
        return False
    if client.fruitless + 1 >= _PATIENCE:
        client.trusted = _RETRY  # unless this one finds a hole
    if client.backend.is_known_data(request.offset, request.length):
        client.fruitless += 1
        return False
    return True


async def _read_sparse(client: Client, request: Request) -> None:
    """Answer with data chunks and hole chunks, in order of offset."""
    offset, left = request.offset, request.length
    try:
        extents = await client.backend.block_status(offset, left, _MAX_EXTENTS)
    except OSError as error:
        client.trusted = 0
        code = errno_of(error)
        client.accounting.failed(READ, request.length)
        client.fail(request, code, f"unable to check for holes: {os.strerror(code)}")
        return
    runs: list[tuple[int, bool]] = []
    for extent in extents:
        zero = bool(extent.flags & Status.ZERO)
        if runs and runs[-1][1] == zero:
            runs[-1] = (runs[-1][0] + extent.length, zero)
        else:
            runs.append((extent.length, zero))
        left -= extent.length
    if left:  # past the known extents
        if runs and not runs[-1][1]:
            runs[-1] = (runs[-1][0] + left, False)
        else:
            runs.append((left, False))
    if len(runs) > 1 or runs[0][1]:
        client.fruitless = client.trusted = 0
    else:
        client.fruitless += 1
    for index, (length, zero) in enumerate(runs):
        flags = _DONE if index == len(runs) - 1 else 0
        if zero:
            client.out.append(transmission.pack_hole(request.cookie, offset, length, flags))
        else:
            reply, buffer = client.large_reply(request.cookie, offset, length, flags)
            await _read_into(client, offset, reply, buffer)
        offset += length


def _read_large(client: Client, request: Request) -> Rest:
    """Answer with one chunk, which a thread reads and sends if that is possible."""
    if client.courier is not None and client.courier.take(request):
        return DONE
    return read_on_loop(client, request)


def read_on_loop(client: Client, request: Request) -> Rest:
    """Answer a large read with one chunk, read here."""
    reply, buffer = client.large_reply(request.cookie, request.offset, request.length, _DONE)
    return _read_into(client, request.offset, reply, buffer)


def _read_into(client: Client, offset: int, reply: memoryview, buffer: Buffer) -> Rest:
    """Read the payload of a reply that has its header, and send it when it is there."""
    payload = reply[client.header :]
    client.read_here += len(payload)
    try:
        io = client.backend.pread(offset, payload)
    except BaseException:
        buffer.release()
        raise
    if io is not DONE:
        return _send_later(client, reply, buffer, io)
    client.answer(reply, buffer)
    return DONE


async def _send_later(client: Client, reply: memoryview, buffer: Buffer, io: Io) -> None:
    """Answer when the payload of a reply is there."""
    try:
        await io
    except BaseException:
        buffer.release()
        raise
    client.answer(reply, buffer)
