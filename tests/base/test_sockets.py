"""Listening sockets and QEMU's words for what can go wrong."""

import asyncio
import resource
import socket
from pathlib import Path

import pytest

from qmpfleece.base import sockets
from qmpfleece.base.errors import QmpError
from tests.tools.until import settle, until


def test_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    sockets.listen_unix(path, path).close()
    with sockets.listen_unix(path, path), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(QmpError, match="Address already in use"):
        sockets.listen_unix(str(path), str(path))
    assert path.read_text() == "precious"


def test_missing_folder_is_named_in_the_error(tmp_path: Path) -> None:
    path = str(tmp_path / "none" / "s")
    with pytest.raises(QmpError, match=r"Failed to bind socket to .*/none/s: No such file"):
        sockets.listen_unix(path, path)


def test_path_of_108_bytes_does_not_fit() -> None:
    assert sockets.fits_unix("x" * 107)
    assert not sockets.fits_unix("x" * 108)
    assert not sockets.fits_unix("é" * 54)


async def test_taken_port_is_worded_as_qemu_does() -> None:
    [first] = await sockets.listen_inet("127.0.0.1", "0")
    with first, pytest.raises(QmpError) as caught:
        await sockets.listen_inet("127.0.0.1", str(first.getsockname()[1]))
    assert caught.value.desc == "Failed to find an available port: Address already in use"


async def test_the_first_free_port_up_to_the_last_one_is_taken() -> None:
    [first] = await sockets.listen_inet("127.0.0.1", "0")
    with first:
        port = first.getsockname()[1]
        [second] = await sockets.listen_inet("127.0.0.1", str(port), to=65535)
        with second:
            assert second.getsockname()[1] > port


async def test_a_port_of_the_systems_choice_is_the_same_for_all_addresses() -> None:
    listening = await sockets.listen_inet("", "0", to=5)
    assert len(listening) == len(await sockets.resolve("", "0", flags=socket.AI_PASSIVE))
    assert len({sock.getsockname()[1] for sock in listening}) == 1
    for sock in listening:
        sock.close()


async def test_unknown_service_is_an_address_failure() -> None:
    with pytest.raises(QmpError, match=r"address resolution failed for 127\.0\.0\.1:nosuch"):
        await sockets.resolve("127.0.0.1", "nosuch")


def test_file_of_a_socket_where_nobody_may_look_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    file = sockets.SocketFile(str(tmp_path / "file" / "socket"))  # stat: Not a directory
    file.remove()
    assert (tmp_path / "file").exists()


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_abstract_name_is_the_path_as_given(path: str) -> None:
    name = b"\0" + path.encode().replace(b"\0", b"\xc0\x80")
    assert sockets.unix_name(path, abstract=True, tight=True) == name
    assert sockets.unix_name(path, abstract=True, tight=False) == name.ljust(108, b"\0")
    assert sockets.unix_name(path, abstract=False, tight=True) == path


async def test_a_client_is_accepted_as_soon_as_there_is_a_descriptor(caplog, monkeypatch):
    monkeypatch.setattr(sockets, "_SHORT_OF_DESCRIPTORS_S", 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_server(("localhost", 0)) as listening:
        listening.setblocking(False)
        with socket.create_connection(listening.getsockname()):
            accepting = asyncio.create_task(sockets.accept(listening, "a patient"))
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            try:
                await until(lambda: caplog.records)
                await settle()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            with await accepting:
                pass
    assert caplog.messages == ["can't accept a patient client: Too many open files"]
