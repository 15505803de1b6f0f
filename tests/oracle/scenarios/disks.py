"""Disks of the machine in use: found by name, exchanged, changed, asked."""

from typing import Any

from tests.oracle.scenario import system_scenario
from tests.oracle.scenarios.devices import (
    CONTROLLER,
    disk,
    drive_set,
    hmp,
    machine,
    null,
    prop,
    unplug,
)
from tests.oracle.session import Session


@system_scenario
def node_under_a_disk_is_exchanged(d: Session) -> None:
    machine(d, "n0", "n1", "other")
    null(d, "big", 2 << 20)
    null(d, "ro", read_only=True)
    disk(d)
    disk(d, "sdb", "other")
    drive_set(d, "/machine/peripheral/sda", "n1")
    prop(d, "sda")
    d.qmp("blockdev-del", node_name="n0")
    d.qmp("blockdev-del", node_name="n1")
    drive_set(d, "sda", "big")
    hmp(d, "qemu-io -d sda length")
    for value in ("ro", "nope", "", None, 3, "other", "sdb"):
        drive_set(d, "sda", value)
    prop(d, "sda")
    for name in ("share-rw", "nope", "type"):
        d.qmp("qom-set", path="sda", property=name, value=True)
    d.qmp("query-block")


@system_scenario
def filter_put_under_a_disk(d: Session) -> None:
    d.start(*CONTROLLER)
    path = d.file("disk.raw", 1 << 20, (0xAA, 0, 1 << 20))
    d.qmp("blockdev-add", driver="file", node_name="f", filename=path)
    d.qmp("blockdev-add", driver="file", node_name="t", filename=d.file("temp.raw"))
    disk(d, "sda", "f")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="cbw", file="f", target="t")
    drive_set(d, "sda", "cbw")
    prop(d, "sda")
    d.qmp("blockdev-add", driver="snapshot-access", node_name="acc", file="cbw")
    hmp(d, 'qemu-io -d sda "write -P 0x55 0 64k"', 'qemu-io acc "read -P 0xaa 0 64k"')
    # In two parts: QEMU 7.2 mixes up the buffers of a read that takes data from both sides.
    hmp(d, 'qemu-io acc "read -P 0xaa 64k 960k"')
    hmp(d, 'qemu-io f "read -P 0x55 0 64k"', 'qemu-io f "write 0 64k"')
    d.qmp("blockdev-del", node_name="cbw")
    d.qmp("blockdev-del", node_name="acc")
    drive_set(d, "sda", "f")
    d.qmp("blockdev-del", node_name="cbw")
    unplug(d, "sda")
    d.qmp("blockdev-del", node_name="f")


@system_scenario
def disks_and_nodes_by_name(d: Session) -> None:
    machine(d, "n0", "n1", "n2")
    disk(d)
    d.qmp("device_add", driver="scsi-cd", id="cd", drive="n1")
    d.qmp("device_add", driver="virtio-blk", id="vda", drive="n2")
    d.qmp("device_add", driver="scsi-cd", id="empty")
    hmp(
        d,
        *("qemu-io n0 length", "qemu-io sda length", "qemu-io nope length"),
        *("qemu-io -d sda length", "qemu-io -d n0 length", "qemu-io -d nope length"),
        *("qemu-io -d vda length", "qemu-io -d scsi0 length", "qemu-io -d /machine length"),
        "qemu-io -d /machine/peripheral/sda length",
        "qemu-io -d /machine/peripheral/vda/virtio-backend length",
        *("qemu-io -d empty length", 'qemu-io -d empty "read 0 512"'),
        *('qemu-io -d empty "write 0 512"', 'qemu-io -d empty "discard 0 512"'),
        *("qemu-io -d empty flush", "qemu-io -d empty map", 'qemu-io -d empty "truncate 5"'),
        *('qemu-io -d cd "write -q 0 512"', 'qemu-io n1 "write 0 512"'),
        *("info block", "info block n0", "info block sda", "info block -v n0", "info block -n n1"),
        *("block_resize sda 1", "block_resize n0 1"),
    )
    d.qmp("block_resize", device="sda", size=1)
    d.qmp("block_resize", device="sda", node_name="nope", size=1)
    d.qmp("block_resize", node_name="n1", size=512)
    d.qmp("blockdev-backup", job_id="j", device="sda", target="n1", sync="full")
    d.qmp("block-dirty-bitmap-add", node="sda", name="b")
    d.qmp("block-dirty-bitmap-clear", node="sda", name="b")
    d.qmp("blockdev-snapshot", node="sda", overlay="n1")
    d.qmp("blockdev-snapshot-sync", device="sda", snapshot_file=d.path("x"))
    d.qmp("drive-backup", device="sda", target=d.path("x"), sync="full")


@system_scenario
def drives_by_name(d: Session) -> None:
    one, two = d.file("one.raw"), d.file("two.raw")
    d.start(
        *CONTROLLER,
        *("-drive", "if=none,id=empty"),
        *("-drive", f"if=none,id=one,file={one},format=raw,node-name=first"),
        *("-drive", f"if=none,id=two,file={two},format=raw"),
    )
    disk(d, "sda", "one")
    disk(d, "sdb", "one")
    disk(d, "sdb", "empty")
    d.qmp("query-block")
    prop(d, "sda")
    hmp(d, "info block", "info block two", "info block first", "qemu-io empty length")
    hmp(d, "qemu-io two length", "qemu-io -d two length", "block_resize two 2M")
    d.qmp("block_resize", device="first", size=512)
    d.qmp("block_resize", node_name="two", size=512)
    d.qmp("block_resize", device="empty", size=512)
    d.qmp("block-dirty-bitmap-add", node="two", name="b")
    d.qmp("block-dirty-bitmap-add", node="empty", name="b")
    for command in ("clear", "disable", "remove"):
        d.qmp(f"block-dirty-bitmap-{command}", node="two", name="b")
        d.qmp(f"block-dirty-bitmap-{command}", node="empty", name="b")
    d.qmp("blockdev-snapshot", node="first", overlay="two")
    d.qmp("blockdev-snapshot", node="one", overlay="two")
    d.qmp("blockdev-del", node_name="two")
    null(d, "two")
    null(d, "n0")
    drive_set(d, "sda", "two")
    drive_set(d, "sda", "n0")
    prop(d, "sda")
    unplug(d, "sda")
    d.qmp("query-block")
    d.qmp("blockdev-snapshot-sync", device="two", snapshot_file=d.path("over"))
    d.qmp("query-block")


@system_scenario
def media(d: Session) -> None:
    path = d.file("disk.raw")
    d.start(
        *CONTROLLER,
        *("-drive", f"if=none,id=drive,file={path},format=raw", "-drive", "if=none,id=empty"),
    )
    null(d, "n0", read_only=True)
    null(d, "n1", read_only=True)
    null(d, "n2")
    disk(d, "hd", "n2")
    d.qmp("device_add", driver="scsi-cd", id="cd", drive="n0")
    d.qmp("device_add", driver="scsi-cd", id="named", drive="drive")
    for name in ("nope", "hd", "scsi0"):
        for command in ("open-tray", "close-tray", "remove-medium"):
            d.qmp(f"blockdev-{command}", id=name)
        d.qmp("eject", id=name)
        d.qmp("blockdev-insert-medium", id=name, node_name="n1")
    d.qmp("blockdev-remove-medium", id="cd")
    d.qmp("blockdev-insert-medium", id="cd", node_name="n1")
    d.qmp("blockdev-open-tray", id="cd")
    d.qmp("blockdev-open-tray", id="cd")
    d.qmp("blockdev-insert-medium", id="cd", node_name="n1")
    hmp(d, "info block")
    for _ in range(2):
        d.qmp("blockdev-remove-medium", id="cd")
    d.qmp("query-block")
    d.qmp("blockdev-del", node_name="n0")
    for node in ("nope", "n2", "n1"):
        d.qmp("blockdev-insert-medium", id="cd", node_name=node)
    for _ in range(2):
        d.qmp("blockdev-close-tray", id="cd")
    d.qmp("query-block")
    hmp(d, 'qemu-io -d cd "read 0 512"')
    for given in ({"id": "cd"}, {"id": "cd", "force": True}, {"device": "drive"}, {}):
        d.qmp("eject", **given)
    d.qmp("eject", id="cd", device="drive")
    for name in ("nope", "empty"):
        d.qmp("eject", device=name)
        d.qmp("blockdev-open-tray", device=name)
        d.qmp("blockdev-close-tray", device=name)
    d.qmp("query-block")


@system_scenario
def statistics(d: Session) -> None:
    path = d.file("disk.raw")
    d.start(*CONTROLLER, "-drive", "if=none,id=empty")
    d.qmp("blockdev-add", driver="file", node_name="f", filename=path)
    d.qmp("blockdev-add", driver="raw", node_name="r", file="f")
    null(d, "t")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="r", target="t")
    d.qmp("blockdev-add", driver="snapshot-access", node_name="s", file="c")
    disk(d, "sda", "c")
    d.qmp("device_add", driver="scsi-cd", id="cd")
    d.qmp("query-blockstats")
    d.qmp("query-blockstats", query_nodes=True)
    null(d, "n")
    d.qmp("device_add", driver="virtio-blk", id="vda", drive="n")
    d.qmp("query-blockstats")


@system_scenario
def requests_that_outlive_their_command(d: Session) -> None:
    d.start(*CONTROLLER)
    d.qmp("blockdev-add", driver="file", node_name="f", filename=d.file("disk.raw"))
    d.qmp("blockdev-add", driver="blkdebug", node_name="debug", image="f")
    d.qmp("blockdev-add", driver="raw", node_name="disk", file="debug")
    disk(d, "sda", "disk")
    hmp(
        d,
        'qemu-io -d sda "break write_aio A"',
        'qemu-io -d sda "aio_write -P 7 0 64k"',
        'qemu-io -d sda "wait_break A"',
        'qemu-io -d sda "read -P 0 64k 64k"',
        'qemu-io -d sda "resume A"',
        'qemu-io -d sda "aio_flush"',
        'qemu-io -d sda "aio_read -P 7 0 64k"',
        'qemu-io -d sda "aio_flush"',
    )


@system_scenario
def flush_that_fails(d: Session) -> None:
    d.start(*CONTROLLER)
    d.qmp("blockdev-add", driver="file", node_name="f", filename=d.file("disk.raw"))
    error = {"event": "flush_to_disk", "errno": 5}
    d.qmp("blockdev-add", driver="blkdebug", node_name="debug", image="f", inject_error=[error])
    d.qmp("blockdev-add", driver="raw", node_name="disk", file="debug")
    disk(d, "sda", "disk")
    hmp(d, 'qemu-io -d sda "write 0 512"', "qemu-io -d sda flush", "qemu-io -d sda aio_flush")


@system_scenario
def write_cache_switched_off(d: Session) -> None:
    machine(d, "n0", "n1")
    disk(d, "sda", "n0", write_cache="off")
    disk(d, "sdb", "n1", write_cache="on")
    d.qmp("query-block")
    hmp(d, "info block")


@system_scenario
def medium_is_changed(d: Session) -> None:
    one = d.file("one.raw")
    d.tool("qemu-img", "create", "-q", "-f", "qcow2", "two.qcow2", "2M")
    two = d.path("two.qcow2")
    d.start(
        *CONTROLLER,
        *("-drive", f"if=none,id=dr,file={one},format=raw", "-drive", "if=none,id=empty"),
    )
    null(d, "n")
    disk(d, "sda", "n")
    d.qmp("device_add", driver="scsi-cd", id="cd")

    def change(**more: Any) -> None:
        d.qmp("blockdev-change-medium", **more)
        d.qmp("query-block")

    change(filename=one)
    change(id="cd", device="dr", filename=one)
    for name in ("nope", "sda", "scsi0"):
        change(id=name, filename=one)
    change(device="nope", filename=one)
    change(id="cd")
    for more in ({"filename": d.path("none.raw")}, {"filename": ""}):
        change(id="cd", **more)
    for image_format in ("nope", "qcow2"):
        change(id="cd", filename=one, format=image_format)
    change(id="cd", filename=two)
    change(id="cd", filename=two, format="raw", read_only_mode="retain")
    change(id="cd", filename=two, read_only_mode="read-only", force=True)
    change(id="cd", filename=two, read_only_mode="sometimes")
    d.qmp("blockdev-open-tray", id="cd")
    change(id="cd", filename=two, format="qcow2")
    d.qmp("eject", id="cd")
    change(device="dr", filename=two)
    change(device="dr", filename=one)
    change(device="dr", filename=two, read_only_mode="read-only")
    change(device="dr", filename=one, format="raw", read_only_mode="read-write")
    change(device="empty", filename=two, format="qcow2")


@system_scenario
def requests_where_no_medium_can_be_reached(d: Session) -> None:
    """Neither without one nor with an open tray; and no permissions are asked for, either."""
    d.start(*CONTROLLER, "-drive", "if=none,id=empty")
    null(d, "n")
    null(d, "ro", read_only=True)
    d.qmp("device_add", driver="scsi-cd", id="cd")
    requests = (
        *("write 0 512", "write -z 0 512", "write -b 0 512", "write -c 0 512", "write 2M 512"),
        *("read 0 512", "read -b 0 512", "read -v 2M 512", "writev 0 512", "readv 0 512 512"),
        *("discard 0 512", "length", "map", "truncate 1M", "flush", "aio_flush"),
    )
    for name in ("empty", "-d cd"):
        hmp(d, *(f'qemu-io {name} "{request}"' for request in requests))
    d.qmp("blockdev-open-tray", id="cd")
    d.qmp("blockdev-insert-medium", id="cd", node_name="n")
    hmp(d, *(f'qemu-io -d cd "{request}"' for request in requests))
    hmp(d, "qemu-io -d cd info", 'qemu-io -d cd "alloc 0"', 'qemu-io -d cd "resume a"')
    d.qmp("blockdev-remove-medium", id="cd")
    d.qmp("blockdev-insert-medium", id="cd", node_name="ro")
    d.qmp("blockdev-remove-medium", id="cd")
    d.qmp("blockdev-insert-medium", id="cd", node_name="n")
    d.qmp("blockdev-close-tray", id="cd")
    hmp(d, 'qemu-io -d cd "write -q 0 512"')
    d.qmp("blockdev-open-tray", id="cd")
    d.qmp("blockdev-remove-medium", id="cd")
    d.qmp("blockdev-insert-medium", id="cd", node_name="ro")
