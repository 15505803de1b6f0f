"""Drives of the command line: their nodes, backends, devices, and what is refused."""

from tests.oracle.scenario import system_scenario
from tests.oracle.session import Session


def images(d: Session) -> None:
    """Make a raw disk, a qcow2 image, and one on top of that."""
    d.file("d.raw", 1 << 20)
    create = ("qemu-img", "create", "-q", "-f", "qcow2")
    d.tool(*create, "d.qcow2", "1M")
    d.tool(*create, "-b", "d.qcow2", "-F", "qcow2", "o.qcow2")


def look(d: Session, *drives: str) -> None:
    """Start with drives, and show what they have become."""
    images(d)
    d.start(*(word for drive in drives for word in ("-drive", drive)))
    d.qmp("query-block")
    d.qmp("query-named-block-nodes", flat=True)


def refused(d: Session, *drives: str) -> None:
    """Start once with each drive; every one is refused."""
    images(d)
    for drive in drives:
        d.run_with_input(b"", *("-nodefaults", "-display", "none", "-S", "-drive", drive))


@system_scenario
def drive_without_format_is_probed(d: Session) -> None:
    look(d, "if=none,id=x,file=d.qcow2")


@system_scenario
def drive_with_cache_none(d: Session) -> None:
    look(d, "if=none,id=x,file=d.raw,format=raw,cache=none,aio=native")


@system_scenario
def drive_with_cache_unsafe(d: Session) -> None:
    look(d, "if=none,id=x,file=d.raw,format=raw,cache=unsafe")


@system_scenario
def drive_that_is_read_only(d: Session) -> None:
    look(d, "if=none,id=x,file=d.raw,format=raw,readonly=on")


@system_scenario
def drive_with_a_medium_for_reading(d: Session) -> None:
    look(d, "if=none,id=x,file=d.raw,format=raw,media=cdrom", "if=none,id=e,media=cdrom")


@system_scenario
def drive_with_named_nodes(d: Session) -> None:
    look(d, "if=none,id=x,file=d.raw,driver=raw,node-name=nn,file.node-name=ff,discard=unmap")


@system_scenario
def drive_on_blkdebug(d: Session) -> None:
    look(d, "if=none,id=x,driver=qcow2,file.driver=blkdebug,file.image.filename=d.qcow2")
    d.qmp("human-monitor-command", command_line='qemu-io x "write -P 7 0 64k"')


@system_scenario
def drive_with_another_backing_file(d: Session) -> None:
    look(d, "file=o.qcow2,if=none,id=x,backing.driver=raw,backing.file.filename=d.raw")


@system_scenario
def drive_whose_guest_is_virtio(d: Session) -> None:
    look(d, "if=virtio,file=d.qcow2,format=qcow2", "if=virtio,id=second,file=d.raw,format=raw")
    d.qmp("blockdev-del", node_name="second")


@system_scenario
def drive_given_as_json(d: Session) -> None:
    look(d, 'if=none,id=x,file=json:{"driver":"qcow2",,"file.filename":"d.qcow2"}')


@system_scenario
def drive_options_that_are_refused(d: Session) -> None:
    image = "if=none,id=x,format=raw,file=d.raw"
    refused(
        d,
        "if=bogus",
        "if=virtio",
        "if=sd,format=raw,file=d.raw",
        "if=none,format=raw",
        "if=none,node-name=q",
        "if=none,id=x,file=/no/such",
        "if=none,id=x,file=foo:bar,format=raw",
        "if=none,id=x,file=json:{",
        "if=none,id=x,file.driver=foo",
        "if=none,id=1,format=raw,file=d.raw",
        "if=none,id=x,format=bogus,file=d.raw",
        "if=none,id=x,driver=qcow2,file=d.raw",
        *(f"{image},{more}" for more in _REFUSED),
        *(f"if=none,id=x,file=o.qcow2,{more}" for more in _REFUSED_QCOW2),
    )


_REFUSED = (
    "driver=raw",
    "bogus=1",
    "file.bogus=1",
    "size=abc",
    "cache=foo",
    "cache.direct=foo",
    "cache.writeback=foo",
    "aio=foo",
    "aio=native",
    "discard=foo",
    "detect-zeroes=foo",
    "werror=foo",
    "rerror=enospc",
    "media=foo",
    "snapshot=foo",
    "readonly=foo",
    "readonly=on,read-only=off",
    "index=1,unit=1",
    "bus=a",
    "node-name=x",
    "serial=x",
)
_REFUSED_QCOW2 = (
    "backing=foo",
    "backing.bogus=1",
    "lazy-refcounts=foo",
    "l2-cache-size=foo",
)


@system_scenario
def drives_in_the_same_place(d: Session) -> None:
    images(d)
    words = ("-nodefaults", "-display", "none", "-S", "-drive", "if=virtio,file=d.raw,format=raw")
    d.run_with_input(b"", *words, "-drive", "if=virtio,index=0,file=d.qcow2")
