"""Monitors on sockets that somebody else has made, or that have no file."""

import os
import socket

from tests.oracle.monitor import Monitor
from tests.oracle.scenario import scenario, system_scenario
from tests.oracle.scenarios.commandline import all_fail
from tests.oracle.scenarios.commandline_help import NO_DESCRIPTORS
from tests.oracle.session import Session

CAPABILITIES = '{"execute": "qmp_capabilities"}'


def _listening(d: Session, name: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(d.path(name))
    listener.listen()
    return listener


def _greeted_at(d: Session, connection: socket.socket | str) -> None:
    """Be a client of a monitor, and look at all of them from the scenario's own."""
    client = Monitor(connection)
    d.transcript.add(f"<- {client.receive()}")
    client.send(CAPABILITIES.encode())
    d.transcript.add(f"-> {CAPABILITIES}\n<- {client.receive()}")
    d.qmp("query-chardev")
    client.close()


@scenario
def monitor_on_a_socket_that_listens(d: Session) -> None:
    with _listening(d, "given.sock") as listener:
        number = listener.fileno()
        device = f"socket,id=c,fd={number},server=on,wait=off"
        d.start("--chardev", device, "--monitor", "c", fds=(number,))
    d.qmp("query-chardev")
    _greeted_at(d, d.path("given.sock"))
    d.qmp("quit")
    d.exited()
    d.gone("given.sock")


@system_scenario
def monitor_of_a_machine_on_a_socket_that_listens(d: Session) -> None:
    with _listening(d, "given.sock") as listener:
        number = listener.fileno()
        device = f"socket,id=c,fd={number},server=on,wait=off"
        d.start("-chardev", device, "-mon", "c,mode=control", fds=(number,))
    d.qmp("query-chardev")
    _greeted_at(d, d.path("given.sock"))


@scenario
def monitor_on_a_connection(d: Session) -> None:
    mine, given = socket.socketpair()
    with given:
        number = given.fileno()
        d.start("--chardev", f"socket,id=c,fd={number}", "--monitor", "c", fds=(number,))
    _greeted_at(d, mine)


@scenario
def sockets_that_cannot_be_monitors(d: Session) -> None:
    all_fail(
        d,
        "--chardev",
        *(f"socket,id=c,fd={number}" for number in (*NO_DESCRIPTORS, "0", "x")),
        "socket,id=c,fd=0,server=on,wait=off",
    )
    with socket.socket(socket.AF_UNIX) as unbound:
        number = unbound.fileno()
        device = f"socket,id=c,fd={number},server=on,wait=off"
        d.start("--chardev", device, monitor=False, fds=(number,))
        d.exited()


@scenario
def monitors_without_a_file(d: Session) -> None:
    for name, more in (("tight", ""), ("loose", ",tight=off")):
        path = d.path(name)
        device = f"socket,id={name},path={path},abstract=on{more},server=on,wait=off"
        dialling = f"socket,id=client,path={path},abstract=on{more}"
        all_fail(d, "--chardev", dialling)
        d.start("--chardev", device, "--monitor", name)
        d.qmp("query-chardev")
        _greeted_at(d, f"\0{path}".ljust(108 if more else 0, "\0"))
        d.transcript.add(f"# {sorted(os.listdir(d.dir))}")
        d.finish()
        d.start("--chardev", device, "--monitor", name, "--chardev", dialling)
        d.qmp("query-chardev")
        d.finish()


@system_scenario
def monitors_are_numbered_by_their_short_options(d: Session) -> None:
    d.start(
        *("-chardev", "null,id=a", "-mon", "a,mode=control", "-monitor", "null"),
        *("-chardev", "null,id=b", "-qmp", "chardev:b", "-qmp", "null"),
    )
    d.qmp("query-chardev")


@scenario
def device_on_a_socket_of_another_family(d: Session) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as other:
        number = other.fileno()
        d.start("--chardev", f"socket,id=c,fd={number}", fds=(number,))
    d.qmp("query-chardev")
