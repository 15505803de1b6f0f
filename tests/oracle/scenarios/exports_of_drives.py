"""Exports of a drive by its name (nbd-server-add), and what happens to the drive meanwhile."""

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator

from tests.oracle.scenario import system_scenario
from tests.oracle.session import Session


def _start(d: Session) -> None:
    """Start with a drive ``cd`` whose medium is the node ``n``, in the device ``dev``."""
    d.file("a.img", 1 << 20, (0x11, 0, 4096))
    d.file("b.img", 1 << 20, (0x22, 0, 4096))
    drive = "if=none,id=cd,format=raw,node-name=n,media=cdrom,file=" + d.path("a.img")
    d.start("-device", "virtio-scsi", "-drive", drive, "-device", "scsi-cd,id=dev,drive=cd")
    d.nbd_server()


def _look(d: Session) -> None:
    d.qmp("query-block-exports")
    d.qmp("query-named-block-nodes", flat=True)


@system_scenario
def export_of_a_drive_that_is_ejected(d: Session) -> None:
    _start(d)
    d.qmp("nbd-server-add", device="cd")
    d.qmp("nbd-server-add", device="cd", name="second")
    d.qmp("nbd-server-add", device="n")
    d.qmp("block-export-add", type="nbd", id="e", name="e", node_name="n")
    _look(d)
    d.qmp("eject", device="cd")
    d.event('"second"')
    _look(d)
    d.qmp("eject", device="cd")


@system_scenario
def export_of_a_drive_that_is_ejected_has_clients(d: Session) -> None:
    _start(d)
    d.qmp("nbd-server-add", device="cd")
    client = d.nbd("cd")
    client.request(0, 0, 512)
    d.qmp("eject", id="dev")
    d.event("BLOCK_EXPORT_DELETED")
    client.end()
    _look(d)
    d.qmp("nbd-server-remove", name="cd")
    d.qmp("nbd-server-add", device="cd")


@system_scenario
def export_of_a_drive_whose_medium_is_removed(d: Session) -> None:
    _start(d)
    d.qmp("nbd-server-add", device="cd")
    d.qmp("blockdev-remove-medium", id="dev")
    _look(d)
    d.qmp("blockdev-open-tray", id="dev")
    d.qmp("blockdev-remove-medium", id="dev")
    d.event("BLOCK_EXPORT_DELETED")
    _look(d)


@system_scenario
def export_of_a_drive_whose_medium_is_changed(d: Session) -> None:
    _start(d)
    d.qmp("nbd-server-add", device="cd")
    d.qmp("blockdev-change-medium", id="dev", filename=d.path("b.img"), format="raw")
    d.event("BLOCK_EXPORT_DELETED")
    d.qmp("query-block-exports")
    d.qmp("nbd-server-add", device="cd")
    d.qmp("blockdev-change-medium", id="dev", filename="missing", format="raw")
    d.qmp("query-block-exports")
    client = d.nbd("cd")
    client.request(0, 0, 16)


@contextlib.contextmanager
def _in_use(path: str) -> Iterator[None]:
    """Hold a file as another program would that writes to it alone."""
    with open(path, "rb") as file:
        for byte in (100, 101, 201):
            lock = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0)
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)
        yield


@system_scenario
def export_of_a_drive_whose_next_medium_is_refused(d: Session) -> None:
    path, drive = d.file("b.img", 1 << 20), "if=none,id=fd,format=raw,node-name=n,file="
    d.start("-machine", "pc", "-drive", drive + d.file("a.img"), "-device", "floppy,drive=fd")
    d.nbd_server()
    d.qmp("nbd-server-add", device="fd")
    d.qmp("nbd-server-add", device="n")
    change = {"filename": path, "format": "raw", "read_only_mode": "read-write"}
    with _in_use(path):
        d.qmp("blockdev-change-medium", device="fd", **change)
        _look(d)
        d.qmp("nbd-server-add", device="fd", name="again")
    d.qmp("blockdev-change-medium", device="fd", **change)
    d.qmp("nbd-server-add", device="fd", name="again")
    _look(d)


@system_scenario
def export_of_a_drive_whose_device_is_deleted(d: Session) -> None:
    drive = "if=none,id=hd,format=raw,node-name=n,file=" + d.file("a.img", 1 << 20)
    d.start("-device", "virtio-scsi", "-drive", drive, "-device", "scsi-hd,id=dev,drive=hd")
    d.nbd_server()
    d.qmp("nbd-server-add", device="hd")
    d.qmp("device_del", id="dev")
    d.event("DEVICE_DELETED")
    d.qmp("query-block-exports")
