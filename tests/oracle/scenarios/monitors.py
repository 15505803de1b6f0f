"""Monitors: their transports, clients that come and go, events to all of them."""

from tests.oracle.scenario import scenario, system_scenario
from tests.oracle.scenarios.nodes import null
from tests.oracle.session import Session


@scenario
def pretty_monitor(d: Session) -> None:
    d.pretty(
        '{"execute": "qmp_capabilities"}',
        '{"execute": "query-block-exports"}',
        '{"execute": "zzz", "id": {}}',
        '{"execute": "query-jobs", "id": [{"a": [1, []]}, {}, "x"]}',
        '{"execute": "query-named-block-nodes"}',
    )


@scenario
def stdio_monitor(d: Session) -> None:
    d.run_with_input(
        b'{"execute": "qmp_capabilities"}\n{"execute": "query-jobs"}\n{"execute": "quit"}\n',
        "--chardev",
        "stdio,id=s",
        "--monitor",
        "s",
    )


@scenario
def tcp_monitor(d: Session) -> None:
    port = d.free_port()
    chardev = f"socket,id=t,host=127.0.0.1,port={port},server=on,wait=off"
    d.start("--chardev", chardev, "--monitor", "chardev=t,mode=control")
    d.qmp("query-block-exports")
    d.tcp_client(port, '{"execute": "qmp_capabilities"}', '{"execute": "query-jobs"}')


@scenario
def tcp_monitor_at_all_addresses(d: Session) -> None:
    port = d.free_port()
    d.start("--chardev", f"socket,id=t,host=,port={port},server=on,wait=off", "--monitor", "t")
    for host in ("127.0.0.1", "::1"):
        d.tcp_client(port, '{"execute": "qmp_capabilities"}', host=host)


@scenario
def tcp_monitor_on_one_of_several_ports(d: Session) -> None:
    port = d.hold_port()
    for last, shown in ((port, "SAME"), (0, "NONE"), (65536, "WRAPPED"), (1 << 32, "WRAPPED")):
        d.transcript.masks[f"to={last}"] = f"to={shown}"
        where = f"host=127.0.0.1,port={port},to={last}"
        d.start("--chardev", f"socket,id=t,{where},server=on,wait=off", monitor=False)
        d.exited()


def start_with_client_that_resets(d: Session, *more: str) -> None:
    """Start with two chardevs that wait for a client; the first one is gone by then."""
    port = d.free_port()
    waiting = f"socket,id=t,host=127.0.0.1,port={port},server=on"
    other = f"socket,id=u,path={d.path('u.sock')},server=on"
    d.start("--chardev", waiting, "--chardev", other, *more, "--monitor", "u", monitor=False)
    d.resetting_client(port)
    d.wait_for_file("u.sock")
    d.watch("u.sock")
    d.watcher_sends('{"execute": "qmp_capabilities"}')
    d.watcher_sends('{"execute": "query-chardev"}')


@scenario
def client_of_a_monitor_resets_while_the_daemon_starts(d: Session) -> None:
    start_with_client_that_resets(d, "--monitor", "t")


@scenario
def client_of_a_character_device_resets_while_the_daemon_starts(d: Session) -> None:
    start_with_client_that_resets(d)


@scenario
def monitor_client_comes_again(d: Session) -> None:
    d.qmp("blockdev-add", driver="null-co", node_name="a")
    d.reconnect()
    d.raw('{"execute": "query-jobs"}')
    d.raw('{"execute": "qmp_capabilities"}')
    d.qmp("blockdev-del", node_name="a")


@scenario
def monitor_client_leaves_in_the_middle(d: Session) -> None:
    d.qmp("query-jobs")
    d.half('{"execute": "query-jobs", "id": {"a')
    d.reconnect()
    d.qmp("query-jobs")


@scenario
def monitor_that_daemon_connects(d: Session) -> None:
    """A chardev without ``server`` connects to a listener."""
    d.dialled("--monitor", "chardev=c")
    d.qmp("query-jobs")


def two_monitors(d: Session) -> None:
    """Start with a second monitor, where no capabilities are negotiated yet."""
    chardev = f"socket,id=w,path={d.path('watch.sock')},server=on,wait=off"
    d.start("--chardev", chardev, "--monitor", "chardev=w")
    d.watch("watch.sock")
    d.qmp("blockdev-add", **null("n"))
    d.nbd_server()


@scenario
def events_go_to_every_monitor(d: Session) -> None:
    two_monitors(d)
    d.watcher_sends('{"execute": "qmp_capabilities"}')
    d.qmp("nbd-server-add", device="n")
    d.qmp("nbd-server-stop")
    d.watcher_sends('{"execute": "query-block-exports"}')


@scenario
def events_wait_for_capabilities(d: Session) -> None:
    two_monitors(d)
    d.qmp("nbd-server-add", device="n")
    d.qmp("nbd-server-stop")
    d.watcher_sends('{"execute": "qmp_capabilities"}')
    d.watcher_sends('{"execute": "query-block-exports"}')


@scenario
def two_monitors_act_on_one_graph(d: Session) -> None:
    two_monitors(d)
    d.watcher_sends('{"execute": "qmp_capabilities"}')
    d.watcher_sends('{"execute": "nbd-server-add", "arguments": {"device": "n"}}')
    d.qmp("query-block-exports")
    d.qmp("blockdev-del", node_name="n")
    d.watcher_sends('{"execute": "nbd-server-stop"}')
    d.qmp("blockdev-del", node_name="n")


@scenario
def commands_behind_quit(d: Session) -> None:
    """None of them is executed, or answered."""
    add = b'{"execute": "blockdev-add", "arguments": {"driver": "null-co", "node-name": "n"}}'
    words = (b'{"execute": "qmp_capabilities"}', add, b'{"execute": "quit"}', add)
    query = b'{"execute": "query-version"}'
    d.run_with_input(b"\n".join((*words, query)), "--chardev", "stdio,id=s", "--monitor", "s")
    d.run_with_input(b"".join((*words, b"[")), "--chardev", "stdio,id=s", "--monitor", "s")


@scenario
def character_device_of_a_monitor(d: Session) -> None:
    d.qmp("query-chardev")


@scenario
def character_device_that_waits(d: Session) -> None:
    # Ids that QEMU's hash table lists in the order of ours.
    d.start("--chardev", f"socket,id=u,path={d.path('u.sock')},server=on,wait=off")
    d.qmp("query-chardev")


@scenario
def character_device_with_a_client_that_goes(d: Session) -> None:
    path = d.path("u.sock")
    d.start("--chardev", f"socket,id=u,path={path},server=on,wait=off", "--monitor", "u")
    d.qmp("query-chardev")
    d.watch("u.sock")
    d.watcher_sends('{"execute": "qmp_capabilities"}')
    d.watcher_sends('{"execute": "query-chardev"}')
    d.qmp("query-chardev")


@system_scenario
def character_devices_of_a_machine(d: Session) -> None:
    port = d.free_port()
    d.start("-chardev", f"socket,id=u,host=127.0.0.1,port={port},server=on,wait=off")
    d.qmp("query-chardev")
