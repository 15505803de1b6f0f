# SPDX-License-Identifier: GPL-2.0-or-later
"""Test image-fleecing: a backup client reads the past of a disk while its guest writes.

Five ways to build the graph, each checked with the same reads and guest writes:

- backup: a job with sync=none copies what the guest is about to overwrite;
- filter: copy-before-write sits between the guest's device and its disk;
- access: the same, and the client reads through snapshot-access, so the copies may be raw;
- bitmap: the same, but only what a bitmap lists can be read;
- push: a second job reads through snapshot-access and writes a complete image.
"""

import dataclasses
from typing import Final

from iotests.output import heading, log, say, scratch
from iotests.programs import create, qemu_img, qemu_io, qemu_io_write
from iotests.vm import VM

#: (byte, offset, length) as qemu-io's read and write take them.
Pattern = tuple[str, str, str]

BEFORE: Final[list[Pattern]] = [
    ("0x5d", "0", "64k"),
    ("0xd5", "1M", "64k"),
    ("0xdc", "32M", "64k"),
    ("0xcd", "0x3ff0000", "64k"),  # the last cluster
]
#: Partly over what was there, and over a cluster's border.
OVERWRITE: Final[list[Pattern]] = [
    ("0xab", "0", "64k"),
    ("0xad", "0x00f8000", "64k"),
    ("0x1d", "0x2008000", "64k"),
    ("0xea", "0x3fe0000", "64k"),
]
#: What the overwriting hits that was never written.
ZEROES: Final[list[Pattern]] = [
    ("0", "0x00f8000", "32k"),
    ("0", "0x2010000", "32k"),
    ("0", "0x3fe0000", "64k"),
]
#: What the overwriting leaves of the patterns before.
REMAINDER: Final[list[Pattern]] = [
    ("0xd5", "0x108000", "32k"),
    ("0xdc", "32M", "32k"),
    ("0xcd", "0x3ff0000", "64k"),
]

DISK: Final = "/machine/peripheral/sda"


@dataclasses.dataclass(frozen=True)
class Fleecing:
    """One way to fleece."""

    title: str
    cbw: bool = True  #: a filter under the device, not a backup job
    access: bool = True  #: read through snapshot-access, not the node with the copies
    bitmap: bool = False
    push: bool = False

    @property
    def exported(self) -> str:
        """The node at which the past is read."""
        return "fl-access" if self.access else "temp"


CASES: Final = [
    Fleecing("backup(sync=none) based fleecing", cbw=False, access=False),
    Fleecing("cbw-filter based fleecing", access=False),
    Fleecing("fleecing-format based fleecing"),
    Fleecing("fleecing-format based fleecing with bitmap", bitmap=True),
    Fleecing("push backup with fleecing", push=True),
]


class Run:
    """The steps of one case."""

    def __init__(self, case: Fleecing) -> None:
        self.case = case
        self.base = scratch("base.img")
        self.temp = scratch("fleece.img")
        self.target = scratch("target.img")
        self.nbd = scratch("nbd.sock")
        self.temp_format = "raw" if case.access else "qcow2"

    def go(self) -> None:
        """Run all steps."""
        say(f"=== Test {self.case.title} ===")
        self.make_images()
        heading("Launching VM")
        disk = f"driver=qcow2,file.driver=file,file.filename={self.base},node-name=source"
        controller, device = "virtio-scsi", "scsi-hd,id=sda,drive=source"
        with VM("-blockdev", disk, "-device", controller, "-device", device) as vm:
            say("Done")
            self.set_up(vm)
            if self.case.push:
                self.start_push(vm)
            else:
                self.export(vm)
                heading("Sanity Check")
                self.read_past()
            self.overwrite(vm)
            if self.case.push:
                self.finish_push(vm)
            heading("Verifying Data")
            self.read_past()
            self.clean_up(vm)
        heading("Confirming writes")
        for pattern in OVERWRITE + REMAINDER:
            read(self.base, pattern, "qcow2")
        say("\nDone")

    def make_images(self) -> None:
        """Make the disk with its patterns, and the images that take copies."""
        heading("Setting up images")
        create(self.base)
        if self.case.bitmap:
            qemu_img("bitmap", "--add", self.base, "bitmap0")
        for byte, offset, length in BEFORE:
            qemu_io_write(self.base, f"write -P{byte} {offset} {length}")
        create(self.temp, self.temp_format)
        if self.case.push:
            create(self.target)
        say("Done")

    def set_up(self, vm: VM) -> None:
        """Build what keeps the past of node `source`."""
        heading("Setting up Fleecing Graph")
        node = image_node("temp", self.temp_format, self.temp)
        if not self.case.access:
            node["backing"] = "source"
        log(vm.qmp("blockdev-add", **node))
        if not self.case.cbw:
            log(
                vm.qmp(
                    "blockdev-backup",
                    job_id="fleecing",
                    device="source",
                    target="temp",
                    sync="none",
                    x_perf={"max-workers": 1},
                )
            )
            return
        chosen = {"bitmap": {"node": "source", "name": "bitmap0"}} if self.case.bitmap else {}
        cbw = {"driver": "copy-before-write", "file": "source", "target": "temp"} | chosen
        log(vm.qmp("blockdev-add", node_name="fl-cbw", **cbw))
        put_under_disk(vm, "fl-cbw")
        if self.case.access:
            log(
                vm.qmp(
                    "blockdev-add",
                    node_name="fl-access",
                    driver="snapshot-access",
                    file="fl-cbw",
                )
            )

    def export(self, vm: VM) -> None:
        """Serve the past over NBD."""
        heading("Setting up NBD Export")
        address = {"type": "unix", "data": {"path": self.nbd}}
        log(vm.qmp("nbd-server-start", addr=address))
        log(vm.qmp("nbd-server-add", device=self.case.exported))

    def start_push(self, vm: VM) -> None:
        """Start a backup of the past that does not finish before the guest writes."""
        heading("Starting actual backup")
        log(vm.qmp("blockdev-add", **image_node("target", "qcow2", self.target)))
        log(
            vm.qmp(
                "blockdev-backup",
                job_id="push-backup",
                device=self.case.exported,
                target="target",
                sync="full",
                speed=1,  # byte per second
                x_perf={"max-workers": 1},
            )
        )

    def overwrite(self, vm: VM) -> None:
        """Write as the guest does."""
        heading("Testing COW")
        for byte, offset, length in OVERWRITE:
            command = f"write -P{byte} {offset} {length}"
            say(command)
            log(vm.qemu_io(f"-d {DISK}", command))

    def finish_push(self, vm: VM) -> None:
        """Let the backup go on at full speed to its end."""
        vm.command("block-job-set-speed", device="push-backup", speed=0)
        log(vm.wait_for("BLOCK_JOB_COMPLETED"))
        log(vm.qmp("blockdev-del", node_name="target"))

    def read_past(self) -> None:
        """Read, as the backup client, what the disk held at the start."""
        uri = f"nbd+unix:///{self.case.exported}?socket={self.nbd}"
        image, fmt = (self.target, "qcow2") if self.case.push else (uri, "raw")
        for pattern in BEFORE + ZEROES:
            read(image, pattern, fmt)

    def clean_up(self, vm: VM) -> None:
        """Take apart what was set up, backwards."""
        heading("Cleanup")
        if not self.case.push:
            log(vm.qmp("nbd-server-stop"))
        if self.case.access:
            log(vm.qmp("blockdev-del", node_name="fl-access"))
        if self.case.cbw:
            put_under_disk(vm, "source")
            log(vm.qmp("blockdev-del", node_name="fl-cbw"))
        else:
            log(vm.qmp("block-job-cancel", device="fleecing"))
            log(vm.wait_for("BLOCK_JOB_CANCELLED"))
        log(vm.qmp("blockdev-del", node_name="temp"))


def image_node(name: str, fmt: str, path: str) -> dict[str, object]:
    """Describe a node over an image file, as blockdev-add takes it."""
    return {"node_name": name, "driver": fmt, "file": {"driver": "file", "filename": path}}


def put_under_disk(vm: VM, node: str) -> None:
    """Replace, live, the node that the guest's disk reads and writes."""
    log(vm.qmp("qom-set", path=DISK, property="drive", value=node))


def read(image: str, pattern: Pattern, fmt: str) -> None:
    """Read a range and check its bytes with qemu-io; print the command, and a failure."""
    byte, offset, length = pattern
    command = f"read -P{byte} {offset} {length}"
    say(command)
    if failure := qemu_io(image, command, fmt=fmt):
        say(failure)


def main() -> None:
    """Run all cases."""
    for case in CASES:
        Run(case).go()
