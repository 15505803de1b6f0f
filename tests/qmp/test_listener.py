import asyncio
import socket

import pytest
from qemu.qmp import QMPClient

from qmpfleece.base.errors import QmpError
from qmpfleece.control.dispatch import Dispatcher
from qmpfleece.qmp.listener import QmpServer
from qmpfleece.qmp.sockets import TcpAddress, UnixAddress, connect
from tests.tools.qmp_pair import make_system


@pytest.fixture
async def server():
    server = QmpServer(Dispatcher(make_system()))
    yield server
    await server.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def status(client):
    return (await client.execute("query-status"))["status"]


async def test_any_number_of_clients_on_any_number_of_monitors(server, tmp_path):
    first = UnixAddress(str(tmp_path / "first"))
    await server.listen(first)
    second = await server.listen(TcpAddress("127.0.0.1", "0"))
    clients = [QMPClient(str(i)) for i in range(6)]
    for i, client in enumerate(clients):
        await client.connect(first.path if i % 2 else second.sockets[0].getsockname())
    assert [await status(client) for client in clients] == ["running"] * 6
    for client in clients:
        await client.disconnect()


async def test_ipv6(server):
    try:
        monitor = await server.listen(TcpAddress("::1", "0"))
    except QmpError:
        pytest.skip("no IPv6 here")
    client = QMPClient()
    await client.connect(monitor.sockets[0].getsockname()[:2])
    assert await status(client) == "running"
    await client.disconnect()


async def test_client_that_listens_is_connected_to(server, tmp_path):
    path = str(tmp_path / "client")
    client = QMPClient()
    await client.start_server(path)
    server.serve(await connect(UnixAddress(path)))
    await client.accept()
    assert await status(client) == "running"
    await client.disconnect()


async def test_close_hangs_up_on_all_and_removes_the_socket_file(tmp_path):
    server = QmpServer(Dispatcher(make_system()))
    path = tmp_path / "s"
    await server.listen(UnixAddress(str(path)))
    reader, writer = await asyncio.open_unix_connection(path)
    await reader.readline()
    await server.close()
    assert not path.exists()
    assert await reader.read() == b""
    assert asyncio.all_tasks() == {asyncio.current_task()}
    writer.close()


async def test_socket_file_of_somebody_else_stays(tmp_path):
    server = QmpServer(Dispatcher(make_system()))
    path = tmp_path / "s"
    await server.listen(UnixAddress(str(path)))
    path.rename(tmp_path / "old")
    path.touch()
    await server.close()
    assert path.exists()


async def test_close_ends_all_where_the_directory_of_a_socket_is_a_file_now(server, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    await server.listen(UnixAddress(str(folder / "s")))
    other = tmp_path / "other"
    await server.listen(UnixAddress(str(other)))
    folder.rename(tmp_path / "moved")
    folder.touch()
    await server.close()
    assert not other.exists()
    assert folder.exists()


async def test_stale_socket_file_is_replaced_and_other_files_are_not(server, tmp_path):
    path = str(tmp_path / "stale")
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(path)
    await server.listen(UnixAddress(path))
    plain = tmp_path / "plain"
    plain.write_text("precious")
    with pytest.raises(QmpError, match="Address already in use"):
        await server.listen(UnixAddress(str(plain)))
    assert plain.read_text() == "precious"


async def test_client_that_probes_the_port_is_no_event(server, tmp_path, caplog):
    path = str(tmp_path / "s")
    await server.listen(UnixAddress(path))
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
    client = QMPClient()
    await client.connect(path)
    assert await status(client) == "running"
    await client.disconnect()
    assert not [r for r in caplog.records if r.name.startswith("qmpfleece")]
