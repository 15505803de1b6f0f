"""A disk written to at random by fio all the time, pulled meanwhile by other programs."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.oracle import scenario
from tests.oracle.session import Session

_SIZE = 64 << 20

#: ``verified``: fio reads back what it wrote; ``mixed``: sizes and offsets as they come.
_LOADS = {
    "verified": ("--bs=4k", "--verify=crc32c", "--verify_backlog=256", "--verify_fatal=1"),
    "mixed": ("--bsrange=512-128k", "--blockalign=512", "--norandommap"),
}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build(d: Session) -> Path:
    """Serve a disk of random content and its snapshot."""
    disk = d.dir / "disk.raw"
    subprocess.run(
        ["dd", "if=/dev/urandom", f"of={disk}", "bs=1M", f"count={_SIZE >> 20}", "status=none"],
        check=True,
    )
    for name in ("disk", "temp"):
        path = disk if name == "disk" else d.file("temp.raw", _SIZE)
        d.qmp("blockdev-add", driver="file", node_name=name, filename=str(path), discard="unmap")
    d.qmp("blockdev-add", driver="copy-before-write", node_name="cbw", file="disk", target="temp")
    d.qmp("blockdev-add", driver="snapshot-access", node_name="access", file="cbw")
    d.nbd_server()
    d.qmp("nbd-server-add", device="cbw", name="guest", writable=True)
    d.qmp("nbd-server-add", device="access", name="snapshot")
    return disk


def _fleece_under_load(load_name: str, seconds: int) -> None:
    program = scenario.STORAGE_DAEMON.ours.path()
    assert program is not None
    for tool in ("fio", "nbdcopy", "qemu-img"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    with Session(program) as d:
        disk = _build(d)
        before = _sha256(disk)
        load = subprocess.Popen(
            [
                "fio",
                "--name=guest",
                "--ioengine=nbd",
                f"--uri={d.uri('guest')}",
                "--rw=randwrite",
                "--iodepth=16",
                "--randrepeat=0",
                *_LOADS[load_name],
                "--time_based",
                f"--runtime={seconds}",
            ],
            cwd=d.dir,  # fio leaves its state of verification there
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            pulls = 0
            while load.poll() is None:
                copy = d.dir / "copy.raw"
                copy.unlink(missing_ok=True)
                subprocess.run(["nbdcopy", d.uri("snapshot"), str(copy)], check=True)
                assert _sha256(copy) == before
                pulls += 1
            output, _ = load.communicate()
            assert load.returncode == 0, output
            assert pulls > 0
        finally:
            load.kill()
            load.wait()
        assert _sha256(disk) != before
        last = d.dir / "last.raw"
        command = ["qemu-img", "convert", "-f", "raw", "-O", "raw", d.uri("snapshot"), str(last)]
        subprocess.run(command, check=True)
        assert _sha256(last) == before
        d.finish()


@pytest.mark.parametrize("load_name", _LOADS)
def test_snapshot_stays_as_it_was_while_fio_writes(load_name):
    _fleece_under_load(load_name, 3)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("load_name", _LOADS)
def test_snapshot_stays_as_it_was_through_a_minute_of_fio(load_name):
    _fleece_under_load(load_name, 60)
