"""Descriptors that come beside the bytes of a unix socket."""

import asyncio
import os
import socket

from qmpfleece.qmp.rights import open_streams


async def test_bytes_and_descriptors_arrive_and_replies_leave() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    reader, writer = await open_streams(ours)
    inner, outer = os.pipe()
    socket.send_fds(theirs, [b"one"], [outer])
    assert await asyncio.wait_for(reader.read(100), 10) == b"one"
    (fd,) = reader.received
    os.write(fd, b"through")
    assert os.read(inner, 100) == b"through"
    writer.write(b"two")
    await writer.drain()
    assert theirs.recv(100) == b"two"
    theirs.close()
    assert await asyncio.wait_for(reader.read(100), 10) == b""
    reader.close()
    writer.close()
    for number in (inner, outer):
        os.close(number)


async def test_descriptor_of_a_client_that_does_not_wait_is_taken() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    inner, outer = os.pipe()
    socket.send_fds(theirs, [b"one"], [outer])
    reader, writer = await open_streams(ours)
    assert await asyncio.wait_for(reader.read(100), 10) == b"one"
    assert len(reader.received) == 1
    theirs.close()
    reader.close()
    writer.close()
    for number in (inner, outer):
        os.close(number)
