"""The NBD server's commands, block exports and their events."""

from tests.oracle.scenario import scenario
from tests.oracle.scenarios.nodes import null
from tests.oracle.session import Session


def prepare(d: Session) -> None:
    d.qmp("blockdev-add", **null("n"))
    d.nbd_server()


@scenario
def server_start_and_stop(d: Session) -> None:
    d.qmp("nbd-server-stop")
    d.nbd_server()
    d.nbd_server()
    d.qmp("nbd-server-stop")
    d.nbd_server()
    d.qmp("nbd-server-stop")


@scenario
def server_start_errors(d: Session) -> None:
    path = d.path("nbd.sock")
    for address in (
        {"type": "unix", "data": {"path": d.path("none/nbd.sock")}},
        {"type": "unix", "data": {"path": d.path("x" * 100)}},
        {"type": "unix", "data": {}},
        {"type": "unix", "data": {"path": 1}},
        {"type": "unix", "data": {"path": path, "zzz": 1}},
        {"type": "unix"},
        {"type": "zzz", "data": {}},
        {"data": {"path": path}},
        {},
        "unix:x",
        1,
        {"type": "unix", "path": path},
        {"type": "inet", "data": {"host": "127.0.0.1"}},
        {"type": "inet", "data": {"port": "0"}},
        {"type": "inet", "data": {"host": "127.0.0.1", "port": 10809}},
        {"type": "inet", "data": {"host": "127.0.0.1", "port": "zzz-service"}},
        {"type": "inet", "data": {"host": "127.0.0.1", "port": "65536"}},
        {"type": "inet", "data": {"host": "127.0.0.1", "port": "-1"}},
        {"type": "inet", "data": {"host": "192.0.2.1", "port": "0"}},
        {"type": "inet", "data": {"host": "::1", "port": "0", "ipv4": True, "ipv6": False}},
        {"type": "inet", "data": {"host": "127.0.0.1", "port": "0", "ipv4": False}},
        {"type": "fd", "data": {"str": "none"}},
        {"type": "fd", "data": {"str": "99"}},
    ):
        d.qmp("nbd-server-start", addr=address)
    d.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": path}}, zzz=1)
    d.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": path}}, tls_creds="none")
    d.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": path}}, max_connections=-1)
    d.qmp("nbd-server-start", addr={"type": "unix", "data": {"path": path}}, max_connections="1")
    d.qmp("nbd-server-stop")


@scenario
def server_port_in_use(d: Session) -> None:
    port = str(d.hold_port())
    address = {"type": "inet", "data": {"host": "127.0.0.1", "port": port}}
    d.qmp("nbd-server-start", addr=address)
    d.qmp("nbd-server-stop")


@scenario
def server_path_in_use(d: Session) -> None:
    d.file("nbd.sock", 10)
    d.nbd_server()


@scenario
def server_path_of_a_dead_socket(d: Session) -> None:
    d.dead_socket("nbd.sock")
    d.nbd_server()
    d.qmp("blockdev-add", **null("n"))
    d.qmp("nbd-server-add", device="n", writable=True)
    d.io("n", "length")


@scenario
def server_on_tcp(d: Session) -> None:
    port = str(d.free_port())
    d.qmp("blockdev-add", **null("n"))
    address = {"type": "inet", "data": {"host": "127.0.0.1", "port": port}}
    d.qmp("nbd-server-start", addr=address)
    d.qmp("nbd-server-add", device="n")
    d.tool("qemu-io", "-r", "-f", "raw", "-c", "read -P 0 0 1M", f"nbd://127.0.0.1:{port}/n")
    d.tool("nbdinfo", "--list", f"nbd://127.0.0.1:{port}")


@scenario
def server_add(d: Session) -> None:
    d.qmp("blockdev-add", **null("n"))
    d.qmp("nbd-server-add", device="n")
    d.qmp("nbd-server-add", device="n", name="z" * 4097)
    d.nbd_server()
    d.qmp("nbd-server-add", device="n")
    d.qmp("nbd-server-add", device="n")
    d.qmp("nbd-server-add", device="n", name="x")
    d.qmp("nbd-server-add", device="none")
    d.qmp("nbd-server-add", device="n", name="y", writable=True, description="a disk")
    d.qmp("nbd-server-add", device="n", name="")
    d.qmp("nbd-server-add", device="n", name="a b")
    d.qmp("nbd-server-add", device="n", name="z" * 4096)
    d.qmp("nbd-server-add", device="n", name="z" * 4097)
    d.qmp("nbd-server-add", device="n", name="!" * 4097)
    d.qmp("nbd-server-add", device="n", name="d", description="z" * 4097)
    d.qmp("nbd-server-add", device="n", zzz=1)
    d.qmp("nbd-server-add")
    d.qmp("query-block-exports")


@scenario
def server_add_read_only_node(d: Session) -> None:
    d.qmp("blockdev-add", **null("n", read_only=True))
    d.nbd_server()
    d.qmp("nbd-server-add", device="n", name="x", writable=True)
    d.qmp("block-export-add", type="nbd", id="e", node_name="n", name="e", writable=True)
    d.io("x", "write 0 512")
    d.nbdinfo("x", "--json")
    d.qmp("query-block-exports")


@scenario
def server_remove(d: Session) -> None:
    d.qmp("nbd-server-remove", name="x")
    prepare(d)
    d.qmp("nbd-server-add", device="n", name="x")
    d.qmp("nbd-server-remove", name="none")
    d.qmp("nbd-server-remove", name="x", mode="zzz")
    d.qmp("nbd-server-remove", name="x")
    d.qmp("nbd-server-remove", name="x")
    d.qmp("nbd-server-add", device="n", name="x")
    d.qmp("nbd-server-remove", name="x", mode="hard")
    d.qmp("query-block-exports")


@scenario
def server_remove_with_client(d: Session) -> None:
    prepare(d)
    d.qmp("nbd-server-add", device="n", name="x")
    client = d.nbd("x")
    d.qmp("nbd-server-remove", name="x")
    d.qmp("nbd-server-remove", name="x", mode="safe")
    d.qmp("query-block-exports")
    client.request(0, 0, 512)
    d.qmp("nbd-server-remove", name="x", mode="hard")
    client.end()
    d.event("BLOCK_EXPORT_DELETED")
    d.qmp("query-block-exports")


@scenario
def server_stop_with_exports_and_client(d: Session) -> None:
    prepare(d)
    for name in ("b", "a", "c"):
        d.qmp("nbd-server-add", device="n", name=name)
    client = d.nbd("a")
    d.qmp("nbd-server-stop")
    client.end()
    d.qmp("query-block-exports")
    d.nbd_server()
    d.qmp("nbd-server-add", device="n", name="a")


@scenario
def export_add(d: Session) -> None:
    d.qmp("blockdev-add", **null("n"))
    d.qmp("block-export-add", type="nbd", id="e", node_name="n")
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="n")
    d.qmp("block-export-add", type="nbd", id="e", node_name="n", name="other")
    d.qmp("block-export-add", type="nbd", id="f", node_name="n")
    d.qmp("block-export-add", type="nbd", id="f", node_name="none")
    d.qmp(
        "block-export-add",
        type="nbd",
        id="g",
        node_name="n",
        name="g",
        description="text",
        writable=True,
        writethrough=True,
        allocation_depth=True,
        fixed_iothread=False,
    )
    d.qmp("query-block-exports")
    d.nbdinfo("g")
    d.nbdinfo("g", "--map=qemu:allocation-depth")


@scenario
def export_add_errors(d: Session) -> None:
    prepare(d)
    for arguments in (
        {"type": "zzz", "id": "e", "node-name": "n"},
        {"type": 1, "id": "e", "node-name": "n"},
        {"type": "nbd", "id": 1, "node-name": "n"},
        {"type": "nbd", "id": "1e", "node-name": "n"},
        {"type": "nbd", "id": "", "node-name": "n"},
        {"type": "nbd", "id": "a b", "node-name": "n"},
        {"type": "nbd", "id": "e"},
        {"type": "nbd", "node-name": "n"},
        {"type": "nbd", "id": "e", "node-name": "n", "zzz": 1},
        {"type": "nbd", "id": "e", "node-name": "n", "writable": "yes"},
        {"type": "nbd", "id": "e", "node-name": "n", "name": "x" * 4097},
        {"type": "nbd", "id": "e", "node-name": "n", "description": "x" * 4097},
        {"type": "nbd", "id": "e", "node-name": "n", "iothread": "none"},
        {"type": "nbd", "id": "e", "node-name": "n", "bitmap": "b"},
        {"type": "nbd", "id": "e", "node-name": ""},
        {"type": "nbd", "id": "e", "node-name": "n", "allocation-depth": 1},
    ):
        d.qmp("block-export-add", **arguments)
    d.qmp("query-block-exports")


@scenario
def export_del(d: Session) -> None:
    d.qmp("block-export-del", id="none")
    prepare(d)
    d.qmp("block-export-add", type="nbd", id="e", node_name="n")
    d.qmp("block-export-del", id="e", mode="zzz")
    d.qmp("block-export-del", id="e", mode="safe")
    d.qmp("block-export-del", id="e")
    d.qmp("block-export-add", type="nbd", id="e", node_name="n")
    d.qmp("block-export-del", id="e", mode="hard")
    d.qmp("block-export-del")
    d.qmp("query-block-exports")


@scenario
def export_del_with_client(d: Session) -> None:
    prepare(d)
    d.qmp("block-export-add", type="nbd", id="e", node_name="n")
    client = d.nbd("n")
    d.qmp("block-export-del", id="e")
    d.qmp("block-export-del", id="e", mode="hard")
    client.end()
    d.event("BLOCK_EXPORT_DELETED")
    d.qmp("query-block-exports")
    d.qmp("blockdev-del", node_name="n")


@scenario
def export_removed_while_client_reads(d: Session) -> None:
    """Hard removal with a client on another export, which must not notice."""
    prepare(d)
    d.qmp("block-export-add", type="nbd", id="e", node_name="n", name="e")
    d.qmp("block-export-add", type="nbd", id="f", node_name="n", name="f")
    first, second = d.nbd("e"), d.nbd("f")
    d.qmp("block-export-del", id="e", mode="hard")
    first.end()
    d.event("BLOCK_EXPORT_DELETED")
    second.request(0, 0, 512)
    d.qmp("query-block-exports")


@scenario
def exports_are_newest_first(d: Session) -> None:
    prepare(d)
    for name in ("b", "a", "c"):
        d.qmp("block-export-add", type="nbd", id=name, node_name="n", name=name)
    d.qmp("query-block-exports")
    d.tool("nbdinfo", "--list", f"nbd+unix:///?socket={d.path('nbd.sock')}")


@scenario
def quit_with_exports(d: Session) -> None:
    prepare(d)
    for name in ("b", "a"):
        d.qmp("block-export-add", type="nbd", id=name, node_name="n", name=name)
    d.nbd("a")


@scenario
def unknown_export_name(d: Session) -> None:
    prepare(d)
    d.qmp("nbd-server-add", device="n")
    for name in ("none", "", "x" * 81, "x" * 200):
        d.io(name, "length")


@scenario
def default_export(d: Session) -> None:
    prepare(d)
    d.qmp("block-export-add", type="nbd", id="e", node_name="n", name="")
    d.io("", "length")


@scenario
def plain_export_io(d: Session) -> None:
    name = d.file("disk.raw", 1 << 20, (0x11, 0, 300_000))
    d.qmp("blockdev-add", driver="file", node_name="f", filename=name, discard="unmap")
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="f", name="e", writable=True)
    d.nbdinfo("e")
    d.map("e")
    d.io(
        "e",
        "read -P 0x11 0 300000",
        "read -P 0 300000 100000",
        "write -P 0xaa 1 1",
        "write -P 0xbb 511 2",
        "write -f 4096 4096",
        "write -z 64k 64k",
        "write -z -u 128k 64k",
        "write -z -n 192k 4k",
        "discard 200k 8k",
        "read -P 0xaa 1 1",
        "read -P 0 64k 128k",
        "read -P 0 200k 4k",
        "read 1048064 1k",
        "write 1048576 1",
        "flush",
    )
    d.map("e")
    d.nbdinfo("e", "--map")
    d.nbdinfo("e", "--map", "--totals")
    d.content("disk.raw")


@scenario
def read_only_export_io(d: Session) -> None:
    d.qmp("blockdev-add", driver="file", node_name="f", filename=d.file("disk.raw"))
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="f", name="e")
    d.io("e", "write 0 512")
    d.io("e", "read -P 0 0 1M", "flush", read_only=True)
    d.nbdinfo("e", "--json")


@scenario
def export_of_odd_size(d: Session) -> None:
    d.qmp("blockdev-add", driver="file", node_name="f", filename=d.file("disk.raw", 1000))
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="f", name="e", writable=True)
    d.nbdinfo("e")
    d.map("e")
    d.io("e", "length", "read -P 0 0 1000", "write -P 1 990 10", "write -P 1 990 20")
    d.content("disk.raw")


@scenario
def export_detects_zeroes(d: Session) -> None:
    for number, (detect, discard) in enumerate((("on", "ignore"), ("unmap", "unmap"))):
        name = d.file(f"{number}.raw", 256 << 10, (0x11, 0, 256 << 10))
        d.qmp(
            "blockdev-add",
            driver="file",
            node_name=f"n{number}",
            filename=name,
            detect_zeroes=detect,
            discard=discard,
        )
        if number == 0:
            d.nbd_server()
        export = f"e{number}"
        d.qmp(
            "block-export-add",
            type="nbd",
            id=export,
            node_name=f"n{number}",
            name=export,
            writable=True,
        )
        d.io(export, "write -P 0 64k 64k", "discard 128k 64k")
        d.map(export)
        d.content(f"{number}.raw")


@scenario
def max_connections(d: Session) -> None:
    d.qmp("blockdev-add", **null("n"))
    d.nbd_server(max_connections=1)
    d.qmp("nbd-server-add", device="n", writable=True)
    d.nbdinfo("n", "--json")


@scenario
def many_connections(d: Session) -> None:
    prepare(d)
    d.qmp("nbd-server-add", device="n", writable=True)
    clients = [d.nbd("n") for _ in range(5)]
    for client in clients:
        client.request(0, 0, 16)
    d.qmp("nbd-server-remove", name="n")
