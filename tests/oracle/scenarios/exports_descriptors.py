"""The NBD server on a socket that its client has made, or at odd addresses."""

import os
import socket

from tests.oracle.scenario import scenario, system_scenario
from tests.oracle.session import Session


def _listen_at(d: Session, name: str) -> None:
    d.qmp("nbd-server-start", addr={"type": "fd", "data": {"str": name}})


@system_scenario
def nbd_server_on_a_descriptor_with_a_name(d: Session) -> None:
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=1 << 20)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(d.path("nbd.sock"))
        listener.listen()
        d.give_descriptor("given", listener.fileno())
    _listen_at(d, "other")
    _listen_at(d, "given")
    _listen_at(d, "given")
    d.qmp("nbd-server-add", device="n")
    d.nbdinfo("n", "--size")
    d.qmp("closefd", fdname="given")
    d.qmp("nbd-server-stop")
    _listen_at(d, "given")


@system_scenario
def nbd_server_on_numbers_that_no_descriptor_has(d: Session) -> None:
    for number in ("100000000000000000000", str((1 << 32) + 3), str(1 << 31), "9" * 4500):
        _listen_at(d, number)
    for name in ("3x", "0x3", "-1", "+3", " 3", "\u0663", ""):
        _listen_at(d, name)


def _refused_by_number(d: Session, listener: socket.socket) -> None:
    d.start(fds=(listener.fileno(),))
    _listen_at(d, str(listener.fileno()))
    _listen_at(d, "none")
    _listen_at(d, "0")
    d.qmp("nbd-server-stop")


@system_scenario
def nbd_server_on_a_number_that_is_no_name(d: Session) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(d.path("nbd.sock"))
        _refused_by_number(d, listener)


@scenario
def nbd_server_of_the_storage_daemon_on_a_number_that_is_no_name(d: Session) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(d.path("nbd.sock"))
        _refused_by_number(d, listener)


@system_scenario
def nbd_server_on_sockets_that_do_not_listen_yet(d: Session) -> None:
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=1 << 20)
    one, other = socket.socketpair()
    with socket.socket(socket.AF_UNIX) as bound, socket.socket(socket.AF_UNIX) as unbound:
        bound.bind(d.path("nbd.sock"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams, one, other:
            for sock in (datagrams, one, unbound):
                d.give_descriptor("given", sock.fileno())
                _listen_at(d, "given")
                _listen_at(d, "given")
        d.give_descriptor("given", bound.fileno())
    _listen_at(d, "given")
    d.qmp("nbd-server-add", device="n")
    d.nbdinfo("n", "--size")
    d.qmp("nbd-server-stop")


@scenario
def nbd_server_option_with_a_socket_that_does_not_listen_yet(d: Session) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(d.path("nbd.sock"))
        number = bound.fileno()
        option = f"addr.type=fd,addr.str={number}"
        d.start("--nbd-server", option, fds=(number,))
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=1 << 20)
    d.qmp("nbd-server-add", device="n")
    d.nbdinfo("n", "--size")
    d.qmp("nbd-server-stop")


@system_scenario
def nbd_server_on_sockets_without_streams(d: Session) -> None:
    d.qmp("blockdev-add", driver="null-co", node_name="n", size=1 << 20)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as bound:
        bound.bind(d.path("nbd.sock"))
        d.give_descriptor("given", bound.fileno())
    _listen_at(d, "given")
    d.qmp("nbd-server-stop")


@scenario
def nbd_server_option_with_sockets_that_cannot_listen(d: Session) -> None:
    with socket.socket(socket.AF_UNIX) as unbound:
        option = f"addr.type=fd,addr.str={unbound.fileno()}"
        d.start("--nbd-server", option, monitor=False, fds=(unbound.fileno(),))
        d.exited()


@system_scenario
def nbd_server_on_a_descriptor_that_is_no_socket(d: Session) -> None:
    d.file("disk.raw", 512)
    with (d.dir / "disk.raw").open("rb") as file:
        d.give_descriptor("disk", file.fileno())
    _listen_at(d, "disk")
    d.qmp("closefd", fdname="disk")


@scenario
def exports_with_an_iothread(d: Session) -> None:
    d.qmp("blockdev-add", driver="null-co", node_name="n")
    d.qmp("object-add", qom_type="iothread", id="io")
    d.qmp("object-add", qom_type="throttle-group", id="group")
    d.nbd_server()
    names = ("none", "group", "io", "/objects/io", "objects/io", "/io", "objects/group", "io/", "")
    for number, name in enumerate(names):
        export = {"id": f"e-{number}", "type": "nbd", "node-name": "n", "name": f"{number}"}
        d.qmp("block-export-add", **export, iothread=name)
    d.qmp("query-block-exports")  # clients and deleting make QEMU fail an assertion


@scenario
def nbd_server_on_hosts_that_are_no_names(d: Session) -> None:
    for host in ("a..b", "\u00e9..x", "x" * 64, "x" * 64 + ".y", ".", "a\0b", "x y", "a" * 300):
        d.qmp("nbd-server-start", addr={"type": "inet", "data": {"host": host, "port": "0"}})
    for port in ("80\0", "\u00e9"):
        data = {"host": "localhost", "port": port}
        d.qmp("nbd-server-start", addr={"type": "inet", "data": data})


@scenario
def names_of_files_with_a_zero(d: Session) -> None:
    path = d.path("x\0y")
    d.qmp("object-add", qom_type="secret", id="s", file=path)
    d.qmp("blockdev-add", driver="file", node_name="f", filename=path)
    d.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": path}})
    d.transcript.add(f"# {sorted(os.listdir(os.fsencode(d.dir)))}")
    d.qmp("nbd-server-stop")
    d.transcript.add(f"# {sorted(os.listdir(os.fsencode(d.dir)))}")
    d.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": "/" + "\0" * 54}})


@scenario
def server_on_any_port_of_all_interfaces(d: Session) -> None:
    for more in ({}, {"to": 0}, {"to": 10}, {"to": 65535}):
        data = {"host": "", "port": "0", **more}
        d.qmp("nbd-server-start", addr={"type": "inet", "data": data})
        d.qmp("nbd-server-stop")


@scenario
def authorization_without_credentials(d: Session) -> None:
    """There is nobody to be authorized."""
    path = d.path("nbd.sock")
    d.start("--nbd-server", f"addr.type=unix,addr.path={path},tls-authz=none")
    d.qmp("nbd-server-stop")
    d.nbd_server(tls_authz="none")
    d.qmp("nbd-server-stop")
    d.nbd_server(tls_authz="none", tls_creds="none")
