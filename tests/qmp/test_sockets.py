"""QEMU's words, observed on qemu-storage-daemon 7.2 ``--chardev socket,...``."""

import socket

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.qmp.sockets import TcpAddress, UnixAddress, connect, listen


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
