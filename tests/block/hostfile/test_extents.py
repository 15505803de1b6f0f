"""Data and holes of files: the two ways to ask, against the content and against each other."""

import os
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmpfleece.block.driver import Status
from qmpfleece.block.hostfile import allocation, extents, mounts
from qmpfleece.block.hostfile.extents import DATA, FAR, ZERO

BLOCK = 4096
SIZE = 16 * BLOCK

ways = pytest.mark.parametrize("mapped", [False, True])


@pytest.fixture
def fd(tmp_path):
    """A full file."""
    path = tmp_path / "image"
    path.write_bytes(b"x" * SIZE)
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


@ways
def test_extents_are_the_files_data_and_holes(fd, mapped):
    allocation.discard(fd, 0, BLOCK)
    allocation.discard(fd, 4 * BLOCK, 2 * BLOCK)
    os.ftruncate(fd, 2 * SIZE)
    assert extents.find(fd, 0, 2 * SIZE, 100, mapped=mapped) == [
        (0, ZERO, BLOCK),
        (BLOCK, DATA, 4 * BLOCK),
        (4 * BLOCK, ZERO, 6 * BLOCK),
        (6 * BLOCK, DATA, SIZE),
        (SIZE, ZERO, FAR),
    ]
    assert extents.find(fd, 10, 3, 100, mapped=mapped)[0] == (10, ZERO, BLOCK)
    found = extents.find(fd, BLOCK + 1, 1, 100, mapped=mapped)
    assert found[0] == (BLOCK + 1, DATA, 4 * BLOCK)
    assert len(extents.find(fd, 0, 2 * SIZE, 2, mapped=mapped)) == 2
    far = [(10 * SIZE, ZERO, FAR)]
    assert extents.find(fd, 10 * SIZE, 512, 1, mapped=mapped) == far


@ways
def test_space_reserved_behind_the_end_is_a_hole(fd, mapped):
    allocation.fallocate(fd, 1, SIZE, 4 * BLOCK)
    expected = [(0, DATA, SIZE), (SIZE, ZERO, FAR)]
    assert extents.find(fd, 0, 2 * SIZE, 9, mapped=mapped) == expected
    assert extents.find(fd, SIZE + 1, 9, 9, mapped=mapped) == [(SIZE + 1, ZERO, FAR)]


@ways
def test_where_fiemap_is_not_known_all_is_found_all_the_same(mapped):
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no tmpfs")
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        file.truncate(SIZE)
        os.pwrite(file.fileno(), b"x", 5 * BLOCK)
        assert extents.find(file.fileno(), 0, SIZE, 9, mapped=mapped) == [
            (0, ZERO, 5 * BLOCK),
            (5 * BLOCK, DATA, 6 * BLOCK),
            (6 * BLOCK, ZERO, FAR),
        ]


def test_more_extents_than_are_asked_for_at_once_are_all_found(fd):
    count = 2 * extents._MOST
    for number in range(count):
        os.pwrite(fd, b"x" * BLOCK, (2 * number + 32) * BLOCK)
    length = (2 * count + 31) * BLOCK - SIZE
    for limit in (3 * count, count, 7):
        mapped = extents.find(fd, SIZE, length, limit, mapped=True)
        assert mapped == extents.find(fd, SIZE, length, limit, mapped=False)
        assert len(mapped) == min(2 * count, limit)


@pytest.fixture
def seeks(fd, monkeypatch):
    """How often the system is asked the first way; ten blocks with gaps are reserved."""
    if not mounts.tells_extents(mounts.kind_of(fd)):
        pytest.skip("FIEMAP is not used here")
    calls = []
    seek = os.lseek
    monkeypatch.setattr(os, "lseek", lambda *call: calls.append(call) or seek(*call))
    for number in range(20, 40, 2):
        allocation.fallocate(fd, 0, number * BLOCK, BLOCK)
    return calls


#: What is there once one of them has been written.
WRITTEN = [(SIZE, ZERO, 30 * BLOCK), (30 * BLOCK, DATA, 31 * BLOCK), (31 * BLOCK, ZERO, FAR)]


def test_reserved_space_that_is_not_in_the_cache_is_not_looked_at(fd, seeks):
    if extents._is_cached(fd, 20 * BLOCK, 40 * BLOCK):
        pytest.skip("the system does not tell what it caches")
    assert extents.find(fd, SIZE, 40 * BLOCK, 99, mapped=True) == [(SIZE, ZERO, FAR)]
    assert not seeks
    os.pwrite(fd, b"x", 30 * BLOCK)
    assert extents.find(fd, SIZE, 40 * BLOCK, 99, mapped=True) == WRITTEN
    assert seeks
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    seeks.clear()
    assert extents.find(fd, SIZE, 40 * BLOCK, 99, mapped=True) == WRITTEN
    assert not seeks


@pytest.mark.parametrize(("written", "asked"), [(False, 1), (True, 4)])
def test_of_reserved_space_the_system_is_asked_once_up_to_the_next_data(
    fd, seeks, monkeypatch, written, asked
):
    """It walks over all reserved extents on its way."""
    monkeypatch.setattr(extents, "_is_cached", lambda *_: True)
    if written:  # known to the page cache alone
        os.pwrite(fd, b"x", 30 * BLOCK)
    expected = WRITTEN if written else [(SIZE, ZERO, FAR)]
    assert extents.find(fd, SIZE, 40 * BLOCK, 99, mapped=True) == expected
    assert len(seeks) == asked


def cut(runs, end):
    """Cut runs to a range."""
    return [(start, flags, min(until, end)) for start, flags, until in runs]


def blocks(most):
    return st.integers(0, most).map(lambda number: number * BLOCK)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["write", "punch", "reserve", "reserve past end", "truncate", "sync"]),
        blocks(12) | st.integers(0, 12 * BLOCK),
        st.integers(1, 4),
    ),
    max_size=12,
)


@settings(max_examples=150)
@given(CHANGES, st.integers(0, 14 * BLOCK), st.integers(1, 14 * BLOCK), st.integers(1, 6))
def test_both_ways_find_the_same_and_say_zero_only_of_zeroes(changes, offset, length, limit):
    with tempfile.TemporaryFile() as file:
        fd = file.fileno()
        if not mounts.tells_extents(mounts.kind_of(fd)):
            pytest.skip("FIEMAP is not used here")
        for kind, at, count in changes:
            if kind == "write":
                os.pwrite(fd, b"x" * (count * BLOCK), at)
            elif kind == "punch":
                allocation.discard(fd, at, count * BLOCK)
            elif kind.startswith("reserve"):
                allocation.fallocate(fd, 1 if kind == "reserve past end" else 0, at, count * BLOCK)
            elif kind == "truncate":
                os.ftruncate(fd, at)
            else:
                os.fsync(fd)
        end = offset + length
        whole = cut(extents.find(fd, offset, length, 100, mapped=False), end)
        assert cut(extents.find(fd, offset, length, 100, mapped=True), end) == whole
        content = os.pread(fd, 2 * SIZE, 0).ljust(2 * SIZE, b"\0")  # now it is in the cache
        whole = cut(extents.find(fd, offset, length, 100, mapped=False), end)
        assert cut(extents.find(fd, offset, length, 100, mapped=True), end) == whole
        for mapped in (False, True):
            runs = extents.find(fd, offset, length, limit, mapped=mapped)
            assert 1 <= len(runs) <= limit
            at = offset
            for start, flags, until in runs:
                assert start == at
                assert until > start
                assert not flags & Status.ZERO or b"x" not in content[start:until]
                at = until
            assert all(start < end for start, _, _ in runs)
            assert len(runs) == limit or at >= end
