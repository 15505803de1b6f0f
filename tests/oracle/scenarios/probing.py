"""Disks whose format nobody has said: what is printed, and what may not be written to them."""

import struct

from tests.oracle.scenario import scenario, system_scenario
from tests.oracle.scenarios.drive_backup import backup
from tests.oracle.session import Session

MIB = 1 << 20
BOCHS = b"Bochs Virtual HD Image".ljust(32, b"\0") + b"Redolog".ljust(16, b"\0")
CLOOP = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"
TWO = struct.pack("<I", 2)
#: What a disk may begin with.
STARTS = {
    "qcow2": b"QFI\xfb\0\0\0\2",
    "qcow2 3": b"QFI\xfb\0\0\0\3",
    "qcow2 9": b"QFI\xfb\0\0\0\x09",
    "qcow": b"QFI\xfb\0\0\0\1",
    "qcow2 0": b"QFI\xfb",
    "qcow2 0 and vdi": b"QFI\xfb" + bytes(60) + struct.pack("<I", 0xBEDA107F),
    "qed": b"QED\0",
    "luks": b"LUKS\xba\xbe\0\1",
    "luks 2": b"LUKS\xba\xbe\0\2",
    "vpc": b"conectix",
    "vhdx": b"vhdxfile",
    "vmdk": b"KDMV",
    "vmdk 3": b"COWD",
    "vmdk text": b"# Disk DescriptorFile\nversion=1\n",
    "vmdk text 4": b"# Disk DescriptorFile\nversion=4\n",
    "vmdk text of a DOS": b"# Disk DescriptorFile\r\nversion=3\r\n",
    "vmdk text alone": b"version=2\n",
    "vmdk text with spaces": b"  \n# x\nversion=2\n",
    "vmdk text with an empty line": b"# x\n\nversion=2\n",
    "vmdk text, a space before": b"# x\n version=2\n",
    "vmdk text, a space behind": b"# x\nversion=2 \n",
    "vmdk text without an end": b"# x\nversion=2",
    "vdi": bytes(64) + struct.pack("<I", 0xBEDA107F),
    "parallels": b"WithoutFreeSpace" + TWO,
    "parallels extended": b"WithouFreSpacExt" + TWO,
    "parallels 3": b"WithoutFreeSpace" + struct.pack("<I", 3),
    "bochs": BOCHS + b"Growing".ljust(16, b"\0") + struct.pack("<I", 0x20000),
    "bochs 1": BOCHS + b"Growing".ljust(16, b"\0") + struct.pack("<I", 0x10000),
    "bochs 3": BOCHS + b"Growing".ljust(16, b"\0") + struct.pack("<I", 0x30000),
    "bochs undoable": BOCHS + b"Undoable".ljust(16, b"\0") + struct.pack("<I", 0x20000),
    "cloop": CLOOP,
    "cloop, the beginning": CLOOP[:40],
    "a boot sector": b"\xeb\x63\x90",
    "a program": b"\x7fELF",
}


def io(d: Session, line: str, name: str = "d0") -> None:
    d.qmp("human-monitor-command", command_line=f'qemu-io {name} "{line}"')


def drive(d: Session, more: str = "") -> None:
    d.file("disk.raw", MIB)
    d.start("-drive", f"if=none,id=d0,node-name=r,file=disk.raw{more}")


@system_scenario
def probed_disk_must_stay_raw(d: Session) -> None:
    drive(d)
    for number, (what, start) in enumerate(STARTS.items()):
        (d.dir / f"s{number}").write_bytes(start.ljust(512, b"\0"))
        d.transcript.add(f"# {what}")
        io(d, f"write -q -s {d.path(f's{number}')} 0 512")


@system_scenario
def probed_disk_is_guarded_in_its_first_sector(d: Session) -> None:
    drive(d)
    (d.dir / "magic").write_bytes(STARTS["qcow2"].ljust(4096, b"\0"))
    magic = d.path("magic")
    for line in (
        f"write -q -s {magic} 512 512",
        f"write -q -s {magic} 0 4096",
        f"write -q -s {magic} 0 8",
        "write -q -P 0x51 0 4096",
        "write -q -P 0x46 1 1",
        "write -q -P 0x49 2 1",
        "write -q -P 0xfb 3 1",
        "write -q -P 0 4 3",
        "write -q -P 2 7 1",
        "read -q -P 0x51 0 1",
        "read -q -P 0x51 7 1",
        "write -q -z 0 4096",
        "discard -q 0 4096",
        "reopen -r",
        "reopen -w",
        f"write -q -s {magic} 0 512",
    ):
        io(d, line)
    d.qmp("blockdev-add", driver="raw", node_name="over", file="r")
    io(d, f"write -q -s {magic} 0 512", "over")
    d.qmp("query-named-block-nodes", flat=True)


@system_scenario
def disk_said_to_be_raw_takes_anything(d: Session) -> None:
    drive(d, ",format=raw")
    (d.dir / "magic").write_bytes(STARTS["qcow2"].ljust(512, b"\0"))
    io(d, f"write -q -s {d.path('magic')} 0 512")
    d.content("disk.raw")


@system_scenario
def probed_disk_is_read_only(d: Session) -> None:
    drive(d, ",read-only=on")
    io(d, "read -q 0 512")


@system_scenario
def probed_disk_of_a_node(d: Session) -> None:
    d.file("disk.raw", MIB)
    d.start("-drive", "if=none,id=d0,file.driver=file,file.filename=disk.raw")
    d.qmp("query-block")


@system_scenario
def probed_disk_below_a_temporary_overlay(d: Session) -> None:
    drive(d, ",snapshot=on")
    (d.dir / "magic").write_bytes(STARTS["qcow2"].ljust(512, b"\0"))
    io(d, f"write -q -s {d.path('magic')} 0 512")


@system_scenario
def drive_backup_probes_its_target(d: Session) -> None:
    d.tool("qemu-img", "create", "-q", "-f", "raw", d.path("t.raw"), "1M")
    d.file("disk.raw", MIB, (0x11, 0, MIB))
    d.start("-drive", "if=none,id=d0,format=raw,file=disk.raw")
    backup(d, "t.raw", mode="existing", sync="none")
    backup(d, "t.raw", mode="existing")
    d.content("t.raw")
    (d.dir / "magic").write_bytes(STARTS["qcow2"].ljust(512, b"\0"))
    io(d, f"write -q -s {d.path('magic')} 0 512")
    more = {"auto_dismiss": False, "x_perf": {"max-workers": 1}}
    backup(d, "t.raw", mode="existing", done=False, **more)
    d.event("concluded")
    d.qmp("query-jobs")
    d.content("t.raw")


@system_scenario
def snapshot_sync_probes_nothing(d: Session) -> None:
    drive(d)
    d.file("overlay.raw", MIB)
    arguments = {"device": "d0", "snapshot_file": d.path("overlay.raw"), "mode": "existing"}
    d.qmp("blockdev-snapshot-sync", **arguments)


def unname_backing_format(d: Session, name: str) -> None:
    """Let an image name the format of its backing file no longer."""
    path = d.dir / name
    data = bytearray(path.read_bytes())
    data[data.index(b"\xe2\x79\x2a\xca")] = 0
    path.write_bytes(data)


#: What we have drivers for, or nobody has.
_KNOWN = ("qcow2", "qcow2 3", "qcow2 9", "qcow2 0", "luks 2", "vmdk text 4", "a boot sector")


@scenario
def backing_files_whose_format_is_not_said(d: Session) -> None:
    (d.dir / "folder").mkdir()
    for number, what in enumerate((*_KNOWN, "folder", "none")):
        if what in STARTS:
            (d.dir / what).write_bytes(STARTS[what].ljust(MIB, b"\0"))
        words = ("-f", "qcow2", "-b", what, "-F", "raw", f"{number}.qcow2", "1M")
        d.tool("qemu-img", "create", "-q", "-u", *words)
        unname_backing_format(d, f"{number}.qcow2")
        file = {"driver": "file", "filename": d.path(f"{number}.qcow2")}
        d.qmp("blockdev-add", driver="qcow2", node_name=f"n{number}", file=file)
    d.qmp("query-named-block-nodes", flat=True)
