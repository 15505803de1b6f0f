"""The machine's devices: plugged in and out, refused, found in the object tree."""

import json
from typing import Any

from tests.oracle.scenario import system_scenario
from tests.oracle.session import Session

CONTROLLER = ("-device", "virtio-scsi-pci,id=scsi0")


def null(d: Session, name: str, size: int = 1 << 20, **more: Any) -> None:
    d.qmp("blockdev-add", driver="null-co", node_name=name, size=size, read_zeroes=True, **more)


def disk(d: Session, ident: str | None = "sda", drive: str = "n0", **more: Any) -> None:
    """Plug a SCSI disk in."""
    chosen = {} if ident is None else {"id": ident}
    d.qmp("device_add", driver="scsi-hd", **chosen, drive=drive, **more)


def machine(d: Session, *nodes: str) -> None:
    """Start with a controller, and make nodes."""
    d.start(*CONTROLLER)
    for name in nodes:
        null(d, name)


def verbatim(d: Session, options: dict[str, Any]) -> None:
    """Plug a device in whose properties' names have underscores."""
    message = {"execute": "device_add", "arguments": options}
    d.raw(json.dumps(message), command="device_add")


def unplug(d: Session, name: str, events: int = 1) -> None:
    d.qmp("device_del", id=name)
    for _ in range(events):
        d.event("DEVICE_DELETED")


def prop(d: Session, path: str, name: str = "drive") -> None:
    d.qmp("qom-get", path=path, property=name)


def drive_set(d: Session, path: str, value: Any) -> None:
    d.qmp("qom-set", path=path, property="drive", value=value)


def hmp(d: Session, *lines: str) -> None:
    for line in lines:
        d.qmp("human-monitor-command", command_line=line)


@system_scenario
def disks_come_and_go(d: Session) -> None:
    disk(d)
    d.qmp("device_add", driver="virtio-scsi-pci", id="scsi0")
    null(d, "n0")
    null(d, "ro", read_only=True)
    disk(d)
    disk(d, "sdb", "ro")
    d.qmp("device_add", driver="scsi-cd", id="cd0", drive="ro")
    d.qmp("device_add", driver="scsi-cd", id="cd1")
    d.qmp("device_add", driver="scsi-cd")
    d.qmp("query-block")
    unplug(d, "sda")
    d.qmp("device_del", id="sda")
    unplug(d, "/machine/peripheral/cd0")
    d.qmp("query-block")
    d.qmp("blockdev-del", node_name="n0")
    for name in ("nope", "/machine/peripheral/nope", "", "/machine", "/objects", "scsi0.0"):
        d.qmp("device_del", id=name)


@system_scenario
def virtio_disks(d: Session) -> None:
    for name in ("n0", "n1"):
        null(d, name)
    for wrong in (
        {"foo": 1},
        {"iothread": "nope"},
        {"drive": "nope"},
        {"drive": ""},
        {"num-queues": 0},
        {"queue-size": 3},
        {"disable-legacy": "x"},
        {"logical_block_size": 4096},
        {"addr": "x"},
        {"addr": "99"},
        {"request-merging": "x"},
    ):
        verbatim(d, {"driver": "virtio-blk", "id": "v", "drive": "n0"} | wrong)
    d.qmp("device_add", driver="virtio-blk", id="vda", drive="n0")
    d.qmp("device_add", driver="virtio-blk-pci", id="vdb", drive="n0")
    d.qmp("query-block")
    prop(d, "vda")
    prop(d, "vda/virtio-backend")
    prop(d, "vda", "type")
    prop(d, "/machine/peripheral/vda", "virtio-backend")
    prop(d, "/machine/peripheral/vda/virtio-backend", "type")
    drive_set(d, "vda", "n1")
    prop(d, "vda")
    d.qmp("device_del", id="vda")
    d.qmp("device_del", id="vda")
    d.qmp("device_del", id="/machine/peripheral/vda/virtio-backend")
    d.qmp("blockdev-del", node_name="n1")
    d.qmp("system_reset")
    d.event("vda/virtio-backend")
    d.event('"device": "vda"')
    d.qmp("blockdev-del", node_name="n1")


@system_scenario
def iothreads_by_their_paths(d: Session) -> None:
    machine(d, "n0")
    disk(d)
    d.qmp("object-add", qom_type="iothread", id="io")
    d.qmp("object-add", qom_type="iothread", id="sda")
    d.qmp("object-add", qom_type="throttle-group", id="group")
    d.qmp("object-add", qom_type="secret", id="s", data="x")
    for number, path in enumerate((
        "io", "/objects/io", "objects/io", "//objects///io/", "io/", "/io", "objects", "io/x",
        "sda", "/machine/peripheral/sda", "group", "/objects/group", "objects/s", "s", "group/",
        "scsi0", "scsi0/virtio-backend", "/machine/peripheral/scsi0", "peripheral/scsi0", "/",
        "machine", "/nope", "objects/nope", "", "Io",
    )):  # fmt: skip
        name = f"t{number}"
        verbatim(d, {"driver": "virtio-scsi", "id": name, "iothread": path})
        prop(d, name, "iothread")


@system_scenario
def controller_unplugged_with_its_disks(d: Session) -> None:
    machine(d, "n0", "n1")
    disk(d)
    disk(d, "sdb", "n1")
    d.qmp("device_del", id="scsi0")
    d.qmp("query-block")
    d.qmp("system_reset")
    d.event('"device": "scsi0"')
    d.qmp("query-block")
    disk(d)


@system_scenario
def device_that_is_refused(d: Session) -> None:
    machine(d, "n0", "n1")
    disk(d)
    disk(d, "sda", "n1")
    disk(d, "sdb", "nope")
    disk(d, "sdb", "")
    d.qmp("device_add", driver="scsi-hd", id="sdb")
    d.qmp("device_add", driver="nope", id="sdb", drive="n1")
    d.qmp("device_add", driver="", id="sdb", drive="n1")
    d.qmp("device_add", id="sdb", drive="n1")
    disk(d, "1x", "n1")
    disk(d, "sdb", "n1", foo="1")
    for bus in ("nope.0", "scsi0", "pci.0", ""):
        disk(d, "sdb", "n1", bus=bus)
    d.qmp("device_add", driver="virtio-blk", id="v", drive="n1", bus="scsi0.0")
    d.qmp("device_add", driver="virtio-scsi", id="scsi0")
    d.qmp("device_add", driver="virtio-scsi", id="scsi9", iothread="io9")
    d.qmp("device-list-properties", typename="virtio-blk")
    d.qmp("device-list-properties", typename="nope")


@system_scenario
def properties_that_are_no_good(d: Session) -> None:
    machine(d, "n0")
    for wrong in (
        {"share-rw": "maybe"},
        {"lun": "x"},
        {"lun": -1},
        {"lun": "4294967296"},
        {"lun": 1.5},
        {"lun": True},
        {"logical_block_size": "100"},
        {"logical_block_size": "1000"},
        {"logical_block_size": "x"},
        {"logical_block_size": 4194304},
        {"physical_block_size": "3k"},
        {"write-cache": "maybe"},
        {"bootindex": "x"},
        {"bootindex": 99999999999},
        {"wwn": "x"},
        {"rerror": "foo"},
        {"rotation_rate": 70000},
        {"min_io_size": -1},
        {"min_io_size": "99999999999999999999"},
        {"drive": 3},
    ):
        verbatim(d, {"driver": "scsi-hd", "id": "s", "drive": "nope"} | wrong)


@system_scenario
def disk_that_does_not_fit(d: Session) -> None:
    machine(d, "n0", "n1", "n2")
    disk(d, lun=5)
    for wrong in (
        {"channel": 1},
        {"scsi-id": 300},
        {"lun": 16384},
        {"scsi-id": 0, "lun": 5},
        {"logical_block_size": "4k"},
        {"discard_granularity": "3"},
        {"min_io_size": "1000"},
        {"opt_io_size": "1000"},
        {"cyls": 1},
        {"secs": 1},
        {"heads": 1},
        {"cyls": 70000, "heads": 1, "secs": 1},
    ):
        verbatim(d, {"driver": "scsi-hd", "id": "sdb", "drive": "n1"} | wrong)
    disk(d, "sdb", "n1", lun=5)
    verbatim(d, {"driver": "scsi-hd", "id": "sdc", "drive": "n2", "scsi-id": 0})
    for name in ("sda", "sdb", "sdc"):
        for what in ("scsi-id", "lun", "channel", "parent_bus", "share-rw", "bootindex"):
            prop(d, name, what)


@system_scenario
def disks_on_one_node(d: Session) -> None:
    machine(d, "n0", "n1")
    disk(d)
    disk(d, "sdb")
    disk(d, None)
    d.qmp("device_add", driver="scsi-cd", id="cd", drive="n0")
    verbatim(d, {"driver": "scsi-hd", "id": "sdb", "drive": "n1", "share-rw": "on"})
    verbatim(d, {"driver": "scsi-hd", "id": "sdc", "drive": "n1", "share-rw": True})
    disk(d, "sdd", "n1")
    d.nbd_server()
    d.qmp("block-export-add", type="nbd", id="e", node_name="n0", writable=True)
    d.qmp("block-export-add", type="nbd", id="e", node_name="n1", writable=True)
    d.qmp("block_resize", node_name="n0", size=1 << 20)
    hmp(d, 'qemu-io n0 "write 0 512"', 'qemu-io n0 "read 0 512"')


@system_scenario
def disk_as_the_target_of_copies(d: Session) -> None:
    machine(d, "n0", "t")
    disk(d, "sdt", "t")
    d.qmp("blockdev-backup", job_id="j", device="n0", target="t", sync="full")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="c", file="n0", target="t")


@system_scenario
def object_tree(d: Session) -> None:
    machine(d, "n0")
    disk(d)
    for path, name in (
        ("/machine/peripheral/sda", "drive"),
        ("sda", "drive"),
        ("peripheral/sda", "drive"),
        ("sda", "type"),
        ("sda", "parent_bus"),
        ("sda", "realized"),
        ("sda", "hotplugged"),
        ("sda", "serial"),
        ("sda", "logical_block_size"),
        ("sda", "nope"),
        ("nope", "drive"),
        ("scsi0", "type"),
        ("scsi0", "hotplugged"),
        ("scsi0", "iothread"),
        ("scsi0", "parent_bus"),
        ("/machine/peripheral/nope", "drive"),
        ("/machine/peripheral/", "type"),
        ("/machine/peripheral", "sda"),
        ("/machine/peripheral", "nope"),
        ("machine", "type"),
        ("/", "type"),
        ("/", "machine"),
        ("", "type"),
        ("/objects", "type"),
    ):
        prop(d, path, name)
    d.qmp("object-add", qom_type="iothread", id="io")
    prop(d, "io", "type")
    prop(d, "/objects", "io")
    d.qmp("device_add", driver="virtio-scsi", id="scsi1", iothread="io")
    prop(d, "scsi1", "iothread")
    d.qmp("object-add", qom_type="iothread", id="sda")
    prop(d, "sda", "type")
    d.qmp("qom-list", path="/machine/peripheral-anon")
    d.qmp("qom-list", path="nope")
    for path, name in (
        ("/machine/peripheral", "type"),
        ("/machine/peripheral", "nope"),
        ("nope", "drive"),
        ("scsi1", "drive"),
    ):
        d.qmp("qom-set", path=path, property=name, value="x")


@system_scenario
def types_of_objects(d: Session) -> None:
    d.qmp("qom-list-properties", typename="nope")
    d.qmp("qom-list-properties", typename="container")
    for name in ("scsi-hd", "virtio-blk-pci", "throttle-group", "container", "nope"):
        d.qmp("qom-list-types", implements=name)


@system_scenario
def device_option_that_is_wrong(d: Session) -> None:
    d.start("-device", "scsi-hd,drive=x", monitor=False)
    d.exited()


@system_scenario
def machine_without_hotplug(d: Session) -> None:
    d.start("-machine", "q35", *CONTROLLER)
    null(d, "n0")
    d.qmp("device_add", driver="virtio-blk", id="vda", drive="n0")
    disk(d)
    d.qmp("device_del", id="scsi0")
    unplug(d, "sda")
    prop(d, "scsi0", "parent_bus")
    prop(d, "/machine", "type")


@system_scenario
def machine_without_a_bus(d: Session) -> None:
    d.start("-machine", "none")
    for driver in ("virtio-blk", "virtio-scsi", "scsi-hd", "nope"):
        d.qmp("device_add", driver=driver, id="x")
    d.qmp("device_add", driver="virtio-blk", id="x", bus="pci.0")
    d.qmp("query-block")


@system_scenario
def what_only_tells_something_is_not_given(d: Session) -> None:
    machine(d, "n0")
    for name in ("type", "parent_bus", "hotplugged", "hotpluggable"):
        verbatim(d, {"driver": "scsi-hd", "id": "sda", "drive": "n0", name: "on"})


@system_scenario
def reset_of_a_stopped_machine_is_a_state_before_its_start(d: Session) -> None:
    machine(d)
    for command in ("cont", "stop", "query-status", "system_reset", "query-status", "stop"):
        d.qmp(command)
    d.qmp("query-status")
