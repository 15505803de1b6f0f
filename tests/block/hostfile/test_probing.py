"""The format of a file that nobody has said: what is refused rather than waited for."""

import os

import pytest

from qmpfleece.base.errors import QmpError
from qmpfleece.base.fdsets import FdSets
from qmpfleece.block.hostfile import probing
from tests.tools.disk import opened, qemu_img, run
from tests.tools.programs import needs


def probe(path, *, reading=True) -> str:
    return probing.probe(FdSets(), str(path), "its name", reading=reading)


def refused(path, *, reading=True) -> str:
    with pytest.raises(QmpError) as caught:
        probe(path, reading=reading)
    return caught.value.desc


def test_first_bytes_tell_the_format(tmp_path):
    for start, name in ((b"QFI\xfb\0\0\0\3", "qcow2"), (b"KDMV", "vmdk"), (b"", "raw")):
        (tmp_path / name).write_bytes(start)
        assert probe(tmp_path / name) == name


def test_descriptor_that_was_handed_over_is_read_from_its_beginning(tmp_path):
    (tmp_path / "image").write_bytes(b"QFI\xfb\0\0\0\3")
    sets = FdSets()
    fd = os.open(tmp_path / "image", os.O_RDONLY)
    os.read(fd, 4)
    sets.add(fd, 1)
    assert probing.probe(sets, "/dev/fdset/1", "x", reading=True) == "qcow2"
    assert sets.all() == []  # the copy is closed, and no client keeps the set


def test_fifo_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    text = "'file' driver requires 'its name' to be a regular file"
    assert refused(tmp_path / "fifo") == text
    assert refused(tmp_path / "fifo", reading=False) == text


def test_folder_and_nothing_are_refused(tmp_path):
    assert refused(tmp_path) == "'file' driver requires 'its name' to be a regular file"
    assert refused(tmp_path, reading=False) == "Could not open 'its name': Is a directory"
    assert refused(tmp_path / "none") == "Could not open 'its name': No such file or directory"


@needs("qemu-img")
@pytest.mark.parametrize("container", ["vmdk", "vdi", "vpc", "qed", "parallels"])
async def test_backing_file_in_a_format_that_is_not_known_is_not_taken_for_raw(
    tmp_path, container
):
    qemu_img("create", "-q", "-f", container, tmp_path / "base", "1M")
    image = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "base", "-F", "raw", image, "1M")
    forget_backing_format(image)
    assert "backing file format" not in run("qemu-img", "info", image)
    with pytest.raises(QmpError, match=f"backing file: Unknown driver '{container}'"):
        async with opened(image):
            pass


def forget_backing_format(image):
    """Make the header extension that names the backing file's format one that nobody knows."""
    data = bytearray(image.read_bytes())
    where = data.index(b"\xe2\x79\x2a\xca")
    data[where] = 0
    image.write_bytes(data)
