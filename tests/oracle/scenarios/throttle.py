"""Throttle groups, throttle nodes and other objects: what they take and what they let through."""

import select
from typing import Any

from tests.oracle.nbd import NbdClient
from tests.oracle.scenario import scenario
from tests.oracle.scenarios.nodes import null
from tests.oracle.session import Session

READ, WRITE, DISCONNECT, FLUSH, TRIM, _, ZEROES = range(7)
BUCKETS = [f"{unit}-{what}" for unit in ("bps", "iops") for what in ("total", "read", "write")]
TOO_LONG = 1 << 32


def group(d: Session, name: str = "g", **members: Any) -> None:
    d.qmp("object-add", qom_type="throttle-group", id=name, **members)


def limit(d: Session, name: str = "g", /, **limits: int) -> None:
    group(d, name, limits={key.replace("_", "-"): value for key, value in limits.items()})


def change(d: Session, **limits: int) -> None:
    value = {key.replace("_", "-"): value for key, value in limits.items()}
    d.qmp("qom-set", path="g", property="limits", value=value)


def node(d: Session, name: str = "t", **more: Any) -> NbdClient:
    """Export a throttle node of group ``g`` over an empty disk; connect to it."""
    d.qmp("blockdev-add", **null(f"{name}-disk", 1 << 30))
    d.qmp(
        "blockdev-add", driver="throttle", node_name=name, file=f"{name}-disk",
        throttle_group="g", **more,
    )  # fmt: skip
    d.qmp("block-export-add", type="nbd", id=name, node_name=name, name=name, writable=True)
    client = d.nbd(None)
    client.go(name, structured=False)
    return client


def unexport(d: Session, **clients: NbdClient) -> None:
    """Remove exports one by one: at the end they go in any order."""
    for name, client in clients.items():
        client.request(DISCONNECT)
        d.qmp("block-export-del", id=name, mode="hard")
        d.event(f'{{"id": "{name}"}}')


def burst(
    d: Session, passes: int, command: int = READ, size: int = 4096, /, **limits: int
) -> None:
    """Send 8 requests at once; ``passes`` of them go, the others when all is drained."""
    limit(d, **limits)
    d.nbd_server()
    client = node(d, discard="unmap")
    for number in range(8):
        client.post(command, number * size, size)
    client.replies(passes)
    client.post(FLUSH)
    client.replies(1)
    d.qmp("transaction", actions=[])
    client.replies(8 - passes)


# -- objects ----------------------------------------------------------------------------------


@scenario
def object_add_errors(d: Session) -> None:
    for arguments in (
        {},
        {"id": "a"},
        {"qom-type": "zzz", "id": "a"},
        {"qom-type": 5, "id": "a"},
        {"qom-type": "container", "id": "a"},
        {"qom-type": "throttle-group"},
        {"qom-type": "throttle-group", "id": 5},
        {"qom-type": "throttle-group", "id": ""},
        {"qom-type": "throttle-group", "id": "1"},
        {"qom-type": "throttle-group", "id": "a b", "x-bps-read": -1},
        {"qom-type": "throttle-group", "id": "1", "zzz": 1},
        {"qom-type": "throttle-group", "id": "a", "props": {}},
        {"qom-type": "throttle-group", "id": "a"},
        {"qom-type": "throttle-group", "id": "a"},
        {"qom-type": "iothread", "id": "a"},
    ):
        d.qmp("object-add", **{key.replace("-", "_"): value for key, value in arguments.items()})
    for name in ("zzz", "", "/objects", "a", "a"):
        d.qmp("object-del", id=name)
    d.qmp("object-del")
    d.qmp("object-del", id="a", zzz=1)


@scenario
def throttle_group_types(d: Session) -> None:
    for limits in (
        5,
        [],
        {"zzz": 1},
        {"bps-total": "x"},
        {"bps-total": 1.5},
        {"iops-size": None},
        {"bps-total": 1 << 63},
        {"bps-total": "x", "iops-total": "x"},
        {"bps-total-max": "x", "bps-read": "x"},
        {"iops-size": "x", "bps-total": "x"},
    ):
        group(d, limits=limits)
    group(d, limits={"zzz": 1}, x_iops_total="x")
    group(d, x_bps_total="x", x_iops_total="x")
    group(d, x_iops_size="x", x_bps_total="x")
    group(d, x_bps_read=1 << 63)


@scenario
def throttle_limits_that_are_refused(d: Session) -> None:
    for limits in (
        {"bps-total": -1},
        {"bps-total": 10**15 + 1},
        {"iops-total": 10**18},
        {"bps-total": 10, "bps-read": 10},
        {"iops-total": 10, "iops-write": 10},
        {"bps-total": 10, "bps-total-max": 20, "bps-read-max": 20},
        {"bps-total-max": 10},
        {"bps-total": 1, "bps-read-max": 5},
        {"bps-total": 10, "bps-total-max": 5},
        {"bps-total": 10, "bps-total-max": -5},
        {"bps-total": 10, "bps-total-max": 15, "bps-total-max-length": 0},
        {"bps-total": 10, "bps-total-max-length": 2},
        {"bps-total": 10, "bps-total-max-length": -5},
        {"bps-total": 1, "bps-total-max": 1, "bps-total-max-length": -1},
        {"bps-total-max-length": 5},
        {"bps-total-max-length": 0},
        {"bps-total-max-length": TOO_LONG},
        {"bps-total": 10, "bps-total-max": 10**15, "bps-total-max-length": 100},
        {"iops-total": 1, "iops-total-max": 10**15 // 2 + 1, "iops-total-max-length": 2},
        {"iops-size": 4096},
        {"iops-size": -1, "bps-total": 1},
    ):
        group(d, limits=limits)


@scenario
def throttle_limits_with_several_errors(d: Session) -> None:
    for limits in (
        {"bps-total": -1, "bps-total-max-length": 0},
        {"bps-total": -1, "bps-total-max": 5},
        {"bps-total-max": 5, "bps-total-max-length": 0},
        {"bps-total-max": -5, "bps-total-max-length": 0},
        {"bps-total-max": 10**15, "bps-total-max-length": 5},
        {"bps-total": 10**15, "bps-total-max": 9 * 10**14, "bps-total-max-length": 5},
        {"bps-total": 10, "bps-total-max": 5, "bps-total-max-length": 0},
        {"bps-read-max": 5, "bps-write-max-length": 0},
        {"bps-write-max": 5, "bps-read-max-length": 5},
        {"iops-write-max-length": -1, "bps-write": -1},
        {"bps-write": -1, "iops-total": -1, "bps-total": 1},
        {"iops-size": 100, "bps-read": 10, "bps-read-max": 5},
        {"bps-total": -1, "iops-size": 5},
    ):
        group(d, limits=limits)
    for first, second in zip(BUCKETS, BUCKETS[1:] + BUCKETS[:1], strict=True):
        group(d, limits={f"{second}-max-length": TOO_LONG, f"{first}-max-length": TOO_LONG})
        group(d, limits={f"{second}-max-length": 0, f"{first}-max": 5})


@scenario
def throttle_single_values_that_are_refused(d: Session) -> None:
    group(d, x_bps_read=-1)
    group(d, x_bps_read=10**15 + 1)
    group(d, x_iops_size=-1, x_iops_total=1)
    group(d, x_bps_read_max_length=-1)
    group(d, x_bps_read_max_length=0)
    group(d, x_bps_read_max_length=TOO_LONG)
    group(d, x_bps_read=10, x_bps_total=5)
    group(d, x_bps_read=10, limits={"bps-total": 5})
    group(d, limits={"iops-total": 5}, x_iops_total_max_length=10)
    for name in BUCKETS:  # which of two errors is told depends on the names alone
        long = {f"x_{name.replace('-', '_')}_max_length": TOO_LONG}
        group(d, **long, x_bps_read=-1)
        group(d, **long, limits={"bps-total": -1})
        group(d, **{"x_iops_total_max_length": TOO_LONG, **long})


@scenario
def throttle_limits_are_got_and_set(d: Session) -> None:
    def got(*names: str) -> None:
        for name in names or ("limits",):
            d.qmp("qom-get", path="g", property=name)

    group(d, x_bps_read=10, x_bps_write=5, x_bps_write_max=7, limits={"iops-total": 3})
    got("limits", "x-bps-read", "x-bps-write-max-length", "x-iops-total", "type", "zzz")
    change(d, bps_read=20)
    change(d, bps_total=20)
    change(d, bps_total=20, bps_read=0, bps_write=0)
    change(d, bps_write_max=0, bps_total=20, bps_read=0, bps_write=0)
    change(d, zzz=1)
    change(d)
    got()
    change(d, bps_total_max=30)
    change(d, bps_total_max_length=10, iops_size=-1)
    change(d, bps_total=40)
    got()
    d.qmp("qom-set", path="g", property="limits", value=5)
    d.qmp("qom-set", path="g", property="x-bps-total", value=5)
    d.qmp("qom-set", path="g", property="x-bps-total", value="x")
    d.qmp("qom-set", path="/objects/g", property="type", value="x")
    d.qmp("qom-set", path="g", property="zzz", value=1)
    d.qmp("object-del", id="g")
    d.qmp("qom-get", path="g", property="limits")


@scenario
def duplicate_objects_with_errors(d: Session) -> None:
    """What is wrong with the values is told before the name is looked at, or after."""
    group(d)
    group(d, limits={"bps-total": -1})
    group(d, x_bps_read=-1)
    group(d, x_bps_read=1, x_bps_total=1)
    group(d, x_bps_read_max_length=0)
    d.qmp("object-add", qom_type="secret", id="g")
    d.qmp("object-add", qom_type="secret", id="g", loaded=True)
    d.qmp("object-add", qom_type="iothread", id="g", poll_grow=-1)
    d.qmp("object-add", qom_type="iothread", id="g", thread_pool_min=65)


@scenario
def secret_objects(d: Session) -> None:
    def add(**members: Any) -> None:
        d.qmp("object-add", qom_type="secret", id="s", **members)

    d.qmp("object-add", qom_type="secret", id="short", data="x")
    d.qmp("object-add", qom_type="secret", id="key", data="k" * 32)
    add()
    add(data="x", file="y")
    add(data=5, file=5, format=5, keyid=5, iv=5)
    add(keyid=5, iv=5)
    add(data="x", format="zzz")
    add(data="x", loaded=True)
    add(data="x", zzz=1)
    add(data="-_", format="base64")
    add(file="/none")
    add(file="/")
    add(data="x", keyid="zz")
    add(data="x", keyid="short")
    add(data="x", keyid="key")
    add(data="e\nA=", format="base64")
    for name in ("data", "format", "loaded", "file", "rawdata", "type"):
        d.qmp("qom-get", path="s", property=name)
    d.qmp("qom-set", path="s", property="loaded", value=True)
    d.qmp("qom-set", path="s", property="data", value="y")
    d.qmp("qom-set", path="s", property="data", value=5)
    d.qmp("object-del", id="s")


@scenario
def iothread_objects(d: Session) -> None:
    def add(name: str = "i", **members: Any) -> None:
        d.qmp("object-add", qom_type="iothread", id=name, **members)

    add(poll_max_ns="x")
    add(aio_max_batch="x", thread_pool_min="x", poll_max_ns="x")
    add(poll_grow="x", poll_shrink="x")
    for name in ("poll_max_ns", "poll_grow", "poll_shrink", "aio_max_batch", "thread_pool_min"):
        add(**{name: -1})
        add(**{name: -1}, thread_pool_max=-1)
    add(thread_pool_min=10, thread_pool_max=5)
    add(thread_pool_min=65)
    add(thread_pool_max=0)
    add(thread_pool_max=1 << 31)
    add(thread_pool_max=64, poll_max_ns=(1 << 63) - 1)
    for name in ("poll-max-ns", "poll-grow", "aio-max-batch", "thread-pool-max", "zzz"):
        d.qmp("qom-get", path="i", property=name)
    d.qmp("qom-set", path="i", property="poll-max-ns", value=5)
    d.qmp("qom-set", path="i", property="poll-max-ns", value=-5)
    d.qmp("qom-get", path="i", property="poll-max-ns")
    d.qmp("query-iothreads")
    d.qmp("object-del", id="i")


@scenario
def objects_of_types_that_we_lack(d: Session) -> None:
    d.qmp("object-add", qom_type="can-bus", id="a")
    d.qmp("object-add", qom_type="authz-list", id="a")
    d.qmp("object-add", qom_type="tls-creds-x509", id="t")


@scenario
def encrypted_secret(d: Session) -> None:
    d.qmp("object-add", qom_type="secret", id="key", data="k" * 32)
    d.qmp(
        "object-add", qom_type="secret", id="s", format="base64", keyid="key",
        data="ZmZmZmZmZmZmZmZmZmZmZg==", iv="ZmZmZmZmZmZmZmZmZmZmZg==",
    )  # fmt: skip


@scenario
def object_help_options(d: Session) -> None:
    for asking in ("throttle-group,help", "secret,?", "qom-type=iothread,id=a,help"):
        d.run_with_input(b"", "--object", asking)


@scenario
def throttle_groups_of_the_command_line(d: Session) -> None:
    d.start(
        *("--object", "throttle-group,id=a,x-bps-read=0x10,x-bps-read-max=20"),
        *("--object", "throttle-group,id=b,limits.bps-total=1000,limits.iops-size=512,"
          "limits.iops-write=7"),
        *("--object", '{"qom-type": "throttle-group", "id": "j", "limits": {"iops-read": 5}}'),
        *("--blockdev", "null-co,node-name=n"),
        *("--blockdev", "throttle,node-name=t,file=n,throttle-group=b"),
    )  # fmt: skip
    for name in ("a", "b", "j"):
        d.qmp("qom-get", path=name, property="limits")
    d.qmp("object-del", id="b")


@scenario
def throttle_groups_of_the_command_line_refused(d: Session) -> None:
    for value in (
        "throttle-group,id=a,limits.bps-total=-1",
        "throttle-group,id=a,limits.bps-total=1k",
        "throttle-group,id=a,limits=5",
        "throttle-group,id=a,limits.bps-total=1,limits.bps-read=1",
        "throttle-group,id=a,x-bps-read=-1",
        "throttle-group,id=1,x-bps-read=-1",
        '{"qom-type": "throttle-group", "id": "1", "x-bps-read": "x"}',
        '{"qom-type": "throttle-group", "id": "1"}',
        '{"qom-type": "throttle-group", "id": 1}',
        "iothread,id=a,poll-max-ns=-1",
        "qom-type=help",
    ):
        d.start("--object", value, monitor=False)
        d.exited()


# -- nodes ------------------------------------------------------------------------------------


@scenario
def throttle_node_errors(d: Session) -> None:
    def add(**members: Any) -> None:
        d.qmp("blockdev-add", driver="throttle", node_name="t", **members)

    d.qmp("blockdev-add", **null("n"))
    group(d)
    d.qmp("object-add", qom_type="iothread", id="io")
    add(file="n")
    add(throttle_group="g")
    add(file="n", throttle_group="zzz")
    add(file="n", throttle_group="io")
    add(file="n", throttle_group="")
    add(file="n", throttle_group=5)
    add(file="zzz", throttle_group="zzz")
    add(file="n", throttle_group="g", zzz=1)
    add(file="n", throttle_group="g")
    add(file="n", throttle_group="g")
    d.qmp("object-del", id="g")
    d.qmp("blockdev-del", node_name="n")
    d.qmp("blockdev-del", node_name="t")
    d.qmp("object-del", id="g")
    d.qmp("blockdev-del", node_name="n")


@scenario
def throttle_nodes_are_described(d: Session) -> None:
    group(d)
    name = d.file("disk.raw", 1 << 20, (1, 0, 65536))
    file = {"driver": "file", "node-name": "f", "filename": name}
    d.qmp("blockdev-add", driver="throttle", node_name="t", file=file, throttle_group="g")
    d.qmp("blockdev-add", driver="raw", node_name="r", file="t")
    d.qmp("blockdev-add", **null("n"))
    d.qmp("blockdev-add", driver="throttle", node_name="u", file="n", throttle_group="g")
    d.qmp("query-named-block-nodes")
    d.qmp("query-named-block-nodes", flat=True)


@scenario
def throttle_node_is_a_filter(d: Session) -> None:
    """Permissions, bitmaps, block status and data pass through."""
    group(d)
    name = d.file("disk.raw", 1 << 20, (1, 0, 65536))
    d.qmp("blockdev-add", driver="file", node_name="f", filename=name)
    d.qmp("block-dirty-bitmap-add", node="f", name="b", disabled=True)
    d.qmp("blockdev-add", driver="throttle", node_name="t", file="f", throttle_group="g")
    d.nbd_server()
    d.qmp(
        "block-export-add", type="nbd", id="e", node_name="t", name="e", writable=True,
        bitmaps=["b"],
    )  # fmt: skip
    d.io("e", "read -P 1 0 64k", "write -P 2 64k 64k", "discard 0 64k", "write -z 128k 64k")
    d.map("e")
    d.qmp("block-export-add", type="nbd", id="f", node_name="f", name="f", writable=True)
    d.qmp("block-export-del", id="e", mode="hard")
    d.qmp("block_resize", node_name="t", size=2 << 20)


@scenario
def throttle_node_read_only(d: Session) -> None:
    group(d)
    d.qmp("blockdev-add", **null("n", read_only=True))
    d.qmp("blockdev-add", driver="throttle", node_name="t", file="n", throttle_group="g")
    d.qmp(
        "blockdev-add", driver="throttle", node_name="u", file="n", throttle_group="g",
        read_only=True,
    )  # fmt: skip
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="t", node_name="t", writable=True)
    d.qmp("block-export-add", type="nbd", id="u", node_name="u", writable=True)


# -- what is let through ----------------------------------------------------------------------


@scenario
def throttled_without_burst(d: Session) -> None:
    burst(d, 1, bps_total=1)


@scenario
def throttled_with_burst(d: Session) -> None:
    burst(d, 5, bps_total=1, bps_total_max=16384)


@scenario
def throttled_bytes_of_zero_writes(d: Session) -> None:
    burst(d, 5, ZEROES, bps_write=1, bps_write_max=16384)


@scenario
def throttled_bytes_of_discards(d: Session) -> None:
    burst(d, 5, TRIM, bps_total=1, bps_total_max=16384)


@scenario
def throttled_reads_let_writes_pass(d: Session) -> None:
    burst(d, 8, WRITE, bps_read=1, iops_read=1)


@scenario
def throttled_writes(d: Session) -> None:
    burst(d, 5, WRITE, 4096, bps_write=1, bps_write_max=16384)


@scenario
def throttled_long_burst(d: Session) -> None:
    """The second bucket limits the burst itself: a tenth of a second's worth at once."""
    burst(d, 2, ZEROES, 1 << 20, bps_total=1, bps_total_max=1 << 20, bps_total_max_length=60)


@scenario
def throttled_operations_by_size(d: Session) -> None:
    """A megabyte is as many operations as it has 16 bytes."""
    burst(d, 2, ZEROES, 1 << 20, iops_total=1, iops_total_max=1 << 16, iops_size=16)


@scenario
def throttled_operations_of_any_size(d: Session) -> None:
    burst(d, 8, ZEROES, 1 << 20, iops_total=1, iops_total_max=100)


@scenario
def throttled_nodes_share_their_group(d: Session) -> None:
    limit(d, bps_total=1, bps_total_max=16384)
    d.nbd_server()
    first, second = node(d, "a"), node(d, "b")
    for number in range(4):
        first.post(READ, number * 4096, 4096)
    first.replies(4)
    for number in range(4):
        second.post(READ, number * 4096, 4096)
    second.replies(1)
    d.qmp("transaction", actions=[])
    second.replies(3)
    unexport(d, a=first, b=second)


@scenario
def throttled_nodes_take_turns(d: Session) -> None:
    limit(d, iops_total=4, iops_total_max=4)
    d.nbd_server()
    clients = {name: node(d, name) for name in ("a", "b", "c")}
    for name, count in (("a", 8), ("c", 2), ("b", 2)):
        for number in range(count):
            clients[name].post(READ, number * 512, 512)
        if name == "a":
            clients["a"].replies(5)
    order = []
    while len(order) < 7:
        ready, _, _ = select.select(list(clients.values()), [], [], 10)
        if not ready:
            break
        order += [
            f"{name}{client.take_reply()}" for name, client in clients.items() if client in ready
        ]
    d.transcript.add(f"turns: {' '.join(order)}")
    unexport(d, **clients)


@scenario
def throttled_requests_of_a_dead_client(d: Session) -> None:
    limit(d, bps_total=1, bps_total_max=4096)
    d.nbd_server()
    client = node(d)
    for number in range(4):
        client.post(READ, number * 4096, 4096)
    client.replies(2)
    client.close()
    d.qmp("blockdev-del", node_name="t")
    d.qmp("object-del", id="g")
    d.qmp("transaction", actions=[])
    d.qmp("block-export-del", id="t")
    d.event("BLOCK_EXPORT_DELETED")
    d.qmp("blockdev-del", node_name="t")
    d.qmp("object-del", id="g")


@scenario
def throttle_limits_set_again_empty_the_buckets(d: Session) -> None:
    limit(d, bps_total=1, bps_total_max=16384)
    d.nbd_server()
    client = node(d)
    for _ in range(2):
        for number in range(5):
            client.post(READ, number * 4096, 4096)
        client.replies(5)
        change(d)


@scenario
def throttle_limits_lifted_while_requests_wait(d: Session) -> None:
    limit(d, bps_total=1, bps_total_max=4096)
    d.nbd_server()
    client = node(d)
    for number in range(4):
        client.post(READ, number * 4096, 4096)
    client.replies(2)
    change(d, bps_total=0, bps_total_max=0)
    client.post(WRITE, 0, 4096)
    client.replies(1)
    d.qmp("transaction", actions=[])
    client.replies(2)
