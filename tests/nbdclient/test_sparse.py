import hashlib
import os
import stat
import tempfile
from pathlib import Path

import pytest

from qmpfleece.base.units import KIB, MIB
from qmpfleece.nbdclient.sparse import GRAIN, SparseFile


async def write(file, offset, data):
    await file.write(offset, memoryview(data))


async def test_the_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "disk"
    file = SparseFile(path, MIB)
    await write(file, 1000, b"abc")
    assert not path.exists()
    await file.finish()
    assert path.read_bytes() == bytes(1000) + b"abc" + bytes(MIB - 1003)
    assert os.listdir(tmp_path) == ["disk"]


async def test_giving_up_leaves_the_old_content(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(b"old")
    file = SparseFile(path, MIB)
    await write(file, 0, b"new")
    file.discard()
    file.discard()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["disk"]


async def test_zeroes_take_no_space(tmp_path):
    path = tmp_path / "disk"
    file = SparseFile(path, 8 * MIB)
    data = bytearray(MIB)
    data[GRAIN * 3 + 100] = 1
    data[-1] = 1
    await write(file, 2 * MIB, data)
    await file.finish()
    assert path.read_bytes() == bytes(2 * MIB) + data + bytes(5 * MIB)
    assert path.stat().st_blocks * 512 <= 4 * GRAIN


async def test_the_rest_of_a_killed_pull_is_in_nobody_s_way(tmp_path):
    (tmp_path / "disk.part").write_bytes(b"rest")
    file = SparseFile(tmp_path / "disk", 10)
    await file.finish()
    assert (tmp_path / "disk").read_bytes() == bytes(10)
    assert os.listdir(tmp_path) == ["disk"]


async def test_what_another_pull_is_writing_is_not_taken_for_a_rest(tmp_path):
    path = tmp_path / "disk"
    first = SparseFile(path, 10)
    with pytest.raises(OSError, match=r"another pull is writing '.*/disk.part'"):
        SparseFile(path, 10)
    await write(first, 0, b"first")
    await first.finish()
    assert path.read_bytes() == b"first" + bytes(5)
    second = SparseFile(path, 10)
    await write(second, 0, b"second")
    await second.finish()
    assert path.read_bytes() == b"second" + bytes(4)


async def test_what_others_have_put_in_its_place_gets_neither_the_name_nor_removed(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(b"old")
    file = SparseFile(path, 10)
    (tmp_path / "disk.part").unlink()
    (tmp_path / "disk.part").write_bytes(b"other")
    with pytest.raises(OSError, match=r"'.*/disk.part' has been removed or replaced"):
        await file.finish()
    file.discard()
    assert not file.complete
    assert path.read_bytes() == b"old"
    assert (tmp_path / "disk.part").read_bytes() == b"other"


async def test_who_may_not_read_the_old_file_may_not_read_the_new_one(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(b"old")
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 12, 34)
    before = path.stat()
    file = SparseFile(path, 10)
    partial = file.name.stat()
    await file.finish()
    after = path.stat()
    for now in (partial, after):
        assert (now.st_mode, now.st_uid, now.st_gid) == (
            before.st_mode, before.st_uid, before.st_gid
        )  # fmt: skip
    assert after.st_ino != before.st_ino


@pytest.fixture
def unlistable():
    """Yield a directory in which files can be made, but which can't be opened."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "folder")
        folder.mkdir()
        if os.geteuid() == 0:
            os.chmod(name, 0o711)
            os.chown(folder, 12, 34)
            folder.chmod(0o300)
            os.seteuid(12)
            yield folder
            os.seteuid(0)
        else:
            folder.chmod(0o300)
            yield folder
            folder.chmod(0o700)


async def test_a_directory_that_can_not_be_opened_will_do(unlistable):
    file = SparseFile(unlistable / "disk", 10)
    await file.finish()
    assert (unlistable / "disk").read_bytes() == bytes(10)


async def test_a_link_to_itself_is_no_file(tmp_path):
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        SparseFile(tmp_path / "link", 10)


async def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    file = SparseFile(tmp_path / "link", 10)
    await file.finish()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == bytes(10)


async def test_an_update_writes_into_the_file_and_zeroes_too(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(b"x" * (256 * KIB))
    file = SparseFile(path, 256 * KIB, update=True)
    await write(file, 10, bytes(5))
    await write(file, 20, b"abc")
    await file.zero(100 * KIB, 100 * KIB)
    await file.finish()
    expected = bytearray(b"x" * (256 * KIB))
    expected[10:15] = bytes(5)
    expected[20:23] = b"abc"
    expected[100 * KIB : 200 * KIB] = bytes(100 * KIB)
    assert path.read_bytes() == expected


async def test_an_update_needs_a_file_of_the_same_size(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 100)
    with pytest.raises(OSError, match="it has 100 bytes, the export has 200 bytes"):
        SparseFile(path, 200, update=True)
    with pytest.raises(FileNotFoundError):
        SparseFile(tmp_path / "none", 200, update=True)
    assert path.read_bytes() == b"x" * 100
    assert os.listdir(tmp_path) == ["disk"]


async def test_what_has_got_its_name_is_complete_and_stays(tmp_path):
    file = SparseFile(tmp_path / "disk", 10)
    assert not file.complete
    await file.finish()
    assert file.complete
    file.discard()
    assert (tmp_path / "disk").read_bytes() == bytes(10)


async def test_a_directory_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError):
        SparseFile(tmp_path, 200)


async def test_a_device_is_written_in_place():
    file = SparseFile(Path("/dev/null"), MIB)
    assert file.in_place
    await write(file, 0, b"abc")
    await file.finish()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


async def test_the_digest_is_that_of_the_whole_content(tmp_path):
    file = SparseFile(tmp_path / "disk", 3 * MIB + 5)
    await write(file, 2 * MIB, b"abc")
    digest = await file.sha256()
    await file.finish()
    assert digest == hashlib.sha256((tmp_path / "disk").read_bytes()).hexdigest()
