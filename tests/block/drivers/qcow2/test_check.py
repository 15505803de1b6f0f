"""Images that were left dirty are repaired when they are opened, as qemu-io repairs them."""

import errno
import struct
import subprocess

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.block import reopen
from qmpfleece.block.backend import Backend
from qmpfleece.block.drivers.qcow2.check import Recount
from qmpfleece.block.drivers.qcow2.layout import Incompatible
from qmpfleece.block.perm import Perm
from qmpfleece.qapi.blockdev import validate_blockdev
from tests.tools.disk import check, content, opened, qemu_img, qemu_io
from tests.tools.failing import Failing
from tests.tools.hostfile import buffer

COPIED = 1 << 63
# Where qemu-img and one write of four clusters put things.
REFTABLE, REFBLOCK, L1, L2, DATA = (0x10000 * n for n in range(1, 6))

#: What is patched in, by what it is.
DAMAGE = {
    "flags": [(L1, L2), (L2, DATA), (L2 + 16, DATA + 0x20000)],
    "two entries for one cluster": [(L2 + 8, COPIED | DATA)],
    "refcounts past the end": [(REFBLOCK + 24, 0x0001_0003_0000_0000)],
    "leaks": [(L2 + 16, 0), (L2 + 24, 0)],
    "refcounts too low": [(REFBLOCK + 8, 0)],
    "refcount of the header": [(REFBLOCK, 0)],
    "no refcount block": [(REFTABLE, 0)],
    "refcount block unaligned": [(REFTABLE, REFBLOCK + 512)],
    "refcount block on the L2 table": [(REFTABLE, L2)],
    "refcount block past the end": [(REFTABLE + 8, 0x4000000)],
    "two regions with one block": [(REFTABLE + 8, REFBLOCK)],
}
#: Damage that stays: only refcounts and flags are repaired.
LEFT = {
    "data past the end": [(L2, COPIED | 0x4000000)],
    "data unaligned": [(L2, COPIED | DATA | 512)],
    "compressed cluster with a flag": [(L2, COPIED | 1 << 62 | DATA)],
}


def mark_dirty(image):
    with image.open("r+b") as file:
        file.seek(79)
        file.write(b"\1")


def make(image, patch, options="lazy_refcounts=on"):
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, image, "64M")
    qemu_io(image, "write -P 7 0 256k")
    mark_dirty(image)
    with image.open("r+b") as file:
        for offset, word in patch:
            file.seek(offset)
            file.write(struct.pack(">Q", word))


def said_by_qemu(image):
    done = subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", "quit", str(image)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr


@pytest.mark.parametrize("name", DAMAGE)
async def test_dirty_image_is_clean_after_it_was_opened(tmp_path, name):
    image = tmp_path / "a.qcow2"
    make(image, DAMAGE[name])
    async with opened(image) as disk:
        before = await disk.read()
    check(image)
    assert content(image, tmp_path) == before


@pytest.mark.parametrize("name", ["flags", "two entries for one cluster", "leaks", *LEFT])
async def test_repair_says_what_qemu_says(tmp_path, capsys, name):
    image, other = tmp_path / "a.qcow2", tmp_path / "b.qcow2"
    for path in (image, other):
        make(path, (DAMAGE | LEFT)[name])
    async with opened(image):
        said = capsys.readouterr().err
    assert said
    assert said == said_by_qemu(other)


async def test_repaired_image_can_be_written(tmp_path):
    image = tmp_path / "a.qcow2"
    make(image, [(L2 + 8, 0), (L1, L2), (REFBLOCK + 8, 0)])
    async with opened(image) as disk:
        await disk.write(0, b"a" * 65536)
        assert await disk.read(131072, 65536) == b"\7" * 65536
        await disk.write(1 << 20, b"b" * 300_000)
    check(image)


async def test_others_have_their_turn_between_refcount_blocks(tmp_path, monkeypatch, turn):
    image = tmp_path / "a.qcow2"
    make(image, [], "lazy_refcounts=on,cluster_size=512,refcount_bits=64")
    compare, turns = Recount._compare_block, []

    def noted(*args: object, repair: bool):
        turns.append(turn())
        compare(*args, repair=repair)

    monkeypatch.setattr(Recount, "_compare_block", noted)
    async with opened(image):
        assert len(turns) > 10
        assert len(set(turns)) == len(turns)


def let_fail(disk, place):
    """Let the file below refuse to read what lies at a place."""
    driver = disk.graph.find("file").driver
    whole = driver.pread

    def pread(offset, buf):
        if offset == place:
            raise OSError(errno.EIO, "Input/output error")
        return whole(offset, buf)

    driver.pread = pread
    return whole


async def test_count_that_fails_half_way_leaves_no_blank_counts_and_a_dirty_image(
    tmp_path, capsys
):
    image = tmp_path / "a.qcow2"
    make(image, [], "lazy_refcounts=on,cluster_size=512,refcount_bits=64")
    data = image.read_bytes()
    table = int.from_bytes(data[48:56], "big")
    blocks = struct.unpack_from(">64Q", data, table)
    with image.open("r+b") as file:
        file.seek(table + 8 * 3)
        file.write(bytes(8))  # region 3 has lost its block
    below = {"driver": "file", "node-name": "file", "filename": str(image)}
    async with opened(image, read_only=True, file=below) as disk:
        whole = let_fail(disk, blocks[8])
        again = {"driver": "qcow2", "node-name": "disk", "file": below}
        await reopen.reopen(disk.graph, [validate_blockdev(again)])
        disk.graph.find("file").driver.pread = whole
        assert "Input/output error" in capsys.readouterr().err
        assert not disk.driver.image.refcounts.table[3]
    assert image.read_bytes()[79] & Incompatible.DIRTY
    async with opened(image):
        pass
    check(image)
    assert content(image, tmp_path)[: 256 << 10] == b"\7" * (256 << 10)


@pytest.mark.parametrize("what", ["header", "block"])
async def test_nothing_is_allocated_before_a_count_that_has_failed_succeeds(
    tmp_path, capsys, what
):
    """The counts of the second write's clusters are too low until then."""
    image = tmp_path / "a.qcow2"
    make(image, [(REFBLOCK + 8, 0), (REFBLOCK + 16, 0)])
    if what == "header":
        with image.open("r+b") as file:
            file.seek(88)
            file.write(b"\1")  # an autoclear bit that nobody knows
    below = {"driver": "file", "node-name": "file", "filename": str(image)}
    again = validate_blockdev({"driver": "qcow2", "node-name": "disk", "file": below})
    async with opened(image, read_only=True, file=below) as disk:
        driver = disk.graph.find("file").driver
        failing = Failing(0, 100)
        if what == "header":
            failing.begin(driver)
        else:
            whole = let_fail(disk, REFBLOCK)
        await reopen.reopen(disk.graph, [again])
        if what == "header":
            failing.end()
        else:
            driver.pread = whole
        assert "Input/output error" in capsys.readouterr().err
        guest = Backend(disk.graph, perm=Perm.WRITE)
        guest.attach(disk.node)
        with pytest.raises(OSError, match="Input/output error"):
            await guest.pwrite(1 << 20, buffer(b"a" * 65536))
        await guest.pwrite(0, buffer(b"b" * 65536))
        await reopen.reopen(disk.graph, [again])
        await guest.pwrite(1 << 20, buffer(b"a" * 65536))
        await guest.detach()
    check(image)
    assert content(image, tmp_path)[: 256 << 10] == b"b" * 65536 + b"\7" * (192 << 10)


async def test_what_is_given_back_without_a_count_is_not_discarded(tmp_path, capsys):
    """Two pieces of compressed data share a cluster whose count is too low."""
    image = tmp_path / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", image, "1M")
    qemu_io(image, "write -c -P 7 0 64k", "write -c -P 8 64k 64k")
    mark_dirty(image)
    with image.open("r+b") as file:
        file.seek(REFBLOCK)
        counts = struct.unpack(">16H", file.read(32))
        file.seek(REFBLOCK + 2 * counts.index(2))
        file.write(b"\0\1")
    below = {"driver": "file", "node-name": "file", "filename": str(image)}
    options = {"driver": "qcow2", "node-name": "disk", "file": below, "discard": "unmap"}
    async with opened(image, read_only=True, file=below) as disk:
        whole = let_fail(disk, REFBLOCK)
        await reopen.reopen(disk.graph, [validate_blockdev(options)])
        disk.graph.find("file").driver.pread = whole
        assert "Input/output error" in capsys.readouterr().err
        guest = Backend(disk.graph, perm=Perm.WRITE)
        guest.attach(disk.node)
        await guest.pdiscard(0, 65536)
        await guest.flush()
        await guest.detach()
    assert content(image, tmp_path)[: 128 << 10] == bytes(65536) + b"\10" * 65536


def dirty_with_a_bitmap(folder):
    """Make an image whose clusters must be counted; return it, its file and how to reopen it."""
    image = folder / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", image, "1M")
    qemu_img("bitmap", "--add", image, "b")
    mark_dirty(image)
    below = {"driver": "file", "node-name": "file", "filename": str(image)}
    again = validate_blockdev({"driver": "qcow2", "node-name": "disk", "file": below})
    return image, below, again


async def test_bitmaps_stay_valid_until_a_count_has_succeeded(tmp_path, capsys):
    image, below, again = dirty_with_a_bitmap(tmp_path)
    for counted in (False, True):
        async with opened(image, read_only=True, file=below) as disk:
            whole = let_fail(disk, REFBLOCK)
            await reopen.reopen(disk.graph, [again])
            assert disk.node.readonly_bitmaps
            disk.graph.find("file").driver.pread = whole
            if counted:
                await reopen.reopen(disk.graph, [again])
                assert not disk.node.readonly_bitmaps
    assert "Lost persistent bitmaps" not in capsys.readouterr().err
    async with opened(image) as disk:
        assert [item.inconsistent for item in disk.node.bitmaps] == [False]


async def test_what_waits_to_be_given_back_is_so_before_it_is_counted(tmp_path, capsys):
    """Else it would be after the count, from who has got it since."""
    image, below, again = dirty_with_a_bitmap(tmp_path)
    async with opened(image, read_only=True, file=below) as disk:
        whole = let_fail(disk, REFBLOCK)
        await reopen.reopen(disk.graph, [again])
        assert "Input/output error" in capsys.readouterr().err
        await disk.driver.remove_persistent_bitmap("b")
        disk.node.bitmaps.clear()
        assert disk.driver.image.journal.waiting
        disk.graph.find("file").driver.pread = whole
        await reopen.reopen(disk.graph, [again])
        guest = Backend(disk.graph, perm=Perm.WRITE)
        guest.attach(disk.node)
        await guest.pwrite(0, buffer(b"a" * 65536))
        await guest.flush()
        await guest.detach()
    check(image)


async def test_what_a_count_at_reopening_frees_is_used_again(tmp_path, capsys):
    """Also where all before it had been found in use."""
    image = tmp_path / "a.qcow2"
    make(image, [])
    below = {"driver": "file", "node-name": "file", "filename": str(image)}
    options = {"driver": "qcow2", "node-name": "disk", "file": below}
    reader = validate_blockdev({**options, "read-only": True})
    async with opened(image, file=below) as disk:
        await disk.write(1 << 20, b"a" * 65536)  # it is dirty from here on
        whole = disk.driver.image
        lost, _ = await whole.refcounts.allocate(8)
        await disk.write(2 << 20, b"b" * 65536)
        await disk.guest.flush()
        whole.outdated = True  # as if deleting a snapshot had failed
        await disk.guest.detach()
        await reopen.reopen(disk.graph, [reader])
        await reopen.reopen(disk.graph, [validate_blockdev(options)])
        assert f"Repairing cluster {lost} refcount=1 reference=0" in capsys.readouterr().err
        disk.guest = Backend(disk.graph, perm=Perm.WRITE)
        disk.guest.attach(disk.node)
        before = image.stat().st_size
        await disk.write(3 << 20, b"c" * 8 * 65536)
        await disk.guest.flush()
        assert image.stat().st_size == before
    check(image)


async def test_all_of_the_directory_of_bitmaps_is_counted(tmp_path):
    """Also where names are longer there than what is taken of them."""
    image = tmp_path / "a.qcow2"
    options = "lazy_refcounts=on,cluster_size=512"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, image, "1M")
    names = ["x" * 400, "y" * 400]
    for name in names:
        qemu_img("bitmap", "--add", image, name)
    mark_dirty(image)
    data = bytearray(image.read_bytes())
    in_use = 1
    for name in names:
        at = data.rindex(name.encode())
        data[at + 1] = 0
        data[at - 12 : at - 8] = struct.pack(">I", in_use)
    image.write_bytes(data)
    before = image.read_bytes()
    async with opened(image) as disk:
        assert sorted(item.name for item in disk.node.bitmaps) == ["x", "y"]
    check(image)
    assert image.read_bytes()[512:] == before[512:]


@pytest.mark.parametrize("width", [1, 2, 8, 64])
async def test_refcounts_of_any_width_are_corrected(tmp_path, width):
    image = tmp_path / "a.qcow2"
    make(image, [(REFBLOCK, 0)], f"lazy_refcounts=on,refcount_bits={width}")
    async with opened(image):
        pass
    check(image)


@pytest.mark.parametrize("name", LEFT)
async def test_other_damage_is_left_and_the_image_stays_dirty_while_open(tmp_path, name):
    image = tmp_path / "a.qcow2"
    make(image, LEFT[name])
    async with opened(image) as disk:
        assert disk.node.driver.image_info()["dirty_flag"]
        assert await disk.read(1 << 20, 512) == bytes(512)


async def test_refcount_table_on_top_of_data_is_beyond_repair(tmp_path):
    image = tmp_path / "a.qcow2"
    make(image, [(L2, COPIED | REFTABLE)])
    with pytest.raises(QmpError, match="Could not repair dirty image: Input/output error"):
        async with opened(image):
            pass


async def test_image_opened_for_reading_is_left_as_it_is(tmp_path):
    image = tmp_path / "a.qcow2"
    make(image, DAMAGE["flags"])
    before = image.read_bytes()
    async with opened(image, read_only=True) as disk:
        assert await disk.read(0, 512) == b"\7" * 512
    assert image.read_bytes() == before
