"""Options about the machine that QEMU refuses, and numbers in all places where there are some."""

from typing import Final

from tests.oracle.scenario import long, system_scenario
from tests.oracle.scenarios.devices import verbatim
from tests.oracle.scenarios.long_numbers import LONG, ZEROES
from tests.oracle.session import Session

#: What QEMU keeps of a line in a file of options is shorter.
_LONG_IN_FILE: Final = "1" * 900


def _starts(d: Session, option: str, *values: str) -> None:
    """Start with each value; an unknown device ends those that are taken."""
    for value in values:
        d.start(option, *value.split(" "), "-device", "zzz", monitor=False)
        d.exited()


@long
@system_scenario
def processors(d: Session) -> None:
    _starts(
        d, "-smp", "foo=1", "foo", "1k", "300", "-1", "maxcpus=300", LONG,
        "cpus=9223372036854775808", "cpus=-9223372036854775809", "2,cores=0x", "cores=x,foo=1",
        "1 -smp cores=x", "foo=1 -accel foo", "foo=1 -drive if=none,file=none",
        "2 -machine none", "300 -machine q35", "4294967297", "4294967297,maxcpus=1", "maxcpus=2",
        "1000000000,maxcpus=1", "2,maxcpus=1", "2,maxcpus=4294967297", "cpus=-1,maxcpus=2",
        "4,sockets=3", "4,cores=3", "6,threads=4", "4,dies=3", "4,dies=2,cores=2",
        "4,sockets=2,cores=2,threads=2", "sockets=2,cores=4", "sockets=20,cores=20",
        "5,sockets=2,maxcpus=4", "3,maxcpus=2,cores=1", "4,sockets=9", "sockets=3,maxcpus=5",
    )  # fmt: skip


@system_scenario
def devices_in_json(d: Session) -> None:
    """They are made after the others; what is wrong with one is found out then."""
    for name in ("{}", "[]", "5", "null"):
        _starts(d, "-device", f'{{"driver":"virtio-scsi","id":{name}}}')
    for driver in ("[]", "{}", "null", "5", "true", '"foo"'):
        _starts(d, "-device", f'{{"driver":{driver}}}')
        d.start("-device", f'{{"driver":{driver}}}', monitor=False)
        d.exited()
    first, bus, last = '{"driver":"virtio-scsi","id":"a"}', "virtio-scsi,id=a", '{"driver":"zzz"}'
    for devices in (
        (first, first),
        (first, bus),
        (first, "scsi-cd"),
        ('{"driver":"scsi-cd"}', bus),
    ):
        words = [word for device in (*devices, last) for word in ("-device", device)]
        d.start(*words, monitor=False)
        d.exited()


@system_scenario
def display_adapters(d: Session) -> None:
    _starts(
        d, "-vga", "foo", "stdx", "std,retrace=dumb", "std,foo", "foo -vga std",
        "foo -drive if=none,file=none", "foo -smp foo=1", "foo -accel foo",
    )  # fmt: skip


@system_scenario
def memory_sizes(d: Session) -> None:
    _starts(
        d, "-m", "64x", "1G,foo=2", "1G,slots=x", "1G,maxmem=x", "slots=x,foo=1", LONG,
        "99999999999G", "1G,maxmem=0x10000000000000000", "1G,foo=2 -m 64x", "1G,maxmem=2G",
    )  # fmt: skip


@long
@system_scenario
def numbers_of_descriptors(d: Session) -> None:
    _starts(
        d, "-add-fd", f"fd={LONG},set=1", "fd=0x70,set=1", "fd=0170,set=0", "fd=09,set=0",
        "fd=4294967301,set=1", "fd=18446744073709551615,set=1", f"fd={ZEROES}2,set=1",
        f"fd=2,set={LONG}", "fd=1_0,set=1", "fd=5,set=1", "fd=9223372036854775807,set=1",
    )  # fmt: skip


@system_scenario
def numbers_of_device_properties(d: Session) -> None:
    d.start()
    for number in (f"-{LONG}", "-1", "08", "0x", "1_0", "+5x", "0x1x"):
        verbatim(d, {"driver": "virtio-scsi", "num_queues": number})
    for size in (
        *(
            LONG,
            "1.1111111111111111111111k",
            "0x11111111111111111",
            "0.5k",
            "5.k",
            ".5k",
            "+513",
            "0.1",
            "1e3",
            "16E",
        ),
        *("0x201", "0x", "512.", "0.5000001k", "1.5b"),
    ):
        verbatim(d, {"driver": "virtio-blk-pci", "logical_block_size": size})
    for address in ("+5", "-1", " 5", "+0x5.+3", "5.8"):
        d.qmp("device_add", driver="virtio-blk-pci", addr=address)


@long
@system_scenario
def numbers_of_drives(d: Session) -> None:
    d.file("d.raw", 1 << 20)
    for name, number in (
        ("long", _LONG_IN_FILE), ("zeroes", "0" * 900), ("octal", "09"), ("hex", "0x"),
        ("longhex", f"0x{_LONG_IN_FILE}"), ("binary", "0b1"), ("sign", "+5"), ("space", " 5"),
        ("largest", "18446744073709551615"), ("larger", "-18446744073709551616"),
    ):  # fmt: skip
        with open(d.path(name), "w") as file:
            file.write(f'[inject-error]\nevent = "read_aio"\nerrno = "{number}"\n')
        _starts(d, "-drive", f"if=none,format=raw,file=blkdebug:{name}:d.raw")
    _starts(
        d, "-drive",
        *(
            f"if=none,driver=raw,file=d.raw,{option}"
            for option in (
                f"index={LONG}", "index=1_0", f"index=0x{LONG}", "bus=0o7", f"size=0x{LONG}",
                "size=0x10000000000000000", "offset=0x10000000000000000k", "size=0x",
            )
        ),
    )  # fmt: skip


@system_scenario
def disks_of_two_devices_with_wrong_sizes(d: Session) -> None:
    d.qmp("blockdev-add", driver="null-co", node_name="n", read_zeroes=True)
    disk = {"driver": "virtio-blk-pci", "id": "disk", "drive": "n"}
    for size in (3, 513, "4M"):
        verbatim(d, disk | {"logical_block_size": size})
        verbatim(d, disk | {"physical_block_size": size})
    for size in (0, 1, 2, 3, 5, 1025, 2048, 65535):
        d.qmp("device_add", **disk, queue_size=size)
    for count in (0, 65535, 2000):
        d.qmp("device_add", **disk, num_queues=count)
    d.qmp("device_add", **disk, queue_size=4)
