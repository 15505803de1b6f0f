"""Throttle nodes: how they are made and seen, and what they let through."""

import select
from typing import Any

from tests.oracle.monitor import PATIENCE_S, StoppedError
from tests.oracle.nbd import NbdClient
from tests.oracle.scenario import scenario
from tests.oracle.scenarios.nodes import null
from tests.oracle.scenarios.objects import change, group
from tests.oracle.session import Session

READ, WRITE, DISCONNECT, FLUSH, TRIM, CACHE, ZEROES = range(7)


def limit(d: Session, name: str = "g", /, **limits: int) -> None:
    group(d, name, limits={key.replace("_", "-"): value for key, value in limits.items()})


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


@scenario
def throttle_nodes_over_qcow2(d: Session) -> None:
    """Bitmaps, snapshots and compressed backups see through them, or don't."""
    group(d)
    for name in ("a", "b"):
        path = d.path(f"{name}.qcow2")
        d.tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=128k", path, "4M")
        file = {"driver": "file", "filename": path}
        image = {"driver": "qcow2", "node-name": name, "file": file}
        d.qmp(
            "blockdev-add", driver="throttle", node_name=f"t{name}", file=image, throttle_group="g"
        )
    d.qmp("block-dirty-bitmap-add", node="ta", name="x")
    d.qmp("block-dirty-bitmap-add", node="ta", name="p", persistent=True)
    d.qmp("blockdev-snapshot", node="ta", overlay="tb")
    d.qmp("query-named-block-nodes", flat=True)
    d.nbd_server()
    d.qmp("nbd-server-add", device="ta", name="ta", writable=True)
    d.io("ta", "write -P 3 0 1M")
    d.qmp("blockdev-backup", device="ta", target="tb", sync="full", job_id="j", compress=True)
    d.event('"null"')
    d.qmp("query-jobs")
    d.qmp("nbd-server-remove", name="ta")
    d.qmp("nbd-server-add", device="tb", name="tb")
    d.io("tb", "read -P 3 0 1M", "read -P 0 1M 3M", read_only=True)


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
    second.post(FLUSH)  # all before it has been received when this is answered
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
        ready, _, _ = select.select(list(clients.values()), [], [], PATIENCE_S)
        if not ready:
            raise StoppedError(f"no answer of the NBD server; so far: {order}")
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


@scenario
def throttle_does_not_count_caching_as_reading(d: Session) -> None:
    burst(d, 8, CACHE, iops_read=1, bps_read=1)


@scenario
def throttle_does_not_count_caching_at_all(d: Session) -> None:
    burst(d, 8, CACHE, 1 << 22, iops_total=1, bps_total=1)
