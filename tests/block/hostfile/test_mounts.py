"""What is known of file systems."""

import os

from qmpfleece.block.hostfile import mounts


def test_proc_and_closed_files_are_of_no_local_kind() -> None:
    with open("/proc/self/status") as file:
        assert not mounts.is_local(mounts.kind_of(file.fileno()))
    assert mounts.kind_of(1 << 20) == ""
    assert not mounts.is_local("")
    assert not mounts.tells_extents("")


def test_the_kind_is_that_of_the_mount_that_holds_the_file(tmp_path) -> None:
    path = tmp_path / "file"
    path.touch()
    with open("/proc/self/mountinfo") as lines:
        found = [line.split() for line in lines]
    points = {words[4]: words[words.index("-") + 1] for words in found}
    place = str(path)
    while place not in points:
        place = os.path.dirname(place)
    with path.open() as file:
        assert mounts.kind_of(file.fileno()) == points[place]
