"""QEMU's words, observed on qemu-storage-daemon 7.2 ``--chardev socket,...``."""

import asyncio
import contextlib
import socket

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.qmp.sockets import TcpAddress, UnixAddress, connect, first_clients, listen


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (
            UnixAddress("/nonexistent/x"),
            "Failed to bind socket to /nonexistent/x: No such file or directory",
        ),
        (
            UnixAddress("/tmp/" + "x" * 120),
            f"UNIX socket path '/tmp/{'x' * 120}' is too long\nPath must be less than 108 bytes",
        ),
        (
            TcpAddress("127.0.0.1", "1x"),
            "address resolution failed for 127.0.0.1:1x: Servname not supported for ai_socktype",
        ),
        (
            TcpAddress("192.0.2.1", "5000"),
            "Failed to bind socket: Cannot assign requested address",
        ),
    ],
)
async def test_address_that_cannot_be_listened_on(address, text):
    with pytest.raises(QmpError) as caught:
        await listen(address)
    assert caught.value.desc == text


async def test_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(QmpError) as caught:
            await listen(TcpAddress("127.0.0.1", port))
    assert caught.value.desc == "Failed to find an available port: Address already in use"


async def test_nobody_listens(tmp_path):
    path = str(tmp_path / "nobody")
    with pytest.raises(QmpError) as caught:
        await connect(UnixAddress(path))
    assert caught.value.desc == f"Failed to connect to '{path}': No such file or directory"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        with pytest.raises(QmpError) as caught:
            await connect(TcpAddress("127.0.0.1", port))
    assert caught.value.desc == f"Failed to connect to '127.0.0.1:{port}': Connection refused"


def listening(folder, *names: str):
    """Return sockets that listen there, as ``listen`` does."""
    made = []
    for name in names:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(folder / name))
        sock.listen()
        sock.setblocking(False)
        made.append(sock)
    return made


@contextlib.contextmanager
def dialled(folder, *names: str):
    """Have clients connect, one after the other; yield them."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in names]
        for client, name in zip(clients, names, strict=True):
            client.connect(str(folder / name))
        yield clients


@pytest.mark.parametrize("waiting", [False, True])
async def test_all_first_clients_are_taken(tmp_path, waiting):
    sockets = listening(tmp_path, "a", "b")
    with dialled(tmp_path, *("ab" if waiting else "")):
        accepting = asyncio.ensure_future(first_clients(sockets))
        await asyncio.sleep(0)
        with dialled(tmp_path, *("" if waiting else "ba")):
            clients = await accepting
    assert len(clients) == 2
    for sock in (*clients, *sockets):
        assert not sock.getblocking()
        sock.close()


async def test_who_has_come_is_hung_up_on_when_another_can_not_be_accepted(tmp_path):
    (sock,) = listening(tmp_path, "a")
    with dialled(tmp_path, "a") as (client,), socket.socket(socket.AF_UNIX) as deaf:
        deaf.setblocking(False)
        with pytest.raises(OSError, match="Invalid argument"):
            await first_clients([sock, deaf])
        assert not client.recv(1)
    sock.close()
