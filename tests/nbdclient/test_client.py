import asyncio
import errno
import os

import pytest

from qmpfleece.base.units import KIB, MIB
from qmpfleece.nbdclient import client as client_module
from qmpfleece.nbdclient.client import NbdClient
from qmpfleece.nbdclient.uri import NbdUri, parse
from qmpfleece.nbdproto import const
from qmpfleece.nbdproto.codec import NbdProtocolError, NbdRefused
from tests.tools.servers import nbdkit, needs_nbdkit, needs_qemu, qemu_nbd

SIZE = 4 * MIB


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.write(os.urandom(MIB))
        file.truncate(SIZE)
    return path


@needs_qemu
async def test_an_export_of_qemu_is_read_and_written(tmp_path, image):
    content = bytearray(image.read_bytes())
    with qemu_nbd(tmp_path / "s", image, "-f", "raw") as uri:
        client = await NbdClient.connect(parse(uri), [const.CONTEXT_BASE_ALLOCATION])
        assert client.size == SIZE
        assert not client.read_only
        assert client.contexts == {const.CONTEXT_BASE_ALLOCATION}
        buf = bytearray(SIZE)
        await client.pread(0, memoryview(buf))
        assert buf == content
        for offset, data in ((5, b"hello"), (100 * KIB, os.urandom(300 * KIB))):
            await client.pwrite(offset, memoryview(data), fua=True)
            content[offset : offset + len(data)] = data
        await client.flush()
        await client.close()
        await client.close()
    assert image.read_bytes() == content


@needs_qemu
async def test_many_requests_are_in_flight_at_once(tmp_path, image):
    content = image.read_bytes()
    with qemu_nbd(tmp_path / "s", image, "-f", "raw", "-r") as uri:
        client = await NbdClient.connect(parse(uri))
        assert client.read_only
        buf = bytearray(SIZE)
        view = memoryview(buf)
        step = 24 * KIB + 512
        async with asyncio.TaskGroup() as group:
            for offset in range(0, SIZE, step):
                group.create_task(client.pread(offset, view[offset : offset + step]))
        assert buf == content
        await client.close()


@needs_qemu
async def test_block_status_tells_data_from_holes(tmp_path, image):
    with qemu_nbd(tmp_path / "s", image, "-f", "raw", "-r") as uri:
        client = await NbdClient.connect(parse(uri), [const.CONTEXT_BASE_ALLOCATION])
        status = await client.block_status(0, SIZE)
        assert status == {
            const.CONTEXT_BASE_ALLOCATION: [
                (MIB, 0),
                (SIZE - MIB, const.STATE_HOLE | const.STATE_ZERO),
            ]
        }
        await client.close()


@needs_qemu
async def test_requests_larger_than_the_server_takes_are_split(tmp_path):
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(80 * MIB)
    data = os.urandom(MIB) * 70
    with qemu_nbd(tmp_path / "s", image, "-f", "raw") as uri:
        client = await NbdClient.connect(parse(uri))
        await client.pwrite(1000, memoryview(data))
        back = bytearray(len(data))
        await client.pread(1000, memoryview(back))
        assert back == data
        await client.close()


@needs_qemu
async def test_a_request_past_the_end_fails_alone(tmp_path, image):
    with qemu_nbd(tmp_path / "s", image, "-f", "raw") as uri:
        client = await NbdClient.connect(parse(uri))
        buf = memoryview(bytearray(512))
        with pytest.raises(OSError, match=r".") as caught:
            await client.pread(SIZE, buf)
        assert caught.value.errno == errno.EINVAL
        with pytest.raises(OSError, match=r".") as caught:
            await client.pwrite(SIZE, buf)
        assert caught.value.errno == errno.EINVAL
        assert "past EOF" in str(caught.value)
        await client.pread(0, buf)
        assert buf == image.read_bytes()[:512]
        await client.close()


@needs_qemu
async def test_an_unknown_export_is_refused_with_the_server_s_words(tmp_path, image):
    with qemu_nbd(tmp_path / "s", image, "-f", "raw"):
        uri = NbdUri("other", path=str(tmp_path / "s"))
        with pytest.raises(NbdRefused, match="export 'other' not present"):
            await NbdClient.connect(uri)


@needs_nbdkit
async def test_an_error_of_the_disk_has_its_errno(tmp_path):
    arguments = ("--filter=error", "memory", "1M", "error-pread=ENOSPC", "error-pread-rate=100%")
    with nbdkit(tmp_path / "s", *arguments) as uri:
        client = await NbdClient.connect(parse(uri))
        with pytest.raises(OSError, match=r".") as caught:
            await client.pread(0, memoryview(bytearray(512)))
        assert caught.value.errno == errno.ENOSPC
        await client.close()


@needs_nbdkit
async def test_a_server_without_structured_replies_will_do(tmp_path):
    with nbdkit(tmp_path / "s", "--no-sr", "data", "data=1 2 3 4 @1048575 9") as uri:
        client = await NbdClient.connect(parse(uri), [const.CONTEXT_BASE_ALLOCATION])
        assert client.contexts == frozenset()
        buf = bytearray(MIB)
        await client.pread(0, memoryview(buf))
        assert buf == b"\1\2\3\4" + bytes(MIB - 5) + b"\x09"
        await client.close()


@needs_nbdkit
async def test_an_oldstyle_server_is_turned_down(tmp_path):
    server = nbdkit(tmp_path / "s", "--oldstyle", "null", "1M")
    with server as uri, pytest.raises(NbdProtocolError, match="oldstyle"):
        await NbdClient.connect(parse(uri))


async def test_nobody_listening_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        await NbdClient.connect(NbdUri(path=str(tmp_path / "s")))
    with pytest.raises(ConnectionRefusedError):
        await NbdClient.connect(NbdUri(host="127.0.0.1", port=1))
    with pytest.raises(OSError, match=r".") as caught:
        await NbdClient.connect(NbdUri(host="no.such.host.invalid"))
    assert caught.value.errno == errno.EHOSTUNREACH


class Peer:
    """A server that misbehaves as it is told."""

    def __init__(self, path, behave) -> None:
        self.path = str(path)
        self.behave = behave

    async def __aenter__(self) -> NbdUri:
        self.server = await asyncio.start_unix_server(self.serve, self.path)
        return NbdUri("x", path=self.path)

    async def __aexit__(self, *exc: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def serve(self, reader, writer):
        try:
            await self.behave(reader, writer)
        finally:
            writer.close()


async def test_server_that_is_no_nbd_server_is_said_to_be_so(tmp_path):
    async def behave(reader, writer):
        writer.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        await reader.read()

    async with Peer(tmp_path / "s", behave) as uri:
        with pytest.raises(NbdProtocolError, match="bad initial magic"):
            await NbdClient.connect(uri)


async def test_server_that_hangs_up_at_once_is_said_to_do_so(tmp_path):
    async def behave(reader, writer):
        pass

    async with Peer(tmp_path / "s", behave) as uri:
        with pytest.raises(NbdProtocolError, match="hung up during the handshake"):
            await NbdClient.connect(uri)


async def test_server_that_says_nothing_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(client_module, "HANDSHAKE_S", 0.05)

    async def behave(reader, writer):
        await reader.read()

    async with Peer(tmp_path / "s", behave) as uri:
        with pytest.raises(OSError, match=r".") as caught:
            await NbdClient.connect(uri)
        assert caught.value.errno == errno.ETIMEDOUT


async def through_handshake(reader, writer):
    """Let a client in by NBD_OPT_EXPORT_NAME, without fixed newstyle."""
    writer.write(b"NBDMAGICIHAVEOPT\0\0")
    await reader.readexactly(4 + 16 + 1)
    writer.write((1 << 20).to_bytes(8, "big") + b"\0\1" + bytes(124))


async def test_server_that_vanishes_fails_all_requests_in_flight(tmp_path):
    async def behave(reader, writer):
        await through_handshake(reader, writer)
        await reader.readexactly(2 * 28)

    async with Peer(tmp_path / "s", behave) as uri:
        client = await NbdClient.connect(uri)
        buf = memoryview(bytearray(512))
        results = await asyncio.gather(
            client.pread(0, buf), client.pread(512, buf), return_exceptions=True
        )
        assert [type(result) for result in results] == [ConnectionResetError] * 2
        with pytest.raises(ConnectionResetError):
            await client.pread(0, buf)
        await client.close()


async def test_server_that_breaks_the_protocol_fails_what_is_in_flight(tmp_path):
    async def behave(reader, writer):
        await through_handshake(reader, writer)
        await reader.readexactly(28)
        writer.write(b"rubbish and more rubbish")
        await reader.read()

    async with Peer(tmp_path / "s", behave) as uri:
        client = await NbdClient.connect(uri)
        with pytest.raises(NbdProtocolError, match="invalid magic"):
            await client.pread(0, memoryview(bytearray(512)))
        await client.close()


async def test_server_that_answers_a_request_twice_breaks_the_protocol(tmp_path):
    async def behave(reader, writer):
        await through_handshake(reader, writer)
        cookie = (await reader.readexactly(28))[8:16]
        writer.write(2 * (b"\x67\x44\x66\x98" + errno.EIO.to_bytes(4, "big") + cookie))
        await reader.read()

    async with Peer(tmp_path / "s", behave) as uri:
        client = await NbdClient.connect(uri)
        with pytest.raises(OSError, match=r".") as caught:
            await client.pread(0, memoryview(bytearray(512)))
        assert caught.value.errno == errno.EIO
        with pytest.raises(NbdProtocolError, match="unknown cookie"):
            await client.pread(0, memoryview(bytearray(512)))
        await client.close()


async def test_a_cancelled_request_harms_no_other(tmp_path):
    released = asyncio.Event()

    async def behave(reader, writer):
        await through_handshake(reader, writer)
        first = await reader.readexactly(28)
        second = await reader.readexactly(28)
        await released.wait()
        for request in (first, second):
            writer.write(b"\x67\x44\x66\x98\0\0\0\0" + request[8:16] + bytes([7]) * 512)
        await reader.read()

    async with Peer(tmp_path / "s", behave) as uri:
        client = await NbdClient.connect(uri)
        gone = asyncio.ensure_future(client.pread(0, memoryview(bytearray(512))))
        buf = bytearray(512)
        kept = asyncio.ensure_future(client.pread(512, memoryview(buf)))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait({gone})
        released.set()
        await kept
        assert buf == bytes([7]) * 512
        await client.close()
