import errno
import os

import pytest

from qmpfleece.block.driver import ReqFlags
from qmpfleece.block.drivers.qcow2 import journal
from qmpfleece.block.drivers.qcow2.discard import Discarder
from tests.tools.disk import check, content, opened, qemu_img, qemu_io
from tests.tools.hold import hold, start

MIB = 1 << 20


async def created(tmp_path, options="cluster_size=64k", *, backed=False):
    image = tmp_path / "a.qcow2"
    backing = ["-b", "base", "-F", "raw"] if backed else []
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, *backing, image, "4M")
    return image


async def test_discarded_clusters_are_holes_in_the_file(tmp_path):
    image = await created(tmp_path)
    async with opened(image) as disk:
        await disk.write(0, b"x" * 4 * MIB)
        await disk.guest.flush()
        before = image.stat().st_blocks
        await disk.guest.pdiscard(0, 4 * MIB)
        assert image.stat().st_blocks < before - 7 * 1024
    check(image)


async def test_write_beside_what_is_given_back_to_a_data_file_stays(tmp_path):
    image = await created(tmp_path, f"data_file={tmp_path / 'd.raw'}")
    async with opened(image) as disk:
        await disk.write(0, b"1" * 2 * 65536)
        await disk.guest.pwrite_zeroes(65536, 65536)  # keeps its place
        gate, let_go = hold(disk.node.children["data-file"].node.driver, "pdiscard")
        zeroing = await gate.stops(disk.guest.pwrite_zeroes(65536, 512, ReqFlags.MAY_UNMAP))
        let_go()
        writing = await start(disk.write(2 * 65536 - 512, b"2" * 512))
        gate.set()
        await zeroing
        await writing
        assert await disk.read(0, 2 * 65536) == b"1" * 65536 + bytes(65024) + b"2" * 512
    check(image)


@pytest.mark.parametrize("layout", ["extended_l2=off", "extended_l2=on"])
@pytest.mark.parametrize("raw", ["on", "off"])
async def test_zeroes_and_growth_in_the_last_cluster_make_a_data_file_no_longer_than_the_disk(
    tmp_path, raw, layout
):
    data = tmp_path / "d.raw"
    options = f"data_file={data},data_file_raw={raw},{layout}"
    image = await created(tmp_path, options)
    async with opened(image) as disk:
        await disk.write(0, b"1" * disk.node.length)
        await disk.resize(100 << 10)
    os.truncate(data, 100 << 10)
    async with opened(image) as disk:
        await disk.guest.pwrite_zeroes(99 << 10, 1 << 10)
        assert data.stat().st_size == 100 << 10
        await disk.resize(110 << 10)
        assert data.stat().st_size == 110 << 10
        expected = b"1" * (99 << 10) + bytes(11 << 10)
        assert await disk.read() == expected
    check(image)
    assert content(image, tmp_path) == expected


async def test_clusters_of_a_snapshot_are_not_given_back(tmp_path):
    image = await created(tmp_path)
    qemu_io(image, "write -P 7 0 1M")
    qemu_img("snapshot", "-c", "s", image)
    async with opened(image) as disk:
        before = image.stat().st_blocks
        await disk.guest.pdiscard(0, MIB)
        await disk.guest.flush()
        assert image.stat().st_blocks >= before
    qemu_img("snapshot", "-a", "s", image)
    assert content(image, tmp_path)[:MIB] == b"\7" * MIB


async def test_cluster_is_not_used_again_while_it_is_given_back(tmp_path):
    image = await created(tmp_path)
    async with opened(image) as disk:
        await disk.write(0, b"1" * 65536)
        await disk.guest.flush()
        gate, let_go = hold(disk.node.children["file"].node.driver, "pdiscard")
        discarding = await gate.stops(disk.guest.pdiscard(0, 65536))
        let_go()
        for number in range(1, 5):
            await disk.guest.flush()
            await disk.write(number * 65536, b"2" * 65536)
        gate.set()
        await discarding
        assert await disk.read(0, 5 * 65536) == bytes(65536) + b"2" * 4 * 65536
    check(image)


async def test_compressed_data_is_not_put_where_a_cluster_is_given_back(tmp_path):
    image = await created(tmp_path)
    async with opened(image) as disk:
        await disk.driver.pwrite_compressed(0, memoryview(b"1" * 65536))
        await disk.guest.pdiscard(0, 65536)
        gate, let_go = hold(disk.node.children["file"].node.driver, "pdiscard")
        giving_back = await gate.stops(disk.guest.flush())
        let_go()
        await disk.driver.pwrite_compressed(65536, memoryview(b"2" * 65536))
        gate.set()
        await giving_back
        assert await disk.read(0, 2 * 65536) == bytes(65536) + b"2" * 65536
    check(image)


@pytest.mark.parametrize("zeroes", [False, True])
async def test_compressed_data_can_be_read_when_the_process_dies_after_it_was_discarded(
    tmp_path, zeroes
):
    image = await created(tmp_path)
    async with opened(image) as disk:
        await disk.driver.pwrite_compressed(0, memoryview(b"1" * 65536))
        await disk.driver.flush()
        if zeroes:
            await disk.guest.pwrite_zeroes(0, 65536, ReqFlags.MAY_UNMAP)
        else:
            await disk.guest.pdiscard(0, 65536)
        left = tmp_path / "left.qcow2"
        left.write_bytes(image.read_bytes())
        assert content(left, tmp_path)[:65536] == b"1" * 65536
        before = image.stat().st_blocks
        await disk.driver.flush()
        await disk.driver.flush()
        assert image.stat().st_blocks < before
    check(image)


async def test_file_that_gives_nothing_back_is_no_error(tmp_path):
    image = await created(tmp_path)
    async with opened(image) as disk:
        await disk.write(0, b"1" * 65536)

        async def pdiscard(_offset, _length):
            raise OSError(errno.EIO, "Input/output error")

        disk.node.children["file"].node.driver.pdiscard = pdiscard
        await disk.guest.pdiscard(0, 65536)
        await disk.guest.flush()
        assert await disk.read(0, 65536) == bytes(65536)
    check(image)


@pytest.mark.parametrize("passed", [False, None])
async def test_discards_stay_in_the_image_when_they_are_not_passed_on(tmp_path, passed):
    image = await created(tmp_path)
    options = {"pass_discard_request": passed} if passed is not None else {"discard": "ignore"}
    async with opened(image, **options) as disk:
        await disk.write(0, b"x" * 4 * MIB)
        await disk.guest.pdiscard(0, 4 * MIB)
        await disk.guest.flush()
        # Without discard: unmap, the node drops discards before the driver sees them.
        assert (await disk.read()).count(b"x") == (4 * MIB if passed is None else 0)
    assert image.stat().st_blocks >= 8 * 1024
    check(image)


async def test_discard_hides_the_backing_file(tmp_path):
    (tmp_path / "base").write_bytes(b"b" * 4 * MIB)
    image = await created(tmp_path, "cluster_size=64k", backed=True)
    async with opened(image) as disk:
        await disk.guest.pdiscard(65536 - 512, 2 * 65536)
        # Whole clusters only.
        assert await disk.read() == b"b" * 65536 + bytes(65536) + b"b" * (4 * MIB - 2 * 65536)
    check(image)


async def test_discard_never_uncovers_the_backing_file_of_an_old_image(tmp_path):
    (tmp_path / "base").write_bytes(b"b" * 4 * MIB)
    image = await created(tmp_path, "compat=v2", backed=True)
    async with opened(image) as disk:
        await disk.write(0, b"x" * MIB)
        await disk.guest.pdiscard(0, MIB)
        assert await disk.read(0, MIB) == b"x" * MIB


async def test_zeroes_over_data_are_fast_only_for_whole_units(tmp_path):
    image = await created(tmp_path, "extended_l2=on,cluster_size=64k")
    async with opened(image) as disk:
        await disk.write(0, b"x" * MIB)
        await disk.guest.pwrite_zeroes(2048, 4096, ReqFlags.NO_FALLBACK)
        with pytest.raises(OSError, match="Operation not supported"):
            await disk.guest.pwrite_zeroes(512, 512, ReqFlags.NO_FALLBACK)
        await disk.guest.pwrite_zeroes(512, 512)
        expected = b"x" * 512 + bytes(512) + b"x" * 1024 + bytes(4096)
        assert await disk.read(0, 6144) == expected
    check(image)
    assert content(image, tmp_path)[:6144] == expected


async def test_zeroes_without_unmap_keep_the_clusters(tmp_path):
    image = await created(tmp_path)
    qemu_io(image, "write 0 64k")
    async with opened(image) as disk:
        await disk.guest.pwrite_zeroes(0, 65536)
        (extent,) = await disk.guest.block_status(0, 65536, 1)
        kept = extent.host_offset
        await disk.write(0, b"y" * 512)
        (extent,) = await disk.guest.block_status(0, 65536, 1)
        assert extent.host_offset == kept >= 0
        assert await disk.read(0, 65536) == b"y" * 512 + bytes(65024)
        await disk.guest.pwrite_zeroes(0, 65536, ReqFlags.MAY_UNMAP)
        (extent,) = await disk.guest.block_status(0, 65536, 1)
        assert extent.host_offset == -1
    check(image)


@pytest.mark.parametrize(("offset", "length"), [(0, 65536), (512, 512), (512, 65536)])
async def test_clusters_that_zeroes_give_up_do_not_pile_up(tmp_path, monkeypatch, offset, length):
    monkeypatch.setattr(journal, "MANY_FREES", 0)
    image = await created(tmp_path)
    qemu_io(image, "write 0 128k")
    async with opened(image) as disk:
        await disk.guest.pwrite_zeroes(0, 131072)  # they keep their place in the file
        await disk.guest.pwrite_zeroes(offset, length, ReqFlags.MAY_UNMAP)
        (extent,) = await disk.guest.block_status(0, 65536, 1)
        assert extent.host_offset == -1
        assert not disk.driver.image.journal.overfull
    check(image)


async def above_one_page(tmp_path):
    """An image above a raw file with data in its first 4 KiB only."""
    base = tmp_path / "base"
    base.write_bytes(b"b" * 4096)
    os.truncate(base, 4 * MIB)
    return await created(tmp_path, backed=True)


async def test_zeroes_beside_a_write_that_takes_the_cluster_are_not_lost(tmp_path):
    image = await above_one_page(tmp_path)
    async with opened(image) as disk:
        gate, let_go = hold(disk.node.children["file"].node.driver, "pwrite")
        writing = await gate.stops(disk.write(8192, b"w" * 512))
        let_go()
        zeroing = await start(disk.guest.pwrite_zeroes(0, 4096))
        gate.set()
        await writing
        await zeroing
        assert await disk.read(0, 16384) == bytes(8192) + b"w" * 512 + bytes(7680)
    check(image)


async def test_zeroes_take_no_cluster_where_the_rest_reads_as_zeroes(tmp_path):
    image = await above_one_page(tmp_path)
    async with opened(image) as disk:
        with pytest.raises(OSError, match="Operation not supported"):
            await disk.guest.pwrite_zeroes(4096, 512, ReqFlags.NO_FALLBACK)  # what is before
        await disk.guest.pwrite_zeroes(0, 4096, ReqFlags.NO_FALLBACK)
        (extent,) = await disk.guest.block_status(0, 65536, 1)
        assert extent.host_offset == -1
        assert await disk.read(0, 65536) == bytes(65536)
    check(image)


@pytest.mark.parametrize("verb", ["shrink", "discard", "zero"])
async def test_others_have_their_turn_after_some_thousand_clusters(
    tmp_path, monkeypatch, turn, verb
):
    image = await created(tmp_path)
    size = 1 << 30
    qemu_img("resize", "-q", "-f", "qcow2", image, str(size))
    qemu_io(image, f"write -z 0 {size}")
    async with opened(image, l2_cache_entry_size=4096) as disk:
        await disk.guest.block_status(0, size, 100)  # now the tables are in memory
        pass_on, turns = Discarder._pass_on, []

        def noted(*args: object):
            turns.append(turn())
            return pass_on(*args)

        monkeypatch.setattr(Discarder, "_pass_on", noted)
        match verb:
            case "shrink":
                await disk.resize(0)
            case "discard":
                await disk.guest.pdiscard(0, size)
            case "zero":
                await disk.guest.pwrite_zeroes(0, size)
        assert len(turns) == 32
        assert len(set(turns)) == 4
    check(image)
