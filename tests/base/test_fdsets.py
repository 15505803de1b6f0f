"""Sets of descriptors, as QEMU 7.2 keeps them."""

import os
from pathlib import Path

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.base.fdsets import FdSets


def test_a_copy_is_taken_of_what_was_opened_for_the_same_access(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    sets = FdSets()
    assert sets.add(os.open(path, os.O_RDONLY)) == 0
    copy = sets.open("/dev/fdset/0", os.O_RDONLY)
    assert os.pread(copy, 10, 0) == b"data"
    for name, text in (
        ("0", "Could not dup FD for /dev/fdset/0 flags 2: Permission denied"),
        ("9", "Could not dup FD for /dev/fdset/9 flags 2: No such file or directory"),
        ("x", "Could not parse fdset /dev/fdset/x"),
        ("9" * 5000, f"Could not parse fdset /dev/fdset/{'9' * 5000}"),
    ):
        with pytest.raises(QmpError) as caught:
            sets.open(f"/dev/fdset/{name}", os.O_RDWR)
        assert caught.value.desc == text
    sets.remove(0)
    assert [(number, found.members) for number, found in sets.all()] == [(0, [])]
    sets.close_copy(copy)
    assert not sets.all()


def test_what_is_removed_stays_while_the_guest_stands() -> None:
    sets = FdSets()
    sets.keeps = lambda: True
    sets.add(os.open("/dev/null", os.O_RDWR), 3)
    sets.remove(3)
    assert [number for number, _ in sets.all()] == [3]
    sets.close()


def test_a_copy_is_forgotten_before_its_number_can_be_that_of_another() -> None:
    sets = FdSets()
    sets.add(os.open("/dev/null", os.O_RDWR))
    copy = sets.open("/dev/fdset/0", os.O_RDWR)
    sets.forget_copy(copy)
    os.fstat(copy)
    os.close(copy)
    sets.add(os.open("/dev/null", os.O_RDWR))
    assert sets.open("/dev/fdset/0", os.O_RDWR) == copy
    assert [found.copies for _, found in sets.all()] == [{copy}]
    sets.close_copy(copy)
    assert not sets.all()


def test_copy_that_cannot_be_as_it_is_wanted_is_closed() -> None:
    sets = FdSets()
    sets.add(os.open("/proc/self/stat", os.O_RDONLY), 3)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="Invalid argument"):
        sets.open("/dev/fdset/3", os.O_RDONLY | os.O_DIRECT)
    assert os.listdir("/proc/self/fd") == before
    sets.close()
