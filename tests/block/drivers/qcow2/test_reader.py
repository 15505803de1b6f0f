"""Backing files, block status, and what blkdebug is told."""

import json
import os

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.block.drivers.qcow2 import backing as backing_files
from tests.tools.disk import opened, qemu_img, qemu_io

MIB = 1 << 20


@pytest.fixture
def chain(tmp_path):
    """top -> middle (shorter) -> base (raw), with data in all of them."""
    (tmp_path / "base.raw").write_bytes(b"\1" * 4 * MIB)
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", tmp_path / "mid", "2M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "mid", "-F", "qcow2", tmp_path / "top", "4M")
    qemu_io(tmp_path / "mid", "write -P 2 512k 512k")
    qemu_io(tmp_path / "top", "write -P 3 1M 64k", "write -z 1536k 64k")
    return tmp_path


async def test_chain_is_read_through_names_relative_to_the_image(chain):
    async with opened(chain / "top") as disk:
        data = await disk.read()
    assert data[: MIB // 2] == b"\1" * (MIB // 2)
    assert data[MIB // 2 : MIB] == b"\2" * (MIB // 2)
    assert data[MIB : MIB + 65536] == b"\3" * 65536
    assert data[3 * MIB // 2 : 3 * MIB // 2 + 65536] == bytes(65536)
    # Behind the end of the shorter backing file there are zeroes, not the base's data.
    assert data[2 * MIB :] == bytes(2 * MIB)


async def test_backing_null_shows_the_layer_alone(chain):
    async with opened(chain / "top", backing=None) as disk:
        data = await disk.read()
        assert "backing" not in disk.node.children
    assert data[:MIB] == bytes(MIB)
    assert data[MIB : MIB + 65536] == b"\3" * 65536


async def test_backing_may_be_another_definition(chain):
    file = {"driver": "file", "filename": str(chain / "base.raw")}
    async with opened(chain / "top", backing={"driver": "raw", "file": file}) as disk:
        assert (await disk.read(0, 4096)) == b"\1" * 4096
        assert disk.node.children["backing"].node.read_only


async def test_backing_file_of_a_node_is_not_written(chain):
    async with opened(chain / "top") as disk:
        await disk.write(0, b"x" * 4 * MIB)
    assert (chain / "base.raw").read_bytes() == b"\1" * 4 * MIB


async def test_missing_backing_file_is_said(chain):
    (chain / "base.raw").unlink()
    with pytest.raises(QmpError) as refusal:
        async with opened(chain / "mid"):
            pass
    assert refusal.value.desc == (
        f"Could not open backing file: Could not open '{chain}/base.raw': No such file or"
        " directory"
    )


JSON_NAMES = {
    '{"driver": "raw", "file": {"driver": "file", "filename": "base.raw"}}': b"\1",
    '{"driver": "raw", "file.driver": "file", "file.filename": "base.raw"}': b"\1",
    '{"driver": "raw"}': None,
    '{"driver": "raw", "file": 1, "file.driver": "file"}': None,
    "[]": None,
    "{": None,
}


@pytest.mark.parametrize(("name", "first"), JSON_NAMES.items())
async def test_backing_file_may_be_named_in_json(chain, monkeypatch, name, first):
    monkeypatch.chdir(chain)
    qemu_img("rebase", "-u", "-b", f"json:{name}", "-F", "raw", chain / "mid")
    if first is None:
        with pytest.raises(QmpError, match="Could not open backing file"):
            async with opened(chain / "mid"):
                pass
    else:
        async with opened(chain / "mid") as disk:
            assert await disk.read(0, 1) == first


async def test_backing_files_that_form_a_circle_are_refused(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    qemu_img("create", "-q", "-f", "qcow2", first, "1M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", first, "-F", "qcow2", second)
    qemu_img("rebase", "-u", "-b", second, "-F", "qcow2", first)
    with pytest.raises(QmpError, match="creates an infinite loop"):
        async with opened(first, read_only=True):
            pass


async def test_chain_may_be_long_but_not_without_end(tmp_path, monkeypatch):
    below = None
    for number in range(110):
        backing = ["-u", "-b", below, "-F", "qcow2"] if below else []
        qemu_img("create", "-q", "-f", "qcow2", *backing, tmp_path / f"{number}", "1M")
        below = tmp_path / f"{number}"
    async with opened(below, read_only=True) as disk:
        assert await disk.read(0, 512) == bytes(512)
    monkeypatch.setattr(backing_files, "_MAX_DEPTH", 90)
    with pytest.raises(QmpError, match="has more than 90 overlays"):
        async with opened(below, read_only=True):
            pass


async def status_of(image):
    """What our block status says, as qemu-img map puts it."""
    found = []
    async with opened(image, read_only=True) as disk:
        offset = 0
        while offset < disk.node.length:
            length = disk.node.length - offset
            for extent in await disk.guest.block_status(offset, length, 100):
                data, zero = bool(extent.flags & 1), bool(extent.flags & 2)
                found.append((offset, extent.length, data, zero))
                offset += extent.length
    return found


def map_of(image):
    extents = json.loads(qemu_img("map", "--output=json", "-f", "qcow2", image))
    return [(item["start"], item["length"], item["data"], item["zero"]) for item in extents]


async def test_block_status_is_that_of_qemu_img_map(chain):
    assert flatten(await status_of(chain / "top")) == flatten(map_of(chain / "top"))


async def test_preallocated_clusters_are_zero_where_the_file_is_empty(tmp_path):
    image = tmp_path / "a"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", image, "64M")
    qemu_io(image, "write 1M 64k", "write -z 2M 64k", "flush")
    assert flatten(await status_of(image)) == flatten(map_of(image))


async def test_clusters_behind_the_end_of_the_file_are_zero(tmp_path):
    image = tmp_path / "a"
    qemu_img("create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", image, "64M")
    qemu_io(image, "write 1M 64k", "flush")
    os.truncate(image, 3 * MIB)
    assert flatten(await status_of(image)) == flatten(map_of(image))
    async with opened(image) as disk:
        await disk.guest.pwrite_zeroes(40 * MIB + 512, 1024)
        await disk.write(50 * MIB + 512, b"x" * 512)
    assert flatten(await status_of(image)) == flatten(map_of(image))


def flatten(extents):
    """Status by 64 KiB, since neighbours may be split differently."""
    return [status for _, length, *status in extents for _ in range(length // 65536)]


async def test_whole_run_of_clusters_is_one_extent(tmp_path):
    qemu_img("create", "-q", "-f", "qcow2", tmp_path / "a", "1G")
    qemu_io(tmp_path / "a", "write 0 64M")
    async with opened(tmp_path / "a", read_only=True) as disk:
        extents = await disk.guest.block_status(0, 1 << 30, 100)
    assert [extent.length for extent in extents] == [64 * MIB, 960 * MIB]


async def test_debug_points_are_told_in_order(tmp_path):
    qemu_img("create", "-q", "-f", "qcow2", tmp_path / "a", "1G")
    async with opened(tmp_path / "a") as disk:
        told = []

        async def note(event):
            told.append(event)

        disk.driver.node.debug = note
        await disk.write(0, b"x" * 512)
        assert told == [
            "cluster_alloc", "refblock_alloc", "refblock_load", "l2_alloc_write",
            "cluster_alloc", "refblock_alloc", "cluster_alloc_space", "write_aio",
        ]  # fmt: skip
        told.clear()
        await disk.guest.flush()
        assert told == [
            "flush_to_os", "refblock_update_part", "l2_update", "l1_update", "flush_to_disk",
        ]  # fmt: skip
        told.clear()
        await disk.read(0, 4096)
        await disk.write(0, b"x" * 512)
        assert told == ["read_aio", "write_aio"]
