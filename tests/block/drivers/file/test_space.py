"""Zeroes, discards, and block status."""

import os

import pytest

from qmpfleece.block.driver import ReqFlags, Status
from tests.block.drivers.file.conftest import ALL, KIB, SIZE, read
from tests.tools.hostfile import buffer, occupied


@pytest.mark.parametrize("discard", ["unmap", "ignore"])
async def test_discard_frees_space_only_where_it_is_passed(attach, image, discard):
    os.sync()
    backend = await attach(image, discard=discard)
    before = occupied(image)
    await backend.pdiscard(0, 64 * KIB)
    await backend.pwrite_zeroes(128 * KIB, 64 * KIB, ReqFlags.MAY_UNMAP)
    freed = before - occupied(image)
    # As in QEMU, the option decides about discards alone where an export is the node's user.
    assert freed == (128 * KIB if discard == "unmap" else 64 * KIB)
    assert await read(backend, 128 * KIB, 64 * KIB) == bytes(64 * KIB)
    assert await backend.node.driver.allocated_size() == occupied(image)


@pytest.mark.parametrize(("detect", "freed"), [("off", 0), ("on", 0), ("unmap", 64 * KIB)])
async def test_detected_zeroes_free_space_when_they_may(attach, image, detect, freed):
    os.sync()
    backend = await attach(image, discard="unmap", detect_zeroes=detect)
    before = occupied(image)
    await backend.pwrite(0, buffer(bytes(64 * KIB)))
    assert before - occupied(image) == freed
    assert image.read_bytes()[: 64 * KIB] == bytes(64 * KIB)


async def test_block_status_is_the_files(attach, tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.seek(64 * KIB)
        file.write(b"x" * 64 * KIB)
        file.truncate(SIZE)
        os.fsync(file.fileno())
    backend = await attach(path)
    extents = await backend.block_status(0, SIZE, 10)
    assert [(e.length, bool(e.flags & Status.ZERO), e.host_offset) for e in extents] == [
        (64 * KIB, True, 0),
        (64 * KIB, False, 64 * KIB),
        (128 * KIB, True, 128 * KIB),
    ]
    assert all(extent.node is backend.node for extent in extents)


async def test_what_was_found_or_written_is_known_to_be_data_until_it_is_dropped(attach, tmp_path):
    path = tmp_path / "sparse"
    path.write_bytes(b"x" * 128 * KIB)
    os.truncate(path, 1 << 20)
    backend = await attach(path, discard="unmap", perm=ALL)
    assert not backend.is_known_data(0, 1)
    await backend.block_status(0, 1 << 20, 10)
    assert backend.is_known_data(0, 128 * KIB)
    assert not backend.is_known_data(128 * KIB, 1)
    await backend.pwrite(256 * KIB, buffer(bytearray(b"y" * 64 * KIB)))
    assert backend.is_known_data(256 * KIB, 64 * KIB)
    await backend.pdiscard(64 * KIB, 4 * KIB)
    assert backend.is_known_data(0, 64 * KIB)
    assert not backend.is_known_data(64 * KIB, 64 * KIB)
    await backend.node.driver.truncate(4 * KIB)
    assert not backend.is_known_data(0, 64 * KIB)
    assert not backend.is_known_data(256 * KIB, 64 * KIB)


@pytest.mark.parametrize("hole", ["discard", "zeroes", "truncate"])
async def test_block_status_knows_of_holes_made_since_it_was_last_asked(attach, image, hole):
    os.sync()
    backend = await attach(image, discard="unmap", perm=ALL)
    first = await backend.block_status(0, 64 * KIB, 1)
    assert not first[0].flags & Status.ZERO
    match hole:
        case "discard":
            await backend.pdiscard(0, 64 * KIB)
        case "zeroes":
            await backend.pwrite_zeroes(0, 64 * KIB, ReqFlags.MAY_UNMAP)
        case _:
            await backend.node.driver.truncate(0)
    again = await backend.block_status(0, 64 * KIB, 1)
    assert again[0].flags & Status.ZERO
