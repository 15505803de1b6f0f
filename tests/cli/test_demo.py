import os
import re
import signal
import subprocess
from pathlib import Path
from threading import Event

import pytest

from qmpfleece.base.units import MIB
from qmpfleece.cli.demo import _copy_disk
from tests.tools.programs import QMPFLEECE, Qmp, run, running


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


def test_ctrl_c_ends_it_while_a_large_disk_is_read(tmp_path):
    disk = tmp_path / "own.raw"
    with disk.open("wb") as file:
        file.write(b"data")
        file.truncate(4 << 40)  # hours, all zeroes
    with running(QMPFLEECE, "demo", disk, folder=tmp_path) as program:
        counts = Path(f"/proc/{program.process.pid}/io")
        while int(re.search(r"rchar: (\d+)", counts.read_text())[1]) < 256 * MIB:
            with pytest.raises(subprocess.TimeoutExpired):
                program.process.wait(0.005)
        status, _, errors = program.end(signal.SIGINT)
    assert (status, errors) == (128 + signal.SIGINT, "qmpfleece demo: interrupted\n")
    assert os.listdir(tmp_path) == ["own.raw"]


def test_a_block_device_is_copied(tmp_path, loop_device):
    image = tmp_path / "image"
    image.write_bytes(os.urandom(3 * MIB + 512))
    _copy_disk(loop_device(image, "--read-only"), tmp_path / "copy", Event())
    assert (tmp_path / "copy").read_bytes() == image.read_bytes()


def test_quit_over_qmp_ends_it_when_it_stays(tmp_path):
    words = ("env", f"TMPDIR={tmp_path}", QMPFLEECE, "demo", "--stay")
    with running(*words, folder=tmp_path) as program:
        while "qmp-shell" not in (line := program.process.stdout.readline()):
            assert line
        path = re.search(r"-p (\S+)", line)[1]
        with Qmp(Path(path)) as qmp:
            assert qmp.execute("quit") == {}
        assert program.process.wait(30) == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot copy '{}': No such file or directory"),
        (lambda path: path.mkdir(), "cannot copy '{}': Is a directory"),
        (lambda path: path.touch(), "'{}' is empty"),
        (os.mkfifo, "'{}' is neither a regular file nor a block device"),
    ],
)
def test_a_disk_that_is_none_is_one_line(tmp_path, make, message):
    disk = tmp_path / "own.raw"
    make(disk)
    done = run(QMPFLEECE, "demo", disk)
    assert done.returncode == 1
    assert done.stderr == f"qmpfleece demo: {message.format(disk)}\n"
