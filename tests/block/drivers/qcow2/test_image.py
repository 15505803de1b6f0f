"""Damage inside an image is met as qemu-io meets it, which is asked on the spot."""

import asyncio
import contextlib
import random
import struct
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qmpfleece.base.errors import QmpError
from qmpfleece.block.drivers.qcow2.events import BlockImageCorrupted
from qmpfleece.block.drivers.qcow2.layout import Incompatible
from tests.tools.disk import opened, qemu_img, qemu_io
from tests.tools.failing import Failing

COPIED = 1 << 63
# Where qemu-img and one write of two clusters put things.
REFTABLE, REFBLOCK, L1, L2, DATA = (0x10000 * n for n in range(1, 6))


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


@dataclass
class Damage:
    patch: list[tuple[int, bytes]]
    commands: list[str]
    options: str = ""
    read_only: bool = False


DAMAGE = {
    "L1 entry unaligned": Damage([(L1, u64(COPIED | L2 | 512))], ["read 0 64k"]),
    "L1 entry unaligned, write": Damage([(L1, u64(COPIED | L2 | 512))], ["write 0 64k"]),
    "L2 entry unaligned": Damage([(L2, u64(COPIED | DATA | 512))], ["read 0 64k"]),
    "L2 entry unaligned, read-only": Damage(
        [(L2, u64(COPIED | DATA | 512))], ["read 0 64k"], read_only=True
    ),
    "L2 entry unaligned, write": Damage([(L2, u64(COPIED | DATA | 512))], ["write 0 64k"]),
    "L2 entry unaligned, discard": Damage([(L2, u64(COPIED | DATA | 512))], ["discard 0 64k"]),
    "second L2 entry unaligned": Damage([(L2 + 8, u64(COPIED | DATA | 512))], ["read 0 128k"]),
    "zero cluster unaligned": Damage([(L2, u64(COPIED | DATA | 513))], ["read 0 64k"]),
    "zero cluster unaligned, write": Damage([(L2, u64(COPIED | DATA | 513))], ["write 0 64k"]),
    "zero cluster in version 2": Damage(
        [(L2, u64(COPIED | DATA | 1))], ["read 0 64k"], ",compat=0.10"
    ),
    "data on the L1 table": Damage([(L2, u64(COPIED | L1))], ["write 0 64k"]),
    "data on the L2 table": Damage([(L2, u64(COPIED | L2))], ["write 0 64k"]),
    "data on the refcount table": Damage([(L2, u64(COPIED | REFTABLE))], ["write 0 64k"]),
    "data on a refcount block": Damage([(L2, u64(COPIED | REFBLOCK))], ["write 0 64k"]),
    "zeroes on the L2 table": Damage([(L2, u64(COPIED | L2 | 1))], ["write 0 64k"]),
    "second data cluster unaligned, not ours": Damage(
        [(L2, u64(DATA | 512))], ["write 0 4k", "read 1M 64k"]
    ),
    "all refcounts 0": Damage([(REFBLOCK, bytes(64))], ["write 1M 64k"]),
    "all refcounts but one 0": Damage([(REFBLOCK + 2, bytes(62))], ["write 1M 64k"]),
    "refcount of the L2 table 0": Damage([(REFBLOCK + 8, bytes(2))], ["write 1M 64k"]),
    "refcount block unaligned": Damage([(REFTABLE, u64(REFBLOCK + 512))], ["write 1M 64k"]),
    "refcount block on the L1 table": Damage([(REFTABLE, u64(L1))], ["write 1M 64k"]),
    "L2 table on the L1 table": Damage([(L1, u64(COPIED | L1))], ["write 1M 64k"]),
    "L2 table past the end": Damage([(L1, u64(COPIED | 0x40000000))], ["read 0 64k"]),
    "data past the end": Damage([(L2, u64(COPIED | 0x40000000))], ["read 0 64k"]),
    "data far out": Damage([(L2, u64(COPIED | 0x00FFFFFFFFFE0000))], ["read 0 64k"]),
    "compressed data far out": Damage([(L2, u64((1 << 62) | (1 << 54) - 1))], ["read 0 64k"]),
    "damaged compressed data": Damage([(L2, u64(1 << 62 | DATA))], ["read 0 64k"]),
    "subclusters zero and data": Damage(
        [(L2 + 8, u64(0x100000001))], ["read 0 64k"], ",extended_l2=on"
    ),
    "subclusters without cluster": Damage(
        [(L2, u64(0)), (L2 + 8, u64(1))], ["read 0 64k"], ",extended_l2=on"
    ),
    "entry not marked as copied": Damage([(L2, u64(DATA))], ["write 0 64k", "read 0 64k"]),
    "table not marked as copied": Damage([(L1, u64(L2))], ["write 0 64k", "read 0 64k"]),
}


def make(image, damage):
    qemu_img(
        "create", "-q", "-f", "qcow2", "-o", "cluster_size=64k" + damage.options, image, "64M"
    )
    qemu_io(image, "write 0 128k")
    with image.open("r+b") as file:
        for offset, data in damage.patch:
            file.seek(offset)
            file.write(data)


def size_of(text):
    units = {"k": 1 << 10, "M": 1 << 20}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


async def request(disk, command):
    verb, *numbers = command.split()
    offset, length = map(size_of, numbers)
    try:
        if verb == "read":
            await disk.read(offset, length)
        elif verb == "write":
            await disk.write(offset, b"\xcd" * length)
        else:
            await disk.guest.pdiscard(offset, length)
    except OSError as error:
        return error.strerror
    return "ok"


def run_qemu_io(image, damage):
    """What qemu-io says to the commands, and to its stderr."""
    commands = [word for command in damage.commands for word in ("-c", command)]
    mode = ["-r"] if damage.read_only else []
    done = subprocess.run(
        ["qemu-io", "-d", "unmap", *mode, "-f", "qcow2", *commands, str(image)],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if "ops;" not in line]
    return [line.split(": ")[-1] if "failed" in line else "ok" for line in lines], done.stderr


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_damage_is_met_as_by_qemu(tmp_path, damage, capsys):
    image = tmp_path / "a.qcow2"
    make(image, damage)
    expected, said = run_qemu_io(image, damage)
    marked = image.read_bytes()[72:80]

    make(image, damage)
    async with opened(image, read_only=damage.read_only) as disk:
        assert [await request(disk, command) for command in damage.commands] == expected
        found = [event for event in disk.events if isinstance(event, BlockImageCorrupted)]
    assert capsys.readouterr().err == said
    assert image.read_bytes()[72:80] == marked
    assert [f": {event.msg};" in said for event in found] == [True] * bool(said)


async def test_image_that_was_found_corrupt_takes_no_more_requests(tmp_path, capsys):
    image = tmp_path / "a.qcow2"
    make(image, DAMAGE["data on the L1 table"])
    async with opened(image) as disk:
        assert await request(disk, "write 0 64k") == "Input/output error"
        assert await request(disk, "read 1M 64k") == "No medium found"
        assert await request(disk, "discard 1M 64k") == "No medium found"
        event = disk.events[0].to_wire()
    assert event == {
        "device": "",
        "node-name": "disk",
        "msg": "Preventing invalid write on metadata (overlaps with active L1 table)",
        "offset": L1,
        "size": 65536,
        "fatal": True,
    }
    assert "Marking image as corrupt" in capsys.readouterr().err


def is_marked(image):
    return bool(image.read_bytes()[79] & Incompatible.CORRUPT)


async def test_block_status_that_meets_damage_marks_the_image(tmp_path, capsys):
    image = tmp_path / "a.qcow2"
    make(image, DAMAGE["L2 entry unaligned"])
    async with opened(image) as disk:
        with pytest.raises(OSError, match="Input/output error"):
            await disk.guest.block_status(0, 65536, 1)
        assert is_marked(image)
        with pytest.raises(OSError, match="No medium found"):
            await disk.guest.block_status(0, 65536, 1)
    assert "Marking image as corrupt" in capsys.readouterr().err


async def test_refcounts_that_block_status_finds_damaged_leave_the_image_marked(tmp_path, capsys):
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", image, "64M")
    with image.open("r+b") as file:
        file.seek(REFTABLE)
        file.write(u64(REFBLOCK + 512))
    async with opened(image) as disk:
        assert await disk.guest.block_status(0, 65536, 1)
        assert is_marked(image)
    assert "Marking image as corrupt" in capsys.readouterr().err


@pytest.mark.parametrize("options", ["", ",compat=0.10"])
async def test_read_tells_what_was_found_when_its_place_was_asked_for(tmp_path, capsys, options):
    image = tmp_path / "a.qcow2"
    make(image, Damage([(L2 + 8, u64(COPIED | DATA | 512))], [], options))
    async with opened(image) as disk:
        await disk.read(0, 512)  # from here on the tables are in memory
        assert disk.guest.locate(65536, 512) is None
        assert await request(disk, "read 64k 512") == "Input/output error"
        assert is_marked(image) == (not options)
        assert await request(disk, "read 64k 512") == "No medium found"
    assert "Marking image as corrupt" in capsys.readouterr().err


async def test_image_that_can_not_be_marked_is_refused_all_the_same(tmp_path, capsys):
    image = tmp_path / "a.qcow2"
    make(image, DAMAGE["L2 entry unaligned"])
    async with opened(image) as disk:
        failing = Failing(0, 100)
        failing.begin(disk.node.children["file"].node.driver)
        assert await request(disk, "read 0 64k") == "Input/output error"
        assert await request(disk, "read 0 64k") == "No medium found"
        failing.end()
    assert failing.reached
    assert not is_marked(image)
    assert "Marking image as corrupt" in capsys.readouterr().err


@cache
def rich_image(extended):
    """An image with all that an image can have, as bytes."""
    with TemporaryDirectory() as folder:
        image = Path(folder) / "a.qcow2"
        options = "cluster_size=16k,extended_l2=on" if extended else "cluster_size=4k"
        qemu_img("create", "-q", "-f", "qcow2", "-o", options, image, "8M")
        qemu_io(image, "write -P 1 0 1M", "write -c -P 2 2M 64k", "write -z 3M 256k")
        qemu_img("bitmap", "--add", image, "b")
        qemu_img("snapshot", "-c", "s", image)
        qemu_io(image, "write -P 3 512k 1M", "discard 0 64k")
        return image.read_bytes()


async def use_in_every_way(image, seed):
    """Whatever is in the image, only errors come out."""
    rnd = random.Random(seed)
    async with opened(image) as disk:
        for _ in range(30):
            if not disk.node.length:
                break
            offset = rnd.randrange(min(disk.node.length, 16 << 20))
            length = min(rnd.choice([512, 4096, 70_000]), disk.node.length - offset)
            with contextlib.suppress(OSError):
                match rnd.choice(["read", "write", "zero", "discard", "status", "flush"]):
                    case "read":
                        await disk.read(offset, length)
                    case "write":
                        await disk.write(offset, b"x" * length)
                    case "zero":
                        await disk.guest.pwrite_zeroes(offset, length)
                    case "discard":
                        await disk.guest.pdiscard(offset, length)
                    case "status":
                        await disk.guest.block_status(offset, length, 10)
                    case "flush":
                        await disk.guest.flush()


WORDS = st.one_of(
    st.sampled_from([0, 1, 0xFFFFFFFFFFFFFFFF, COPIED, 1 << 62, 512, COPIED | 4096, 1 << 56]),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 500).map(lambda cluster: COPIED | cluster * 4096),
    st.integers(0, 500).map(lambda cluster: cluster * 4096),
)
#: Mostly the header and the tables behind it.
PLACES = st.one_of(st.integers(4, 400), st.integers(0, 200_000), st.integers(0, 3_000_000))
PATCHES = st.lists(st.tuples(PLACES, WORDS), min_size=1, max_size=6)


def damage_and_use(extended, patches, seed):
    data = bytearray(rich_image(extended))
    for place, word in patches:
        at = place // 4 * 4
        if at + 8 <= len(data):
            data[at : at + 8] = u64(word)
    with TemporaryDirectory() as folder:
        image = Path(folder) / "a.qcow2"
        image.write_bytes(data)
        with contextlib.suppress(QmpError):
            asyncio.run(use_in_every_way(image, seed))


@settings(suppress_health_check=list(HealthCheck), max_examples=100)
@given(st.booleans(), PATCHES, st.integers(0, 1 << 30))
def test_random_damage_leads_to_errors_and_to_nothing_else(extended, patches, seed):
    damage_and_use(extended, patches, seed)


@pytest.mark.soak
@settings(suppress_health_check=list(HealthCheck), max_examples=2000)
@given(st.booleans(), PATCHES, st.integers(0, 1 << 30))
def test_much_random_damage_leads_to_errors_and_to_nothing_else(extended, patches, seed):
    damage_and_use(extended, patches, seed)


async def test_flag_of_an_l2_table_that_is_not_there_is_ignored(tmp_path):
    # QEMU 7.2 aborts here.
    image = tmp_path / "a.qcow2"
    make(image, Damage([(L1, u64(COPIED))], []))
    async with opened(image) as disk:
        assert await disk.read(0, 512) == bytes(512)
        await disk.write(0, b"x" * 512)
        assert await disk.read(0, 512) == b"x" * 512
    qemu_img("check", "-q", "-r", "leaks", image)
