"""The object tree as it is listed: every entry, in the order of QEMU's hash tables."""

from tests.oracle.scenario import scenario, system_scenario
from tests.oracle.session import Session

_DEVICES = (
    "hd", "cd", "blk", "blk/virtio-backend", "scsi", "scsi/virtio-backend",
)  # fmt: skip


def listed(d: Session, *paths: str) -> None:
    for path in paths:
        d.qmp("qom-list", path=path)


def tree(d: Session, *board: str) -> None:
    """Start with a board and some devices, list all that they are below."""
    nodes: list[str] = []
    for number in range(4):
        nodes += ["-blockdev", f"null-co,node-name=n{number}"]
    d.start(
        *board, *nodes, "-object", "iothread,id=io", "-object", "secret,id=s,data=x",
        "-object", "throttle-group,id=tg", "-device", "virtio-scsi-pci,id=scsi",
        "-device", "scsi-hd,id=hd,drive=n0", "-device", "scsi-cd,id=cd,drive=n1",
        "-device", "virtio-blk-pci,id=blk,drive=n2", "-device", "virtio-blk-pci,drive=n3",
    )  # fmt: skip
    places = ("unattached", "peripheral", "peripheral-anon")
    listed(d, "/", "/chardevs", "/machine", *(f"/machine/{place}" for place in places))
    listed(d, *(f"/machine/peripheral/{name}" for name in _DEVICES))
    listed(d, "/objects", "/objects/io", "/objects/s", "/objects/tg")


@system_scenario
def qom_list_of_a_pc(d: Session) -> None:
    tree(d)
    listed(d, "/machine/peripheral-anon/device[0]")
    for name in ("legacy-addr", "virtio-bus", "msix-pba[0]", "parent_bus"):
        d.qmp("qom-get", path="/machine/peripheral/blk", property=name)
    for name in ("blk", "scsi"):
        inner = f"/machine/peripheral/{name}/virtio-backend"
        d.qmp("qom-get", path=inner, property="legacy-iothread")
        d.qmp("qom-set", path=inner, property="legacy-iothread", value="io")
    d.qmp("qom-set", path="/machine/peripheral/blk", property="legacy-addr", value="06.0")
    d.qmp("qom-get", path="/machine/unattached", property="device[3]")
    d.qmp("qom-get", path="/", property="chardevs")
    d.qmp("device_del", id="/machine/unattached/sysbus")
    for name in ("scsi-hd", "scsi-cd", "virtio-blk-device", "virtio-scsi-device"):
        d.qmp("qom-list-properties", typename=name)
    for name in ("iothread", "secret", "throttle-group"):
        d.qmp("qom-list-properties", typename=name)


@system_scenario
def qom_list_of_a_q35(d: Session) -> None:
    tree(d, "-machine", "q35")


@system_scenario
def qom_list_of_an_empty_machine(d: Session) -> None:
    d.start("-machine", "none")
    listed(d, "/", "/objects", "/machine", "/machine/unattached", "/machine/peripheral")
    d.qmp("object-add", qom_type="iothread", id="io")
    listed(d, "/", "/objects")
    d.qmp("object-del", id="io")
    listed(d, "/", "/objects")


@system_scenario
def qom_list_of_many_objects(d: Session) -> None:
    d.start("-machine", "none")
    for number in range(24):
        d.qmp("object-add", qom_type="secret", id=f"object-{number}", data="x")
        listed(d, "/objects")


@system_scenario
def chardevs_in_their_order(d: Session) -> None:
    given: list[str] = []
    for name in ("zero", "a", "chardev", "b", "m2", "last"):
        given += ["-chardev", f"null,id={name}"]
    d.start("-machine", "none", *given)
    d.qmp("query-chardev")
    listed(d, "/chardevs")


@scenario
def qom_list_of_a_storage_daemon(d: Session) -> None:
    listed(d, "/", "/chardevs", "/objects")
    for name in ("b", "a", "tg"):
        d.qmp("object-add", qom_type="throttle-group", id=name)
    listed(d, "/", "/objects", "/objects/b")


@system_scenario
def paths_that_more_than_one_object_has(d: Session) -> None:
    d.start("-device", "virtio-scsi-pci,id=a", "-device", "virtio-scsi-pci,id=b")
    d.qmp("object-add", qom_type="secret", id="a", data="x")
    for path in ("a", "b", "virtio-bus", "b/virtio-bus", "peripheral/a", "", "/", "none"):
        d.qmp("qom-get", path=path, property="type")
        if path in {"a", "virtio-bus", "", "none"}:
            d.qmp("qom-list", path=path)
