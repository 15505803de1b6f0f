import os
import re

import pytest

from qmpfleece.base.units import MIB
from tests.tools.programs import QMPFLEECE, run


def test_the_demonstration_proves_itself_and_leaves_nothing(tmp_path):
    done = run(QMPFLEECE, "demo", folder=tmp_path, environment={"TMPDIR": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "")
    start, pulled, now = re.findall(r"^   the .*  ([0-9a-f]{64})$", done.stdout, re.MULTILINE)
    assert start == pulled != now
    for line in ("nbdinfo 'nbd+unix:", "nbdcopy 'nbd+unix:", "qmp-shell -p /tmp/qmp.sock"):
        assert line in done.stdout
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [5 * MIB + 512, 512, MIB + 1])
def test_one_s_own_disk_is_only_read(tmp_path, size):
    disk = tmp_path / "own.raw"
    content = os.urandom(size)
    disk.write_bytes(content)
    disk.chmod(0o400)
    done = run(QMPFLEECE, "demo", disk)
    assert (done.returncode, done.stderr) == (0, "")
    assert "own.raw is only read" in done.stdout
    assert disk.read_bytes() == content
    assert os.listdir(tmp_path) == ["own.raw"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot copy '{}': No such file or directory"),
        (lambda path: path.mkdir(), "cannot copy '{}': Is a directory"),
        (lambda path: path.touch(), "'{}' is empty"),
    ],
)
def test_a_disk_that_is_none_is_one_line(tmp_path, make, message):
    disk = tmp_path / "own.raw"
    make(disk)
    done = run(QMPFLEECE, "demo", disk)
    assert done.returncode == 1
    assert done.stderr == f"qmpfleece demo: {message.format(disk)}\n"
