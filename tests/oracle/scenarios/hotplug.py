"""Devices plugged in where and as they should not be."""

from tests.oracle.scenario import system_scenario
from tests.oracle.scenarios.devices import CONTROLLER, disk, machine, null, prop, unplug, verbatim
from tests.oracle.session import Session


@system_scenario
def arguments_of_devices_that_are_no_text(d: Session) -> None:
    machine(d, "n0", "n1")
    for wrong in (
        {"id": 1},
        {"id": None},
        {"id": True},
        {"id": ["a"]},
        {"id": {"a": 1}},
        {"id": ""},
        {"id": 1, "driver": "nope"},
        {"driver": 1},
        {"driver": None},
        {"bus": 1},
        {"bus": None},
        {"bus": True},
        {"bus": {}},
        {"bus": 1, "driver": "nope"},
        {"bus": 1, "id": 1},
        {"id": "x", "lun": None},
        {"id": "y", "lun": []},
        {"id": "z", "lun": {}},
        {"id": "y", "lun": [], "foo": 1},
        {"foo": []},
        {"foo": None},
        {"drive": []},
        {"drive": None},
        {"drive": {"a": 1}},
        {"serial": 3},
        {"serial": []},
    ):
        verbatim(d, {"driver": "scsi-hd", "drive": "n0"} | wrong)
        d.qmp("qom-list", path="/machine/peripheral")
        d.qmp("qom-list", path="/machine/peripheral-anon")


@system_scenario
def bus_given_as_a_path(d: Session) -> None:
    d.start(*CONTROLLER, "-device", "virtio-scsi-pci")
    for number in range(12):
        null(d, f"n{number}")
    for number, bus in enumerate(
        (
            "/machine/peripheral/scsi0/virtio-backend/scsi0.0",
            "/",
            "//",
            "/pci.0",
            "/i440fx",
            "/pci.0/scsi0",
            "pci.0/scsi0",
            "pci.0/scsi0/virtio-bus",
            "pci.0/scsi0/virtio-bus/virtio-scsi-device",
            "pci.0/scsi0/virtio-bus/virtio-scsi-device/scsi0.0",
            "/i440FX-pcihost/pci.0/scsi0/virtio-bus/virtio-scsi-device/scsi0.0",
            "/i440fx/pci.0",
            "scsi0",
            "scsi0/scsi0.0",
            "scsi0.0/",
            "scsi.0",
            "scsi.1",
            "main-system-bus",
            "main-system-bus/pci.0",
            "virtio-bus",
            "pci",
            "PCI",
            "SCSI",
            "scsi",
            "isa.0",
            "ide.0",
            "/machine/peripheral-anon/device[0]/virtio-backend/scsi.0",
            "",
        )
    ):
        disk(d, f"s{number}", f"n{number % 12}", bus=bus)
        prop(d, f"s{number}", "parent_bus")
    for bus in ("/", "pci.0", "/i440FX-pcihost/pci.0", "/pci.0", "isa.0", "main-system-bus"):
        d.qmp("device_add", driver="virtio-blk", drive="n11", bus=bus)


@system_scenario
def more_devices_than_slots(d: Session) -> None:
    d.start(*CONTROLLER)
    for number in range(33):
        d.qmp("device_add", driver="virtio-scsi-pci", id=f"c{number}")
    prop(d, "c0", "addr")
    prop(d, "c26", "addr")
    d.qmp("device_del", id="c5")
    d.qmp("device_add", driver="virtio-scsi-pci", id="again")
    d.qmp("system_reset")
    d.event('"device": "c5"')
    d.qmp("device_add", driver="virtio-scsi-pci", id="again")


@system_scenario
def slots_that_are_asked_for(d: Session) -> None:
    d.start(*CONTROLLER)
    texts = [
        *("5", "5", "05.0", "5.1", "0", "0.0", "1", "1.1", "1.2", "2", "2.0", "3", "1f", "20"),
        *("-1", "5.8", "6.7", "6", "6.0", "x", "0x9", "1.4", "1.5"),
    ]
    for number, slot in enumerate(("", *texts, 7, "7.1", 63, 64, -1, -2, 255, 256)):
        verbatim(d, {"driver": "virtio-scsi-pci", "id": f"c{number}", "addr": slot})
        prop(d, f"c{number}", "addr")
    verbatim(d, {"driver": "virtio-scsi-pci", "id": "m", "addr": "10", "multifunction": True})
    verbatim(d, {"driver": "virtio-scsi-pci", "id": "m1", "addr": "10.1"})
    verbatim(d, {"driver": "virtio-scsi-pci", "id": "m2", "addr": "11.1"})
    verbatim(d, {"driver": "virtio-scsi-pci", "id": "m3", "addr": "11.0"})
    verbatim(d, {"driver": "virtio-scsi-pci", "id": "m4", "addr": "10.0"})
    verbatim(d, {"driver": "virtio-scsi-pci", "id": "m5", "addr": "12", "multifunction": "x"})


@system_scenario
def too_many_devices_on_the_command_line(d: Session) -> None:
    d.run_with_input(
        b"",
        *("-nodefaults", "-display", "none", "-S"),
        *(word for _ in range(33) for word in ("-device", "virtio-scsi-pci")),
    )
    d.run_with_input(
        b"",
        *("-nodefaults", "-display", "none", "-S"),
        *(word for _ in range(2) for word in ("-device", "virtio-scsi-pci,addr=4")),
    )


@system_scenario
def buses_of_a_newer_machine(d: Session) -> None:
    d.start("-machine", "q35", *CONTROLLER)
    null(d, "n0")
    for bus in ("pcie.0", "/q35-pcihost/pcie.0", "ide.0", "isa.0", "scsi0.0", "nope"):
        disk(d, "s", "n0", bus=bus)
        unplug(d, "s", 0)
        d.qmp("device_add", driver="virtio-blk", drive="n0", bus=bus)
