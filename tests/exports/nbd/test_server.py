import asyncio
import os
import socket
import stat

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.exports.options import FdSocketAddress, InetSocketAddress, UnixSocketAddress
from tests.exports.conftest import RawClient
from tests.tools.until import settle


def there(bench):
    return os.path.exists(bench.path)


def port_of(server):
    return str(server.sockets[0].getsockname()[1])


async def test_socket_file_is_removed_in_the_end(bench):
    await bench.start()
    assert stat.S_ISSOCK(os.stat(bench.path).st_mode)
    await bench.manager.stop_nbd()
    assert not there(bench)


async def test_socket_file_of_somebody_else_is_left(bench):
    await bench.start()
    os.unlink(bench.path)
    with open(bench.path, "w"):  # noqa: ASYNC230
        pass
    await bench.manager.stop_nbd()
    assert there(bench)


async def test_clients_without_streams_are_hung_up_on_one_by_one(bench):
    loop = asyncio.get_running_loop()
    kind = socket.SOCK_SEQPACKET
    with socket.socket(socket.AF_UNIX, kind) as listening:
        listening.bind(bench.path)
        await bench.manager.start_nbd(FdSocketAddress(str_=str(os.dup(listening.fileno()))))
    for _ in range(3):
        with socket.socket(socket.AF_UNIX, kind) as client:
            client.setblocking(False)
            await loop.sock_connect(client, bench.path)
            assert not await loop.sock_recv(client, 100)
    assert not bench.manager.nbd.connections


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
async def test_tcp(bench, host):
    try:
        server = await bench.manager.start_nbd(InetSocketAddress(host=host, port="0"))
    except QmpError:
        if ":" not in host:
            raise
        pytest.skip("no IPv6 here")
    await bench.add()
    reader, writer = await asyncio.open_connection(host, int(port_of(server)))
    assert (await reader.read(18)).startswith(b"NBDMAGIC")
    writer.close()
    await writer.wait_closed()


async def test_several_addresses(bench):
    server = await bench.manager.start_nbd(
        UnixSocketAddress(path=bench.path), InetSocketAddress(host="127.0.0.1", port="0")
    )
    assert len(server.sockets) == 2
    await bench.add()
    await bench.enter()


async def test_inherited_descriptor(bench):
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(bench.path)
        listening.listen()
        await bench.manager.start_nbd(FdSocketAddress(str_=str(os.dup(listening.fileno()))))
        await bench.add()
        await bench.enter()
        await bench.manager.close()


async def test_port_in_use(bench):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        with pytest.raises(QmpError, match=r"^Failed to find an available port: Address already"):
            await bench.manager.start_nbd(InetSocketAddress(host="127.0.0.1", port=port))
    await bench.start()


async def test_failure_leaves_no_listener(bench):
    text = "Failed to bind socket to /nonexistent/directory/s: No such file or directory"
    with pytest.raises(QmpError, match=text):
        await bench.manager.start_nbd(
            UnixSocketAddress(path=bench.path),
            UnixSocketAddress(path="/nonexistent/directory/s"),
        )
    assert not there(bench)
    assert not bench.manager.nbd_running


BAD_ADDRESSES = [
    (UnixSocketAddress(path="/nonexistent/s"), "Failed to bind socket to /nonexistent/s: No such"),
    (UnixSocketAddress(path="/" + "x" * 200), r"UNIX socket path '/x+' is too long$"),
    (FdSocketAddress(str_="999"), "File descriptor '999' is not a socket"),
    (
        InetSocketAddress(host="localhost", port="0", ipv4=False, ipv6=False),
        "Cannot disable IPv4 and IPv6 at same time",
    ),
]


@pytest.mark.parametrize(("address", "text"), BAD_ADDRESSES)
async def test_address_that_cannot_be_used(bench, address, text):
    with pytest.raises(QmpError, match=text):
        await bench.manager.start_nbd(address)
    assert not bench.manager.nbd_running


async def test_clients_over_the_limit_wait_for_room(bench):
    await bench.start(max_connections=2)
    await bench.add()
    first, _second = await bench.enter(), await bench.enter()
    third = await bench.connect()
    await settle()
    assert bench.manager.nbd.connections == 2
    first.close()
    await third.shake_hands("e")
    assert bench.manager.nbd.connections == 2


async def test_limit_counts_the_clients_of_all_listeners(bench):
    other = UnixSocketAddress(path=f"{bench.path}2")
    await bench.manager.start_nbd(UnixSocketAddress(path=bench.path), other, max_connections=1)
    await bench.add()
    first = await bench.enter()
    second = RawClient(*await asyncio.open_unix_connection(other.path))
    bench.clients.append(second)
    await settle()
    assert bench.manager.nbd.connections == 1
    first.close()
    await second.shake_hands("e")
    assert bench.manager.nbd.connections == 1


async def test_stop_closes_clients_that_wait_for_room(bench):
    other = UnixSocketAddress(path=f"{bench.path}2")
    await bench.manager.start_nbd(UnixSocketAddress(path=bench.path), other, max_connections=1)
    await bench.add()
    await bench.enter()
    second = RawClient(*await asyncio.open_unix_connection(other.path))
    bench.clients.append(second)
    await settle()
    await bench.manager.stop_nbd()
    assert await second.hung_up()


async def test_stop_hangs_up_on_clients_in_their_handshake(bench):
    await bench.start()
    client = await bench.connect()
    await client.receive()
    await bench.manager.stop_nbd()
    assert await client.hung_up()
