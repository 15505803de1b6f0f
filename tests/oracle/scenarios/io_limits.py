"""I/O limits of disks, set by command."""

import json
from typing import Any

from tests.oracle.scenario import system_scenario
from tests.oracle.scenarios.devices import CONTROLLER, disk, hmp, null, unplug
from tests.oracle.session import Session

_NONE = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)


def _limit(d: Session, /, **more: Any) -> None:
    message = {"execute": "block_set_io_throttle", "arguments": _NONE | more}
    d.raw(json.dumps(message), command="block_set_io_throttle")


def _start(d: Session) -> None:
    path = d.file("disk.raw")
    d.start(
        *CONTROLLER,
        *("-drive", f"if=none,id=dr,file={path},format=raw", "-drive", "if=none,id=empty"),
    )
    null(d, "n")
    disk(d, "sda", "n")
    disk(d, "sdb", "dr")


@system_scenario
def io_limits_refused(d: Session) -> None:
    _start(d)
    d.qmp("device_add", driver="scsi-cd", id="cd")
    d.qmp("block_set_io_throttle", id="sda")
    for which in (
        {},
        {"id": "sda", "device": "dr"},
        {"device": "nope"},
        {"id": "nope"},
        {"id": "cd"},
        {"device": "empty", "bps": 5},
        {"id": "scsi0", "bps": 1},
    ):
        _limit(d, **which)
    for wrong in (
        {"bps": 1000, "bps_rd": 5},
        {"bps": -1},
        {"iops": 10, "iops_max": 5},
        {"bps_max_length": 2},
        {"bps_max": 1},
        {"iops_size": 512},
        {"bps": 1 << 60},
        {"iops": 10, "iops_max": 50, "iops_max_length": -3},
        {"iops": 10, "iops_max": 50, "iops_max_length": 0},
    ):
        _limit(d, id="sda", **wrong)
    d.qmp("query-block")


@system_scenario
def io_limits_are_told(d: Session) -> None:
    _start(d)
    for more in (
        {"id": "sda"},
        {"id": "sda", "bps": 1000},
        {"id": "sda", "iops": 10, "iops_max": 50, "iops_max_length": 3, "iops_size": 4096},
        {"id": "sda", "bps_rd": 1000, "bps_wr": 2000, "bps_wr_max": 5000, "group": "g1"},
        {"device": "dr", "iops": 7, "group": "g1"},
        {"id": "sda", "bps_rd": 2, "group": "g1"},
        {"device": "dr"},
        {"id": "sda"},
        {"id": "sdb", "bps": 1},
    ):
        _limit(d, **more)
        d.qmp("query-block")
    hmp(d, "info block")
    d.qmp("query-named-block-nodes")
    unplug(d, "sdb")
    d.qmp("query-block")


@system_scenario
def io_limits_are_shared_with_nodes(d: Session) -> None:
    _start(d)
    d.qmp("object-add", qom_type="throttle-group", id="g", limits={"iops-total": 5})
    _limit(d, id="sda", bps=1000, group="g")
    d.qmp("qom-get", path="/objects/g", property="limits")
    d.qmp("object-del", id="g")
    _limit(d, id="sda")
    d.qmp("object-del", id="g")


@system_scenario
def requests_under_io_limits(d: Session) -> None:
    _start(d)
    _limit(d, id="sda", bps=1 << 40, iops=1 << 40)
    hmp(d, *(f'qemu-io -d sda "{line}"' for line in ("write 0 64k", "read 0 64k", "flush")))
    hmp(d, *(f'qemu-io -d sda "{line}"' for line in ("discard 0 64k", "write -z 0 4k", "length")))
    hmp(d, 'qemu-io -d sda "aio_write 0 64k"', 'qemu-io -d sda "aio_flush"')
    _limit(d, id="sda")
    hmp(d, 'qemu-io -d sda "read 0 64k"')


@system_scenario
def io_limits_group_of_a_command_keeps_its_name(d: Session) -> None:
    _start(d)
    _limit(d, id="sda", group="g", bps=1000)
    group = {"qom_type": "throttle-group", "id": "g"}
    d.qmp("object-add", **group)
    d.qmp("object-add", **group, **{"x-iops-total": 1, "x-iops-read": 2})
    d.qmp("object-add", **group, limits={"iops-total": 1, "iops-read": 2})
    _limit(d, id="sda")
    d.qmp("object-add", **group)
    _limit(d, id="sda", group="g", bps=1000)
    d.qmp("object-del", id="g")
    _limit(d, id="sda")
    d.qmp("object-del", id="g")


@system_scenario
def io_limits_of_a_virtio_disk_are_those_of_the_device_inside(d: Session) -> None:
    _start(d)
    d.qmp("device_add", driver="virtio-blk", id="vda", drive="n")
    null(d, "m")
    d.qmp("device_add", driver="virtio-blk", id="vdb", drive="m")
    for which in (
        "vdb",
        "/machine/peripheral/vdb",
        "vdb/virtio-backend",
        "/machine/peripheral/vdb/virtio-backend",
        "/machine/peripheral/sda/virtio-backend",
    ):
        _limit(d, id=which, bps=1000)
        d.qmp("eject", id=which)
    d.qmp("query-block")


@system_scenario
def io_limits_of_a_group_whose_last_member_is_a_node(d: Session) -> None:
    _start(d)
    throttle = {"driver": "throttle", "node-name": "t", "file": "f", "throttle-group": "g"}
    null(d, "f")
    _limit(d, id="sda", group="g", iops=100)
    d.qmp("blockdev-add", **throttle)
    _limit(d, id="sda")
    d.qmp("object-add", qom_type="throttle-group", id="g")
    d.qmp("blockdev-del", node_name="t")
    d.qmp("blockdev-add", **throttle)
    d.qmp("object-add", qom_type="throttle-group", id="g")
    d.qmp("blockdev-add", **throttle)
    d.qmp("blockdev-del", node_name="t")
    d.qmp("object-del", id="g")
    d.qmp("object-add", qom_type="throttle-group", id="other")
    _limit(d, id="sda", group="g", iops=100)
    d.qmp("blockdev-add", **throttle)
    _limit(d, id="sda", group="h", iops=100)
    d.qmp("blockdev-reopen", options=[throttle | {"throttle-group": "other"}])
    d.qmp("object-add", qom_type="throttle-group", id="g")
    d.qmp("blockdev-reopen", options=[throttle | {"throttle-group": "h"}])
    unplug(d, "sda")
    d.qmp("object-add", qom_type="throttle-group", id="h")
    d.qmp("blockdev-reopen", options=[throttle])
    d.qmp("object-add", qom_type="throttle-group", id="h")


def _held(d: Session) -> None:
    """Let a second write to the drive wait for the limits."""
    _limit(d, device="dr", iops=1)
    hmp(d, 'qemu-io dr "write -q -P 1 0 512"', 'qemu-io dr "aio_write -P 2 1k 512"')


@system_scenario
def io_limits_hold_writes_until_the_disk_is_unplugged(d: Session) -> None:
    _start(d)
    _held(d)
    unplug(d, "sdb")
    d.content("disk.raw")


@system_scenario
def io_limits_hold_writes_until_the_medium_is_ejected(d: Session) -> None:
    d.start("-drive", f"if=none,id=dr,file={d.file('disk.raw')},format=raw")
    _held(d)
    d.qmp("eject", device="dr")
    d.content("disk.raw")


@system_scenario
def io_limits_hold_writes_until_the_disk_is_read_only(d: Session) -> None:
    d.start("-drive", f"if=none,id=dr,file={d.file('disk.raw')},format=raw")
    _held(d)
    hmp(d, 'qemu-io dr "reopen -r"', "qemu-io dr aio_flush")
    d.content("disk.raw")
