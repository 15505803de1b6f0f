"""Damaged headers are refused with the words of qemu-storage-daemon, asked on the spot."""

import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.block import reopen
from qmpfleece.block.backend import Backend
from qmpfleece.block.perm import Perm
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.tools.disk import check, opened, qemu_img
from tests.tools.failing import Failing
from tests.tools.hostfile import buffer

Patch = list[tuple[int, bytes]]


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


def bitmaps(count: int, size: int, offset: int, reserved: int = 0) -> Patch:
    data = u32(count) + u32(reserved) + u64(size) + u64(offset)
    return [(112, u32(0x23852875) + u32(24) + data), (88, u64(1))]


HEADERS: dict[str, Patch] = {
    "no magic": [(0, u32(1))],
    "version 1": [(4, u32(1))],
    "version 4": [(4, u32(4))],
    "clusters of 256 bytes": [(20, u32(8))],
    "clusters of 4 MiB": [(20, u32(22))],
    "header too short": [(100, u32(100))],
    "header larger than a cluster": [(100, u32(65540))],
    "odd header length": [(100, u32(105))],
    "backing name outside": [(8, u64(65537)), (16, u32(4))],
    "backing name too long": [(8, u64(512)), (16, u32(1024))],
    "backing name reaches out": [(8, u64(65530)), (16, u32(20))],
    "backing file missing": [(8, u64(512)), (16, u32(5)), (512, b"/nope")],
    "backing protocol unknown": [(8, u64(512)), (16, u32(8)), (512, b"gopher:x")],
    "backing format unknown": [
        (112, u32(0xE2792ACA) + u32(5) + b"bogus\0\0\0"),
        (8, u64(512)),
        (16, u32(5)),
        (512, b"/nope"),
    ],
    "unknown feature": [(72, u64(1 << 32))],
    "unknown features": [(72, u64(1 << 5 | 1 << 63))],
    "corrupt": [(72, u64(2))],
    "data file missing": [(72, u64(4))],
    "data file raw alone": [(88, u64(2))],
    "compression bit alone": [(72, u64(8))],
    "compression type alone": [(104, b"\1")],
    "compression type unknown": [(104, b"\7"), (72, u64(8))],
    "refcounts of 128 bits": [(96, u32(7))],
    "unknown encryption": [(32, u32(3))],
    "no refcount table": [(56, u32(0))],
    "refcount table too large": [(56, u32(129))],
    "refcount table much too large": [(56, u32(0xFFFFFFFF))],
    "refcount table unaligned": [(48, u64(0x10001))],
    "refcount table far out": [(48, u64(0xFFFFFFFFFFFF0000))],
    "no L1 table": [(36, u32(0))],
    "L1 table too large": [(36, u32(0x400001))],
    "L1 table much too large": [(36, u32(0xFFFFFFFF))],
    "L1 table unaligned": [(40, u64(0x30200))],
    "L1 table far out": [(40, u64(0x7FFFFFFFFFFF0000))],
    "disk too large for L1": [(24, u64(1 << 50))],
    "disk too large": [(24, u64(1 << 62))],
    "disk much too large": [(24, u64((1 << 64) - 512))],
    "disk of odd size": [(24, u64(1000001))],
    "too many snapshots": [(60, u32(65537))],
    "snapshot table unaligned": [(60, u32(1)), (64, u64(0x101))],
    "snapshot table past the end": [(60, u32(3)), (64, u64(0x10000000))],
    "extension too large": [(112, u32(0x12345678) + u32(0xFFFFFF))],
    "backing format too long": [(112, u32(0xE2792ACA) + u32(2000))],
    "bitmaps extension too short": [(112, u32(0x23852875) + u32(8)), (88, u64(1))],
    "bitmaps reserved field": bitmaps(1, 32, 0x30000, reserved=1),
    "no bitmaps": bitmaps(0, 32, 0x30000),
    "too many bitmaps": bitmaps(65536, 32, 0x30000),
    "bitmap directory unaligned": bitmaps(1, 32, 0x30001),
    "bitmap directory too large": bitmaps(1, 1 << 40, 0x30000),
    "bitmap directory is none": bitmaps(1, 32, 0x30000),
}


def refusal_by_qemu(image: Path, *, read_only: bool) -> str | None:
    blockdev = f"driver=qcow2,node-name=disk,file.driver=file,file.filename={image}"
    return said_by_qemu(blockdev + (",read-only=on" if read_only else ""))


def said_by_qemu(blockdev: str) -> str | None:
    done = subprocess.run(
        [
            "qemu-storage-daemon",
            *("--blockdev", blockdev, "--chardev", "stdio,id=m", "--monitor", "m"),
        ],
        input='{"execute":"qmp_capabilities"}{"execute":"quit"}',
        capture_output=True,
        text=True,
        check=False,
    )
    for line in done.stderr.splitlines():
        said = line.removeprefix(f"qemu-storage-daemon: --blockdev {blockdev}: ")
        if said != line and not said.startswith("warning: "):
            return said
    return None


async def refusal_by_us(image: Path, *, read_only: bool, **options: Any) -> str | None:
    try:
        async with opened(image, read_only=read_only, **options):
            return None
    except QmpError as error:
        return error.desc


def make(image: Path, patches: Patch) -> None:
    qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=65536", image, "64M")
    with image.open("r+b") as file:
        for offset, data in patches:
            file.seek(offset)
            file.write(data)


@pytest.mark.parametrize("read_only", [False, True], ids=["rw", "ro"])
@pytest.mark.parametrize("patches", HEADERS.values(), ids=HEADERS)
async def test_damaged_header_is_refused_as_by_qemu(tmp_path, patches, read_only):
    image = tmp_path / "a.qcow2"
    make(image, patches)
    ours = await refusal_by_us(image, read_only=read_only)
    make(image, patches)
    assert ours == refusal_by_qemu(image, read_only=read_only)


#: What covers the beginning of the second sector.
ACROSS = {
    "nothing": [],
    "unknown extension": [(112, u32(0x12345678) + u32(600))],
    "head of an extension": [(112, u32(0x12345678) + u32(392))],
    "format of the backing file": [(496, u32(0xE2792ACA) + u32(9)), (112, u32(1) + u32(376))],
    "name of the data file": [(496, u32(0x44415441) + u32(9)), (112, u32(1) + u32(376))],
    "outdated bitmaps": [(496, u32(0x23852875) + u32(24)), (112, u32(1) + u32(376))],
    "bitmaps": [
        (496, u32(0x23852875) + u32(24)),
        (112, u32(1) + u32(376)),
        (88, u64(1)),
    ],
    "names of features": [(112, u32(0x6803F857) + u32(480)), (600, bytes(8))],
    "names of features that are missed": [(112, u32(0x6803F857) + u32(480)), (72, u64(1 << 20))],
    "unknown fields": [(100, u32(600)), (600, bytes(8))],
    "name of the backing file": [(8, u64(510) + u32(4)), (112, bytes(8))],
}


@pytest.mark.parametrize("patches", ACROSS.values(), ids=ACROSS)
async def test_only_what_is_needed_of_the_first_cluster_is_read(tmp_path, patches, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "a.qcow2", patches)
    broken = "driver=blkdebug,image.driver=file,image.filename=a.qcow2"
    broken += ",inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.sector=1"
    wire = ",".join(f"file.{word}" for word in broken.split(","))
    expected = said_by_qemu(f"driver=qcow2,node-name=disk,read-only=on,{wire}")
    rule = {"event": "none", "iotype": "read", "sector": 1}
    image = {"driver": "file", "filename": "a.qcow2"}
    file = {"driver": "blkdebug", "image": image, "inject-error": [rule]}
    assert await refusal_by_us(tmp_path / "a.qcow2", read_only=True, file=file) == expected


@pytest.mark.parametrize("size", [0, 3, 71, 72, 103, 104, 112, 512, 65536, 131073, 196608])
async def test_truncated_image_is_refused_as_by_qemu(tmp_path, size):
    image = tmp_path / "a.qcow2"
    make(image, [])
    os.truncate(image, size)
    ours = await refusal_by_us(image, read_only=True)
    assert ours == refusal_by_qemu(image, read_only=True)


UNKNOWN_AUTOCLEAR = [(88, u64(1 << 40))]
OUTDATED_BITMAPS = [(112, u32(0x23852875) + u32(24) + bytes(24) + bytes(8))]


@pytest.mark.parametrize("patches", [UNKNOWN_AUTOCLEAR, OUTDATED_BITMAPS], ids=["bit", "bitmaps"])
async def test_what_a_reopening_could_not_clear_is_cleared_before_metadata_changes(
    tmp_path, capsys, patches
):
    image = tmp_path / "a.qcow2"
    make(image, patches)
    before = image.read_bytes()[:256]
    below = {"driver": "file", "node-name": "file", "filename": str(image)}
    again = {"driver": "qcow2", "node-name": "disk", "file": below}
    async with opened(image, read_only=True, file=below) as disk:
        failing = Failing(0, 100)
        failing.begin(disk.graph.find("file").driver)
        await reopen.reopen(disk.graph, [validate_blockdev(again)])
        assert "Could not update qcow2 header" in capsys.readouterr().err
        guest = Backend(disk.graph, perm=Perm.WRITE)
        guest.attach(disk.node)
        with pytest.raises(OSError, match="Input/output error"):
            await guest.flush()
        failing.end()
        assert image.read_bytes()[:256] == before
        await guest.pwrite(0, buffer(b"a" * 65536))
        await guest.flush()
        now = image.read_bytes()[:256]
        await guest.detach()
    assert now[88:96] == bytes(8)
    assert u32(0x23852875) not in now
    check(image)
